"""Intervals that include training noise: clusters and seeds, crossed. numpy, scipy and statsmodels only.

The model of one cell (an encoder on a task), for seed s and sample i of cluster g(i):

    y[s, i] = mean + seed[s] + cluster[g(i)] + sample[i] + rest[s, i]

Seeds are drawn anew for each encoder (nested in it) and every seed answers every sample (crossed with
clusters). The components of the variance of the grand mean are estimated one by one and added:

    samples: cluster-robust variance of the seed-averaged scores (Liang & Zeger 1986; CR2 of Bell & McCaffrey
             2002), `rest` included, G - 1 degrees of freedom or fewer
    seeds:   variance between the S seed means less what `rest` explains of it (the two-way correction of
             Cameron, Gelbach & Miller 2011), divided by S, S - 1 degrees of freedom or the pool's

The interval is value ± the larger of (a) t(f) · sqrt(sum of the components), f after Satterthwaite (1946),
and (b), for each component V alone, sqrt(t(f)² · V + z² · the others): that one estimated with its few
degrees of freedom, the others as if they were known (Banerjee 1960, Sankhya 22:319, one component at a
time). (a) by itself covers 92 % where three seeds make up most of the variance: by chance their estimate is
often small, f then large, and the interval short twice over. (b) mends that; docs/statistics.md measures
both. p values are those of the same rule turned round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.variance import (
    Component,
    Floats,
    SeedPart,
    SeedPool,
    Size,
    cluster_variance,
    joined,
    seed_part,
)


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
    p: float = 1.0
    """Of a difference: two-sided p of no difference. 1 for an estimate, which is held against nothing."""


def null_unknown(got: Interval) -> dict[str, float | None]:
    """Columns of an interval. SQL has NULL for "unknown"; an infinity would poison every sum it meets."""
    known = math.isfinite(got.se)
    return {
        "ci_low": got.low,
        "ci_high": got.high,
        "se": got.se if known else None,
        "df": got.df if known else None,
    }


class Limits(NamedTuple):
    """Interval, standard error, degrees of freedom and p of many values at once; each (…)."""

    low: Any
    high: Any
    se: Any
    df: Any
    p: Any


def estimate(
    scores: NDArray[Any],
    clusters: NDArray[Any],
    seed_pool: SeedPool | None = None,
    level: float = 0.95,
) -> Interval:
    """Mean over seeds and samples with its t interval, clipped to [0, 1].

    See the module's text. The t interval is joined with Wilson's (1927) for as many independent trials as the
    samples are worth: near 0 and 1 the t interval is too far out, and 1,000 right of 1,000 is never
    "exactly 1".

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
    seeds = seed_part(table, clusters, seed_pool)
    got = limits(value, [Component(samples, samples_df), seeds.component], level, against=None)
    low, high = float(got.low), float(got.high)
    half = float(special.stdtrit(max(samples_df, 1.0), 0.5 + level / 2)) * math.sqrt(samples)
    trials = effective_trials(value, half, num_clusters, level)
    wilson_low, wilson_high = wilson(value, trials, level)
    low, high = min(low, wilson_low), max(high, wilson_high)
    return Interval(value, max(low, 0.0), min(high, 1.0), float(got.se), float(got.df), not seeds.known)


def paired_difference(
    a: NDArray[Any],
    b: NDArray[Any],
    clusters: NDArray[Any],
    seed_pool: SeedPool | None = None,
    level: float = 0.95,
    against: float | None = 0.0,
) -> Interval:
    """Difference a − b of two encoders on the same samples, clipped to [-1, 1].

    Samples are paired: the cluster-robust variance is that of the per-sample differences of seed averages.
    Seeds are not: seed 0 of one encoder has nothing in common with seed 0 of another, so both seed components
    are added. For small numbers see `difference_limits`.

    Args:
        a: (seeds, samples) or (samples,), fractions 0-1.
        b: likewise, its samples in the same order; the number of seeds may differ.
        clusters: (samples,).
        seed_pool: as in `estimate`, for both sides.
        level: coverage of the interval.
        against: as in `difference_limits`; with None the interval's p is 1 and means nothing.

    Raises:
        ValueError: as in `estimate`, or the numbers of samples differ.

    >>> a, b = np.array([[1.0, 1, 1, 0]]), np.array([[1.0, 0, 1, 0]])
    >>> paired_difference(a, b, np.arange(4)).value
    0.25
    >>> same = paired_difference(a, a, np.arange(4))
    >>> same.value, same.low == -same.high, same.high > 0, same.seeds_unknown
    (0.0, True, True, True)
    """
    return interval_of(difference_parts(a, b, clusters, seed_pool), level, against)


class DifferenceParts(NamedTuple):
    """What the interval of a paired difference is made of."""

    value: float
    samples: Component
    size: Size
    seeds: list[Component]
    known: bool
    """Whether the training noise of both sides is known."""
    sides: tuple[SeedPart, SeedPart] | None = None
    """What `seeds` was joined from, to say what more seeds of one side would do."""


