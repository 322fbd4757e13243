"""Statistics, by simulation: intervals cover what they promise, and false alarms stay as rare as they promise.

pytest tests/test_statistics.py --storm -k promise     # 10,000 studies each, with their figures
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from roadmap.record.study import Effect
from roadmap.report.agreement import RESAMPLES, agreement_of, kendall, spearman
from roadmap.report.noise import Noise, half_widths, holm, two_sided, variance
from roadmap.report.statistics import Analysis, Measured, Power, estimate_effects, power_of, seeds_needed
from roadmap.sweep.design import orders

ROWS = 16
NOISE = {  # standard deviations of runs, by row
    "equal": np.ones(ROWS),
    "two digits studies": np.array([1.5, 1.1, 1.6, 0.6, 0.5, 1.3, 4.1, 0.5, 1.3, 0.5, 1.7, 0.8, 0.7, 0.5, 1.5, 0.8]),
    "one row of four": np.where(np.arange(ROWS) == 6, 4.0, 1.0),
    "every other row of three": np.where(np.arange(ROWS) % 2, 3.0, 1.0),
    "the later half of three": np.where(np.arange(ROWS) < ROWS // 2, 1.0, 3.0),
}


def chain(rows=ROWS):
    """Each row against the one before it: (effects, rows)."""
    return np.eye(rows - 1, rows, 1) - np.eye(rows - 1, rows)


def simulated(noise, of_seeds, seeds, studies, random):
    """(studies, rows, seeds): no row differs; runs vary by their row's noise and by what their seed adds to all."""
    shape = (studies, len(noise), seeds)
    return random.normal(0, 1, shape) * noise[:, None] + random.normal(0, of_seeds, (studies, 1, seeds))


def found(values, weights, truth=0.0, rule=None):
    """Of each study and effect: whether the interval holds the truth, the corrected p, and the interval's half width."""
    means = np.nanmean(values, -1) @ weights.T
    errors, freedom = (rule or own)(values, weights)
    half = half_widths(errors, freedom, 0.95)
    return np.abs(means - truth) <= half, holm(two_sided(means, errors, freedom)), half


def own(values, weights):
    return Noise(values).spread(weights)


def pooled(values, weights):
    """The rule that does not hold: one variance for all rows."""
    of_all = variance(values).mean(-1, keepdims=True)
    freedom = values.shape[-2] * (values.shape[-1] - 1.0)
    return np.sqrt(of_all * (weights**2).sum(-1) / values.shape[-1]), np.full(len(weights), freedom)


