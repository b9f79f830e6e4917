"""What a person has: Parquet files of a split, found and read in small pieces; images and clips by name."""

from __future__ import annotations

import io
import lzma
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.datasets.prepare import Draft, Medium, safe_name
from harness.datasets.rows import Row, schema_faults
from harness.datasets.specs import DatasetSpec
from harness.datasets.walk import files_below, is_file
from harness.errors import DatasetError, UnsafeInputError
from harness.fields import cut
from harness.files import atomic_file

BATCH_ROWS = 32
"""Rows with images in memory at a time."""
PICKLES = (".p", ".pkl", ".pickle", ".pt", ".pth", ".npy", ".mat")
_MAX_CLIP_BYTES = 4 * 2**30
MAX_IMAGE_BYTES = 256 * 2**20
UNZIPPING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
"""What a damaged, encrypted or unknown member of a zip raises."""
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_ORIENTATION = 0x0112
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, OverflowError)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_MAX_RATIO, _SMALL = 100, 2**20
_NUMBERED = r"(?:-\d{5}-of-\d{5})?"


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a Parquet source."""

    file: Path
    index: int
    """Within the file."""
    row: Row
    """Without the image's bytes."""
    image: bytes | None
    image_path: str
    """As the source names it, "" where it does not."""

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.file}: row {self.index}"


def refuse_pickle(path: Path) -> None:
    """Refuse a file that only code can read.

    Raises:
        UnsafeInputError: by its suffix it is a pickle or the like.
    """
    if path.suffix in PICKLES:
        raise UnsafeInputError(
            "file refused, reading a pickle can run code",
            where=str(path),
            fix="convert it elsewhere, in a throw-away container, with python's "
            "json.dump(pickle.load(open('refs(unc).p', 'rb')), open('refs.json', 'w')), and import the JSON",
        )


def split_files(folder: Path, split: str) -> list[Path]:
    """Parquet files of a split: `<split>-00000-of-00004.parquet`, `<split>.parquet`, `<split>/0000.parquet`.

    Raises:
        DatasetError: files are missing of a numbered row of them.
    """
    name = re.escape(split)
    pattern = re.compile(rf"(?:.*/)?(?:{name}{_NUMBERED}|{name}/(?:{name}-)?[\w-]+)\.parquet")
    found = [p for p in files_below(folder) if pattern.fullmatch(p.relative_to(folder).as_posix())]
    counts = {int(m[1]) for p in found if (m := re.search(r"-of-(\d{5})\.parquet$", p.name))}
    if counts and len(found) != max(counts):
        raise DatasetError(
            "Parquet files are missing",
            where=f"{folder}: split {split}",
            found=f"{len(found)} files",
            expected=f"{max(counts)}",
            fix="fetch the others, then run the same command again",
        )
    return sorted(found)


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file from anywhere.

    Raises:
        DatasetError: missing, cut short or no such file.
    """
    try:
        return pq.ParquetFile(path, buffer_size=1 << 20)
    except FileNotFoundError as error:
        raise DatasetError("file is missing", where=str(path)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(
            "not a whole Parquet file",
            where=str(path),
            found=f"{path.stat().st_size:,} bytes, {' '.join(str(error).split())[:120]}",
            fix="fetch or copy the file again",
        ) from error


def count_rows(files: Sequence[Path], columns: tuple[tuple[str, pa.DataType], ...]) -> int:
    """Rows of all files, after looking at the columns of each.

    Raises:
        DatasetError: a column is missing, renamed or of another type; or see `open_parquet`.
    """
    total = 0
    for path in files:
        with open_parquet(path) as file:
            for fault in schema_faults(file.schema_arrow, columns):
                raise DatasetError(
                    "column is not as expected",
                    where=f"{path}: column {fault.field}",
                    found=fault.found,
                    expected=fault.expected,
                    fix="take the revision that docs/data.md names, or rename the column",
                )
            total += file.metadata.num_rows
    return total


def raw_rows(path: Path, columns: Sequence[str]) -> Iterator[RawRow]:
    """Rows of one file, `BATCH_ROWS` in memory at a time.

    Raises:
        DatasetError: the file is damaged.
    """
    index = 0
    with open_parquet(path) as file:
        try:
            for batch in _batches(file, columns):
                cells: list[Any] = [None] * batch.num_rows
                names = batch.schema.names
                if "image" in names:
                    cells = batch.column(names.index("image")).to_pylist()
                    batch = batch.drop_columns(["image"])  # noqa: PLW2901  (the bytes are not wanted twice)
                plain = batch.to_pylist() if batch.num_columns else [{} for _ in cells]
                for row, cell in zip(plain, cells, strict=True):
                    data, name = (cell.get("bytes"), cell.get("path")) if cell else (None, None)
                    yield RawRow(path, index, row, data, name or "")
                    index += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DatasetError(
                "Parquet file is damaged",
                where=f"{path}: after row {index}",
                found=" ".join(str(error).split())[:120],
                fix="fetch or copy the file again",
            ) from error


def _batches(file: pq.ParquetFile, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """One row group after another: asked for all at once, Arrow keeps what it has read of the ones before."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(BATCH_ROWS, [group], list(columns), use_threads=False)


