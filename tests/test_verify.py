"""Verification: whatever was damaged or edited is refused by name, and what is sound passes."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from corrupt_bundles import CASES, ROOT, Results, copy_results

from harness.bundle_rules import Definitions, read_definitions
from harness.errors import EyechartError
from harness.verify import verify_results


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
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


def test_pristine_results_pass(pristine: Results, definitions: Definitions) -> None:
    report = verify_results(pristine.root, definitions)
    assert (report.num_checked, report.findings, report.notes) == (7, (), ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refused_by_name(case: object, results: Results, definitions: Definitions) -> None:
    case.damage(results)
    found = verify_results(results.root, definitions).findings
    lines = [error.line() for error in found]
    assert found, "not refused"
    assert any(re.search(case.says, line) for line in lines), lines
    assert all(isinstance(error, EyechartError) and "\n" not in error.line() for error in found)
