"""The pointer to a baseline, comparing for people, and the self-test."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from stored_runs import TASK, draw, write_runs

from harness import schemas
from harness.baseline import read_baseline
from harness.cli import main
from harness.policy import Policy, TaskPolicy
from harness.self_test import pack, self_test, unpack

POLICY = f"schema = 1\n[tasks.{TASK}]\nmargin = 0.05\n"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """results/ with five encoders of three seeds each."""
    for number in range(5):
        write_runs(tmp_path / "results", f"enc{number}", draw(number, 0.5 + 0.09 * number, seed_sd=0.01))
    (tmp_path / "policy.toml").write_text(POLICY)
    return tmp_path / "results"


def baseline(board: Path, *words: str) -> int:
    return main(["baseline", *words, "--file", str(board / "baseline.json")])


def enc(board: Path, number: int) -> str:
    return str(board / "mini" / f"enc{number}")


def test_set_show_and_check(board: Path, capsys) -> None:
    assert baseline(board, "set", enc(board, 2), "--board", str(board), "--reason", "first release") == 0
    data = json.loads((board / "baseline.json").read_text())
    jsonschema.validate(data, schemas.all_schemas()["baseline.schema.json"])
    assert all(not Path(p).is_absolute() and (board / p).is_dir() for p in data["bundles"])
    assert 6 < data["seed_pools"][TASK]["df"] <= 8
    capsys.readouterr()
    assert baseline(board, "show") == 0
    out = capsys.readouterr().out
    assert "enc2, protocol mini" in out
    assert "first release" in out
    policy = str(board.parent / "policy.toml")
    words = ["check", "--baseline", str(board / "baseline.json"), "--policy", policy, "--candidate"]
    assert main([*words, enc(board, 2)]) == 0
    assert "share bundles" in capsys.readouterr().out
    assert main([*words, enc(board, 0)]) == 1


def test_it_is_set_once_and_moves_only_by_promote(board: Path, capsys) -> None:
    policy = str(board.parent / "policy.toml")
    assert baseline(board, "set", enc(board, 2)) == 0
    before = (board / "baseline.json").read_bytes()
    assert baseline(board, "set", enc(board, 3)) == 2
    assert "promote" in capsys.readouterr().err
    assert baseline(board, "promote", enc(board, 0), "--policy", policy) == 1
    assert (board / "baseline.json").read_bytes() == before
    assert "not promoted" in capsys.readouterr().err
    assert baseline(board, "promote", enc(board, 0), "--policy", policy, "--accept") == 2
    assert baseline(board, "promote", enc(board, 4), "--policy", policy, "--reason", "better") == 0
    found = read_baseline(board / "baseline.json")
    assert (found.encoder, found.history[0].encoder) == ("enc4", "enc2")
    assert baseline(board, "promote", enc(board, 0), "--policy", policy, "--accept", "--reason", "why") == 0
    assert [p.encoder for p in read_baseline(board / "baseline.json").history] == ["enc2", "enc4"]


def test_a_pointer_whose_bundles_changed_or_went_is_refused(board: Path, capsys) -> None:
    assert baseline(board, "set", enc(board, 2)) == 0
    words = ["check", "--baseline", str(board / "baseline.json"), "--candidate", enc(board, 1)]
    folder = next(Path(enc(board, 2)).iterdir())
    shutil.move(folder, board.parent / "kept")
    assert main(words) == 8
    assert "a bundle of the baseline is not here" in capsys.readouterr().err
    shutil.copytree(next(Path(enc(board, 3)).iterdir()), folder)
    assert main(words) == 8
    assert "not the bundle the baseline points at" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"schema_version": 2}'])
def test_a_file_that_is_no_pointer_is_one_line(board: Path, text: str, capsys) -> None:
    (board / "baseline.json").write_text(text)
    assert baseline(board, "show") == 8
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_pointer_and_an_incomplete_baseline(board: Path, capsys) -> None:
    assert baseline(board, "show") == 2
    assert "baseline set" in capsys.readouterr().err
    write_runs(board, "late", draw(9), status="missing")
    assert baseline(board, "set", str(board / "mini" / "late")) == 2
    assert "must be complete" in capsys.readouterr().err


def test_compare_tells_two_encoders_apart(board: Path, capsys) -> None:
    assert main(["compare", "enc0", "enc4", "--results", str(board)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a = enc0, b = enc4, protocol mini; points\n")
    assert "[−" in out
    words = ["compare", "enc0", "enc4", "--results", str(board), "--bootstrap", "500", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    (task,) = found["tasks"]
    assert task["ci_low"] < task["difference"] < task["ci_high"] < 0
    assert task["only_a"] < task["only_b"]
    assert task["bootstrap"]["low"] < task["difference"] < task["bootstrap"]["high"]


def test_compare_says_what_does_not_compare(board: Path, tmp_path: Path, capsys) -> None:
    write_runs(tmp_path / "other", "enc9", draw(9), dataset_digest="e" * 64)
    assert main(["compare", enc(board, 0), str(tmp_path / "other")]) == 12
    out = capsys.readouterr().out
    assert f"{TASK}: not compared, they differ in dataset" in out
    assert "Nothing could be compared." in out
    assert main(["compare", "enc0", "nobody", "--results", str(board)]) == 2
    assert "no such encoder" in capsys.readouterr().err


def test_one_seed_each_is_said_to_hide_training_noise(tmp_path: Path, capsys) -> None:
    for number in range(2):
        write_runs(tmp_path / str(number), f"e{number}", draw(number, seeds=1))
    assert main(["compare", str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    assert "Training noise is unknown" in capsys.readouterr().out


def test_the_self_test_finds_few_false_alarms_and_every_large_loss(tmp_path: Path, capsys) -> None:
    write_runs(tmp_path / "results", "whole", draw(1, seeds=20, seed_sd=0.01))
    write_runs(tmp_path / "results", "worse", draw(2, 0.5, seed_sd=0.01))
    file = tmp_path / "seeds.parquet"
    assert pack([tmp_path / "results"], "mini", file) == 23 * 600
    sides = unpack(file)
    found = self_test(sides, {TASK: TaskPolicy(margin=0.05)}, Policy(), splits=60)
    whole, worse = found["whole"], found["worse"]
    assert whole[0].regressions <= 0.05
    assert whole[0].passed + whole[0].regressions + whole[0].inconclusive == pytest.approx(1)
    assert worse[0].regressions >= 0.95
    assert worse[1].loss == pytest.approx(0.2, abs=0.05)
    (tmp_path / "policy.toml").write_text(POLICY)
    words = ["check", "--policy", str(tmp_path / "policy.toml"), "--splits", "5", "--self-test"]
    assert main([*words, str(file)]) == 0
    first = capsys.readouterr().out
    assert "whole" in first
    power = first.split("What was found of each loss on a gating task:\n")[1].splitlines()
    assert power[0].split()[:2] == ["task", "candidate"] and len(power) >= 2
    assert power[-1].split()[1] == "worse" and float(power[-1].split()[6]) == 100.0
    assert main([*words, str(tmp_path / "results")]) == 0
    # The file and the bundles hold the same scores.
    assert capsys.readouterr().out == first


def test_the_self_test_needs_twenty_seeds(tmp_path: Path, capsys) -> None:
    write_runs(tmp_path / "results", "whole", draw(1, seeds=5))
    (tmp_path / "policy.toml").write_text(POLICY)
    words = ["check", "--policy", str(tmp_path / "policy.toml"), "--self-test", str(tmp_path / "results")]
    assert main(words) == 2
    assert "too few seeds for a self-test: found 5, expected 20" in capsys.readouterr().err


def test_order_of_samples_and_files_changes_nothing(tmp_path: Path) -> None:
    """Bundles are sorted by sample: written in any order they are the same, and a check finds no change."""
    from harness.bundle import find_bundles, read_bundle, write_bundle
    from harness.gate_sides import bundle_folders, read_side

    write_runs(tmp_path / "a", "enc", draw(1))
    rng = np.random.default_rng(0)
    for path in reversed(find_bundles(tmp_path / "a")):
        bundle = read_bundle(path)
        order = rng.permutation(len(bundle.answers))
        write_bundle(
            tmp_path / "b",
            bundle.run,
            [bundle.answers[i] for i in order],
            bundle.receipt,
            {},
            scores=[bundle.scores[i] for i in rng.permutation(len(order))],
            scorer_digest=bundle.scorer_digest,
        )
    sides = [read_side(bundle_folders([tmp_path / name])) for name in "ab"]
    first, second = (side.cells[TASK] for side in sides)
    assert first.digests == second.digests
    assert np.array_equal(first.scores, second.scores)


EDITS = {
    "an infinite variance": ("ratio", "1e999"),
    "a variance beyond all": ("ratio", "1e200"),
    "noise turned off": ("ratio", "-5"),
    "too many degrees of freedom": ("df", "1e9"),
    "less than none": ("df", "-4"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_seed_variance_is_refused(board: Path, name: str, capsys) -> None:
    key, value = EDITS[name]
    assert baseline(board, "set", enc(board, 2), "--board", str(board)) == 0
    path = board / "baseline.json"
    path.write_text(re.sub(rf'"{key}": [-0-9.e]+', f'"{key}": {value}', path.read_text()))
    capsys.readouterr()
    assert baseline(board, "show") == 8
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_pointer_under_another_name_or_at_nothing_is_refused(board: Path) -> None:
    assert baseline(board, "set", enc(board, 2)) == 0
    path = board / "baseline.json"
    good = json.loads(path.read_text())
    for change in (
        {"encoder": "someone"},
        {"bundles": {}},
        {"reason": "a\u0001b"},
        {"bundles": {"x" * 300: "y"}},
    ):
        path.write_text(json.dumps(good | change))
        assert baseline(board, "show") == 8


def test_an_inconclusive_candidate_is_not_promoted_by_itself(board: Path) -> None:
    (board.parent / "tight.toml").write_text(f"schema = 1\n[tasks.{TASK}]\nmargin = 0.001\n")
    assert baseline(board, "set", enc(board, 2), "--board", str(board)) == 0
    write_runs(board, "again", draw(2, 0.68, seed_sd=0.01))
    words = ("promote", str(board / "mini" / "again"), "--policy", str(board.parent / "tight.toml"))
    assert baseline(board, *words) == 11
    assert baseline(board, *words, "--accept", "--reason", "only noise") == 0
    found = read_baseline(board / "baseline.json")
    assert (found.encoder, list(found.seed_pools)) == ("again", [TASK])


def resealed(path: Path, **changes: Any) -> None:
    """Edit a pointer as somebody would who also knows how to make its digest."""
    from harness.digest import digest_json

    data = json.loads(path.read_text()) | changes | {"content_digest": ""}
    path.write_text(json.dumps(data | {"content_digest": digest_json(data)}))


def test_an_edited_pointer_is_refused(board: Path, capsys) -> None:
    """A pool that is believable, and a task less to judge: neither is under a bundle's hash."""
    write_runs(board, "enc2", draw(2, 0.68), "eyechart_mini_rec")
    assert baseline(board, "set", enc(board, 2), "--board", str(board)) == 0
    path = board / "baseline.json"
    good = json.loads(path.read_text())
    pools = {TASK: {"ratio": 0.0, "df": 1e6, "total": 0.0}}
    fewer = dict(list(good["bundles"].items())[:-3])
    capsys.readouterr()
    for change in ({"seed_pools": pools}, {"bundles": fewer}, {"lenders": {}}, {"content_digest": ""}):
        path.write_text(json.dumps(good | change))
        for words in (["show"], ["promote", enc(board, 4)]):
            assert baseline(board, *words) == 8
            err = capsys.readouterr().err
            assert "was changed since `eyechart baseline` wrote it" in err
            assert len(err.splitlines()) == 1
        assert main(["check", "--baseline", str(path), "--candidate", enc(board, 4)]) == 8
        capsys.readouterr()
    # What docs/ci.md says: it is no signature.
    path.write_text(json.dumps(good))
    resealed(path, reason="edited on purpose")
    assert baseline(board, "show") == 0


