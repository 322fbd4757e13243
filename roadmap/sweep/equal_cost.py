"""Widths at which the steps of a study cost the same: what remains of a step that may not buy compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from roadmap.base.errors import Refused
from roadmap.config.schema import Experiment
from roadmap.record.study import Variant
from roadmap.run.preflight import cost_of_run
from roadmap.sweep.design import Design

CLOSE = 0.01  # of the multiply-adds that are aimed at
PARTS = 8  # of a channel: at a width of 62.5 the stages have 62, 125, 250 and 500


def at_equal_cost(study: Design, experiment_of: Callable[[str], Experiment], classes: Sequence[str]) -> Design:
    """The same variants, each at the width that brings its multiply-adds, those of a head too, next to those of the first.

    Raises:
        Refused: where no width comes within 1 %.

    """

    def spent(run: Experiment, eighths: int) -> int:
        widened = dataclasses.replace(run, model=dataclasses.replace(run.model, width=eighths / PARTS))
        return cost_of_run(widened, classes).conv_linear

    first = experiment_of(study.variants[0].step)
    target = spent(first, round(PARTS * first.model.width))

    def widened(variant: Variant) -> Variant:
        if variant.reference:
            return variant
        run = experiment_of(variant.step)
        eighths, off = _nearest(round(PARTS * run.model.width), target, lambda eighths: spent(run, eighths))
        if abs(off) > CLOSE:
            raise Refused(
                f"study.kind=equal_flops: no width of {variant.step} comes within {CLOSE:.0%} of {target / 1e9:.4f} G "
                f"multiply-adds; the nearest, {eighths / PARTS:g}, is {off:+.1%} away: take a larger scale"
            )
        return dataclasses.replace(variant, overrides=(*variant.overrides, f"model.width={eighths / PARTS:g}"))

    return dataclasses.replace(study, variants=tuple(map(widened, study.variants)))


def _nearest(start: int, target: int, spent: Callable[[int], int]) -> tuple[int, float]:
    """The width whose cost is next to the target, and how far off that is, as a share; cost grows with its square."""
    known: dict[int, int] = {}

    def off(width: int) -> float:
        if width not in known:
            known[width] = spent(width)
        return known[width] / target - 1

    width = start
    for _ in range(20):
        guess = max(PARTS, round(width * (1 + off(width)) ** -0.5))
        if guess in known:
            break
        width = guess
    best = min(known, key=lambda candidate: abs(off(candidate)))
    if abs(off(best)) > CLOSE:
        best = min(range(max(PARTS, best - 3), best + 4), key=lambda candidate: abs(off(candidate)))
    return best, off(best)
