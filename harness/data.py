"""The rows of a task's split and the images or frames they hang on.

A dataset is a folder with Parquet files, clips for video, and DATASET.json: its digest (over decoded
pixels and all other columns, so independent of how images are compressed), the rows of each split, and
the sha256 of each Parquet file and clip; for the embedded suite also the version that wrote it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import prompts
from harness.digest import digest_file
from harness.errors import DatasetError, IntegrityError
from harness.files import read_json, read_parquet
from harness.frame_pack import FramePack, pack_name
from harness.home import Home, find_home
from harness.images import decode_clip, decode_rgb
from harness.media import ReferencedImages, check_media, read_media_list
from harness.records import Sample, Task

RGB = NDArray[np.uint8]
NOTE = "DATASET.json"
_DIGEST, _NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"[\w-]+")


class EncodedImages:
    """Encoded image files in memory, by unique key."""

    def __init__(self, keys: list[str], files: list[bytes], where: str) -> None:
        self.keys, self._files, self._where = keys, files, where

    def load(self, i: int) -> RGB:
        """(H, W, 3) uint8 of row i.

        Raises:
            DatasetError: the image cannot be decoded.
        """
        return decode_rgb(self._files[i], f"{self._where}: image {self.keys[i]}")


class ClipFrames:
    """Frames of mp4 files; keys are "<clip>/<frame>", a clip's frames one after another."""

    def __init__(
        self, clips: list[str], folder: Path, frames: int, listed: dict[str, tuple[str, int]] | None = None
    ) -> None:
        self.keys = [f"{clip}/{frame}" for clip in clips for frame in range(frames)]
        self._clips, self._folder, self._frames = clips, folder, frames
        self._listed = listed or {}
        self._last: tuple[int, list[RGB]] = (-1, [])
        pack = folder.parent / pack_name(frames)
        self.pack = FramePack(pack, frames) if pack.is_file() and not folder.is_dir() else None
        """Frames decoded elsewhere, where the clips themselves are not here."""

    def load(self, i: int) -> RGB:
        """(H, W, 3) uint8 of one frame; a clip is decoded once while its frames are asked in order.

        Raises:
            DatasetError: the clip is missing or cannot be decoded.
        """
        clip, frame = divmod(i, self._frames)
        if self._last[0] != clip and self.pack:
            self._last = clip, self.pack.load(self._clips[clip])
        if self._last[0] != clip:
            path = self._folder / f"{self._clips[clip]}.mp4"
            if not path.is_file():
                raise DatasetError("clip is missing", where=str(path))
            if self._listed:
                reference = f"{self._folder.name}/{path.name}"
                check_media(path.read_bytes(), self._listed.get(reference), str(path))
            self._last = clip, decode_clip(path, self._frames, where=str(path))
        return self._last[1][frame]


@dataclass(frozen=True, slots=True)
class Split:
    """One split, ready to be encoded, asked and scored."""

    path: Path
    """The Parquet file."""
    digest: str
    """sha256 of the dataset."""
    samples: list[Sample]
    media: EncodedImages | ReferencedImages | ClipFrames
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) for probes, empty otherwise."""


def frames_decoder(folders: Sequence[Path], frames: int) -> str:
    """What decoded the clips of datasets that have their frames only; empty where the clips are here."""
    packs = [ClipFrames([], folder / "clips", frames).pack for folder in folders]
    return ", ".join(sorted({pack.decoded_by for pack in packs if pack}))


def read_note(folder: Path) -> dict[str, Any]:
    """DATASET.json of a dataset: digest, rows a split, files with their sha256, suite_version or None.

    Raises:
        DatasetError: the dataset is not there, or the note is damaged.
    """
    if not (folder / NOTE).is_file():
        raise DatasetError(
            "dataset is missing", where=str(folder), fix=f"run `{_command(folder)}` to write it"
        )
    try:
        note: dict[str, Any] = read_json(folder / NOTE)
        about = {
            "digest": str(note["digest"]),
            "rows": dict(note["rows"]),
            "files": dict(note["files"]),
            "suite_version": note.get("suite_version"),
        }
        _refuse_odd_note(about)
        return about
    except (IntegrityError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            "the dataset's note is damaged", where=str(folder / NOTE), found=str(error)
        ) from error


def _refuse_odd_note(about: dict[str, Any]) -> None:
    """Refuse a note whose values are of other types, or whose names lead out of the dataset's folder.

    Raises:
        ValueError: naming what.
    """
    if not _DIGEST.fullmatch(about["digest"]):
        raise ValueError(f"the digest {about['digest'][:80]!r}")
    for name, count in about["rows"].items():
        if not _NAME.fullmatch(name) or type(count) is not int or count < 0:
            raise ValueError(f"the split {name[:80]!r} with {str(count)[:20]!r} rows")
    for name, sha256 in about["files"].items():
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or not _DIGEST.fullmatch(str(sha256)):
            raise ValueError(f"the file {name[:80]!r}")


def _command(folder: Path) -> str:
    """What writes a dataset: the embedded one makes itself, the main one is fetched, others imported."""
    folder = folder.absolute()
    suite, root = folder.parent.name, folder.parent.parent.parent
    if folder.parent != Home(root).data(suite):
        return "eyechart mini data"
    own = {"mini": "mini data", "main": f"data fetch {folder.name}"}
    words = own.get(suite, f"data import {folder.name} FOLDER --suite {shlex.quote(suite)}")
    return f"eyechart {words}" + f" --home {shlex.quote(str(root))}" * (root != find_home().root)


def check_dataset(folder: Path, expected: str) -> str:
    """The dataset's digest, after comparing it with the pinned one and each file with its hash.

    Raises:
        DatasetError: the digest differs, or a file is missing or changed; names the first image that no
            longer decodes where there is one.
    """
    note = read_note(folder)
    if expected not in {"UNPINNED", note["digest"]}:
        raise DatasetError(
            "dataset is not the pinned one",
            where=str(folder),
            found=note["digest"][:16],
            expected=expected[:16],
        )
    for name, recorded in note["files"].items():
        path = folder / name
        if not path.is_file():
            raise DatasetError("file of a dataset is missing", where=str(path))
        if (found := digest_file(path)) != recorded:
            if path.suffix == ".parquet":
                _name_broken_image(path)
            raise DatasetError(
                "file of a dataset has changed",
                where=str(path),
                found=f"sha256 {found[:16]}",
                expected=recorded[:16],
                fix=f"remove the dataset's folder and run `{_command(folder)}`",
            )
        if note["rows"].get(path.stem) == 0:
            raise DatasetError("split is empty", where=str(path), found="0 rows", expected="at least one")
    return str(note["digest"])


def _name_broken_image(path: Path) -> None:
    """Raise for the first image of a changed file that does not decode; a better message than the hash."""
    for number, row in enumerate(read_rows(path)):
        if isinstance(cell := row.get("image"), Mapping):
            decode_rgb(cell["bytes"] or b"", f"{path}: row {number}, column image")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a split.

    Raises:
        DatasetError: the file is missing, unreadable or empty.
    """
    if not path.is_file():
        raise DatasetError("split is missing", where=str(path))
    try:
        rows: list[dict[str, Any]] = read_parquet(path).to_pylist()
    except (IntegrityError, ValueError) as error:  # ValueError: text that is no UTF-8
        found = getattr(error, "found", "") or str(error)
        raise DatasetError("split cannot be read", where=str(path), found=found) from error
    if not rows:
        raise DatasetError("split is empty", where=str(path), found="0 rows", expected="at least one")
    return rows


