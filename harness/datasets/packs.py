"""Task packs: what the site needs to show a sample, one Parquet a dataset digest (docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness import prompts
from harness.data import read_note
from harness.datasets.prepare import RowWriter
from harness.datasets.rows import Row
from harness.errors import DatasetError
from harness.records import Task
from harness.task import known_tasks, read_task

PACK_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("task", pa.string()),
        ("question", pa.string()),
        ("references", pa.list_(pa.string())),
        ("cluster", pa.string()),
        ("license", pa.string()),
        ("media", pa.string()),
        ("thumbnail", pa.binary()),
    ]
)
_BATCH_ROWS = 4096


def tasks_of(suite: str, dataset: str, tasks_dir: Path | None = None) -> list[Task]:
    """Tasks that read a dataset, by name."""
    tasks = (read_task(name, tasks_dir) for name in known_tasks(tasks_dir))
    return [task for task in tasks if (task.suite, task.dataset) == (suite, dataset)]


def write_pack(folder: Path, tasks: Sequence[Task], license_: str) -> Path:
    """Write `packs/<digest>.parquet` into a prepared dataset; no thumbnails, no picture leaves its place.

    Args:
        folder: the dataset's.
        tasks: whose samples are told; a task whose split is not there is an error.
        license_: of the pictures.

    Raises:
        DatasetError: no such dataset or split, or a row lacks a column.
        ResourceError: see `atomic_file`.
    """
    note = read_note(folder)
    path = folder / "packs" / f"{note['digest']}.parquet"
    with RowWriter(path, PACK_SCHEMA) as pack:
        for task in tasks:
            if task.split not in note["rows"]:
                raise DatasetError("split is missing", where=f"{folder}: {task.split}", expected=task.name)
            for row in _samples(folder / f"{task.split}.parquet", task, license_):
                pack.add(row)
    return path


def _samples(path: Path, task: Task, license_: str) -> Iterator[Row]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        index = 0
        for batch in file.iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                name = prompts.sample_id(task, row, index) if task.kind == "probe" else ""
                media = f"clips/{row['video']}.mp4" if "video" in row else str(row.get("image", ""))
                yield {
                    "sample_id": name or prompts.sample_id(task, row),
                    "task": task.name,
                    "question": question_of(task, row),
                    "references": list(prompts.references(task, row)),
                    "cluster": prompts.cluster(task, row, index),
                    "license": license_,
                    "media": media,
                    "thumbnail": None,
                }
                index += 1


def question_of(task: Task, row: Row) -> str:
    """As a person asked it, with the options that an answer's letter stands for; empty for a probe.

    RefCOCO's column `question` is an instruction that no task uses.

    Raises:
        DatasetError: the row lacks a column.
    """
    if task.kind == "probe":
        return ""
    if task.kind == "choice":
        return prompts.build_prompt(task, row).removesuffix(prompts.LETTER_REQUEST)
    return str(row["answer"] if task.cluster_key == "file_name" else row["question"])
