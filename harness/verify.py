"""Verification: are these results what their runs wrote, and does everything made from them follow from them?

A bundle is held against its hashes, itself and the definitions; a folder of results also against its siblings
and its ledgers; a database against one built anew from the bundles. Nothing here needs torch or lmms-eval;
scoring again does (`harness.rescore`), and what no check can see is in docs/verification.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from harness.bundle import COMMIT, Bundle, find_bundles, find_uncommitted
from harness.bundle_rules import Definitions, inspect_bundle, is_known
from harness.errors import EyechartError, IntegrityError, UsageError
from harness.files import TEMPORARY_PREFIX
from harness.ledger import read_attempts, read_tombstones
from harness.pairs import PAIRS, Pair, read_pairs
from harness.request import Request, check_request, refuse_missing_base, trusted_bundles
from harness.siblings import compare_siblings
from harness.store import ingest, open_store

TOP_SUFFIXES = (".toml", ".md", ".json")
"""Endings of files that may lie beside the protocols' folders: pairs, ledgers, a word to the reader."""
SHOWN, BLOCK = 60, 4096
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a verification found."""

    bundles: Mapping[Path, Bundle]
    """The sound ones by folder."""
    num_checked: int
    findings: tuple[EyechartError, ...]
    """What is wrong, one line each; empty: verified."""
    notes: tuple[str, ...] = ()
    """What could not be checked here."""


def verify_bundle(path: Path, definitions: Definitions, request: Request | None = None) -> Report:
    """Verify one bundle in itself; what its siblings could tell needs their folder.

    Args:
        path: the bundle's folder.
        definitions: what is known here of tasks and protocols.
        request: the terms of whoever brings it.
    """
    bundles, findings = _inspect([path], definitions, None)
    findings += check_request(path, bundles, definitions, Request(max_tier=(request or Request()).max_tier))
    return Report(
        bundles=bundles, num_checked=1, findings=tuple(findings), notes=_notes(bundles, definitions)
    )


def verify_results(
    root: Path, definitions: Definitions, request: Request | None = None, progress: Progress | None = None
) -> Report:
    """Verify every bundle below `root`, what they say of each other, the ledgers, and what else is there.

    Args:
        root: folder with <protocol>/<encoder>/<run key>/.
        definitions: what is known here of tasks and protocols.
        request: the terms of whoever brings the results.
        progress: called with (bundles read, bundles in all).

    Raises:
        UsageError: there are no results, or no such base.
    """
    terms = request or Request()
    refuse_missing_base(terms.base)
    refuse_part(root)
    paths = find_bundles(root)
    findings: list[EyechartError] = [*_strays(root), *_unfinished(root)]
    if not paths and not findings and terms.base is None:
        raise UsageError("no results here", where=str(root), expected="<protocol>/<encoder>/<run key>/")
    bundles, refused = _inspect(paths, definitions, progress)
    findings += refused
    findings += compare_siblings(list(bundles.values()), trusted_bundles(root, terms.base))
    try:
        if (root / PAIRS).exists():
            read_pairs(root / PAIRS)
        findings += check_request(root, bundles, definitions, terms)
        findings += _check_ledgers(root, bundles)
    except UsageError as error:
        findings.append(error)
    return Report(
        bundles=bundles,
        num_checked=len(paths),
        findings=tuple(findings),
        notes=_notes(bundles, definitions),
    )


def refuse_part(root: Path) -> None:
    """A row or a protocol alone has no siblings and no ledgers to be held against.

    Raises:
        UsageError: names the folder that has.
    """
    for what, pattern, above in (("encoder", "*/", root / ".."), ("protocol", "*/*/", root)):
        if not find_bundles(root) and any(root.glob(f"{pattern}{COMMIT}")):
            fix = f"name the folder of results: {(above / '..').resolve()}"
            raise UsageError(f"this is the folder of one {what}", where=str(root), fix=fix)


def refuse_empty(root: Path) -> None:
    """A folder without bundles, named by mistake, would replace a good index by an empty one.

    Raises:
        UsageError: no bundle is there; names the folder that was meant where that is clear.
    """
    if root.is_dir() and not find_bundles(root):
        refuse_part(root)
        waiting = len(find_uncommitted(root))
        found = f"no bundle, {waiting} folders without COMMIT" if waiting else "no bundle"
        raise UsageError(
            "no results here", where=str(root), found=found, expected="<protocol>/<encoder>/<run key>/"
        )


def _inspect(
    paths: Sequence[Path], definitions: Definitions, progress: Progress | None
) -> tuple[dict[Path, Bundle], list[EyechartError]]:
    bundles: dict[Path, Bundle] = {}
    findings: list[EyechartError] = []
    for number, path in enumerate(paths, 1):
        try:
            bundles[path] = inspect_bundle(path, definitions)
        except EyechartError as error:
            findings.append(error)
        if progress is not None:
            progress(number, len(paths))
    return bundles, findings


def _notes(bundles: Mapping[Path, Bundle], definitions: Definitions) -> tuple[str, ...]:
    unknown = {
        f"{b.run.protocol} version {b.run.protocol_version}, {b.run.task}"
        for b in bundles.values()
        if not is_known(b.run, definitions)
    }
    return tuple(f"not defined here, so its samples were not counted: {name}" for name in sorted(unknown))


def _unfinished(root: Path) -> list[EyechartError]:
    what, fix = "COMMIT is missing", "finish the run that wrote it, or remove the folder"
    return [IntegrityError(what, where=str(path), fix=fix) for path in find_uncommitted(root)]


def _strays(root: Path) -> list[EyechartError]:
    """Whatever lies below `root` and is neither a bundle's folder, nor a folder above one, nor a ledger."""

    def walk(folder: Path, depth: int) -> Iterator[IntegrityError]:
        for path in sorted(folder.iterdir()):
            if path.is_symlink():
                yield IntegrityError("symbolic link among the results", where=str(path))
            elif path.name.startswith(TEMPORARY_PREFIX):
                fix = "remove it; a new run sweeps it too"
                yield IntegrityError("left over from a run that was cut off", where=str(path), fix=fix)
            elif path.name.startswith("."):
                yield IntegrityError("hidden file or folder among the results", where=str(path))
            elif path.is_dir() and (depth or path.suffix not in TOP_SUFFIXES):
                if depth < 2:
                    yield from walk(path, depth + 1)
            elif depth or path.suffix not in TOP_SUFFIXES or not path.is_file():
                yield IntegrityError("not part of the results", where=str(path))

    return list(walk(root, 0))


