"""Several studies of the same steps as one table: what each step is worth by each view, so that one sees where its place matters.

A view is a study's kind. A *worth* is what it changes to add the step: for the whole network without it, the difference with
its sign turned. A change that takes several steps of the cumulative studies (kernel 3 to 5, then to 7) is one in the others:
its worth is the sum of theirs, a weighted sum of rows like any effect, with the interval of that sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

from roadmap.base.errors import Refused
from roadmap.config.identity import differences
from roadmap.record.study import Effect, StudyPlan, summed
from roadmap.report.against import refuse_other_metric
from roadmap.report.recipe import recipe_words
from roadmap.report.replication import settings_of
from roadmap.report.report import Report
from roadmap.report.statistics import Estimate

VIEWS = {  # by study.kind, in the order in which they are shown
    "roadmap": "on top of all before it",
    "leave_one_out": "left out of the whole",
    "add_one_in": "alone, on the start",
    "orderings": "averaged over orders",
    "equal_flops": "on top of all before it, at equal cost",
}
CUMULATIVE = ("roadmap", "equal_flops")  # of them those that take the steps in their order
PAIRS = "interactions"
SAME = ("head.", "data.", "recipe.", "start.", "scale", "precision")  # settings in which studies seen together may not differ

Worth = tuple[str, Estimate]  # a view, and what a step is worth by it


@dataclass(frozen=True)
class Views:
    """Studies of the same steps, by their kinds."""

    reports: Mapping[str, Report]

    @property
    def first(self) -> Report:
        """That of the first view."""
        return next(iter(self.reports.values()))

    @property
    def kinds(self) -> list[str]:
        """The views that are there."""
        return [kind for kind in VIEWS if kind in self.reports]

    @property
    def pairs(self) -> Report | None:
        """The study of pairs of steps, if there is one."""
        return self.reports.get(PAIRS)

    @cached_property
    def worths(self) -> dict[tuple[str, str], Estimate]:
        """By step and view; a pair that is not there was not measured."""
        asked = {kind: self.reports[kind].analysis.ask(_asked(self.reports[kind].study.plan, kind)) for kind in self.kinds}
        return {(worth.effect.name, kind): worth for kind, worths in asked.items() for worth in worths if worth is not None}

    @cached_property
    def steps(self) -> dict[str, str]:
        """Labels by step, in the order of the studies that ask for one change at a time, side branches last."""
        labels: dict[str, str] = {}
        for step, kind in sorted(self.worths, key=lambda which: which[1] in CUMULATIVE):
            labels.setdefault(step, self.worths[step, kind].effect.label)
        return labels

    @property
    def summed(self) -> dict[str, list[str]]:
        """By step the labels of the cumulative studies' rows whose sum it is, where these are several."""
        plans = [self.reports[kind].study.plan for kind in CUMULATIVE if kind in self.reports]
        changes = [change for plan in plans for change in _changes(plan).items()]
        return {step: [effect.label for effect in parts] for step, parts in changes if len(parts) > 1}

    @property
    def apart(self) -> list[tuple[Worth, Worth]]:
        """By step the two views that lie furthest apart, where their intervals share nothing."""
        found = []
        for step in self.steps:
            known = [(kind, w) for kind in self.kinds if (w := self.worths.get((step, kind))) and w.interval]
            pairs = [(a, b) for a, b in combinations(known, 2) if _disjoint(a[1], b[1])]
            found += sorted(pairs, key=lambda pair: -abs(pair[0][1].value - pair[1][1].value))[:1]
        return found


def read_views(folders: Sequence[Path]) -> Views:
    """Read the studies.

    Raises:
        Refused: where there are fewer than two, two of one kind, or some that differ in data, recipe or scale.

    """
    if len(folders) < 2:
        raise Refused(f"{len(folders)} study; needed: two or more, each of another study.kind")
    reports: dict[str, Report] = {}
    for folder in folders:
        report = Report.read(folder)
        kind = report.study.plan.kind
        if not report.study.planned or kind not in (*VIEWS, PAIRS):
            raise Refused(f"{folder}: no view of the steps; allowed: studies of the kinds {', '.join((*VIEWS, PAIRS))}")
        if kind in reports:
            raise Refused(f"{reports[kind].study.folder} and {folder} are both of the kind {kind}; needed: one of each kind")
        reports[kind] = report
        _refuse_others(next(iter(reports.values())), report)
    return Views({kind: reports[kind] for kind in (*VIEWS, PAIRS) if kind in reports})


