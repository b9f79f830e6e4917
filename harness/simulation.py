"""Proof of the intervals by simulation: worlds whose truth is known, measured by harness.stats as a board is.

A world is a probit model. Encoder e answers sample i of cluster g under seed s correctly where

    level_e + seed_es + cluster_g + cluster_eg + sample_i + rest_esi > 0

with every term but the level drawn from a normal distribution. Of each, cluster_g and sample_i are common to
both encoders: hard pictures are hard for everyone. The truth is the normal integral, not a large sample.
Soft scores are the mean of ten such answers a sample, which annotators who disagree would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.stats import Interval, estimate, paired_difference
from harness.variance import Floats, SeedPool, pool_seeds

REST = 0.55
"""Share of the unit latent variance that is fresh in every answer."""
COMMON = 0.7
"""Share of what clusters and samples explain that all encoders have in common."""
CLUSTER_SHARE = 0.5
"""Of the explained variance, the clusters' part where clusters hold more than one sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One cell of the grid."""

    num_samples: int
    cluster_size: int
    """Mean size; sizes vary between half and one and a half of it."""
    num_seeds: int
    seed_sd: float
    """Standard deviation of one seed's true mean score, as a fraction of 1."""
    level: float = 0.6
    """True mean score of the first encoder."""
    lift: float = 0.0
    """True difference, first minus second."""
    pool: int = 0
    """Other encoders of three seeds, an even number, whose seed variance is pooled; 0: none."""
    soft: bool = False
    """Scores are tenths instead of 0 or 1."""


class Covered(NamedTuple):
    """How often a kind of interval held the truth."""

    share: float
    width: float
    """Mean width, fraction of 1."""
    rejected: float
    """Share of worlds whose interval excludes zero; for a lift of 0 the false alarms."""


Scores = NDArray[Any]
Method = Callable[[Scores, Scores | None, Scores, SeedPool | None], Interval]
"""(scores, other scores or None, clusters, pool) -> interval of the mean, or of the difference."""


def simulate(world: World, num_worlds: int, seed: int = 0) -> dict[tuple[str, bool], Covered]:
    """Coverage of each of METHODS over freshly drawn worlds, all methods on the same draws.

    Args:
        world: the cell.
        num_worlds: draws.
        seed: of the generator.

    Returns:
        (method, paired) -> coverage: of the first encoder's level, and where paired of the lift.
    """
    found: dict[tuple[str, bool], list[tuple[bool, float, bool]]] = {}
    for a, b, clusters, pool in _draws(world, num_worlds, seed):
        for name, method in METHODS.items():
            for paired, truth in ((False, world.level), (True, world.lift)):
                got = method(a, b if paired else None, clusters, pool)
                row = (got.low <= truth <= got.high, got.high - got.low, not got.low <= 0 <= got.high)
                found.setdefault((name, paired), []).append(row)
    return {name: Covered(*(float(x) for x in np.mean(rows, axis=0))) for name, rows in found.items()}


