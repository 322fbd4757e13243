"""Whether our differences go with the paper's: rank correlations over the steps, with intervals from redrawn steps and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadmap.paper.rows import HEADING
from roadmap.report.noise import Array
from roadmap.report.published import beside, published_difference
from roadmap.report.records import Study
from roadmap.report.statistics import LEVEL, Analysis, written_interval

RESAMPLES = 2000
FEWEST = 5  # steps; below, no interval means anything
DIGITS = 9  # after the point: beyond them, differences of means that are equal differ by rounding


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """Rank correlations between our effects and the paper's, over the steps that both have."""

    steps: int
    tau: Correlation  # Kendall
    rho: Correlation  # Spearman


def agreement(study: Study, analysis: Analysis) -> Agreement | None:
    """Compare the differences of the roadmap's steps to their parents; None where there are too few or other studies."""
    if study.plan.kind != "roadmap" or analysis.measured is None:
        return None
    ours, theirs = [], []
    for estimate in analysis.estimates:
        published = published_difference(study.plan, study.plan.row(estimate.effect.name).variant)
        if published is not None and estimate.half_width is not None:
            ours.append(estimate)
            theirs.append(round(published, 2))  # as printed: equal differences are ties
    if len(ours) < FEWEST:
        return None
    weights = analysis.measured.weights([estimate.effect.weights for estimate in ours])
    noise = analysis.measured.noise.drawn(weights, RESAMPLES, np.random.default_rng(1))
    return agreement_of(np.array([estimate.value for estimate in ours]), np.array(theirs), noise)


def agreement_of(ours: Array, theirs: Array, noise: Array, beside: Array | float = 0.0) -> Agreement | None:
    """Agreement of differences (steps,) with others, where what the noise may add to ours is (RESAMPLES, steps), as to theirs.

    None where all of one side are equal, as where all runs are at chance: they have no ranks.

    The interval is for the steps' true differences, and for steps like these. Steps are drawn anew, and noise is added to each
    once more. That noise pulls a correlation towards 0 (or up, where both sides' is drawn together), as that of the study has
    done already: so much is given back.
    """
    known = [side.round(DIGITS) for side in (ours, theirs)]
    if any(np.ptp(side) == 0 for side in known):
        return None
    drawn = np.random.default_rng(0).integers(len(ours), size=(len(noise), len(ours)))
    noisy = ours + noise, theirs + np.zeros_like(noise) + beside
    again = [np.take_along_axis(side, drawn, -1).round(DIGITS) for side in noisy]
    found = [_with_interval(correlate(*known), correlate(*again), len(ours)) for correlate in (kendall, spearman)]
    return Agreement(len(ours), *found)


def _with_interval(value: Array, again: Array, steps: int) -> Correlation:
    """A correlation and its 95 % interval, from those of studies drawn anew, which vary too little by 1 - 1/steps."""
    mean = np.nanmean(again)
    about = (np.nanquantile(again, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - mean) * (steps / (steps - 1)) ** 0.5
    low, high = np.clip(value + (value - mean) + about, -1, 1)
    return Correlation(float(value), float(low), float(high))


def kendall(one: Array, other: Array) -> Array:
    """Kendall's tau-b along the last dimension; NaN where all values of one are equal."""
    first, second = map(_order, (one, other))
    return _normed((first * second).sum((-1, -2)), (first**2).sum((-1, -2)), (second**2).sum((-1, -2)))


def spearman(one: Array, other: Array) -> Array:
    """Spearman's rho along the last dimension; NaN where all values of one are equal."""
    first, second = (_order(values).sum(-1) for values in (one, other))  # twice the ranks about their mean
    return _normed((first * second).sum(-1), (first**2).sum(-1), (second**2).sum(-1))


def _order(values: Array) -> Array:
    """For each value 1, 0 or -1 beside each other one: (..., n, n)."""
    return np.sign(values[..., :, None] - values[..., None, :])


def _normed(product: Array, one: Array, other: Array) -> Array:
    size = np.sqrt(one * other)
    return np.divide(product, size, out=np.full(np.shape(size), np.nan), where=size > 0)


def agreement_note(study: Study, analysis: Analysis) -> list[str]:
    """The comparison in a sentence, for notes under a table."""
    found = agreement(study, analysis)
    if found is None:
        return []
    tau, rho, whose = found.tau, found.rho, "the published" if study.plan.published else "the paper's"
    of_what = "" if beside(study.plan) else f" in {HEADING.split(',')[0]} on ImageNet-1K"
    return [
        f"Agreement with {whose} differences{of_what} over {found.steps} steps: Kendall's tau "
        f"{written_interval(tau.value, tau.low, tau.high)}, Spearman's rho {written_interval(rho.value, rho.low, rho.high)} "
        "(95 % intervals: steps and noise drawn anew)."
    ]
