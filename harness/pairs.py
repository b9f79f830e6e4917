"""Matched pairs of encoders, as `results/pairs.toml` declares them.

[[pair]]
a = "resnet-label"
b = "resnet-siglip"
held_equal = ["architecture", "initial-weights", "images", "images-seen"]
differs = ["objective", "information"]
note = "Same network, same pictures; only what they were told about them differs."
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.home import RESULTS

PAIRS = "pairs.toml"
ASPECTS = (
    "architecture",
    "parameters",
    "tokens",
    "resolution",
    "initial-weights",
    "images",
    "images-seen",
    "information",
    "objective",
    "optimiser",
    "pretraining-seed",
)
"""What two encoders can share. `information` is what the supervision tells about an image, whatever objective
uses it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two encoders that differ in what is named, and in nothing else that is known."""

    a: str
    b: str
    held_equal: tuple[str, ...]
    differs: tuple[str, ...]
    note: str


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """Read the declared pairs, in the file's order.

    Raises:
        UsageError: no such file, not TOML, an unknown or missing key, an unknown aspect, an aspect both equal
            and different, an encoder paired with itself, or a pair declared twice; names the pair.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError("cannot read the pairs", where=str(path), found=error.strerror or "") from error
    except ValueError as error:
        raise UsageError("not valid TOML", where=str(path), found=str(error)) from error
    _check_keys(data, ("pair",), str(path))
    tables = data.get("pair", [])
    if not isinstance(tables, list):
        raise UsageError("not a list of tables", where=f"{path}: pair", fix="begin each pair with [[pair]]")
    pairs = tuple(_pair(table, f"{path}: pair {number}") for number, table in enumerate(tables, 1))
    seen: set[frozenset[str]] = set()
    for number, pair in enumerate(pairs, 1):
        members = frozenset((pair.a, pair.b))
        if members in seen:
            raise UsageError("declared twice", where=f"{path}: pair {number}", found=f"{pair.a}, {pair.b}")
        seen.add(members)
    return pairs


def _pair(table: Any, where: str) -> Pair:
    if not isinstance(table, dict):
        raise UsageError("not a table", where=where, fix="begin each pair with [[pair]]")
    keys = ("a", "b", "held_equal", "differs", "note")
    _check_keys(table, keys, where)
    for key in keys:
        if key not in table:
            raise UsageError("key missing", where=where, expected=key)
    for key in ("a", "b", "note"):
        if not isinstance(table[key], str) or not table[key].strip():
            raise UsageError(f"{key} is not text", where=where, found=repr(table[key]))
    equal, differs = (_aspects(table[key], f"{where}, {key}") for key in ("held_equal", "differs"))
    both = sorted(set(equal) & set(differs))
    if both:
        raise UsageError("held equal and different at once", where=where, found=both[0])
    if table["a"] == table["b"]:
        raise UsageError("an encoder paired with itself", where=where, found=table["a"])
    return Pair(a=table["a"], b=table["b"], held_equal=equal, differs=differs, note=table["note"].strip())


def _aspects(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise UsageError("not a list of aspects", where=where, expected=", ".join(ASPECTS))
    for item in value:
        if item not in ASPECTS:
            raise UsageError(
                "unknown aspect", where=where, found=repr(item), expected=_nearest(item, ASPECTS)
            )
    if len(set(value)) < len(value):
        raise UsageError("an aspect twice", where=where)
    return tuple(value)


def _check_keys(table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError("unknown key", where=where, found=repr(key), expected=_nearest(key, known))


def _nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, known, n=1, cutoff=0)[0]


def own_pairs() -> Path | None:
    """The declaration beside the results of record, or None where there is none."""
    path = RESULTS / PAIRS
    return path if path.is_file() else None
