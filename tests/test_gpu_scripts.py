"""The scripts of a session on a graphics machine, as far as a CPU can try them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bundle import find_bundles, read_bundle, write_bundle

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Two runs of record, and the same as if a card had answered the last questions otherwise."""
    root = tmp_path_factory.mktemp("agreement")
    cpu, gpu = root / "cpu", root / "gpu"
    for path in find_bundles(ROOT / "results")[:2]:
        shutil.copytree(path, cpu / path.relative_to(ROOT / "results"))
        bundle = read_bundle(path)
        answers = [replace(a, answer="?") if i < 10 else a for i, a in enumerate(bundle.answers)]
        receipt = {**bundle.receipt, "device": {"name": "NVIDIA H100"}}
        write_bundle(
            gpu, bundle.run, answers, receipt, {}, scores=bundle.scores, scorer_digest=bundle.scorer_digest
        )
    return cpu, gpu


def test_agreement(some):
    cpu, gpu = some
    script = load("gpu_agreement")
    told = script.report(gpu, cpu)
    assert told.startswith("2 runs on NVIDIA H100; 0 differ from their twin by more than 2%; 0 have no twin.")
    samples = sum(len(read_bundle(path).answers) for path in find_bundles(gpu))
    assert f"| all | 2 | {samples:,} | {1 - 20 / samples:.1%} |" in told
    assert "+0.00 ± 0.00" in told


def test_agreement_with_nothing(some, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gpu_agreement.py", tmp_path, "--cpu", some[0]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no run on the card has a twin" in done.stderr


def test_the_session_knows_every_encoder_of_record():
    from harness.mini.members import WEIGHTS, submissions

    order = load("gpu_session").ORDER
    assert sorted(order) == sorted(name for name, _ in submissions())
    assert all((WEIGHTS / f"{name}.toml").is_file() for name in order)
