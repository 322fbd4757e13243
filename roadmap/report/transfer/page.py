"""The page of a transfer: what each step is worth by the scores of several tasks, readable at every width, without scripts."""

from __future__ import annotations

from roadmap.report.page.strips import strips
from roadmap.report.recipe import recipe_words
from roadmap.report.transfer import Transfer, notes


def render(transfer: Transfer) -> str:
    """The page, the same text from the same records."""
    sides = (transfer.first, *transfer.sides)
    studies = [side.study for side in (transfer.first, *transfer.studies)]
    return strips(
        "transfer of the steps",
        [
            (effect.label, [(side.heading, number % 8, side.estimates[i]) for number, side in enumerate(sides)])
            for i, effect in enumerate(transfer.asked)
        ],
        heading="Does a step that helps one task help the others?",
        table="Each step by each score",
        says="Points that the step changes its parent by.",
        family="the differences of its score",
        plan=studies[0].plan,
        measured="; ".join(dict.fromkeys(study.plan.measured_on for study in studies)),
        recipe="; ".join(dict.fromkeys(map(recipe_words, studies))),
        studies=[(side.metric.label, side.study.plan) for side in (transfer.first, *transfer.studies)],
        pairs=None,
        notes=notes(transfer),
    )