def _check_ledgers(root: Path, bundles: Mapping[Path, Bundle]) -> list[EyechartError]:
    """Withdrawn rows are gone, and no encoder has more runs than were declared."""
    findings: list[EyechartError] = []
    for stone in read_tombstones(root):
        for path, bundle in bundles.items():
            submission = bundle.run.submission
            same = stone.encoder == submission.id or stone.identity_digest == submission.identity_digest
            if stone.protocol == bundle.run.protocol and same:
                what = f"withdrawn on {stone.date}, and still here"
                fix = "remove the row's folder; the tombstone stays"
                findings.append(IntegrityError(what, where=str(path), found=stone.encoder, fix=fix))
    for encoder, attempt in read_attempts(root).items():
        mine = [bundle.run for bundle in bundles.values() if bundle.run.submission.id == encoder]
        seen = {
            "adapter_seeds": len({run.seed for run in mine if run.engine != "probe"}),
            "runs": len(mine),
        }
        for name, found in seen.items():
            declared = getattr(attempt, name)
            if found > declared:
                what = f"more {name} of {encoder} than were declared"
                where = str(root / "attempts.toml")
                findings.append(IntegrityError(what, where=where, found=str(found), expected=str(declared)))
    return findings


def verify_store(
    db: Path, roots: Sequence[Path], pairs: Sequence[Pair] = (), progress: Progress | None = None
) -> Report:
    """Build the database anew from its bundles and compare every table and view.

    Args:
        db: what `eyechart ingest` made, from these roots.
        roots: folders of bundles.
        pairs: that it was given.
        progress: called with (bundles read, bundles in all).

    Returns:
        At most one finding: the first difference, with table, row and column.

    Raises:
        UsageError: a root does not exist.
        IntegrityError: not a database of this version, or a bundle is damaged.
    """
    open_store(db).close()
    with tempfile.TemporaryDirectory(prefix="eyechart-verify-") as folder:
        fresh = Path(folder) / "fresh.duckdb"
        report = ingest(fresh, *roots, pairs=pairs, progress=progress)
        findings: list[EyechartError] = []
        mine, true = open_store(db), open_store(fresh)
        try:
            _compare_databases(mine, true, str(db))
        except IntegrityError as error:
            findings.append(error)
        except duckdb.Error as error:
            found = str(error).splitlines()[0][:200]
            findings.append(IntegrityError("table cannot be read", where=str(db), found=found))
        finally:
            mine.close()
            true.close()
    return Report(bundles={}, num_checked=report.num_bundles, findings=tuple(findings))


