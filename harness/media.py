"""Images that a dataset refers to: a file, a row of a Parquet file or a member of a tar, each as it came.

A prepared dataset keeps no second copy of its images. Its rows name them, relative to its folder:

    images/000000123.jpg                   a file
    shards/train-00000.parquet#17          the bytes in column `image` of row 17
    shards/n01440764.tar#512+10943         10,943 bytes from offset 512

`media.parquet` beside the rows lists every reference once with the sha256 and the size of its bytes, so
that each is checked when it is read and the folder need not be hashed before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.digest import digest_bytes
from harness.errors import DatasetError, UnsafeInputError
from harness.files import read_parquet
from harness.images import decode_rgb

RGB = NDArray[np.uint8]
MEDIA = "media.parquet"
MEDIA_SCHEMA = pa.schema([("path", pa.string()), ("sha256", pa.string()), ("bytes", pa.int64())])
IMAGE_COLUMN = "image"
"""Column of a Parquet shard that holds `{bytes, path}`, as on the hub."""

_MEMBER = re.compile(r"(?P<offset>[0-9]{1,18})\+(?P<size>[0-9]{1,12})")
_ROW = re.compile(r"[0-9]{1,18}")
_MAX_MEDIA_BYTES = 4 * 2**30


class MediaReader:
    """Reads references below one folder; rows of a Parquet shard are quickest in their order.

    Args:
        folder: the dataset's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shard: tuple[str, Any, list[int]] | None = None
        self._group: tuple[str, int, Any] | None = None

    def read(self, reference: str) -> bytes:
        """Bytes of one image.

        Raises:
            UnsafeInputError: the reference leaves the folder.
            DatasetError: the file, row or member is not there.
        """
        name, _, part = reference.partition("#")
        path = self.folder / _inside(name, reference)
        try:
            if not path.is_file():  # a pipe of that name would be read for ever
                raise self._absent(reference, "No such file, or none to read")
            if not part:
                return _slice(path, 0, path.stat().st_size, reference)
            if member := _MEMBER.fullmatch(part):
                return _slice(path, int(member["offset"]), int(member["size"]), reference)
            if _ROW.fullmatch(part):
                return self._row(name, path, int(part), reference)
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
            raise self._absent(reference, getattr(error, "strerror", None) or str(error)) from error
        raise self._absent(reference, f"the part {part!r}", "a row number or OFFSET+SIZE after #")

    def _row(self, name: str, path: Path, row: int, reference: str) -> bytes:
        if self._shard is None or self._shard[0] != name:
            file = pq.ParquetFile(path)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            self._shard = name, file, np.cumsum([0, *counts]).tolist()
        _, file, starts = self._shard
        if row >= starts[-1]:
            raise self._absent(reference, f"{starts[-1]} rows")
        group = int(np.searchsorted(starts, row, side="right")) - 1
        if self._group is None or self._group[:2] != (name, group):
            cells = file.read_row_group(group, columns=[f"{IMAGE_COLUMN}.bytes"]).column(0).combine_chunks()
            self._group = name, group, cells.field("bytes")
        data = self._group[2][row - starts[group]].as_py()
        if data is None:
            raise self._absent(reference, "no bytes")
        return bytes(data)

    def _absent(self, reference: str, found: str, expected: str = "the image's bytes") -> DatasetError:
        return DatasetError(
            "image of a dataset cannot be read",
            where=str(self.folder / reference),
            found=found,
            expected=expected,
            fix="import or fetch the dataset again",
        )


def _inside(name: str, reference: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UnsafeInputError(
            "reference leaves its dataset", found=repr(reference), expected="a path below the folder"
        )
    return path


def _slice(path: Path, offset: int, size: int, reference: str) -> bytes:
    if size > _MAX_MEDIA_BYTES:
        raise UnsafeInputError("image or clip is too large", where=reference, found=f"{size:,} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"the file ends {size - len(data):,} bytes early")
    return data


def read_media_list(folder: Path) -> dict[str, tuple[str, int]]:
    """Reference -> (sha256, bytes) of everything a prepared dataset refers to; empty without a list.

    Raises:
        IntegrityError: the list is damaged.
        DatasetError: a reference is listed twice.
    """
    path = folder / MEDIA
    if not path.is_file():
        return {}
    table = read_parquet(path, list(MEDIA_SCHEMA.names))
    paths, digests, sizes = (table.column(name).to_pylist() for name in MEDIA_SCHEMA.names)
    listed = dict(zip(paths, zip(digests, sizes, strict=True), strict=True))
    if len(listed) != len(paths):
        raise DatasetError("media listed twice", where=str(path), found=f"{len(paths) - len(listed)} twice")
    return listed


class ReferencedImages:
    """Images by reference, each checked against the list when it is read.

    Args:
        keys: unique name of each image.
        references: where each is, relative to `folder`.
        folder: the dataset's.
        listed: from `read_media_list`.
    """

    def __init__(
        self, keys: list[str], references: Sequence[str], folder: Path, listed: dict[str, tuple[str, int]]
    ) -> None:
        self.keys, self._references = keys, list(references)
        self._reader, self._listed = MediaReader(folder), listed

    def load(self, i: int) -> RGB:
        """(H, W, 3) uint8 of row i.

        Raises:
            DatasetError: the image is missing, is not the listed one, or cannot be decoded.
            UnsafeInputError: its reference leaves the folder, or it is too large.
        """
        reference = self._references[i]
        data = self._reader.read(reference)
        where = str(self._reader.folder / reference)
        check_media(data, self._listed.get(reference), where)
        return decode_rgb(data, where)


def check_media(data: bytes, listed: tuple[str, int] | None, where: str) -> None:
    """Refuse bytes that are not the listed ones.

    Raises:
        DatasetError: not in the list, or another sha256.
    """
    found = digest_bytes(data)
    if listed is None or found != listed[0]:
        raise DatasetError(
            "image or clip differs from the one that was imported",
            where=where,
            found=f"sha256 {found[:16]}, {len(data):,} bytes",
            expected=f"sha256 {listed[0][:16]}, {listed[1]:,} bytes" if listed else f"an entry in {MEDIA}",
            fix="restore the file, or import the dataset again",
        )
