"""What a study's numbers say: means, deviations, effects with their intervals, and what could have been seen.

An effect is a weighted sum of rows' mean scores (a difference to the parent, a Shapley value, an interaction). Its interval
comes from the noise of its own rows (`roadmap.report.noise`), by a rule that is declared and looks at no result. Intervals are
Student's at 95 %, each for itself; whether an effect is *resolved* is decided by Holm's procedure, which keeps the chance of
any false alarm in the whole table under 5 %. That both hold is tested by simulation (tests/test_statistics.py).
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, compress

import numpy as np
from scipy import special

from roadmap.record.study import Effect, PlannedRow, Variant
from roadmap.report.noise import SURE, Array, Noise, half_widths, holm, two_sided, variance
from roadmap.report.records import Study

LEVEL = 0.95
POWER = 0.8  # chance to resolve an effect that is there
MOST_SEEDS = 1000
DRAWS = 4000  # studies that a power is the mean over


@dataclass(frozen=True)
class Row:
    """A variant's numbers: its scores, in the unit of the study's metric."""

    variant: Variant
    seeds: tuple[int, ...]  # planned
    values: tuple[float, ...]  # scores of the runs that finished
    by_seed: Mapping[int, float]
    diverged: int
    gmacs: float | None
    params_m: float | None
    images_per_second: float | None

    @property
    def mean(self) -> float | None:
        """Mean score; None without a finished run."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (n - 1); None below two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def missing(self) -> int:
        """Runs that were planned and have no result."""
        return len(self.seeds) - len(self.values) - self.diverged


@dataclass(frozen=True)
class Estimate:
    """An effect in points, its 95 % interval, and whether it is resolved among all effects of the study."""

    effect: Effect
    value: float
    half_width: float | None = None
    p: float | None = None  # two-sided, of this effect alone
    p_holm: float | None = None  # corrected for the number of effects

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its ends; None without a deviation."""
        return None if self.half_width is None else (self.value - self.half_width, self.value + self.half_width)

    @property
    def resolved(self) -> bool | None:
        """Whether Holm's procedure tells it from 0; None without a deviation."""
        return None if self.p_holm is None else self.p_holm < 1 - LEVEL

    @property
    def tested(self) -> dict[str, float | bool | None]:
        """Its interval and its test, as files of numbers name them."""
        low, high = self.interval or (None, None)
        return {"low": low, "high": high, "p": self.p, "p_holm": self.p_holm, "resolved": self.resolved}

    @property
    def with_interval(self) -> str:
        """Its value and its interval, if it has one, as people read them."""
        return written_interval(self.value, *(self.interval or (None, None)))

    @property
    def words(self) -> str:
        """The same, and whether it is resolved."""
        return self.with_interval + ", resolved" * bool(self.resolved)


@dataclass(frozen=True)
class Measured:
    """The rows that have an effect's noise: their values by seed, and where each row stands among them."""

    noise: Noise
    place: Mapping[str, int]

    def weights(self, effects: Sequence[Mapping[str, float]]) -> Array:
        """(effects, rows)."""
        found = np.zeros((len(effects), self.noise.values.shape[-2]))
        for line, weights in zip(found, effects, strict=True):
            for name, weight in weights.items():
                line[self.place[name]] += weight
        return found

    def spread(self, effects: Sequence[Mapping[str, float]]) -> tuple[Array, Array]:
        """Standard errors of effects of these weights, and their degrees of freedom."""
        return self.noise.spread(self.weights(effects))

    @cached_property
    def deviation(self) -> float:
        """Of a run in a usual row, beside what its seed adds to all rows: the root of the rows' mean variance."""
        values = self.noise.values
        apart = [variance(one - other) / 2 for one, other in combinations(values, 2)] if self.noise.few else []
        return math.sqrt(np.nanmean(apart if np.isfinite(apart).any() else self.noise.variances))


