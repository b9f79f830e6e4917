"""What one row of a prepared dataset must hold, as checks of a plain dict: import and doctor share them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from harness.datasets.specs import DatasetSpec
from harness.digest import digest_bytes
from harness.errors import DatasetError
from harness.fields import nearest, show

Row = dict[str, Any]
NUM_ANSWERS = 10
"""Of people, a question in VQAv2 and TextVQA."""
NUM_CLASSES = 1000
_EDGE = 1.5
"""Pixels by which a box may leave its image: annotators' boxes were rounded, and are not altered here."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with one field."""

    field: str
    found: str
    expected: str


def row_faults(spec: DatasetSpec, row: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with a row, its media aside."""
    for name in (*spec.ids, *([spec.cluster] if spec.cluster else [])):
        if row.get(name) is None or row[name] == "":
            yield Fault(name, show(row.get(name)), "a name")
    yield from _KINDS[spec.kind](row)


def _text(row: Mapping[str, Any], name: str) -> Iterator[Fault]:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        yield Fault(name, show(value), "text")


def _vqa(row: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _text(row, "question")
    answers = row.get("answers") or []
    if len(answers) != NUM_ANSWERS or any(a is None or a["answer"] is None for a in answers):
        yield Fault("answers", f"{len(answers)}: {show(answers[:1])}", f"{NUM_ANSWERS} answers")
    elif len({a["answer_id"] for a in answers}) != NUM_ANSWERS:
        # lmms-eval's leave-one-out takes away all that are equal, so that a right answer would score 0.
        yield Fault("answers", "the same answer_id twice", f"{NUM_ANSWERS} different ones")
    yield from _text(row, "multiple_choice_answer")


def _text_vqa(row: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _text(row, "question")
    answers = row.get("answers") or []
    if len(answers) != NUM_ANSWERS or any(a is None for a in answers) or not any(answers):
        yield Fault("answers", f"{len(answers)}: {show(answers[:1])}", f"{NUM_ANSWERS} answers")


def _rec(row: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _text(row, "answer")
    width, height = row.get("image_width") or 0, row.get("image_height") or 0
    for name, side in (("image_width", width), ("image_height", height)):
        if side < 1:
            yield Fault(name, show(side), "pixels")
    box = row.get("bbox") or []
    expected = "x1 < x2 and y1 < y2 within 0-1"
    if len(box) != 4 or any(v is None for v in box):
        yield Fault("bbox", show(box), "4 numbers")
    elif min(width, height) > 0:
        x, y = _EDGE / width, _EDGE / height
        inside = -x <= box[0] < box[2] <= 1 + x and -y <= box[1] < box[3] <= 1 + y
        if not inside:
            yield Fault("bbox", show([round(v, 4) for v in box]), expected)


def _choice(row: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _text(row, "question")
    for i in range(5):
        yield from _text(row, f"a{i}")
    if row.get("answer") not in range(5):
        yield Fault("answer", show(row.get("answer")), "0 to 4")


def _choice3(row: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _text(row, "question")
    options = row.get("options") or []
    if len(options) != 3 or not all(isinstance(o, str) and o.strip() for o in options):
        yield Fault("options", show(options), "3 texts")
    if row.get("answer_id") not in {"0", "1", "2"}:
        yield Fault("answer_id", show(row.get("answer_id")), '"0", "1" or "2"')


def _classes(row: Mapping[str, Any]) -> Iterator[Fault]:
    if row.get("label") not in range(NUM_CLASSES):
        # The hub gives -1 to images without a label.
        yield Fault("label", show(row.get("label")), f"0 to {NUM_CLASSES - 1}")


def _mixture(row: Mapping[str, Any]) -> Iterator[Fault]:
    exchanges = row.get("exchanges") or []
    if not exchanges:
        yield Fault("exchanges", "none", "at least one")
    for exchange in exchanges:
        for name in ("prompt", "answer"):
            if not exchange[name]:
                yield Fault(f"exchanges.{name}", show(exchange[name]), "text")
                return


_KINDS: dict[str, Callable[[Mapping[str, Any]], Iterator[Fault]]] = {
    "vqa": _vqa,
    "text": _text_vqa,
    "rec": _rec,
    "choice": _choice,
    "choice3": _choice3,
    "classes": _classes,
    "mixture": _mixture,
}


def fits(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column's type is of the expected family; widths of numbers may differ.

    >>> fits(pa.int32(), pa.int64()), fits(pa.large_string(), pa.string()), fits(pa.string(), pa.int64())
    (True, True, False)
    """
    types = pa.types
    if types.is_list(expected):
        lists = types.is_list(found) or types.is_large_list(found)
        return bool(lists and fits(found.value_type, expected.value_type))
    if types.is_struct(expected):
        if not types.is_struct(found):
            return False
        held = {child.name: child.type for child in found}
        return all(child.name in held and fits(held[child.name], child.type) for child in expected)
    families = (
        types.is_integer,
        types.is_floating,
        lambda t: types.is_string(t) or types.is_large_string(t),
        lambda t: types.is_binary(t) or types.is_large_binary(t),
    )
    # A column in which every value is null has no type of its own.
    return bool(types.is_null(found)) or any(is_one(found) and is_one(expected) for is_one in families)


def schema_faults(found: pa.Schema, expected: tuple[tuple[str, pa.DataType], ...]) -> Iterator[Fault]:
    """Columns that are missing (the nearest name that is there is told) or of another type."""
    for name, kind in expected:
        if name not in found.names:
            close = nearest(name, [n for n in found.names if n not in dict(expected)])
            yield Fault(name, f"no such column{f' (but {close})' if close else ''}", str(kind))
        elif not fits(found.field(name).type, kind):
            yield Fault(name, str(found.field(name).type), str(kind))


def row_name(spec: DatasetSpec, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that name a row."""
    return tuple(row.get(name) for name in spec.ids)


def fact(row: Mapping[str, Any], sha256: str, where: str) -> bytes:
    """What a row adds to its dataset's digest: its columns without the reference, and the media's hash.

    Raises:
        DatasetError: a number is not finite.
    """
    plain = {name: value for name, value in row.items() if name != "image"}
    try:
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return f"{text}\0{sha256}\n".encode()
    except ValueError as error:
        bad = next((name for name, value in plain.items() if not _spellable(value)), "")
        raise DatasetError("value has no spelling", where=f"{where}: {bad}", found=str(error)) from error


def _spellable(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


def dataset_digest(splits: Mapping[str, str]) -> str:
    """The dataset's digest from the sha256 over each split's facts."""
    lines = "".join(f"{name} {splits[name]}\n" for name in sorted(splits))
    return digest_bytes(f"eyechart dataset 1\n{lines}".encode())
