"""How much the runs of each row vary, and what that makes of a weighted sum of the rows' means: arrays in, arrays out.

Rows differ in noise, some by a factor of eight, so each row's variance is its own: an effect's standard error is Welch's, its
degrees of freedom are Satterthwaite's. What a seed adds to all rows alike cancels in an effect, and must not widen its
interval: it is estimated from the *other* rows and taken out of the row first, always, whether seeds matter or not. With
fewer than five rows the others cannot tell it, and an effect of rows with the same seeds is that of its seeds' differences.

Values are (..., rows, seeds), NaN where there is no run; leading dimensions are studies, so that a simulation is one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, Any]

LEAST_ROWS = 5  # from which on the other rows tell what a seed adds to all
SURE = 0.97  # of Satterthwaite's degrees of freedom: with four or five runs a row, all of them are a little too many
NOTHING = 1e-9  # of a variance, left where only rounding is left: planted numbers, not those of runs


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise in a table of values (..., rows, seeds)."""

    values: Array
    grain: float = 0.0  # values are multiples of it: a share of so many images

    @cached_property
    def counts(self) -> Array:
        """Runs of each row, (..., rows)."""
        return np.isfinite(self.values).sum(-1)

    @property
    def few(self) -> bool:
        """Whether there are too few rows to tell what a seed adds to all of them."""
        return self.values.shape[-2] < LEAST_ROWS

    @cached_property
    def variances(self) -> Array:
        """Of a run of each row, what its seed adds to all rows taken out: (..., rows); NaN below two runs.

        Never below that of rounding to the grain: runs of equal score are not runs without noise.
        """
        alone = variance(self.values)
        rest = alone if self.few else variance(self.residuals)
        return np.maximum(np.where(rest > NOTHING * alone, rest, alone), self._rounding)

    @cached_property
    def residuals(self) -> Array:
        """What a run has beyond its row's mean and what its seed adds to all rows; NaN where there is no run."""
        return self.values if self.few else self.values - others(self._centred)

    @property
    def _rounding(self) -> float:
        return self.grain**2 / 12

    @cached_property
    def _centred(self) -> Array:
        """Values about their row's mean; NaN in rows of one run, which say nothing of seeds."""
        means = np.nansum(self.values, -1) / np.maximum(self.counts, 1)
        return np.where(self.counts[..., None] > 1, self.values - means[..., None], np.nan)

    @cached_property
    def of_seeds(self) -> Array:
        """The variance over seeds of what they add to all rows alike, (...); nought where that is not told apart."""
        if self.few:
            return np.zeros(self.values.shape[:-2])
        own = weights_of(self._centred)
        return np.nan_to_num(variance(_ratio(np.nansum(own * self._centred, -2), own.sum(-2))))

    def of_means(self) -> Array:
        """The variance of each row's mean, (..., rows)."""
        return self.variances / np.maximum(self.counts, 1)

    def spread(self, weights: Array) -> tuple[Array, Array]:
        """Standard errors of effects and their degrees of freedom.

        Args:
            weights: of the rows in each effect, (effects, rows); those of an effect add up to 0.

        Returns:
            Two arrays (..., effects); NaN where an effect has a row of fewer than two runs.

        """
        taken = weights != 0
        parts = np.where(taken, weights**2 * self.of_means()[..., None, :], 0.0)
        present = np.isfinite(self.values) / np.maximum(self.counts, 1)[..., None]
        shared = (np.matmul(weights, present) ** 2).sum(-1) * self.of_seeds[..., None]  # 0 where all rows have the same seeds
        amount = parts.sum(-1) + shared
        free, of_shared = np.maximum(self.counts - 1, 1)[..., None, :], max(self.values.shape[-1] - 1, 1)
        freedom = _ratio(amount**2, (parts**2 / free).sum(-1) + shared**2 / of_shared)
        freedom = SURE * _held(np.where(amount == 0, 1.0, freedom), taken, free)
        return self._paired(weights, np.sqrt(amount), freedom) if self.few else (np.sqrt(amount), freedom)

    def _paired(self, weights: Array, errors: Array, freedom: Array) -> tuple[Array, Array]:
        """The same from the differences of runs with the same seed, for effects whose rows all have the same seeds."""
        taken = weights[:, :, None] != 0
        values = np.where(taken, weights[:, :, None] * self.values[..., None, :, :], 0.0)
        differences = values.sum(-2)
        same = (np.isfinite(differences) == (taken & np.isfinite(values)).any(-2)).all(-1)
        counts = np.isfinite(differences).sum(-1)
        rounding = self._rounding * (weights**2).sum(-1)
        squares = np.maximum(variance(differences), rounding) / np.maximum(counts, 1)
        paired = same & (squares > NOTHING * errors**2)
        return np.where(paired, np.sqrt(squares), errors), np.where(paired, counts - 1, freedom)

    def drawn(self, weights: Array, count: int, random: np.random.Generator) -> Array:
        """What noise adds to effects of one study, drawn anew: Student's t for each row, (count, effects)."""
        students = random.standard_t(np.maximum(self.counts - 1, 1), (count, len(self.counts)))
        return (np.sqrt(np.nan_to_num(self.of_means())) * students) @ weights.T

    def drawn_along(self, weights: Array, normals: Array, random: np.random.Generator) -> Array:
        """The same from normal numbers (count, rows) of one's own, which may go together with those of another study."""
        free = np.maximum(self.counts - 1, 1)
        students = normals / np.sqrt(random.chisquare(free, normals.shape) / free)
        return (np.sqrt(np.nan_to_num(self.of_means())) * students) @ weights.T


