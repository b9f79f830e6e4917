"""The doctor of a prepared dataset: everything that can be wrong with it, one line each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.data import NOTE, read_note
from harness.datasets.leaks import in_threads
from harness.datasets.rows import Row, dataset_digest, fact, row_faults, row_name, schema_faults
from harness.datasets.specs import DatasetSpec
from harness.digest import digest_bytes, digest_file
from harness.errors import DatasetError, EyechartError, IntegrityError
from harness.fields import show
from harness.files import read_json
from harness.images import decode_clip, decode_rgb
from harness.media import MEDIA, MediaReader, read_media_list

SHOWN = 10
"""Findings of one kind in one file that are told one by one."""
_BATCH_ROWS = 1024

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    file: str
    row: int | None
    """From 0; None where it concerns the file."""
    field: str
    found: str
    expected: str

    def line(self) -> str:
        """For a person."""
        row = "" if self.row is None else f", row {self.row}"
        field_ = f", field {self.field}" if self.field else ""
        return f"{self.file}{row}{field_}: found {self.found}, expected {self.expected}"


@dataclass
class Health:
    """What the doctor saw."""

    dataset: str
    digest: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    num_media: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class _Doctor:
    def __init__(self, spec: DatasetSpec, folder: Path, workers: int, progress: Progress) -> None:
        self.spec, self.folder, self.health = spec, folder, Health(spec.name)
        self._workers, self._progress = workers, progress
        self._counts: dict[tuple[str, str], int] = {}
        self._listed: dict[str, tuple[str, int]] = {}
        self._used: dict[str, dict[str, int]] = {}
        """Split -> reference -> its first row."""

    def say(self, file: str, row: int | None, field_: str, found: str, expected: str) -> None:
        """Note one finding; of many alike the first ten and, at the end, how many."""
        count = self._counts[file, field_] = self._counts.get((file, field_), 0) + 1
        if count <= SHOWN:
            self.health.findings.append(Finding(file, row, field_, found, expected))

    def examine(self) -> Health:
        note = read_note(self.folder)
        raw: dict[str, Any] = read_json(self.folder / NOTE)
        self.health.digest, self.health.rows = note["digest"], dict(note["rows"])
        partial = bool(raw.get("partial"))
        if partial:
            self.health.notes.append("taken with --partial: fewer or more rows than were published")
        self._files(note["files"])
        try:
            self._listed = read_media_list(self.folder)
        except (IntegrityError, DatasetError) as error:
            self.say(MEDIA, None, "", error.found or error.what, "a whole list of the media")
        self.health.num_media = len(self._listed)
        facts = {}
        for name in note["rows"]:
            if digest := self._split(name, int(note["rows"][name]), partial=partial):
                facts[name] = digest
        for split in self.spec.splits:
            if split.name not in note["rows"] and not split.optional:
                self.say(f"{split.name}.parquet", None, "", "no such split", f"the split {split.name}")
        self._media()
        self._overlap()
        if len(facts) == len(note["rows"]) and (whole := dataset_digest(facts)) != note["digest"]:
            self.say(NOTE, None, "digest", whole[:16], f"{note['digest'][:16]}, as was imported")
        for (file, field_), count in self._counts.items():
            if count > SHOWN:
                more = f"{count - SHOWN:,} more like the last"
                self.health.findings.append(Finding(file, None, field_, more, "none"))
        return self.health

    def _files(self, files: dict[str, str]) -> None:
        for name, recorded in files.items():
            path = self.folder / name
            if not path.is_file():
                self.say(name, None, "", "no such file", "the file that was written")
            elif (found := digest_file(path)) != recorded:
                self.say(name, None, "", f"sha256 {found[:16]}", f"{recorded[:16]}, as was written")

    def _split(self, name: str, expected: int, *, partial: bool) -> str:
        """Look at every row; the digest of their facts, "" where they cannot be read."""
        path, file_name = self.folder / f"{name}.parquet", f"{name}.parquet"
        if not path.is_file():
            return ""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                faults = list(schema_faults(file.schema_arrow, self.spec.columns))
                for fault in faults:
                    self.say(file_name, None, fault.field, fault.found, fault.expected)
                if faults:
                    return ""
                return self._rows(name, file, expected, partial=partial)
        except (pa.ArrowException, OSError, ValueError) as error:
            self.say(file_name, None, "", " ".join(str(error).split())[:120], "a whole Parquet file")
            return ""

    def _rows(self, name: str, file: pq.ParquetFile, expected: int, *, partial: bool) -> str:
        file_name, total = f"{name}.parquet", file.metadata.num_rows
        published = next((s.rows for s in self.spec.splits if s.name == name), None)
        if total != expected:
            self.say(file_name, None, "", f"{total:,} rows", f"{expected:,}, as was imported")
        if published is not None and total != published and not partial:
            self.say(file_name, None, "", f"{total:,} rows", f"{published:,}, as was published")
        if not total:
            self.say(file_name, None, "", "0 rows", "at least one")
        state, seen = hashlib.sha256(), dict[tuple[Any, ...], int]()
        used = self._used[name] = {}
        columns = [column for column, _ in self.spec.columns]
        number = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                self._row(file_name, number, row, seen)
                reference = _reference(self.spec, row)
                used.setdefault(reference, number)
                sha256 = self._listed.get(reference, ("", 0))[0]
                try:
                    state.update(fact(row, sha256, f"{file_name}, row {number}"))
                except DatasetError as error:
                    self.say(file_name, number, "", error.found, "numbers that are finite")
                number += 1
            self._progress("rows", number, total)
        return state.hexdigest()

    def _row(self, file: str, number: int, row: Row, seen: dict[tuple[Any, ...], int]) -> None:
        for fault in row_faults(self.spec, row):
            self.say(file, number, fault.field, fault.found, fault.expected)
        if self.spec.ids:
            name = row_name(self.spec, row)
            if (first := seen.setdefault(name, number)) != number:
                found = f"{', '.join(map(str, name))}, as in row {first}"
                self.say(file, number, ", ".join(self.spec.ids), found, "a name of its own")

    def _media(self) -> None:
        """Every image and clip that a row uses: listed, the same bytes, decodable."""
        wanted: dict[str, tuple[str, int]] = {}
        for split, used in self._used.items():
            for reference, row in used.items():
                wanted.setdefault(reference, (split, row))
        order = sorted(wanted, key=_place)
        reader = MediaReader(self.folder)
        field_ = "video" if self.spec.media == "clip" else "image"

        def loaded() -> Iterator[tuple[str, bytes | EyechartError]]:
            for reference in order:
                try:
                    yield reference, reader.read(reference)
                except EyechartError as error:
                    yield reference, error

        def look(one: tuple[str, bytes | EyechartError]) -> tuple[str, str, str]:
            reference, data = one
            try:
                return reference, *self._look(reference, data)
            except EyechartError as error:
                return reference, f"{reference}: {error.found or error.what}", error.expected or "media"

        looked = in_threads(look, loaded(), self._workers)
        for done, (reference, found, expected) in enumerate(looked, 1):
            self._progress("media", done, len(order))
            if found:
                split, row = wanted[reference]
                self.say(f"{split}.parquet", row, field_, found, expected)

    def _look(self, reference: str, data: bytes | EyechartError) -> tuple[str, str]:
        """What is wrong with one image or clip; two empty texts where nothing is."""
        if isinstance(data, EyechartError):
            raise data
        listed = self._listed.get(reference)
        if listed is None:
            return reference, f"an entry in {MEDIA}"
        if (sha256 := digest_bytes(data)) != listed[0]:
            return (
                f"{reference}: sha256 {sha256[:16]}, {len(data):,} bytes",
                f"{listed[0][:16]}, {listed[1]:,}",
            )
        if self.spec.media == "clip":
            decode_clip(data, 2, reference)
        else:
            decode_rgb(data, reference)
        return "", ""

    def _overlap(self) -> None:
        for left, right in self.spec.disjoint:
            if left not in self._used or right not in self._used:
                continue
            first = {self._listed[r][0]: row for r, row in self._used[left].items() if r in self._listed}
            for reference, row in self._used[right].items():
                if (other := first.get(self._listed.get(reference, ("", 0))[0])) is not None:
                    found = f"the image of {left}, row {other}"
                    self.say(f"{right}.parquet", row, "image", found, f"none of {left}'s")


def _reference(spec: DatasetSpec, row: Row) -> str:
    if spec.media == "clip":
        return f"clips/{row['video']}.mp4"
    return str(row["image"]) if row["image"] else show(row["image"])


def _place(reference: str) -> tuple[str, int]:
    """Shards are read in the order of their rows."""
    name, _, part = reference.partition("#")
    first = part.partition("+")[0]
    return name, int(first) if first.isdecimal() and len(first) < 19 else 0


def examine_dataset(
    spec: DatasetSpec,
    folder: Path,
    *,
    workers: int = 1,
    progress: Progress = lambda _what, _done, _total: None,
) -> Health:
    """Look at files, rows, names, answers, media, overlap of splits and digest of a prepared dataset.

    Args:
        spec: what it should be.
        folder: where it is.
        workers: threads that decode.
        progress: told what is looked at, how many are done, of how many.

    Raises:
        DatasetError: there is no such dataset, or its note is damaged.
    """
    return _Doctor(spec, folder, workers, progress).examine()
