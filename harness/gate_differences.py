"""What two cells that should share everything but the encoder do not share, in words."""

from __future__ import annotations

import pyarrow as pa

from harness.gate_sides import TaskCell, differences

_LONGEST_ID = 60


def what_differs(ours: TaskCell, theirs: TaskCell) -> list[str]:
    """Conditions, samples or prompts that differ; empty where the two may be compared."""
    found = differences(ours.conditions, theirs.conditions)
    if ours.samples != theirs.samples:
        found.append(_samples(ours, theirs))
    elif ours.prompts != theirs.prompts:
        found.append("prompts")
    return found


def _samples(ours: TaskCell, theirs: TaskCell) -> str:
    """The sample sets by their sizes and the first id that only one has."""
    counts = f"sample set: {ours.scores.shape[1]:,} and {theirs.scores.shape[1]:,} samples"
    if ours.ids is None or theirs.ids is None:
        return counts
    first, second = (set(_texts(cell.ids)) for cell in (ours, theirs))
    alone = min(first ^ second, default=None)
    if alone is None:
        return f"{counts}, the same ids in other clusters"
    shown = alone if alone.isprintable() else ascii(alone)
    return f"{counts}, {shown[:_LONGEST_ID]} only in the {'first' if alone in first else 'second'}"


def _texts(ids: pa.ChunkedArray | None) -> list[str]:
    return [] if ids is None else [str(value) for value in ids.to_pylist()]
