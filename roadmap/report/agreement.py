"""Whether our differences go with the paper's: rank correlations over the steps, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from roadmap.paper.rows import paper_row, paper_scale
from roadmap.report.records import Study
from roadmap.report.statistics import LEVEL, Analysis

RESAMPLES = 2000
FEWEST = 5  # steps; below, no interval means anything


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
    if study.plan.kind != "roadmap":
        return None
    scale, variants = paper_scale(study.plan.scale.name), {variant.name: variant for variant in study.plan.variants}
    ours, theirs = [], []
    for estimate in analysis.estimates:
        variant = variants[estimate.effect.name]
        paper, before = paper_row(scale, variant.name), paper_row(scale, variant.parent or "")
        if paper and before:
            ours.append(estimate.value)
            theirs.append(paper.score - before.score)
    if len(ours) < FEWEST:
        return None
    pairs = np.array([ours, theirs])
    return Agreement(len(ours), _with_interval(stats.kendalltau, pairs), _with_interval(stats.spearmanr, pairs))


def _with_interval(correlate: Callable[..., Any], pairs: np.ndarray) -> Correlation:
    """The correlation over the steps, and the percentiles of it over steps drawn anew."""
    draw = np.random.default_rng(0)
    count = pairs.shape[1]
    drawn = [_of(correlate, pairs[:, draw.integers(count, size=count)]) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Correlation(_of(correlate, pairs), float(low), float(high))


def _of(correlate: Callable[..., Any], pairs: np.ndarray) -> float:
    if (pairs == pairs[:, :1]).all(axis=1).any():  # one step drawn many times has no rank
        return float("nan")
    return float(correlate(*pairs).statistic)


def agreement_note(study: Study, analysis: Analysis) -> list[str]:
    """The comparison in a sentence, for notes under a table."""
    found = agreement(study, analysis)
    if found is None:
        return []
    tau, rho = found.tau, found.rho
    return [
        f"Agreement with the paper's differences over {found.steps} steps: Kendall's tau {tau.value:+.2f} [{tau.low:+.2f}, "
        f"{tau.high:+.2f}], Spearman's rho {rho.value:+.2f} [{rho.low:+.2f}, {rho.high:+.2f}] (bootstrap over steps)."
    ]
