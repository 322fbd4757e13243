"""Two studies of the same rows: where their effects differ, and whether what one resolved comes back in the other. No torch here.

The studies may differ in seeds, machine, recipe or data. The variances that an effect has in each of them add up to that of
its difference, with Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from roadmap.base.errors import Refused
from roadmap.config.identity import differences
from roadmap.record.result import RunResult
from roadmap.record.study import seed_and_identity
from roadmap.report.noise import Array
from roadmap.report.records import Study
from roadmap.report.report import Report
from roadmap.report.statistics import Estimate, Row, with_intervals

FREE = ("drop_path",)  # of the model: it belongs to the recipe


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """An effect in both studies: the first less the second, in points."""

    first: Estimate
    second: Estimate

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
        errors, freedom = self._spread([first.effect.weights for first, _ in pairs])
        values = [first.value - second.value for first, second in pairs]
        found = with_intervals([first.effect for first, _ in pairs], values, errors, freedom)
        return [Difference(**vars(one), first=a, second=b) for one, (a, b) in zip(found, pairs, strict=True)]

    def _spread(self, weights: Sequence[Mapping[str, float]]) -> tuple[Array, Array]:
        """Standard errors of differences between the studies, and their degrees of freedom; NaN where they are not known."""
        one, other = self.one.analysis.measured, self.other.analysis.measured
        if one is None or other is None or not weights:
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        (first, of_first), (second, of_second) = one.spread(weights), other.spread(weights)
        return added(first**2, of_first, second**2, of_second)

    @cached_property
    def heterogeneity(self) -> Heterogeneity | None:
        """Over the rows of which both studies have two runs or more; rows of one network count once."""
        one, other = self.one.analysis.measured, self.other.analysis.measured
        if one is None or other is None:
            return None
        places = {one.place[row.variant.name]: other.place[there.variant.name] for row, there in self.common}
        ours, theirs = one.noise, other.noise
        at, there = list(places), list(places.values())
        shifts = np.nanmean(ours.values[at], -1) - np.nanmean(theirs.values[there], -1)
        errors, freedom = added(ours.of_means()[at], ours.counts[at] - 1, theirs.of_means()[there], theirs.counts[there] - 1)
        known = errors > 0
        return heterogeneity(shifts[known], errors[known], freedom[known])


def compare(one: Report, other: Report) -> Comparison:
    """Compare two studies.

    Raises:
        Refused: where they have no effect in common, other networks under one name, another metric, or the same runs.

    """
    comparison = Comparison(one, other)
    first, second = one.study, other.study
    refuse_other_metric(first, second)
    if not comparison.differences:
        names = (", ".join(variant.name for variant in study.plan.variants) for study in (first, second))
        raise Refused(f"no effect is in both studies; rows of {first.folder} / {second.folder}: {' / '.join(names)}")
    for row, _ in comparison.common:
        refuse_other_network(row.variant.name, first, second)
    same = repeated(first, second)
    if len(same) == len(first.results):
        raise Refused(f"{first.folder} and {second.folder} hold the same runs; needed: other seeds, machine, recipe or data")
    return comparison


def refuse_other_metric(one: Study, other: Study) -> None:
    """Refuse two studies of which each is scored by another metric."""
    if one.plan.metric != other.plan.metric:
        raise Refused(f"{one.folder} is scored by {one.plan.metric.label}, {other.folder} by {other.plan.metric.label}")


def refuse_other_network(row: str, one: Study, other: Study) -> None:
    """Refuse two studies whose rows of this name are other networks."""
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


def added(one: Array, of_one: Array, other: Array, of_other: Array) -> tuple[Array, Array]:
    """Standard errors of sums of two independent parts with these variances, and Satterthwaite's degrees of freedom."""
    total = one + other
    shares = one**2 / np.maximum(of_one, 1) + other**2 / np.maximum(of_other, 1)
    return np.sqrt(total), np.divide(total**2, shares, out=np.ones_like(total), where=shares > 0)


def heterogeneity(shifts: Array, errors: Array, freedom: Array) -> Heterogeneity | None:
    """Cochran's Q of rows' shifts (rows,) about their weighted mean; p by Welch (1951), who allows for estimated variances."""
    count = len(shifts)
    if count < 2:
        return None
    weights = errors**-2.0
    q = float(weights @ (shifts - weights @ shifts / weights.sum()) ** 2)
    unsure = float(((1 - weights / weights.sum()) ** 2 / freedom).sum())
    f = q / (count - 1) / (1 + 2 * (count - 2) / (count**2 - 1) * unsure)
    return Heterogeneity(count, q, float(special.fdtrc(count - 1, (count**2 - 1) / (3 * unsure), f)))