def _refuse_others(one: Report, other: Report) -> None:
    first, second = one.study, other.study
    refuse_other_metric(first, second)
    unequal = [line for line in differences(settings_of(first), settings_of(second)) if line.startswith(SAME)]
    if unequal:
        raise Refused(f"{first.folder} and {second.folder} are no views of the same: they differ in {'; '.join(unequal)}")


# --- worths ----------------------------------------------------------------------------------------------------------


def _asked(plan: StudyPlan, kind: str) -> list[Effect]:
    """The effects of a study as worths of steps."""
    if kind in CUMULATIVE:
        return [_sum(step, parts) for step, parts in _changes(plan).items()]
    word, sign = {"leave_one_out": ("without", -1), "add_one_in": ("only", 1)}.get(kind, ("", 1))
    return [
        Effect(
            effect.name.removeprefix(f"{word}_"),
            effect.label.removeprefix(f"{word} "),
            {row: sign * weight for row, weight in effect.weights.items()},
            effect.parts,
        )
        for effect in plan.effects
    ]


def _changes(plan: StudyPlan) -> dict[str, list[Effect]]:
    """The effects of a cumulative study by change: a toggle belongs to the last adopted row that sets it."""
    given = {"width"} if plan.kind == "equal_flops" else set()  # every row sets it, to cost the same
    rows = [row for row in plan.rows if row.variant.adopted]
    owner = {toggle: row.variant.name for row in rows for toggle in row.toggles if toggle not in given}
    found: dict[str, list[Effect]] = {}
    for effect in plan.effects:
        row = plan.row(effect.name)
        owners = [owner[toggle] for toggle in row.toggles if toggle in owner] if row.variant.adopted else []
        home = effect.name if not owners or effect.name in owners else owners[-1]
        found.setdefault(home, []).append(effect)
    return found


def _sum(step: str, parts: Sequence[Effect]) -> Effect:
    weights = summed(part.weights for part in parts)
    return Effect(step, parts[-1].label, {row: weight for row, weight in weights.items() if weight})


def _disjoint(one: Estimate, other: Estimate) -> bool:
    (low, high), (other_low, other_high) = one.interval or (0.0, 0.0), other.interval or (0.0, 0.0)
    return high < other_low or other_high < low


# --- notes -----------------------------------------------------------------------------------------------------------


def notes(views: Views) -> list[str]:
    """What a reader must know beside the table."""
    study = views.first.study
    plan = study.plan
    lines = [
        f"Worth of a step: what adding it changes, in points of {plan.metric.label}: {plan.ends} (scale {plan.scale.name}) on "
        f"{plan.measured_on}, recipe {recipe_words(study)}, final epoch. Left out of the whole: the whole network less that "
        "without the step. Views: " + "; ".join(f"{VIEWS[kind]}: {_name(views.reports[kind])}" for kind in views.kinds) + "."
    ]
    lines += [
        f"{' and '.join(labels)} are one change where steps are taken out of their order: here the sum of their effects, with "
        f"its own interval, stands for {views.steps[step]}."
        for step, labels in views.summed.items()
    ]
    lines.append(
        "Intervals: 95 %, each from the runs of its own study. Resolved is what Holm's procedure tells from 0 among the worths "
        "of one view. No test compares the views, which may share runs."
    )
    return [*lines, _places(views), *_machines(views)]


def _places(views: Views) -> str:
    if not views.apart:
        return "No step has two views whose intervals share nothing: that a worth depends on its place does not show here."
    said = [
        f"{one.effect.label} ({VIEWS[view]} {one.value:+.1f}, {VIEWS[another]} {other.value:+.1f})"
        for (view, one), (another, other) in views.apart
    ]
    return f"Two views' intervals share nothing (of equal worths, 0.6 to 5 % of pairs do): {'; '.join(said)}."


def _machines(views: Views) -> list[str]:
    values = {report.study.folder: settings_of(report.study) for report in views.reports.values()}
    return [
        f"The studies differ in {key}: {'; '.join(found)}."
        for key in ("device", "CPU", "torch")
        if len(found := sorted({settings[key] for settings in values.values()})) > 1
    ]


def _name(report: Report) -> str:
    return f"{report.study.name}, {len(report.study.plan.seeds)} seeds"
