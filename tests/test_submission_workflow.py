"""Requests that add results: the workflows hold no secret and believe nothing, the script judges."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from corrupt_bundles import (
    NEWCOMER,
    VICTIM,
    Results,
    add_submission,
    bury,
    copy_results,
    declare,
    edit_json,
    void,
)

from harness.bundle_rules import read_definitions
from harness.request import Request
from harness.verify import verify_results

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
SCRIPT = ROOT / "scripts" / "submission_report.sh"
DEFINITIONS = read_definitions()


# --- what the workflows may -------------------------------------------------------------------------------


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    loaded["on"] = loaded.pop(True)  # YAML 1.1 reads the key `on` as true
    return loaded


def steps(loaded: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in loaded["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda p: p.name)
def test_no_workflow_trusts_a_request(path: Path) -> None:
    loaded = workflow(path.name)
    assert "pull_request_target" not in loaded["on"]
    assert "secrets." not in path.read_text(encoding="utf-8")
    for step in steps(loaded):
        # What a stranger names, a branch or a title, would be text of the program.
        assert "${{" not in step.get("run", ""), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v[0-9]+", step["uses"])
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
    rights = [loaded["permissions"], *(job.get("permissions", {}) for job in loaded["jobs"].values())]
    written = {name for right in rights for name, level in right.items() if level != "read"}
    # pages.yml runs on pushes to main only: there is no request in it.
    allowed = {"submission-comment.yml": {"pull-requests"}, "pages.yml": {"pages", "id-token"}}
    assert written <= allowed.get(path.name, set())
    assert path.name != "pages.yml" or set(loaded["on"]) == {"push", "workflow_dispatch"}


def test_the_job_that_reads_a_request_can_only_read() -> None:
    loaded = workflow("submission.yml")
    assert list(loaded["on"]) == ["pull_request"]
    assert loaded["on"]["pull_request"]["paths"] == ["results/**"]
    assert loaded["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in loaded["jobs"].values())
    text = (WORKFLOWS / "submission.yml").read_text(encoding="utf-8")
    assert "github.token" not in text and "GH_TOKEN" not in text
    ran = [step["run"] for step in steps(loaded) if "run" in step]
    assert any("pip install --constraint base/constraints.txt ./base" in line for line in ran)
    assert not any(re.search(r"(bash|python|sh|cd|\./) ?request", line) for line in ran)
    assert (
        next(s for s in steps(loaded) if s.get("with", {}).get("path") == "request")["with"]["submodules"]
        is False
    )


def test_the_job_that_comments_runs_nothing_of_a_request() -> None:
    loaded = workflow("submission-comment.yml")
    assert list(loaded["on"]) == ["workflow_run"] and loaded["permissions"] == {}
    (job,) = loaded["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert not any(step.get("uses", "").startswith("actions/checkout") for step in job["steps"])


@pytest.fixture
def comment(tmp_path: Path) -> Callable[[str, bytes, str], tuple[subprocess.CompletedProcess[str], str]]:
    """Runs the comment job's script against a `gh` that keeps what it is given."""

    def run(number: str, text: bytes, head: str) -> tuple[subprocess.CompletedProcess[str], str]:
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / "number").write_text(number)
        (tmp_path / "report" / "comment.md").write_bytes(text)
        tools = tmp_path / "tools"
        tools.mkdir()
        gh = '#!/bin/sh\ncase "$2" in */pulls/*) echo $PULL_HEAD;; *) cp body.md posted.md;; esac\n'
        (tools / "gh").write_text(gh)
        (tools / "gh").chmod(0o755)
        (step,) = [s for s in steps(workflow("submission-comment.yml")) if "run" in s]
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PULL_HEAD": head}
        environment |= {"REPOSITORY": "o/r", "HEAD_SHA": "a" * 40, "RUN_URL": "https://example.org/run"}
        done = subprocess.run(
            ["bash", "-c", step["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        posted = tmp_path / "posted.md"
        return done, posted.read_text() if posted.exists() else ""

    return run


def test_a_comment_is_text_and_has_an_end(comment) -> None:
    done, posted = comment("7\n", b"@all ````\n<img src=x> \x1b[2J caf\xc3\xa9 " + b"x" * 100_000, "a" * 40)
    assert done.returncode == 0, done.stderr
    assert len(posted.encode()) <= 65_000
    assert posted.count("````") == 2 and posted.rstrip().endswith("````")
    assert "\x1b" not in posted


@pytest.mark.parametrize("number", ["", "7; echo", "../7", "7/merge", "$(id)", "-1", "７"])
def test_a_number_is_digits(comment, number: str) -> None:
    done, posted = comment(number, b"x", "a" * 40)
    assert done.returncode == 1 and posted == ""


def test_a_number_of_another_request_is_refused(comment) -> None:
    done, posted = comment("7", b"x", "b" * 40)
    assert done.returncode == 1 and posted == "" and "another commit" in done.stderr


# --- what the script says of requests ---------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=A. Person", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *name, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with seven bundles, a line of code, and the scripts that judge."""
    base = tmp_path_factory.mktemp("base")
    copy_results(base / "results")
    shutil.copy(ROOT / "results" / "pairs.toml", base / "results" / "pairs.toml")
    (base / "harness").mkdir()
    (base / "harness" / "code.py").write_text("x = 1\n")
    (base / "scripts").mkdir()
    for name in ("submission_report.sh", "submission_table.py"):
        shutil.copy(ROOT / "scripts" / name, base / "scripts" / name)
    git(base, "init", "--quiet", "--initial-branch", "main")
    git(base, "add", "--all")
    git(base, "commit", "--quiet", "--message", "base")
    return base


def judge(repository: Path, place: Path, change: Callable[[Path], object]) -> tuple[int, str, Path]:
    """Exit code, comment and folder of the report on a request that makes `change`."""
    request, out = place / "request", place / "out"
    git(place, "clone", "--quiet", str(repository), str(request))
    change(request)
    git(request, "add", "--all", "--force")
    git(request, "commit", "--quiet", "--message", "request", "--allow-empty")
    environment = {**os.environ, "PYTHON": sys.executable}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", str(SCRIPT), str(repository), str(request), str(out)],
        env=environment, cwd=place, capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (out / "comment.md").read_text(), out


def results_of(request: Path) -> Results:
    """The bundles of a clone, as the corpus names them."""
    found = {}
    for path in sorted(request.glob("results/mini/*/*/run.json")):
        run = json.loads(path.read_bytes())
        found[run["submission"]["id"], run["task"]] = path.parent
    rec, digits = found[VICTIM, "eyechart_mini_rec"], found[VICTIM, "eyechart_mini_digits"]
    return Results(request / "results", rec, digits, found["mini-resnet-label-s0", "eyechart_mini_rec"])


def test_a_good_request_is_verified_compared_and_previewed(repository: Path, tmp_path: Path) -> None:
    code, said, out = judge(repository, tmp_path, lambda r: add_submission(results_of(r)))
    assert code == 0, said
    assert said.startswith("Verified: ")
    rows = [line.split() for line in said.splitlines() if NEWCOMER in line]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("new", "mini", "eyechart_mini_digits"),
        ("new", "mini", "eyechart_mini_rec"),
    ]
    assert all("self-reported" in row for row in rows)
    assert (out / "site" / "index.html").is_file() and (out / "site" / "encoders").is_dir()
    assert not (out / ".base").exists()


def _code(request: Path) -> None:
    add_submission(results_of(request))
    (request / "harness" / "code.py").write_text("import os\n")


def _workflow(request: Path) -> None:
    (request / ".github" / "workflows").mkdir(parents=True)
    (request / ".github" / "workflows" / "submission.yml").write_text("on: pull_request_target\n")


def _link(request: Path) -> None:
    (add_submission(results_of(request))[0].parent / "data").symlink_to("/etc")


def _attributes(request: Path) -> None:
    """Would hide a file from `git archive`."""
    add_submission(results_of(request))
    (request / "results" / ".gitattributes").write_text("*.parquet export-ignore\n")


def _program(request: Path) -> None:
    add_submission(results_of(request))[0].joinpath("run.json").chmod(0o755)


def _odd_name(request: Path) -> None:
    (request / "results" / "mini" / "$(touch pwned)").write_text("x")


def _delete(request: Path) -> None:
    shutil.rmtree(results_of(request).other.parent)


def _delete_own_stone(request: Path) -> None:
    _delete(request)
    bury(request / "results", "mini-resnet-label-s0")


def _change(request: Path) -> None:
    mine = results_of(request).rec
    edit_json(mine, "receipt.json", lambda d: d.update(note="better"))


def _environment(request: Path) -> None:
    results_of(request).rec.joinpath("environment.json").write_text('{"stages_s": {"features": 0.1}}')


def _join(request: Path) -> None:
    """Another run, of its own making, for somebody's row."""
    mine = results_of(request)
    copy = mine.rec.with_name("copy")
    shutil.copytree(mine.rec, copy)
    edit_json(copy, "run.json", lambda d: d.update(seed=3, tier="self-reported"))
    (request / "results" / "attempts.toml").write_text("schema = 1\n")


def _pairs(request: Path) -> None:
    (request / "results" / "pairs.toml").write_text("")


def _fake_task(request: Path) -> None:
    add = add_submission(results_of(request))[0]
    edit_json(add, "run.json", lambda d: d.update(task_digest="f" * 64))


EVIL: dict[str, tuple[Callable[[Path], object], str]] = {
    "changes code": (_code, "changes nothing outside results/.*harness/code.py"),
    "changes a workflow": (_workflow, r"outside results/.*\.github/workflows/submission.yml"),
    "adds a link": (_link, "links, programs, submodules or odd names.*120000 blob"),
    "adds a program": (_program, "links, programs.*100755 blob"),
    "adds a name that is a command": (_odd_name, "odd names"),
    "hides files from an archive": (_attributes, r"\.gitattributes: hidden file"),
    "claims a tier": (lambda r: add_submission(results_of(r), tier="re-run"), "claims the tier re-run"),
    "claims to be scored by us": (
        lambda r: add_submission(results_of(r), tier="re-scored"),
        "claims the tier re-scored",
    ),
    "declares no attempts": (
        lambda r: add_submission(results_of(r), attempts=False),
        f"attempts of {NEWCOMER} are not declared",
    ),
    "deletes another's row": (_delete, "deleted without a tombstone"),
    "changes a bundle": (_change, "changed: a committed bundle stays as it is"),
    "changes an environment": (_environment, r"environment\.json of a committed bundle was changed"),
    "joins another's row": (_join, "joins a row that is re-run with a run that is self-reported"),
    "changes the pairs": (_pairs, r"pairs\.toml: only maintainers change this file"),
    "brings a task of its own": (_fake_task, "no such version of protocol and task is defined here"),
    "edits a score": (
        lambda r: void(next(add_submission(results_of(r))[0].glob("scores-*")).write_bytes(b"PAR1")),
        "file was changed",
    ),
    "commits nothing": (
        lambda r: (add_submission(results_of(r))[0] / "COMMIT").unlink(),
        "COMMIT is missing",
    ),
}


BY_GIT = (
    "changes code",
    "changes a workflow",
    "adds a link",
    "adds a program",
    "adds a name that is a command",
)
"""Refused before anything is verified: quick enough to be judged by the script, every one."""


@pytest.mark.parametrize("name", [*BY_GIT, "claims a tier", "deletes another's row"])
def test_the_script_refuses_an_evil_request_by_name(name: str, repository: Path, tmp_path: Path) -> None:
    change, says = EVIL[name]
    code, said, out = judge(repository, tmp_path, change)
    assert code == 8, said
    assert said.startswith("Refused: ")
    assert re.search(says, " ".join(said.split())), said
    assert not (out / "site").exists()
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", [name for name in EVIL if name not in BY_GIT])
def test_an_evil_request_is_refused_by_name(name: str, repository: Path, tmp_path: Path) -> None:
    change, says = EVIL[name]
    shutil.copytree(repository, tmp_path / "request", ignore=shutil.ignore_patterns(".git"))
    change(tmp_path / "request")
    terms = Request(base=repository / "results", max_tier="self-reported")
    lines = [e.line() for e in verify_results(tmp_path / "request" / "results", DEFINITIONS, terms).findings]
    assert any(re.search(says, line) for line in lines), lines


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ((3, 9), (3, 8), "attempts of .* became fewer: runs 9 to 8"),
        ((3, 9), None, "attempts of .* were removed"),
        ((3, 9), (4, 9), "attempts of .* were changed, and no run of it is added"),
        ("stone", None, "tombstone of mini/old-one was removed or changed"),
    ],
)
def test_ledgers_only_grow(before, after, says: str, tmp_path: Path) -> None:
    for name, what in (("base", before), ("head", after)):
        copy_results(tmp_path / name)
        if what == "stone":
            bury(tmp_path / name, "old-one")
        elif what:
            declare(tmp_path / name, VICTIM, adapter_seeds=what[0], runs=what[1])
    terms = Request(base=tmp_path / "base", max_tier="self-reported")
    lines = [error.line() for error in verify_results(tmp_path / "head", DEFINITIONS, terms).findings]
    assert len(lines) == 1 and re.search(says, lines[0]), lines
    assert verify_results(tmp_path / "head", DEFINITIONS).findings == ()


def test_a_row_is_withdrawn_with_a_tombstone(repository: Path, tmp_path: Path) -> None:
    code, said, _ = judge(repository, tmp_path, _delete_own_stone)
    assert code == 0, said
    gone = [line.split()[:4] for line in said.splitlines() if line.startswith("gone")]
    assert ["gone", "mini", "eyechart_mini_rec", "mini-resnet-label-s0"] in gone
