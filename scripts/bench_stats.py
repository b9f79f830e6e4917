"""Times of the statistics against the plain way of doing the same, in one run (`make bench-stats`).

Each line has the figure, what it is held against, the factor and the least factor that passes; exit code 1
where one does not. Slices that stand for a whole are stated. Nothing is read but generated scores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

import bench_store
import numpy as np
import pyarrow as pa
from scipy import stats as scipy_stats

from harness import bundle
from harness.bootstrap import paired_bootstrap
from harness.bundle import run_key
from harness.comparison import all_pairs
from harness.files import write_json, write_parquet
from harness.records import Counts, Run, Submission
from harness.stats import paired_difference
from harness.variance import pool_seeds

SAMPLES, IMAGES, REPLICATES = 214_354, 40_504, 10_000
SCIPY_SLICE = 100
"""Replicates of scipy's that are timed; its time is linear in them."""
CHECK_TASKS = {
    "eyechart_vqav2_val": 214_354,
    "eyechart_imagenet_probe": 50_000,
    "eyechart_refcoco_testa": 22_000,
    "eyechart_nextqa_mc": 8_564,
    "eyechart_textvqa_val": 5_000,
}
CHECK_SAMPLES = sum(CHECK_TASKS.values())
CHECK_S, CHECK_GB = 5.0, 1.0
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
    runs = [timed(lambda: paired_bootstrap(a, b, clusters, replicates=REPLICATES)) for _ in range(3)]
    ours_s, found = sorted(runs, key=lambda run: run[0])[1]

    def scipys(batch: int | None) -> float:
        took, _ = timed(
            lambda: scipy_stats.bootstrap(
                (a, b),
                lambda x, y, axis: (x - y).mean(axis=axis),
                paired=True,
                n_resamples=SCIPY_SLICE,
                batch=batch,
                method="percentile",
                rng=np.random.default_rng(0),
            )
        )
        return took * REPLICATES / SCIPY_SLICE

    whole, small = sorted(scipys(None) for _ in range(3))[1], min(scipys(10) for _ in range(3))
    against = f"scipy.stats.bootstrap(paired=True), {SCIPY_SLICE} of its {REPLICATES:,} replicates timed"
    print(f"clustered bootstrap: {SAMPLES:,} samples, {IMAGES:,} images, {found.num_cells} distinct clusters")
    fast = line("  clustered bootstrap", ours_s, whole, against, 100)
    print(f"  scipy in batches of 10, its fastest here: {small:.0f} s, {small / ours_s:.0f} times")
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
    pool = pool_seeds(tables[:50], clusters)
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


def bench_check() -> bool:
    """`eyechart check` on bundles of the main suite's size, as a process: time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_main_sized(root)
        words = ["check", "--baseline", str(root / "base"), "--candidate", str(root / "cand")]
        words += ["--policy", str(root / "policy.toml")]
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", *words], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        spent_s = time.perf_counter() - began
    peak = usage.ru_maxrss / 1e6
    fine = child.returncode == 0 and spent_s <= CHECK_S and peak <= CHECK_GB
    print(
        f"check of {CHECK_SAMPLES:,} samples, 3 seeds a side: {spent_s:.1f} s, {peak:.2f} GB, exit "
        f"{child.returncode}; at most {CHECK_S:.0f} s and {CHECK_GB:.0f} GB: {'ok' if fine else 'TOO MUCH'}"
    )
    return fine


def write_main_sized(root: Path) -> None:
    """Two encoders of three seeds on tasks of the main suite's sizes, and a policy.

    Sealed as `harness.bundle` does it, from arrays: a record a sample would take minutes.
    """
    from stored_runs import HEX, submission

    rng = np.random.default_rng(2)
    policy = ["schema = 1"]
    for task, count in CHECK_TASKS.items():
        policy += [f"[tasks.{task}]", "margin = 0.05"]
        shares = rng.uniform(0.3, 0.9, count)
        ids = pa.array([f"{i:09}" for i in range(count)])
        shared = {"sample_id": ids, "cluster": pa.array([f"img-{i // 5}" for i in range(count)])}
        scored, hashes = pa.repeat("scored", count), pa.repeat("ab" * 8, count)
        said = {"prompt_hash": hashes, "answer": pa.repeat("yes", count), "status": scored}
        answers = pa.table({"sample_id": ids, **said})
        for side in ("base", "cand"):
            for seed in range(3):
                made = example_run(submission(side), task, seed, count, HEX)
                scores = pa.array((rng.random(count) < shares).astype(float))
                table = pa.table({**shared, "score": scores, "status": scored})
                folder = root / side / "mini" / side / run_key(made)[:16]
                write_json(folder / "run.json", made)
                write_json(folder / "receipt.json", {"frozen": True})
                write_parquet(folder / "answers.parquet", answers)
                write_parquet(folder / f"scores-{HEX[:12]}.parquet", table)
                bundle._seal(folder)  # noqa: SLF001  (no public way to seal what no record was made of)
    (root / "policy.toml").write_text("\n".join(policy))


def example_run(of: Submission, task: str, seed: int, count: int, digest: str) -> Run:
    """The record of one run."""
    return Run(
        submission=of,
        protocol="mini",
        protocol_version=1,
        suite="mini",
        recipes={"feature": digest},
        task=task,
        task_digest=digest,
        dataset_digest=digest,
        split="validation",
        metric="exact_match",
        chance=0.0,
        seed=seed,
        engine="hf",
        dtype="float32",
        llm_revision=digest,
        counts=Counts(num_expected=count, num_scored=count, num_unparsed=0, num_error=0, num_missing=0),
    )


def main() -> int:
    """Run all; exit code 1 where one is too slow or wrong."""
    results = [bench_bootstrap(), bench_all_pairs(), bench_check(), bench_store.main() == 0]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
