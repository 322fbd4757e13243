"""Two studies of the same rows: where their effects differ, and whether what one resolved comes back in the other. No torch here.

The studies may differ in seeds, machine, recipe or data. An effect's difference between them has the variance of every run
that it rests on: each row's own, in each study (Welch), with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from roadmap.base.errors import Refused
from roadmap.config.identity import differences
from roadmap.record.result import RunResult
from roadmap.record.study import seed_and_identity
from roadmap.report.records import Study
from roadmap.report.report import Report
from roadmap.report.statistics import LEVEL, Estimate, Row, holm

FREE = ("drop_path",)  # of the model: it belongs to the recipe


@dataclass(frozen=True)
class Spread:
    """The variance of something that is measured, and how well it is known."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Difference:
    """An effect in both studies: the first less the second, in points."""

    first: Estimate
    second: Estimate
    half_width: float | None = None  # of the 95 % interval; None where a row has one run
    p: float | None = None
    p_holm: float | None = None

    @property
    def value(self) -> float:
        """The first study's effect less the second's."""
        return self.first.value - self.second.value

    @property
    def came_back(self) -> str:
        """What became of an effect that one of the studies resolved; empty where none did."""
        if not (self.first.resolved or self.second.resolved):
            return ""
        if self.first.value * self.second.value < 0:
            return "other sign"
        return "resolved in both" if self.first.resolved and self.second.resolved else "same sign"


@dataclass(frozen=True)
class Heterogeneity:
    """Cochran's Q over rows: whether the rows differ among themselves alike in both studies."""

    rows: int
    q: float
    p: float  # by Welch's F: the variances are estimated, and chi-squared would raise too many alarms

    @property
    def freedom(self) -> int:
        """Rows less one: what shifts all rows alike does not count."""
        return self.rows - 1

    @property
    def i_squared(self) -> float:
        """The share of the scatter that is beyond the runs' noise, in percent."""
        return 100 * max(0.0, 1 - self.freedom / self.q) if self.q else 0.0


@dataclass(frozen=True)
class Comparison:
    """Two studies and how they compare."""

    one: Report
    other: Report

    @cached_property
    def common(self) -> list[tuple[Row, Row]]:
        """The rows that both studies have, references left out."""
        there = {row.variant.name: row for row in self.other.analysis.rows}
        ours = [row for row in self.one.analysis.rows if not row.variant.reference]
        return [(row, there[row.variant.name]) for row in ours if row.variant.name in there]

    @cached_property
    def differences(self) -> list[Difference]:
        """Of each effect that both studies have."""
        there = {estimate.effect.name: estimate for estimate in self.other.analysis.estimates}
        pairs = [(e, there[e.effect.name]) for e in self.one.analysis.estimates if e.effect.name in there]
        spreads = {row.variant.name: shift_spread(row, other) for row, other in self.common}
        tested = [_tested(first, second, _spread(first, self.one.study, spreads)) for first, second in pairs]
        known = [difference.p for difference in tested if difference.p is not None]
        corrected = iter(holm(known))
        return [
            difference
            if p is None
            else Difference(difference.first, difference.second, difference.half_width, p, next(corrected))
            for difference in tested
            for p in [difference.p]
        ]

    @cached_property
    def heterogeneity(self) -> Heterogeneity | None:
        """Over the rows of which both studies have two runs or more; rows of one network count once."""
        once = {self.one.study.plan.row(row.variant.name).runs: (row, other) for row, other in self.common}
        means = [(row.mean or 0.0, other.mean or 0.0, shift_spread(row, other)) for row, other in once.values()]
        shifts = [(ours - theirs, spread) for ours, theirs, spread in means]
        return heterogeneity([(shift, spread) for shift, spread in shifts if spread is not None and spread.variance > 0])