def open_split(task: Task, root: Path, frames: int, split: str | None = None) -> Split:
    """Samples and media of a task.

    Args:
        task: which dataset and split.
        root: the suite's data folder.
        frames: frames a clip, from the protocol.
        split: another split than the task's, e.g. "train" for probes.

    Raises:
        DatasetError: missing, changed or empty data, or another number of rows than the task expects.
    """
    folder = root / task.dataset
    digest = check_dataset(folder, task.dataset_digest)
    path = folder / f"{split or task.split}.parquet"
    rows = read_rows(path)
    if split is None and len(rows) != task.num_expected:
        raise DatasetError(
            "split has another number of rows",
            where=str(path),
            found=str(len(rows)),
            expected=str(task.num_expected),
        )
    if task.kind == "probe":
        keys = [f"{split or task.split}-{i}" for i in range(len(rows))]
        media = open_images(keys, rows, folder, path)
        labels = np.array([row["label"] for row in rows], np.int64)
        samples = [
            Sample(sample_id=key, cluster=key, media=(key,), prompt="", references=(str(label),))
            for key, label in zip(keys, labels, strict=True)
        ]
        return Split(path, digest, samples, media, labels)
    return Split(
        path, digest, [_sample(task, row, frames) for row in rows], _media(task, rows, folder, path, frames)
    )


def _sample(task: Task, row: dict[str, Any], frames: int) -> Sample:
    cluster = prompts.cluster(task, row)
    return Sample(
        sample_id=prompts.sample_id(task, row),
        cluster=cluster,
        media=tuple(f"{cluster}/{i}" for i in range(frames)) if "video" in row else (cluster,),
        prompt=prompts.build_prompt(task, row),
        references=prompts.references(task, row),
        options=prompts.options(task, row),
    )


def _media(
    task: Task, rows: Sequence[dict[str, Any]], folder: Path, path: Path, frames: int
) -> EncodedImages | ReferencedImages | ClipFrames:
    """Each image or clip once, in order of first use."""
    first = {prompts.cluster(task, row): row for row in reversed(rows)}
    ordered = list(dict.fromkeys(prompts.cluster(task, row) for row in rows))
    if "video" in rows[0]:
        return ClipFrames(ordered, folder / "clips", frames, read_media_list(folder))
    return open_images(ordered, [first[key] for key in ordered], folder, path)


def open_images(
    keys: list[str], rows: Sequence[dict[str, Any]], folder: Path, path: Path
) -> EncodedImages | ReferencedImages:
    """Images in the rows themselves, as the embedded suite has them, or beside them by reference."""
    if isinstance(rows[0]["image"], str):
        return ReferencedImages(keys, [row["image"] for row in rows], folder, read_media_list(folder))
    return EncodedImages(keys, [row["image"]["bytes"] or b"" for row in rows], str(path))
