"""The rows of `declared_pairs` and `pair_differences`: declared pairs, and what was measured between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from harness.comparison import compare
from harness.pairs import Pair
from harness.stats import null_unknown
from harness.variance import SeedPool


def declared_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row a pair, in an order that does not depend on the file's."""
    return [asdict(pair) for pair in sorted(pairs, key=lambda p: (p.a, p.b))]


def pair_notes(
    pairs: Sequence[Pair], encoders: Collection[str], facts: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Pairs that do not count, in words: one arm is not there, or the records contradict the declaration.

    Args:
        pairs: the declared ones. Those of which neither arm is there are another board's.
        encoders: what is there.
        facts: rows of `pair_facts`.
    """
    notes = []
    for pair in pairs:
        lacking = sorted({pair.a, pair.b} - set(encoders))
        wrong = [
            f"{f['aspect']} (declared: {f['declared']}, found: {f['found']})"
            for f in facts
            if (f["a"], f["b"]) == (pair.a, pair.b) and f["contradicted"]
        ]
        if len(lacking) == 1:
            notes.append(f"{pair.a}, {pair.b}: no runs of {lacking[0]}")
        elif wrong:
            notes.append(f"{pair.a}, {pair.b}: the records contradict {'; '.join(wrong)}; not counted")
    return tuple(notes)


def difference_rows(
    pairs: Sequence[Pair],
    tables: Mapping[str, NDArray[Any]],
    clusters: NDArray[Any],
    pool: SeedPool,
    floors: Collection[str],
) -> list[dict[str, Any]]:
    """A row for each pair whose both arms are complete on one task.

    Args:
        pairs: the declared ones.
        tables: (seeds, samples) scores of each complete encoder, all on the same samples in the same order.
        clusters: (samples,) image or video of each sample.
        pool: seed variance pooled over the encoders that are no floors.
        floors: which encoders are floors.
    """
    rows = []
    for pair in pairs:
        if pair.a in tables and pair.b in tables:
            sides = (pair.a in floors, pair.b in floors)
            row = _pair_row(tables[pair.a], tables[pair.b], clusters, pool, sides)
            rows.append({"a": pair.a, "b": pair.b, **row})
    return rows


def _pair_row(
    a: NDArray[Any],
    b: NDArray[Any],
    clusters: NDArray[Any],
    pool: SeedPool | None,
    floors: tuple[bool, bool] = (False, False),
) -> dict[str, Any]:
    """The difference a − b on one task and what goes with it; None stands for what is unknown."""
    found = compare(a, b, clusters, pool, floors)
    got = found.interval
    columns = null_unknown(got)
    return {
        "difference": got.value,
        **columns,
        "p": None if columns["se"] is None else got.p,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "num_samples": found.num_samples,
        "num_clusters": found.num_clusters,
        "detectable": found.detectable,
    }
