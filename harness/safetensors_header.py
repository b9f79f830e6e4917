"""The header of a safetensors file, read without torch and believed only after checking.

Layout: 8 bytes little-endian length, that many bytes of JSON (name -> dtype, shape, offsets), then the
tensors' bytes, each at its offsets. Source: the format section of the safetensors README.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import SubmissionError, UnsafeInputError
from harness.fields import Place, show

MAX_HEADER_BYTES = 8 * 1024 * 1024
"""Room for tens of thousands of tensors. Below the library's own limit of 100 MB a header can still name
a million empty tensors, which take gigabytes of memory to parse."""
MAX_TENSORS = 100_000
MAX_RANK = 8
MAX_NAME = 512
ITEM_BYTES = dict(F64=8, F32=4, F16=2, BF16=2, F8_E4M3=1, F8_E5M2=1, BOOL=1)
ITEM_BYTES |= dict(I64=8, I32=4, I16=2, I8=1, U64=8, U32=4, U16=2, U8=1)
_LFS_POINTER = b"version "


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
        UnsafeInputError: the header is longer than `MAX_HEADER_BYTES`, or has too many tensors.
        SubmissionError: truncated, not JSON, or offsets that overlap, leave holes or leave the file.
    """
    place = Place(where, SubmissionError)
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        if prefix == _LFS_POINTER:
            place.refuse("a git-lfs pointer, not the weights", fix="run git lfs pull")
        if len(prefix) < 8:
            place.refuse("truncated", found=f"{size} bytes", expected="an 8-byte header length")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            expected = f"at most {MAX_HEADER_BYTES:,}"
            raise UnsafeInputError(
                "header too long", where=where, found=f"{length:,} bytes", expected=expected
            )
        text = file.read(length)
    if len(text) < length:
        place.refuse("truncated", found=f"{size:,} bytes", expected=f"a header of {length:,} bytes")
    tensors = _parse_header(text, place)
    _check_offsets(tensors, size - 8 - length, place)
    return tensors


def _parse_header(text: bytes, place: Place) -> dict[str, TensorInfo]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        place.refuse("not a safetensors header", found=str(error))
    if not isinstance(header, dict):
        place.refuse("not a safetensors header", found=show(header), expected="a JSON object")
    if len(header) > MAX_TENSORS:
        found, expected = f"{len(header):,}", f"at most {MAX_TENSORS:,}"
        raise UnsafeInputError("too many tensors", where=place.file, found=found, expected=expected)
    return {name: _tensor(name, entry, place) for name, entry in header.items() if name != "__metadata__"}


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("the same name twice")
    return result


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
        place.refuse("truncated", found=found, expected=expected, fix="copy or download the file again")
    if position < data_bytes:
        place.refuse("bytes after the last tensor", found=f"{data_bytes:,}", expected=f"{position:,}")
