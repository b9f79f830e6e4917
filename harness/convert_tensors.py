"""Chooses a checkpoint's weights, names and checks them, and writes them as one safetensors file.

Runs in the locked process of `harness.convert_child`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from harness.convert_read import TOP, Request, load_weights_only, refuse_other_formats, too_large
from harness.errors import ResourceError, SubmissionError, UsageError
from harness.fields import show
from harness.safetensors_header import MAX_HEADER_BYTES, MAX_NAME

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What is written, under the names of the safetensors format."""
WRAPPER = "module."
"""What DataParallel puts before every name."""
_MAX_DEPTH = 4
_MAX_VISITS = 2_000
_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewritten:
    """What was done, in words for the person; the figures are read from the file by the parent."""

    key: str
    stripped: Sequence[str]
    dropped: Sequence[str]
    ignored: Sequence[str]
    tied: Sequence[str]


def rewrite(source: BinaryIO, target: BinaryIO, request: Request) -> Rewritten:
    """Read a checkpoint, choose its weights and write them.

    Args:
        source: the checkpoint, open at its start.
        target: where the safetensors bytes go.
        request: what to keep and how to name it.

    Raises:
        UnsafeInputError: it asks for code, or for far more room than its own size.
        SubmissionError: damaged, no checkpoint, or tensors that safetensors cannot hold or nobody should use.
        UsageError: `key`, `strip` or `drop` do not fit what is in it.
        ResourceError: the target cannot be written.
        MemoryError: too little memory.
    """
    refuse_other_formats(source, request)
    checkpoint = load_weights_only(source, request)
    key, table = choose_table(checkpoint, request)
    tensors, ignored = split_entries(table, request.source)
    names, stripped, dropped = rename(list(tensors), request)
    kept = {new: tensors[old] for old, new in names.items()}
    check_tensors(kept, request)
    write_safetensors(kept, target, request)
    return Rewritten(
        key=key,
        stripped=stripped,
        dropped=dropped,
        ignored=[*_beside(checkpoint, table, key), *ignored],
        tied=find_tied(kept),
    )


def find_tables(checkpoint: Any) -> list[tuple[str, Mapping[Any, Any]]]:
    """Every table that holds tensors itself, with the names that lead to it joined by dots.

    Numbers kept as tensors (a best score, a decay) do not make a table, and lists and tables under numbers
    are not entered: that is where optimisers keep their moments.
    """
    found: list[tuple[str, Mapping[Any, Any]]] = []
    pending: deque[tuple[str, Any, int]] = deque([("", checkpoint, 0)])
    for _ in range(_MAX_VISITS):
        if not pending:
            break
        path, table, depth = pending.popleft()
        if not isinstance(table, Mapping):
            continue
        if count_tensors(table):
            found.append((path or TOP, table))
        if depth < _MAX_DEPTH:
            inner = ((name, value) for name, value in table.items() if isinstance(value, Mapping))
            named = ((name, value) for name, value in inner if isinstance(name, str))
            pending.extend((f"{path}.{name}".lstrip("."), value, depth + 1) for name, value in named)
    return found


def count_tensors(table: Mapping[Any, Any]) -> int:
    """Tensors of one dimension or more right in a table."""
    return sum(isinstance(value, Tensor) and value.dim() > 0 for value in table.values())


def choose_table(checkpoint: Any, request: Request) -> tuple[str, Mapping[Any, Any]]:
    """The table that `key` names, or the only one there is.

    Raises:
        SubmissionError: there is no table of tensors.
        UsageError: there are several, or none under that key; the error lists them with their counts.
    """
    tables = find_tables(checkpoint)
    if not tables:
        is_table = isinstance(checkpoint, Mapping)
        found = ", ".join(itertools.islice(map(show, checkpoint), 10)) if is_table else _kind(checkpoint)
        raise SubmissionError(
            "no table of tensors in it", where=request.source, found=found or "an empty table"
        )
    listed = ", ".join(f"{path} ({count_tensors(table):,} tensors)" for path, table in tables[:20])
    if request.key:
        chosen = [(path, table) for path, table in tables if path == request.key]
        if len(chosen) != 1:
            raise UsageError(
                "no table of tensors under this key",
                where=request.source,
                found=show(request.key),
                expected=f"one of {listed}",
            )
        return chosen[0]
    if len(tables) > 1:
        raise UsageError(
            "several tables of tensors",
            where=request.source,
            found=listed,
            expected="one, or a key that says which",
            fix=f"name one, e.g. --key {max(tables, key=lambda item: count_tensors(item[1]))[0]}",
        )
    return tables[0]


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return "tensor" if value.dim() else "number as a tensor"
    return type(value).__name__


def _beside(checkpoint: Any, table: Mapping[Any, Any], key: str) -> list[str]:
    """What stands in the checkpoint next to the weights."""
    if checkpoint is table:
        return []
    others = {k: v for k, v in checkpoint.items() if k != key and not key.startswith(f"{k}.")}
    return [f"{show(name)} ({_kind(value)})" for name, value in others.items()]