def _compare_databases(mine: duckdb.DuckDBPyConnection, true: duckdb.DuckDBPyConnection, where: str) -> None:
    """Raise IntegrityError for the first difference."""
    ours, theirs = _objects(mine), _objects(true)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            what = f"{name} is not defined as in harness/schema.sql"
            found, expected = ours.get(name, "no such table"), theirs.get(name, "no such table")
            raise IntegrityError(what, where=where, found=found[:200], expected=expected[:200])
    for name in theirs:
        _compare_table(mine, true, name, where)


def _objects(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Tables, then views, with their definitions."""
    tables = connection.execute(
        "SELECT table_name, sql FROM duckdb_tables() WHERE NOT internal ORDER BY ALL"
    ).fetchall()
    views = connection.execute(
        "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
    ).fetchall()
    return {str(name): " ".join(str(sql).split()) for name, sql in [*tables, *views]}


def _compare_table(
    mine: duckdb.DuckDBPyConnection, true: duckdb.DuckDBPyConnection, name: str, where: str
) -> None:
    query = f'SELECT * FROM "{name}" ORDER BY ALL'
    found, expected = _rows(mine, query), _rows(true, query)
    if found.equals(expected):
        return
    number = _first_difference(found, expected)
    left, right = (
        table.slice(number, 1).to_pylist()[0] if number < table.num_rows else None
        for table in (found, expected)
    )
    if left is None or right is None or found.num_rows != expected.num_rows:
        missing = found.num_rows < expected.num_rows
        row = (right if missing else left) or left or right or {}
        raise IntegrityError(
            f"table {name} has {'too few' if missing else 'too many'} rows, the first of them {_key(row)}",
            where=where,
            found=f"{found.num_rows:,}",
            expected=f"{expected.num_rows:,}",
        )
    column = next(c for c in expected.column_names if repr(left[c]) != repr(right[c]))
    what = f"table {name}, row {number + 1} ({_key(right)}), column {column}"
    raise IntegrityError(what, where=where, found=_cell(left[column]), expected=_cell(right[column]))


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return connection.sql(query).to_arrow_table()


def _first_difference(found: pa.Table, expected: pa.Table) -> int:
    """Number of the first row that differs; the length of the shorter table where one begins the other."""
    shorter: int = min(found.num_rows, expected.num_rows)
    for start in range(0, shorter, BLOCK):
        left, right = found.slice(start, BLOCK), expected.slice(start, BLOCK)
        if left.equals(right):
            continue
        # repr: a NaN is equal to itself here.
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=False)
        for number, (one, other) in enumerate(pairs):
            if repr(one) != repr(other):
                return start + number
    return shorter


def _key(row: Mapping[str, Any]) -> str:
    """What names a row for a person: its words before its numbers."""
    words = [name for name in ("protocol", "encoder", "task", "seed", "sample_id") if name in row]
    return ", ".join(_cell(row[name]) for name in words or list(row)[:2])


def _cell(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
