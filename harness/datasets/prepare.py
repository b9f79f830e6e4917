"""Writes a prepared dataset: rows, media and the note that makes it exist, in a draft that is renamed.

A draft survives an interruption: a split whose rows were written is not read again, and a picture that
is there with its name, which is its content's, is not written again. The folder appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.data import NOTE
from harness.datasets.rows import Row, dataset_digest, fact, row_faults, row_name
from harness.datasets.specs import DatasetSpec
from harness.digest import digest_bytes, digest_file, digest_json
from harness.errors import DatasetError, IntegrityError, ResourceError, StoreBusyError, UnsafeInputError
from harness.files import atomic_file, read_json, read_parquet, temporary_name, write_json, write_parquet
from harness.media import MEDIA, MEDIA_SCHEMA

GROUP_ROWS = 16_384
"""Rows a row group, and rows held in memory while a split is written."""
MADE_BY = "eyechart data 1"
"""Version of the layout; written into the note."""
_DONE = ".done"
_SUFFIXES = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"))
_CROSS = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK}
"""What a hard link fails with where a symbolic one can do."""


@dataclass(frozen=True, slots=True)
class Medium:
    """One image or clip."""

    reference: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Item:
    """A row, without its image, and what it hangs on."""

    row: Row
    medium: Medium | None
    where: str
    """The row at its source, for messages."""


Progress = Callable[[int, int], None]


class Draft:
    """A dataset on its way.

    Args:
        spec: which.
        root: the suite's data folder.
        copy: copy media instead of linking them.
    """

    def __init__(self, spec: DatasetSpec, root: Path, *, copy: bool = False) -> None:
        self.spec, self._copy = spec, copy
        self.target, self.folder = root / spec.name, root / f".{spec.name}-draft"
        self._splits: dict[str, dict[str, Any]] = {}
        self._media: dict[str, Medium] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                "cannot write a dataset", where=str(self.folder), found=os.strerror(error.errno or 0)
            ) from error
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            fix = "wait for it, then run the same command again"
            raise StoreBusyError(
                "another process prepares this dataset", where=str(self.target), fix=fix
            ) from error

    def release(self) -> None:
        """Let others write the dataset; the draft stays for the next time."""
        os.close(self._lock)

    def store(self, data: bytes) -> Medium:
        """Keep an image's bytes below images/, under the name of their content; equal ones once."""
        sha256 = digest_bytes(data)
        suffix = next((s for magic, s in _SUFFIXES if data.startswith(magic)), _by_riff(data))
        reference = f"images/{sha256[:2]}/{sha256[2:34]}{suffix}"
        if reference not in self._media:
            path = self.folder / reference
            if not path.is_file() or path.stat().st_size != len(data):
                _write_quickly(path, data)
        return self._media.setdefault(reference, Medium(reference, sha256, len(data)))

    def link(self, source: Path, reference: str) -> Path:
        """Have a source's file below the dataset: hard link, symbolic link on another device, or a copy.

        Raises:
            DatasetError: the source is missing.
            ResourceError: the disk refuses.
        """
        path = self.folder / reference
        if path.is_file() and path.samefile(source):
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if self._copy:
                shutil.copyfile(source, path)
                return path
            try:
                path.hardlink_to(source.resolve(strict=True))
            except OSError as error:
                if error.errno not in _CROSS:
                    raise
                path.symlink_to(source.resolve(strict=True))
        except FileNotFoundError as error:
            raise DatasetError("file is missing", where=str(source)) from error
        except OSError as error:
            found = os.strerror(error.errno or 0)
            fix = "free some space and run the same command again"
            raise ResourceError("cannot write a dataset", where=str(path), found=found, fix=fix) from error
        return path

    def linked(self, source: Path, reference: str, data: bytes | None = None) -> Medium:
        """Link one image or clip and note it."""
        if known := self._media.get(reference):
            return known
        path = self.link(source, reference)
        sha256 = digest_file(path) if data is None else digest_bytes(data)
        return self._media.setdefault(reference, Medium(reference, sha256, path.stat().st_size))

    def split(
        self,
        name: str,
        items: Callable[[], Iterable[Item]],
        stamp: object,
        *,
        source: str,
        check: bool = True,
        told: Callable[[], dict[str, Any]] = dict,
    ) -> int:
        """Write one split, unless the draft holds it from the same source already; returns its rows.

        Args:
            name: the split.
            items: its rows, read only if needed.
            stamp: what the rows come from (names, sizes, times); another stamp writes the split anew.
            source: where, for messages.
            check: look at each row; False for a split drawn from a checked one.
            told: what is known of the split once its rows were read, for the note; see `told_of`.

        Raises:
            DatasetError: a row that must not be, named by row and field; or no rows.
        """
        mark = self.folder / f"{_DONE}-{name}.json"
        stamp = digest_json([self.spec.name, str(self.spec.schema), MADE_BY, stamp])
        if done := self._finished(name, mark, stamp):
            self._splits[name] = done
            return int(done["rows"])
        state, seen = hashlib.sha256(), set[tuple[Any, ...]]()
        path, list_path = self.folder / f"{name}.parquet", self.folder / f"{_DONE}-{name}.parquet"
        with RowWriter(list_path, MEDIA_SCHEMA) as media, RowWriter(path, self.spec.schema) as rows:
            used: set[str] = set()
            for item in items():
                row, medium = item.row, item.medium
                if check:
                    _refuse_faults(self.spec, item, seen)
                if medium is not None:
                    if "image" in self.spec.schema.names:
                        row["image"] = medium.reference
                    if medium.reference not in used:
                        # Rows of a shard are each used once: to remember them would cost memory only.
                        used.update({medium.reference} if self.spec.media != "shard" else ())
                        media.add(dict(zip(MEDIA_SCHEMA.names, astuple(medium), strict=True)))
                state.update(fact(row, medium.sha256 if medium else "", item.where))
                rows.add(row)
            if not rows.count:
                raise DatasetError("split is empty", where=f"{source}: {name}", found="0 rows")
        done = {"rows": rows.count, "facts": state.hexdigest(), "sha256": digest_file(path), "stamp": stamp}
        done["told"] = told()
        self._splits[name] = done
        write_json(mark, done)
        return rows.count

    def _finished(self, name: str, mark: Path, stamp: str) -> dict[str, Any] | None:
        """What an interrupted preparation left of a split, if it is whole and of the same source."""
        try:
            done: dict[str, Any] = read_json(mark)
            media = read_parquet(mark.with_suffix(".parquet"), ["path"]).column(0).to_pylist()
            if done["stamp"] != stamp or digest_file(self.folder / f"{name}.parquet") != done["sha256"]:
                return None
        except (IntegrityError, OSError, KeyError, TypeError):
            return None
        there = {path.partition("#")[0] for path in media}
        return done if all((self.folder / path).is_file() for path in there) else None

    def facts_of(self, name: str) -> str:
        """sha256 over the rows of a split that was written."""
        return str(self._splits[name]["facts"])

    def told_of(self, name: str) -> dict[str, Any]:
        """What was known of a split after its rows were read, now or by an interrupted preparation."""
        return dict(self._splits[name]["told"])

    def media_of(self, name: str) -> dict[str, tuple[str, int]]:
        """Reference -> sha256 and bytes of what a written split uses."""
        columns = read_parquet(self.folder / f"{_DONE}-{name}.parquet", MEDIA_SCHEMA.names).columns
        paths, digests, sizes = (column.to_pylist() for column in columns)
        return dict(zip(paths, zip(digests, sizes, strict=True), strict=True))

    def close(self, note: dict[str, Any]) -> str:
        """Write media.parquet and the note, and put the folder in its place; returns the digest."""
        media = self._used_media()
        self._remove_unused({path.partition("#")[0] for path in media.column("path").to_pylist()})
        write_parquet(self.folder / MEDIA, media)
        for leftover in self.folder.glob(f"{_DONE}-*"):
            leftover.unlink()
        digest = dataset_digest({name: split["facts"] for name, split in self._splits.items()})
        files = {f"{name}.parquet": split["sha256"] for name, split in self._splits.items()}
        files[MEDIA] = digest_file(self.folder / MEDIA)
        rows = {name: split["rows"] for name, split in self._splits.items()}
        about = {"digest": digest, "rows": rows, "files": files, "made_by": MADE_BY}
        write_json(self.folder / NOTE, {**note, **about})
        before = self.folder.with_name(f".{self.spec.name}-before")
        shutil.rmtree(before, ignore_errors=True)
        # Two renames and no removal in between: a kill leaves the old one, or the new one, or both whole.
        if self.target.exists():
            self.target.rename(before)
        self.folder.rename(self.target)
        shutil.rmtree(before, ignore_errors=True)
        return digest

    def _remove_unused(self, used: set[str]) -> None:
        """What an attempt from another source left."""
        for part in ("images", "shards", "clips"):
            for path in (self.folder / part).rglob("*"):
                if not path.is_dir() and path.relative_to(self.folder).as_posix() not in used:
                    path.unlink()

    def _used_media(self) -> pa.Table:
        """Media of the written splits, each once: a draft may hold more than they use."""
        parts = [read_parquet(self.folder / f"{_DONE}-{name}.parquet") for name in self._splits]
        table = pa.concat_tables(parts).sort_by("path").combine_chunks()
        paths = table.column("path")
        if len(table) < 2:
            return table
        again = pc.equal(paths.slice(1), paths.slice(0, len(paths) - 1)).combine_chunks()
        return table.filter(pa.concat_arrays([pa.array([True]), pc.invert(again)]))

    def discard(self) -> None:
        """Remove what an earlier attempt left."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _by_riff(data: bytes) -> str:
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ".img"


def _refuse_faults(spec: DatasetSpec, item: Item, seen: set[tuple[Any, ...]]) -> None:
    for fault in row_faults(spec, item.row):
        raise DatasetError(
            "row is not sound",
            where=f"{item.where}, field {fault.field}",
            found=fault.found,
            expected=fault.expected,
            fix="fetch the file again, or take the row out at the source and say so",
        )
    if not spec.ids:
        return
    name = row_name(spec, item.row)
    if name in seen:
        found = ", ".join(str(part) for part in name)
        raise DatasetError(
            "two rows have one name",
            where=f"{item.where}, field {', '.join(spec.ids)}",
            found=found,
            expected="unique names",
        )
    seen.add(name)


class RowWriter:
    """Rows into one Parquet file, `GROUP_ROWS` in memory at a time; same rows, same bytes.

    Raises:
        DatasetError: a value does not fit its column.
        ResourceError: see `atomic_file`.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.count = 0
        self._path, self._schema, self._waiting = path, schema, list[Row]()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(atomic_file(self._path))
            writer = pq.ParquetWriter(
                file, self._schema, compression="zstd", compression_level=3, write_page_checksum=True
            )
            self._writer = opened.enter_context(contextlib.closing(writer))
            self._stack = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._write()

    def add(self, row: Row) -> None:
        """One more row."""
        self._waiting.append(row)
        self.count += 1
        if len(self._waiting) == GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            table = pa.Table.from_pylist(self._waiting, schema=self._schema)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            where = f"{self._path.stem}: rows {self.count - len(self._waiting)} to {self.count - 1}"
            found = " ".join(str(error).split())
            raise DatasetError("value does not fit its column", where=where, found=found) from error
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._waiting.clear()


