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
_CHUNK = 50
"""Replicates drawn from one stream of random numbers."""
_RARE = 16
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
    common = counts >= _RARE
    rare = np.repeat(cells[0, ~common] + unit * cells[1, ~common], counts[~common])
    chunks = [min(_CHUNK, replicates - start) for start in range(0, replicates, _CHUNK)]
    streams = np.random.SeedSequence(seed).spawn(len(chunks))

    def draw(part: tuple[int, np.random.SeedSequence]) -> Floats:
        return _draw(cells[:, common], counts[common], rare, unit, *part)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.concatenate(list(pool.map(draw, zip(chunks, streams, strict=True))))


def _draw(
    cells: Floats,
    counts: NDArray[Any],
    rare: Floats,
    unit: float,
    replicates: int,
    stream: np.random.SeedSequence,
) -> Floats:
    """Common cells by one multinomial draw; clusters of rare cells, being few, one by one."""
    rng = np.random.Generator(np.random.SFC64(stream))  # faster than the default, and as sound
    num_clusters = int(counts.sum()) + len(rare)
    drawn = rng.multinomial(num_clusters, np.append(counts, len(rare)) / num_clusters, replicates)
    sums, sizes = (drawn[:, :-1] @ row for row in cells)
    if len(rare):
        of_rare = drawn[:, -1]
        kind = np.uint16 if len(rare) < 2**16 else np.int64
        # One more than needed: a replicate without any would else have no beginning. Such a sum is 0.
        picked = rare[rng.integers(len(rare), size=int(of_rare.sum()) + 1, dtype=kind)]
        picked[-1] = 0
        starts = np.concatenate([[0], np.cumsum(of_rare)[:-1]])
        each = np.where(of_rare > 0, np.add.reduceat(picked, starts), 0)
        of_size = np.rint(each / unit)
        sums, sizes = sums + (each - unit * of_size), sizes + of_size
    found: Floats = sums / sizes
    return found
