"""Answers on one machine, scores on another: the same bundles as a run in one go, or a clear refusal."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tiny_run

from harness import cli
from harness.bundle import find_bundles, read_bundle
from harness.handover import SEAL, score_answers, write_answers
from harness.plan import make_plan

ROOT = Path(__file__).resolve().parent.parent
UNITS = 18


@pytest.fixture(scope="module")
def one_go(tiny):
    return tiny_run.uninterrupted(tiny)


@pytest.fixture(scope="module")
def answered(tiny, one_go):
    """Home and folder of a run that stopped before its scores; features and adapters are found."""
    home = tiny.home("handover")
    (home.root / "cache").mkdir()
    for name in ("features", "adapters", "answers"):
        (home.root / "cache" / name).symlink_to(one_go.root / "cache" / name)
    plan = make_plan(tiny.manifest, str(tiny.protocol), home, [home.results], tiny.tasks)
    folder = home.root / "answers-only"
    places = write_answers(plan, folder, tiny_run.InlineExecutor(), tiny_run.Quiet)
    assert len(places) == UNITS
    assert not find_bundles(folder)
    return home, folder


def scored(tiny, home, folder, results):
    return score_answers(folder, results, home, tiny_run.Quiet, str(tiny.protocol), tiny.tasks)


def test_two_steps_give_the_bundles_of_one(tiny, one_go, answered, tmp_path):
    home, folder = answered
    bundles = scored(tiny, home, folder, tmp_path)
    assert len(bundles) == UNITS
    assert tiny_run.contents(tmp_path) == tiny_run.contents(one_go.results)
    for path in bundles:
        twin = one_go.results / path.relative_to(tmp_path)
        ours, theirs = read_bundle(path).environment, read_bundle(twin).environment
        assert ours.keys() == theirs.keys()
        assert ours["stages_s"].keys() == theirs["stages_s"].keys()
    assert scored(tiny, home, folder, tmp_path) == bundles


@pytest.mark.parametrize("name", ["answers.parquet", "receipt.json", "run.json", SEAL])
def test_a_changed_file_is_named(tiny, answered, tmp_path, name):
    home, folder = answered
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    file = min(copy.rglob(name))
    file.write_bytes(file.read_bytes()[:-1] + b"#")
    with pytest.raises(Exception, match=name) as caught:
        scored(tiny, home, copy, tmp_path / "results")
    assert caught.value.exit_code == 8
    file.unlink()
    with pytest.raises(Exception, match=name) as caught:
        scored(tiny, home, copy, tmp_path / "results")
    assert caught.value.exit_code == 8
    assert not (tmp_path / "results").exists()


def test_other_rules_are_not_comparable(tiny, answered, tmp_path):
    home, folder = answered
    text = tiny.protocol.read_text().replace("max_new_tokens = 32", "max_new_tokens = 31")
    other = tmp_path / "other.toml"
    other.write_text(text)
    with pytest.raises(Exception, match="another version of decoding") as caught:
        score_answers(folder, tmp_path / "results", home, tiny_run.Quiet, str(other), tiny.tasks)
    assert caught.value.exit_code == 12


def test_nothing_to_score(capsys, tmp_path):
    assert cli.main(["score", str(tmp_path / "absent"), "--home", str(tmp_path)]) == 2
    assert "no answers to score" in capsys.readouterr().err


def test_commands(tiny, one_go, answered, tmp_path, capsys, monkeypatch):
    home, _ = answered
    out = tmp_path / "out"
    common = ["--protocol", str(tiny.protocol), "--home", str(home.root)]
    assert cli.main(["run", str(tiny.manifest), *common, "--answers-only", str(out)]) == 0
    assert f"eyechart score {out}" in capsys.readouterr().out
    monkeypatch.setattr("harness.handover.score_units", lambda units, places, show: [])
    monkeypatch.setattr("harness.handover.read_task", lambda name, folder: made_task(tiny, name))
    monkeypatch.setattr("harness.handover._write", lambda *_: [])
    assert cli.main(["score", str(out), *common, "--results", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bundles": []}


def made_task(tiny, name):
    from harness.task import read_task

    return read_task(name, tiny.tasks)


def test_answers_need_no_scorer_and_no_index():
    code = """
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"lmms_eval", "duckdb", "datasets", "open_clip", "av"}:
                    raise ModuleNotFoundError(f"{name} is blocked")

        sys.meta_path.insert(0, Block())
        import harness.handover, harness.commands, harness.cli, harness.answers, harness.stages
        import harness.encoders.hf, harness.encoders.timm, harness.engines.hf, harness.executors.local
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