def upright_size(data: bytes, where: str) -> tuple[int, int]:
    """Width and height of an image as it is shown, from its header.

    Raises:
        DatasetError: no such image.
    """
    width, height, turned = picture_size(data, where)
    return (height, width) if turned else (width, height)


def picture_size(data: bytes, where: str) -> tuple[int, int, bool]:
    """Width and height of an image as it is stored, and whether it is shown turned by a quarter.

    Raises:
        DatasetError: no such image.
    """
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=_FORMATS) as image,
        ):
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in {5, 6, 7, 8}
    except (*_BROKEN, *_BOMB) as error:
        raise DatasetError(
            "image cannot be decoded",
            where=f"{where}, field image",
            found=f"{len(data):,} bytes",
            expected="a whole image file",
            fix="fetch or copy the file again",
        ) from error
    if width < 1 or height < 1:
        raise DatasetError("image has no pixels", where=f"{where}, field image", found=f"{width} x {height}")
    return width, height, turned


class Images:
    """Images of a source: in its rows, or beside them in a folder or a zip.

    Args:
        draft: keeps them.
        place: folder or zip of files that rows name without holding their bytes.
    """

    def __init__(self, draft: Draft, place: Path | None) -> None:
        self._draft, self._place = draft, place
        self._packed: dict[str, zipfile.ZipInfo] = {}
        self._zip: zipfile.ZipFile | None = None
        if place is not None and not place.exists():
            raise DatasetError("images are missing", where=str(place), expected="a folder or a zip")
        if place is not None and not place.is_dir():
            self._zip = open_zip(place)
            # Only the name counts: where a member would like to be unpacked is never looked at.
            self._packed = {one.filename.rsplit("/", 1)[-1]: one for one in self._zip.infolist()}

    def keep(self, raw: RawRow) -> tuple[Medium, bytes]:
        """One row's image, kept once, and its bytes.

        Raises:
            DatasetError: there is none.
        """
        if raw.image:
            return self._draft.store(raw.image), raw.image
        where = f"{raw.where}, field image"
        if self._place is None or not raw.image_path:
            fix = "give the folder of the images with --images" if raw.image_path else "fetch the file again"
            found = raw.image_path or ("no bytes" if raw.image is None else "0 bytes")
            raise DatasetError("image is missing", where=where, found=found, expected="bytes", fix=fix)
        return self.file(raw.image_path, where)

    def file(self, name: str, where: str) -> tuple[Medium, bytes]:
        """One file of the folder, linked, or of the zip, written out; and its bytes.

        Raises:
            DatasetError: it is not there, or the zip is damaged.
            UnsafeInputError: it is too large, or its name leads elsewhere.
        """
        assert self._place is not None
        plain = safe_name(name.rsplit("/", 1)[-1], where)
        if self._zip is not None:
            data = self._unpacked(plain, where)
            return self._draft.store(data), data
        path = self._place / plain
        if not is_file(path):
            raise DatasetError("image is missing", where=where, found=cut(str(path), 300), expected="a file")
        with path.open("rb") as file:
            data = _limited(file, where, str(path))
        return self._draft.linked(path, f"images/{plain}", data), data

    def _unpacked(self, name: str, where: str) -> bytes:
        assert self._zip is not None
        if name not in self._packed:
            found = f"{name} is none of {len(self._packed):,} files in {self._place}"
            raise DatasetError("image is missing", where=where, found=found, expected="a file of the zip")
        try:
            with self._zip.open(self._packed[name]) as member:
                return _limited(member, where, f"{self._place}: {name}")
        except (OSError, ValueError, struct.error, *UNZIPPING) as error:
            raise DatasetError(
                "image cannot be unpacked", where=f"{self._place}: {name}", found=str(error)
            ) from error


