"""`eyechart compare`: what it holds against what, what it says it could not, and where its noise is from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from stored_runs import TASK, draw, write_runs

from harness.cli import main

OTHER = "eyechart_mini_rec"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for number in range(3):
        write_runs(tmp_path / "results", f"enc{number}", draw(number, 0.6))
    return tmp_path / "results"


def compare(results: Path, *words: str) -> int:
    return main(["compare", *words, "--results", str(results)])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("name", ["*", "**", "a**b", "enc[12]", "enc?", "", ".", "..", "../mini/enc1"])
def test_a_name_is_no_pattern(results: Path, name: str, capsys, monkeypatch) -> None:
    (results.parent / "elsewhere" / "here").mkdir(parents=True)
    monkeypatch.chdir(results.parent / "elsewhere" / "here")
    assert compare(results, "enc0", name) == 2
    said = one_line(capsys)
    assert "no such encoder" in said or "no such folder" in said or "no bundles" in said or "several" in said


def test_by_id_it_borrows_from_the_board_and_says_so(results: Path, capsys) -> None:
    assert compare(results, "enc0", "enc1") == 0
    assert f"Seed noise is pooled over 3 encoders of {results}." in capsys.readouterr().out
    folder = str(results / "mini" / "enc1")
    assert compare(results, "enc0", folder) == 0
    assert "Seed noise is of these two sides only." in capsys.readouterr().out
    assert compare(results, "enc0", "enc1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seed_noise"] == f"Seed noise is pooled over 3 encoders of {results}."
    assert found["seed_lenders"] == ["enc0", "enc1", "enc2"]


def test_two_protocols_are_both_named_and_nothing_compares(results: Path, tmp_path: Path, capsys) -> None:
    write_runs(tmp_path / "other", "enc0", draw(9), protocol="main")
    write_runs(tmp_path / "other", "enc0", draw(9), OTHER, protocol="main")
    assert compare(results, "enc0", str(tmp_path / "other")) == 12
    out = capsys.readouterr().out.splitlines()
    assert "protocols mini and main" in out[0]
    bundles = [part.split(")")[0] for part in out[0].split("(bundles ")[1:]]
    assert len(set(bundles)) == 2
    table, said = out[1:4], out[4:]
    assert max(len(line) for line in table) < 110
    assert said[0] == f"{OTHER}: not compared, a has no run of it."
    assert said[1].startswith(f"{TASK}: not compared, they differ in protocol: mini, main")
    assert said[2] == "Nothing could be compared."
    assert compare(results, "enc0", str(tmp_path / "other"), "--json") == 12
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"], found["protocol_a"], found["protocol_b"]) == (None, "mini", "main")
    assert found["seed_noise"] is None


def test_what_is_looked_for_in_vain_is_named(results: Path, tmp_path: Path, capsys) -> None:
    nowhere = tmp_path / "nodir"
    assert main(["compare", "enc0", "enc1", "--results", str(results), str(nowhere)]) == 2
    assert f"{nowhere}: no such folder of results" in one_line(capsys)
    assert compare(results, "enc0", "nobody", "--protocol", "zz") == 2
    assert "no runs of enc0 under this protocol: found mini, expected zz" in one_line(capsys)
    assert compare(results, "enc0", "nobody") == 2
    assert f"{results}: no such encoder: found nobody" in one_line(capsys)
    folders = [str(results / "mini" / f"enc{n}") for n in (0, 1)]
    assert compare(results, *folders, "--protocol", "main") == 12
    said = one_line(capsys)
    assert "other protocol in the bundles of" in said and "baseline" not in said


def test_other_samples_are_counted_and_the_first_is_named(results: Path, tmp_path: Path, capsys) -> None:
    write_runs(tmp_path / "few", "few", draw(9, samples=590))
    assert compare(results, "enc0", str(tmp_path / "few")) == 12
    assert "sample set: 600 and 590 samples, 000590 only in the first" in capsys.readouterr().out
    write_runs(tmp_path / "grouped", "grouped", draw(9), cluster_size=5)
    assert compare(results, "enc0", str(tmp_path / "grouped")) == 12
    assert "600 and 600 samples, the same ids in other clusters" in capsys.readouterr().out
