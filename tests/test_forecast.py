"""The forecast against known figures: parameters of Qwen2.5, LLaVA's stage 1, the demo's own run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_llm

from harness.adapter.llm import locate_llm
from harness.adapter.lora import LowRank
from harness.errors import IntegrityError, ResourceError
from harness.forecast import (
    CPU_CORE_SPEED,
    GPUS,
    QWEN_SHAPES,
    LLMShape,
    Workload,
    cpu_device,
    forecast,
    gpu_device,
    read_shape,
    refuse_what_does_not_fit,
)
from harness.protocol import read_protocol

SMALL, MIDDLE = QWEN_SHAPES.values()
LOAD = Workload(
    images=100_000,
    streamed_images=0,
    gmacs=81.0,
    width=1024,
    tokens=144,
    questions=50_000,
    asked_images=20_000,
)
MINI_ROW = 95.0
MINI = Workload(
    images=33_989,
    streamed_images=0,
    gmacs=0.045,
    width=192,
    tokens=16,
    questions=4_250,
    asked_images=4_250,
    row_tokens=MINI_ROW,
    opening_tokens=2,
)
"""Of the demo's encoder: images from the record's environment.json, the rest as `eyechart plan` counts it."""


@pytest.mark.parametrize(("shape", "layers", "whole"), [(SMALL, 0.36e9, 0.49e9), (MIDDLE, 1.31e9, 1.54e9)])
def test_parameters_of_qwen(shape, layers, whole):
    """The figures of performance.md §3, and of the models' cards (0.49 B and 1.54 B)."""
    assert shape.layer_weights == pytest.approx(layers, rel=0.01)
    assert shape.all_weights == pytest.approx(whole, rel=0.01)


def test_a_shape_is_read_from_the_configuration(tmp_path):
    mini = read_shape(locate_llm("mini-llm"))
    assert (mini.width, mini.layers, mini.vocabulary) == (128, 4, 312)
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(IntegrityError, match="num_hidden_layers"):
        read_shape(tmp_path)


def test_training_leads_and_grows_as_it_should():
    protocol = read_protocol("main")
    whole = forecast(protocol, MIDDLE, LOAD, 0)
    assert whole.train_ops > 0.7 * whole.ops  # DESIGN: three quarters of a real run
    frozen = forecast(read_protocol("main-frozen"), MIDDLE, LOAD, 0)
    assert frozen.train_ops == pytest.approx(whole.train_ops, rel=0.01), (
        "as many rows, the same price a token"
    )
    more = forecast(replace(protocol, seeds=(0, 1, 2, 3, 4, 5)), MIDDLE, LOAD, 0)
    assert more.train_tokens == 2 * whole.train_tokens
    assert more.encode_ops == whole.encode_ops
    assert forecast(protocol, SMALL, LOAD, 0).ops < whole.ops


def test_stage_one_of_llava_on_one_gpu():
    """558k rows through 1.5 B at 144 tokens: performance.md's floor is 12.6 minutes, 28 at 45 %."""
    protocol = read_protocol("main")
    one = replace(protocol, seeds=(0,), adapter=replace(protocol.adapter, stages=(), questions_per_image=0))
    ops = forecast(one, MIDDLE, LOAD, 0).train_ops
    assert 12 * 60 < ops / 790e12 < 30 * 60


def test_gpus_by_the_names_that_drivers_give():
    h100, h200 = gpu_device("NVIDIA H100 80GB HBM3"), gpu_device("NVIDIA H200")
    a100 = gpu_device("NVIDIA A100-SXM4-40GB", 40 * 10**9)
    assert h100.train_speed == h200.train_speed > a100.train_speed > gpu_device("NVIDIA RTX 4090").train_speed
    assert (h200.memory_bytes, a100.memory_bytes) == (141 * 10**9, 40 * 10**9)
    assert gpu_device("another").train_speed == min(gpu.train_speed for gpu in GPUS.values())


def test_three_seeds_take_two_processes_two_turns():
    wanted = forecast(read_protocol("mini"), read_shape(locate_llm("mini-llm")), MINI, 0)
    one, two, three = (wanted.seconds(cpu_device(n, 2**34), 3) for n in (1, 2, 3))
    assert one > two > three
    training = wanted.train_ops / CPU_CORE_SPEED
    assert two == pytest.approx((one - training) / 2 + training * 2 / 3)


def test_mini_agrees_with_the_measured_run():
    """docs/performance.md: 31 to 36 s of features, 85 to 107 s an adapter, 5 s of answers, 1.4 GB."""
    protocol = read_protocol("mini")
    wanted = forecast(protocol, read_shape(locate_llm("mini-llm")), MINI, 0)
    core = cpu_device(1, 2**34)
    assert 25 < wanted.encode_ops / core.encode_speed < 60
    assert 60 < wanted.train_ops / core.train_speed / 3 < 160
    assert wanted.answer_ops / core.train_speed / 3 < 15
    assert 120 < wanted.seconds(cpu_device(2, 2**34), 3) < 2 * 284, "the demo took 4:44, its data included"
    assert 0.5e9 < wanted.needed_bytes(core) < 3e9


def test_what_does_not_fit_is_refused_with_what_would():
    wanted = forecast(read_protocol("main"), MIDDLE, LOAD, 0)
    fits = replace(GPUS["H100"], memory_bytes=wanted.memory_bytes)
    refuse_what_does_not_fit(wanted, fits)
    assert 5 * 2**30 < wanted.memory_bytes < 75 * 2**30
    with pytest.raises(ResourceError, match="smaller language model") as error:
        refuse_what_does_not_fit(wanted, replace(fits, memory_bytes=4 * 2**30))
    assert error.value.exit_code == 6
    two = cpu_device(2, wanted.needed_bytes(cpu_device(1, 0)))
    with pytest.raises(ResourceError, match="--workers 1"):
        refuse_what_does_not_fit(wanted, two)


def test_low_rank_weights_are_those_that_peft_makes():
    llm = tiny_llm.new_llm()
    config = llm.model.config
    shape = LLMShape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        ffn=config.intermediate_size,
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        vocabulary=config.vocab_size,
    )
    updates = LowRank(llm, 3, 6, seed=0).updates
    assert 3 * shape.low_rank_weights == sum(parameter.numel() for parameter in updates)