def _limited(file: IO[bytes], where: str, name: str) -> bytes:
    """Bytes of an image, whose size nobody has to believe."""
    data = file.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise UnsafeInputError(
            "image file is too large",
            where=where,
            found=name,
            expected=f"{MAX_IMAGE_BYTES:,} bytes at most",
        )
    return data


class Clips:
    """Clips by id, from folders of mp4 files and from zips of them.

    Args:
        draft: keeps them.
        places: folders and zip files.
    """

    def __init__(self, draft: Draft, places: Sequence[Path]) -> None:
        self._draft = draft
        self._files: dict[str, Path] = {}
        self._members: dict[str, tuple[Path, str]] = {}
        self.places = places
        for place in places:
            if place.is_dir():
                self._files |= {p.stem: p for p in files_below(place) if p.suffix.lower() == ".mp4"}
        archives = {a for p in places for a in (_zips(p) if p.is_dir() else [p])}
        for archive in sorted(archives):
            with open_zip(archive) as opened:
                names = [n for n in opened.namelist() if n.lower().endswith(".mp4")]
            # Only the id counts: where a member would like to be unpacked is never looked at.
            self._members |= {Path(name).stem: (archive, name) for name in names}

    def keep(self, clip: str, where: str) -> Medium:
        """One clip, linked or unpacked once.

        Raises:
            DatasetError: there is no such clip.
            UnsafeInputError: a member of a zip is too large.
        """
        reference = f"clips/{safe_name(clip, where)}.mp4"
        if path := self._files.get(clip):
            if (size := path.stat().st_size) > _MAX_CLIP_BYTES:
                raise UnsafeInputError("clip too large", where=str(path), found=f"{size:,} bytes")
            return self._draft.linked(path, reference)
        if member := self._members.get(clip):
            return self._draft.linked(_unpack(*member, self._draft.folder / reference), reference)
        raise DatasetError(
            "clip is missing",
            where=f"{where}, field video",
            found=f"{len(self._files) + len(self._members):,} others",
            expected=f"{clip}.mp4 in {', '.join(map(str, self.places)) or 'a folder given with --clips'}",
            fix="add it, or give its folder with --clips",
        )


def _zips(place: Path) -> list[Path]:
    return [path for path in files_below(place) if path.suffix == ".zip"]


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip from anywhere.

    Raises:
        DatasetError: missing, or no whole zip.
    """
    try:
        return zipfile.ZipFile(path)
    except (OSError, ValueError, struct.error, *UNZIPPING) as error:
        raise DatasetError(
            "not a whole zip file", where=str(path), found=str(error), fix="fetch the file again"
        ) from error


def _unpack(archive: Path, member: str, target: Path) -> Path:
    with open_zip(archive) as opened:
        about = opened.getinfo(member)
        size = about.file_size
        # A clip is compressed already: zip gains a few per cent of it, and a bomb a thousand times.
        if size > min(_MAX_CLIP_BYTES, _MAX_RATIO * about.compress_size + _SMALL):
            raise UnsafeInputError("clip too large", where=f"{archive}: {member}", found=f"{size:,} bytes")
        if target.is_file() and target.stat().st_size == size:
            return target
        with atomic_file(target) as out:
            for chunk in _chunks(opened, member, size, f"{archive}: {member}"):
                out.write(chunk)
    return target


def _chunks(opened: zipfile.ZipFile, member: str, left: int, where: str) -> Iterator[bytes]:
    """A member's bytes; what fails here is the zip, not the disk that is written to."""
    try:
        with opened.open(member) as source:
            while chunk := source.read(min(1 << 20, left)):
                yield chunk
                left -= len(chunk)
    except (OSError, ValueError, struct.error, *UNZIPPING) as error:
        raise DatasetError("clip cannot be unpacked", where=where, found=str(error)) from error


def unfamiliar(spec: DatasetSpec, place: Path, expected: str) -> DatasetError:
    """The error for a source in which nothing is found."""
    fix = f"see docs/data.md, {spec.title}"
    return DatasetError("nothing to import", where=str(place), expected=expected, fix=fix)
