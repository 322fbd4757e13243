"""What a study's numbers say: means, deviations, and differences to the parent step with their intervals.

With few seeds a step's own deviation is nearly unknown, so the variance is pooled over all steps (as in an analysis
of variance with equal variances), and intervals are Student's, at a joint level of 95 % by Bonferroni.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student

from roadmap.report.records import Study
from roadmap.steps import Step

LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """A step's numbers: top-1 in percent, differences in points."""

    step: Step
    planned: int  # runs
    values: tuple[float, ...]  # top-1 of those that finished
    diverged: int
    gmacs: float | None
    params_m: float | None
    images_per_second: float | None
    delta: float | None = None  # to the parent step
    half_width: float | None = None  # of its interval

    @property
    def mean(self) -> float | None:
        """Mean top-1; None without a finished run."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (n - 1); None below two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def missing(self) -> int:
        """Runs that were planned and have no result."""
        return self.planned - len(self.values) - self.diverged

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the interval of the difference; None where there is no difference or no deviation."""
        if self.delta is None or self.half_width is None:
            return None
        return self.delta - self.half_width, self.delta + self.half_width

    @property
    def resolved(self) -> bool | None:
        """Whether the interval of the difference leaves out 0; None without an interval."""
        if self.interval is None:
            return None
        low, high = self.interval
        return low > 0 or high < 0


@dataclass(frozen=True)
class Analysis:
    """The rows of a study and what holds for all of them."""

    rows: tuple[Row, ...]
    pooled_std: float | None
    freedom: int
    comparisons: int
    smallest: float | None  # the least difference that could have been resolved with the seeds planned


def analyse(study: Study) -> Analysis:
    """Compute every row of the table."""
    rows = {step.name: _row(study, step) for step in study.steps}
    pooled, freedom = pooled_std([row.values for row in rows.values()])
    pairs = [(row, rows[row.step.parent]) for row in rows.values() if row.step.parent in rows]
    pairs = [(row, parent) for row, parent in pairs if row.values and parent.values]
    for row, parent in pairs:
        half = half_width(pooled, freedom, len(row.values), len(parent.values), len(pairs))
        delta = statistics.fmean(row.values) - statistics.fmean(parent.values)
        rows[row.step.name] = Row(**{**vars(row), "delta": delta, "half_width": half})
    seeds = len(study.about["seeds"])
    smallest = half_width(pooled, freedom, seeds, seeds, len(pairs)) if pairs else None
    return Analysis(tuple(rows.values()), pooled, freedom, len(pairs), smallest)


def _row(study: Study, step: Step) -> Row:
    results = study.of(step)
    done = [result for result in results if result["status"] == "done"]
    speeds = [result["images_per_second"] for result in done if result["images_per_second"]]
    return Row(
        step=step,
        planned=len(study.about["seeds"]),
        values=tuple(result["top1"] for result in done),
        diverged=sum(result["status"] == "diverged" for result in results),
        gmacs=results[0]["gmacs"] if results else None,
        params_m=results[0]["params_m"] if results else None,
        images_per_second=statistics.median(speeds) if speeds else None,
    )


def pooled_std(groups: Sequence[Sequence[float]]) -> tuple[float | None, int]:
    """Standard deviation within groups, pooled, and its degrees of freedom; None where no group has two values."""
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    if freedom == 0:
        return None, 0
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups if len(group) > 1)
    return math.sqrt(squares / freedom), freedom


def half_width(std: float | None, freedom: int, n: int, m: int, comparisons: int) -> float | None:
    """Half the interval of a difference of two means of n and m values, at a joint level of 95 % over all comparisons."""
    if std is None:
        return None
    tail = (1 - LEVEL) / (2 * comparisons)
    return float(student.ppf(1 - tail, freedom)) * std * math.sqrt(1 / n + 1 / m)
