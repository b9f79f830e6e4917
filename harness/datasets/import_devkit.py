"""What ILSVRC2012's validation images are, from its devkit.

    data/ILSVRC2012_validation_ground_truth.txt   one ILSVRC2012_ID a line, in the order of the images' names
    data/meta.mat                                 `synsets`: ILSVRC2012_ID -> WNID

The devkit's numbers are an order of its own. They are read as names of synsets only: a label is always the
index among the synsets sorted. `meta.mat` holds data and no code; what it unpacks to is measured before it
is read.
"""

from __future__ import annotations

import io
import re
import struct
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

from harness.datasets.walk import named
from harness.errors import DatasetError, UnsafeInputError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_MAX_BYTES = 64 * 2**20
"""Of each file, unpacked, and of the devkit in all; the real ones are below 10 MB."""
_HEADER, _COMPRESSED = 128, 15
_LEAVES = 1000
_SYNSET = re.compile(r"n\d{8}")


def devkit_solution(place: Path) -> dict[str, str]:
    """Image name without suffix -> synset; {} where there is no devkit.

    Raises:
        DatasetError: a file of it is missing, damaged or not what its name says.
        UnsafeInputError: it unpacks to far more than a devkit.
    """
    files = _find(place)
    if not files:
        return {}
    for name in (TRUTH, META):
        if name not in files:
            raise DatasetError("the devkit is not whole", where=str(place), expected=name)
    where, data = files[META]
    names = synsets_of(data, where)
    where, text = files[TRUTH]
    solution = {}
    for i, line in enumerate(text.split()):
        if not line.isdigit() or len(line) > 4 or int(line) not in names:
            raise DatasetError(
                "not a number of a synset",
                where=f"{where}: line {i + 1}",
                found=repr(line[:20].decode("latin-1")),
                expected=f"an ILSVRC2012_ID of {META}",
            )
        solution[f"ILSVRC2012_val_{i + 1:08d}"] = names[int(line)]
    return solution


def _find(place: Path) -> dict[str, tuple[str, bytes]]:
    """Name -> where it is, and its bytes: unpacked anywhere below, or in the devkit's archive."""
    found: dict[str, tuple[str, bytes]] = {}
    for name in (TRUTH, META):
        if path := named(place, name):
            if path.stat().st_size > _MAX_BYTES:
                raise _too_large(str(path))
            found[name] = str(path), path.read_bytes()
    if not found and (archive := named(place, DEVKIT)):
        return _unpacked(archive)
    return found


def _unpacked(archive: Path) -> dict[str, tuple[str, bytes]]:
    """The two files of the archive, read one member after another; nothing is written."""
    found: dict[str, tuple[str, bytes]] = {}
    left = _MAX_BYTES
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                left -= max(member.size, 0)
                if left < 0:
                    raise _too_large(str(archive))
                name = PurePosixPath(member.name).name
                if name in {TRUTH, META} and (file := tar.extractfile(member)) is not None:
                    found[name] = f"{archive}: {member.name}", file.read()
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise DatasetError(
            "not a whole devkit", where=str(archive), found=str(error)[:120], fix="fetch the file again"
        ) from error
    return found


def _too_large(where: str) -> UnsafeInputError:
    return UnsafeInputError(
        "unpacks to far more than a devkit", where=where, expected=f"{_MAX_BYTES:,} bytes at most"
    )


def synsets_of(data: bytes, where: str) -> dict[int, str]:
    """ILSVRC2012_ID -> synset of the classes (the synsets above them have larger numbers).

    Raises:
        DatasetError: no such file.
        UnsafeInputError: it unpacks to too much.
    """
    from scipy.io import loadmat

    expected = "`synsets` with ILSVRC2012_ID and WNID"
    try:
        _measure(data, where)
        table = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
        pairs = [(int(number), str(name)) for number, name in zip(*_columns(table), strict=True)]
    except UnsafeInputError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise DatasetError(
            "not the devkit's meta.mat", where=where, found=found, expected=expected
        ) from error
    classes = [(number, name) for number, name in pairs if 1 <= number <= _LEAVES and _SYNSET.fullmatch(name)]
    names = dict(classes)
    if not names or not len(names) == len(set(names.values())) == len(classes):
        found = f"{len(set(names.values()))} classes of {len(pairs)} rows"
        raise DatasetError("not the devkit's meta.mat", where=where, found=found, expected=expected)
    return names


def _columns(table: Any) -> tuple[list[Any], list[Any]]:
    """Two fields of a structured array; anything else fails, and this is no meta.mat."""
    return [row["ILSVRC2012_ID"] for row in table.flat], [row["WNID"] for row in table.flat]


def _measure(data: bytes, where: str) -> None:
    """Refuse a MAT file of version 5 whose compressed parts unpack to more than the limit.

    Raises:
        UnsafeInputError: they do.
        ValueError, zlib.error: it is no such file.
    """
    if len(data) < _HEADER or data[126:128] not in {b"IM", b"MI"}:
        raise ValueError("no MAT file of version 5")
    order = "<" if data[126:128] == b"IM" else ">"
    at, left = _HEADER, _MAX_BYTES
    while at + 8 <= len(data):
        kind, size = struct.unpack(f"{order}II", data[at : at + 8])
        if kind == _COMPRESSED:
            left -= len(zlib.decompressobj().decompress(data[at + 8 : at + 8 + size], left + 1))
        if left < 0:
            raise _too_large(where)
        at += 8 + size
