"""The results of record beside a repetition: every run has its counterpart, and what differs is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.bundle import find_bundles, read_bundle
from harness.mini import record as record_module
from harness.mini.record import TOLERANCE, Difference, compare, recorded_ids, reproduce

RESULTS = Path(__file__).parents[1] / "results"
ENCODER = "floor-blind"


@pytest.fixture
def copy(tmp_path):
    """The record of one floor, as a repetition would lay it out."""
    shutil.copytree(RESULTS / "mini" / ENCODER, tmp_path / "mini" / ENCODER)
    return tmp_path


def test_the_record_is_whole_and_equals_itself(copy):
    found = compare(RESULTS, copy, [ENCODER])
    assert len(found) == 18 and {d.seed for d in found} == {0, 1, 2}
    assert all(d.identical and d.within and d.recorded == d.repeated for d in found)


def test_every_name_of_record_has_its_runs():
    ids = {read_bundle(path).run.submission.id for path in find_bundles(RESULTS)}
    assert ids == set(recorded_ids())


def test_a_run_that_was_not_repeated_is_named(copy):
    gone = find_bundles(copy)[0]
    task, seed = read_bundle(gone).run.task, read_bundle(gone).run.seed
    shutil.rmtree(gone)
    lost = [d for d in compare(RESULTS, copy, [ENCODER]) if not d.within]
    assert [(d.task, d.seed, d.repeated) for d in lost] == [(task, seed, None)]


def test_other_encoders_are_not_compared(copy):
    assert compare(RESULTS, copy, ["mini-resnet-siglip-s0"])[0].repeated is None
    assert compare(RESULTS, copy, []) == []


def test_the_tolerance_is_of_the_mean_score():
    near, far = (
        Difference("a", "t", 0, 0.5, 0.5 + d, identical=False) for d in (TOLERANCE * 0.9, TOLERANCE * 1.1)
    )
    assert near.within and not far.within


def test_reproduce_runs_in_a_fresh_home_and_compares(tmp_path, monkeypatch):
    """The runs are copies: tested is where they are written and what they are held against."""
    from harness.home import Home

    home = Home(tmp_path / "home")
    home.data("mini").mkdir(parents=True)
    homes = []

    def run_again(names, fresh, results, workers, progress):
        homes.append(fresh.root)
        assert fresh.root != home.root and fresh.data("mini").resolve() == home.data("mini").resolve()
        for name in names:
            shutil.copytree(RESULTS / "mini" / name, results / "mini" / name)

    monkeypatch.setattr(record_module, "record", run_again)
    found = reproduce([ENCODER], home, RESULTS, 1, lambda done, total: None)
    assert len(found) == 18 and all(d.identical for d in found)
    assert not homes[0].exists(), "the repetition is thrown away"


def test_reproduce_goes_on_where_it_was_stopped_unless_the_code_changed(tmp_path, monkeypatch):
    from harness.home import Home

    home = Home(tmp_path / "home")
    home.data("mini").mkdir(parents=True)
    found_there = []

    def stopped(names, fresh, results, workers, progress):
        found_there.append(sorted(p.name for p in results.glob("mini/*")))
        (results / "mini" / "half").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(record_module, "record", stopped)
    for code in ("one", "one", "two"):
        monkeypatch.setattr(record_module, "_code_digest", lambda code=code: code)
        with pytest.raises(KeyboardInterrupt):
            reproduce([ENCODER], home, RESULTS, 1, lambda done, total: None)
    assert found_there == [[], ["half"], []]


def test_the_codes_digest_covers_what_a_run_reads(tmp_path, monkeypatch):
    import harness

    before = record_module._code_digest()
    assert before == record_module._code_digest()
    copied = tmp_path / "harness"
    shutil.copytree(Path(harness.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(record_module.harness, "__file__", str(copied / "__init__.py"))
    assert record_module._code_digest() == before
    (copied / "probe.py").write_text("# changed")
    assert record_module._code_digest() != before
