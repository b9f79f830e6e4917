"""`eyechart export board`: everything as files, whole or not at all, the same bytes for the same bundles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from index_bundles import PAIRS, write, write_board

from harness import export_board as export_module
from harness.bundle import find_bundles
from harness.cli import main
from harness.errors import UsageError
from harness.export_board import export_board
from harness.store import ingest, open_store

TABLES = {
    "attempts",
    "declared_pairs",
    "encoders",
    "family_effects",
    "floor_differences",
    "meta",
    "metrics",
    "pair_differences",
    "pair_facts",
    "rank_agreement",
    "rank_flips",
    "ranks",
    "runs",
    "scores",
    "stage_costs",
    "tasks",
    "tombstones",
}
VIEWS = {"costs", "flips", "leaderboard", "pairs", "receipts", "samples", "seeds"}


@pytest.fixture(scope="module", autouse=True)
def no_sync() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results, their index and its export."""
    home = tmp_path_factory.mktemp("board")
    write_board(home / "results")
    write(home / "results", "newcomer", values=np.linspace(0, 1, 60), answer='a "quoted", odd\nanswer')
    ingest(home / "index.duckdb", home / "results", pairs=PAIRS)
    export_board(home / "index.duckdb", home / "board")
    return home


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_table_and_view_in_every_format(home):
    names = {f"{name}.{form}" for name in TABLES | VIEWS for form in ("csv", "json", "parquet")}
    assert {path.name for path in (home / "board").iterdir()} == names | {"index.json"}
    index = json.loads((home / "board" / "index.json").read_text())
    assert (index["board_version"], index["store_version"]) == (1, 3)
    assert {entry["file"]: entry["sha256"] for entry in index["files"]} == {
        name: digest for name, digest in digests(home / "board").items() if name != "index.json"
    }
    assert [entry["of"] for entry in index["files"]] == sorted(entry["of"] for entry in index["files"])
    assert str(home) not in (home / "board" / "index.json").read_text()


def test_the_formats_agree_with_the_database(home):
    connection = open_store(home / "index.duckdb")
    index = {e["file"]: e for e in json.loads((home / "board" / "index.json").read_text())["files"]}
    try:
        for name in sorted(TABLES | VIEWS):
            columns = [
                row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall() if row[0] != "path"
            ]
            want = connection.execute(f"SELECT {', '.join(columns)} FROM {name} ORDER BY ALL").fetchall()
            table = pq.read_table(home / "board" / f"{name}.parquet", page_checksum_verification=True)
            assert [tuple(row.values()) for row in table.to_pylist()] == want, name
            assert table.column_names == columns
            assert json.loads((home / "board" / f"{name}.json").read_text()) == table.to_pylist(), name
            assert {index[f"{name}.{form}"]["rows"] for form in ("csv", "json", "parquet")} == {len(want)}
    finally:
        connection.close()
    plain = duckdb.connect()
    for name in sorted(VIEWS):
        read = f"SELECT count(*), count(COLUMNS(*)) FROM '{home}/board/{name}"
        from_csv, from_parquet = (plain.execute(f"{read}.{form}'").fetchall() for form in ("csv", "parquet"))
        assert from_csv == from_parquet, f"{name}: a CSV of ours reads as what it was, NULLs too"
    plain.close()


def test_any_order_and_any_roots_give_the_same_bytes(home, tmp_path):
    want = digests(home / "board")
    export_board(home / "index.duckdb", tmp_path / "again")
    assert digests(tmp_path / "again") == want
    spread = [tmp_path / "left", tmp_path / "right"]
    for number, path in enumerate(reversed(find_bundles(home / "results"))):
        for target in spread if number == 4 else [spread[number % 2]]:
            shutil.copytree(path, target / path.relative_to(home / "results"))
    for number, roots in enumerate((spread, spread[::-1])):
        ingest(tmp_path / "x.duckdb", *roots, pairs=PAIRS[:: 1 - 2 * number])
        export_board(tmp_path / "x.duckdb", tmp_path / f"board-{number}")
        assert digests(tmp_path / f"board-{number}") == want


def test_the_order_in_which_twins_were_written_leaves_no_trace(tmp_path):
    """A second run of one seed lies beside the first as <run key>-2: which one that is says nothing."""
    made = []
    for order in (0, 1), (1, 0):
        root = tmp_path / f"results-{order[0]}"
        for value in order:
            write(root, values=np.full(60, float(value)))
        copy = tmp_path / f"copy-{order[0]}"
        shutil.copytree(root, copy)
        # The environment is under no hash; of two copies of a bundle either may be read first.
        for path in (copy if order[0] else root).rglob("environment.json"):
            path.write_text('{"stages_s": {"adapter": 1.0}}')
        ingest(tmp_path / "x.duckdb", *((root, copy) if order[0] else (copy, root)))
        export_board(tmp_path / "x.duckdb", tmp_path / f"board-{order[0]}")
        made.append(digests(tmp_path / f"board-{order[0]}"))
    assert made[0] == made[1]


def test_a_folder_that_holds_something_is_refused(home, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        export_board(home / "index.duckdb", tmp_path / "full")
    with pytest.raises(UsageError, match="not a folder"):
        export_board(home / "index.duckdb", tmp_path / "full" / "mine.txt")
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    export_board(home / "index.duckdb", tmp_path / "empty")
    assert digests(tmp_path / "empty") == digests(home / "board")


def test_an_export_that_fails_leaves_nothing(home, tmp_path, monkeypatch, capsys):
    written = 0

    def full(*_: object) -> None:
        nonlocal written
        written += 1
        if written == 9:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "digest_file", full)
    words = ["export", "board", "--db", str(home / "index.duckdb"), "--to", str(tmp_path / "board")]
    assert main(words) == 6
    assert "No space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command(home, tmp_path, capsys):
    words = ["export", "board", "--db", str(home / "index.duckdb"), "--to", str(tmp_path / "a" / "board")]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"{len(TABLES | VIEWS)} tables and views, ")
    assert main(words) == 2
    assert main([*words[:-1], str(tmp_path / "b"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(tmp_path / "b") and said["tables"] == len(TABLES | VIEWS)
    assert digests(tmp_path / "b") == digests(home / "board")
    assert main(["export", "board", "--db", str(tmp_path / "none"), "--to", str(tmp_path / "c")]) == 2
