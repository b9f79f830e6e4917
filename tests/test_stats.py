"""Intervals: known constants, relations that must hold, and coverage by simulation."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats  # type: ignore[import-untyped]

from harness import bootstrap, comparison, family, stats, variance
from harness.stats import estimate, paired_difference
from harness.variance import FEW_SEEDS, SeedPool, pool_seeds, seed_variance


def draw(seed: int, seeds: int = 3, clusters: int = 60, size: int = 4) -> tuple[NDArray[Any], NDArray[Any]]:
    """Soft scores with seed, cluster and sample noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(clusters), size)
    level = 0.6 + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.15, clusters)[labels]
    return np.clip(level + rng.normal(0, 0.2, (seeds, clusters * size)), 0, 1), labels


def test_the_doctests_hold() -> None:
    results = [doctest.testmod(module) for module in (stats, variance, comparison, family, bootstrap)]
    assert sum(r.attempted for r in results) >= 25
    assert sum(r.failed for r in results) == 0


def test_singleton_clusters_and_one_seed_give_the_textbook_t_interval() -> None:
    scores = draw(0, seeds=1, clusters=5000, size=1)[0]
    n = scores.size
    got = estimate(scores, np.arange(n))
    low, high = scipy_stats.t.interval(0.95, n - 1, scores.mean(), scipy_stats.sem(scores[0]))
    assert (got.value, got.se, got.df) == pytest.approx((scores.mean(), scipy_stats.sem(scores[0]), n - 1))
    # Joined with Wilson's, which moves towards one half.
    assert got.low <= low
    assert got.high >= high
    assert got.high - got.low < 1.05 * (high - low)
    assert got.seeds_unknown


def test_the_paired_difference_of_singletons_is_the_paired_t_interval() -> None:
    a, b = draw(1, seeds=1, clusters=5000)[0], draw(2, seeds=1, clusters=5000)[0]
    got = paired_difference(a, b, np.arange(a.size))
    test = scipy_stats.ttest_rel(a[0], b[0])
    want = test.confidence_interval(0.95)
    assert (got.low, got.high) == pytest.approx((want.low, want.high), rel=1e-2)
    assert (got.low, got.high) != (want.high, want.low)
    assert got.low <= want.low < want.high <= got.high
    assert got.p == pytest.approx(test.pvalue, rel=1e-2)
    assert got.p >= test.pvalue


@pytest.mark.parametrize(("right", "trials"), [(0, 10), (3, 10), (10, 10), (1, 1000)])
def test_wilson_agrees_with_scipy(right: int, trials: int) -> None:
    want = scipy_stats.binomtest(right, trials).proportion_ci(method="wilson")
    assert stats.wilson(right / trials, trials) == pytest.approx((want.low, want.high))


def test_order_of_samples_and_seeds_and_names_of_clusters_do_not_matter() -> None:
    scores, labels = draw(3)
    order = np.random.default_rng(0).permutation(scores.shape[1])
    names = np.array([f"image {label}" for label in labels])
    want = estimate(scores, labels)
    assert estimate(scores[::-1][:, order], names[order]) == pytest.approx(want)
    other = draw(4)[0]
    want = paired_difference(scores, other, labels)
    assert paired_difference(scores[:, order], other[:, order], labels[order]) == pytest.approx(want)


def test_swapping_the_sides_mirrors_the_difference() -> None:
    (a, labels), (b, _) = draw(5), draw(6)
    forth, back = paired_difference(a, b, labels), paired_difference(b, a, labels)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_four_times_the_clusters_halve_the_sample_error() -> None:
    scores, labels = draw(7, seeds=1)
    four = np.tile(scores, (1, 4))
    labels_four = np.concatenate([labels + k * 1000 for k in range(4)])
    ratio = estimate(four, labels_four).se / estimate(scores, labels).se
    groups = 60
    assert ratio == pytest.approx(0.5 * math.sqrt(4 * (groups - 1) / (4 * groups - 1)))


def test_correlated_clusters_widen_and_repeating_a_sample_adds_nothing() -> None:
    scores, labels = draw(8, seeds=1)
    clustered, naive = estimate(scores, labels), estimate(scores, np.arange(labels.size))
    assert clustered.se > 1.2 * naive.se
    assert clustered.df < naive.df
    first = scores[:, ::4]
    thrice = estimate(np.repeat(first, 3, 1), np.repeat(np.arange(60), 3))
    assert thrice == pytest.approx(estimate(first, np.arange(60)))


def test_one_large_cluster_costs_degrees_of_freedom() -> None:
    labels = np.concatenate([np.zeros(50, int), np.arange(1, 51)])
    even = np.repeat(np.arange(50), 2)
    scores = draw(9, seeds=1, clusters=100, size=1)[0]
    assert estimate(scores, labels).df < estimate(scores, even).df


def test_seed_noise_widens_and_the_pool_stands_in_for_a_single_seed() -> None:
    scores, labels = draw(10)
    one = estimate(scores[:1], labels)
    room = scores[:1].mean() * (1 - scores[:1].mean())
    pooled = estimate(scores[:1], labels, SeedPool(0.02**2 / room, 20, 0.02**2 / room))
    assert one.seeds_unknown
    assert not pooled.seeds_unknown
    assert pooled.se == pytest.approx(math.hypot(one.se, 0.02))
    room = scores.mean() * (1 - scores.mean())
    few = estimate(scores, labels, SeedPool(0.02**2 / room, 20))
    assert few.se**2 == pytest.approx(estimate(scores, labels, SeedPool(0, 20)).se ** 2 + 0.02**2 / 3)


