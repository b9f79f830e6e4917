"""Devices: which one is meant, what a receipt says, and what happens where its memory is too small."""

from __future__ import annotations

import subprocess

import pytest
import tiny_llm
import torch

from harness import cli, device as device_module
from harness.device import device_facts, in_halves, memory_told, resolve_device, steady_sums
from harness.engines.hf import HFEngine, Request
from harness.errors import ResourceError, UsageError

SHORT = "CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity of 8.00 GiB\nand more"


def refuse(rows, most):
    if rows > most:
        raise torch.OutOfMemoryError(SHORT)


def test_auto_is_the_card_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (resolve_device("auto"), resolve_device("cpu")) == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (resolve_device("auto"), resolve_device("cuda"), resolve_device("cpu")) == ("cuda", "cuda", "cpu")
    with pytest.raises(UsageError, match="unknown device: found tpu"):
        resolve_device("tpu")


@pytest.mark.parametrize("command", ["plan", "run", "status"])
def test_a_card_that_is_not_there_is_one_line(command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main([command, str(tmp_path / "submission.toml"), "--device", "cuda"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no graphics card that torch can use" in told


def test_a_cpu_leaves_no_trace():
    assert device_facts("cpu") == {}
    with steady_sums("cpu"):
        assert not torch.are_deterministic_algorithms_enabled()


def test_facts_of_a_card(monkeypatch):
    card = type("Card", (), {"name": "NVIDIA H100", "total_memory": 1 << 36, "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": "580.1\n580.1\n"}))
    facts = device_facts("cuda")
    assert (facts["name"], facts["capability"], facts["driver"]) == ("NVIDIA H100", "9.0", "580.1")
    assert facts["tf32"] is False

    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", fail)
    assert device_facts("cuda")["driver"] == "unknown"


def test_sums_are_steady_inside_only():
    before = torch.utils.deterministic.fill_uninitialized_memory
    with steady_sums("cuda"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory is before


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_halves_keep_the_order(most):
    def work(items):
        refuse(len(items), most)
        return [item * item for item in items]

    assert in_halves(work, list(range(23))) == [i * i for i in range(23)]


def test_one_item_too_many_is_told_in_one_line():
    with pytest.raises(ResourceError) as caught, memory_told("answers"):
        in_halves(lambda items: refuse(len(items), 0), [1, 2, 3])
    line = caught.value.line()
    assert line.startswith("answers: the device's memory is too small: found CUDA out of memory. Tried")
    assert "and more" not in line
    assert "--workers" in line
    assert caught.value.exit_code == 6


LLM = tiny_llm.new_llm(3)
VISUAL = torch.randn(20, 5, LLM.width, generator=torch.Generator().manual_seed(1))
REQUESTS = [Request(i % 20, f"how many objects are {'very ' * (i % 3)}there?", (), 4) for i in range(60)]


def short_engine(monkeypatch, images, questions):
    engine = HFEngine(LLM, 16)
    read, decode = engine._read_prefix, engine._decode

    def read_short(visual):
        refuse(len(visual), images)
        return read(visual)

    def decode_short(requests, prefix, rows):
        # The more images are held, the less room is left for questions.
        refuse(len(requests) + len(prefix[0][0]), questions)
        return decode(requests, prefix, rows)

    monkeypatch.setattr(engine, "_read_prefix", read_short)
    monkeypatch.setattr(engine, "_decode", decode_short)
    return engine


@pytest.mark.parametrize(("images", "questions"), [(20, 100), (4, 100), (20, 25), (7, 6), (1, 2)])
def test_answers_do_not_depend_on_the_memory(monkeypatch, images, questions):
    def visual(rows):
        return VISUAL[list(rows)]

    expected = HFEngine(LLM, 16).answer(REQUESTS, visual)
    seen = []
    engine = short_engine(monkeypatch, images, questions)
    assert engine.answer(REQUESTS, visual, lambda done, of: seen.append((done, of))) == expected
    assert seen[-1] == (60, 60)
    assert seen == sorted(seen)


def test_no_room_for_one_question(monkeypatch):
    engine = short_engine(monkeypatch, 20, 1)
    with pytest.raises(ResourceError, match="answers: the device's memory is too small"):
        engine.answer(REQUESTS, lambda rows: VISUAL[list(rows)])


def test_training_is_never_made_smaller():
    from harness.stages import NOT_HALVED

    with pytest.raises(ResourceError, match="training batch is the protocol's"), memory_told("x", NOT_HALVED):
        refuse(1, 0)
    assert device_module.SMALLER in NOT_HALVED
