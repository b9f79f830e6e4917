"""`eyechart check --self-test` on files and options that are not what it takes: one line, never a bug."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from stored_runs import TASK, draw, write_runs

from harness.cli import main
from harness.self_test import pack

OTHER = "eyechart_mini_rec"
RULES = f"schema = 1\n[tasks.{TASK}]\nmargin = 0.05\n[tasks.{OTHER}]\nmargin = 0.05\n"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    """Scores of twenty seeds and of a copy's three, on two tasks; beside them the results and a policy."""
    root = tmp_path_factory.mktemp("seeds")
    sync, os.fsync = os.fsync, lambda _: None
    try:
        for task in (TASK, OTHER):
            write_runs(root / "results", "whole", draw(1, seeds=20, samples=60), task)
            write_runs(root / "results", "worse", draw(2, 0.5, samples=60), task)
    finally:
        os.fsync = sync
    pack([root / "results"], "mini", root / "seeds.parquet")
    (root / "policy.toml").write_text(RULES)
    return root


def run(seeds: Path, path: Path, *words: str) -> int:
    policy = ["--policy", str(seeds / "policy.toml")]
    return main(["check", "--self-test", str(path), "--splits", "3", *policy, *words])


def column(name: str, change: Callable[[np.ndarray], object]) -> Callable[[pa.Table], pa.Table]:
    """The table with one column made anew from its values."""

    def changed(rows: pa.Table) -> pa.Table:
        values = rows[name].to_numpy().copy()
        place = rows.schema.get_field_index(name)
        return rows.set_column(place, name, pa.array(change(values)))

    return changed


def first(value: object) -> Callable[[np.ndarray], object]:
    return lambda values: [value, *values[1:].tolist()]


def without_task(rows: pa.Table) -> pa.Table:
    gone = pc.and_(pc.equal(rows["encoder"], "worse"), pc.equal(rows["task"], OTHER))
    return rows.filter(pc.invert(gone))


BAD: dict[str, tuple[Callable[[pa.Table], pa.Table], int, str]] = {
    "a task less in a copy": (without_task, 2, "worse: a copy lacks a task"),
    "rows cut off": (lambda rows: rows.slice(0, rows.num_rows - 100), 8, "expected"),
    "a seed cut off": (lambda rows: rows.slice(0, rows.num_rows - 60), 2, "too few seeds"),
    "no rows": (lambda rows: rows.slice(0, 0), 8, "no scores"),
    "a score of 7": (column("score", first(7.0)), 8, "a score out of range: found 7.0"),
    "not a number": (column("score", first(float("nan"))), 8, "a score out of range: found nan"),
    "no score": (column("score", first(None)), 8, "score missing: found 1 rows without one"),
    "no seed": (column("seed", first(None)), 8, "seed missing"),
    "scores in words": (column("score", lambda v: ["right"] * len(v)), 8, "a column of another type"),
    "two protocols": (column("protocol", first("main")), 8, "several protocols: found main, mini"),
    "other clusters": (column("cluster", first(9)), 8, "seeds hold other samples, by cluster"),
    "a sample twice": (column("sample_id", lambda v: np.minimum(v, 58)), 8, "a sample twice"),
    "another task's digest": (column("task_digest", first("f" * 64)), 8, "in task_digest"),
    "a name that rings": (column("encoder", first("\a")), 8, "a name that cannot be printed"),
    "a column less": (lambda rows: rows.drop_columns(["cluster"]), 8, "column missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(seeds: Path, tmp_path: Path, name: str, capsys) -> None:
    change, code, says = BAD[name]
    path = tmp_path / "bad.parquet"
    pq.write_table(change(pq.read_table(seeds / "seeds.parquet")), path)
    assert run(seeds, path) == code
    out, err = capsys.readouterr()
    assert says in err, err
    assert (out, len(err.splitlines())) == ("", 1)


def test_every_split_has_one_of_three_verdicts(seeds: Path, capsys) -> None:
    assert run(seeds, seeds / "seeds.parquet") == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]]
    assert all(sum(float(x) for x in row[-4:-1]) == pytest.approx(100, abs=0.2) for row in rows)


def test_a_board_of_unlike_encoders_is_refused(seeds: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    write_runs(tmp_path, "whole", draw(1, seeds=20, samples=60))
    write_runs(tmp_path, "unlike", draw(2, samples=60), dataset_digest="e" * 64)
    (tmp_path / "policy.toml").write_text(f"schema = 1\n[tasks.{TASK}]\nmargin = 0.05\n")
    assert main(["check", "--self-test", str(tmp_path), "--policy", str(tmp_path / "policy.toml")]) == 2
    assert "not under the conditions of whole: found dataset" in capsys.readouterr().err


IDLE = {
    "strict": ["--strict"],
    "json": ["--json"],
    "junit": ["--junit", "j.xml"],
    "json-file": ["--json-file", "r.json"],
    "markdown": ["--markdown", "m.md"],
    "badge": ["--badge", "b.svg"],
    "github": ["--github"],
    "baseline": ["--baseline", "b.json"],
    "candidate": ["--candidate", "c"],
    "protocol": ["--protocol", "mini"],
}


@pytest.mark.parametrize("name", IDLE)
def test_an_option_that_would_do_nothing_is_refused(seeds: Path, name: str, capsys) -> None:
    assert run(seeds, seeds / "seeds.parquet", *IDLE[name]) == 2
    assert f"--{name} " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--protocol", "main"], ["--splits", "9"]])
def test_options_of_the_self_test_are_refused_without_it(seeds: Path, words: list[str], capsys) -> None:
    whole = str(seeds / "results" / "mini" / "whole")
    assert main(["check", "--baseline", whole, "--candidate", whole, *words]) == 2
    assert f"{words[0]} belongs to --self-test" in capsys.readouterr().err
