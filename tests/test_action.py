"""The composite action: its script with real bundles, and what its YAML lets inputs do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from stored_runs import TASK, draw, write_runs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    write_runs(tmp_path / "base", "base", draw(1))
    write_runs(tmp_path / "good", "good", draw(2))
    write_runs(tmp_path / "bad", "bad", draw(3, 0.4))
    (tmp_path / "policy.toml").write_text(f"schema = 1\n[tasks.{TASK}]\nmargin = 0.05\n")
    program = tmp_path / "bin" / "eyechart"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m harness.cli "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run(folder: Path, candidate: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EYECHART_BASELINE": str(folder / "base"),
        "EYECHART_CANDIDATE": candidate,
        "EYECHART_POLICY": str(folder / "policy.toml"),
        "EYECHART_OUTPUT": str(folder / "out"),
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        **more,
    }
    script = str(ROOT / "scripts" / "action_check.sh")
    return subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)


def test_it_ends_with_the_verdict_and_leaves_every_report(bundles: Path) -> None:
    good = run(bundles, f"{bundles / 'good'}\n")
    assert good.returncode == 0, good.stderr
    assert (bundles / "output").read_text() == "verdict=pass\nexit-code=0\n"
    bad = run(bundles, str(bundles / "bad"))
    assert bad.returncode == 1
    assert "::error" in bad.stdout
    assert (bundles / "output").read_text().endswith("verdict=regression\nexit-code=1\n")
    assert {p.name for p in (bundles / "out").iterdir()} == {
        "report.json",
        "junit.xml",
        "comment.md",
        "badge.svg",
    }
    assert json.loads((bundles / "out" / "report.json").read_text())["exit_code"] == 1
    assert "REGRESSION" in (bundles / "summary").read_text()


def test_a_mistake_is_no_regression(bundles: Path) -> None:
    lost = run(bundles, str(bundles / "nowhere"))
    assert lost.returncode == 2
    assert (bundles / "output").read_text() == "verdict=error\nexit-code=2\n"


def test_what_is_not_comparable_or_incomplete_has_its_verdict(bundles: Path) -> None:
    write_runs(bundles / "other", "other", draw(2), protocol="main")
    got = run(bundles, str(bundles / "other"))
    assert got.returncode == 12
    assert "::error" in got.stdout
    assert (bundles / "output").read_text() == "verdict=not-comparable\nexit-code=12\n"
    waiting = write_runs(bundles / "waiting", "waiting", draw(2))[0]
    for path in (waiting / "COMMIT", waiting / "MANIFEST.sha256", *waiting.glob("scores-*")):
        path.unlink()
    (bundles / "output").unlink()
    assert run(bundles, str(bundles / "waiting")).returncode == 9
    assert (bundles / "output").read_text() == "verdict=incomplete\nexit-code=9\n"


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "false", "False"])
def test_strict_is_read_in_any_case(bundles: Path, text: str) -> None:
    write_runs(bundles / "close", "close", draw(2, 0.66))
    got = run(bundles, str(bundles / "close"), EYECHART_STRICT=text)
    assert got.returncode == (11 if text.lower() == "true" else 0), got.stdout


@pytest.mark.parametrize("text", ["yes", "", "1", "tru\n::error::x"])
def test_a_strict_that_is_neither_does_not_fail_open(bundles: Path, text: str) -> None:
    got = run(bundles, str(bundles / "good"), EYECHART_STRICT=text)
    assert got.returncode == 2
    assert len(got.stdout.splitlines()) == 1 and "expected true or false" in got.stdout
    assert (bundles / "output").read_text() == "verdict=error\nexit-code=2\n"


def test_names_with_spaces_and_shell_words_stay_names(bundles: Path) -> None:
    evil = bundles / "a b; touch pwned $(touch pwned)"
    write_runs(evil, "good", draw(2))
    assert run(bundles, str(evil)).returncode == 0
    assert not list(bundles.rglob("pwned")) and not (ROOT / "pwned").exists()


def test_inputs_reach_the_script_as_variables_only() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    steps = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite"
    assert all("${{" not in step.get("run", "") for step in steps)
    assert all(step.get("shell") == "bash" for step in steps if "run" in step)
    used = set(re.findall(r"inputs\.([a-z]+)", (ROOT / "action.yml").read_text()))
    assert used == set(action["inputs"])


def blocks_of_ci() -> list[dict[Any, Any]]:
    text = (ROOT / "docs" / "ci.md").read_text()
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_documented_workflow_is_whole_and_fits_the_action() -> None:
    workflow = blocks_of_ci()[0]
    # YAML 1.1 reads the key `on` as true; GitHub does not.
    assert set(workflow) == {"name", True, "permissions", "jobs"}
    assert "pull_request" in workflow[True]
    (job,) = workflow["jobs"].values()
    assert job["runs-on"]
    steps = job["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    (gate,) = [step for step in steps if step.get("uses", "").startswith("OWNER/eyechart@")]
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert set(gate["with"]) <= set(action["inputs"])
    assert {name for name, given in action["inputs"].items() if given.get("required")} <= set(gate["with"])
    script = (ROOT / "scripts" / "action_check.sh").read_text()
    used = set(re.findall(r"eyechart-check/([a-z.]+)", json.dumps(workflow)))
    assert used == {"comment.md"} and all(f"$EYECHART_OUTPUT/{name}" in script for name in used)
    assert [step for step in steps if step.get("with", {}).get("path") == gate["with"]["output"]]
    # What a request's author can choose must not be text of a script.
    assert all("${{" not in step.get("run", "") for step in steps)


def test_the_documented_gitlab_job_gives_options_that_exist() -> None:
    from harness.cli import build_parser

    job = blocks_of_ci()[1]["eyechart"]
    (command,) = [line for line in job["script"] if line.startswith("eyechart ")]
    arguments = build_parser().parse_args(command.split()[1:])
    assert str(arguments.junit) == job["artifacts"]["reports"]["junit"]
    assert not any(re.search(r"pip install eyechart\b", line) for line in job["script"])