@dataclass(frozen=True)
class Analysis:
    """The rows of a study, its effects, and what holds for all of them."""

    rows: tuple[Row, ...]
    estimates: tuple[Estimate, ...]
    asked: tuple[Effect, ...]  # in the plan, estimated or not
    measured: Measured | None  # None where no row has two values
    smallest: float | None  # the least effect, in rows of usual noise, that this study would resolve with a chance of 80 %

    def estimate(self, name: str) -> Estimate | None:
        """The effect of this name, where it could be estimated."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Estimate]:
        return {estimate.effect.name: estimate for estimate in reversed(self.estimates)}

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean scores by row, of those that have a finished run."""
        return {row.variant.name: row.mean for row in self.rows if row.mean is not None}

    def ask(self, effects: Sequence[Effect]) -> list[Estimate | None]:
        """Other effects of these rows, None where one has no mean; Holm's procedure runs over what is asked here."""
        there = [effect.weights.keys() <= self.means.keys() for effect in effects]
        found = iter(estimate_effects(list(compress(effects, there)), self.means, self.measured))
        return [next(found) if known else None for known in there]

    def fewest(self, estimate: Estimate | None) -> int:
        """The least number of runs in a row of an effect; 0 where it could not be estimated."""
        weights = {} if estimate is None else estimate.effect.weights
        return min((len(row.values) for row in self.rows if row.variant.name in weights), default=0)

    @cached_property
    def finished(self) -> int:
        """The fewest finished runs of a row in an effect that has an interval; 0 where none has."""
        return min((self.fewest(estimate) for estimate in self.estimates if estimate.half_width is not None), default=0)

    @property
    def pairs(self) -> list[tuple[str, list[Estimate | None]]]:
        """Of a study of pairs, by the label of each change: what it does beyond the sum with each one before it, then alone."""
        single = [effect for effect in self.asked if "*" not in effect.name]
        return [
            (one.label, [*(self.estimate(f"{before.name}*{one.name}") for before in single[:i]), self.estimate(one.name)])
            for i, one in enumerate(single)
        ]


def analyse(study: Study) -> Analysis:
    """Compute every row and every effect."""
    rows = {row.variant.name: _row(study, row) for row in study.plan.rows}
    analysis = Analysis(tuple(rows.values()), (), study.plan.effects, measure(study, rows), None)
    analysis = replace(analysis, estimates=tuple(filter(None, analysis.ask(analysis.asked))))
    if analysis.finished < 2 or any(effect.parts for effect in analysis.asked):
        return analysis
    return replace(analysis, smallest=power_of(analysis, analysis.finished).smallest)


def measure(study: Study, rows: Mapping[str, Row]) -> Measured | None:
    """What is known of the runs' noise; rows of one network, which share their runs, count once, and references not at all."""
    shared: dict[tuple[str, ...], int] = {}
    own = [row for row in study.plan.rows if not row.variant.reference]
    place = {row.variant.name: shared.setdefault(row.runs or (row.variant.name,), len(shared)) for row in own}
    values = np.full((len(shared), len(study.plan.seeds)), np.nan)
    for name, at in place.items():
        values[at] = [rows[name].by_seed.get(seed, np.nan) for seed in study.plan.seeds]
    noise = Noise(values, _grain(study))
    return Measured(noise, place) if (noise.counts > 1).any() else None


def _grain(study: Study) -> float:
    """What one image more or less adds to an accuracy, in points; 0 where that is not known."""
    images = next((result.data.get("val") for result in study.results.values()), None)
    return 100 / images if images and study.plan.metric.key.startswith("top") else 0.0


def _row(study: Study, row: PlannedRow) -> Row:
    results = study.of(row.variant.name)
    by_seed = {result.seed: result.score for result in results if result.done and result.score is not None}
    speeds = [result.images_per_second for result in results if result.done and result.images_per_second]
    return Row(
        variant=row.variant,
        seeds=study.plan.seeds,
        values=tuple(by_seed.values()),
        by_seed=by_seed,
        diverged=sum(result.status == "diverged" for result in results),
        gmacs=results[0].gmacs if results else None,
        params_m=results[0].params_m if results else None,
        images_per_second=statistics.median(speeds) if speeds else None,
    )


# --- effects ---------------------------------------------------------------------------------------------------------


def estimate_effects(effects: Sequence[Effect], means: Mapping[str, float], measured: Measured | None) -> list[Estimate]:
    """Effects with their intervals; without where the noise of one of their rows is not known."""
    values = [weighted(effect.weights, means) for effect in effects]
    if measured is None or not effects:
        return [Estimate(effect, value) for effect, value in zip(effects, values, strict=True)]
    errors, freedom = measured.spread([effect.weights for effect in effects])
    for i, effect in enumerate(effects):
        if effect.parts:
            errors[i], freedom[i] = _over_orders(effect, means, measured, errors[i], freedom[i])
    return with_intervals(effects, values, errors, freedom)


