"""What was tried and what was withdrawn: `attempts.toml` and `tombstones.toml` of a folder of results.

    schema = 1
    [[attempt]]
    encoder = "resnet-siglip"
    checkpoints = 4
    adapter_seeds = 3
    runs = 18
    declared_by = "A. Person"
    date = "2026-11-27"

    schema = 1
    [[tombstone]]
    protocol = "main"
    encoder = "resnet-siglip"
    identity_digest = "…64 hex digits…"
    date = "2026-11-27"
    reason = "trained on the test split"

People write both, so a slip is one line that names the nearest key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TypeVar

from harness.errors import UsageError
from harness.fields import Place, Rule, Rules, check_keys, parse_toml, read_record, show
from harness.records import SCHEMA_VERSION

ATTEMPTS, TOMBSTONES = "attempts.toml", "tombstones.toml"
MAX_LEDGER_BYTES = 1 << 20
T = TypeVar("T", "Attempt", "Tombstone")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """How much was tried before this encoder was submitted, as its submitter declares it."""

    encoder: str
    checkpoints: int
    """Checkpoints that were measured, the submitted one included."""
    adapter_seeds: int
    """Adapters trained for each task, whether their runs were kept or not."""
    runs: int
    """Runs of all tasks and seeds together, whether they were kept or not."""
    declared_by: str
    date: str
    """Year, month and day, as 2026-11-27."""
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tombstone:
    """A row that was withdrawn. Its bundles are gone; this stays for good."""

    protocol: str
    encoder: str
    identity_digest: str
    date: str
    reason: str


_ID = Rule(pattern=r"[a-z0-9][a-z0-9-]{1,62}", expected="2 to 63 of a-z, 0-9 and -", max_length=63)
_DAY = Rule(pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}", expected="a day such as 2026-11-27", max_length=10)
RULES: Rules = {
    (Attempt, "encoder"): _ID,
    (Attempt, "checkpoints"): Rule(low=1, high=10**6),
    (Attempt, "adapter_seeds"): Rule(high=10**6),
    (Attempt, "runs"): Rule(low=1, high=10**9),
    (Attempt, "date"): _DAY,
    (Attempt, "note"): Rule(empty=True, max_length=1000),
    (Tombstone, "protocol"): _ID,
    (Tombstone, "encoder"): _ID,
    (Tombstone, "identity_digest"): Rule(pattern=r"[0-9a-f]{64}", expected="64 lower-case hex digits"),
    (Tombstone, "date"): _DAY,
    (Tombstone, "reason"): Rule(max_length=1000),
}


def read_attempts(results: Path) -> dict[str, Attempt]:
    """Attempts by encoder id; empty where the folder has no ledger.

    Raises:
        UsageError: the ledger is not valid, or declares an encoder twice; names the entry.
    """
    path = results / ATTEMPTS
    found: dict[str, Attempt] = {}
    for number, attempt in enumerate(_read(path, "attempt", Attempt)):
        if attempt.encoder in found:
            place = Place(str(path), UsageError).at("attempt").at(number)
            place.refuse("an encoder declared twice", found=attempt.encoder, fix="keep one entry an encoder")
        found[attempt.encoder] = attempt
    return found


def read_tombstones(results: Path) -> list[Tombstone]:
    """Withdrawn rows in the file's order; empty where the folder has no such file.

    Raises:
        UsageError: the file is not valid; names the entry.
    """
    return _read(results / TOMBSTONES, "tombstone", Tombstone)


def all_attempts(roots: Iterable[Path]) -> list[Attempt]:
    """Attempts of several folders of results, by encoder id; of two for one encoder the larger.

    Raises:
        UsageError: as `read_attempts`.
    """
    found: dict[str, Attempt] = {}
    for attempt in (a for root in roots for a in read_attempts(root).values()):
        old = found.get(attempt.encoder, attempt)
        found[attempt.encoder] = max(old, attempt, key=lambda a: (a.runs, a.adapter_seeds, astuple(a)))
    return [found[encoder] for encoder in sorted(found)]


def all_tombstones(roots: Iterable[Path]) -> list[Tombstone]:
    """Tombstones of several folders of results, each once, in the order of their days.

    Raises:
        UsageError: as `read_tombstones`.
    """
    found = {stone for root in roots for stone in read_tombstones(root)}
    return sorted(found, key=lambda stone: (stone.date, astuple(stone)))


def _read(path: Path, name: str, cls: type[T]) -> list[T]:
    place = Place(str(path), UsageError)
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        data = file.read(MAX_LEDGER_BYTES + 1)
    if len(data) > MAX_LEDGER_BYTES:
        place.refuse("ledger too large", expected=f"at most {MAX_LEDGER_BYTES:,} bytes")
    try:
        parsed = parse_toml(data)
    except ValueError as error:
        place.refuse("not valid TOML", found=str(error)[:200])
    table = check_keys(parsed, ("schema", name), place)
    version = table.get("schema")
    if type(version) is not int or version != SCHEMA_VERSION:
        place.at("schema").refuse(
            "schema version not known", found=show(version), expected=str(SCHEMA_VERSION)
        )
    entries = table.get(name, [])
    if not isinstance(entries, list):
        place.at(name).refuse("not a list of tables", fix=f"begin each entry with [[{name}]]")
    spots = [place.at(name).at(number) for number in range(len(entries))]
    records = [read_record(cls, entry, spot, RULES) for entry, spot in zip(entries, spots, strict=True)]
    for record, spot in zip(records, spots, strict=True):
        _check_day(record.date, spot.at("date"))
    return records


def _check_day(text: str, place: Place) -> None:
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        place.refuse("no day of the calendar", found=text, expected="a day such as 2026-11-27")
