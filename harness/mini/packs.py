"""Task packs of the embedded suite, with a small copy of every picture: the site's explorer shows them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness import prompts
from harness.data import read_note, read_rows
from harness.datasets.packs import PACK_SCHEMA, question_of, tasks_of
from harness.datasets.prepare import RowWriter
from harness.images import decode_rgb
from harness.mini.clips import SHOWN_FRAMES, render_frame, sample_clips
from harness.mini.suite import VIDEO_SEED, suite_digests
from harness.mini.world import SIDE, class_name
from harness.records import Task

Row = dict[str, Any]
RGB = NDArray[np.uint8]
QUALITY = 80
"""Of the lossy WebP: noise in the backgrounds makes a lossless copy six times as large."""
GAP = 4
"""Px between the frames of a clip: even, since the format keeps colour at half the resolution."""
DRAWN, DIGITS = "Apache-2.0", "CC-BY-4.0"
"""Licences: the repository's for what its code draws; of the scans of handwritten digits (UCI)."""


def write_packs(root: Path) -> list[Path]:
    """Write the packs that are missing, one a dataset with a task; returns those written.

    Args:
        root: folder of the suite, whose datasets are there.

    Raises:
        DatasetError, ResourceError: as `harness.datasets.packs.write_pack`.
    """
    written = []
    for name in sorted(suite_digests(root)):
        tasks = tasks_of("mini", name)
        path = root / name / "packs" / f"{read_note(root / name)['digest']}.parquet"
        if tasks and not path.is_file():
            with RowWriter(path, PACK_SCHEMA) as pack:
                for task in tasks:
                    for row in _samples(root / name, task):
                        pack.add(row)
            written.append(path)
    return written


def _samples(folder: Path, task: Task) -> Iterator[Row]:
    path = folder / f"{task.split}.parquet"
    rows = read_rows(path)
    strips = _strips(len(rows)) if task.dataset == "video" else []
    for index, row in enumerate(rows):
        probe = task.kind == "probe"
        clip = "video" in row
        picture = strips[row["video"]] if clip else decode_rgb(row["image"]["bytes"] or b"", str(path))
        yield {
            "sample_id": prompts.sample_id(task, row, index) if probe else prompts.sample_id(task, row),
            "task": task.name,
            "question": _class_question(row) if task.dataset == "probe" else question_of(task, row),
            "references": list(prompts.references(task, row)),
            "cluster": prompts.cluster(task, row, index),
            "license": DIGITS if task.dataset == "digits" else DRAWN,
            "media": f"clips/{row['video']}.mp4" if clip else f"{path.name}#{index}",
            "thumbnail": small_copy(picture),
        }


def _class_question(row: Row) -> str:
    """A probe is asked nothing; what its number means helps a reader all the same."""
    return f"Which of the classes? Number {row['label']} means a {class_name(row['label'])}."


def _strips(count: int) -> list[RGB]:
    """The frames that the protocol shows, side by side with white between, of each clip of the split."""
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    strips = []
    for clip in sample_clips("test", count, seed=VIDEO_SEED):
        parts = [part for i in SHOWN_FRAMES for part in (gap, render_frame(clip, i))]
        strips.append(np.concatenate(parts[1:], axis=1))
    return strips


def small_copy(picture: RGB) -> bytes:
    """A picture as lossy WebP; the same picture gives the same bytes with the same library."""
    target = io.BytesIO()
    Image.fromarray(picture).save(target, "WEBP", quality=QUALITY, method=4)
    return target.getvalue()
