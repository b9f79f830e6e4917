"""Verification: whatever was damaged or edited is refused by name, and what is sound passes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from corrupt_bundles import (
    CASES,
    FORGERIES,
    ROOT,
    Case,
    Results,
    add_submission,
    copy_results,
    edit_json,
    put,
    table_file,
)

from harness import cli, commands
from harness.bundle import read_bundle
from harness.bundle_rules import Definitions, read_definitions
from harness.errors import EyechartError, IntegrityError
from harness.pairs import read_pairs
from harness.records import Score
from harness.rescore import Rescored, _compare_scores, rescore
from harness.store import ingest
from harness.verify import verify_results, verify_store


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests ask what is refused, not whether a power cut spares it; syncing costs seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return read_definitions()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return copy_results(tmp_path_factory.mktemp("pristine") / "results")


@pytest.fixture
def results(pristine: Results, tmp_path: Path) -> Results:
    root = tmp_path / "results"
    shutil.copytree(pristine.root, root)
    moved = [root / getattr(pristine, name).relative_to(pristine.root) for name in ("rec", "digits", "other")]
    return Results(root, *moved)


def test_the_corpus_is_large_and_its_cases_are_distinct() -> None:
    assert len(CASES) >= 250
    assert len({case.name for case in CASES}) == len(CASES)


def test_pristine_results_pass(pristine: Results, definitions: Definitions) -> None:
    report = verify_results(pristine.root, definitions)
    assert (report.num_checked, report.findings, report.notes) == (7, (), ())


def test_the_results_of_record_are_verified(definitions: Definitions) -> None:
    report = verify_results(ROOT / "results", definitions)
    assert report.num_checked == len(report.bundles) >= 324
    assert (report.findings, report.notes) == ((), ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused_by_name(case: Case, results: Results, definitions: Definitions) -> None:
    case.damage(results)
    found = verify_results(results.root, definitions).findings
    lines = [error.line() for error in found]
    assert found, "not refused"
    assert any(re.search(case.says, line) for line in lines), lines
    assert all(isinstance(error, EyechartError) and "\n" not in error.line() for error in found)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_consistent_forgery_passes(name: str, results: Results, definitions: Definitions) -> None:
    """This is no boast: what plain verification cannot see is named here and in docs/verification.md."""
    forge, _ = FORGERIES[name]
    forge(results)
    assert verify_results(results.root, definitions).findings == ()


# --- the command -----------------------------------------------------------------------------------------


def verify(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main(["verify", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err.splitlines()[-1] if said.err else ""


def test_every_bad_bundle_is_listed_and_the_code_is_8(results: Results, capsys, home: Path) -> None:
    for path in (results.rec, results.digits):
        (path / "COMMIT").unlink()
    (results.other / "notes.txt").write_text("x")
    code, out, last = verify(capsys, results.root)
    assert code == 8
    assert len(out.splitlines()) == 3 and out.count("COMMIT is missing") == 2
    assert "not verified, 3 found, the first:" in last and "COMMIT is missing" in last
    code, out, _ = verify(capsys, results.root, "--json")
    said = json.loads(out)
    assert (code, said["kind"], said["checked"], said["verified"]) == (8, "results", 5, False)
    assert [finding["what"] for finding in said["findings"]].count("COMMIT is missing") == 2


def test_a_bundle_is_verified_alone(results: Results, capsys, home: Path) -> None:
    assert verify(capsys, results.rec)[:2] == (0, "verified: bundle, 1 bundles\n")
    (results.rec / "COMMIT").unlink()
    code, _, last = verify(capsys, results.rec)
    assert code == 8 and "COMMIT is missing" in last


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nothing to verify"),
        (["file.txt"], "a file of another kind"),
        (["empty"], "no results here"),
        (["results/mini"], "this is the folder of one protocol"),
        (["results/mini/mini-pvt-clip-s0"], "this is the folder of one encoder"),
        (["results", "--results", "x"], "--results does nothing for a results"),
        (["results", "--base", "nowhere"], "no such folder"),
        (["a.duckdb", "--rescore"], "--rescore does nothing for a database"),
        (["results", "--write-re-scored", "new"], "Add --rescore"),
        (["results", "--rescore", "--write-re-scored", "empty"], "is there already"),
        (["results", "--max-tier", "gold"], "invalid choice"),
    ],
)
def test_wrong_usage(words: list[str], says: str, results: Results, capsys, home: Path, monkeypatch) -> None:
    monkeypatch.chdir(results.root.parent)
    Path("empty").mkdir()
    Path("file.txt").write_text("x")
    Path("a.duckdb").write_bytes(b"12345678DUCK")
    code, _, last = verify(capsys, *words)
    assert code == 2 and says in last


@dataclasses.dataclass(frozen=True)
class Planned:
    """As much of a unit and of a plan as a tier is about."""

    units: tuple = ()
    run: object = None


def test_a_run_claims_no_more_than_it_may(pristine: Results) -> None:
    run = read_bundle(pristine.rec).run
    for tier, asked, claimed in [
        ("re-run", "re-run", "re-run"),
        ("re-run", "self-reported", "self-reported"),
        ("self-reported", "re-run", "self-reported"),  # a person's own code stays what it is
    ]:
        plan = Planned(units=(Planned(run=dataclasses.replace(run, tier=tier)),))
        assert commands._claim(plan, asked).units[0].run.tier == claimed


# --- database and site -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(pristine: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the pristine results, and its site beside it."""
    from leaderboard.build import build_site

    folder = tmp_path_factory.mktemp("built")
    ingest(folder / "a.duckdb", pristine.root)
    build_site(folder / "a.duckdb", folder / "site")
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE metrics SET value = value + 0.01 WHERE encoder = 'mini-resnet-clip-s0'",
         "table metrics, row .*mini-resnet-clip-s0, eyechart_mini_digits.*, column value: found 0"),
        ("UPDATE metrics SET ci_low = 'nan'::DOUBLE", "column ci_low: found nan, expected 0"),
        ("DELETE FROM scores WHERE sample_id = 'test-17'", "table scores has too few rows, the first"),
        ("INSERT INTO meta VALUES ('a', 'b')", "table meta has too many rows, the first of them a, b"),
        ("UPDATE encoders SET family = 'captioning'", "table encoders, row 1 .*, column family: found capt"),
        ("UPDATE runs SET tier = 'self-reported'", "table runs, row 1 .*, column tier: found self-rep"),
        ("DROP VIEW leaderboard", "leaderboard is not defined as in .*: found no such table"),
        ("CREATE TABLE more (x INT)", "more is not defined as in harness/schema.sql"),
        ("CREATE OR REPLACE VIEW costs AS SELECT 1 AS x", "costs is not defined as in"),
        ("UPDATE meta SET value = '999'", "store version"),
    ],
)  # fmt: skip
def test_a_changed_database_is_named(
    change: str, says: str, built: Path, pristine: Results, tmp_path: Path
) -> None:
    db = tmp_path / "a.duckdb"
    shutil.copy(built / "a.duckdb", db)
    with duckdb.connect(str(db)) as connection:
        connection.execute(change)
    try:
        lines = [error.line() for error in verify_store(db, [pristine.root]).findings]
    except IntegrityError as error:
        lines = [error.line()]
    assert len(lines) == 1 and re.search(says, lines[0]), lines


