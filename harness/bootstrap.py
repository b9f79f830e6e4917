"""Clustered paired bootstrap, collapsed to the distinct clusters: exact, and hundreds of times faster.

Only the sum of a cluster's differences and its size enter the mean, and with 0/1 or tenth scores a few
hundred such cells hold tens of thousands of clusters. How often each cell is drawn is multinomial, so a
replicate needs one draw a cell instead of one a cluster; the distribution is that of resampling clusters,
not an approximation. It holds the seeds fixed: a check of the intervals' clustered part, not a substitute
for them.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.variance import ClusterSizes, Floats

REPLICATES = 10_000
_CHUNK = 100
"""Replicates drawn from one stream of random numbers."""
_RARE = 32
"""Clusters of a cell with fewer than this are drawn one by one: that is cheaper than a binomial draw."""


class Bootstrap(NamedTuple):
    """Percentile interval of a mean of paired differences."""

    value: float
    low: float
    high: float
    se: float
    """Standard deviation of the replicates."""
    num_cells: int
    """Distinct (sum, size) of a cluster."""


def paired_bootstrap(
    a: NDArray[Any],
    b: NDArray[Any],
    clusters: NDArray[Any],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = 0.95,
) -> Bootstrap:
    """Percentile interval (Efron 1981) of the mean of a − b over resampled clusters.

    Args:
        a: (seeds, samples) or (samples,) scores; seeds are averaged first.
        b: likewise, the same samples in the same order.
        clusters: (samples,).
        replicates: resamplings.
        seed: of the generator.
        level: coverage.

    Raises:
        ValueError: the shapes disagree, or there is nothing to resample.

    >>> got = paired_bootstrap(np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 1]), np.array([0, 0, 1, 1]))
    >>> got.value, got.num_cells
    (0.25, 2)
    """
    left, right = (np.atleast_2d(np.asarray(side, dtype=np.float64)).mean(axis=0) for side in (a, b))
    if left.shape != right.shape or left.shape != np.shape(clusters) or not left.size:
        raise ValueError(f"scores {left.shape}, {right.shape} and clusters {np.shape(clusters)} do not fit")
    sizes = ClusterSizes.of(clusters)
    sums = np.bincount(sizes.member, weights=left - right)
    # Sums of tenths differ in the last bits by the order of addition; those are one cell.
    cells, counts = np.unique(np.stack([sums.round(9), sizes.counts]), axis=1, return_counts=True)
    means = _collapsed(cells, counts, replicates, seed)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    value = float(sums.sum() / len(left))
    return Bootstrap(value, float(low), float(high), float(means.std(ddof=1)), len(counts))


def _collapsed(cells: Floats, counts: NDArray[Any], replicates: int, seed: int) -> Floats:
    """Means of the replicates, (replicates,); the same whatever the number of cores."""
    order = np.argsort(counts, kind="stable")
    cells, counts = cells[:, order], counts[order]
    # Sum and size of a cluster as one number, told apart again by this unit: half the memory to walk through.
    unit = 2.0 ** math.ceil(math.log2(2 * float(counts @ cells[1]) + 2))
    singly = _drawn_singly(counts)
    coded = cells[0] + unit * cells[1]
    common = counts > singly
    urn = _Urn(
        cells[:, common], (counts - singly)[common], np.repeat(coded, singly), np.repeat(coded, counts), unit
    )
    chunks = [min(_CHUNK, replicates - start) for start in range(0, replicates, _CHUNK)]
    streams = np.random.SeedSequence(seed).spawn(len(chunks))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.concatenate(
            list(pool.map(lambda part: _draw(urn, *part), zip(chunks, streams, strict=True)))
        )


class _Urn(NamedTuple):
    """What replicates are drawn from."""

    cells: Floats
    """(2, cells) sum and size of a cluster of each common cell."""
    counts: NDArray[Any]
    """(cells,) clusters of each that are drawn together."""
    rare: Floats
    """Coded clusters that are drawn one by one."""
    every: Floats
    """All coded clusters."""
    unit: float


def _drawn_singly(counts: NDArray[Any]) -> NDArray[Any]:
    """How many clusters of each cell are drawn one by one, (cells,); `counts` ascend.

    All of the rare cells, and of the largest as many more as make a power of two, where there are as many:
    an index into that many is a few random bits, with nothing to reject.
    """
    singly = np.where(counts < _RARE, counts, 0)
    lacking = (1 << int(singly.sum() - 1).bit_length()) - int(singly.sum()) if singly.any() else 0
    if lacking <= int((counts - singly).sum()):
        for cell in reversed(range(len(counts))):
            more = min(lacking, int(counts[cell] - singly[cell]))
            singly[cell] += more
            lacking -= more
    return singly


def _indices(rng: np.random.Generator, limit: int, number: int) -> NDArray[Any]:
    """(number,) indices below `limit`, each as likely as any other."""
    if limit & (limit - 1) or limit > 2**16:
        return rng.integers(limit, size=number, dtype=np.uint16 if limit < 2**16 else np.int64)
    words = rng.integers(2**64, size=-(-number // 4), dtype=np.uint64).view(np.uint16)[:number]
    found: NDArray[Any] = np.bitwise_and(words, np.uint16(limit - 1), out=words)
    return found


_BELOW = 4.0
"""Standard deviations by which too few clusters are drawn in the mean: too many are once in 30,000."""


def _draw(urn: _Urn, replicates: int, stream: np.random.SeedSequence) -> Floats:
    """Means of some replicates: common cells by their numbers, clusters of rare ones, being few, one by one.

    The numbers are multinomial: Poisson ones, which cost half as much to draw, of a little less than all
    clusters in the mean, filled up to all of them by clusters drawn from the whole. A Poisson sample of a
    given size is multinomial, and so it stays with more draws, or with some taken away blindly.
    """
    rng = np.random.Generator(np.random.SFC64(stream))  # faster than the default, and as sound
    total = len(urn.every)
    few = max(total - _BELOW * math.sqrt(total), 0.0) if len(urn.counts) else 0.0
    drawn = rng.poisson(
        np.append(urn.counts, len(urn.rare)) * (few / total), (replicates, len(urn.counts) + 1)
    )
    lacking = total - drawn.sum(axis=1)
    for row in np.flatnonzero(lacking < 0):
        drawn[row] -= rng.multivariate_hypergeometric(drawn[row], -lacking[row])
    sums, sizes = (drawn[:, :-1] @ row for row in urn.cells)
    for table, numbers in ((urn.rare, drawn[:, -1]), (urn.every, np.maximum(lacking, 0))):
        coded = _sums_of(rng, table, numbers)
        of_size = np.rint(coded / urn.unit)
        sums, sizes = sums + (coded - urn.unit * of_size), sizes + of_size
    found: Floats = sums / sizes
    return found


def _sums_of(rng: np.random.Generator, table: Floats, numbers: NDArray[Any]) -> Floats:
    """(replicates,) sums of so many values of a table each, drawn with replacement."""
    if not len(table):
        return np.zeros(len(numbers))
    # One more than needed: a replicate without any would else have no beginning. Such a sum is 0.
    picked = table[_indices(rng, len(table), int(numbers.sum()) + 1)]
    picked[-1] = 0
    starts = np.concatenate([[0], np.cumsum(numbers)[:-1]])
    found: Floats = np.where(numbers > 0, np.add.reduceat(picked, starts), 0.0)
    return found
