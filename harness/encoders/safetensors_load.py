"""Reads safetensors files of strangers: a tensor at a time, and never more than the checked header says.

The files are read, not mapped: weights that are mapped change with the file for as long as they are used,
and a file cut short kills the process.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import SubmissionError
from harness.safetensors_header import (
    MAX_WEIGHT_BYTES,  # noqa: F401  (test_fetch holds the limit of downloads against it)
    TensorInfo,
    read_open_header,
    read_safetensors_header,
)

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What we compute with; safetensors knows more (fp8, for one), which a network here cannot take."""
_WHOLE_NUMBERS = ("num_batches_tracked", "position_ids", "relative_position_index")
"""Endings of the only tensors that are whole numbers in checkpoints of transformers."""


class _HashedFile:
    """A file read once from its beginning; where a hash is asked for, that of what was read."""

    def __init__(self, file: io.BufferedReader, sha256: str) -> None:
        self._file, self._sha256 = file, sha256
        self._state = hashlib.sha256() if sha256 else None

    def read(self, num_bytes: int, /) -> bytes:
        data = self._file.read(num_bytes)
        self._see(data)
        return data

    def fill(self, raw: Tensor) -> bool:
        """Read as many bytes as `raw` (uint8) holds into it; whether there were as many."""
        view = raw.numpy().data
        num_bytes = self._file.readinto(view)
        self._see(view)
        return num_bytes == len(view)

    def _see(self, data: bytes | memoryview) -> None:
        if self._state is not None:
            self._state.update(data)

    def differs(self) -> str:
        """The hash of what was read, where it is not the one that was asked for."""
        found = self._state.hexdigest() if self._state is not None else ""
        return found if found != self._sha256 else ""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Check a safetensors file's header without touching the weights.

    Returns:
        Tensor name -> dtype, shape and byte range.

    Raises:
        UnsafeInputError: a pickle, or a header, a tensor count or a size beyond our limits.
        SubmissionError: not safetensors, cut short, offsets that overlap or leave gaps, or a dtype that
            no network here takes.
    """
    entries = read_safetensors_header(path, path.name)
    _check_dtypes(entries, path.name)
    return entries


def _check_dtypes(entries: Mapping[str, TensorInfo], where: str) -> None:
    for name, entry in entries.items():
        if entry.dtype not in DTYPES:
            raise SubmissionError(
                "dtype not supported",
                where=f"{where}: {name}",
                found=entry.dtype,
                expected=f"one of {', '.join(DTYPES)}",
                fix="save the weights in float32, float16 or bfloat16",
            )


def refuse_kind(name: str, dtype: torch.dtype, wanted: torch.dtype, where: str) -> None:
    """Refuse whole numbers where a network has fractions: quantised weights load, and mean nothing.

    Raises:
        SubmissionError: naming the tensor.
    """
    if dtype.is_floating_point != wanted.is_floating_point and not name.endswith("num_batches_tracked"):
        raise SubmissionError(
            "dtype does not fit the network",
            where=f"{where}: {name}",
            found=str(dtype).removeprefix("torch."),
            expected=str(wanted).removeprefix("torch."),
            fix="save the weights in float32, float16 or bfloat16",
        )


def read_weights(
    paths: Iterable[Path],
    wanted: Mapping[str, torch.dtype] | None = None,
    sha256: Mapping[Path, str] | None = None,
) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint; floating-point ones become fp32.

    Args:
        paths: one file, or the shards of one checkpoint.
        wanted: dtype of each tensor in the network; None where nobody knows it yet: then only tensors
            that count or index may be whole numbers.
        sha256: hash of each file, 64 hex digits; what is read must have it, whatever was there before.

    Raises:
        UnsafeInputError: see `read_header`.
        SubmissionError: see `read_header`; a tensor in two shards; a NaN or infinite weight; whole numbers
            for fractions; other bytes than `sha256` says.
    """
    weights: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in _tensors_of(path, (sha256 or {}).get(path, "")):
            where = f"{path.name}: {name}"
            if name in weights:
                raise SubmissionError("tensor appears in two files", where=where)
            if wanted is None:
                may_count = not tensor.is_floating_point() and name.endswith(_WHOLE_NUMBERS)
                refuse_kind(name, tensor.dtype, tensor.dtype if may_count else torch.float32, path.name)
            elif name in wanted:
                refuse_kind(name, tensor.dtype, wanted[name], path.name)
            weights[name] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and not bool(torch.isfinite(weights[name]).all()):
                bad = int((~torch.isfinite(weights[name])).sum())
                raise SubmissionError(
                    "weights hold NaN or infinity", where=where, found=f"{bad:,} of {tensor.numel():,} values"
                )
    return weights


def _tensors_of(path: Path, sha256: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a file, in the order of its bytes; at the end the bytes are compared with the hash."""
    where = path.name
    try:
        with open(path, "rb") as opened:
            file = _HashedFile(opened, sha256)
            entries = read_open_header(file, os.fstat(opened.fileno()).st_size, where)
            _check_dtypes(entries, where)
            for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
                raw = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
                if not file.fill(raw):
                    raise SubmissionError("weights changed while they were read", where=f"{where}: {name}")
                yield name, raw.view(DTYPES[entry.dtype]).reshape(entry.shape)
    except OSError as error:
        raise SubmissionError(
            "cannot read weights", where=where, found=error.strerror or str(error)
        ) from error
    if found := file.differs():
        raise SubmissionError(
            "hash differs from the manifest's",
            where=where,
            found=found,
            expected=sha256,
            fix="leave the files alone while they are measured",
        )