def test_the_right_database_and_site_pass(
    built: Path, pristine: Results, capsys, home: Path, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where no results/pairs.toml is
    for name in ("a.duckdb", "site"):
        assert verify(capsys, built / name, "--results", pristine.root)[0] == 0
    code, _, last = verify(capsys, built / "a.duckdb", "--results", pristine.rec.parent.parent.parent / "no")
    assert code == 2 and "no such folder" in last


def test_a_database_with_pairs_and_one_cut_to_nothing(
    pristine: Results, capsys, home: Path, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    encoders = sorted(p.name for p in (pristine.root / "mini").iterdir())
    pairs = tmp_path / "pairs.toml"
    pairs.write_text(
        f'[[pair]]\na = "{encoders[0]}"\nb = "{encoders[1]}"\nheld_equal = ["images"]\n'
        'differs = ["objective"]\nnote = "n"\n'
    )
    db = tmp_path / "a.duckdb"
    ingest(db, pristine.root, pairs=read_pairs(pairs))
    assert verify(capsys, db, "--results", pristine.root, "--pairs", pairs)[0] == 0
    code, out, _ = verify(capsys, db, "--results", pristine.root)
    assert code == 8 and "declared_pairs" in out
    db.write_bytes(b"")
    code, _, last = verify(capsys, db)
    assert code == 8 and "not a sound database" in last


def test_a_link_does_not_lead_out_of_the_results(results: Results, definitions: Definitions) -> None:
    (results.root / "mini" / "loop").symlink_to("..")
    lines = [error.line() for error in verify_results(results.root, definitions).findings]
    assert len(lines) == 1 and "symbolic link among the results" in lines[0]


@pytest.mark.parametrize(
    ("name", "says"), [("pairs.toml", "not valid TOML"), ("attempts.toml/", "not part of the results")]
)
def test_what_lies_beside_the_rows_is_read_too(
    name: str, says: str, results: Results, definitions: Definitions
) -> None:
    path = results.root / name
    path.unlink(missing_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_text("[[pair")
    lines = [error.line() for error in verify_results(results.root, definitions).findings]
    assert any(says in line for line in lines), lines


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: edit(s / "index.html", lambda t: t.replace("0.", "9.", 1)), "index.html: line [0-9]+ is"),
        (lambda s: (s / "methods.html").unlink(), "methods.html: page is missing"),
        (lambda s: (s / "more.html").write_text("x"), "more.html: page that no build makes"),
        (lambda s: edit(s / "404.html", lambda t: t + "x"), "404.html: line [0-9]+ is not what"),
    ],
)  # fmt: skip
def test_a_changed_site_is_named(
    change, says: str, built: Path, pristine: Results, tmp_path: Path, capsys, home, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "site"
    shutil.copytree(built / "site", site)
    change(site)
    code, out, _ = verify(capsys, site, "--results", pristine.root)
    assert code == 8 and re.search(says, out) and len(out.splitlines()) == 1 and len(out) < 700


# --- scoring again ---------------------------------------------------------------------------------------


def test_a_score_that_the_scorer_does_not_give_is_named(pristine: Results) -> None:
    bundle = read_bundle(pristine.rec)
    again = bundle.scores
    assert _compare_scores(bundle, again) == []
    worse = Score(sample_id=again[7].sample_id, cluster=again[7].cluster, score=0.0, status="unparsed")
    (found,) = _compare_scores(bundle, [*again[:7], worse, *again[8:]])
    assert f"sample '{worse.sample_id}': not what the scorer gives" in found.line()
    assert "expected 0 (unparsed, cluster" in found.line()


def test_an_error_is_not_scored_again(results: Results) -> None:
    import pyarrow.parquet as pq

    from harness.files import write_parquet

    for name in ("answers", "scores"):
        file = table_file(results.rec, name)
        table = put(pq.read_table(file), "status", 0, "error")
        write_parquet(file, put(table, "score", 0, None) if name == "scores" else table)
    bundle_path = edit_json(
        results.rec,
        "run.json",
        lambda d: d["counts"].update(num_error=1, num_scored=d["counts"]["num_scored"] - 1),
    )
    bundle = read_bundle(bundle_path)
    scored = Score(
        sample_id=bundle.scores[0].sample_id, cluster=bundle.scores[0].cluster, score=0.0, status="scored"
    )
    assert _compare_scores(bundle, [scored, *bundle.scores[1:]]) == []


def test_scoring_again_asks_for_what_it_needs(pristine: Results, capsys, home: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "harness.rescore", None)
    code, _, last = verify(capsys, pristine.digits, "--rescore")
    assert code == 2 and "scoring again needs a package that is not installed" in last
    assert not any(home.iterdir())


def test_what_is_not_defined_here_cannot_be_scored_again(pristine: Results, tmp_path: Path) -> None:
    from harness.home import Home

    nothing = Definitions(tasks={}, protocols={})
    found = rescore([read_bundle(pristine.rec)], nothing, Home(tmp_path)).findings
    assert [e.exit_code for e in found] == [12] and "cannot be scored again" in found[0].line()


@pytest.mark.parametrize("wrong", [False, True])
def test_only_what_is_right_is_written_as_re_scored(
    wrong: bool, results: Results, capsys, home: Path, monkeypatch
) -> None:
    """The scorer is played here: its own test is the slow one below."""
    own = add_submission(results)

    def again(bundles, *_) -> Rescored:
        findings = (IntegrityError("not what the scorer gives"),) if wrong else ()
        by = {bundle.path: "b" * 64 for bundle in bundles}
        return Rescored(num_checked=len(bundles), findings=findings, notes=(), scored_by=by)

    monkeypatch.setattr("harness.rescore.rescore", again)
    monkeypatch.setattr("harness.commands.ensure_suite", lambda *_: None)
    out = results.root.parent / "new"
    code, said, _ = verify(capsys, results.root, "--rescore", "--write-re-scored", out)
    assert (code, out.exists()) == ((8, False) if wrong else (0, True))
    if wrong:
        return
    assert f"note: {len(own)} bundles written to {out} as re-scored; 7 are not self-reported" in said
    for path in own:
        old, new = read_bundle(path), read_bundle(out / path.relative_to(results.root))
        assert new.run == dataclasses.replace(old.run, tier="re-scored")
        assert (new.scores, new.answers, new.receipt) == (old.scores, old.answers, old.receipt)
        assert new.scorer_digest == "b" * 12
    report = verify_results(out, read_definitions())
    assert report.num_checked == len(own) and report.findings == ()


@pytest.mark.slow
def test_scoring_real_bundles_again(tmp_path: Path, definitions: Definitions, home: Path) -> None:
    """About a minute: writes the embedded suite's data, and starts lmms-eval once for all forgeries."""
    from harness.commands import ensure_suite
    from harness.home import Home

    place = Home(home)
    ensure_suite("mini", place)
    bundles = []
    for name, (forge, _) in {"as they are": (lambda _: None, ""), **FORGERIES}.items():
        results = copy_results(tmp_path / name)
        forge(results)
        bundles += [read_bundle(path) for path in (results.rec, results.digits)]
    again = rescore(bundles, definitions, place)
    lines = [error.line() for error in again.findings]
    told = {name for name in FORGERIES for line in lines if f"/{name}/" in line}
    assert told == {name for name, (_, caught_by) in FORGERIES.items() if caught_by == "rescore"}
    assert len(lines) == len(told) and "as they are" not in " ".join(lines)
    assert all(
        re.search("sample .*: not what the scorer gives for .*found 1 .*expected 0 ", x) for x in lines
    )
    assert [note.split(",")[0] for note in again.notes] == [f"eyechart_mini_rec: scored by {'a' * 12}"]