def compare(one: Report, other: Report) -> Comparison:
    """Compare two studies.

    Raises:
        Refused: where they have no effect in common, other networks under one name, another metric, or the same runs.

    """
    comparison = Comparison(one, other)
    first, second = one.study, other.study
    if first.plan.metric != second.plan.metric:
        raise Refused(f"{first.folder} is scored by {first.plan.metric.label}, {second.folder} by {second.plan.metric.label}")
    if not comparison.differences:
        names = (", ".join(variant.name for variant in study.plan.variants) for study in (first, second))
        raise Refused(f"no effect is in both studies; rows of {first.folder} / {second.folder}: {' / '.join(names)}")
    for row, _ in comparison.common:
        _refuse_other_network(row.variant.name, first, second)
    same = repeated(first, second)
    if len(same) == len(first.results):
        raise Refused(f"{first.folder} and {second.folder} hold the same runs; needed: other seeds, machine, recipe or data")
    return comparison


def _refuse_other_network(row: str, one: Study, other: Study) -> None:
    for first, second in zip(one.of(row)[:1], other.of(row)[:1], strict=False):
        ours, theirs = ({key: value for key, value in run.model.items() if key not in FREE} for run in (first, second))
        if ours and theirs and (unequal := differences(ours, theirs, "model")):
            raise Refused(f"{one.folder} and {other.folder} have other networks in row {row}: {'; '.join(unequal)}")


def repeated(one: Study, other: Study) -> list[str]:
    """The runs of the first study that are the very same in the second: equal seed, settings and numbers."""

    def known(study: Study) -> dict[tuple[str, str], tuple[str, RunResult]]:
        return {(run.step.name, seed_and_identity(name)): (name, run) for name, run in study.results.items()}

    there = known(other)
    pairs = [(name, run, there[which][1]) for which, (name, run) in known(one).items() if which in there]
    return [name for name, run, same in pairs if (run.scores, run.train_loss) == (same.scores, same.train_loss)]


# --- statistics ------------------------------------------------------------------------------------------------------


def shift_spread(one: Row, other: Row) -> Spread | None:
    """Of the difference between a row's means in two studies; None where one of them has fewer than two runs."""
    if one.std is None or other.std is None:
        return None
    return _sum([(row.std or 0.0) ** 2 / len(row.values) for row in (one, other)], [len(row.values) - 1 for row in (one, other)])


def _sum(variances: Sequence[float], freedoms: Sequence[float]) -> Spread:
    """Of a sum of independent parts; Satterthwaite's degrees of freedom."""
    total = math.fsum(variances)
    shares = sum(variance**2 / freedom for variance, freedom in zip(variances, freedoms, strict=True))
    return Spread(total, total**2 / shares if shares else min(freedoms))


def _spread(estimate: Estimate, study: Study, spreads: Mapping[str, Spread | None]) -> Spread | None:
    """Of an effect's difference between the studies: a weighted sum over rows, in which shared runs count once."""
    weights: dict[tuple[str, ...], float] = {}
    known: dict[tuple[str, ...], Spread] = {}
    for name, weight in estimate.effect.weights.items():
        spread, runs = spreads.get(name), study.plan.row(name).runs
        if spread is None:
            return None
        weights[runs], known[runs] = weights.get(runs, 0.0) + weight, spread
    return _sum([weights[runs] ** 2 * spread.variance for runs, spread in known.items()], [s.freedom for s in known.values()])


def _tested(first: Estimate, second: Estimate, spread: Spread | None) -> Difference:
    if spread is None:
        return Difference(first, second)
    value, error = first.value - second.value, math.sqrt(spread.variance)
    p = float(2 * stats.t.sf(abs(value) / error, spread.freedom)) if error else float(value == 0)
    return Difference(first, second, float(stats.t.ppf((1 + LEVEL) / 2, spread.freedom)) * error, p)


def heterogeneity(shifts: Sequence[tuple[float, Spread]]) -> Heterogeneity | None:
    """Cochran's Q of these shifts about their weighted mean; p by Welch (1951), who allows for estimated variances."""
    count = len(shifts)
    if count < 2:
        return None
    values = np.array([value for value, _ in shifts])
    weights = np.array([1 / spread.variance for _, spread in shifts])
    freedoms = np.array([spread.freedom for _, spread in shifts])
    q = float(weights @ (values - weights @ values / weights.sum()) ** 2)
    unsure = float(((1 - weights / weights.sum()) ** 2 / freedoms).sum())
    f = q / (count - 1) / (1 + 2 * (count - 2) / (count**2 - 1) * unsure)
    return Heterogeneity(count, q, float(stats.f.sf(f, count - 1, (count**2 - 1) / (3 * unsure))))
