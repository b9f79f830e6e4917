"""Intervals that include training noise: clusters and seeds, crossed. numpy and scipy only.

The model of one cell (an encoder on a task), for seed s and sample i of cluster g(i):

    y[s, i] = mean + seed[s] + cluster[g(i)] + sample[i] + rest[s, i]

Seeds are drawn anew for each encoder (nested in it) and every seed answers every sample (crossed with
clusters). The two components of the variance of the grand mean are estimated one by one and added:

    samples: cluster-robust variance of the seed-averaged scores (Liang & Zeger 1986, the sandwich for a mean,
             with the G/(G-1) correction of Cameron & Miller 2015, eq. 12)
    seeds:   variance between the S seed means, divided by S

`rest` enters both, so the sum is a little too large in expectation. Cameron, Gelbach & Miller (2011) subtract
it; with three seeds that difference is too noisy to be worth having. Degrees of freedom: Satterthwaite's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

FEW_SEEDS = 8
"""From this many seeds on an encoder's own seed variance is used instead of the pool's."""
FEW_EVENTS = 5
"""Below this many expected successes or failures (in clusters) the normal approximation is not trusted."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate with its interval, in the unit of the scores."""

    value: float
    low: float
    high: float
    se: float
    """Standard error; infinite where fewer than two clusters leave it unknown."""
    df: float
    """Satterthwaite degrees of freedom."""
    seeds_unknown: bool = False
    """True when one seed and no pool leave the training noise out of the interval."""


class SeedVariance(NamedTuple):
    """Variance of one seed's mean score, and its degrees of freedom (0: unknown)."""

    variance: float
    df: float


def estimate(
    scores: NDArray[Any],
    clusters: NDArray[Any],
    seed_pool: SeedVariance | None = None,
    level: float = 0.95,
) -> Interval:
    """Mean over seeds and samples with its t interval, clipped to [0, 1].

    value ± t(df) · sqrt(V_samples + V_seeds), see the module's text. Where fewer than `FEW_EVENTS` clusters'
    worth of successes or failures were seen, or nothing varies at all, the interval is widened to hold
    Wilson's (1927) score interval with the clusters as trials: 1,000 right of 1,000 is never "exactly 1".

    Args:
        scores: (seeds, samples) or (samples,), fractions 0-1, no NaN.
        clusters: (samples,) image or video of each sample, any dtype that sorts.
        seed_pool: seed variance pooled over encoders; used while this one has fewer than `FEW_SEEDS` seeds.
        level: coverage of the interval.

    Raises:
        ValueError: shapes disagree, nothing to average, or a score is NaN or outside 0-1.

    >>> cell = estimate(np.array([[1, 0, 1, 1], [1, 0, 1, 0]]), np.array([0, 0, 1, 1]))
    >>> cell.value, cell.df < 3, cell.low, cell.high
    (0.625, True, 0.0, 1.0)
    >>> perfect = estimate(np.ones((3, 1000)), np.arange(1000))
    >>> perfect.high, round(perfect.low, 4), perfect.seeds_unknown
    (1.0, 0.9962, False)
    """
    table = _score_table(scores, clusters)
    value = float(table.mean())
    samples, samples_df, num_clusters = cluster_variance(table.mean(axis=0), clusters)
    seeds, known = _seed_component(table, seed_pool)
    se, df = _combine([(samples, samples_df), *seeds])
    low, high = _t_limits(value, se, df, level)
    if num_clusters * min(value, 1 - value) < FEW_EVENTS or se == 0:
        wilson_low, wilson_high = wilson(value, num_clusters, level)
        low, high = min(low, wilson_low), max(high, wilson_high)
    return Interval(value, max(low, 0.0), min(high, 1.0), se, df, seeds_unknown=not known)


def paired_difference(
    a: NDArray[Any],
    b: NDArray[Any],
    clusters: NDArray[Any],
    seed_pool: SeedVariance | None = None,
    level: float = 0.95,
) -> Interval:
    """Difference a − b of two encoders on the same samples, clipped to [-1, 1].

    Samples are paired: the cluster-robust variance is that of the per-sample differences of seed averages.
    Seeds are not: seed 0 of one encoder has nothing in common with seed 0 of another, so both seed components
    are added. Where no difference varies, the interval allows for differing clusters that were not drawn.

    Args:
        a: (seeds, samples) or (samples,), fractions 0-1.
        b: likewise, its samples in the same order; the number of seeds may differ.
        clusters: (samples,).
        seed_pool: as in `estimate`, for both sides.
        level: coverage of the interval.

    Raises:
        ValueError: as in `estimate`, or the numbers of samples differ.

    >>> a, b = np.array([[1.0, 1, 1, 0]]), np.array([[1.0, 0, 1, 0]])
    >>> paired_difference(a, b, np.arange(4)).value
    0.25
    >>> same = paired_difference(a, a, np.arange(4))
    >>> same.value, same.low == -same.high, same.high > 0, same.seeds_unknown
    (0.0, True, True, True)
    """
    left, right = _score_table(a, clusters), _score_table(b, clusters)
    value = float(left.mean() - right.mean())
    samples, samples_df, num_clusters = cluster_variance(left.mean(axis=0) - right.mean(axis=0), clusters)
    seeds_left, known_left = _seed_component(left, seed_pool)
    seeds_right, known_right = _seed_component(right, seed_pool)
    se, df = _combine([(samples, samples_df), *seeds_left, *seeds_right])
    low, high = _t_limits(value, se, df, level)
    if samples == 0:
        overlooked = wilson(0.0, num_clusters, level)[1]
        low, high = min(low, value - overlooked * (1 + value)), max(high, value + overlooked * (1 - value))
    return Interval(value, max(low, -1.0), min(high, 1.0), se, df, not (known_left and known_right))


