"""What would settle an inconclusive task: more seeds, more samples, or both."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats import DifferenceParts, difference_limits
from harness.variance import Component, SeedPart, joined

_MOST_SEEDS, _MOST_TIMES = 100, 100
"""How far `needed` looks: seeds a side, and times the samples."""


def needed(parts: DifferenceParts, margin: float, level: float, seeds: tuple[int, int]) -> str:
    """What would settle a task if the difference stayed what it is, in words.

    Of all numbers of seeds a side and of samples that would, the one with the fewest answers to decode, which
    is seeds × samples; where it wants more samples, which are not always to be had, the number of seeds that
    would do without is said, too. More seeds shrink each side's component by that side's own number, more
    samples the samples' by theirs; the part of the samples' variance that more seeds would average away too
    is left alone, so it is no promise.

    Args:
        parts: of the difference, candidate − baseline.
        margin: of the task.
        level: of the interval that must exclude −margin.
        seeds: of the candidate and of the baseline today.
    """
    if parts.size.clusters < 2:
        return "one cluster says nothing about others"
    fewest = max(1, min(seeds))
    counts, times = np.arange(fewest, max(_MOST_SEEDS, fewest) + 1), np.arange(1, _MOST_TIMES + 1)
    settled = _settled(parts, margin, level, seeds, counts[:, None], times[None, :])
    if not settled.any():
        return (
            "the noise is too large for this margin, or the difference too close to it: "
            f"{counts[-1]} seeds a side with {_MOST_TIMES} times the samples would not settle it"
        )
    # Most seeds are had for the asking, so of equal costs the one with fewer samples.
    costs = np.where(settled, counts[:, None] * times[None, :], np.inf)
    row, column = np.unravel_index(int(np.argmin(costs.T)), costs.T.shape)[::-1]
    count, more = int(counts[row]), int(times[column])
    samples = f"about {more * parts.size.samples:,} samples"
    if more == 1:
        return f"about {count} seeds a side would settle it"
    alone = counts[settled[:, 0]]
    none = "; more seeds alone would not"
    without = f", or about {alone[0]} seeds with the samples there are" if len(alone) else ""
    if count <= fewest:
        return f"{samples} would settle it{without or none}"
    return f"about {count} seeds a side and {samples} would settle it{without or none}"


def _settled(
    parts: DifferenceParts,
    margin: float,
    level: float,
    seeds: tuple[int, int],
    counts: NDArray[Any],
    times: NDArray[Any],
) -> NDArray[Any]:
    """Whether each number of seeds a side, (counts, 1), does with each multiple of samples, (1, times)."""
    shape = np.broadcast_shapes(counts.shape, times.shape)
    value = np.full(shape, parts.value)
    samples = Component(parts.samples.variance / times, parts.samples.df * times)
    shrunk = parts.seeds
    if parts.sides is not None:
        ours, theirs = (_with_seeds(*side, counts) for side in zip(parts.sides, seeds, strict=True))
        shrunk = joined(ours, theirs)
    got = difference_limits(value, samples, parts.size, shrunk, level=level, against=None)
    gap = abs(parts.value + margin)
    reach = value - got.low if parts.value > -margin else got.high - value
    settled: NDArray[Any] = reach < gap
    return settled


def _with_seeds(side: SeedPart, now: int, counts: NDArray[Any]) -> SeedPart:
    """A side's part with so many seeds, or with those it has where these are more."""
    more = np.maximum(counts, now) / now
    variance, df, square = side.component
    return side._replace(
        component=Component(variance / more, df, (variance if square is None else square) / more)
    )
