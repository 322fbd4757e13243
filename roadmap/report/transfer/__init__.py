"""Whether what a step is worth in one task it is worth in others: differences by several scores, and their rank correlations.

The first study is the one that the others are set against (classification). Each score of each study is a *side*; a step's
differences on all sides are weighted sums of the same rows, so a study with fewer steps is compared over its own differences.
Noise is on both sides of a correlation. Where runs started from the first study's, of the same seeds, it may be shared: what
the runs' residuals have in common is drawn in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from roadmap.base.errors import Refused
from roadmap.record.result import Metric
from roadmap.record.study import Effect
from roadmap.report.against import refuse_other_network
from roadmap.report.agreement import FEWEST, RESAMPLES, Agreement, agreement_of
from roadmap.report.noise import Array
from roadmap.report.recipe import recipe_words
from roadmap.report.records import Study
from roadmap.report.report import Report
from roadmap.report.statistics import Estimate, Measured, written_interval

BESIDE = {"box_ap": ("mask_ap",)}  # scores that are sides of their own, by the metric of their study
WHERE = {f"{kind}_ap": tuple(f"{kind}_ap{of}" for of in ("50", "75", "_small", "_medium", "_large")) for kind in ("box", "mask")}
"""By a score of detection those that say where it comes from: the overlap that is asked for, the size of objects."""


@dataclass(frozen=True)
class Side:
    """One score of a study, with the asked differences by it; None where it has not their rows."""

    report: Report
    estimates: tuple[Estimate | None, ...]

    @property
    def study(self) -> Study:
        """The study, scored by this score."""
        return self.report.study

    @property
    def metric(self) -> Metric:
        """The score."""
        return self.study.plan.metric

    @property
    def heading(self) -> str:
        """The score and its study."""
        return f"{self.metric.label}, {self.study.name}"

    @property
    def own(self) -> set[int]:
        """Which of the asked differences its own study asks for."""
        asked = [effect.weights for effect in self.study.plan.effects]
        return {i for i, found in enumerate(self.estimates) if found is not None and found.effect.weights in asked}


@dataclass(frozen=True)
class Transfer:
    """A study and others of the same networks in other tasks."""

    asked: tuple[Effect, ...]
    first: Side
    sides: tuple[Side, ...]  # the metrics of the others, and what stands beside them
    within: tuple[Side, ...]  # scores that say where a metric comes from

    @cached_property
    def agreements(self) -> tuple[Agreement | None, ...]:
        """Of each side with the first; None where they have too few differences with intervals in common."""
        return tuple(_agreement(self.first, side) for side in self.sides)

    @property
    def studies(self) -> list[Side]:
        """One side of each of the other studies."""
        return list({side.study.folder: side for side in reversed(self.sides)}.values())[::-1]

    def of(self, side: Side) -> list[Side]:
        """The scores that say where this side's comes from."""
        keys = WHERE.get(side.metric.key, ())
        return [other for other in self.within if other.metric.key in keys and other.study.folder == side.study.folder]


def read_transfer(folders: Sequence[Path]) -> Transfer:
    """Read the studies; the first is what the others are set against.

    Raises:
        Refused: where there are fewer than two, one twice, other networks under one name, or nothing in common.

    """
    reports = [Report.read(folder) for folder in folders]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise Refused(f"{', '.join(map(str, folders))}: needed: a study and others of the same steps, none twice")
    for report in reports:
        if not report.study.planned:
            raise Refused(f"{report.study.folder}: no study planned these runs; needed: {report.study.folder}/study.json")
    first, *others = reports
    for other in others:
        _check_common(first.study, other.study)
    asked = _asked(first.study, [other.study for other in others])

    def side(report: Report, key: str) -> Side:
        scored = report if key == report.study.plan.metric.key else Report.of(report.study.scored_by(key))
        return Side(scored, tuple(scored.analysis.ask(asked)))

    sides = [side(other, key) for other in others for key in (other.study.plan.metric.key, *_scores(other.study, BESIDE))]
    within = [side(one.report, key) for one in sides for key in _scores(one.study, WHERE)]
    return Transfer(asked, side(first, first.study.plan.metric.key), tuple(sides), tuple(within))


def _check_common(first: Study, other: Study) -> None:
    rows = {variant.name for variant in first.plan.variants}
    if not any(effect.weights.keys() <= rows for effect in other.plan.effects):
        raise Refused(
            f"{first.folder} and {other.folder} have no difference in common; rows of the first: {', '.join(sorted(rows))}"
        )
    for variant in other.plan.variants:
        if variant.name in rows:
            refuse_other_network(variant.name, first, other)


def _asked(first: Study, others: Sequence[Study]) -> tuple[Effect, ...]:
    """What the others ask, each once, in the order of the first study's rows; one name for two differences says its parent."""
    order = {variant.name: place for place, variant in enumerate(first.plan.variants)}
    found = {frozenset(effect.weights.items()): effect for other in others for effect in other.plan.effects}
    listed = sorted(found.values(), key=lambda effect: max((order.get(row, len(order)) for row in effect.weights), default=0))
    names = [effect.name for effect in listed]
    labels = {variant.name: variant.label for study in (first, *others) for variant in study.plan.variants}

    def told_apart(effect: Effect) -> Effect:
        before = ", ".join(labels[row] for row, weight in effect.weights.items() if weight < 0)
        again = names.count(effect.name) > 1
        return Effect(effect.name, f"{effect.label} (from {before})" if again else effect.label, effect.weights, effect.parts)

    return tuple(map(told_apart, listed))


