"""The gate: five verdicts, each with its exit code, from real bundles through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import junitparser
import numpy as np
import pytest
from stored_runs import HEX, TASK, draw, submission, write_runs

from harness import check_output, schemas
from harness.check import check, pooled
from harness.check_commands import judge
from harness.cli import main
from harness.errors import UsageError
from harness.gate_sides import Side, TaskCell, bundle_folders, read_side
from harness.policy import Policy, TaskPolicy, read_policy
from harness.records import Source
from harness.variance import SeedPool

OTHER = "eyechart_mini_rec"
POLICY = f"schema = 1\n[tasks.{TASK}]\nmargin = 0.05\n"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return written(tmp_path, POLICY)


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A baseline of three seeds at 70 %."""
    root = tmp_path_factory.mktemp("base")
    write_runs(root, "base", draw(1))
    return root


def run(base: Path, candidate: Path, policy: Path, *words: str) -> int:
    return main(
        ["check", "--baseline", str(base), "--candidate", str(candidate), "--policy", str(policy), *words]
    )


def test_an_equal_candidate_passes(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2))
    assert run(base, tmp_path, policy) == 0
    out = capsys.readouterr().out
    assert "pass: cand against base, 1 tasks" in out
    assert "[" in out


def test_a_worse_candidate_is_a_regression(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2, level=0.5))
    assert run(base, tmp_path, policy) == 1
    assert "REGRESSION: cand against base: eyechart_mini_vqa" in capsys.readouterr().out


def test_a_better_candidate_passes(base, tmp_path, policy) -> None:
    write_runs(tmp_path, "cand", draw(2, level=0.85))
    assert run(base, tmp_path, policy) == 0


def test_little_evidence_is_inconclusive_and_only_strict_fails_on_it(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2, level=0.66))
    assert run(base, tmp_path, policy) == 0
    out = capsys.readouterr().out
    assert "inconclusive" in out
    assert "straddles the margin" in out
    assert "settle" in out
    assert run(base, tmp_path, policy, "--strict") == 11
    strict = written(tmp_path, 'schema = 1\ninconclusive = "fail"\n' + POLICY.removeprefix("schema = 1\n"))
    assert run(base, tmp_path, strict) == 11


def test_one_seed_a_side_settles_nothing(tmp_path, policy, capsys) -> None:
    write_runs(tmp_path / "a", "base", draw(1, seeds=1))
    write_runs(tmp_path / "b", "cand", draw(2, seeds=1, level=0.3))
    assert run(tmp_path / "a", tmp_path / "b", policy) == 0
    assert "training noise" in capsys.readouterr().out


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "recipe": ({"recipes": {"adapter": "f" * 64, "feature": HEX}}, "adapter recipe"),
    "recipe missing": ({"recipes": {"feature": HEX}}, "adapter recipe"),
    "task": ({"task_digest": "e" * 64}, "task: "),
    "dataset": ({"dataset_digest": "e" * 64}, "dataset: "),
    "language model": ({"llm_revision": "e" * 64}, "language model"),
    "protocol version": ({"protocol_version": 2}, "protocol version: 1, 2"),
    "dtype": ({"dtype": "bfloat16"}, "dtype: float32, bfloat16"),
    "split": ({"split": "test"}, "split: validation, test"),
    "scorer": ({"scorer": "9" * 64}, "scorer"),
    "prompt": ({"prompt": "cd" * 8}, "prompts"),
    "clusters": ({"cluster_size": 5}, "sample set"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_named_and_nothing_is_compared(name, base, tmp_path, policy, capsys) -> None:
    changes, says = CHANGES[name]
    write_runs(tmp_path, "cand", draw(2, level=0.3), **changes)
    assert run(base, tmp_path, policy) == 12
    out = capsys.readouterr().out
    assert says in out, out
    assert "not comparable" in out


def test_other_samples_are_not_comparable(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2, samples=599))
    assert run(base, tmp_path, policy) == 12
    assert "sample set: 600 and 599 samples, 000599 only in the first" in capsys.readouterr().out


def test_another_protocol_is_not_comparable(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2), protocol="main")
    assert run(base, tmp_path, policy) == 12
    out, err = capsys.readouterr()
    assert "other protocol than the baseline's, in the candidate: found main" in out
    assert err == ""


