"""The workflow that publishes the site: least permissions, and commands that this Eyechart has."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from harness.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())


def test_the_job_that_runs_our_code_cannot_deploy(workflow):
    jobs = workflow["jobs"]
    assert workflow["permissions"] == {"contents": "read"}
    assert jobs["build"]["permissions"] == {"contents": "read", "pages": "read"}
    assert jobs["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert jobs["deploy"]["needs"] == "build"
    assert [list(step) for step in jobs["deploy"]["steps"]] == [["id", "uses"]]
    checkout = jobs["build"]["steps"][0]
    assert checkout["with"]["persist-credentials"] is False
    assert workflow[True] == {"push": {"branches": ["main"]}, "workflow_dispatch": None}


def test_its_commands_are_ours(workflow):
    (script,) = [
        s["run"] for s in workflow["jobs"]["build"]["steps"] if "eyechart publish" in s.get("run", "")
    ]
    assert "${{" not in script  # expressions come in by the environment, never as text of a program
    commands = [shlex.split(line)[1:] for line in script.splitlines()]
    assert [words[0] for words in commands] == ["mini", "ingest", "publish", "verify"]
    for words in commands:
        build_parser().parse_args(words)
    (upload,) = [s for s in workflow["jobs"]["build"]["steps"] if "upload-pages" in s.get("uses", "")]
    assert upload["with"]["path"] == commands[2][commands[2].index("--site") + 1]