def test_many_seeds_speak_for_themselves() -> None:
    scores, labels = draw(11, seeds=FEW_SEEDS)
    assert estimate(scores, labels, SeedPool(0.1, 99)) == estimate(scores, labels)


def test_the_pool_weighs_encoders_by_their_seeds() -> None:
    (three, labels), two, one = draw(12), draw(13, seeds=2)[0], draw(14, seeds=1)[0]
    pool = pool_seeds([three, two, one], labels)
    parts = seed_variance(three, labels), seed_variance(two, labels)
    room = [table.mean() * (1 - table.mean()) for table in (three, two)]
    weight = 2 * room[0] + room[1]
    want = (2 * parts[0].variance + parts[1].variance) / weight
    assert pool[:2] == pytest.approx((want, weight**2 / (2 * room[0] ** 2 + room[1] ** 2)))
    nothing = pool_seeds([one], labels)
    assert nothing == (0, 0, 0)
    assert estimate(one, draw(14)[1], nothing).seeds_unknown


@pytest.mark.parametrize("level", [0.0, 1.0, 0.3])
def test_a_constant_is_never_certain(level: float) -> None:
    got = estimate(np.full((3, 200), level), np.repeat(np.arange(100), 2))
    assert got.high - got.low > 0.01
    assert 0 <= got.low <= level <= got.high <= 1
    if level in (0, 1):
        assert (got.low, got.high) == pytest.approx(stats.wilson(level, 100))


def test_equal_answers_leave_room_for_an_overlooked_difference() -> None:
    scores, labels = draw(15, seeds=1)
    same = paired_difference(scores, scores, labels)
    assert same.value == 0
    assert 0 < same.high == -same.low < 0.1
    all_won = paired_difference(np.ones((1, 60)), np.zeros((1, 60)), np.arange(60))
    assert all_won.high == 1
    assert 0.8 < all_won.low < 1


def test_an_encoder_that_reads_nothing_borrows_no_noise() -> None:
    """Two encoders whose seeds differ by forty points, and one at 0: its interval stays narrow."""
    rng = np.random.default_rng(18)
    levels = rng.uniform(0.4, 0.9, (2, 3, 1))
    noisy = [(rng.random((3, 1000)) < level).astype(float) for level in levels]
    labels = np.arange(1000)
    pool = pool_seeds([*noisy, np.zeros((3, 1000))], labels)
    nearly = np.zeros((3, 1000))
    nearly[1, 5] = 1
    assert estimate(np.zeros((3, 1000)), labels, pool).high < 0.005
    assert estimate(nearly, labels, pool).high < 0.02
    assert estimate(noisy[0][:1], labels, pool).high - estimate(noisy[0][:1], labels, pool).low > 0.2


def test_one_cluster_says_nothing() -> None:
    got = estimate(np.array([[0.0, 1.0]]), np.array(["a", "a"]))
    assert (got.low, got.high, got.se) == (0, 1, math.inf)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([[0.5, math.nan]], [0, 1]), ([[0.5, 1.5]], [0, 1]), ([[0.5]], [0, 1]), ([[]], [])],
)
def test_bad_scores_are_refused(scores: list[list[float]], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="score"):
        estimate(np.array(scores), np.array(labels))


@pytest.mark.parametrize(("seeds", "pool_of"), [(3, 0), (3, 8), (1, 8)])
def test_intervals_cover_with_seeds_and_clusters(seeds: int, pool_of: int) -> None:
    """0/1 scores, seed SD 2 points, 80 images of 4 questions: truth is covered in ≥ 93 % of 600 worlds."""
    rng = np.random.default_rng(16 + seeds + pool_of)
    labels = np.repeat(np.arange(80), 4)

    def encoder(count: int) -> NDArray[Any]:
        shares = np.clip(0.65 + rng.normal(0, 0.02, (count, 1)) + rng.uniform(-0.3, 0.3, 80)[labels], 0, 1)
        return (rng.random((count, 320)) < shares).astype(float)

    covered = naive = 0
    for _ in range(600):
        pool = pool_seeds([encoder(3) for _ in range(pool_of)], labels) if pool_of else None
        scores = encoder(seeds)
        got = estimate(scores, labels, pool)
        covered += got.low <= 0.65 <= got.high
        item = estimate(scores.reshape(-1), np.arange(scores.size))
        naive += item.low <= 0.65 <= item.high
    assert covered / 600 >= 0.93
    assert naive < covered


def test_paired_intervals_cover() -> None:
    rng = np.random.default_rng(17)
    labels = np.repeat(np.arange(80), 4)
    covered = 0
    for _ in range(600):
        share = 0.6 + rng.uniform(-0.3, 0.3, 80)[labels]
        shares = [share + lift + rng.normal(0, 0.02, (3, 1)) for lift in (0.05, 0)]
        a, b = ((rng.random((3, 320)) < each).astype(float) for each in shares)
        got = paired_difference(a, b, labels)
        covered += got.low <= 0.05 <= got.high
    assert covered / 600 >= 0.93