def _scores(study: Study, beside: Mapping[str, Sequence[str]]) -> list[str]:
    """Of the scores beside its metric those that its runs have."""
    there = {key for result in study.results.values() for key in result.scores}
    return [key for key in beside.get(study.plan.metric.key, ()) if key in there]


# --- rank correlation ------------------------------------------------------------------------------------------------


def _agreement(first: Side, other: Side) -> Agreement | None:
    """Over the other study's own differences; both sides are ours, and both are noisy."""
    pairs = [(first.estimates[i], other.estimates[i]) for i in sorted(other.own)]
    known = [(a, b) for a, b in pairs if a and b and a.half_width is not None and b.half_width is not None]
    one, two = first.report.analysis.measured, other.report.analysis.measured
    if len(known) < FEWEST or one is None or two is None:
        return None
    ours, theirs = (np.array([pair[side].value for pair in known]) for side in (1, 0))
    weights = [estimate.effect.weights for estimate, _ in known]
    likeness = _likeness(first, other) if starts(first, other) else 0.0
    noise = noise_of_both(one, two, (one.weights(weights), two.weights(weights)), likeness, RESAMPLES)
    return agreement_of(ours, theirs, noise[1], noise[0])


def starts(first: Side, other: Side) -> bool:
    """Whether every run of the other study started from one of the first's."""
    begun = [(result.init or {}).get("run") for result in other.study.results.values()]
    return set(begun) <= first.study.plan.runs.keys()


def _likeness(first: Side, other: Side) -> float:
    """The correlation of residuals of runs of equal row and seed, over all rows that both have."""
    one, two = first.report.analysis.measured, other.report.analysis.measured
    assert one is not None and two is not None
    rows = _shared_rows(one, two)
    ours, theirs = first.study.plan.seeds, other.study.plan.seeds
    seeds = [seed for seed in ours if seed in theirs]
    residuals = [
        measured.noise.residuals[[row[side] for row in rows]][:, [planned.index(seed) for seed in seeds]]
        for side, (measured, planned) in enumerate(((one, ours), (two, theirs)))
    ]
    return likeness(*residuals)


def likeness(one: Array, other: Array) -> float:
    """The correlation of residuals (rows, seeds), each about its row's mean; 0 where there is none to be seen."""
    both = np.isfinite(one) & np.isfinite(other)
    counts = np.maximum(both.sum(1, keepdims=True), 1)
    a, b = (np.where(both, side - np.where(both, side, 0).sum(1, keepdims=True) / counts, 0) for side in (one, other))
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else 0.0


def _shared_rows(one: Measured, other: Measured) -> list[tuple[int, int]]:
    """Places of the rows that both have, each once."""
    return sorted({(one.place[name], place) for name, place in other.place.items() if name in one.place})


def noise_of_both(
    one: Measured, other: Measured, weights: tuple[Array, Array], likeness: float, count: int
) -> tuple[Array, Array]:
    """What noise adds to the differences of both studies, (count, effects) each; so much of it in common."""
    random = np.random.default_rng(1)
    normals = [random.standard_normal((count, len(measured.noise.counts))) for measured in (one, other)]
    for mine, its in _shared_rows(one, other):
        normals[1][:, its] = likeness * normals[0][:, mine] + (1 - likeness**2) ** 0.5 * normals[1][:, its]
    first, second = (m.noise.drawn_along(w, n, random) for m, w, n in zip((one, other), weights, normals, strict=True))
    return first, second


# --- words -----------------------------------------------------------------------------------------------------------


def tau_words(found: Agreement | None) -> str:
    """Kendall's tau with its interval."""
    if found is None:
        return f"no correlation: fewer than {FEWEST} differences with intervals, or all are equal"
    return f"Kendall's tau {written_interval(found.tau.value, found.tau.low, found.tau.high)} ({found.steps} differences)"


def notes(transfer: Transfer) -> list[str]:
    """What a reader must know beside the tables."""
    first, plan = transfer.first, transfer.first.study.plan
    lines = [
        f"Differences of each step to its parent, in points: {plan.ends} (scale {plan.scale.name}). "
        + "; ".join(_about(side) for side in (first, *transfer.studies))
        + "."
    ]
    lines += [_begun(first, side) for side in transfer.studies]
    lines += [
        f"{side.heading}, beside {first.heading}: {tau_words(found)}."
        for side, found in zip(transfer.sides, transfer.agreements, strict=True)
    ]
    lines.append(
        "Each 95 % interval of a difference is from the runs of its own study; resolved is what Holm's procedure tells from 0 "
        "among the differences of its column. Intervals of tau: steps drawn anew, each with noise on both sides, in common as "
        "far as the residuals of runs that started from each other go together. A tau of few steps says little: look at its "
        "interval."
    )
    return lines


def _about(side: Side) -> str:
    plan = side.study.plan
    return f"{side.study.name}: {plan.measured_on}, recipe {recipe_words(side.study)}, {len(plan.seeds)} seeds"


def _begun(first: Side, side: Side) -> str:
    """What the runs of a study started from."""
    if starts(first, side):
        return f"The runs of {side.study.name} started from the weights of those of {first.study.name}."
    if all(result.init is None for result in side.study.results.values()):
        return f"The runs of {side.study.name} started from random weights, not from those of {first.study.name}."
    return f"The runs of {side.study.name} started from other weights than those of {first.study.name}."
