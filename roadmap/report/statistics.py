"""What a study's numbers say: means, deviations, and effects with their intervals.

An effect is a weighted sum of rows' mean accuracies (a difference to the parent, a Shapley value, an interaction). With
few seeds a row's own deviation is nearly unknown, so the variance is pooled over all rows. Where every row has the same
seeds and seeds matter (an F test says so beyond doubt), what a seed adds to all rows alike is taken out: the effects are
paired. To choose by a test makes intervals a little too narrow; at p < 0.01 and from three rows on they hold what they promise.
Intervals are Student's at 95 %, each for itself; whether an effect is *resolved* is decided by Holm's procedure, which
keeps the chance of any false alarm in the whole table under 5 %.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from roadmap.record.study import Effect, PlannedRow, Variant
from roadmap.report.records import Study

LEVEL = 0.95
POWER = 0.8  # chance to resolve an effect that is there
MOST_SEEDS = 1000
SEEDS_MATTER, LEAST_ROWS = 0.01, 3  # p of the F test, and rows it needs, before effects are paired


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
class Noise:
    """How much a run's accuracy varies, in points, and how that was estimated."""

    std: float
    freedom: int
    paired: bool = False  # what the seeds add to all rows alike is taken out
    seed_p: float | None = None  # of the F test that seeds do not matter; None where rows have not the same seeds


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


@dataclass(frozen=True)
class Analysis:
    """The rows of a study, its effects, and what holds for all of them."""

    rows: tuple[Row, ...]
    estimates: tuple[Estimate, ...]
    noise: Noise | None
    smallest: float | None  # the least effect that this study would resolve with a chance of 80 %

    def estimate(self, name: str) -> Estimate | None:
        """The effect of this name, where it could be estimated."""
        return next((estimate for estimate in self.estimates if estimate.effect.name == name), None)


def analyse(study: Study) -> Analysis:
    """Compute every row and every effect."""
    rows = {row.variant.name: _row(study, row) for row in study.plan.rows}
    noise = estimate_noise([row.by_seed for row in rows.values() if not row.variant.reference])
    means = {name: row.mean for name, row in rows.items() if row.mean is not None}
    counts = {name: len(row.values) for name, row in rows.items()}
    known = [effect for effect in study.plan.effects if effect.weights.keys() <= means.keys()]
    values = [weighted(effect.weights, means) for effect in known]
    errors = [standard_error(effect.weights, counts, noise) for effect in known]
    orders = any(effect.parts for effect in known)
    planned = {name: len(row.seeds) for name, row in rows.items()}
    least = [standard_error(effect.weights, planned, noise) for effect in study.plan.effects]
    return Analysis(
        rows=tuple(rows.values()),
        estimates=tuple(estimate_orders(known, means, counts, noise) if orders else _estimates(known, values, errors, noise)),
        noise=noise,
        smallest=detectable(max(error for error in least if error is not None), noise.freedom, len(least))
        if noise and least and not orders
        else None,
    )


def _row(study: Study, row: PlannedRow) -> Row:
    results = study.of(row.variant.name)
    scores = {result.seed: result.score for result in results if result.done}
    speeds = [result.images_per_second for result in results if result.done and result.images_per_second]
    by_seed = {seed: score for seed, score in scores.items() if score is not None}
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


# --- noise -----------------------------------------------------------------------------------------------------------


def estimate_noise(rows: Sequence[Mapping[int, float]]) -> Noise | None:
    """The standard deviation of a run within its row, pooled; with the seeds' part taken out where that is warranted.

    None where no row has two values.
    """
    groups = [list(row.values()) for row in rows if row]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return None
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in groups if len(group) > 1)
    within = Noise(math.sqrt(squares / freedom), freedom)
    seeds = set(rows[0])
    if len(rows) < LEAST_ROWS or len(seeds) < 2 or any(set(row) != seeds for row in rows):
        return within
    return _paired(np.array([[row[seed] for seed in sorted(seeds)] for row in rows]), within)


def _paired(values: np.ndarray, within: Noise) -> Noise:
    """A two-way analysis of variance, rows by seeds: the seeds' part is taken out where the F test finds one."""
    count, seeds = values.shape
    by_seed = values.mean(0) - values.mean()
    of_seeds = count * float(by_seed @ by_seed) / (seeds - 1)
    freedom = (count - 1) * (seeds - 1)
    rest = (within.std**2 * within.freedom - of_seeds * (seeds - 1)) / freedom
    if rest < 1e-9 * within.std**2:  # no noise at all beside the seeds: planted numbers, not those of runs
        return within
    p = float(stats.f.sf(of_seeds / rest, seeds - 1, freedom))
    if p < SEEDS_MATTER:
        return Noise(math.sqrt(rest), freedom, True, p)
    return Noise(within.std, within.freedom, False, p)


def standard_error(weights: Mapping[str, float], counts: Mapping[str, int], noise: Noise | None) -> float | None:
    """Of a weighted sum of means of so many values each."""
    if noise is None or not all(counts[name] for name in weights):
        return None
    return noise.std * math.sqrt(sum(weight**2 / counts[name] for name, weight in weights.items()))


