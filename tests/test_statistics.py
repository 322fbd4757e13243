"""Statistics, by simulation: intervals cover what they promise, and false alarms stay as rare as they promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from roadmap.record.study import Effect, Variant
from roadmap.report.statistics import (
    Analysis,
    Noise,
    Row,
    _estimates,
    detectable,
    estimate_noise,
    estimate_orders,
    holm,
    power,
    seeds_needed,
    standard_error,
)
from roadmap.sweep.design import orders

ROWS, SEEDS, STUDIES = 16, 3, 1000
EFFECTS = [Effect(f"r{i}", "", {f"r{i}": 1.0, f"r{i - 1}": -1.0}) for i in range(1, ROWS)]


def simulated(truth, seed_effect, seeds, random):
    """One study: rows with these true means, runs with a deviation of 1 and what their seed adds to all."""
    values = truth[:, None] + random.normal(0, 1, (len(truth), seeds)) + random.normal(0, seed_effect, seeds)
    noise = estimate_noise([dict(enumerate(row)) for row in values])
    counts = {f"r{i}": seeds for i in range(len(truth))}
    means = {f"r{i}": row.mean() for i, row in enumerate(values)}
    estimated = [sum(w * means[name] for name, w in effect.weights.items()) for effect in EFFECTS]
    return _estimates(EFFECTS, estimated, [standard_error(e.weights, counts, noise) for e in EFFECTS], noise), noise


@pytest.mark.parametrize(
    "seed_effect", [pytest.param(0.0, marks=pytest.mark.storm), 0.5, pytest.param(3.0, marks=pytest.mark.storm)]
)
def test_intervals_cover_and_false_alarms_are_rare(seed_effect, storm, figure):
    random, studies = np.random.default_rng(1), 10_000 if storm else 1000
    truth = np.zeros(ROWS)
    covered = alarms = paired = 0
    for _ in range(studies):
        found, noise = simulated(truth, seed_effect, SEEDS, random)
        covered += sum(e.interval[0] <= 0 <= e.interval[1] for e in found)
        alarms += any(e.resolved for e in found)
        paired += noise.paired
    coverage, family = covered / studies / len(EFFECTS), alarms / studies
    assert 0.94 <= coverage <= 0.96
    assert family < (0.05 if storm else 0.05 + 0.015)  # 1,000 studies are uncertain by 0.0135 (95 %), 10,000 by 0.0043
    assert (paired / studies > 0.9) == (seed_effect == 3.0)
    figure(f"seed effect {seed_effect}: coverage {coverage:.3f}, false alarms in {family:.3f} of the tables")


def test_where_some_effects_are_real_those_that_are_not_raise_no_alarm():
    random = np.random.default_rng(2)
    truth = np.cumsum([0.0] + [5.0 if i % 3 == 0 else 0.0 for i in range(1, ROWS)])
    real = np.diff(truth) != 0
    covered = alarms = seen = 0
    for _ in range(STUDIES):
        found, _ = simulated(truth, 0.0, SEEDS, random)
        covered += sum(e.interval[0] <= t <= e.interval[1] for e, t in zip(found, np.diff(truth), strict=True))
        alarms += any(e.resolved for e, is_real in zip(found, real, strict=True) if not is_real)
        seen += sum(e.resolved for e, is_real in zip(found, real, strict=True) if is_real)
    assert 0.94 <= covered / STUDIES / len(EFFECTS) <= 0.96
    assert alarms / STUDIES < 0.065
    assert seen / STUDIES / real.sum() > 0.95


def test_pairing_narrows_the_intervals_where_seeds_matter():
    random = np.random.default_rng(3)
    widths = {}
    for seed_effect in (0.0, 3.0):
        found = [simulated(np.zeros(ROWS), seed_effect, SEEDS, random)[0][0].half_width for _ in range(200)]
        widths[seed_effect] = np.mean(found)
    assert widths[3.0] < 1.15 * widths[0.0]


def test_rows_with_unequal_seeds_are_not_paired():
    rows = [{0: 1.0, 1: 12.0, 2: 3.0}, {0: 2.0, 1: 13.1}, {3: 5.0}, {}]
    noise = estimate_noise(rows)
    assert (noise.freedom, noise.paired, noise.seed_p) == (3, False, None)
    assert noise.std == pytest.approx(((np.var([1, 12, 3], ddof=1) * 2 + np.var([2, 13.1], ddof=1)) / 3) ** 0.5)
    assert estimate_noise([{0: 1.0}, {0: 2.0}]) is None


def test_the_paired_analysis_is_a_two_way_analysis_of_variance():
    """Its deviation is that of the residuals of least squares on rows and seeds."""
    random = np.random.default_rng(4)
    seeds = random.normal(0, 5, 8)
    values = np.stack([seeds + random.normal(mean, 1, 8) for mean in (0.0, 0.7, 0.2)])
    noise = estimate_noise([dict(enumerate(row)) for row in values])
    assert noise.paired
    design = np.concatenate([np.kron(np.eye(3), np.ones((8, 1))), np.kron(np.ones((3, 1)), np.eye(8))], axis=1)
    residuals = values.ravel() - design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    assert noise.freedom == 14
    assert noise.std == pytest.approx((residuals @ residuals / 14) ** 0.5)
    assert not estimate_noise([dict(enumerate(row)) for row in values[:2]]).paired  # two rows are too few to tell


def shapley(count, number):
    """Names of the rows of a study of sampled orders, and its effects."""
    names, rows = [f"c{i}" for i in range(count)], {}
    pairs = [(orders(names, number)[i], orders(names, number)[i + 1]) for i in range(0, number, 2)]
    parts = {name: [] for name in names}
    for pair in pairs:
        drawn = {name: {} for name in names}
        for order in pair:
            sets = [rows.setdefault(frozenset(order[:size]), f"r{len(rows)}") for size in range(count + 1)]
            for name, (before, after) in zip(order, pairwise(sets), strict=True):
                for row, weight in ((after, 0.5), (before, -0.5)):
                    drawn[name][row] = drawn[name].get(row, 0.0) + weight
        for name in names:
            parts[name].append(drawn[name])
    mean = lambda of: {row: sum(part.get(row, 0.0) for part in of) / len(of) for row in rows.values()}  # noqa: E731
    return list(rows.values()), [Effect(name, "", mean(of), of) for name, of in parts.items()]


@pytest.mark.parametrize("count", [3, 6])
def test_worths_from_sampled_orders_cover_and_their_false_alarms_are_rare(count, storm, figure):
    """Orders share runs: the more orders, the less the runs' noise shows in how they vary, and it must not be lost."""
    random, (names, effects) = np.random.default_rng(6), shapley(count, 32)
    covered = alarms = 0
    studies = 1000 if storm else 150
    for _ in range(studies):
        values = random.normal(0, 1, (len(names), 2))
        noise = estimate_noise([dict(enumerate(row)) for row in values])
        found = estimate_orders(effects, dict(zip(names, values.mean(1), strict=True)), dict.fromkeys(names, 2), noise)
        covered += sum(e.interval[0] <= 0 <= e.interval[1] for e in found)
        alarms += any(e.resolved for e in found)
    coverage, family = covered / studies / count, alarms / studies
    assert 0.93 < coverage < 0.985
    assert family < 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5
    figure(f"{count} changes on 32 orders: coverage {coverage:.3f}, false alarms in {family:.3f} of the tables")


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_power_is_that_of_a_simulation():
    random = np.random.default_rng(5)
    freedom, comparisons, error = 32, 15, 0.8
    limit = stats.t.ppf(1 - 0.025 / comparisons, freedom)
    for effect in (0.0, 1.5, 3.0):
        drawn = random.normal(effect, error, 40_000) / (error * np.sqrt(random.chisquare(freedom, 40_000) / freedom))
        assert power(effect, error, freedom, comparisons) == pytest.approx((abs(drawn) > limit).mean(), abs=0.01)
    least = detectable(error, freedom, comparisons)
    assert power(least, error, freedom, comparisons) == pytest.approx(0.8, abs=1e-6)
    assert power(1e6, 1e-6, 2, 15) == 1.0
    assert detectable(0.0, 3, 4) == 0.0


def test_the_seeds_that_a_wished_effect_needs_are_enough_and_one_less_is_not():
    estimates = tuple(_estimates(EFFECTS, [0.0] * 15, [1.0] * 15, Noise(1.0, 32)))
    rows = [Row(Variant(f"r{i}", "", "", reference=i == ROWS), (), (), {}, 0, None, None, None) for i in range(ROWS + 1)]
    analysis = Analysis(rows=tuple(rows), estimates=estimates, noise=Noise(1.0, 32), smallest=None)
    seeds = seeds_needed(1.0, analysis)
    at, below = (power(1.0, (2 / n) ** 0.5, ROWS * (n - 1), 15) for n in (seeds, seeds - 1))
    assert below < 0.8 <= at
    assert seeds_needed(0.001, analysis) is None
    assert seeds_needed(50.0, analysis) == 2
