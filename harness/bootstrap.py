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
from scipy import special

from harness.variance import ClusterSizes, Floats

REPLICATES = 10_000
_CHUNK = 250
"""Replicates drawn from one stream of random numbers."""
_RARE = 3
"""Clusters of a cell with fewer than this are drawn one by one: that is cheaper than drawing their number."""
_BELOW = 3.0
"""Standard deviations by which too few clusters are drawn in the mean: too many are once in 700."""
_SLOTS = 2048
"""Equal parts of the unit interval that `_PoissonTables` looks a random number up in."""


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
    cells, counts = _cells(sums.round(9), sizes.counts)
    means = _collapsed(cells, counts, replicates, seed)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    value = float(sums.sum() / len(left))
    return Bootstrap(value, float(low), float(high), float(means.std(ddof=1)), len(counts))


def _cells(sums: NDArray[Any], sizes: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
    """Distinct (sum, size) of the clusters, (2, cells), and how many have each, fewest first."""
    order = np.lexsort([sums, sizes])
    sums, sizes = sums[order], sizes[order]
    new = np.concatenate([[True], (np.diff(sums) != 0) | (np.diff(sizes) != 0)])
    first = np.flatnonzero(new)
    counts = np.diff(np.append(first, len(sums)))
    rarest = np.argsort(counts, kind="stable")
    return np.stack([sums, sizes])[:, first[rarest]], counts[rarest]


def _collapsed(cells: Floats, counts: NDArray[np.int64], replicates: int, seed: int) -> Floats:
    """Means of the replicates, (replicates,); the same whatever the number of cores."""
    # Sum and size of a cluster as one number, told apart again by this unit: half the memory to walk through.
    unit = 2.0 ** math.ceil(math.log2(2 * float(counts @ cells[1]) + 2))
    singly = _drawn_singly(counts)
    coded = cells[0] + unit * cells[1]
    common = counts > singly
    total = int(counts.sum())
    few = max(total - _BELOW * math.sqrt(total), 0.0) if common.any() else 0.0
    numbers = np.append((counts - singly)[common], singly.sum())
    urn = _Urn(
        cells[:, common],
        _PoissonTables.of(numbers * (few / total)),
        np.repeat(coded, singly),
        np.repeat(coded, counts),
        unit,
    )
    chunks = [min(_CHUNK, replicates - start) for start in range(0, replicates, _CHUNK)]
    streams = np.random.SeedSequence(seed).spawn(len(chunks))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return np.concatenate(
            list(pool.map(lambda part: _draw(urn, *part), zip(chunks, streams, strict=True)))
        )


class _PoissonTables(NamedTuple):
    """Poisson numbers of many means by inversion, looked up (Chen & Asau 1974): several times a draw's speed.

    Nearly every slot of the unit interval lies within one step of the distribution function, whose number it
    then holds; where it does not, a further random number says where in the slot, and the step is searched.
    """

    table: NDArray[np.intp]
    """(means,) which of the distributions is that of each mean."""
    slots: NDArray[np.int32]
    """(distributions × `_SLOTS`,) number of the step, or -1 where a step ends within the slot."""
    steps: Floats
    """Distribution functions one behind the other, each raised by its place: ascending over all."""
    starts: NDArray[np.intp]
    """(distributions,) where each begins in `steps`, less the number of its first step."""

    @classmethod
    def of(cls, means: Floats) -> _PoissonTables:
        """Tables of as many distributions as there are means that differ."""
        distinct, table = np.unique(means, return_inverse=True)
        # What lies beyond has a chance below 1e-16: less than the last bit of a distribution function.
        reach = 9 * np.sqrt(distinct) + 20
        first = np.maximum(np.floor(distinct - reach), 0).astype(np.intp)
        lengths = np.ceil(distinct + reach).astype(np.intp) - first
        ends = np.cumsum(lengths)
        of = np.repeat(np.arange(len(distinct)), lengths)
        number = np.arange(len(of)) - np.repeat(ends - lengths - first, lengths)
        chance = np.exp(special.xlogy(number, distinct[of]) - distinct[of] - special.gammaln(number + 1.0))
        chance /= np.add.reduceat(chance, ends - lengths)[of]
        steps = np.clip(np.cumsum(chance), of, of + 1.0)
        # Steps up to the beginning of a slot, and before its end.
        at = (steps - of) * _SLOTS
        up_to, before = (
            np.bincount(of * (_SLOTS + 1) + edge.astype(np.intp), minlength=len(distinct) * (_SLOTS + 1))
            .reshape(-1, _SLOTS + 1)
            .cumsum(axis=1)[:, :-1]
            for edge in (np.ceil(at), np.floor(at))
        )
        slots = np.where(up_to == before, up_to + first[:, None], -1).astype(np.int32).reshape(-1)
        return cls(table.reshape(-1), slots, steps, ends - lengths - first)

    def draw(self, rng: np.random.Generator, replicates: int) -> NDArray[np.int32]:
        """(means, replicates) numbers."""
        slot = _words(rng, len(self.table) * replicates).reshape(-1, replicates) & (_SLOTS - 1)
        found: NDArray[np.int32] = self.slots.take(slot + self.table[:, None] * _SLOTS).reshape(-1)
        open_ = np.flatnonzero(found < 0)
        which = self.table[open_ // replicates]
        points = which + (slot.reshape(-1)[open_] + rng.random(len(open_))) / _SLOTS
        found[open_] = np.searchsorted(self.steps, points, side="right") - self.starts[which]
        return found.reshape(-1, replicates)


class _Urn(NamedTuple):
    """What replicates are drawn from."""

    cells: Floats
    """(2, cells) sum and size of a cluster of each common cell."""
    numbers: _PoissonTables
    """How many clusters of each of them are drawn, and last how many of `rare`."""
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
    words = _words(rng, number)
    found: NDArray[Any] = np.bitwise_and(words, np.uint16(limit - 1), out=words)
    return found


def _words(rng: np.random.Generator, number: int) -> NDArray[np.uint16]:
    """(number,) words of sixteen random bits, drawn four at a time."""
    return rng.integers(2**64, size=-(-number // 4), dtype=np.uint64).view(np.uint16)[:number]


def _draw(urn: _Urn, replicates: int, stream: np.random.SeedSequence) -> Floats:
    """Means of some replicates: common cells by their numbers, clusters of rare ones, being few, one by one.

    The numbers are multinomial: Poisson ones, which are independent and so can be looked up, of a little less
    than all clusters in the mean, filled up to all of them by clusters drawn from the whole. A Poisson sample
    of a given size is multinomial, and so it stays with more draws, or with some taken away blindly.
    """
    rng = np.random.Generator(np.random.SFC64(stream))  # faster than the default, and as sound
    drawn = urn.numbers.draw(rng, replicates)
    lacking = len(urn.every) - drawn.sum(axis=0)
    for column in np.flatnonzero(lacking < 0):
        drawn[:, column] -= rng.multivariate_hypergeometric(drawn[:, column], -lacking[column])
    sums, sizes = urn.cells @ drawn[:-1]
    for table, numbers in ((urn.rare, drawn[-1]), (urn.every, np.maximum(lacking, 0))):
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
