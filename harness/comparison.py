"""Encoders against each other on the same samples: one pair, and all pairs of a task at once."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.stats import (
    DifferenceParts,
    Interval,
    difference_limits,
    difference_parts,
    interval_of,
)
from harness.variance import (
    CONSTANT,
    ClusterSizes,
    Component,
    Floats,
    SeedPart,
    SeedPool,
    Size,
    joined,
    seed_part,
    variance_of,
)

RIGHT = 0.5
"""A sample counts as right when its score, averaged over the seeds, reaches this."""
POWER = 0.8
LEVEL = 0.95
_CANCELLED = 1e-9
"""Below this share of its terms a variance from the Gram matrix is rounding; it is computed directly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Encoder a minus encoder b on one task."""

    interval: Interval
    parts: DifferenceParts
    """What the interval is made of, for other levels and margins."""
    only_a: int
    """Flips: samples that a gets right and b does not; see `RIGHT`."""
    only_b: int
    num_samples: int
    num_clusters: int
    seeds_a: int
    seeds_b: int
    detectable: float | None
    """Smallest true difference that such a comparison finds in 80 of 100 repetitions; None if unknown."""


def floor_pools(
    pool: SeedPool | None, floors: tuple[bool, bool]
) -> list[tuple[SeedPool | None, SeedPool | None]]:
    """Seed variances under which a difference is computed; of the intervals the widest counts.

    Args:
        pool: over encoders.
        floors: whether each side is a floor. The pool holds none and may understate its noise, or its own
            few seeds may; an encoder's side borrows from the pool either way.
    """
    own = (None if floors[0] else pool, None if floors[1] else pool)
    return [(pool, pool), own] if any(floors) else [(pool, pool)]


def compare(
    a: NDArray[Any],
    b: NDArray[Any],
    clusters: NDArray[Any],
    seed_pool: SeedPool | None = None,
    floors: tuple[bool, bool] = (False, False),
) -> Comparison:
    """Compare two encoders on the same samples.

    Args:
        a: (seeds, samples), fractions 0-1.
        b: likewise, its samples in the same order; the number of seeds may differ.
        clusters: (samples,).
        seed_pool: as in `harness.stats.estimate`.
        floors: whether each is a floor, see `floor_pools`.

    Raises:
        ValueError: as `harness.stats.paired_difference`.

    >>> a, b = np.array([[1.0, 1, 1, 0]]), np.array([[1.0, 0, 1, 0]])
    >>> found = compare(a, b, np.arange(4))
    >>> found.interval.value, found.only_a, found.only_b
    (0.25, 1, 0)
    """
    every = [difference_parts(a, b, clusters, *pools) for pools in floor_pools(seed_pool, floors)]
    parts, interval = max(
        ((p, interval_of(p)) for p in every), key=lambda found: found[1].high - found[1].low
    )
    left, right = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (a, b))
    right_a, right_b = left.mean(axis=0) >= RIGHT, right.mean(axis=0) >= RIGHT
    return Comparison(
        interval=interval,
        parts=parts,
        only_a=int(np.sum(right_a & ~right_b)),
        only_b=int(np.sum(right_b & ~right_a)),
        num_samples=parts.size.samples,
        num_clusters=parts.size.clusters,
        seeds_a=len(left),
        seeds_b=len(right),
        detectable=detectable(interval.se, interval.df),
    )


def detectable(se: float, df: float, power: float = POWER, level: float = LEVEL) -> float | None:
    """Minimum detectable effect (t(1 − α/2) + t(power)) · se of a two-sided test (Bloom 1995).

    Returns:
        In the unit of `se`; None where that is unknown or 0.

    >>> round(detectable(0.01, 1e9), 4)
    0.028
    """
    if not math.isfinite(se) or df <= 0 or se == 0:
        return None
    return float(special.stdtrit(df, 0.5 + level / 2) + special.stdtrit(df, power)) * se


def holm(p_values: Sequence[float] | NDArray[Any]) -> Floats:
    """P values adjusted for their number by Holm (1979), in the given order; statsmodels computes them.

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    if len(p_values) == 0:
        return np.zeros(0)
    # multipletests collects garbage on every call: a tenth of a second and more, hundreds of times in a
    # self-test. What is frozen is not looked at.
    gc.freeze()
    try:
        return np.asarray(multipletests(p_values, method="holm")[1], dtype=np.float64)
    finally:
        gc.unfreeze()


