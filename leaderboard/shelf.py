"""Published numbers on the same question, one TOML file a paper: read strictly, kept apart from ours.

No value stands in a table that nobody has read: the reader refuses the file. docs/format.md has each key.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from harness.errors import UsageError
from harness.fields import Place, Rule, Rules, check_keys, nearest, read_record, show
from harness.records import SIDE_OF_OBJECTIVE

PUBLISHED = Path(__file__).resolve().parent / "published"
MAX_BYTES = 256 * 1024
Verified = Literal["seen", "unverified"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One task of a published table; more is better."""

    name: str
    task: str
    """As published."""
    unit: str
    """"%", or what the numbers count."""
    metric: str
    ours: tuple[str, ...] = ()
    """Our tasks that ask the same; empty where none does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One encoder of a published table."""

    name: str
    encoder: str
    """As published."""
    objective: str
    """Our word for it where we have one (harness.records.Objective), else free text."""
    side: Literal["classification", "contrastive", "other"]
    resolution: str
    """Pixels of a side, or width×height; empty where it is not known."""
    values: tuple[Decimal | None, ...]
    """One a column, digits as published; None where the paper gives none, or nobody has read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Two rows of a table that make classification against contrastive."""

    classification: str
    contrastive: str
    note: str
    """What is equal and what is not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A published table, or the part of it that the shelf holds."""

    title: str
    source: str
    """What was read: the paper's table, a file of the authors' repository."""
    verified: Verified
    """`seen`: somebody read the table in a copy of its source. `unverified`: known from memory only."""
    uncertainty: str
    """What the source says of seeds and intervals."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Contrast, ...] = ()

    def row(self, name: str) -> Row:
        """The row of that name; KeyError where there is none."""
        return {row.name: row for row in self.rows}[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """One paper or report. None of its numbers was measured by Eyechart."""

    name: str
    """The file's name without its ending; the page's anchor."""
    title: str
    authors: str
    year: int
    venue: str
    measured_by: Literal["authors", "others"]
    """Who measured: the paper's authors, or others whom they quote. Never Eyechart."""
    direction: str
    """What the paper finds, in our words."""
    differs: tuple[str, ...]
    """What differs from our protocols, a sentence each."""
    tables: tuple[Table, ...]
    arxiv: str = ""
    link: str = ""
    """https address where there is no arXiv number."""


_NAME = Rule(pattern=r"[a-z0-9][a-z0-9._-]*", expected="a-z, 0-9 and . _ -", max_length=60)
_SENTENCE = Rule(max_length=400)
RULES: Rules = {
    (Column, "name"): Rule(pattern=r"[a-z][a-z0-9_]*", expected="a-z, 0-9 and _", max_length=40),
    (Column, "unit"): Rule(max_length=20),
    (Column, "ours"): Rule(pattern=r"eyechart_[a-z0-9_]+", expected="the name of a task of ours"),
    (Row, "name"): _NAME,
    (Row, "resolution"): Rule(pattern=r"[0-9]+(×[0-9]+)?", expected="pixels, as 224 or 1333×800", empty=True),
    (Contrast, "note"): _SENTENCE,
    (Table, "source"): _SENTENCE,
    (Table, "uncertainty"): _SENTENCE,
    (Paper, "name"): _NAME,
    (Paper, "year"): Rule(low=1990, high=2100),
    (Paper, "arxiv"): Rule(pattern=r"[0-9]{4}\.[0-9]{4,5}", expected="an arXiv number such as 2310.09199"),
    (Paper, "link"): Rule(pattern=r"https://[^\s\"'<>`\\]+", expected="an https:// address"),
    (Paper, "direction"): _SENTENCE,
    (Paper, "differs"): Rule(min_items=1, max_length=400),
}


def read_shelf(folder: Path = PUBLISHED) -> tuple[Paper, ...]:
    """All papers of the folder, oldest first.

    Raises:
        UsageError: a file is not valid; see `read_paper`.
    """
    papers = [read_paper(path) for path in sorted(folder.glob("*.toml"))]
    return tuple(sorted(papers, key=lambda p: (p.year, p.name)))