def _draws(
    world: World, num_worlds: int, seed: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any], SeedPool | None]]:
    """Scores (seeds, samples) of two encoders, clusters (samples,), and the pooled seed variance."""
    rng = np.random.default_rng(seed)
    for _ in range(num_worlds):
        clusters = _clusters(world, rng)
        pool = None
        if world.pool:
            three = replace(world, num_seeds=3, pool=0)
            others = [_pair(three, clusters, rng) for _ in range(world.pool // 2)]
            pool = pool_seeds([table for pair in others for table in pair], clusters)
        yield (*_pair(world, clusters, rng), clusters, pool)


def _clusters(world: World, rng: np.random.Generator) -> NDArray[Any]:
    if world.cluster_size == 1:
        return np.arange(world.num_samples)
    low, high = math.ceil(world.cluster_size / 2), math.floor(world.cluster_size * 1.5)
    sizes = rng.integers(low, high + 1, 2 * world.num_samples // world.cluster_size + 2)
    return np.repeat(np.arange(len(sizes)), sizes)[: world.num_samples]


def _pair(
    world: World, clusters: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    explained = 1 - REST
    of_cluster = explained * (CLUSTER_SHARE if world.cluster_size > 1 else 0.0)
    of_sample = explained - of_cluster
    num_clusters = int(clusters.max()) + 1

    def hardness(share: float) -> NDArray[Any]:
        """(samples,) with the variance of clusters and samples, times a share."""
        of_clusters = rng.standard_normal(num_clusters)[clusters] * math.sqrt(of_cluster * share)
        found: Floats = of_clusters + rng.standard_normal(len(clusters)) * math.sqrt(of_sample * share)
        return found

    common = hardness(COMMON)
    sides = []
    for truth in (world.level, world.level - world.lift):
        # A seed's shift in the latent scale whose effect on the mean has the stated deviation; the level is
        # set so that the mean over seeds is exactly the truth.
        slope = math.exp(-(special.ndtri(truth) ** 2) / 2) / math.sqrt(2 * math.pi)
        shift = world.seed_sd / slope
        level = special.ndtri(truth) * math.sqrt(1 + shift**2)
        seeds = level + shift * rng.standard_normal((world.num_seeds, 1))
        latent = seeds + common + hardness(1 - COMMON)
        sides.append(_answers(latent, soft=world.soft, rng=rng))
    return sides[0], sides[1]


def _answers(latent: NDArray[Any], *, soft: bool, rng: np.random.Generator) -> NDArray[Any]:
    if soft:
        tenths: Floats = rng.binomial(10, special.ndtr(latent / math.sqrt(REST))) / 10
        return tenths
    right: NDArray[Any] = latent + math.sqrt(REST) * rng.standard_normal(latent.shape) > 0
    return right.astype(np.float64)


def ours(a: Scores, b: Scores | None, clusters: Scores, pool: SeedPool | None) -> Interval:
    """What every page prints."""
    return estimate(a, clusters, pool) if b is None else paired_difference(a, b, clusters, pool)


def items_only(a: Scores, b: Scores | None, clusters: Scores, pool: SeedPool | None) -> Interval:
    """Every answer of every seed an observation of its own: the interval most boards print."""
    del clusters, pool
    rows = (a if b is None else a - b).reshape(-1)
    half = float(special.ndtri(0.975)) * float(rows.std(ddof=1)) / math.sqrt(rows.size)
    mean = float(rows.mean())
    return Interval(mean, mean - half, mean + half, half, math.inf)


def seeds_ignored(a: Scores, b: Scores | None, clusters: Scores, pool: SeedPool | None) -> Interval:
    """Clustered, but the seeds at hand are taken for all there are."""
    del pool
    averaged = a.mean(axis=0, keepdims=True)
    return ours(averaged, None if b is None else b.mean(axis=0, keepdims=True), clusters, None)


def unclustered(a: Scores, b: Scores | None, clusters: Scores, pool: SeedPool | None) -> Interval:
    """Seeds counted, samples of one picture taken for independent."""
    return ours(a, b, np.arange(len(clusters)), pool)


METHODS: dict[str, Method] = {
    "ours": ours,
    "items only": items_only,
    "unclustered": unclustered,
    "seeds ignored": seeds_ignored,
}
SAMPLES, CLUSTER_SIZES, SEEDS, SEED_SDS = (200, 2000), (1, 5, 20), (1, 3, 5), (0.0, 0.01, 0.03)
"""The grid of docs/statistics.md. With one seed, eight other encoders of three lend their variance."""


def grid(level: float = 0.6, lift: float = 0.02) -> list[World]:
    """Every cell of the grid, with 0/1 scores."""
    return [
        World(
            num_samples=samples,
            cluster_size=size,
            num_seeds=seeds,
            seed_sd=sd,
            level=level,
            lift=lift,
            pool=8 if seeds == 1 else 0,
        )
        for samples in SAMPLES
        for size in CLUSTER_SIZES
        for seeds in SEEDS
        for sd in SEED_SDS
    ]


def further() -> list[World]:
    """Cells beside the grid: near the ceiling, soft scores, three seeds with a pool, few samples."""
    base = World(num_samples=1000, cluster_size=5, num_seeds=3, seed_sd=0.01, lift=0.02)
    return [
        replace(base, level=0.95),
        replace(base, level=0.99, lift=0.005, seed_sd=0.002),
        replace(base, level=0.95, num_samples=200),
        replace(base, soft=True),
        replace(base, soft=True, num_samples=200),
        replace(base, pool=8),
        replace(base, pool=8, seed_sd=0.03),
        replace(base, lift=0.0),
        replace(base, num_samples=30, cluster_size=1, seed_sd=0.0),
        replace(base, num_samples=50, cluster_size=1, seed_sd=0.0, level=0.95),
        replace(base, num_samples=60),
        replace(base, num_samples=100, soft=True),
    ]