# --- effects ---------------------------------------------------------------------------------------------------------


def _estimates(
    effects: Sequence[Effect], values: Sequence[float], errors: Sequence[float | None], noise: Noise | None
) -> list[Estimate]:
    return _tested(effects, values, [(error or math.inf, noise.freedom) for error in errors] if noise else None)


def _tested(
    effects: Sequence[Effect], values: Sequence[float], spreads: Sequence[tuple[float, float]] | None
) -> list[Estimate]:
    """Effects of these values, tested with these standard errors and degrees of freedom; untested where there are none."""
    if spreads is None:
        return [Estimate(effect, value) for effect, value in zip(effects, values, strict=True)]
    ps = [_p(value, error, freedom) for value, (error, freedom) in zip(values, spreads, strict=True)]
    return [
        Estimate(effect, value, float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error, p, p_holm)
        for effect, value, (error, freedom), p, p_holm in zip(effects, values, spreads, ps, holm(ps), strict=True)
    ]


def weighted(weights: Mapping[str, float], means: Mapping[str, float]) -> float:
    """A weighted sum of rows' means."""
    return sum(weight * means[name] for name, weight in weights.items())


def estimate_orders(
    effects: Sequence[Effect], means: Mapping[str, float], counts: Mapping[str, int], noise: Noise | None
) -> list[Estimate]:
    """Effects that are means over sampled pairs of orders; none has an interval where the runs' noise is not known.

    The pairs vary for two reasons: they are other orders, and their runs are noisy. Of the noise, what the pairs share
    (all orders begin at the same run) does not show in how they vary, and is added. Student's t with Satterthwaite's
    degrees of freedom.
    """
    values = [weighted(effect.weights, means) for effect in effects]
    return _tested(effects, values, [_spread(effect, means, counts, noise) for effect in effects] if noise else None)


def _spread(effect: Effect, means: Mapping[str, float], counts: Mapping[str, int], noise: Noise) -> tuple[float, float]:
    """The standard error of a mean over pairs of orders, and its degrees of freedom."""
    pairs = len(effect.parts)
    seen = statistics.variance([weighted(part, means) for part in effect.parts]) / pairs
    of_runs = (standard_error(effect.weights, counts, noise) or 0.0) ** 2
    of_a_pair = statistics.fmean((standard_error(part, counts, noise) or 0.0) ** 2 for part in effect.parts)
    shared = (pairs * of_runs - of_a_pair) / (pairs - 1)
    if seen + shared <= of_runs:  # the orders make no difference beyond the noise
        return math.sqrt(of_runs), noise.freedom
    total = seen + shared
    parts = seen**2 / (pairs - 1) + shared**2 / noise.freedom
    return math.sqrt(total), total**2 / parts


def _p(value: float, error: float, freedom: float) -> float:
    """Two-sided p of Student's t; certain where the runs do not vary at all."""
    return float(2 * stats.t.sf(abs(value) / error, freedom)) if error else float(value == 0)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: reject where the result is below the level, and at most that share of tables errs."""
    ranked = sorted(range(len(ps)), key=lambda i: ps[i])
    corrected, worst = [1.0] * len(ps), 0.0
    for rank, i in enumerate(ranked):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = worst
    return corrected


def written_p(p: float | None) -> str:
    """A probability as people read it."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


# --- power -----------------------------------------------------------------------------------------------------------


def power(effect: float, error: float, freedom: int, comparisons: int) -> float:
    """The chance that an effect of this size is resolved, as the first of so many by Holm's procedure."""
    limit = stats.t.ppf(1 - (1 - LEVEL) / (2 * comparisons), freedom)
    shift = abs(effect) / error if error else math.inf
    if shift > 100:  # scipy's noncentral t is not to be trusted there, and the answer is not in doubt
        return 1.0
    return float(stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift))


def detectable(error: float, freedom: int, comparisons: int) -> float:
    """The least effect that is resolved with a chance of 80 %, in the unit of its standard error."""
    if error == 0:
        return 0.0
    low, high = 0.0, error * float(stats.t.ppf(1 - (1 - LEVEL) / (2 * comparisons), freedom)) * 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, error, freedom, comparisons) < POWER else (low, middle)
    return high


def seeds_needed(effect: float, analysis: Analysis) -> int | None:
    """Seeds a row with which an effect of this size is resolved with a chance of 80 %; None beyond a thousand."""
    noise, comparisons = analysis.noise, max(len(analysis.estimates), 1)
    if noise is None:
        return None
    weights = max((list(e.effect.weights.values()) for e in analysis.estimates), key=lambda w: sum(x * x for x in w))
    rows = sum(not row.variant.reference for row in analysis.rows)
    for seeds in range(2, MOST_SEEDS + 1):
        freedom = (rows - 1) * (seeds - 1) if noise.paired else rows * (seeds - 1)
        error = noise.std * math.sqrt(sum(weight**2 for weight in weights) / seeds)
        if power(effect, error, freedom, comparisons) >= POWER:
            return seeds
    return None
