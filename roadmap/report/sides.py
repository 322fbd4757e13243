"""Effects that set two recipes against each other, seen from both sides: what each recipe's rows say alone. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from roadmap.config.schema import StudyKind
from roadmap.record.study import Effect, StudyPlan
from roadmap.report.statistics import Analysis, Estimate, estimate_effects

Sides = tuple[Estimate, Estimate]  # under the first recipe, and under the other


def recipes_of(plan: StudyPlan) -> tuple[str, ...]:
    """The recipes that the rows are grouped by, the first one first; none in a study of another kind."""
    return tuple(dict.fromkeys(variant.group for variant in plan.variants)) if plan.kind == StudyKind.steps_x_recipes else ()


def sides(plan: StudyPlan, analysis: Analysis) -> dict[str, Sides]:
    """Of each effect, by its name, its two sides, whose difference it is: gains with their intervals, or scores.

    Their intervals are each for itself: the study asks for differences, and for these alone it corrects their number. An
    effect that is not such a difference (a mean over both recipes) has none.
    """
    parts = {e.effect.name: pair for e in analysis.estimates if (pair := _parts(e.effect, plan)) is not None}
    found = estimate_effects([effect for pair in parts.values() for effect in pair], analysis.means, analysis.measured)
    return dict(zip(parts, zip(found[::2], found[1::2], strict=True), strict=True))


def is_gain(side: Estimate) -> bool:
    """Whether it is a difference of rows; else it is their score."""
    return abs(sum(side.effect.weights.values())) < 1e-9


def _parts(effect: Effect, plan: StudyPlan) -> tuple[Effect, Effect] | None:
    first, *_ = recipes_of(plan) or ("",)
    of = {variant.name: variant for variant in plan.variants}
    ours = {name: weight for name, weight in effect.weights.items() if of[name].group == first}
    theirs = {name: -weight for name, weight in effect.weights.items() if name not in ours}
    if not recipes_of(plan) or _by_step(ours, plan) != _by_step(theirs, plan):
        return None
    return replace(effect, weights=ours), replace(effect, weights=theirs)


def _by_step(weights: Mapping[str, float], plan: StudyPlan) -> dict[str, float]:
    return {plan.row(name).variant.step: weight for name, weight in weights.items()}
