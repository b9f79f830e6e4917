"""Fixtures of the tests that run `eyechart data` on bad sources."""

from __future__ import annotations

import signal

import pytest

from harness.cli import main

PATIENCE_S = 120


@pytest.fixture(autouse=True)
def patience():
    """A reader that waits for ever on a pipe fails its test instead."""

    def late(_number, _frame):
        raise TimeoutError(f"still busy after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """`eyechart data …`; gives exit code, output, errors, after looking at the form of the errors."""
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "home"))

    def call(*words):
        capsys.readouterr()
        code = main(["data", *map(str, words)])
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("eyechart: ")]
        assert len(lines) == (code != 0 and words[0] != "doctor"), said.err
        assert "Traceback" not in said.err and "internal bug" not in said.err, said.err
        return code, said.out, said.err

    return call


def bring(run, name, place, *more):
    return run("import", name, place, "--partial", *more)


def outside(tmp_path, *known):
    """What lies beside the home and the sources."""
    return sorted(p.name for p in tmp_path.iterdir() if p.name not in {"home", *known})