def split_entries(table: Mapping[Any, Any], where: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name, and what else is among them, in words.

    Raises:
        SubmissionError: a tensor whose name is not text.
    """
    tensors, ignored = {}, []
    for name, value in table.items():
        if not isinstance(value, Tensor):
            ignored.append(f"{show(name)} ({_kind(value)})")
        elif not isinstance(name, str):
            raise SubmissionError("tensor's name is not text", where=where, found=show(name))
        else:
            tensors[name] = value
    return tensors, ignored


def rename(names: list[str], request: Request) -> tuple[dict[str, str], list[str], list[str]]:
    """New names, by old ones; the leading names removed, and the tensors left out.

    A leading `module.` that all share goes by itself, unless the person speaks of it.

    Raises:
        UsageError: a leading name that fits nothing, that some tensors lack, or nothing is left.
    """
    current = {name: name for name in names}
    stripped: list[str] = []
    spoken = (request.strip, *request.drop)
    if not any(word.startswith(WRAPPER) for word in spoken):
        current = _unwrap(current, stripped)
    dropped = []
    for word in request.drop:
        fitting = [old for old, new in current.items() if new == word or new.startswith(_dotted(word))]
        if not fitting:
            raise _unfitting("--drop", word, current.values(), request.source)
        dropped += fitting
        for old in fitting:
            del current[old]
    if not current:
        raise UsageError("no tensor is left", where=request.source, fix="drop less")
    if request.strip:
        leading = _dotted(request.strip)
        lacking = [new for new in current.values() if not new.startswith(leading)]
        if lacking:
            raise _unfitting("--strip", leading, lacking, request.source)
        current = {old: new.removeprefix(leading) for old, new in current.items()}
        stripped.append(leading)
    return _unwrap(current, stripped), stripped, dropped


def _dotted(word: str) -> str:
    return word if word.endswith(".") else f"{word}."


def _unwrap(current: dict[str, str], stripped: list[str]) -> dict[str, str]:
    if not all(new.startswith(WRAPPER) for new in current.values()):
        return current
    stripped.append(WRAPPER)
    return {old: new.removeprefix(WRAPPER) for old, new in current.items()}


def _unfitting(option: str, word: str, names: Collection[str], where: str) -> UsageError:
    shown = [show(name) for name in itertools.islice(names, 3)]
    found = f"{', '.join(shown)}{', …' if len(names) > 3 else ''}"
    if option == "--drop":
        return UsageError(f"{option} {word}: no tensor's name begins so", where=where, found=found)
    return UsageError(
        f"{option} {word}: {len(names):,} tensors' names do not begin so",
        where=where,
        found=found,
        fix="leave those out with --drop, or strip less",
    )


def check_tensors(tensors: Mapping[str, Tensor], request: Request) -> None:
    """Refuse what cannot be written as it is, or should not be used.

    Raises:
        SubmissionError: a name or kind of tensor that safetensors cannot hold, or NaN or Inf in a tensor.
        UnsafeInputError: views that unfold to far more than the file's size.
    """
    for name, tensor in tensors.items():
        where = f"{request.source}: {show(name)}"
        if not name or len(name) > MAX_NAME or name == "__metadata__" or not name.isprintable():
            expected = f"1 to {MAX_NAME} visible characters"
            raise SubmissionError("tensor's name cannot be written", where=where, expected=expected)
        if odd := _oddity(tensor):
            raise SubmissionError(
                "kind of tensor cannot be written",
                where=where,
                found=odd,
                expected="a dense tensor of plain numbers",
                fix="leave it out with --drop, or save it as a dense tensor",
            )
    num_bytes = sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if num_bytes > request.max_bytes:
        raise too_large(request, num_bytes)
    for name, tensor in tensors.items():
        if bad := _count_not_finite(tensor):
            raise SubmissionError(
                "weights are NaN or infinite",
                where=f"{request.source}: {show(name)}",
                found=f"{bad:,} of {tensor.numel():,} values",
                fix="take a sound checkpoint; if this tensor is no weight, leave it out with --drop",
            )


def _oddity(tensor: Tensor) -> str:
    """What keeps a tensor out of safetensors, "" for nothing."""
    if type(tensor) not in (Tensor, torch.nn.Parameter):
        return type(tensor).__name__
    if tensor.is_nested or tensor.layout != torch.strided:
        return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return f"no data (device {tensor.device.type})"
    return "" if tensor.dtype in DTYPES else str(tensor.dtype).removeprefix("torch.")


def _count_not_finite(tensor: Tensor) -> int:
    if not tensor.dtype.is_floating_point:
        return 0
    values = tensor.detach()
    finite = torch.isfinite(values.float() if tensor.itemsize == 1 else values)
    return 0 if bool(finite.all()) else int((~finite).sum())


def find_tied(tensors: Mapping[str, Tensor]) -> list[str]:
    """Groups of names that are one tensor in memory, as `a = b`."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(place, []).append(name)
    return [" = ".join(names) for names in groups.values() if len(names) > 1]


def write_safetensors(tensors: Mapping[str, Tensor], target: BinaryIO, request: Request) -> None:
    """Write tensors one after the other, wide types first so that each is aligned; same tensors, same bytes.

    Raises:
        SubmissionError: more names than a header may hold.
        ResourceError: the disk is full, or another failure to write.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    # Transformers asks for the format's name.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.itemsize
        dtype = DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        found, expected = f"{len(text):,} bytes of names", f"at most {MAX_HEADER_BYTES:,}"
        raise SubmissionError("too many tensors", where=request.source, found=found, expected=expected)
    try:
        target.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            target.writelines(_pieces(tensors[name]))
        target.flush()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        fix = "free some space and run the same command again"
        raise ResourceError(f"cannot write, {reason}", where=request.target, fix=fix) from error


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes, in the order of its indices, whatever its strides."""
    flat = tensor.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    data = flat.numpy().data
    for begin in range(0, len(data), _PIECE_BYTES):
        yield data[begin : begin + _PIECE_BYTES]
