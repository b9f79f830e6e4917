"""The real vLLM answers every question of the mini suite as transformers does (`make test-vllm`).

One adapter and its language model are trained first, unless `eyechart run` or this test has done so before
in the same home folder.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import answers as answers_module, commands
from harness.answer_parts import AnswerParts
from harness.answers import answer_with
from harness.data import open_split
from harness.engines.base import Request
from harness.engines.choose import open_engine
from harness.errors import IncompleteError
from harness.home import find_home
from harness.mini.members import WEIGHTS
from harness.protocol import read_protocol
from harness.stages import Subject, adapter_job, load_adapter, load_features, open_subject
from harness.submission import read_submission
from harness.task import read_task

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    # vLLM's and its libraries' own: sockets closed late, threads beside a fork.
    pytest.mark.filterwarnings("default"),
]
QUESTIONS = ["eyechart_mini_vqa", "eyechart_mini_signs", "eyechart_mini_rec", "eyechart_mini_video"]
SEED = 0


class Trained:
    """The demo's encoder with its adapter and language model of one seed."""

    def __init__(self):
        protocol = read_protocol("mini")
        home = find_home()
        commands.ensure_suite("mini", home)
        self.subject = Subject(read_submission(WEIGHTS / "demo.toml"), WEIGHTS, protocol, home)
        self.tasks = {name: read_task(name) for name in QUESTIONS}
        self.encoder = open_subject(self.subject)
        known = {"subject": self.subject, "tasks": self.tasks, "encoder": self.encoder}
        adapter_job(**known, seed=SEED, progress=lambda *_: None)
        self.adapter, self.llm = load_adapter(self.subject, self.encoder, SEED)

    def asked(self, name):
        """What `answer_with` wants to know about a task."""
        task = self.tasks[name]
        features = load_features(self.subject, self.tasks, f"{name}:test", self.encoder)
        split = open_split(task, self.subject.data, self.subject.protocol.video.frames)
        return self.adapter, features, task, split, self.subject.protocol


@pytest.fixture(scope="module")
def trained():
    return Trained()


@pytest.fixture(scope="module")
def started(trained):
    began = time.monotonic()
    engine = open_engine("vllm", trained.llm)
    yield engine, time.monotonic() - began
    engine.close()


@pytest.fixture
def engine(started):
    return started[0]


def tell(capsys, line):
    """Print past pytest's capture: the figures are what one runs this for."""
    with capsys.disabled():
        sys.stdout.write(f"\n{line} ")


def test_the_prefix_cache_is_sound(started, capsys):
    assert started[0].reads_cache
    tell(capsys, f"vLLM started in {started[1]:.1f} s")


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_answer_is_that_of_the_reference(trained, engine, name, capsys):
    asked = trained.asked(name)
    given, rates = {}, []
    for each in (open_engine("hf", trained.llm), engine):
        began = time.monotonic()
        given[each.name] = answer_with(each, *asked)
        rates.append(f"{each.name} {len(given[each.name]) / (time.monotonic() - began):,.0f}")
    tell(capsys, f"{name}: {len(given['hf'])} questions, answers a second: {', '.join(rates)}")
    assert len(given["hf"]) == trained.tasks[name].num_expected
    other = [(a, b) for a, b in zip(given["hf"], given["vllm"], strict=True) if a != b]
    assert not other, f"{len(other)} differ, the first: {other[0]}"
    assert len({a.answer for a in given["hf"]}) > 1


def engine_cores():
    """Process ids of vLLM's engines below this process."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # gone, or dead and not waited for yet
            if "EngineCore" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_answers_survive_the_death_of_the_engine(trained, monkeypatch, tmp_path: Path):
    """The engine is killed after the first part; a new one goes on, and the whole is the same."""
    monkeypatch.setattr(answers_module, "PART_IMAGES", 128)
    asked = trained.asked("eyechart_mini_vqa")
    whole = answer_with(open_engine("hf", trained.llm), *asked)
    before = set(engine_cores())
    engine = open_engine("vllm", trained.llm)
    (core,) = set(engine_cores()) - before
    parts = AnswerParts(tmp_path / "parts")

    def kill(done: int, _: int) -> None:
        if done and not killed.is_set():
            killed.set()
            os.kill(core, signal.SIGKILL)

    killed = threading.Event()
    with pytest.raises(IncompleteError, match=r"vLLM's engine died.*finished answers are kept") as caught:
        answer_with(engine, *asked, None, kill, parts)
    engine.close()
    assert caught.value.exit_code == 9
    kept = list(parts.folder.iterdir())
    assert kept
    engine = open_engine("vllm", trained.llm)
    answered = []
    answer = engine.answer
    engine.answer = lambda requests, *rest: (answered.extend(requests), answer(requests, *rest))[1]
    try:
        assert answer_with(engine, *asked, parts=parts) == whole
    finally:
        engine.close()
    assert 0 < len(answered) < len(whole)


def test_requests_without_options_and_with_them_mix(trained, engine):
    import torch

    visual = torch.randn(6, 16, trained.llm.width, generator=torch.Generator().manual_seed(3))
    requests = [
        Request(i % 6, "what is it?", ("A", "B") if i % 2 else (), 1 if i % 2 else 1 + i) for i in range(12)
    ]
    expected = open_engine("hf", trained.llm).answer(requests, lambda rows: visual[list(rows)])
    assert engine.answer(requests, lambda rows: visual[list(rows)]) == expected
    assert engine.answer(requests[::-1], lambda rows: visual[list(rows)]) == expected[::-1]