def _held(freedom: Array, taken: Array, free: Array) -> Array:
    """Satterthwaite's degrees of freedom, held back where an effect's rows differ in their number of runs.

    They are too many where the noisy row has fewer runs (10 % of tables would have a false alarm, with three runs in every
    other row and five in the rest): the harmonic mean is taken with those of the fewest runs, a half for each row.
    """
    fewest, most = np.where(taken, free, np.inf).min(-1), np.where(taken, free, 0).max(-1)
    held = 2 / (1 / freedom + 2 / (fewest * taken.sum(-1)))
    return np.where(fewest < most, held, freedom)


def variance(values: Array) -> Array:
    """Of what there is along the last dimension, n - 1 in the divisor; NaN below two values."""
    counts = np.isfinite(values).sum(-1)
    means = np.nansum(values, -1) / np.maximum(counts, 1)
    squares = np.nansum((values - means[..., None]) ** 2, -1)
    return np.where(counts > 1, squares / np.maximum(counts - 1, 1), np.nan)


def others(centred: Array) -> Array:
    """What the other rows of a study say that a seed adds to all, for each value; nought where there are none.

    Their mean, in which a noisy row counts less: by one over its variance, to which four times that of a quiet row (the
    lower quartile) is added, as with three seeds a small variance is often one by chance. Those variances are taken beside the
    other rows' median first, so that a run that collapsed is no one else's noise.
    """
    own = weights_of(centred)
    total = own.sum(-2, keepdims=True)
    sums = np.nansum(own * centred, -2, keepdims=True) - own * np.nan_to_num(centred)
    return np.where(total - own > NOTHING * total, _ratio(sums, total - own), 0.0)


def weights_of(centred: Array) -> Array:
    """How much each value counts where rows are averaged, by its row's noise, (..., rows, seeds); nought where there is none."""
    found = variance(centred - _median_of_others(centred))
    quarter = np.maximum(np.isfinite(found).sum(-1, keepdims=True) - 1, 0) // 4
    quiet = np.take_along_axis(np.sort(found, -1), quarter, -1)
    weights = np.nan_to_num(1 / (found + np.where(quiet > 0, 4 * quiet, 1.0)))
    return np.where(np.isfinite(centred), weights[..., None], 0.0)


def _median_of_others(centred: Array) -> Array:
    """For each value the median of the other rows' values of its seed; nought where there are none."""
    ranked = np.sort(centred, axis=-2)  # NaN last
    rank = centred.argsort(axis=-2).argsort(axis=-2)
    present = np.isfinite(centred)
    count = present.sum(-2, keepdims=True) - present
    places = (np.maximum(count - 1, 0) // 2, count // 2)  # among the others
    low, high = (np.take_along_axis(ranked, np.minimum(at + (at >= rank), ranked.shape[-2] - 1), -2) for at in places)
    return np.where(count > 0, (low + high) / 2, 0.0)


def _ratio(one: Array, other: Array) -> Array:
    """One by the other; NaN where the other is 0."""
    return np.divide(one, other, out=np.full(np.broadcast(one, other).shape, np.nan), where=other != 0)


# --- tests -----------------------------------------------------------------------------------------------------------


def two_sided(values: Array, errors: Array, freedom: Array) -> Array:
    """Two-sided p of Student's t, (..., effects); certain where the runs do not vary at all."""
    certain = np.where(np.isnan(errors), np.nan, np.where(values == 0, 1.0, 0.0))
    return np.where(errors > 0, 2 * special.stdtr(freedom, -np.abs(_ratio(values, errors))), certain)


def half_widths(errors: Array, freedom: Array, level: float) -> Array:
    """Of Student's intervals."""
    return special.stdtrit(freedom, (1 + level) / 2) * errors


def holm(ps: Array) -> Array:
    """Holm's step-down correction along the last dimension; reject below the level, and at most that share of tables errs.

    NaN, where nothing was tested, stays and is not counted.
    """
    order = np.argsort(ps, -1)
    ranked = np.take_along_axis(ps, order, -1)
    left = np.isfinite(ps).sum(-1, keepdims=True) - np.arange(ps.shape[-1])
    worst = np.maximum.accumulate(np.minimum(ranked * left, 1.0), -1)
    corrected = np.empty_like(worst)
    np.put_along_axis(corrected, order, worst, -1)
    return corrected