@pytest.mark.parametrize("status", ["error", "missing"])
def test_unscored_answers_are_incomplete(status, base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2), status=status)
    assert run(base, tmp_path, policy) == 9
    assert "3 of 1,800 answers of the candidate are in error or missing" in capsys.readouterr().out


def test_an_unparsed_answer_counts_as_wrong(base, tmp_path, policy) -> None:
    write_runs(tmp_path, "cand", draw(2), status="unparsed")
    assert run(base, tmp_path, policy) == 0


def test_a_missing_task_is_incomplete_unless_advisory(tmp_path, capsys) -> None:
    for task in (TASK, OTHER):
        write_runs(tmp_path / "a", "base", draw(1), task)
    write_runs(tmp_path / "b", "cand", draw(2))
    both = f"{POLICY}[tasks.{OTHER}]\nmargin = 0.05\n"
    assert run(tmp_path / "a", tmp_path / "b", written(tmp_path, both)) == 9
    assert "the candidate has no run of this task." in capsys.readouterr().out
    advisory = written(tmp_path, both + 'importance = "advisory"\n')
    assert run(tmp_path / "a", tmp_path / "b", advisory) == 0


def test_a_regression_is_told_even_where_another_task_is_missing(tmp_path) -> None:
    for task in (TASK, OTHER):
        write_runs(tmp_path / "a", "base", draw(1), task)
    write_runs(tmp_path / "b", "cand", draw(2, level=0.4))
    both = f"{POLICY}[tasks.{OTHER}]\nmargin = 0.05\n"
    assert run(tmp_path / "a", tmp_path / "b", written(tmp_path, both)) == 1


def test_an_advisory_regression_does_not_fail_the_build(tmp_path, capsys) -> None:
    for task, level in ((TASK, 0.7), (OTHER, 0.3)):
        write_runs(tmp_path / "a", "base", draw(1), task)
        write_runs(tmp_path / "b", "cand", draw(2, level=level), task)
    text = f'{POLICY}[tasks.{OTHER}]\nmargin = 0.05\nimportance = "advisory"\n'
    junit = tmp_path / "junit.xml"
    assert run(tmp_path / "a", tmp_path / "b", written(tmp_path, text), "--junit", str(junit)) == 0
    assert "REGRESSION (advisory)" in capsys.readouterr().out
    assert junitparser.JUnitXml.fromfile(str(junit)).failures == 0


def test_many_tasks_do_not_add_up_to_false_alarms() -> None:
    """A loss that would be a regression by itself is none as the worst of twenty tasks."""
    rules = {f"t{i:02}": TaskPolicy(margin=0.0) for i in range(20)}
    seen = 0
    for world in range(40):
        sides = [_side(world * 2, list(rules)), _side(world * 2 + 1, list(rules), first=0.53)]
        alone = check(*(_only(side, "t00") for side in sides), {"t00": rules["t00"]}, Policy()).tasks[0]
        if alone.verdict != "regression" or alone.p_regression is None or alone.p_regression < 0.025 / 20:
            continue
        seen += 1
        among = check(*sides, rules, Policy(), explain=False).tasks[0]
        assert among.verdict == "inconclusive"
        assert "not beyond noise over all gating tasks" in among.reason
        assert among.p_regression >= min(15 * alone.p_regression, 1)  # Holm, by the rank of this p
        assert (among.ci_low, among.ci_high) == (alone.ci_low, alone.ci_high)
    assert seen >= 3


def _only(side: Side, task: str) -> Side:
    return replace(side, cells={task: side.cells[task]})


def _side(seed: int, tasks: list[str], seeds: int = 3, first: float = 0.6) -> Side:
    """Tasks at 60 %, the first at another level."""
    rng = np.random.default_rng(seed)
    cells = {}
    for number, task in enumerate(tasks):
        scores = (rng.random((seeds, 200)) < (0.6 if number else first)).astype(float)
        cells[task] = TaskCell(
            task=task,
            conditions={},
            samples="s",
            prompts="p",
            task_digest="d",
            seeds=tuple(range(seeds)),
            engines=("hf",),
            num_expected=scores.size,
            num_unscored=0,
            num_unparsed=0,
            clusters=np.arange(200),
            scores=scores,
            digests=(f"{seed}",),
        )
    return Side(protocol="mini", encoder=f"e{seed}", title="", cells=cells, tier="re-run")


