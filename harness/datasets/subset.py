"""A split drawn from another by a rule that anyone can repeat: VQAv2's 16,384 questions.

Images in the order of sha256("eyechart-vqav2-16k:<image_id>"), the questions of one by `question_id`, cut at
exactly the number wanted; of fewer rows all are taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from harness.datasets.prepare import Draft, Item, Medium
from harness.digest import digest_bytes
from harness.files import read_parquet

SALT = "eyechart-vqav2-16k"


def subset_order(image_ids: list[int], question_ids: list[int], count: int) -> list[int]:
    """Row numbers of the subset, in its order."""
    keys = {i: digest_bytes(f"{SALT}:{i}".encode()) for i in set(image_ids)}
    order = sorted(range(len(image_ids)), key=lambda row: (keys[image_ids[row]], question_ids[row]))
    return order[:count]


def draw_subset(draft: Draft, base: str, name: str, count: int) -> int:
    """Write the drawn split beside the one it comes from; returns its rows."""
    path = draft.folder / f"{base}.parquet"
    whole = read_parquet(path)
    order = subset_order(whole.column("image_id").to_pylist(), whole.column("question_id").to_pylist(), count)
    table = whole.take(pa.array(order))
    media = draft.media_of(base)

    def items() -> Iterator[Item]:
        for start in range(0, len(table), 1024):
            for row in table.slice(start, 1024).to_pylist():
                reference = row["image"]
                yield Item(row, Medium(reference, *media[reference]), f"{path}: {row['question_id']}")

    return draft.split(name, items, [base, draft.facts_of(base)], source=str(path), check=False)