class AllPairs(NamedTuple):
    """Row minus column, each (encoders, encoders); the diagonal is a comparison with itself: 0, p of 1."""

    value: Floats
    low: Floats
    high: Floats
    se: Floats
    df: Floats
    p: Floats


def all_pairs(
    encoders: Sequence[NDArray[Any]], clusters: NDArray[Any], pool: SeedPool | None = None
) -> AllPairs:
    """`paired_difference` of every two encoders, from one product of matrices.

    With C the Gram matrix of weighted, centred cluster sums, the variance of a − b is C_aa + C_bb − 2 C_ab.

    Args:
        encoders: one (seeds, samples) table each, the same samples in the same order.
        clusters: (samples,).
        pool: seed variance pooled over them; None: each speaks for itself.

    Raises:
        ValueError: fewer than two clusters, or shapes that differ.
    """
    sizes = ClusterSizes.of(clusters)
    if len(sizes.counts) < 2:
        raise ValueError("fewer than two clusters: no variance between them")
    averages = np.stack([np.atleast_2d(table).mean(axis=0, dtype=np.float64) for table in encoders])
    means = averages.mean(axis=1)
    gram = _gram(averages - means[:, None], sizes)
    own = np.diag(gram)
    # Each pair once: the other way round it is the same with its sign turned.
    i, j = np.triu_indices(len(encoders), 1)
    terms = own[i] + own[j]
    variance = terms - 2 * gram[i, j]
    for pair in np.flatnonzero((variance <= _CANCELLED * terms) & (terms > 0)):
        variance[pair] = variance_of(averages[i[pair]] - averages[j[pair]], sizes)
    found = [seed_part(np.atleast_2d(table), clusters, pool) for table in encoders]
    every = [np.array(column) for column in zip(*((*f.component, f.pooled) for f in found), strict=True)]
    sides = ([column[rows] for column in every] for rows in (i, j))
    parts = joined(*(SeedPart(Component(*side[:3]), side[3], known=True) for side in sides))
    size = Size(averages.shape[1], len(sizes.counts))
    value = means[i] - means[j]
    got = difference_limits(value, Component(variance, sizes.df), size, parts, level=LEVEL)
    upper = {"value": value, "low": got.low, "high": got.high, "se": got.se, "df": got.df, "p": got.p}
    lower = {**upper, "value": -value, "low": -got.high, "high": -got.low}
    whole = {}
    for name in AllPairs._fields:
        matrix = np.full((len(encoders), len(encoders)), 1.0 if name == "p" else 0.0)
        matrix[i, j], matrix[j, i] = upper[name], lower[name]
        whole[name] = matrix
    return AllPairs(**whole)