@pytest.mark.parametrize("of_seeds", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("noise", NOISE)
def test_intervals_and_verdicts_hold_what_they_promise(noise, seeds, of_seeds, storm, figure):
    random, studies = np.random.default_rng(1), 10_000 if storm else 1000
    values = simulated(NOISE[noise], of_seeds, seeds, studies, random)
    covered, p, half = found(values, chain())
    rows, alarms = covered.mean(0), (p.min(1) < 0.05).mean()
    slack = 3.5 * (0.05 * 0.95 / studies) ** 0.5  # of the least and the most of fifteen rows
    assert rows.min() > 0.93 - slack * (not storm)
    assert rows.max() < 0.97 + slack
    assert alarms < 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5
    old, old_p, old_half = found(values, chain(), rule=pooled)
    said = f"rows cover {rows.min():.3f} to {rows.max():.3f}, false alarms in {alarms:.1%} of tables"
    before = f"pooled: {old.mean(0).min():.3f} to {old.mean(0).max():.3f}, {(old_p.min(1) < 0.05).mean():.1%}"
    width = f"width {half.mean() / old_half.mean():.2f}"
    figure(f"{noise}, {seeds} seeds, of which each adds {of_seeds:g} to all rows: {said}; {before}; {width}")


def test_one_variance_for_all_rows_would_not_hold():
    """That these simulations see a rule that errs."""
    values = simulated(NOISE["two digits studies"], 0.0, 3, 1000, np.random.default_rng(1))
    covered, p, _ = found(values, chain(), rule=pooled)
    assert covered.mean(0).min() < 0.8
    assert (p.min(1) < 0.05).mean() > 0.1


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_a_run_in_twenty_that_collapses_raises_no_alarm_and_is_no_other_row_s_noise(seeds, storm, figure):
    """Rows of some 90 %; a run that collapses is at 10 %, whatever its row."""
    random, studies = np.random.default_rng(2), 10_000 if storm else 1000
    values = simulated(NOISE["equal"], 1.0, seeds, studies, random)
    collapsed = random.random(values.shape) < 0.05
    covered, p, half = found(np.where(collapsed, -80.0, values), chain())
    whole = ~(collapsed.any(-1) @ (chain().T != 0))
    _, _, without = found(values, chain())
    assert covered.mean(0).min() > 0.93
    assert (p.min(1) < 0.05).mean() < 0.05
    wider = half[whole].mean() / without[whole].mean()
    assert wider < 1.1  # with ten seeds too, where four rows in ten have such a run
    figure(
        f"{seeds} seeds: effects without a collapsed run {whole.mean():.0%}, their intervals {wider:.2f} times as wide as "
        f"without any; the others' are ± {np.median(half[~whole]):.0f} points, and {(p[~whole] < 0.05).mean():.2%} are resolved; "
        f"rows cover {covered.mean(0).min():.3f} or more, false alarms in {(p.min(1) < 0.05).mean():.1%} of tables"
    )


@pytest.mark.parametrize("of_seeds", [0.0, 3.0])
def test_rows_that_lack_runs(of_seeds, storm, figure):
    """Unequal n: some rows have fewer seeds, and not the same ones. Intervals are too wide there rather than too narrow."""
    random, studies = np.random.default_rng(3), 10_000 if storm else 1000
    values = simulated(NOISE["two digits studies"], of_seeds, 5, studies, random)
    for row, seed in ((2, 0), (2, 1), (5, 3), (8, 4), (8, 0), (9, 1), (13, 2)):
        values[:, row, seed] = np.nan
    covered, p, _ = found(values, chain())
    rows, alarms = covered.mean(0), (p.min(1) < 0.05).mean()
    assert 0.93 - 0.02 * (not storm) < rows.min()
    assert alarms < 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5
    figure(f"lacking runs, a seed adds {of_seeds:g}: rows cover {rows.min():.3f} to {rows.max():.3f}, false alarms {alarms:.1%}")


@pytest.mark.parametrize("noisy", [0, 1])
def test_where_every_other_row_lacks_runs(noisy):
    """Satterthwaite's degrees of freedom alone would raise false alarms in 10 % of tables."""
    values = simulated(np.where(np.arange(ROWS) % 2 == noisy, 3.0, 1.0), 0.0, 5, 1000, np.random.default_rng(12))
    values[:, ::2, 3:] = np.nan
    covered, p, _ = found(values, chain())
    assert covered.mean(0).min() > 0.92
    assert (p.min(1) < 0.05).mean() < 0.065


@pytest.mark.parametrize("rows", [2, 3, 4])
def test_few_rows_are_compared_seed_by_seed(rows):
    """That is Student's test of the differences, whatever the rows' noise and the seeds' part."""
    random = np.random.default_rng(4)
    values = simulated(np.array([1.0, 4.0, 0.3, 1.0][:rows]), 5.0, 4, 1000, random)
    errors, freedom = own(values, chain(rows))
    one = stats.ttest_1samp(values[0, 1] - values[0, 0], 0)
    assert two_sided(np.array(values[0, 1].mean() - values[0, 0].mean()), errors[0, 0], freedom[0, 0]) == pytest.approx(
        one.pvalue
    )
    covered, _, _ = found(values, chain(rows))
    assert np.abs(covered.mean(0) - 0.95).max() < 0.025
    unequal = values[:1].copy()
    unequal[0, 0, 1] = np.nan
    welch = stats.ttest_ind(unequal[0, 1], unequal[0, 0], equal_var=False, nan_policy="omit")
    error, df = own(unequal, chain(rows))
    assert (np.nanmean(unequal[0, 1]) - np.nanmean(unequal[0, 0])) / error[0, 0] == pytest.approx(welch.statistic)
    assert 2 < df[0, 0] < welch.df


def test_where_some_effects_are_real_those_that_are_not_raise_no_alarm():
    random, studies = np.random.default_rng(5), 1000
    steps = np.array([9.0 if i % 3 == 0 else 0.0 for i in range(1, ROWS)])
    values = simulated(NOISE["equal"], 1.0, 5, studies, random) + np.cumsum([0.0, *steps])[:, None]
    covered, p, _ = found(values, chain(), steps)
    assert 0.94 <= covered.mean() <= 0.975
    assert (p[:, steps == 0].min(1) < 0.05).mean() < 0.065
    assert (p[:, steps != 0] < 0.05).mean() > 0.95


def test_interactions_of_rows_with_unequal_noise(storm):
    """A pair of changes beyond each alone: four rows an effect."""
    random, studies = np.random.default_rng(6), 10_000 if storm else 1000
    weights = np.zeros((6, 12))
    for line, (i, j) in zip(weights, [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)], strict=True):
        line[[0, i, j, 4 + i + j]] = 1, -1, -1, 1
    for of_seeds in (0.0, 3.0):
        covered, p, _ = found(simulated(NOISE["two digits studies"][:12], of_seeds, 3, studies, random), weights)
        assert 0.93 - 0.02 * (not storm) < covered.mean(0).min()
        assert covered.mean(0).max() < 0.985
        assert (p.min(1) < 0.05).mean() < 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5