def difference_parts(
    a: NDArray[Any],
    b: NDArray[Any],
    clusters: NDArray[Any],
    seed_pool: SeedPool | None = None,
    pool_b: SeedPool | Literal["same"] | None = "same",
) -> DifferenceParts:
    """The difference a − b and the components of its variance.

    Args:
        a: as in `paired_difference`.
        b: likewise.
        clusters: likewise.
        seed_pool: likewise, for both sides.
        pool_b: for `b`, where it is another.

    Raises:
        ValueError: as in `estimate`, or the numbers of samples differ.
    """
    left, right = _score_table(a, clusters), _score_table(b, clusters)
    value = float(left.mean() - right.mean())
    samples, samples_df, num_clusters = cluster_variance(left.mean(axis=0) - right.mean(axis=0), clusters)
    pools = (seed_pool, seed_pool if pool_b == "same" else pool_b)
    ours, theirs = (seed_part(*side) for side in ((left, clusters, pools[0]), (right, clusters, pools[1])))
    size = Size(left.shape[1], num_clusters)
    known = bool(ours.known and theirs.known)
    found = Component(samples, samples_df)
    return DifferenceParts(value, found, size, joined(ours, theirs), known, (ours, theirs))


def interval_of(parts: DifferenceParts, level: float = 0.95, against: float | None = 0.0) -> Interval:
    """The interval, and p of the difference `against`, that the parts make."""
    found = difference_limits(*parts[:4], level=level, against=against)
    low, high, se, df, p = (float(x) for x in found)
    return Interval(parts.value, low, high, se, df, not parts.known, p)


def difference_limits(
    value: Any,
    samples: Component,
    num: Size,
    seeds: Sequence[Component],
    *,
    level: float = 0.95,
    against: float | None = 0.0,
) -> Limits:
    """Interval and p of paired differences; the arithmetic of `paired_difference`, on one or on many.

    The t interval is joined with that of Agresti & Min (2005, Statistics in Medicine 24:729), who add half a
    pair to each cell of the 2 × 2 table: two samples more, of differences 0 and, half each, ±1, here as
    clusters of their own. With thousands of samples that changes nothing; with tens it keeps few discordant
    samples from looking like certainty. Where no difference varies at all, room is left for as many differing
    clusters as may have been overlooked (Wilson's bound for none in G).

    Args:
        value: (…) differences, -1 to 1.
        samples: variance of `value` from the drawn clusters, and degrees of freedom, each (…).
        num: samples and clusters behind `value`.
        seeds: components of the seeds, each (…).
        level: coverage.
        against: the difference that p is of; None: no p is wanted, which saves most of the time.

    Returns:
        Limits of shape (…), clipped to [-1, 1].
    """
    plain = limits(value, [samples, *seeds], level, against)
    more = num.samples + 2
    centre = value * num.samples / more
    variance = samples.variance * (num.samples / more) ** 2 + (1 + 2 * centre**2) / more**2
    careful = limits(centre, [Component(variance, samples.df), *seeds], level, against)
    still = np.asarray(samples.variance) == 0
    overlooked = np.where(still, wilson(0.0, num.clusters, level)[1], 0.0) if np.any(still) else 0.0
    low = np.minimum(np.minimum(plain.low, careful.low), value - overlooked * (1 + value))
    high = np.maximum(np.maximum(plain.high, careful.high), value + overlooked * (1 - value))
    p = np.maximum(plain.p, careful.p)
    if against is not None:
        # Where room was left for what may have been overlooked, p must not be surer than the interval.
        p = np.where((low <= against) & (against <= high), np.maximum(p, 1 - level), p)
    return Limits(np.maximum(low, -1.0), np.minimum(high, 1.0), plain.se, plain.df, p)


