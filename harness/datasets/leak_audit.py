"""The leak audit of a prepared mixture: which of its images are images of the evaluation splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.data import read_note
from harness.datasets.checks import Finding, Health
from harness.datasets.leaks import LEAKS, Leak, Leaks, evaluation_table, in_threads, write_leaks
from harness.datasets.make import prepared_evaluations
from harness.errors import EyechartError, IntegrityError
from harness.files import read_parquet
from harness.media import MediaReader, read_media_list


def audit_mixture(
    root: Path, health: Health, workers: int, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Compare the mixture with every evaluation dataset that is prepared beside it.

    Pairs go to `leaks.parquet`, beside those that were removed when the mixture was prepared. Equal bytes
    are a finding; a near look is a note, since two pictures may only look alike.

    Args:
        root: the suite's data folder.
        health: of the mixture; findings and notes are added.
        workers: threads that decode.
        progress: told the images done and in all.

    Returns:
        A record a dataset: dataset, same_bytes, near, removed.
    """
    folder = root / "mixture"
    names = prepared_evaluations(root)
    if not names:
        health.notes.append("no evaluation dataset is prepared here: nothing to compare the mixture with")
        return []
    before = _removed_before(folder)
    try:
        leaks = Leaks(evaluation_table(root, names, workers, progress))
        _compare(folder, leaks, workers, progress)
    except EyechartError as error:
        health.findings.append(Finding(error.where, None, "image", error.found or error.what, "an image"))
        return []
    left = [
        Leak(x.image_id, x.dataset, x.reference, x.bits, x.same_bytes, removed=False) for x in leaks.found
    ]
    write_leaks(folder, [*before, *left])
    counts: list[dict[str, Any]] = []
    for name in names:
        same = [x for x in left if x.dataset == name and x.same_bytes]
        near = [x for x in left if x.dataset == name and not x.same_bytes]
        removed = sum(x.dataset == name for x in before)
        counts.append({"dataset": name, "same_bytes": len(same), "near": len(near), "removed": removed})
        if same:
            found = f"{len(same):,} images of {name}, e.g. image_id {same[0].image_id} = {same[0].reference}"
            health.findings.append(Finding("train.parquet", None, "image", found, "none"))
        if near:
            health.notes.append(f"{len(near):,} images look like one of {name}: see {LEAKS}")
    if sum(c["same_bytes"] + c["near"] for c in counts):
        health.notes.append("prepare the mixture again with --against all to leave them out")
    return counts


def _removed_before(folder: Path) -> list[Leak]:
    """Pairs that were left out at preparation."""
    try:
        rows = read_parquet(folder / LEAKS).to_pylist()
    except IntegrityError:
        return []  # none were looked for
    return [Leak(**row) for row in rows if row["removed"]]


def _compare(folder: Path, leaks: Leaks, workers: int, progress: Callable[[int, int], None]) -> None:
    table = read_parquet(folder / "train.parquet", ["image_id", "image"])
    listed, reader = read_media_list(folder), MediaReader(folder)
    total = read_note(folder)["rows"]["train"]
    pairs = zip(*(column.to_pylist() for column in table.columns), strict=True)
    loaded = ((image_id, reference, reader.read(reference)) for image_id, reference in pairs)

    def look(one: tuple[int, str, bytes]) -> list[Leak]:
        image_id, reference, data = one
        return leaks.of(image_id, data, listed[reference][0], f"{folder}/{reference}")

    for done, _ in enumerate(in_threads(look, loaded, workers), 1):
        progress(done, total)
