"""The page of a transfer: what each step is worth by the scores of several tasks, readable at every width, without scripts."""

from __future__ import annotations

from typing import Any

from roadmap.report.page import document
from roadmap.report.page.axis import Axis, axis
from roadmap.report.recipe import recipe_words
from roadmap.report.transfer import Side, Transfer, notes, written


def render(transfer: Transfer) -> str:
    """The page, the same text from the same records."""
    sides = (transfer.first, *transfer.sides)
    known = [found for side in sides for found in side.estimates if found is not None]
    scale = axis([0.0, *(end for found in known for end in found.interval or (found.value,))], least=-float("inf"))
    studies = [side.study for side in (transfer.first, *transfer.studies)]
    return document(
        "views.html.j2",
        "transfer of the steps",
        {},
        None,
        heading="Does a step that helps one task help the others?",
        table="Each step by each score",
        says="Points that the step changes its parent by.",
        family="the differences of its score",
        plan=studies[0].plan,
        measured="; ".join(dict.fromkeys(study.plan.measured_on for study in studies)),
        recipe="; ".join(dict.fromkeys(map(recipe_words, studies))),
        studies=[(side.metric.label, side.study.plan) for side in (transfer.first, *transfer.studies)],
        steps=[
            (effect.label, [_line(scale, number, side, i) for number, side in enumerate(sides)])
            for i, effect in enumerate(transfer.asked)
        ],
        zero=scale.at(0.0),
        ticks=scale.marks(),
        pairs=None,
        notes=notes(transfer),
    )


def _line(scale: Axis, number: int, side: Side, i: int) -> dict[str, Any]:
    """Where a difference and its interval lie, in shares of the width."""
    found = side.estimates[i]
    return {
        "view": side.heading,
        "words": written(found),
        "at": None if found is None else scale.at(found.value),
        "ends": None if found is None or found.interval is None else tuple(map(scale.at, found.interval)),
        "resolved": bool(found and found.resolved),
        "number": number % 8,
    }