def cluster_variance(per_sample: NDArray[Any], clusters: NDArray[Any]) -> tuple[float, float, int]:
    """Cluster-robust variance of a mean: G/(G-1) · Σ_g (Σ_{i in g} (y_i − ȳ))² / n².

    With one sample a cluster this is the textbook s²/n. Degrees of freedom are the effective number of
    clusters (Σ n_g)² / Σ n_g² (Kish 1965) less one: G − 1 for equal clusters, fewer when a few are large.

    Args:
        per_sample: (samples,) values.
        clusters: (samples,) labels.

    Returns:
        variance, degrees of freedom, number of clusters G; variance is infinite when G < 2.

    >>> y = np.array([0.0, 1.0, 1.0, 0.0])
    >>> variance, df, clusters = cluster_variance(y, np.arange(4))
    >>> round(variance, 6) == round(float(y.var(ddof=1)) / 4, 6), round(df, 9), clusters
    (True, 3.0, 4)
    """
    values = np.asarray(per_sample, dtype=np.float64)
    member = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(member).astype(np.float64)
    num_clusters = len(sizes)
    if num_clusters < 2:
        return math.inf, 0.0, num_clusters
    # A constant column must come out as exactly 0: the callers branch on it, and rounding would hide it.
    centred = values - values.mean() if np.ptp(values) > 0 else np.zeros_like(values)
    sums = np.bincount(member, weights=centred)
    variance = num_clusters / (num_clusters - 1) * float(np.sum(sums**2)) / len(values) ** 2
    return variance, max(float(sizes.sum() ** 2 / np.sum(sizes**2)) - 1, 1.0), num_clusters


def seed_variance(scores: NDArray[Any]) -> SeedVariance:
    """Variance between the means of the seeds of one encoder, S − 1 degrees of freedom.

    Args:
        scores: (seeds, samples).

    >>> seed_variance(np.array([[1.0, 0.0], [1.0, 1.0]]))
    SeedVariance(variance=0.125, df=1.0)
    """
    means = np.asarray(scores, dtype=np.float64).mean(axis=1)
    if len(means) < 2:
        return SeedVariance(0.0, 0.0)
    return SeedVariance(float(means.var(ddof=1)) if np.ptp(means) > 0 else 0.0, len(means) - 1.0)


def pooled_seed_variance(encoders: Sequence[NDArray[Any]]) -> SeedVariance:
    """Seed variance pooled over encoders of one task: Σ df·variance / Σ df (the pooled variance of ANOVA).

    Args:
        encoders: one (seeds, samples) array an encoder; those with one seed add nothing.

    >>> pooled_seed_variance([np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [0.0, 0.0]])])
    SeedVariance(variance=0.0625, df=2.0)
    """
    parts = [seed_variance(scores) for scores in encoders]
    df = sum(part.df for part in parts)
    return SeedVariance(sum(part.df * part.variance for part in parts) / df if df else 0.0, df)


def wilson(share: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share (Wilson 1927); (0, 1) without trials.

    >>> tuple(round(x, 4) for x in wilson(1.0, 10))
    (0.7225, 1.0)
    """
    if trials == 0:
        return 0.0, 1.0
    z2 = float(special.ndtri(0.5 + level / 2)) ** 2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return (0.0 if share == 0 else max(centre - half, 0.0)), (1.0 if share == 1 else min(centre + half, 1.0))


def _score_table(scores: NDArray[Any], clusters: NDArray[Any]) -> Floats:
    """Scores as (seeds, samples) float64, checked."""
    table = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if table.ndim != 2 or table.shape[1] != len(clusters):
        raise ValueError(f"scores {table.shape} do not fit {len(clusters)} cluster labels")
    if table.size == 0:
        raise ValueError("no scores to average")
    if not bool(np.all((table >= 0) & (table <= 1))):
        raise ValueError("every score must be a number between 0 and 1")
    return table


def _seed_component(table: Floats, pool: SeedVariance | None) -> tuple[list[tuple[float, float]], bool]:
    """The seeds' share of the variance of the mean as [(variance, df)], and whether it is known at all."""
    num_seeds = len(table)
    use_pool = pool is not None and pool.df > 0 and num_seeds < FEW_SEEDS
    found = pool if use_pool and pool is not None else seed_variance(table)
    return ([(found.variance / num_seeds, found.df)], True) if found.df > 0 else ([], False)


def _combine(components: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error and degrees of freedom (Σ V)² / Σ V²/df (Satterthwaite 1946)."""
    total = sum(variance for variance, _ in components)
    if not math.isfinite(total):
        return math.inf, 0.0
    weight = sum(variance**2 / df for variance, df in components if variance > 0)
    return math.sqrt(total), (total**2 / weight if weight > 0 else min(df for _, df in components))


def _t_limits(value: float, se: float, df: float, level: float) -> tuple[float, float]:
    """Value ± t · se; everything when the standard error is unknown."""
    if not math.isfinite(se):
        return -math.inf, math.inf
    half = float(special.stdtrit(df, 0.5 + level / 2)) * se
    return value - half, value + half
