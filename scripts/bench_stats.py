"""Times of the statistics against the plain way of doing the same, in one run (`make bench-stats`).

Each line has the figure, what it is held against, the factor and the least factor that passes; exit code 1
where one does not. Slices that stand for a whole are stated. Nothing is read but generated scores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy import stats as scipy_stats

from harness.bootstrap import paired_bootstrap
from harness.comparison import all_pairs
from harness.stats import paired_difference
from harness.variance import pooled_seed_variance

SAMPLES, IMAGES, REPLICATES = 214_354, 40_504, 10_000
SCIPY_SLICE = 100
"""Replicates of scipy's that are timed; its time is linear in them."""
LOOP_SLICE = 200
"""Pairs of the loop that are timed."""


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds and result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def line(what: str, ours_s: float, theirs_s: float, against: str, least: float) -> bool:
    """Print one comparison; whether it passes."""
    factor = theirs_s / ours_s
    passed = factor >= least
    print(
        f"{what}: {ours_s:.2f} s; {against}: {theirs_s:,.0f} s; {factor:,.0f} times, at least {least:.0f} "
        f"wanted: {'ok' if passed else 'TOO SLOW'}",
        flush=True,
    )
    return passed


def soft_scores(rng: np.random.Generator, samples: int, clusters: np.ndarray) -> np.ndarray:
    """VQA-like scores: 0, 0.3, 0.6, 0.9 or 1, correlated within an image."""
    hardness = rng.standard_normal(int(clusters.max()) + 1)[clusters] + rng.standard_normal(samples)
    return np.array([0, 0.3, 0.6, 0.9, 1.0])[np.digitize(hardness, [-0.8, -0.6, -0.4, -0.2])]


def bench_bootstrap() -> bool:
    """Clustered and paired, on VQAv2's numbers, against scipy's bootstrap, which is not clustered."""
    rng = np.random.default_rng(0)
    clusters = np.sort(np.concatenate([np.arange(IMAGES), rng.integers(0, IMAGES, SAMPLES - IMAGES)]))
    a, b = (soft_scores(rng, SAMPLES, clusters) for _ in range(2))
    paired_bootstrap(a[:100], b[:100], clusters[:100])
    ours_s, found = timed(lambda: paired_bootstrap(a, b, clusters, replicates=REPLICATES))

    def scipys() -> Any:
        return scipy_stats.bootstrap(
            (a, b),
            lambda x, y, axis: (x - y).mean(axis=axis),
            paired=True,
            n_resamples=SCIPY_SLICE,
            batch=10,
            method="percentile",
            rng=np.random.default_rng(0),
        )

    slice_s, _ = timed(scipys)
    against = f"scipy.stats.bootstrap(paired=True), {SCIPY_SLICE} of its {REPLICATES:,} replicates timed"
    print(f"clustered bootstrap: {SAMPLES:,} samples, {IMAGES:,} images, {found.num_cells} distinct clusters")
    fast = line("  clustered bootstrap", ours_s, slice_s * REPLICATES / SCIPY_SLICE, against, 100)
    return fast and same_as_scipy(rng)


def same_as_scipy(rng: np.random.Generator) -> bool:
    """On clusters of one sample both resample the same thing, and agree to Monte-Carlo error."""
    count = 5_000
    a, b = (soft_scores(rng, count, np.arange(count)) for _ in range(2))
    ours = paired_bootstrap(a, b, np.arange(count), replicates=REPLICATES)
    theirs = scipy_stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        paired=True,
        n_resamples=REPLICATES,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(1),
    )
    # The standard error of a standard deviation of R replicates is SE/sqrt(2R); four of them, both sides.
    tolerance = 4 * ours.se / np.sqrt(REPLICATES)
    agree = abs(ours.se - theirs.standard_error) < tolerance
    # A quantile at 2.5 % has a standard error of about 2.7 SE/sqrt(R).
    ends = np.abs(np.array([ours.low, ours.high]) - theirs.confidence_interval).max()
    agree = agree and bool(ends < 16 * ours.se / np.sqrt(REPLICATES))
    print(
        f"  on {count:,} singleton clusters: standard error {ours.se:.6f}, "
        f"scipy's {theirs.standard_error:.6f}; ends differ by {ends:.6f}: {'ok' if agree else 'NOT THE SAME'}"
    )
    return bool(agree)


def bench_all_pairs() -> bool:
    """All pairs of 1,000 encoders against a loop over pairs."""
    encoders, samples, images = 1_000, 20_000, 4_000
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(images), samples // images)
    skills = rng.uniform(-0.5, 0.5, encoders)
    hardness = rng.standard_normal(images)[clusters] + rng.standard_normal(samples)
    tables = [
        (hardness + skill + rng.standard_normal((3, samples)) > 0).astype(np.float32) for skill in skills
    ]
    pool = pooled_seed_variance(tables[:50], clusters)
    ours_s, found = timed(lambda: all_pairs(tables, clusters, pool))
    pairs = [tuple(rng.choice(encoders, 2, replace=False)) for _ in range(LOOP_SLICE)]
    loop_s, single = timed(
        lambda: [paired_difference(tables[i], tables[j], clusters, pool) for i, j in pairs]
    )
    gaps = [
        abs(getattr(found, name)[i, j] - getattr(one, name))
        for (i, j), one in zip(pairs, single, strict=True)
        for name in ("value", "low", "high", "se", "p")
    ]
    print(f"all pairs: {encoders:,} encoders, 3 seeds, {samples:,} samples, {images:,} images")
    whole = encoders * (encoders - 1) // 2
    against = f"a loop over {whole:,} pairs, {LOOP_SLICE} of them timed"
    fast = line("  all pairs", ours_s, loop_s * whole / LOOP_SLICE, against, 50)
    same = max(gaps) <= 1e-9
    print(
        f"  largest difference to the loop: {max(gaps):.1e}, at most 1e-9: {'ok' if same else 'NOT THE SAME'}"
    )
    return fast and same


def main() -> int:
    """Run all; exit code 1 where one is too slow or wrong."""
    results = [bench_bootstrap(), bench_all_pairs()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
