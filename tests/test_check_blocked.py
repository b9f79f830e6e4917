"""What keeps a check from comparing is a verdict with a report in every form, and no bare error."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import junitparser
import pytest
from stored_runs import HEX, TASK, draw, write_runs

from harness import schemas
from harness.cli import main

OTHER = "eyechart_mini_rec"
RULES = f"schema = 1\n[tasks.{TASK}]\nmargin = 0.05\n[tasks.{OTHER}]\nmargin = 0.05\n"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A baseline of two tasks, a policy, and reports of an earlier check that passed."""
    for task in (TASK, OTHER):
        write_runs(tmp_path / "base", "base", draw(1), task)
    (tmp_path / "policy.toml").write_text(RULES)
    for name in ("r.json", "j.xml", "m.md", "b.svg"):
        (tmp_path / name).write_text("an earlier check's")
    return tmp_path


def run(folder: Path, *words: str) -> int:
    places = [("--json-file", "r.json"), ("--junit", "j.xml"), ("--markdown", "m.md"), ("--badge", "b.svg")]
    outputs = [word for option, name in places for word in (option, str(folder / name))]
    head = ["check", "--baseline", str(folder / "base"), "--candidate", str(folder / "cand")]
    return main([*head, "--policy", str(folder / "policy.toml"), "--github", *outputs, *words])


def wait(bundle: Path) -> None:
    """Turn a bundle into answers that wait for their scores."""
    for name in ("COMMIT", "MANIFEST.sha256", f"scores-{HEX[:12]}.parquet"):
        (bundle / name).unlink()


def reports(folder: Path) -> dict[str, object]:
    """The JSON report; the other forms are read by their own parsers and must agree with it."""
    report = json.loads((folder / "r.json").read_text())
    jsonschema.validate(report, schemas.all_schemas()["check-report.schema.json"])
    word = report["verdict"].replace("-", " ")
    assert (folder / "m.md").read_text().startswith(f"### Eyechart: {word}\n")
    assert word in "".join(ET.parse(folder / "b.svg").getroot().itertext())
    assert junitparser.JUnitXml.fromfile(str(folder / "j.xml")).errors >= 1
    assert isinstance(report, dict)
    return report


def verdicts(report: dict[str, object]) -> dict[str, str]:
    tasks = report["tasks"]
    assert isinstance(tasks, list)
    return {task["task"]: task["verdict"] for task in tasks}


def test_another_protocol_is_reported_in_every_form(folder: Path, capsys) -> None:
    for task in (TASK, OTHER):
        write_runs(folder / "cand", "cand", draw(2), task, protocol="main")
    assert run(folder, "--json") == 12
    out, err = capsys.readouterr()
    report = reports(folder)
    assert json.loads(out) == report
    assert (report["verdict"], report["exit_code"]) == ("not-comparable", 12)
    assert verdicts(report) == {TASK: "not-comparable", OTHER: "not-comparable"}
    assert report["candidate"]["encoder"] == "cand"  # type: ignore[index]
    assert report["seed_noise"] == ""
    assert sum(line.startswith("::error") for line in err.splitlines()) == 2
    assert "found main, expected mini" in (folder / "j.xml").read_text()


def test_two_sets_of_conditions_block_their_own_task(folder: Path, capsys) -> None:
    for task in (TASK, OTHER):
        write_runs(folder / "cand", "cand", draw(2), task)
    write_runs(folder / "cand", "cand", draw(3), recipes={"adapter": "f" * 64, "feature": HEX})
    assert run(folder) == 12
    report = reports(folder)
    assert verdicts(report)[TASK] == "not-comparable"
    assert verdicts(report)[OTHER] not in {"not-comparable", "incomplete"}
    assert "under two sets of conditions" in capsys.readouterr().out


def test_what_waits_for_scores_blocks_its_own_task(folder: Path) -> None:
    wait(write_runs(folder / "cand", "cand", draw(2))[0])
    write_runs(folder / "cand", "cand", draw(2), OTHER)
    assert run(folder) == 9
    report = reports(folder)
    assert (report["verdict"], verdicts(report)[TASK]) == ("incomplete", "incomplete")
    assert verdicts(report)[OTHER] not in {"not-comparable", "incomplete"}
    assert "answers that wait for their scores" in (folder / "m.md").read_text()


def test_a_regression_is_told_beside_what_is_blocked(folder: Path) -> None:
    wait(write_runs(folder / "cand", "cand", draw(2))[0])
    write_runs(folder / "cand", "cand", draw(2, 0.3), OTHER)
    assert run(folder) == 1


def test_answers_of_nobody_known_block_every_task(folder: Path) -> None:
    for task in (TASK, OTHER):
        write_runs(folder / "cand", "cand", draw(2), task)
    bundle = write_runs(folder / "cand", "cand", draw(3), OTHER, first_seed=3)[0]
    wait(bundle)
    (bundle / "run.json").write_text("{")
    assert run(folder) == 9
    assert set(verdicts(reports(folder)).values()) == {"incomplete"}