def all_against(
    encoders: Sequence[NDArray[Any]],
    other: NDArray[Any],
    clusters: NDArray[Any],
    pool: SeedPool | None = None,
    other_pool: SeedPool | Literal["same"] | None = "same",
) -> list[Interval]:
    """`paired_difference` of each encoder and one other, without p, all in one go.

    Args:
        encoders: (seeds, samples) scores of each, on the same samples.
        other: likewise, such as a floor.
        clusters: (samples,).
        pool: seed variance, as in `paired_difference`.
        other_pool: of the other, where that is another.

    >>> scores = [np.array([[1.0, 0, 1, 0]]), np.array([[1.0, 1, 1, 0]])]
    >>> [round(d.value, 2) for d in all_against(scores, np.zeros((1, 4)), np.arange(4))]
    [0.5, 0.75]
    """
    sizes = ClusterSizes.of(clusters)
    if len(sizes.counts) < 2:
        each = [difference_parts(table, other, clusters, pool, other_pool) for table in encoders]
        return [interval_of(one, against=None) for one in each]
    base = np.atleast_2d(other)
    apart = np.stack([np.atleast_2d(t).mean(axis=0, dtype=np.float64) for t in encoders]) - base.mean(axis=0)
    value = np.array([float(np.mean(t)) for t in encoders]) - float(base.mean())
    centred = apart - apart.mean(axis=1, keepdims=True)
    order = np.argsort(sizes.member, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(sizes.member))[:-1]])
    variance = np.add.reduceat(centred[:, order], starts, axis=1) ** 2 @ sizes.weights
    variance = np.where(np.ptp(apart, axis=1) <= CONSTANT, 0.0, variance)
    found = [seed_part(np.atleast_2d(table), clusters, pool) for table in encoders]
    every = [np.array(column) for column in zip(*((*f.component, f.pooled) for f in found), strict=True)]
    mine = SeedPart(Component(*every[:3]), every[3], known=True)
    theirs = seed_part(base, clusters, pool if other_pool == "same" else other_pool)
    size = Size(apart.shape[1], len(sizes.counts))
    parts = joined(mine, theirs)
    got = difference_limits(value, Component(variance, sizes.df), size, parts, against=None)
    low, high, se, df = (np.broadcast_to(x, value.shape).tolist() for x in got[:4])
    unknown = [not (f.known and theirs.known) for f in found]
    return [Interval(*row) for row in zip(value.tolist(), low, high, se, df, unknown, strict=True)]


def _gram(centred: Floats, sizes: ClusterSizes) -> Floats:
    sums = np.zeros((len(centred), len(sizes.counts)))
    for row, out in zip(centred, sums, strict=True):
        out[:] = np.bincount(sizes.member, weights=row)
    sums *= np.sqrt(sizes.weights)
    product: Floats = sums @ sums.T
    return product


class Ranking(NamedTuple):
    """Places of encoders on one task, in the given order of encoders."""

    low: NDArray[np.int64]
    """Best place that the data leave open, 1 is first."""
    high: NDArray[np.int64]
    """Worst place that the data leave open."""
    groups: tuple[tuple[int, ...], ...]
    """Runs of the ordered list without a proven difference between any two; each as long as can be."""


def rank(pairs: AllPairs, level: float = LEVEL) -> Ranking:
    """Rank intervals and tie groups, valid for all encoders at once.

    An encoder's place lies between one more than the number of encoders proven better and the number not
    proven worse (Mogstad, Romano, Shaikh & Wilhelm 2024, Review of Economic Studies 91:476). "Proven" is a
    difference whose p, after Holm over all pairs, is below 1 − level. Groups are the bars of a critical
    difference diagram (Demšar 2006, JMLR 7).

    >>> scores = [np.array([[1.0] * 90 + [0.0] * 10]), np.array([[0.0] * 90 + [1.0] * 10])]
    >>> got = rank(all_pairs(scores, np.arange(100)))
    >>> got.low.tolist(), got.high.tolist(), got.groups
    ([1, 2], [1, 2], ((0,), (1,)))
    """
    count = len(pairs.value)
    differ = np.zeros((count, count), dtype=bool)
    upper = np.triu_indices(count, 1)
    differ[upper] = holm(pairs.p[upper]) < 1 - level
    differ |= differ.T
    low = 1 + np.sum(differ & (pairs.value < 0), axis=1)
    high = count - np.sum(differ & (pairs.value > 0), axis=1)
    return Ranking(low, high, _tie_groups(differ, pairs.value))


def _tie_groups(differ: NDArray[Any], value: Floats) -> tuple[tuple[int, ...], ...]:
    order = [int(i) for i in np.lexsort((np.arange(len(value)), -value.mean(axis=1)))]
    runs: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not differ[order[end], order[start:end]].any():
            end += 1
        if not runs or end > runs[-1][1]:
            runs.append((start, end))
    return tuple(tuple(order[start:end]) for start, end in runs)
