"""Tables of docs/performance.md: what a graphics card answered beside what CPUs answered (results of record).

    python scripts/gpu_agreement.py GPU_RESULTS [--cpu results]

Both are folders of bundles; a run on the card is compared with the CPU run of the same run key. The unit of
the differences is a run (encoder, task, seed): its adapter was trained anew, so its samples move together.
Their standard error is the deviation between runs divided by the root of their number.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from harness.bundle import Bundle, find_bundles, read_bundle, run_key
from harness.errors import EyechartError, UsageError

TOLERANCE = 0.02
"""`harness.mini.record.TOLERANCE`, which is not imported: it would need torch."""
SAME_WEIGHTS = "demo-encoder", "mini-resnet-siglip-s0"
"""Two submissions of the same weights: on one machine their answers must be equal."""


@dataclass(frozen=True)
class Pair:
    """One run on the card beside its twin."""

    encoder: str
    task: str
    samples: int
    equal: int
    """Answers that are the same text."""
    cpu: float
    """Mean score."""
    gpu: float


def compare(gpu: Bundle, cpu: Bundle) -> Pair:
    """Sample by sample; both tables are sorted by sample_id.

    Raises:
        UsageError: the samples differ, which equal run keys exclude.
    """
    ours, theirs = (bundle.answer_table.to_pydict() for bundle in (gpu, cpu))
    if ours["sample_id"] != theirs["sample_id"]:
        raise UsageError("runs of other samples", where=str(gpu.path))
    equal = sum(a == b for a, b in zip(ours["answer"], theirs["answer"], strict=True))
    means = [
        float(np.mean([s or 0.0 for s in bundle.score_table["score"].to_pylist()])) for bundle in (cpu, gpu)
    ]
    return Pair(gpu.run.submission.id, gpu.run.task, len(ours["sample_id"]), equal, *means)


def table(pairs: Sequence[Pair], heading: str, name: Callable[[Pair], str]) -> str:
    """Markdown, one row a name, and a last one for all."""
    names = list(dict.fromkeys(name(pair) for pair in pairs))
    groups = [(n, [p for p in pairs if name(p) == n]) for n in names]
    lines = [
        f"| {heading} | runs | samples | equal answers | CPU | GPU | GPU − CPU, points | largest of a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, group in [*groups, ("all", list(pairs))]:
        moved = np.array([p.gpu - p.cpu for p in group]) * 100
        error = float(moved.std(ddof=1)) / math.sqrt(len(moved)) if len(moved) > 1 else math.nan
        samples = sum(p.samples for p in group)
        cpu, gpu = (float(np.mean([getattr(p, side) for p in group])) for side in ("cpu", "gpu"))
        lines.append(
            f"| {title} | {len(group)} | {samples:,} | {sum(p.equal for p in group) / samples:.1%} "
            f"| {cpu:.1%} | {gpu:.1%} | {moved.mean():+.2f} ± {error:.2f} | {np.abs(moved).max():.2f} |"
        )
    return "\n".join(lines)


def repeats(bundles: Sequence[Bundle]) -> str:
    """Whether two runs of the same weights on the card gave the same answers."""
    found = {(b.run.submission.id, b.run.task, b.run.seed): b.answer_table for b in bundles}
    one, other = SAME_WEIGHTS
    twins = [(t, found[other, *k[1:]]) for k, t in found.items() if k[0] == one and (other, *k[1:]) in found]
    if not twins:
        return ""
    same = sum(a.equals(b) for a, b in twins)
    return f"\n{one} and {other} have the same weights: {same} of {len(twins)} runs have the same answers."


def report(gpu_root: Path, cpu_root: Path) -> str:
    """All tables.

    Raises:
        UsageError: nothing to compare.
    """
    gpu = [read_bundle(path) for path in find_bundles(gpu_root)]
    cpu = {run_key(b.run): b for b in map(read_bundle, find_bundles(cpu_root))}
    pairs = [compare(b, cpu[key]) for b in gpu if (key := run_key(b.run)) in cpu]
    if not pairs:
        raise UsageError("no run on the card has a twin", where=str(gpu_root), expected=str(cpu_root))
    pairs.sort(key=lambda p: (p.task, p.encoder))
    devices = sorted({b.receipt.get("device", {}).get("name", "CPU") for b in gpu})
    outside = sum(abs(p.gpu - p.cpu) > TOLERANCE for p in pairs)
    head = (
        f"{len(pairs)} runs on {', '.join(devices)}; {outside} differ from their twin by more than "
        f"{TOLERANCE:.0%}; {len(gpu) - len(pairs)} have no twin."
    )
    by_encoder = sorted(pairs, key=lambda p: p.encoder)
    tables = table(pairs, "task", lambda p: p.task), table(by_encoder, "encoder", lambda p: p.encoder)
    return "\n\n".join([head, *tables]) + "\n" + repeats(gpu)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("gpu", type=Path, metavar="GPU_RESULTS")
    parser.add_argument("--cpu", type=Path, default=ROOT / "results")
    arguments = parser.parse_args()
    try:
        print(report(arguments.gpu, arguments.cpu))
    except EyechartError as error:
        print(error.line(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