def test_seeds_that_matter_do_not_widen_the_intervals():
    widths = {}
    for of_seeds in (0.0, 3.0):
        _, _, half = found(simulated(NOISE["equal"], of_seeds, 3, 500, np.random.default_rng(3)), chain())
        widths[of_seeds] = half.mean()
    assert widths[3.0] == pytest.approx(widths[0.0], rel=0.05)


def measured(values):
    return Measured(Noise(np.asarray(values, dtype=float)), {f"r{i}": i for i in range(len(values))})


def test_a_row_of_one_run_has_no_interval_and_is_no_comparison():
    nan = np.nan
    rows = measured([[1, 2, 4], [5, nan, nan], [2, 3, 3], [1, 4, 4], [3, 3, 9], [7, 8, 8]])
    effects = [Effect(f"r{i}", "", {f"r{i}": 1.0, f"r{i - 1}": -1.0}) for i in range(1, 6)]
    estimates = estimate_effects(effects, {f"r{i}": float(np.nanmean(row)) for i, row in enumerate(rows.noise.values)}, rows)
    assert [estimate.half_width is None for estimate in estimates] == [True, True, False, False, False]
    assert [estimate.resolved for estimate in estimates] == [None, None, False, False, False]
    least = min(estimates[2:], key=lambda estimate: estimate.p)
    assert least.p_holm == pytest.approx(3 * least.p)


@pytest.mark.parametrize("rows", [2, ROWS])
def test_rows_whose_runs_all_score_the_same_are_not_without_noise(rows):
    """Three runs of 99 and three of 100 right in a hundred images: chance does that."""
    values = np.where(np.arange(rows)[:, None] % 2, 99.0, 100.0) + np.zeros(3)
    weights = chain(rows)
    for grain, resolved in ((0.0, True), (1.0, False)):
        errors, freedom = Noise(values, grain).spread(weights)
        p = holm(two_sided(values.mean(-1) @ weights.T, errors, freedom))
        assert ((p < 0.05) == resolved).all()


def test_planted_numbers_without_noise_beside_the_seeds_keep_their_rows_deviation():
    rows = measured(np.arange(6.0)[:, None] * 10 + [50.0, 51.0, 52.0])
    assert rows.noise.variances == pytest.approx(1.0)


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
@pytest.mark.parametrize("noise", ["equal", "two digits studies"])
def test_worths_from_sampled_orders_cover_and_their_false_alarms_are_rare(count, noise, storm, figure):
    """Orders share runs: the more orders, the less the runs' noise shows in how they vary, and it must not be lost."""
    random, (names, effects) = np.random.default_rng(7), shapley(count, 32)
    covered = alarms = 0
    studies = 1000 if storm else 100
    for values in simulated(np.resize(NOISE[noise], len(names)), 2.0, 3, studies, random):
        rows = Measured(Noise(values), {name: i for i, name in enumerate(names)})
        estimates = estimate_effects(effects, dict(zip(names, values.mean(1).tolist(), strict=True)), rows)
        covered += sum(e.interval[0] <= 0 <= e.interval[1] for e in estimates)
        alarms += any(e.resolved for e in estimates)
    coverage, family = covered / studies / count, alarms / studies
    assert 0.93 - 0.02 * (not storm) < coverage < 0.985
    assert family < 0.05 + 2 * (0.05 * 0.95 / studies) ** 0.5
    figure(f"{count} changes on 32 orders, {noise}: coverage {coverage:.3f}, false alarms in {family:.3f} of the tables")


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([[0.9, 0.8], [0.01, 0.04]])).tolist() == [[1.0, 1.0], [0.02, 0.04]]
    assert holm(np.array([])).tolist() == []
    assert holm(np.array([0.01, np.nan, 0.02])) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)


