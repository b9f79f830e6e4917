"""Reading a record out of a parsed TOML or YAML table, strictly: one clear line for any mistake.

The record's own annotations say what is expected; a `Rule` adds bounds. `harness.schemas` turns the
same two into JSON schemas, so what the schema says and what the reader refuses cannot differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import reprlib
import tomllib
import typing
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

from harness.errors import EyechartError

T = TypeVar("T")
SHOWN = 80
"""Characters of a stranger's value or key in an error line."""
MAX_KEY_DOTS = 32
"""In the keys of one line of TOML: time and memory of its parser grow with the square of a key's parts."""
_STRINGS = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?(?:"{3,5}|\\?\Z)|'{3}.*?(?:'{3,5}|\Z)|"(?:\\.|[^"\\\n])*+"?|'[^'\n]*+'?|#[^\n]*+""",
    re.DOTALL,
)
"""What is text or comment in TOML. One that does not end reaches as far as it can: no second look at it."""
_SHORT = reprlib.Repr()
"""Writes out no more of tables in tables than a line shows."""
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 10, 400, 400, 400
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = SHOWN
_JOINERS = "\u200c\u200d"
"""Format characters that spelling needs, in Persian and in emoji; all others only hide or reorder text."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Bounds on one field, beyond its type. For lists of strings or numbers they hold for each item."""

    low: float = 0
    """Smallest number allowed."""
    high: float = 2**53
    """Largest number allowed; beyond 2**53 other languages' JSON readers lose digits."""
    pattern: str = ""
    """Regular expression for the whole text, empty for any text."""
    expected: str = ""
    """The pattern in words, for the error line."""
    max_length: int = 200
    """Longest text, in characters."""
    empty: bool = False
    """Whether empty text is allowed."""
    multiline: bool = False
    """Whether line breaks are allowed."""
    min_items: int = 0
    max_items: int = 64


Rules = Mapping[tuple[type, str], Rule]
ANY = Rule()


@dataclass(frozen=True)
class Place:
    """A spot in an input file, and the kind of error that a mistake there is."""

    file: str
    error: Callable[..., EyechartError]
    path: str = ""

    def at(self, key: str | int) -> Place:
        """The spot one level deeper: a key of a table or an index of a list."""
        if isinstance(key, int):
            return Place(self.file, self.error, f"{self.path}[{key}]")
        key = cut(key)
        return Place(self.file, self.error, f"{self.path}.{key}" if self.path else key)

    def refuse(self, what: str, *, found: str = "", expected: str = "", fix: str = "") -> NoReturn:
        """Raise the one-line error for this spot."""
        where = f"{self.file}: {self.path}" if self.path else self.file
        raise self.error(what, where=where, found=found, expected=expected, fix=fix)


def nearest(word: str, known: Iterable[str]) -> str:
    """The member of `known` whose spelling is closest to `word`, "" when `known` is empty."""
    close = difflib.get_close_matches(word[:SHOWN].lower(), sorted(known), n=1, cutoff=0.0)
    return close[0] if close else ""


def show(value: object) -> str:
    """A value as an error line shows it: Python's spelling, cut to 80 characters."""
    try:
        return cut(_SHORT.repr(value))
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__} too large to show"


