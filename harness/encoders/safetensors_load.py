"""Reads safetensors files of strangers, with limits of our own checked before anything is allocated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.errors import SubmissionError, UnsafeInputError

MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 20_000
MAX_WEIGHT_BYTES = 16 << 30
"""Of one file. The largest image encoders are near 12 GB in fp16."""

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
_PICKLE_MARKS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class TensorEntry(NamedTuple):
    """One line of a safetensors header."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Check a safetensors file's header without touching the weights.

    Returns:
        Tensor name -> dtype and shape.

    Raises:
        UnsafeInputError: a pickle, or a header, a tensor count or a size beyond our limits.
        SubmissionError: not safetensors, cut short, or offsets that overlap or leave gaps.
    """
    where = path.name
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            prefix = file.read(8)
            if prefix.startswith(_PICKLE_MARKS):
                raise UnsafeInputError("a pickle under the name of safetensors", where=where)
            if len(prefix) < 8:
                raise _truncated(where, size, 8)
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                raise UnsafeInputError(
                    "safetensors header too long",
                    where=where,
                    found=f"{length:,} bytes",
                    expected=f"at most {MAX_HEADER_BYTES:,}",
                )
            if length > size - 8:
                raise _truncated(where, size, length + 8)
            raw = file.read(length)
    except OSError as error:
        raise SubmissionError(
            "cannot read weights", where=where, found=error.strerror or str(error)
        ) from error
    if size > MAX_WEIGHT_BYTES:
        raise UnsafeInputError("weights file too large", where=where, found=f"{size:,} bytes")
    return _check_entries(_parse(raw, where), size - 8 - length, where)


def _truncated(where: str, found: int, expected: int) -> SubmissionError:
    return SubmissionError(
        "weights are truncated",
        where=where,
        found=f"{found:,} bytes",
        expected=f"{expected:,} bytes",
        fix="copy the file again",
    )


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SubmissionError("not a safetensors file", where=where, found=str(error)) from error
    if not isinstance(header, dict):
        raise SubmissionError("not a safetensors file", where=where, found="a header that is no table")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise UnsafeInputError("too many tensors", where=where, found=f"{len(header):,}")
    return header


def _check_entries(header: dict[str, Any], num_bytes: int, where: str) -> dict[str, TensorEntry]:
    """Entries whose byte ranges tile the data exactly, as the format demands."""
    entries, spans = {}, []
    for name, value in header.items():
        try:
            dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
            sound = all(type(n) is int and n >= 0 for n in (*shape, begin, end)) and len(shape) <= 8
        except (KeyError, TypeError, ValueError):
            sound, dtype, shape, begin, end = False, "", (), 0, 0
        if not sound or dtype not in _ITEM_BYTES:
            raise SubmissionError("malformed tensor entry", where=f"{where}: {name}", found=f"{value!r:.80}")
        if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
            raise SubmissionError(
                "tensor's size and shape disagree",
                where=f"{where}: {name}",
                found=f"{end - begin:,} bytes for {dtype} {list(shape)}",
            )
        entries[name] = TensorEntry(dtype, shape)
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise SubmissionError("tensors overlap or leave a gap", where=f"{where}: {name}")
        reached = end
    if num_bytes < reached:
        raise _truncated(where, num_bytes, reached)
    if num_bytes > reached:
        raise SubmissionError(
            "bytes after the last tensor", where=where, found=f"{num_bytes - reached:,} bytes"
        )
    return entries


def read_weights(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint; floating-point ones become fp32.

    Args:
        paths: one file, or the shards of one checkpoint.

    Raises:
        UnsafeInputError: see `read_header`.
        SubmissionError: see `read_header`; a tensor in two shards; a NaN or infinite weight.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in paths:
        read_header(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise SubmissionError(
                "not a sound safetensors file", where=path.name, found=str(error)
            ) from error
        for name, tensor in tensors.items():
            where = f"{path.name}: {name}"
            if name in weights:
                raise SubmissionError("tensor appears in two files", where=where)
            weights[name] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and not bool(torch.isfinite(weights[name]).all()):
                bad = int((~torch.isfinite(weights[name])).sum())
                raise SubmissionError(
                    "weights hold NaN or infinity", where=where, found=f"{bad:,} of {tensor.numel():,} values"
                )
    return weights