@pytest.mark.parametrize("seeds", [3, 5])
def test_power_is_that_of_studies(seeds):
    """The first effect of a study is told from 0 as often as is said."""
    found_power = Power.of([1.0, -1.0], 1.0, seeds, 15)
    effect = found_power.smallest
    assert found_power(effect) == pytest.approx(0.8, abs=1e-6)
    for size, most in ((effect, 0.06), (0.5 * effect, 0.06), (0.0, 0.002)):
        values = simulated(NOISE["equal"], 0.0, seeds, 4000, np.random.default_rng(8))
        values[:, 1] += size
        errors, freedom = own(values, chain())
        p = two_sided(values.mean(-1) @ chain().T, errors, freedom)[:, 0]
        assert found_power(size) == pytest.approx((p < 0.05 / 15).mean(), abs=most)
    assert Power.of([1.0, -1.0], 1e-6, 3, 15)(1e6) == 1.0
    assert Power.of([1.0, -1.0], 0.0, 3, 15).smallest == pytest.approx(0.0, abs=1e-9)


def test_the_seeds_that_a_wished_effect_needs_are_enough_and_one_less_is_not():
    effects = tuple(Effect(f"r{i}", "", {f"r{i}": 1.0, f"r{i - 1}": -1.0}) for i in range(1, ROWS))
    values = np.random.default_rng(9).normal(0, 1, (ROWS, 3))
    analysis = Analysis((), (), effects, measured(values), None)
    seeds = seeds_needed(2.0, analysis)
    assert power_of(analysis, seeds - 1)(2.0) < 0.8 <= power_of(analysis, seeds)(2.0)
    assert seeds_needed(0.001, analysis) is None
    assert seeds_needed(1e4, analysis) == 2


def test_rank_correlations_are_scipy_s():
    random = np.random.default_rng(10)
    one, other = random.integers(0, 6, (50, 9)), random.integers(0, 4, (50, 9))
    assert kendall(one, other) == pytest.approx([stats.kendalltau(*pair).statistic for pair in zip(one, other, strict=True)])
    assert spearman(one, other) == pytest.approx([stats.spearmanr(*pair).statistic for pair in zip(one, other, strict=True)])
    assert np.isnan(kendall(np.ones(5), np.arange(5)))


@pytest.mark.parametrize(("correlation", "noise"), [(0.0, 0.3), (0.0, 1.0), (0.6, 0.3), (0.6, 1.0), (0.9, 1.0)])
def test_the_interval_of_an_agreement_holds_that_of_steps_like_these(correlation, noise, storm, figure):
    """Of true differences, whose deviation is 1, with a paper's; ours have a standard error of `noise` beside."""
    random, studies, seeds = np.random.default_rng(11), 1000 if storm else 100, 3
    true = {"tau": 2 / np.pi * np.arcsin(correlation), "rho": 6 / np.pi * np.arcsin(correlation / 2)}
    covered = dict.fromkeys(true, 0)
    for values in simulated(np.full(ROWS, noise * (seeds / 2) ** 0.5), 0.0, seeds, studies, random):
        steps, theirs = random.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], ROWS - 1).T
        drawn = Noise(values).drawn(chain(), RESAMPLES // 5, random)
        agreed = agreement_of(steps + chain() @ values.mean(1), theirs, drawn)
        for name, value in true.items():
            covered[name] += getattr(agreed, name).low <= value <= getattr(agreed, name).high
    shares = ", ".join(f"{name} {count / studies:.3f}" for name, count in covered.items())
    figure(f"agreement {correlation}, noise {noise}: intervals cover {shares}")
    least = 0.92 if correlation < 0.9 else 0.9  # as much noise as there are effects hides how strongly they agree
    assert all(count / studies > least - 0.03 * (not storm) for count in covered.values())