def test_an_older_pointer_is_told_how_to_become_a_new_one(board: Path, capsys) -> None:
    assert baseline(board, "set", enc(board, 2)) == 0
    path = board / "baseline.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"content_digest", "lenders"}}
    path.write_text(json.dumps(old | {"schema_version": 1}))
    capsys.readouterr()
    assert baseline(board, "show") == 8
    err = capsys.readouterr().err
    assert "found 1, expected 2" in err and "set it anew" in err


@pytest.mark.parametrize("importance", ["advisory", "gating"])
def test_a_promotion_drops_no_task_unasked(board: Path, importance: str, capsys) -> None:
    rec = "eyechart_mini_rec"
    write_runs(board, "enc2", draw(2, 0.68), rec)
    (board.parent / "two.toml").write_text(
        f'{POLICY}[tasks.{rec}]\nmargin = 0.05\nimportance = "{importance}"\n'
    )
    assert baseline(board, "set", enc(board, 2)) == 0
    before = (board / "baseline.json").read_bytes()
    words = ["promote", enc(board, 4), "--policy", str(board.parent / "two.toml"), "--reason", "better"]
    words += ["--accept"] if importance == "gating" else []
    capsys.readouterr()
    assert baseline(board, *words) == 2
    err = capsys.readouterr().err
    assert rec in err and "--drop-tasks" in err
    assert (board / "baseline.json").read_bytes() == before
    assert baseline(board, *words, "--drop-tasks") == 0
    assert f"no check judges these any more: {rec}" in capsys.readouterr().err