def test_nothing_but_waiting_answers_is_incomplete(folder: Path, capsys) -> None:
    for bundle in write_runs(folder / "cand", "cand", draw(2)):
        wait(bundle)
    assert run(folder) == 9
    report = reports(folder)
    assert report["candidate"]["encoder"] == "cand"  # type: ignore[index]
    assert "the candidate has no run of this task" in capsys.readouterr().out


@pytest.mark.parametrize("code", [9, 12])
def test_a_baseline_that_makes_no_side_is_reported_too(folder: Path, code: int, capsys) -> None:
    write_runs(folder / "cand", "cand", draw(2))
    if code == 9:
        wait(write_runs(folder / "base", "base", draw(3), first_seed=3)[0])
    else:
        write_runs(folder / "base", "base", draw(3), protocol="main")
    assert run(folder) == code
    report = reports(folder)
    assert (report["tasks"], report["exit_code"]) == ([], code)
    out = capsys.readouterr().out
    assert sum(line.startswith("::error") for line in out.splitlines()) == 1
    assert ("wait for their scores" if code == 9 else "several protocols") in out


def test_the_verdict_is_told_before_an_output_fails(folder: Path, capsys) -> None:
    for task in (TASK, OTHER):
        write_runs(folder / "cand", "cand", draw(2, 0.3), task)
    head = ["check", "--baseline", str(folder / "base"), "--policy", str(folder / "policy.toml")]
    words = ["--junit", str(folder), "--badge", str(folder / "b.svg")]
    assert main([*head, "--candidate", str(folder / "cand"), *words]) == 1
    out, err = capsys.readouterr()
    assert "REGRESSION: cand against base" in out
    assert len(err.splitlines()) == 1 and "cannot write" in err
    assert "regression" in (folder / "b.svg").read_text()  # one that fails keeps no other from being written
    assert main([*head, "--candidate", str(folder / "base"), *words]) == 6
    assert "share bundles" in capsys.readouterr().out


def test_a_policy_is_held_against_the_baseline_before_anything_is_measured(folder: Path) -> None:
    from harness.check_commands import judge_looks
    from harness.errors import EyechartError
    from harness.policy import Policy, TaskPolicy

    def measure(_: int) -> list[Path]:
        raise AssertionError("it was measured")

    base, rules = folder / "base", {TASK: TaskPolicy(margin=0.05), OTHER: TaskPolicy(margin=0.05)}
    for path, tasks, protocol in (
        (folder / "basee", rules, "mini"),
        (base, rules | {"eyechart_mini_vqq": TaskPolicy(margin=0.05)}, "mini"),
        (base, rules, "main"),
    ):
        with pytest.raises(EyechartError) as caught:
            judge_looks(path, Policy(tasks=tasks), measure, protocol)
        assert caught.value.exit_code == (12 if protocol == "main" else 2)


def test_a_look_says_which_seeds_are_lacking(folder: Path) -> None:
    from harness.check_commands import judge_against, read_reference
    from harness.policy import read_policy

    policy = read_policy(folder / "policy.toml")
    write_runs(folder / "cand", "cand", draw(2, seeds=2))
    reference = read_reference(folder / "base", policy)
    report = judge_against(reference, [folder / "cand"], policy, num_seeds=3)
    reasons = {task.task: task.reason for task in report.tasks}
    assert reasons[OTHER] == "the candidate has no run of this task"
    assert reasons[TASK] == "the 3 seeds asked for are not all there: the candidate lacks 2"


def test_a_candidate_of_fewer_seeds_says_so(folder: Path, capsys) -> None:
    for task in (TASK, OTHER):
        write_runs(folder / "cand", "cand", draw(2, 0.85, seeds=2), task)
    assert run(folder) == 0
    said = f"fewer seeds than the baseline, 2 against 3, of: {OTHER}, {TASK}."
    out = capsys.readouterr().out
    assert said in out
    assert out.count(" 2/3 ") == 2
    assert "| 2/3 |" in (folder / "m.md").read_text()
    assert "seeds: 2 of the candidate, 3 of the baseline" in (folder / "j.xml").read_text()


def test_a_run_reads_the_baseline_before_anything_else(folder: Path, capsys) -> None:
    """Before the manifest even, so certainly before any training."""
    run_it = ["run", str(folder / "no.toml"), "--protocol", "mini", "--results", str(folder / "cand")]
    assert main([*run_it, "--for-check", str(folder / "typo.json")]) == 2
    assert "no baseline" in capsys.readouterr().err
    wrong = folder / "wrong.toml"
    wrong.write_text("schema = 1\n[tasks.eyechart_mini_vqq]\nmargin = 0.1\n")
    assert main([*run_it, "--for-check", str(folder / "base"), "--policy", str(wrong)]) == 2
    assert "wrong.toml: tasks: the policy names a task the baseline lacks" in capsys.readouterr().err
    assert main([*run_it, "--policy", str(wrong)]) == 2
    assert "--policy is of --for-check" in capsys.readouterr().err