def with_intervals(effects: Sequence[Effect], values: Sequence[float], errors: Array, freedom: Array) -> list[Estimate]:
    """Effects of these values and standard errors, corrected for their number; no interval where the error is NaN."""
    ps = two_sided(np.array(values), errors, freedom)
    numbers = zip(half_widths(errors, freedom, LEVEL).tolist(), ps.tolist(), holm(ps).tolist(), strict=True)
    return [
        Estimate(effect, value) if math.isnan(p) else Estimate(effect, value, half, p, p_holm)
        for effect, value, (half, p, p_holm) in zip(effects, values, numbers, strict=True)
    ]


def weighted(weights: Mapping[str, float], means: Mapping[str, float]) -> float:
    """A weighted sum of rows' means."""
    return sum(weight * means[name] for name, weight in weights.items())


def _over_orders(
    effect: Effect, means: Mapping[str, float], measured: Measured, error: float, freedom: float
) -> tuple[float, float]:
    """The standard error and degrees of freedom of a mean over sampled pairs of orders, where the runs alone give these.

    The pairs vary for two reasons: they are other orders, and their runs are noisy. Of the noise, what the pairs share
    (all orders begin at the same run) does not show in how they vary, and is added.
    """
    pairs = len(effect.parts)
    seen = statistics.variance([weighted(part, means) for part in effect.parts]) / pairs
    of_a_pair = float((measured.spread(effect.parts)[0] ** 2).mean())
    shared = (pairs * error**2 - of_a_pair) / (pairs - 1)
    total = seen + shared
    if total <= error**2:  # the orders make no difference beyond the noise
        return error, freedom
    return math.sqrt(total), total**2 / (seen**2 / (pairs - 1) + shared**2 / freedom)


def written_interval(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval, if it has one, as people read them."""
    return f"{value:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")


def written_p(p: float | None) -> str:
    """A probability as people read it."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def written(estimate: Estimate | None) -> str:
    """An effect as people read it, or that it is missing."""
    return "missing" if estimate is None else estimate.words


# --- power -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Power:
    """How large an effect must be to be resolved, as the first of so many by Holm's procedure, in DRAWS equal studies.

    The rows of the effect have the same noise; a study knows it only from its runs, and with few seeds the chance to resolve
    an effect depends most on how large it happens to find it.
    """

    error: float  # true
    limits: Array  # of the absolute value, (DRAWS,)

    @classmethod
    def of(cls, weights: Sequence[float], deviation: float, seeds: int, comparisons: int, paired: bool = False) -> Power:
        """Of an effect of these weights, with runs of this deviation."""
        squares = np.square(weights) * deviation**2 / seeds
        squares = squares.sum(keepdims=True) if paired else squares
        drawn = squares * np.random.default_rng(0).chisquare(seeds - 1, (DRAWS, len(squares))) / (seeds - 1)
        sure = 1.0 if paired else SURE
        freedom = sure * (seeds - 1) * (drawn.sum(1) ** 2 / (drawn**2).sum(1) if deviation else np.ones(DRAWS))
        return cls(math.sqrt(squares.sum()), half_widths(np.sqrt(drawn.sum(1)), freedom, 1 - (1 - LEVEL) / comparisons))

    def __call__(self, effect: float) -> float:
        """The chance that an effect of this size is resolved."""
        if self.error == 0:
            return float(effect != 0)
        ends = [special.ndtr((sign * effect - self.limits) / self.error) for sign in (-1, 1)]
        return float(np.sum(ends, 0).mean())

    @property
    def smallest(self) -> float:
        """The least effect that is resolved with a chance of 80 %."""
        low, high = 0.0, 2 * float(self.limits.max()) + 4 * self.error
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self(middle) < POWER else (low, middle)
        return high


def power_of(analysis: Analysis, seeds: int) -> Power:
    """Of a study like this one with so many seeds, for the effect that takes most rows, in rows of usual noise."""
    assert analysis.measured is not None
    widest = max((list(effect.weights.values()) for effect in analysis.asked), key=lambda weights: sum(w * w for w in weights))
    return Power.of(widest, analysis.measured.deviation, seeds, len(analysis.asked), analysis.measured.noise.few)


def seeds_needed(effect: float, analysis: Analysis) -> int | None:
    """Seeds a row with which an effect of this size is resolved with a chance of 80 %; None beyond a thousand."""
    if analysis.measured is None or not analysis.asked or power_of(analysis, MOST_SEEDS)(effect) < POWER:
        return None
    return bisect_left(range(MOST_SEEDS), POWER, lo=2, key=lambda seeds: power_of(analysis, seeds)(effect))
