"""On a graphics card: features and answers as on the CPU, training that repeats itself. `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import test_adapter_stages as stages
import tiny_llm
import tiny_run
import torch
from test_adapter import RECIPE, mixture

from harness.adapter.train import train_adapter
from harness.device import device_facts, resolve_device
from harness.encoders import open_encoder
from harness.engines.hf import HFEngine, Request
from harness.submission import read_submission

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


def new_llm(device, seed=0):
    llm = tiny_llm.new_llm(seed)
    llm.model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
    llm.model.to(device)
    return llm


def test_the_card_is_found_and_named():
    assert resolve_device("auto") == DEVICE
    facts = device_facts(DEVICE)
    assert facts["name"]
    assert facts["tf32"] is False


def test_features_are_those_of_the_cpu(tmp_path):
    tiny_run.write_encoder(tmp_path)
    sub = read_submission(tiny_run.write_manifest(tmp_path))
    pixels = torch.randn(70, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    here, there = (open_encoder(sub, tmp_path, device=d) for d in ("cpu", DEVICE))
    assert here.weight_digest() == there.weight_digest()
    expected, found = (e.encode(pixels).patch_tokens.cpu() for e in (here, there))
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("recipe", [RECIPE, stages.TWO], ids=["whole", "two stages"])
def test_training_repeats_itself(tmp_path, recipe):
    recipe = replace(recipe, dtype="bfloat16")

    def train(device, name):
        state = tmp_path / f"{name}.safetensors"
        trained = train_adapter(new_llm(device), mixture(), recipe, 0.01, 0, state=state)
        trained.llm.model.cpu()
        trained.adapter.cpu()
        return trained

    first, second, here = train(DEVICE, "a"), train(DEVICE, "b"), train("cpu", "c")
    assert stages.weights(first) == stages.weights(second)
    assert first.losses == second.losses
    assert first.losses[0] == pytest.approx(here.losses[0], rel=0.05)


def test_answers_are_those_of_the_cpu():
    visual = torch.randn(20, 5, tiny_llm.new_llm(3).width, generator=torch.Generator().manual_seed(1))
    requests = [Request(i % 20, f"how many are {'very ' * (i % 3)}red?", (), 6) for i in range(60)]
    requests += [Request(i, "which one?", ("A", "B"), 1) for i in range(20)]

    def answer(device, batch):
        return HFEngine(new_llm(device, 3), batch).answer(
            requests, lambda rows: visual[list(rows)].to(device)
        )

    expected = answer("cpu", 64)
    assert answer(DEVICE, 64) == expected
    assert answer(DEVICE, 1) == expected
