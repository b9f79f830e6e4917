"""What goes wrong with a source by accident, at the command line: one line and its exit code."""

from __future__ import annotations

import resource
import subprocess
import sys

import data_runs
import hub_datasets as given
import pyarrow as pa
import pytest
from data_runs import bring, outside
from hub_datasets import write_raw, write_repo

from harness.cli import main
from harness.data import NOTE
from harness.datasets.specs import SPECS
from harness.files import read_json, write_json

run, patience = data_runs.run, data_runs.patience


def truncated(folder):
    path = max((folder / "data").iterdir())
    path.write_bytes(path.read_bytes()[:-70])


def rewritten(change, schema=None):
    def damage(folder):
        for path in (folder / "data").iterdir():
            path.unlink()
        rows = given.vqa_rows()
        change(rows)
        write_raw(folder / "data" / "validation.parquet", "vqav2", rows, schema)

    return damage


def renamed(rows):
    for row in rows:
        row["pregunta"] = row.pop("question")


RENAMED = pa.schema([("pregunta" if n == "question" else n, k) for n, k in SPECS["vqav2"].raw_columns])
ACCIDENTS = {
    "truncated": (truncated, "not a whole Parquet file"),
    "renamed column": (rewritten(renamed, RENAMED), "column question"),
    "duplicated id": (
        rewritten(lambda rows: rows[4].update(question_id=rows[0]["question_id"])),
        "two rows have one name",
    ),
    "empty split": (rewritten(lambda rows: rows.clear()), "split is empty"),
    "no file": (lambda folder: [p.unlink() for p in (folder / "data").iterdir()], "nothing to import"),
}


@pytest.mark.parametrize("kind", ACCIDENTS)
def test_accidents_of_a_source(run, tmp_path, kind):
    damage, words = ACCIDENTS[kind]
    damage(write_repo(tmp_path / "raw", "vqav2"))
    code, _, error = bring(run, "vqav2", tmp_path / "raw")
    assert code == 5
    assert words in error
    assert not (tmp_path / "home" / "data" / "main" / "vqav2").exists()


def test_a_changed_digest(run, tmp_path):
    assert bring(run, "vqav2", write_repo(tmp_path / "raw", "vqav2"))[0] == 0
    note = tmp_path / "home" / "data" / "main" / "vqav2" / NOTE
    write_json(note, {**read_json(note), "digest": "0" * 64})
    code, out, _ = run("doctor", "vqav2")
    assert code == 5
    assert f"{NOTE}, field digest: found" in out


ODD_NOTES = [
    {"digest": "../../../../x"},
    {"digest": 5},
    {"rows": {"validation": "many"}},
    {"rows": {"validation": -1}},
    {"rows": {"validation": True}},
    {"rows": {"../../x": 1}},
    {"rows": None},
    {"rows": [1]},
    {"files": {"../../x": "0" * 64}},
    {"files": {"/etc/passwd": "0" * 64}},
    {"files": {"validation.parquet": 1}},
    {"files": "x"},
]


@pytest.mark.parametrize("change", ODD_NOTES)
def test_a_note_of_somebody_else(run, tmp_path, change):
    assert bring(run, "textvqa", write_repo(tmp_path / "raw", "textvqa"))[0] == 0
    note = tmp_path / "home" / "data" / "main" / "textvqa" / NOTE
    write_json(note, {**read_json(note), **change})
    for part in ("doctor", "pack"):
        assert main(["data", part, "textvqa"]) == 5
    assert run("list")[0] == 0
    assert outside(tmp_path, "raw") == []


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from harness.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("name", "limit", "more"),
    [("vqav2", 800, ()), ("vqav2", 3000, ()), ("nextqa", 2000, ()), ("textvqa", 900, ("--copy",))],
)
def test_a_full_disk(tmp_path, run, name, limit, more):
    """No file may grow beyond some bytes, which is what a full disk looks like to every writer."""
    write_repo(tmp_path / "raw", name)
    words = ["data", "import", name, str(tmp_path / "raw"), "--partial", *more]
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6, done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("eyechart: ")]
    assert "File too large" in line and "run the same command again" in line
    assert not (tmp_path / "home" / "data" / "main" / name).exists()
    assert run(*words[1:])[0] == 0
    assert run("doctor", name)[0] == 0


def test_limits_of_this_process_are_as_before():
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("name", "found", "expected"),
    [("mixture", "4", "779,289"), ("refcoco", "6", "1,975"), ("vqav2", "18", "214,354")],
)
def test_a_source_of_another_size_is_refused_before_it_is_read(run, tmp_path, name, found, expected):
    write_repo(tmp_path / "raw", name)
    more = ("--splits", "testA") if name == "refcoco" else ()
    code, _, error = run("import", name, tmp_path / "raw", *more)
    assert (code, f"found {found}, expected {expected}" in error) == (5, True), error
    assert not list((tmp_path / "home" / "data" / "main").rglob("*.parquet"))
