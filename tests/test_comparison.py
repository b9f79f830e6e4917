"""Pairs, all pairs, ranks, bootstrap and families: against independent libraries, loops and known cases."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from stored_runs import draw

from harness.bootstrap import _PoissonTables, paired_bootstrap
from harness.comparison import all_against, all_pairs, compare, detectable, holm, rank
from harness.family import family_effect, independent_groups, rank_agreement
from harness.simulation import World, simulate
from harness.stats import paired_difference
from harness.variance import ClusterSizes, SeedPool, cluster_variance, pool_seeds

FIELDS = ("value", "low", "high", "se", "df", "p")


def test_the_cluster_variance_is_that_of_statsmodels_for_equal_clusters() -> None:
    y = np.random.default_rng(0).random(300)
    labels = np.repeat(np.arange(60), 5)
    fit = sm.OLS(y, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": labels})
    # statsmodels' small-sample factor has (n − 1)/(n − k) besides, which is 1 for an intercept.
    assert cluster_variance(y, labels)[0] == pytest.approx(float(fit.bse[0]) ** 2)


def test_cr2_is_unbiased_for_unequal_clusters_where_the_plain_sandwich_is_not() -> None:
    sizes = np.array([40, 5, 5, 5, 5])
    labels = np.repeat(np.arange(5), sizes)
    rng = np.random.default_rng(1)
    ours, plain = [], []
    for _ in range(4000):
        y = rng.standard_normal(60)
        ours.append(cluster_variance(y, labels)[0])
        sums = np.bincount(labels, weights=y - y.mean())
        plain.append(5 / 4 * float(np.sum(sums**2)) / 60**2)
    assert np.mean(ours) == pytest.approx(1 / 60, rel=0.03)
    assert np.mean(plain) < 0.8 / 60


def test_degrees_of_freedom_are_those_of_the_quadratic_form() -> None:
    sizes = np.array([10, 3, 7, 2, 5])
    labels = np.repeat(np.arange(5), sizes)
    n = len(labels)
    of_cluster = np.eye(5)[labels].T
    residuals = np.eye(n) - 1 / n
    weights = 1 / (1 - sizes / n) / n**2
    form = (of_cluster @ residuals).T @ np.diag(weights) @ (of_cluster @ residuals)
    exact = np.trace(form) ** 2 / np.trace(form @ form)
    kish = n**2 / np.sum(sizes**2) - 1
    assert ClusterSizes.of(labels).df == pytest.approx(min(exact, kish))
    assert ClusterSizes.of(np.arange(50)).df == pytest.approx(49)


def test_flips_are_mcnemars_table() -> None:
    a, b = draw(1, seeds=1), draw(2, seeds=1)
    found = compare(a, b, np.arange(a.size))
    table = [[np.sum((a == x) & (b == y)) for y in (1, 0)] for x in (1, 0)]
    assert (found.only_a, found.only_b) == (table[0][1], table[1][0])
    # Asymptotically the paired t test and McNemar's test without correction are one.
    assert found.interval.p == pytest.approx(mcnemar(table, exact=False, correction=False).pvalue, rel=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_all_pairs_are_what_a_loop_over_pairs_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 40, 160)
    tables = [draw(seed * 10 + i, 0.5 + 0.05 * i, seeds=1 + i % 3, samples=160) for i in range(7)]
    tables.append(tables[0].copy())
    pool = pool_seeds(tables, clusters) if seed % 2 else None
    found = all_pairs(tables, clusters, pool)
    for i, j in combinations(range(8), 2):
        for x, y in ((i, j), (j, i)):
            want = paired_difference(tables[x], tables[y], clusters, pool)
            for name in FIELDS:
                got = getattr(found, name)[x, y]
                assert got == pytest.approx(getattr(want, name), rel=1e-9, abs=1e-9), (name, x, y)
    assert np.all(np.diag(found.p) == 1)


def test_all_pairs_need_two_clusters() -> None:
    with pytest.raises(ValueError, match="two clusters"):
        all_pairs([np.ones((1, 3)), np.zeros((1, 3))], np.zeros(3))


def test_ranks_hold_for_all_encoders_at_once() -> None:
    clusters = np.arange(2000)
    levels = (0.9, 0.7, 0.69, 0.3)
    tables = [draw(i, level, samples=2000) for i, level in enumerate(levels)]
    found = rank(all_pairs(tables, clusters))
    assert found.low.tolist() == [1, 2, 2, 4]
    assert found.high.tolist() == [1, 3, 3, 4]
    assert [set(group) for group in found.groups] == [{0}, {1, 2}, {3}]


def test_chains_of_ties_overlap_and_are_not_merged() -> None:
    clusters = np.arange(3000)
    tables = [draw(i, level, samples=3000) for i, level in enumerate((0.74, 0.71, 0.68))]
    found = rank(all_pairs(tables, clusters))
    assert [set(g) for g in found.groups] in ([{0, 1}, {1, 2}], [{0, 1, 2}])


def test_rank_intervals_cover_the_truth() -> None:
    clusters = np.repeat(np.arange(100), 3)
    wrong = 0
    for world in range(30):
        levels = np.linspace(0.55, 0.75, 6)
        rng = np.random.default_rng(world)
        tables = [(rng.random((3, 300)) < level).astype(float) for level in levels]
        found = rank(all_pairs(tables, clusters))
        truth = np.arange(6, 0, -1)
        wrong += bool(np.any((truth < found.low) | (truth > found.high)))
    assert wrong <= 4


@pytest.mark.parametrize("ps", [[0.01, 0.04, 0.03], [0.5], [], [0.001] * 4])
def test_holm_is_statsmodels(ps: list[float]) -> None:
    want = multipletests(ps, method="holm")[1] if ps else []
    assert holm(ps).tolist() == pytest.approx(list(want))


def test_the_detectable_difference_is_found_in_eighty_of_a_hundred() -> None:
    rng = np.random.default_rng(3)
    se, df = 0.01, 1e6
    found = rng.normal(detectable(se, df), se, 20_000)
    assert np.mean(found / se > scipy_stats.norm.ppf(0.975)) == pytest.approx(0.8, abs=0.01)
    assert detectable(float("inf"), 0) is None


def naive_bootstrap(difference: NDArray[Any], clusters: NDArray[Any], replicates: int) -> NDArray[Any]:
    rng = np.random.default_rng(5)
    groups = [np.flatnonzero(clusters == g) for g in np.unique(clusters)]
    means = []
    for _ in range(replicates):
        rows = np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))])
        means.append(difference[rows].mean())
    return np.array(means)


@pytest.mark.parametrize("levels", [2, 11])
def test_the_collapsed_bootstrap_is_the_clustered_one(levels: int) -> None:
    rng = np.random.default_rng(4)
    clusters = np.sort(rng.integers(0, 80, 400))
    shift = rng.integers(0, 2, 80)[clusters]
    a, b = (np.clip(rng.integers(0, levels, 400) - shift * k, 0, levels) / levels for k in (0, 1))
    found = paired_bootstrap(a, b, clusters, replicates=4000)
    means = naive_bootstrap(a - b, clusters, 4000)
    assert found.value == pytest.approx((a - b).mean())
    assert found.se == pytest.approx(means.std(ddof=1), rel=0.06)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=4e-3)
    assert found.num_cells <= 80


def test_looked_up_poisson_numbers_are_poisson() -> None:
    means, draws = np.array([0.0, 0.03, 0.9, 3.7, 3.7, 41.0, 300.5, 20_000.0]), 40_000
    found = _PoissonTables.of(means).draw(np.random.default_rng(5), draws)
    assert (found[0] == 0).all()
    for mean, numbers in zip(means[1:], found[1:], strict=True):
        edges = np.unique(scipy_stats.poisson.ppf(np.linspace(0.02, 0.98, 25), mean))
        expected = np.diff(scipy_stats.poisson.cdf(edges, mean), prepend=0.0, append=1.0) * draws
        observed = np.bincount(np.searchsorted(edges, numbers), minlength=len(edges) + 1)
        used = expected > 5
        chi2 = ((observed - expected)[used] ** 2 / expected[used]).sum()
        assert scipy_stats.chi2.sf(chi2, used.sum() - 1) > 1e-4, mean
        # The tails, which the classes above take together.
        beyond = (np.abs(numbers - mean) > 3.3 * np.sqrt(mean) + 1).sum()
        assert beyond <= 5 * (1 + draws * 2e-3), mean
    assert abs(np.corrcoef(found[3], found[4])[0, 1]) < 4 / np.sqrt(draws)


def test_numbers_of_many_equal_clusters_are_multinomial() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 2, 30_000), rng.integers(0, 2, 30_000)
    found = paired_bootstrap(a, b, np.arange(30_000), replicates=20_000)
    sd = (a - b).std() / np.sqrt(30_000)
    assert found.num_cells == 3
    assert found.se == pytest.approx(sd, rel=0.025)  # four standard errors of a deviation of 20,000
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * sd, rel=0.05)


def test_the_bootstrap_does_not_depend_on_cores_or_order(monkeypatch) -> None:
    rng = np.random.default_rng(6)
    a, b, clusters = rng.random(300), rng.random(300), rng.integers(0, 50, 300)
    first = paired_bootstrap(a, b, clusters, replicates=500)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert paired_bootstrap(a, b, clusters, replicates=500) == first
    order = rng.permutation(300)
    assert paired_bootstrap(a[order], b[order], clusters[order], replicates=500) == pytest.approx(first)
    with pytest.raises(ValueError, match="do not fit"):
        paired_bootstrap(a, b[:5], clusters)


def test_pairs_that_share_an_encoder_are_one_observation() -> None:
    pairs = [("a", "x"), ("b", "y"), ("c", "x"), ("b", "z"), ("d", "w")]
    assert independent_groups(pairs) == (
        (("a", "x"), ("c", "x")),
        (("b", "y"), ("b", "z")),
        (("d", "w"),),
    )


def test_the_pooled_effect_is_the_t_interval_over_pairs() -> None:
    values = np.array([0.02, 0.05, 0.03, 0.04, 0.01, 0.06])
    found = family_effect({(f"a{i}", f"b{i}"): v for i, v in enumerate(values)})
    want = scipy_stats.ttest_1samp(values, 0)
    interval = want.confidence_interval(0.95)
    assert found.pooled is not None
    assert (found.pooled.low, found.pooled.high) == pytest.approx((interval.low, interval.high))
    assert found.pooled.p == pytest.approx(want.pvalue)
    assert found.num_independent == 6
    assert len(found.leave_one_out) == 6
    assert found.holds_without_any


def test_four_pairs_are_not_pooled_and_eight_that_share_arms_are_not_five() -> None:
    assert family_effect({(f"a{i}", f"b{i}"): 0.1 for i in range(4)}).pooled is None
    sharing = {(f"a{i}", f"b{i % 4}"): 0.1 for i in range(8)}
    found = family_effect(sharing)
    assert (found.num_pairs, found.num_independent, found.pooled) == (8, 4, None)


def test_one_pair_can_carry_an_effect_and_leaving_it_out_shows_it() -> None:
    found = family_effect({(f"a{i}", f"b{i}"): v for i, v in enumerate([0.001, -0.002, 0.001, 0.0, 0.4])})
    assert found.pooled is not None
    assert not found.holds_without_any


def test_rank_agreement_is_spearmans_and_names_proven_flips() -> None:
    clusters = np.arange(2000)
    levels = {"a": (0.9, 0.3), "b": (0.8, 0.5), "c": (0.7, 0.6), "d": (0.6, 0.9), "e": (0.5, 0.85)}
    tables = [
        [draw(10 * k + i, pair[k], samples=2000) for i, pair in enumerate(levels.values())] for k in range(2)
    ]
    probe, other = (all_pairs(t, clusters) for t in tables)
    found = rank_agreement(list(levels), probe, other)
    means = [[t.mean() for t in side] for side in tables]
    assert found.correlation == pytest.approx(scipy_stats.spearmanr(*means).statistic)
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low <= found.correlation <= found.high <= 1
    assert ("a", "d") in found.flips
    assert ("d", "e") not in found.flips
    few = rank_agreement(["a", "b"], *(all_pairs(t[:2], clusters) for t in tables))
    assert (few.correlation, few.low) == (pytest.approx(-1), None)


WORLDS = [
    World(num_samples=200, cluster_size=5, num_seeds=3, seed_sd=0.03, lift=0.02),
    World(num_samples=500, cluster_size=1, num_seeds=1, seed_sd=0.01, pool=8, lift=0.02),
    World(num_samples=300, cluster_size=3, num_seeds=3, seed_sd=0.0, level=0.95, lift=0.0),
    World(num_samples=300, cluster_size=3, num_seeds=5, seed_sd=0.01, soft=True, lift=0.02),
]


@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_intervals_cover_and_naive_ones_do_not(number: int) -> None:
    """200 worlds: a true coverage of 95 % is seen above 91 % in all but one of a hundred runs."""
    found = simulate(WORLDS[number], 200, seed=number)
    for paired in (False, True):
        assert found["ours", paired].share >= 0.91
    assert found["items only", False].share <= found["ours", False].share


def test_a_true_null_is_rejected_as_rarely_as_said() -> None:
    found = simulate(WORLDS[2], 200, seed=9)
    assert found["ours", True].rejected <= 0.09


def test_a_pool_that_both_sides_share_counts_once() -> None:
    a, b = draw(1, seeds=1), draw(2, seeds=1)
    pool = SeedPool(0.5, 6.0, 0.5)
    found = paired_difference(a, b, np.arange(600), pool)
    # Seeds dominate: their common degrees of freedom are the pool's, not twice as many.
    assert 6 <= found.df < 7


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("num_clusters", [1, 40])
def test_all_against_one_is_the_paired_difference(pooled, seeds, num_clusters):
    rng = np.random.default_rng(seeds)
    shuffled = rng.integers(0, num_clusters, 120)
    tables = [(rng.random((seeds, 120)) < share).astype(float) for share in (0.2, 0.5, 0.9)]
    # One with the other's very answers, and one that differs from it everywhere by as much.
    other = np.ones((seeds, 120)) * 0.25
    tables += [other.copy(), other + 0.5]
    pool = pool_seeds(tables[:3], shuffled) if pooled else None
    found = all_against(tables, other, shuffled, pool)
    for table, got in zip(tables, found, strict=True):
        wanted = paired_difference(table, other, shuffled, pool, against=None)
        assert got[:5] == pytest.approx(wanted[:5], abs=1e-12)
        assert got.seeds_unknown == wanted.seeds_unknown