def test_declared_looks_share_the_error(base, tmp_path) -> None:
    write_runs(tmp_path, "cand", draw(2))
    one, three = (
        judge(base, [tmp_path], Policy(seeds=seeds, tasks={TASK: TaskPolicy(margin=0.05)}))
        for seeds in ((3,), (3, 5, 8))
    )
    assert one.level == pytest.approx(0.95)
    assert three.level == pytest.approx(1 - 0.05 / 3)
    wider = [r.tasks[0].ci_high - r.tasks[0].ci_low for r in (one, three)]  # type: ignore[operator]
    assert wider[1] > wider[0]


def test_a_boards_seed_variance_narrows_the_interval(base, tmp_path) -> None:
    write_runs(tmp_path, "cand", draw(2, seed_sd=0.03))
    sides = [read_side(bundle_folders([p])) for p in (base, tmp_path)]
    cells = [s.cells[TASK] for s in sides]
    own = pooled(*cells, None)
    wide = pooled(*cells, SeedPool(own.ratio, 40.0, own.total))
    assert own.df == pytest.approx(4, rel=0.01)
    assert wide.df == pytest.approx(own.df + 40)
    assert wide.ratio == pytest.approx(own.ratio)


def test_the_report_follows_its_schema(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path / "cand", "cand", draw(2, level=0.5))
    file = tmp_path / "report.json"
    assert run(base, tmp_path / "cand", policy, "--json", "--json-file", str(file)) == 1
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(file.read_text())
    schema = schemas.all_schemas()["check-report.schema.json"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(report, schema)
    assert report["verdict"] == "regression"
    task = report["tasks"][0]
    assert task["ci_low"] < task["difference"] < task["ci_high"] < -0.05
    assert report["candidate"]["bundles"] == sorted(report["candidate"]["bundles"])


def test_junit_has_a_case_a_task_and_names_the_failing_one(tmp_path, policy) -> None:
    for task, level in ((TASK, 0.4), (OTHER, 0.7)):
        write_runs(tmp_path / "a", "base", draw(1), task)
        write_runs(tmp_path / "b", "cand", draw(2, level=level), task)
    text = f"{POLICY}[tasks.{OTHER}]\nmargin = 0.05\n"
    junit = tmp_path / "junit.xml"
    assert run(tmp_path / "a", tmp_path / "b", written(tmp_path, text), "--junit", str(junit)) == 1
    read = junitparser.JUnitXml.fromfile(str(junit))
    assert (read.tests, read.failures, read.errors) == (2, 1, 0)
    cases = {case.get("name"): case for case in ET.parse(junit).getroot().iter("testcase")}
    assert cases[TASK].find("failure") is not None
    assert "beyond" in cases[TASK].find("failure").get("message")  # type: ignore[union-attr]
    assert cases[OTHER].find("failure") is None


def test_github_gets_annotations_and_a_summary(base, tmp_path, policy, capsys, monkeypatch) -> None:
    write_runs(tmp_path / "cand", "cand", draw(2, level=0.5))
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert run(base, tmp_path / "cand", policy, "--github") == 1
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert len(found) == 1
    assert found[0].startswith("::error title=Eyechart%3A REGRESSION%2C eyechart_mini_vqa::")
    text = summary.read_text()
    assert text.startswith("before\n### Eyechart: REGRESSION")
    assert "| `eyechart_mini_vqa` | **REGRESSION** |" in text


def test_the_badge_is_sound_xml_with_the_interval(base, tmp_path, policy) -> None:
    write_runs(tmp_path / "cand", "cand", draw(2, level=0.5))
    badge = tmp_path / "badge.svg"
    assert run(base, tmp_path / "cand", policy, "--badge", str(badge)) == 1
    svg = ET.parse(badge).getroot()
    assert svg.tag.endswith("svg")
    text = "".join(svg.itertext())
    assert "regression" in text
    assert "mini_vqa −" in text


def test_a_comment_is_never_longer_than_github_takes(base, tmp_path) -> None:
    rules = {f"eyechart_{i:04}_{'x' * 60}": TaskPolicy(margin=0.1) for i in range(900)}
    report = check(_side(0, list(rules)), _side(1, list(rules)[:1]), rules, Policy())
    text = check_output.as_markdown(report)
    assert len(text.encode()) <= check_output.MAX_COMMENT_BYTES
    assert text.endswith("Cut: the whole report is in the JSON.")


def test_a_strangers_names_cannot_mark_up_the_comment() -> None:
    side = _side(0, ["t"])
    evil = Side(protocol="mini", encoder="`|<img src=x> @all [a](b)\n", title="", cells=side.cells, tier="x")
    report = check(side, evil, {"t": TaskPolicy(margin=0.5)}, Policy())
    text = check_output.as_markdown(report)
    assert "<img" not in text
    assert "@all" not in text
    assert "](" not in text


BAD = {
    "not TOML": ("schema = ", "not valid TOML"),
    "no schema": ("level = 0.9", "policy.toml: schema: schema version: found none, expected schema = 1"),
    "another schema": ("schema = 2", "schema version: found 2, expected schema = 1"),
    "unknown key": ("schema = 1\nlevell = 0.9", "level (the nearest known key)"),
    "unknown key of a task": (f"schema = 1\n[tasks.{TASK}]\nmargins = 0.1", "margin (the nearest"),
    "level": ("schema = 1\nlevel = 95", "number out of range"),
    "margin": (f"schema = 1\n[tasks.{TASK}]\nmargin = -0.1", "number out of range"),
    "seeds": ("schema = 1\nseeds = [5, 3]", "not in rising order"),
    "importance": (f'schema = 1\n[tasks.{TASK}]\nimportance = "vital"', "one of gating, advisory"),
    "task": ("schema = 1\n[tasks.eyechart_mini_vqq]\nmargin = 0.1", "expected eyechart_mini_vqa"),
    "file of the task": (
        "schema = 1\n[tasks.eyechart_mini_vqq]\nmargin = 0.1",
        "policy.toml: tasks: the policy",
    ),
    "nothing gates": (
        f'schema = 1\n[tasks.{TASK}]\nmargin = 0.1\nimportance = "advisory"',
        "policy.toml: no task gates",
    ),
    "no margin": ("schema = 1", "no margin for a task whose definition is not installed"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_policy_is_one_line_and_exit_2(name, base, tmp_path, capsys) -> None:
    text, says = BAD[name]
    assert run(base, base, written(tmp_path, text)) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1


def test_no_bundles_no_folder_and_two_encoders_are_usage_errors(base, tmp_path, policy, capsys) -> None:
    assert run(base, tmp_path / "none", policy) == 2
    (tmp_path / "empty").mkdir()
    assert run(base, tmp_path / "empty", policy) == 2
    for encoder in ("x1", "x2"):
        write_runs(tmp_path / "two", encoder, draw(2))
    assert run(base, tmp_path / "two", policy) == 2
    err = capsys.readouterr().err.splitlines()
    assert [("no such folder" in err[0]), ("no bundles" in err[1]), ("several encoders" in err[2])] == [
        True
    ] * 3
    assert main(["check"]) == 2


def test_a_damaged_bundle_is_an_integrity_error(base, tmp_path, policy) -> None:
    path = write_runs(tmp_path, "cand", draw(2))[0] / "answers.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert run(base, tmp_path, policy) == 8


def test_a_bundle_without_commit_is_not_passed_over(base, tmp_path, policy) -> None:
    (write_runs(tmp_path, "cand", draw(2))[0] / "COMMIT").unlink()
    assert run(base, tmp_path, policy) == 8


def test_policies_are_read_whole(tmp_path) -> None:
    text = 'schema = 1\nlevel = 0.9\ninconclusive = "fail"\nseeds = [3, 6]\n' + POLICY.split("\n", 1)[1]
    policy = read_policy(written(tmp_path, text))
    assert policy.alpha == pytest.approx(0.05)
    assert policy.tasks[TASK].margin == 0.05
    with pytest.raises(UsageError, match="cannot read the policy"):
        read_policy(tmp_path / "none.toml")


def test_two_versions_of_an_encoder_in_one_folder_are_not_mixed(base, tmp_path, policy, capsys) -> None:
    """The next week's weights under the same id, measured into the same folder."""
    for week, level in enumerate((0.7, 0.4)):
        of = submission("cand", source=Source(kind="local", name=f"w{week}", revision="local", files=()))
        write_runs(tmp_path, "cand", draw(week, level), of=of)
    assert run(base, tmp_path, policy) == 2
    assert "several versions of cand" in capsys.readouterr().err


def test_two_recipes_of_one_seed_are_not_chosen_between(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(1))
    write_runs(tmp_path, "cand", draw(2), recipes={"adapter": "f" * 64, "feature": HEX})
    assert run(base, tmp_path, policy) == 12
    assert "under two sets of conditions" in capsys.readouterr().out


def test_a_verdict_stands_when_nobody_reads_it(base, tmp_path, policy) -> None:
    write_runs(tmp_path / "cand", "cand", draw(2, level=0.4))
    report = tmp_path / "report.json"
    words = [sys.executable, "-m", "harness.cli", "check", "--baseline", str(base), "--policy", str(policy)]
    words += ["--candidate", str(tmp_path / "cand"), "--json-file", str(report)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(Path.cwd())}
    ends = os.pipe()
    os.close(ends[0])
    child = subprocess.run(words, stdout=ends[1], stderr=subprocess.PIPE, env=environment, check=False)
    os.close(ends[1])
    assert (child.returncode, child.stderr) == (1, b"")
    assert json.loads(report.read_text())["verdict"] == "regression"
    environment["PYTHONIOENCODING"] = "cp1252"
    child = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert child.returncode == 1
    closed = " ".join([*words[:4], "--baseline nope --candidate nope 2>&-"])
    assert subprocess.run(closed, shell=True, env=environment, check=False).returncode == 2


def test_a_baseline_at_the_ceiling_says_nothing_about_training_noise(tmp_path, policy) -> None:
    write_runs(tmp_path / "a", "base", np.ones((3, 600)))
    write_runs(tmp_path / "b", "cand", draw(2, 0.75, seeds=1))
    assert run(tmp_path / "a", tmp_path / "b", policy, "--strict") == 11


def test_few_clusters_without_variation_leave_room(tmp_path, policy) -> None:
    for name in "ab":
        write_runs(tmp_path / name, name, np.ones((3, 600)), cluster_size=300)
    assert run(tmp_path / "a", tmp_path / "b", policy, "--strict") == 11


def test_what_waits_for_scores_is_not_passed_over(base, tmp_path, policy, capsys) -> None:
    folder = write_runs(tmp_path, "cand", draw(2))[0]
    for name in ("COMMIT", "MANIFEST.sha256", f"scores-{HEX[:12]}.parquet"):
        (folder / name).unlink()
    assert run(base, tmp_path, policy) == 9
    assert "wait for their scores" in capsys.readouterr().out


def test_names_that_are_no_text_are_refused(base, tmp_path, policy, capsys) -> None:
    write_runs(tmp_path, "cand", draw(2), dtype="x\n::error::pwned")
    assert run(base, tmp_path, policy, "--github") == 8
    out, err = capsys.readouterr()
    assert "::error" not in out
    assert len(err.splitlines()) == 1


def test_outputs_that_cannot_be_written_are_exit_6(base, tmp_path, policy, monkeypatch) -> None:
    write_runs(tmp_path / "cand", "cand", draw(2))
    assert run(base, tmp_path / "cand", policy, "--junit", str(tmp_path)) == 6
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "where"))
    assert run(base, tmp_path / "cand", policy, "--github") == 6
    assert run(base, tmp_path / "cand", policy, "--junit", "/dev/null") == 0
    assert Path("/dev/null").is_char_device()


def test_a_name_that_no_file_system_takes_is_a_usage_error(base, policy) -> None:
    assert run(base, Path("a" * 300), policy) == 2
    assert run(Path("a" * 300), base, policy) == 2