def cut(text: str, length: int = SHOWN) -> str:
    """The beginning of a stranger's text, for an error line."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def parse_json(data: bytes) -> Any:
    """A stranger's JSON: UTF-8, no name twice in a table (readers differ in which one counts), no NaN.

    Raises:
        ValueError, RecursionError: it is anything else.
    """
    return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)


def parse_toml(data: bytes) -> dict[str, Any]:
    """A stranger's TOML: UTF-8, line ends of Windows and a byte order mark allowed.

    Raises:
        ValueError: it is anything else.
    """
    text = data.decode("utf-8-sig").replace("\r\n", "\n")
    if any(line.count(".") > MAX_KEY_DOTS for line in _STRINGS.sub('""', text).split("\n")):
        raise ValueError("a key of too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the same name twice, {show(twice)}")
    return table


def _no_number(text: str) -> float:
    raise ValueError(f"the number {text}")


def check_keys(table: object, known: Iterable[str], place: Place) -> dict[str, Any]:
    """The table itself, once it is a table and has no key outside `known`.

    Raises:
        EyechartError: of the place's kind, naming the nearest known key.
    """
    if not isinstance(table, dict):
        place.refuse("wrong type", found=show(table), expected="a table of keys and values")
    names = list(known)
    for key in table:
        if key not in names:
            close = nearest(str(key), names)
            fix = f"write {close}, or remove it; known here: {', '.join(names)}"
            place.at(str(key)).refuse("unknown key", expected=f"{close} (the nearest known key)", fix=fix)
    return table


def read_record(
    cls: type[T],
    table: object,
    place: Place,
    rules: Rules,
    *,
    given: Mapping[str, Any] | None = None,
) -> T:
    """Build a record from a table that must have exactly its fields.

    Args:
        cls: a frozen dataclass from `harness.records`.
        table: parsed TOML or YAML.
        place: where the table stands in its file.
        rules: bounds by (class, field name).
        given: fields that do not come from the table and may not appear in it.

    Returns:
        The record; fields with a default may be absent from the table.

    Raises:
        EyechartError: of the place's kind, for the first mistake met.
    """
    given = given or {}
    fields = [f for f in dataclasses.fields(cls) if f.name not in given]  # type: ignore[arg-type]
    values = check_keys(table, [f.name for f in fields], place)
    hints = typing.get_type_hints(cls)
    read: dict[str, Any] = {}
    for field in fields:
        if field.name in values:
            rule = rules.get((cls, field.name), ANY)
            read[field.name] = _value(
                hints[field.name], values[field.name], place.at(field.name), rule, rules
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            place.at(field.name).refuse("key missing", fix=f"add {field.name}")
    return cls(**read, **given)


def _value(hint: Any, value: object, place: Place, rule: Rule, rules: Rules) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return read_choice(value, typing.get_args(hint), place)
    if origin is tuple:
        return _items(typing.get_args(hint), value, place, rule, rules)
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast(type, hint), value, place, rules)
    if hint is str:
        return read_text(value, place, rule)
    if hint is bool:
        if not isinstance(value, bool):
            place.refuse("wrong type", found=show(value), expected="true or false")
        return value
    if hint is int:
        return _number(value, place, rule, int)
    if hint is float:
        return float(_number(value, place, rule, float))
    # A record grew a type that no reader knows: a fault of ours, not of the input.
    raise TypeError(f"{place.path}: no reader for {hint}")


def _items(args: tuple[Any, ...], value: object, place: Place, rule: Rule, rules: Rules) -> tuple[Any, ...]:
    low, high = (rule.min_items, rule.max_items) if args[-1] is ... else (len(args), len(args))
    if not isinstance(value, list):
        place.refuse("wrong type", found=show(value), expected="a list")
    if not low <= len(value) <= high:
        expected = f"{low} to {high}" if low != high else str(low)
        place.refuse("wrong number of items", found=str(len(value)), expected=expected)
    return tuple(_value(args[0], item, place.at(i), rule, rules) for i, item in enumerate(value))


def _number(value: object, place: Place, rule: Rule, kind: type) -> int | float:
    # bool is a subclass of int in Python; `steps = true` is a mistake, not 1.
    allowed = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        expected = "a whole number" if kind is int else "a number"
        place.refuse("wrong type", found=show(value), expected=expected)
    if isinstance(value, float) and not math.isfinite(value):
        place.refuse("not a finite number", found=show(value))
    if not rule.low <= value <= rule.high:
        place.refuse("number out of range", found=show(value), expected=f"{rule.low:g} to {rule.high:g}")
    return value


def read_text(value: object, place: Place, rule: Rule = ANY) -> str:
    """Text within its bounds and without control characters.

    Raises:
        EyechartError: of the place's kind.
    """
    if not isinstance(value, str):
        place.refuse("wrong type", found=show(value), expected="text in quotes")
    if not value.strip() and not rule.empty:
        place.refuse("empty text")
    if len(value) > rule.max_length:
        place.refuse("text too long", found=f"{len(value)} characters", expected=f"at most {rule.max_length}")
    for position, character in enumerate(value):
        if _invisible(character) and not (rule.multiline and character == "\n"):
            place.refuse("control character", found=f"U+{ord(character):04X} at character {position}")
    if rule.pattern and value and not re.fullmatch(rule.pattern, value):
        place.refuse("not well formed", found=show(value), expected=rule.expected)
    return value


def _invisible(character: str) -> bool:
    # Among the format characters (Cf) are those that make a page show text in another order than it has.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in _JOINERS


def read_choice(value: object, options: tuple[str, ...], place: Place) -> str:
    """One of a closed set of words.

    Raises:
        EyechartError: of the place's kind, naming the nearest word.
    """
    if not isinstance(value, str) or value not in options:
        place.refuse(
            "unknown value",
            found=show(value),
            expected=f"one of {', '.join(options)}",
            fix=f"write {nearest(value if isinstance(value, str) else '', options)}",
        )
    return value