def limits(
    value: Any, components: Sequence[Component], level: float = 0.95, against: float | None = 0.0
) -> Limits:
    """Interval of a mean whose variance is a sum, and its two-sided p; see the module's text.

    Args:
        value: (…).
        components: each (…) or scalar; a variance may be 0, and infinite where it is unknown.
        level: coverage.
        against: the value that p is of; None: p is left at 1.

    Returns:
        Limits of shape (…), not clipped.

    >>> got = limits(1.0, [Component(0.04, 10.0)])
    >>> round(float(got.high), 4), round(float(got.df), 6)
    (1.4456, 10.0)
    >>> noisy, sure = Component(0.04, 2.0), Component(0.0001, 999.0)
    >>> bool(limits(0.0, [noisy, sure]).high >= limits(0.0, [noisy]).high)
    True
    """
    shape = np.shape(value)
    parts = [(np.broadcast_to(c.variance, shape), np.broadcast_to(c.df, shape)) for c in components]
    total = np.sum([variance for variance, _ in parts], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.zeros(shape)
        for part in components:
            square = part.variance if part.mean_square is None else part.mean_square
            weight = weight + np.asarray(square) ** 2 / part.df
        df = np.where(total > 0, total**2 / weight, np.max([f for _, f in parts], axis=0))
    known = np.isfinite(total)
    df = np.where(known, np.maximum(df, 1.0), 1.0)
    error = np.sqrt(np.where(known, total, 1.0))
    half = special.stdtrit(df, 0.5 + level / 2) * error
    p = np.ones(shape) if against is None else _p_together(np.abs(np.asarray(value) - against), error, df)
    z2 = float(special.ndtri(0.5 + level / 2)) ** 2
    for part in components:
        variance = np.where(known, part.variance, 0.0)
        counts = variance > 0
        if not np.any(counts):
            continue
        rest, freedom = np.where(known, total, 0.0) - variance, _own_df(part)
        alone = special.stdtrit(freedom, 0.5 + level / 2) ** 2 * variance + z2 * rest
        half = np.maximum(half, np.where(counts, np.sqrt(alone), 0.0))
        if against is not None:
            gap = np.abs(np.asarray(value) - against)
            p = np.maximum(p, np.where(counts, _p_alone(gap, variance, rest, freedom), 0.0))
    half, p = np.where(known, half, np.inf), np.where(known, p, 1.0)
    se, df = np.where(known, np.sqrt(total), np.inf), np.where(known, df, 0.0)
    return Limits(value - half, value + half, se, df, p)


def _p_together(gap: Any, error: Any, df: Any) -> Any:
    """Two-sided p of rule (a)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.where(error > 0, -gap / error, np.where(gap == 0, 0.0, -np.inf))
    return 2 * special.stdtr(df, away)


def _own_df(part: Component) -> Any:
    """Degrees of freedom of one component: fewer where it is what a subtraction left, two at the least."""
    if part.mean_square is None:
        return part.df
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(np.asarray(part.mean_square) > 0, np.asarray(part.variance) / part.mean_square, 1.0)
    return np.minimum(part.df, np.maximum(part.df * left**2, 2.0))


def _p_alone(gap: Any, variance: Any, rest: Any, freedom: Any) -> Any:
    """The p at which t(p)² · variance + z(p)² · rest is gap²: rule (b) turned round; 1e-12 at the least.

    By the Illinois method (Dowell & Jarratt 1971, BIT 11:168) on the logarithms of both sides over
    u = √(−2 ln p), where they are nearly straight: fourteen steps find ln p to 1e-11.
    """
    wanted = np.log(np.maximum(gap, np.finfo(np.float64).tiny))

    def over(u: Any) -> Any:
        tail = np.exp(-u * u / 2) / 2
        reached = special.stdtrit(freedom, tail) ** 2 * variance + special.ndtri(tail) ** 2 * rest
        return np.log(reached) / 2 - wanted

    low = np.full(np.shape(gap), 1e-4)
    high = np.full(np.shape(gap), math.sqrt(-2 * math.log(1e-12)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        below, above = over(low), over(high)
        end = np.where(above <= 0, high, np.where(below >= 0, 0.0, np.nan))
        middle, last = low, np.zeros(np.shape(gap))
        for _ in range(14):
            middle = (low * above - high * below) / (above - below)
            middle = np.where(np.isfinite(middle), middle, (low + high) / 2)
            here = over(middle)
            short = here < 0
            # An end that stays twice counts for half, so that it moves too.
            above = np.where(short & (last < 0), above / 2, np.where(short, above, here))
            below = np.where(~short & (last > 0), below / 2, np.where(short, here, below))
            low, high = np.where(short, middle, low), np.where(short, high, middle)
            last = np.where(short, -1.0, 1.0)
    found = np.where(np.isnan(end), middle, end)
    return np.exp(-found * found / 2)


def effective_trials(value: float, half: float, num_clusters: int, level: float = 0.95) -> float:
    """Independent trials whose normal interval would be as wide: share·(1 − share)·(z/half)².

    The effective sample size of Korn & Graubard (1998, Survey Methodology 24:193); soft scores and several
    seeds make it larger than n, clusters smaller. Where nothing varies, nothing tells the design's effect,
    and clusters count.
    """
    if half == 0:
        return float(num_clusters)
    if not math.isfinite(half):
        return 0.0
    return value * (1 - value) * (float(special.ndtri(0.5 + level / 2)) / half) ** 2


def wilson(share: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share (Wilson 1927); (0, 1) without trials. statsmodels computes it.

    >>> tuple(round(x, 4) for x in wilson(1.0, 10))
    (0.7225, 1.0)
    """
    from statsmodels.stats.proportion import proportion_confint

    if trials == 0:
        return 0.0, 1.0
    low, high = proportion_confint(share * trials, trials, alpha=1 - level, method="wilson")
    return (0.0 if share == 0 else float(low)), (1.0 if share == 1 else float(high))


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
