"""Canonical hashing: the same content has the same sha256 on every machine and in any order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ADDED_LATER: Mapping[str, bool] = {"added_later": True}
"""Metadata of a record's field that is younger than published digests of its record."""

_CHUNK_BYTES = 1 << 20


def plain_json(obj: Any, where: str = "$", *, canonical: bool = False) -> Any:
    """Turn records and tuples into what JSON knows: dict, list, str, int, float, bool, None.

    Args:
        obj: a value built of dataclasses, mappings with string keys, lists, tuples and scalars.
        where: JSON path of `obj`, for the error message.
        canonical: leave out each field `ADDED_LATER` that has its default, so that what could be said
            before the field was there keeps its digest.

    Returns:
        The same content without dataclasses or tuples.

    Raises:
        ValueError: a float is NaN or infinite, for which JSON has no spelling.
        TypeError: a key is not a string, or a value has no canonical form.
    """
    if obj is None or isinstance(obj, (str, bool, int)):
        return obj
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"{where}: {obj} has no canonical JSON form")
        return obj
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        named = [(f, getattr(obj, f.name)) for f in dataclasses.fields(obj)]
        return {
            f.name: plain_json(value, f"{where}.{f.name}", canonical=canonical)
            for f, value in named
            if not (canonical and "added_later" in f.metadata and value == f.default)
        }
    if isinstance(obj, Mapping):
        for key in obj:
            # json.dumps would turn 1 and "1" into the same key.
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string")
        return {key: plain_json(value, f"{where}.{key}", canonical=canonical) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain_json(value, f"{where}[{i}]", canonical=canonical) for i, value in enumerate(obj)]
    raise TypeError(f"{where}: {type(obj).__name__} has no canonical JSON form")


def canonical_json(obj: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces and no escapes beyond those JSON demands.

    Floats are written by `repr`, the shortest text that reads back as the same float. Fields `ADDED_LATER`
    are left out at their defaults.

    Raises:
        ValueError: a float is not finite, or a string holds a lone surrogate.
        TypeError: see `plain_json`.
    """
    text = json.dumps(
        plain_json(obj, canonical=True), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return text.encode("utf-8")


def digest_bytes(data: bytes) -> str:
    """sha256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_json(obj: Any) -> str:
    """sha256 of the canonical JSON of `obj`, 64 hex digits."""
    return digest_bytes(canonical_json(obj))


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces so that size costs no memory.

    Raises:
        OSError: the file cannot be read.
    """
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def digest_tree(files: Mapping[str, Path]) -> str:
    """sha256 over a set of files: the canonical JSON of {relative path: sha256 of the bytes}.

    Args:
        files: POSIX path relative to the tree -> where the file lies now.
    """
    return digest_json({relative: digest_file(path) for relative, path in files.items()})


def digest_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """sha256 over named arrays: names, dtypes, shapes and little-endian C-order bytes.

    Neither the mapping's order nor strides nor the machine's byte order changes the digest.

    Raises:
        TypeError: an array holds Python objects, whose bytes are pointers.
    """
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects")
        little = array.dtype.newbyteorder("<")
        header = canonical_json([name, little.str, list(array.shape)])
        # The header's length goes first, so that no two sets of arrays share one byte stream.
        state.update(len(header).to_bytes(8, "little"))
        state.update(header)
        flat = np.ascontiguousarray(array, dtype=little).reshape(-1)
        state.update(flat.view(np.uint8).data)
    return state.hexdigest()
