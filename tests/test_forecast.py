"""The forecast against known figures: parameters of Qwen2.5, LLaVA's stage 1, the demo's own run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.adapter.llm import locate_llm
from harness.errors import IntegrityError, ResourceError
from harness.forecast import (
    QWEN_SHAPES,
    Workload,
    forecast,
    read_shape,
    refuse_what_does_not_fit,
    speed_of,
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


def test_speeds():
    assert speed_of("NVIDIA H100 80GB HBM3") == speed_of("NVIDIA H200") > speed_of("NVIDIA A100-SXM4-40GB")
    assert speed_of("cpu") < 1e12


def test_what_does_not_fit_is_refused_with_what_would():
    wanted = forecast(read_protocol("main"), MIDDLE, LOAD, 0)
    refuse_what_does_not_fit(wanted, wanted.memory_bytes, "a GPU")
    assert 5 * 2**30 < wanted.memory_bytes < 75 * 2**30
    with pytest.raises(ResourceError, match="smaller language model"):
        refuse_what_does_not_fit(wanted, 4 * 2**30, "a GPU")
