"""Axes: where the numbers of a study lie and which round ones are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roadmap.report.statistics import Row

TICKS = 7  # at most one more


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with round numbers between."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def marks(self) -> list[tuple[float, str]]:
        """Where every tick is, and what is written at it."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(self.at(tick), f"{tick:.{digits}f}") for tick in self.ticks]


def axis(values: Iterable[float], below: float = 0.0, most: float = math.inf, least: float = 0.0) -> Axis:
    """An axis around the values, with `below` of their span more room at the low end, inside `least` to `most`."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    lowest, greatest = min(known), max(known)
    span = max(greatest - lowest, abs(greatest) * 0.02, 1e-9)
    step = _round_step(span * (1 + below) / TICKS)
    low = max(least, math.floor((lowest - below * span) / step) * step)
    high = min(most, math.ceil(greatest / step) * step)
    if high <= low:
        low, high = high - step, high
    count = round((high - low) / step)
    return Axis(low, high, tuple(low + i * step for i in range(count + 1) if low + i * step <= high + step / 1e3))


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * times for times in (1, 2, 5, 10) if power * times >= step * 0.999)


def score_axis(rows: Sequence[Row]) -> Axis:
    """Of the scores, which starts a little below the least value, as the paper's does at 78."""
    ends = [mean + sign * (row.std or 0.0) for row in rows if (mean := row.mean) is not None for sign in (-1, 1)]
    return axis([*ends, *(value for row in rows for value in row.values)], below=0.3, most=100.0)
