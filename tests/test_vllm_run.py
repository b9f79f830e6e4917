"""`eyechart run --engine vllm` as a process: stopped in every way while vLLM answers, nothing outlives it.

The miniature with the rehearsal's language model, whose heads are wide enough for vLLM.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import time
from dataclasses import replace

import pytest
import staged_run
import tiny_run
from staged_run import UNITS, new_command, processes, session_is_empty

from harness.bundle import find_bundles, read_bundle
from harness.protocol import replace_values
from harness.rehearsal.llm import write_llm

START_LIMIT_S = 400
"""vLLM starts in 40 s on two idle cores; a busy machine is no fault of the run's."""

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    made = staged_run.staged(tiny_run.shared(tmp_path_factory))
    folder = made.root / "wider-llm"
    swaps = {"llm.revision": f'"{write_llm(folder)}"'}
    path = made.root / "staged-vllm.toml"
    path.write_text(replace_values(made.protocol.read_text(), swaps))
    return replace(made, protocol=path, llm=folder)


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    """A whole run with the reference engine."""
    command = new_command(tiny, tmp_path_factory.mktemp("hf"), "vllm-hf")
    command.finish()
    return command


def answers(home, engine):
    bundles = [read_bundle(path) for path in find_bundles(home.results)]
    return {(b.run.task, b.run.seed): b.answers for b in bundles if b.run.engine == engine}


@pytest.fixture(scope="module")
def command(tiny, reference, tmp_path_factory):
    """With vLLM, on a home that has the reference's features and adapters but none of its answers."""
    made = new_command(tiny, tmp_path_factory.mktemp("vllm"), "vllm-stopped")
    shutil.copytree(reference.home.root / "cache", made.home.root / "cache")
    shutil.rmtree(made.home.answers)
    made.engine = "vllm"
    return made


def engines(session):
    """vLLM's engines of a session; it names its processes itself."""
    found = []
    for process in processes(session):
        # A process may end between the two looks.
        with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline", "rb") as file:
            if b"EngineCore" in file.read():
                found.append(process)
    return found


def tell(capsys, line):
    """Print past pytest's capture: the figures are what one runs this for."""
    with capsys.disabled():
        sys.stdout.write(f"\n{line} ")


def answered(home):
    """Parts and whole files of answers that rest on disk."""
    return {*home.unfinished.glob("answers-*/*.parquet"), *home.answers.glob("*.parquet")}


def to_main(number):
    return lambda child: child.send_signal(number)


def to_all(number):
    return lambda child: os.killpg(child.pid, number)


def to_engine(number):
    return lambda child: os.kill(engines(child.pid)[0], number)


STOPS = {
    "ctrl-c": (to_all(signal.SIGINT), 130, "interrupted, state saved"),
    "interrupt of the command alone": (to_main(signal.SIGINT), 130, "interrupted, state saved"),
    "scheduler": (to_main(signal.SIGTERM), 143, "interrupted, state saved"),
    "kill": (to_main(signal.SIGKILL), -signal.SIGKILL, ""),
    "engine killed": (to_engine(signal.SIGKILL), 9, "vLLM's engine died"),
}


def stop_while_it_answers(command, how, capsys):
    strike, code, says = STOPS[how]
    began = time.monotonic()
    before = answered(command.home)
    child = command.start()
    try:
        while not (engines(child.pid) and answered(command.home) - before):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() - began < START_LIMIT_S, "vLLM never answered"
            time.sleep(0.005)
        strike(child)
        out, err = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()  # or a dead child would haunt the tests after this one
    assert (child.returncode, out) == (code, ""), err
    assert "Traceback" not in err, err
    assert says in (err.splitlines() or [""])[-1], err
    stopped = time.monotonic()
    assert session_is_empty(child.pid, within=20), processes(child.pid)
    tell(capsys, f"{how}: in {stopped - began:.0f} s, gone after {time.monotonic() - stopped:.1f} s")
    assert not command.home.results.exists()


def test_stopped_in_every_way_and_resumed_it_gives_the_answers_of_the_reference(command, reference, capsys):
    """One home for all, whose features and adapters cost minutes; what the last stop left is gone on from."""
    for how in STOPS:
        for path in answered(command.home):
            path.unlink()  # or the last of the stops would find nothing to stop
        stop_while_it_answers(command, how, capsys)
    began = time.monotonic()
    command.finish()
    given, expected = answers(command.home, "vllm"), answers(reference.home, "hf")
    assert given == expected
    assert len(given) == UNITS - 3
    tell(capsys, f"resumed in {time.monotonic() - began:.0f} s")
