"""The parts of the variance of a mean score: clusters of samples, and seeds. numpy only.

The model is in `harness.stats`, which makes intervals of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FEW_SEEDS = 8
"""From this many seeds on an encoder's own seed variance is used instead of the pool's."""

CONSTANT = 1e-12
"""Values that differ by no more than this are equal but for rounding."""

Floats = NDArray[np.float64]


class Size(NamedTuple):
    """How much a mean rests on."""

    samples: int
    clusters: int


class Component(NamedTuple):
    """One part of the variance of a mean; arrays of one shape where many are handled at once."""

    variance: Any
    df: Any
    mean_square: Any = None
    """What `variance` was made from by subtraction, where it was: its noise is that of this. None: itself."""


class SeedVariance(NamedTuple):
    """Variance of the seeds' own effect on a mean score, and its degrees of freedom (0: unknown)."""

    variance: float
    """May come out negative by chance, as a difference of two estimates; it then counts as 0."""
    df: float
    total: float = 0.0
    """Variance between the seeds' means, `rest` included: what `variance` was estimated from."""


class SeedPool(NamedTuple):
    """Seed variance pooled over encoders, as a share of p(1 − p), the most a score of mean p can vary."""

    ratio: float
    """Of the seeds' own effect; may come out negative by chance and then counts as 0."""
    df: float
    """Degrees of freedom; 0: unknown."""
    total: float = 0.0
    """Of the seeds' means, `rest` included: what `ratio` was estimated from."""


class SeedPart(NamedTuple):
    """The seeds' share of the variance of one encoder's mean, or of many at once: each (…)."""

    component: Component
    pooled: Any
    """Whether it comes from the pool; the parts of two encoders are then one estimate, not two."""
    known: Any
    """False: one seed and no pool. The component is 0."""


