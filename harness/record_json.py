"""Records back from the JSON that `files.write_json` wrote: every key, no other key, exact types.

`harness.fields` reads what people write and helps them; here a program wrote the file, so that any deviation
means damage or another schema version, and defaults are no excuse for an absent key.
"""

from __future__ import annotations

import dataclasses
import typing
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar

from harness.errors import IntegrityError

T = TypeVar("T")


def record_from_json(cls: type[T], value: object, file: str, path: str = "") -> T:
    """Build a record of class `cls` from parsed JSON.

    Args:
        cls: a frozen dataclass from `harness.records`.
        value: what `files.read_json` returned, or a part of it.
        file: named in errors.
        path: key of `value` inside the file, for errors.

    Raises:
        IntegrityError: a key is missing or unknown, or a value has another type; names file and key.
    """
    hints = typing.get_type_hints(cls)
    if not isinstance(value, dict):
        raise _refuse(file, path, value, "an object")
    for key in value.keys() - hints.keys():
        raise IntegrityError("unknown key", where=_spot(file, _join(path, key)))
    for key in hints.keys() - value.keys():
        raise IntegrityError("key missing", where=_spot(file, _join(path, key)))
    return cls(**{key: _typed(hint, value[key], file, _join(path, key)) for key, hint in hints.items()})


def _typed(hint: Any, value: object, file: str, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return record_from_json(typing.cast("type[Any]", hint), value, file, path)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise _refuse(file, path, value, f"one of {', '.join(args)}")
        return value
    if origin in (UnionType, typing.Union):
        return (
            None if value is None else _typed(next(a for a in args if a is not NoneType), value, file, path)
        )
    if origin is tuple:
        return _items(args, value, file, path)
    if origin is dict:
        if not isinstance(value, dict):
            raise _refuse(file, path, value, "an object")
        return {key: _typed(args[1], item, file, _join(path, key)) for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    # `type() is` and not isinstance: True is an int to Python, not to us.
    if type(value) is not hint:
        raise _refuse(file, path, value, hint.__name__)
    return value


def _items(args: tuple[Any, ...], value: object, file: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _refuse(file, path, value, "a list")
    if args[-1] is not Ellipsis and len(value) != len(args):
        raise _refuse(file, path, value, f"{len(args)} items")
    return tuple(_typed(args[0], item, file, f"{path}[{i}]") for i, item in enumerate(value))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _spot(file: str, path: str) -> str:
    return f"{file}: {path}" if path else file


def _refuse(file: str, path: str, value: object, expected: str) -> IntegrityError:
    return IntegrityError(
        "wrong type or value", where=_spot(file, path), found=repr(value)[:80], expected=expected
    )
