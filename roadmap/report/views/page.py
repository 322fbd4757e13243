"""The page of several studies: what each step is worth by each view, readable at every width, without scripts."""

from __future__ import annotations

from typing import Any

from roadmap.report.page import document
from roadmap.report.page.axis import Axis, axis
from roadmap.report.recipe import recipe_words
from roadmap.report.views import VIEWS, Views, Worth, notes, written


def render(views: Views) -> str:
    """The page, the same text from the same records."""
    ends = [end for worth in views.worths.values() for end in worth.estimate.interval or (worth.estimate.value,)]
    scale = axis([0.0, *ends], least=-float("inf"))
    study = views.first.study
    plan = study.plan
    return document(
        "views.html.j2",
        "views of the steps",
        {},
        None,
        heading="What is each step worth, and does it depend on its place?",
        table="Each step by each view",
        says=f"Points of {plan.metric.label} that adding the step changes.",
        family="the worths of its view",
        plan=plan,
        measured=plan.measured_on,
        recipe=recipe_words(study),
        studies=[(VIEWS.get(kind, "pairs of steps"), report.study.plan) for kind, report in views.reports.items()],
        steps=[
            (label, [_line(scale, kind, views.worths.get((step, kind))) for kind in views.kinds])
            for step, label in views.steps.items()
        ],
        zero=scale.at(0.0),
        ticks=scale.marks(),
        pairs=_pairs(views),
        notes=notes(views),
    )


def _line(scale: Axis, kind: str, worth: Worth | None) -> dict[str, Any]:
    """Where a worth and its interval lie, in shares of the width."""
    found = None if worth is None else worth.estimate
    return {
        "view": VIEWS[kind],
        "words": written(worth),
        "at": None if found is None else scale.at(found.value),
        "ends": None if found is None or found.interval is None else tuple(map(scale.at, found.interval)),
        "resolved": bool(found and found.resolved),
        "number": list(VIEWS).index(kind),
    }


def _pairs(views: Views) -> dict[str, Any] | None:
    """What two steps do together, as cells: the diagonal is each alone."""
    if views.pairs is None:
        return None
    plan, analysis = views.pairs.study.plan, views.pairs.analysis
    names = [effect.name for effect in plan.effects if "*" not in effect.name]
    labels = {effect.name: effect.label for effect in plan.effects}
    rows = []
    for i, first in enumerate(names):
        found = [analysis.estimate(first if i == j else f"{second}*{first}") for j, second in enumerate(names[: i + 1])]
        rows.append((labels[first], [("" if e is None else f"{e.value:+.1f}", bool(e and e.resolved)) for e in found]))
    return {"names": [labels[name] for name in names], "rows": rows}