def read_paper(path: Path) -> Paper:
    """One paper.

    Raises:
        UsageError: not readable, not TOML, a key unknown or missing, a name twice, a pair whose arms are not
            of their sides, or a value in a table that nobody has read; names the place.
    """
    place = Place(str(path), UsageError)
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            place.refuse("file too large", expected=f"at most {MAX_BYTES:,} bytes")
        # Decimal keeps a number's digits as published: 35.40 is not 35.4, and differences are exact.
        parsed = tomllib.loads(data.decode("utf-8"), parse_float=Decimal)
    except OSError as error:
        place.refuse("cannot read it", found=error.strerror or "")
    except ValueError as error:
        place.refuse("not valid TOML", found=str(error))
    keys = [*(f for f in Paper.__dataclass_fields__ if f not in {"name", "tables"}), "table"]
    head = dict(check_keys(parsed, keys, place))
    tables = tuple(_table(t, place.at("table").at(i)) for i, t in enumerate(_list(head, "table", place)))
    if not tables:
        place.refuse("no table", fix="add [[table]]")
    paper = read_record(Paper, head, place, RULES, given={"name": path.stem, "tables": tables})
    if bool(paper.arxiv) == bool(paper.link):
        place.refuse("not one address", expected="arxiv or link, and not both")
    return paper


def _list(table: dict[str, Any], key: str, place: Place) -> list[Any]:
    """Take a list of tables out of a table; absent is empty."""
    found = table.pop(key, [])
    if not isinstance(found, list):
        place.at(key).refuse("wrong type", found=show(found), expected=f"tables that begin with [[…{key}]]")
    return found


def _table(table: object, place: Place) -> Table:
    parts = {"column", "row", "pair"}
    keys = [f for f in Table.__dataclass_fields__ if f not in {"columns", "rows", "pairs"}]
    rest = dict(check_keys(table, [*keys, *sorted(parts)], place))
    lists = {key: _list(rest, key, place) for key in ("column", "row", "pair")}
    columns = tuple(
        read_record(Column, c, place.at("column").at(i), RULES) for i, c in enumerate(lists["column"])
    )
    _check_names([c.name for c in columns], place.at("column"))
    rows = tuple(_row(r, columns, place.at("row").at(i)) for i, r in enumerate(lists["row"]))
    _check_names([r.name for r in rows], place.at("row"))
    pairs = tuple(
        read_record(Contrast, p, place.at("pair").at(i), RULES) for i, p in enumerate(lists["pair"])
    )
    given = {"columns": columns, "rows": rows, "pairs": pairs}
    read = read_record(Table, rest, place, RULES, given=given)
    _check_values(read, place)
    for i, pair in enumerate(pairs):
        _check_pair(read, pair, place.at("pair").at(i))
    return read


def _row(table: object, columns: Sequence[Column], place: Place) -> Row:
    fields = list(Row.__dataclass_fields__)
    rest = dict(check_keys(table, fields, place))
    given = check_keys(rest.pop("values", {}), [c.name for c in columns], place.at("values"))
    values = tuple(_value(given.get(c.name), place.at("values").at(c.name)) for c in columns)
    row = read_record(Row, rest, place, RULES, given={"values": values})
    side = SIDE_OF_OBJECTIVE.get(row.objective, row.side)
    if side != row.side:
        place.at("side").refuse(
            "side is not that of the objective", found=row.side, expected=f"{side}, from {row.objective}"
        )
    return row


def _value(value: object, place: Place) -> Decimal | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        place.refuse("wrong type", found=show(value), expected="a number")
    number = Decimal(value)
    if not number.is_finite():
        place.refuse("not a finite number", found=str(value))
    return number


def _check_values(table: Table, place: Place) -> None:
    for i, row in enumerate(table.rows):
        there = [c.name for c, v in zip(table.columns, row.values, strict=True) if v is not None]
        spot = place.at("row").at(i).at("values")
        if table.verified == "unverified" and there:
            spot.at(there[0]).refuse(
                "a value in a table that nobody has read",
                found=str(row.values[[c.name for c in table.columns].index(there[0])]),
                expected='no value while verified is "unverified"',
                fix='read the source and write verified = "seen", or remove the value',
            )
        if table.verified == "seen" and not there:
            spot.refuse("no value in a table that was read", fix="add values, or remove the row")


def _check_pair(table: Table, pair: Contrast, place: Place) -> None:
    names = [r.name for r in table.rows]
    arms = (("classification", pair.classification), ("contrastive", pair.contrastive))
    for side, name in arms:
        if name not in names:
            place.at(side).refuse("no such row", found=show(name), expected=nearest(name, names))
        if table.row(name).side != side:
            place.at(side).refuse("row of another side", found=table.row(name).side, expected=side)


def _check_names(names: Sequence[str], place: Place) -> None:
    if not names:
        place.refuse("none given", fix="add one")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        place.refuse("the same name twice", found=show(twice[0]), fix="rename one")