def cluster_variance(per_sample: NDArray[Any], clusters: NDArray[Any]) -> tuple[float, float, int]:
    """Cluster-robust variance of a mean: Σ_g (Σ_{i in g} (y_i − ȳ))² / (1 − n_g/n) / n².

    This is CR2 of Bell & McCaffrey (2002) for an intercept, unbiased for independent samples; with clusters
    of one size it is the sandwich with the factor G/(G − 1), with one sample a cluster the textbook s²/n.
    For the degrees of freedom see `ClusterSizes.df`.

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
    sizes = ClusterSizes.of(clusters)
    if len(sizes.counts) < 2:
        return math.inf, 0.0, len(sizes.counts)
    return variance_of(values, sizes), sizes.df, len(sizes.counts)


def variance_of(values: Floats, sizes: ClusterSizes) -> float:
    """The variance of `cluster_variance`, for (samples,) values of at least two clusters."""
    if np.ptp(values) <= CONSTANT:
        return 0.0  # exactly: the callers branch on it, and rounding would hide it
    sums = np.bincount(sizes.member, weights=values - values.mean())
    return float(np.sum(sums**2 * sizes.weights))


class ClusterSizes(NamedTuple):
    """What of the clusters alone enters a variance."""

    member: NDArray[np.intp]
    """(samples,) number of each sample's cluster."""
    counts: Floats
    """(clusters,) samples each."""
    weights: Floats
    """(clusters,) weight of a squared sum of centred values: 1 / (1 − n_g/n) / n²."""

    @classmethod
    def of(cls, clusters: NDArray[Any]) -> ClusterSizes:
        """Count labels of any dtype that sorts, (samples,)."""
        member = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
        counts = np.bincount(member).astype(np.float64)
        num_samples = len(member)
        with np.errstate(divide="ignore"):
            weights = 1 / (1 - counts / num_samples) / num_samples**2
        return cls(member, counts, weights)

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance: G − 1 for equal clusters, fewer when a few are large.

        The smaller of Bell & McCaffrey's, (tr B)²/tr(B²) with B the quadratic form of the variance under
        independent samples, and of the effective number of clusters (Σ n_g)²/Σ n_g² (Kish 1965) less one,
        which is what counts where samples of one cluster agree.
        """
        share = self.counts / self.counts.sum()
        cross = share**2 / (1 - share)
        own = float(np.sum(share**2))
        spread = own + float(np.sum(cross)) ** 2 - float(np.sum(cross**2))
        return max(min(1 / spread, 1 / own - 1), 1.0)


def seed_variance(scores: NDArray[Any], clusters: NDArray[Any]) -> SeedVariance:
    """Variance of the seeds' own effect, S − 1 degrees of freedom.

    The variance between the S seed means less what `rest`, the part of a seed's answers that differs from
    sample to sample, explains of it: Σ_s Σ_g (Σ_{i in g} r[s, i])² / ((S − 1) n²) · G/(G − 1) with r the
    residuals of the two-way layout seeds × samples. It is in the samples' component already.

    Args:
        scores: (seeds, samples).
        clusters: (samples,).

    >>> constant = np.array([[0.0, 0.0], [0.5, 0.5]])
    >>> seed_variance(constant, np.arange(2))
    SeedVariance(variance=0.125, df=1.0, total=0.125)
    """
    table = np.asarray(scores, dtype=np.float64)
    num_seeds, num_samples = table.shape
    if num_seeds < 2:
        return SeedVariance(0.0, 0.0)
    means = table.mean(axis=1)
    if np.ptp(table, axis=0).max() <= CONSTANT:
        return SeedVariance(0.0, num_seeds - 1.0)  # exactly, or rounding would hide it
    member = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
    averages = table.mean(axis=0)
    num_clusters = int(member.max()) + 1
    rest = 0.0
    for row, mean in zip(table, means, strict=True):
        residuals = (row - mean) - (averages - averages.mean())
        rest += float(np.sum(np.bincount(member, weights=residuals) ** 2))
    rest *= num_clusters / max(num_clusters - 1, 1) / ((num_seeds - 1) * num_samples**2)
    total = float(means.var(ddof=1))
    return SeedVariance(total - rest, num_seeds - 1.0, total)


def pool_seeds(encoders: Sequence[NDArray[Any]], clusters: NDArray[Any]) -> SeedPool:
    """Seed variance pooled over encoders of one task, as a share of p(1 − p).

    Σ df·variance / Σ df·p(1 − p): an encoder that reads nothing has nothing to vary in, and one whose seeds
    differ by twenty points must not lend it these. So an overdispersion is pooled, one for all encoders of a
    task (Williams 1982, Applied Statistics 31:144), and each takes its own variance from it. Degrees of
    freedom: (Σ df·p(1 − p))² / Σ df·(p(1 − p))², Satterthwaite's for such a sum.

    Args:
        encoders: one (seeds, samples) array an encoder; those with one seed add nothing.
        clusters: (samples,), of all of them.

    >>> one, other = np.array([[0.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 0.0], [0.0, 0.0]])
    >>> pool = pool_seeds([one, other], np.arange(2))
    >>> round(pool.ratio, 6), pool.df
    (0.666667, 1.0)
    """
    parts = [seed_variance(scores, clusters) for scores in encoders]
    room = [spread_of(float(np.mean(scores))) for scores in encoders]
    weight = sum(part.df * r for part, r in zip(parts, room, strict=True))
    if weight == 0:
        return SeedPool(0.0, 0.0)  # nothing could vary, so nothing was learnt
    ratio, total = (sum(p.df * getattr(p, name) for p in parts) / weight for name in ("variance", "total"))
    return SeedPool(ratio, weight**2 / sum(p.df * r**2 for p, r in zip(parts, room, strict=True)), total)


def spread_of(mean: float) -> float:
    """p(1 − p)."""
    return mean * (1 - mean)


def seed_part(table: Floats, clusters: NDArray[Any], pool: SeedPool | None) -> SeedPart:
    """The seeds' share of the variance of an encoder's mean.

    Args:
        table: (seeds, samples).
        clusters: (samples,).
        pool: as in `estimate`.
    """
    num_seeds = len(table)
    if pool is not None and pool.df > 0 and num_seeds < FEW_SEEDS:
        room = spread_of(float(table.mean()))
        found, pooled = SeedVariance(pool.ratio * room, pool.df, pool.total * room), True
    else:
        found, pooled = seed_variance(table, clusters), False
    if found.df == 0:
        return SeedPart(Component(0.0, 1.0, 0.0), pooled=False, known=False)
    variance = max(found.variance, 0.0)
    parts = variance / num_seeds, found.df, max(found.total, variance) / num_seeds
    return SeedPart(Component(*parts), pooled, known=True)


def joined(ours: SeedPart, theirs: SeedPart) -> list[Component]:
    """Seed components of a difference, each (…): what comes from one pool is added up under its one df.

    Args:
        ours: of the first encoder.
        theirs: of the second; shapes may differ as far as they broadcast.
    """
    sides = (ours, theirs)
    own, shared = [], []
    for side in sides:
        variance, df, square = side.component
        own.append(
            Component(*(np.where(side.pooled, x, y) for x, y in ((0, variance), (1, df), (0, square))))
        )
        shared.append([np.where(side.pooled, x, y) for x, y in ((variance, 0), (df, 1), (square, 0))])
    (variance, df, square), (more, more_df, more_square) = shared
    return [Component(variance + more, np.maximum(df, more_df), square + more_square), *own]