def _write_quickly(path: Path, data: bytes) -> None:
    """A file whole or not at all, without waiting for the disk: one of many thousands, checked when read.

    Raises:
        ResourceError: no space, no quota, or an input/output error.
    """
    temporary = path.parent / temporary_name()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        fix = "free some space and run the same command again; what is written is kept"
        found = os.strerror(error.errno or 0)
        raise ResourceError("cannot write an image", where=str(path), found=found, fix=fix) from error


def file_stamp(files: Iterable[Path]) -> list[list[Any]]:
    """What tells whether sources are those of an earlier attempt: name, size, time of change.

    Raises:
        DatasetError: a file is missing.
    """
    stamps = []
    for path in files:
        try:
            about = path.stat()
        except OSError as error:
            raise DatasetError("file is missing", where=str(path)) from error
        stamps.append([path.name, about.st_size, about.st_mtime_ns])
    return stamps


def safe_name(name: str, where: str) -> str:
    """A source's file name, as part of a reference.

    Raises:
        UnsafeInputError: it leads elsewhere, or has characters that references use.
    """
    if not name or name in {".", ".."} or any(c in name for c in "/\\#\0") or not name.isprintable():
        raise UnsafeInputError("file name refused", where=where, found=repr(name), expected="a plain name")
    return name
