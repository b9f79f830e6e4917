"""`eyechart query`: SQL that reads, in four formats, and nothing that does more than read."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from index_bundles import PAIRS, write_board

from harness import query as query_module
from harness.cli import main
from harness.errors import IntegrityError, UsageError
from harness.query import query_store, spell_table
from harness.row_formats import BATCH_ROWS, write_rows
from harness.store import ingest

MANY = "SELECT range AS a, range / 7 AS b, range::VARCHAR AS c FROM range({})"
TYPES = (
    "SELECT NULL AS a, '' AS b, 'x' AS a, [1, 2] AS l, 1 / 0 AS d, 0.1 AS e, INTERVAL 1 DAY AS i, "
    "{'k': [1.5]} AS s, sum(2) AS n, "
    "'q\"\n' AS t, DATE '2026-01-02' AS day, TIME '01:02:03' AS hour, 'ab'::BLOB AS raw, true AS yes"
)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("query")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        write_board(home / "results")
        ingest(home / "index.duckdb", home / "results", pairs=PAIRS)
        yield home / "index.duckdb"


@pytest.fixture
def ask(db: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    def asked(sql: str, *words: str) -> tuple[int, bytes, str]:
        code = main(["query", sql, "--db", str(db), *words])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return asked


def test_a_table_is_aligned_and_counted(ask):
    code, out, _ = ask("SELECT encoder, family, num_seeds, NULL AS gap FROM leaderboard ORDER BY encoder")
    assert code == 0
    assert out.decode().splitlines() == [
        "encoder  family               num_seeds  gap",
        "blind    none                         3  –",
        "resnet   sigmoid-contrastive          3  –",
        "vit      sigmoid-contrastive          3  –",
        "3 rows",
    ]
    assert ask("SELECT 1 AS one")[1] == b"one\n  1\n1 row\n"


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ([], b"encoder  value\n0 rows\n"),
        (["--format", "csv"], b'"encoder","value"\n'),
        (["--format", "json"], b"[]\n"),
    ],
)
def test_no_rows_still_have_a_header(ask, words, out):
    assert ask("SELECT encoder, value FROM leaderboard WHERE false", *words) == (0, out, "")


def test_csv_tells_null_from_empty_text(ask):
    code, out, _ = ask(TYPES, "--format", "csv")
    assert code == 0
    header, rest = out.decode().split("\n", 1)
    assert header == '"a","b","a_1","l","d","e","i","s","n","t","day","hour","raw","yes"'
    interval = rest.split(",")[7]
    assert rest.startswith(',"","x","[1,2]",inf,0.1,') and interval == '"P0M1DT0S"'
    assert rest.endswith('"{""k"":[1.5]}",2,"q""\n",2026-01-02,"01:02:03","6162",true\n')


def test_json_is_json_whatever_the_types(ask):
    code, out, _ = ask(TYPES, "--format", "json")
    row = json.loads(out)[0]
    assert code == 0 and len(out.splitlines()) == 3
    assert row.pop("i") == "P0M1DT0S"
    assert row == {
        "a": None, "b": "", "a_1": "x", "l": [1, 2], "d": None, "e": 0.1, "s": {"k": [1.5]}, "n": 2,
        "t": 'q"\n', "day": "2026-01-02", "hour": "01:02:03", "raw": "6162", "yes": True,
    }  # fmt: skip


def test_the_formats_hold_the_same_rows(ask, tmp_path):
    sql = "FROM samples ORDER BY ALL"
    for form in ("csv", "json", "parquet"):
        code, out, _ = ask(sql, "--format", form, "--out", str(tmp_path / f"s.{form}"))
        assert (code, out) == (0, f"540 rows in {tmp_path}/s.{form}\n".encode())
        if form != "parquet":
            assert ask(sql, "--format", form)[1] == (tmp_path / f"s.{form}").read_bytes()
    rows = pq.read_table(tmp_path / "s.parquet", page_checksum_verification=True)
    assert json.loads((tmp_path / "s.json").read_text()) == rows.to_pylist()
    text = pacsv.ConvertOptions(column_types=rows.schema)
    assert pacsv.read_csv(tmp_path / "s.csv", convert_options=text).equals(rows)


def test_what_parquet_has_no_type_for_is_spelled(ask, tmp_path):
    sql = "SELECT INTERVAL 1 DAY AS i, union_value(x := 1) AS u, [INTERVAL 2 MONTH] AS l, 3 AS n"
    code, out, _ = ask(sql, "--format", "parquet", "--out", str(tmp_path / "odd.parquet"))
    assert (code, out) == (0, f"1 row in {tmp_path}/odd.parquet\n".encode())
    (row,) = pq.read_table(tmp_path / "odd.parquet").to_pylist()
    assert row == {"i": "P0M1DT0S", "u": "1", "l": '["P2M0DT0S"]', "n": 3}


def test_parquet_goes_down_a_pipe_and_not_to_a_terminal(db, ask, monkeypatch):
    code, out, _ = ask("FROM leaderboard", "--format", "parquet")
    assert code == 0 and pq.read_table(io.BytesIO(out)).num_rows == 3
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, err = ask("FROM leaderboard", "--format", "parquet")
    assert (code, out) == (2, b"") and "--out" in err
    words = [sys.executable, "-m", "harness.cli", "query", MANY.format(200_000), "--db", str(db)]
    done = subprocess.Popen([*words, "--format", "csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None and done.stderr is not None
    assert done.stdout.readline() == b'"a","b","c"\n'
    done.stdout.close()  # like `| head -1`
    assert (done.wait(), done.stderr.read()) == (0, b"")
    done.stderr.close()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO meta VALUES ('a', 'b')",
        "UPDATE runs SET counted = true",
        "DELETE FROM runs",
        "DROP TABLE runs",
        "CREATE TABLE x (a INT)",
        "CREATE TEMP TABLE x (a INT)",
        "ALTER TABLE runs ADD COLUMN x INT",
        "ATTACH 'other.duckdb'",
        "DETACH index",
        "COPY runs TO 'out.csv'",
        "COPY runs FROM 'in.csv'",
        "EXPORT DATABASE 'out'",
        "INSTALL json",
        "LOAD json",
        "SET threads = 1",
        "SET VARIABLE x = 1",
        "RESET threads",
        "USE main",
        "PRAGMA threads = 1",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CHECKPOINT",
        "VACUUM",
        "BEGIN",
        "PREPARE q AS SELECT 1",
        "EXPLAIN DELETE FROM runs",
        "EXPLAIN ANALYZE CREATE TEMP TABLE x (a INT)",
        "WITH x AS (INSERT INTO meta VALUES ('a', 'b') RETURNING *) FROM x",
        "SELECT 1; DROP TABLE runs",
        "SELECT 1; SELECT 2",
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM glob('/*')",
        "FROM sniff_csv('/etc/passwd')",
        "FROM duckdb_secrets()",
        "FROM enable_logging()",
        "FROM force_checkpoint('index')",
        "FROM sql",  # a name of ours: DuckDB would read Python's variables
        "SELECT getenv('HOME')",
        "SELECT error('on purpose')",
        "SELECT cluster::INT FROM samples",
        "SELECT nothing FROM runs",
        "SELEC 1",
        "-- nothing",
        "",
    ],
)
def test_what_does_not_only_read_fails_in_one_line(db, ask, sql):
    before = db.read_bytes()
    for words in ([], ["--format", "csv"]):
        code, out, err = ask(sql, *words)
        assert (code, out) == (2, b""), sql
        assert err.startswith("eyechart: ") and err.count("\n") == 1 and "Traceback" not in err
    assert db.read_bytes() == before
    assert sorted(p.name for p in db.parent.iterdir()) == [db.name, f"{db.name}.lock", "results"]


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (SELECT 1 AS a) FROM x",
        "VALUES (1), (2)",
        "DESCRIBE leaderboard",
        "SHOW TABLES",
        "SUMMARIZE tasks",
        "TABLE tasks",
        "(SELECT 1)",
        "SELECT ';' -- the end;",
        "SELECT 1;",
        "EXPLAIN FROM leaderboard",
        "explain analyze SELECT 1",
        "PIVOT tasks ON task IN ('eyechart_mini_vqa') USING count(*)",
    ],
)
def test_what_reads_is_answered(ask, sql):
    code, out, err = ask(sql)
    assert code == 0 and out and not err


def test_a_plan_is_printed_as_duckdb_draws_it(ask):
    assert len(ask("EXPLAIN FROM leaderboard")[1].splitlines()) > 5


def test_errors_carry_duckdbs_words(ask):
    assert 'Referenced column "nothing" not found' in ask("SELECT nothing FROM runs")[2]
    assert "found 2 statements" in ask("SELECT 1; SELECT 2")[2]
    assert "found DROP" in ask("DROP TABLE runs")[2]


def test_a_table_is_cut_and_says_so(ask):
    lines = ask(MANY.format(1000))[1].decode().splitlines()
    assert len(lines) == 1002 and lines[-1] == "1,000 rows"
    lines = ask(MANY.format(1001))[1].decode().splitlines()
    assert len(lines) == 1002 and lines[-1] == "the first 1,000 rows; `--format csv` gives all"
    assert len(ask(MANY.format(1001), "--format", "csv")[1].splitlines()) == 1002


def test_a_terminal_obeys_no_answer_and_long_ones_are_cut(ask):
    code, out, _ = ask("SELECT 'a' || chr(27) || '[2J' || chr(10) || 'b' AS answer, repeat('x', 500) AS long")
    assert code == 0 and b"\x1b" not in out and b"a\\x1b[2J\\nb" in out
    assert len(out.splitlines()) == 3 and len(out.splitlines()[1]) < 130


def test_a_table_can_go_to_a_file(ask, tmp_path):
    assert ask("SELECT 1 AS one", "--out", str(tmp_path / "t.txt")) == (0, b"", "")
    assert (tmp_path / "t.txt").read_text() == "one\n  1\n1 row\n"


def test_no_database_and_a_damaged_one(ask, db, tmp_path):
    code, _, err = ask("FROM runs", "--db", str(tmp_path / "none.duckdb"))
    assert code == 2 and "eyechart ingest" in err
    damaged = bytearray(db.read_bytes())
    for start in range(20_000, len(damaged), 4096):
        damaged[start : start + 8] = b"\x55" * 8
    (tmp_path / "bad.duckdb").write_bytes(damaged)
    code, _, err = ask("FROM scores", "--db", str(tmp_path / "bad.duckdb"))
    assert code == 8 and "--rebuild" in err and err.count("\n") == 1
    assert main(["publish", "--db", str(tmp_path / "bad.duckdb"), "--site", str(tmp_path / "site")]) == 8


def test_damage_that_shows_while_rows_come_is_no_slip_of_the_query(db):
    class Reader:
        schema = pa.schema([("a", pa.int32())])

        def read_next_batch(self) -> None:
            raise pa.ArrowInvalid("Corrupt database file: computed checksum 1 does not match 2")

    with pytest.raises(IntegrityError, match="not a sound database"):
        next(query_module._batches(db, Reader()))


def test_rows_stream(db, tmp_path):
    """Three million rows, which take 120 MB as Arrow holds them, pass through in batches."""
    biggest = 0
    with query_store(db, MANY.format(3_000_000)) as rows, open(tmp_path / "m.parquet", "wb") as file:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def watched() -> Iterator[pa.RecordBatch]:
            nonlocal biggest
            for batch in rows.batches:
                biggest = max(biggest, batch.num_rows)
                yield batch

        assert write_rows("parquet", file, rows.schema, watched()) == 3_000_000
    assert biggest <= BATCH_ROWS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_how_rows_are_cut_leaves_no_trace():
    table = pa.table({"a": list(range(70_000)), "b": [str(n % 13) for n in range(70_000)]})
    for form in ("csv", "json", "parquet"):
        made = []
        for size in (70_000, 999):
            file = io.BytesIO()
            write_rows(form, file, table.schema, table.to_batches(max_chunksize=size))
            made.append(file.getvalue())
        assert made[0] == made[1], form


def test_the_same_can_be_asked_from_python(db):
    with query_store(db, "SELECT encoder FROM leaderboard ORDER BY encoder LIMIT 1") as rows:
        assert spell_table(rows) == "encoder\nblind\n1 row"
    with pytest.raises(UsageError, match="only reads"), query_store(db, "DROP TABLE runs"):
        pass
