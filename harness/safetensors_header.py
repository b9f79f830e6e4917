"""The header of a safetensors file, read without torch and believed only after checking.

Layout: 8 bytes little-endian length, that many bytes of JSON (name -> dtype, shape, offsets), then the
tensors' bytes, each at its offsets. Source: the format section of the safetensors README.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from harness.errors import SubmissionError, UnsafeInputError
from harness.fields import Place, parse_json, show

MAX_HEADER_BYTES = 8 * 1024 * 1024
"""Room for tens of thousands of tensors. Below the library's own limit of 100 MB a header can still name
a million empty tensors, which take gigabytes of memory to parse."""
MAX_WEIGHT_BYTES = 16 << 30
"""Of one file. The largest image encoders are near 12 GB in fp16."""
MAX_TENSORS = 20_000
"""Ten times those of the largest image encoders; libraries take seconds over a hundred thousand."""
MAX_MARKS = 40 * MAX_TENSORS
"""Quotes, brackets and commas of a header, twice what so many tensors need: parsing more takes seconds."""
MAX_RANK = 8
MAX_NAME = 512
ITEM_BYTES = dict(F64=8, F32=4, F16=2, BF16=2, F8_E4M3=1, F8_E5M2=1, BOOL=1)
ITEM_BYTES |= dict(I64=8, I32=4, I16=2, I8=1, U64=8, U32=4, U16=2, U8=1)
_LFS_POINTER = b"version "


class Readable(Protocol):
    """What a header is read from."""

    def read(self, num_bytes: int, /) -> bytes:
        """The next bytes, fewer only at the end."""


class TensorInfo(NamedTuple):
    """What the header says about one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def looks_like_pickle(head: bytes) -> bool:
    """Whether a file's leading bytes (9 or more) are those of a pickle or a zip archive.

    A safetensors header of 128, 384, … bytes begins with pickle's 0x80 too; but its ninth byte is
    the brace that opens the JSON, and no pickle or zip archive of real size has one there.
    """
    return (head[:1] == b"\x80" or head[:2] == b"PK") and head[8:9] != b"{"


def read_safetensors_header(path: Path, where: str) -> dict[str, TensorInfo]:
    """Read and check a safetensors header against the file's real size.

    Args:
        path: the file, already known to be a plain one.
        where: its name for error messages.

    Returns:
        Tensor name -> dtype, shape and byte range within the data part.

    Raises:
        UnsafeInputError: a pickle; a file, a header or a number of tensors beyond our limits.
        SubmissionError: unreadable, truncated, not JSON, or offsets that overlap, leave holes or leave
            the file.
    """
    try:
        with open(path, "rb") as file:
            return read_open_header(file, os.fstat(file.fileno()).st_size, where)
    except OSError as error:
        Place(where, SubmissionError).refuse("cannot read weights", found=error.strerror or str(error))


def read_open_header(file: Readable, size: int, where: str) -> dict[str, TensorInfo]:
    """`read_safetensors_header` of a file that is open at its beginning; leaves it where the data begin.

    Args:
        file: the file.
        size: its bytes.
        where: its name for error messages.

    Raises:
        UnsafeInputError, SubmissionError: see `read_safetensors_header`.
    """
    place = Place(where, SubmissionError)
    if size > MAX_WEIGHT_BYTES:
        _unsafe("weights file too large", place, f"{size:,} bytes", f"at most {MAX_WEIGHT_BYTES:,}")
    prefix = file.read(8)
    if prefix == _LFS_POINTER:
        place.refuse("a git-lfs pointer, not the weights", fix="run git lfs pull")
    if len(prefix) < 8:
        place.refuse("weights are truncated", found=f"{size} bytes", expected="an 8-byte header length")
    length = int.from_bytes(prefix, "little")
    text = file.read(min(length, MAX_HEADER_BYTES))
    if looks_like_pickle(prefix + text[:1]):
        _unsafe("a pickle under the name of safetensors", place, f"leading bytes {prefix[:4].hex()}")
    if length > MAX_HEADER_BYTES:
        _unsafe("header too long", place, f"{length:,} bytes", f"at most {MAX_HEADER_BYTES:,}")
    if len(text) < length:
        expected = f"a header of {length:,} bytes"
        place.refuse("weights are truncated", found=f"{size:,} bytes", expected=expected)
    tensors = _parse_header(text, place)
    _check_offsets(tensors, size - 8 - length, place)
    return tensors


def _unsafe(what: str, place: Place, found: str, expected: str = "") -> NoReturn:
    raise UnsafeInputError(what, where=place.file, found=found, expected=expected)


def _parse_header(text: bytes, place: Place) -> dict[str, TensorInfo]:
    if (marks := sum(text.count(mark) for mark in (b'"', b"[", b"{", b","))) > MAX_MARKS:
        _unsafe("header of too many parts", place, f"{marks:,}", f"at most {MAX_MARKS:,}")
    try:
        header = parse_json(text)
    except (ValueError, RecursionError) as error:
        place.refuse("not a safetensors header", found=str(error))
    if not isinstance(header, dict):
        place.refuse("not a safetensors header", found=show(header), expected="a JSON object")
    if len(header) > MAX_TENSORS:
        _unsafe("too many tensors", place, f"{len(header):,}", f"at most {MAX_TENSORS:,}")
    return {name: _tensor(name, entry, place) for name, entry in header.items() if name != "__metadata__"}


def _tensor(name: str, entry: object, place: Place) -> TensorInfo:
    spot = place.at(show(name))
    if len(name) > MAX_NAME:
        spot.refuse("tensor name too long", expected=f"at most {MAX_NAME} characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        spot.refuse("not a tensor's entry", found=show(entry), expected="dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        spot.refuse("dtype not supported", found=show(dtype), expected=f"one of {', '.join(ITEM_BYTES)}")
    if not _sizes(shape) or len(shape) > MAX_RANK:
        spot.refuse("shape not valid", found=show(shape), expected=f"at most {MAX_RANK} sizes")
    if not _sizes(offsets) or len(offsets) != 2:
        spot.refuse("offsets not valid", found=show(offsets), expected="[begin, end]")
    num_bytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != num_bytes:
        spot.refuse("offsets do not fit the shape", found=show(offsets), expected=f"{num_bytes:,} bytes")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**48 for item in value)


def _check_offsets(tensors: dict[str, TensorInfo], data_bytes: int, place: Place) -> None:
    """Every byte of the data part belongs to one tensor: no overlap, no hole, nothing beyond."""
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            what = "tensors overlap" if tensor.begin < position else "unused bytes between tensors"
            place.at(show(name)).refuse(what, found=f"begin {tensor.begin:,}", expected=f"{position:,}")
        position = tensor.end
    if position > data_bytes:
        found, expected = f"{data_bytes:,} bytes of tensors", f"{position:,}"
        fix = "copy or download the file again"
        place.refuse("weights are truncated", found=found, expected=expected, fix=fix)
    if position < data_bytes:
        place.refuse("bytes after the last tensor", found=f"{data_bytes:,}", expected=f"{position:,}")
