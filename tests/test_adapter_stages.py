"""Packing without padding, two stages with low-rank updates: equal losses, exact repeats and resumption."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import tiny_llm
import torch
from test_adapter import ASKED, RECIPE, mixture

from harness.adapter.data import encode_exchange, pack, packed_logits, weighted_loss
from harness.adapter.lora import LowRank
from harness.adapter.mixture import Batches
from harness.adapter.packing import (
    answer_weights,
    fill_bins,
    fit_exchanges,
    lay_out,
    row_tokens,
    sequence_logits,
    summed_loss,
)
from harness.adapter.row_attention import is_by_rows, rows_apart
from harness.adapter.train import SAVE_EVERY, state_file, train_adapter
from harness.errors import DatasetError
from harness.recipes import StageRecipe

STAGE = StageRecipe(steps=60, batch=5, lr=0.01, warmup_steps=2, lora_rank=2, lora_alpha=4)
TWO = replace(
    RECIPE, stages=(STAGE,), optimiser="adamw", order="epochs", pack_tokens=400, standardise_images=8
)
KINDS = {"mlp": TWO, "linear": replace(TWO, kind="linear", depth=1)}


def train(folder, name="state", recipe=TWO, lr=0.01, seed=0, **more):
    state = folder / f"{name}.safetensors"
    return train_adapter(tiny_llm.new_llm(), mixture(), recipe, lr, seed, state=state, **more)


def weights(trained):
    state = {**trained.adapter.state_dict(), **trained.llm.model.state_dict()}
    return {name: value.numpy().tobytes() for name, value in state.items()}


def exchanges(llm):
    return [[encode_exchange(llm, *a) for a in asked] for asked in (ASKED, ASKED[:1], ASKED[1:])]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("capacity", [70, 130, 1000])
def test_packed_sequences_have_the_loss_of_padded_rows(power, capacity):
    llm = tiny_llm.new_llm()
    opening, rows = llm.encode_prompt("").prefix, exchanges(llm)
    visual = torch.randn(3, 5, llm.width, generator=torch.Generator().manual_seed(2))
    prefix = len(opening) + 5
    whole = answer_weights(rows, power).sum()
    total = torch.tensor(0.0)
    with torch.no_grad():
        padded = weighted_loss(*packed_logits(llm, visual, opening, pack(rows, prefix)), rows, power)
        for members in fill_bins([row_tokens(row, prefix) for row in rows], capacity):
            some = [rows[i] for i in members]
            logits, labels = sequence_logits(llm, visual[members], opening, lay_out(some, prefix))
            total += summed_loss(logits, labels, answer_weights(some, power)) / whole
    assert float(total) == pytest.approx(float(padded), rel=1e-5)


def test_rows_side_by_side_have_the_logits_and_gradients_of_the_packed_sequence():
    """What graphics cards do; a CPU can do it too."""
    llm = tiny_llm.new_llm()
    llm.model.requires_grad_(True)
    config = llm.model.config
    assert config.num_attention_heads > config.num_key_value_heads  # keys are shared by heads
    opening, rows = llm.encode_prompt("").prefix, exchanges(llm)
    drawn = torch.randn(3, 5, llm.width, generator=torch.Generator().manual_seed(2))
    packed = lay_out(rows, len(opening) + 5)
    found = []
    for wanted in (False, True):
        visual = drawn.clone().requires_grad_(True)
        llm.model.zero_grad()
        with rows_apart(llm, wanted=wanted):
            logits, labels = sequence_logits(llm, visual, opening, packed)
        summed_loss(logits, labels, answer_weights(rows, 0.5)).backward()
        gradients = [visual.grad, *(p.grad for p in llm.model.parameters())]
        found.append([logits.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not is_by_rows(llm)


def test_bins_hold_every_row_once_and_never_more_than_fits():
    draw = random.Random(0)
    for _ in range(50):
        sizes = [draw.randint(1, 100) for _ in range(draw.randint(1, 40))]
        bins = fill_bins(sizes, 100)
        assert sorted(i for members in bins for i in members) == list(range(len(sizes)))
        assert max(sum(sizes[i] for i in members) for members in bins) <= 100
        # No two sequences that could have been one.
        filled = sorted(sum(sizes[i] for i in members) for members in bins)
        assert len(filled) < 2 or filled[0] + filled[1] > 100


def test_no_position_is_padding():
    llm = tiny_llm.new_llm()
    rows = exchanges(llm)
    laid = lay_out(rows, 9)
    assert len(laid.rows) == sum(row_tokens(row, 9) for row in rows)
    assert len(laid.rows) == len(laid.labels) == laid.positions.shape[1] == len(laid.owners)


def test_a_row_too_long_loses_its_last_exchanges_or_is_refused():
    llm = tiny_llm.new_llm()
    row = exchanges(llm)[0]
    two = row_tokens(row[:2], 9)
    assert fit_exchanges(row, 9, two) == row[:2]
    with pytest.raises(DatasetError, match="longer than a packed sequence"):
        fit_exchanges(row, 9, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_two_stages_repeat_and_learn(tmp_path, kind):
    first, second = (train(tmp_path, n, KINDS[kind]) for n in "ab")
    assert weights(first) == weights(second)
    half = len(first.losses) // 2
    assert first.losses[half - 1] < first.losses[0]
    assert first.losses[-1] < first.losses[half - 1]


def test_the_first_stage_leaves_the_language_model_alone(tmp_path):
    seen = {}
    before = {n: p.clone() for n, p in tiny_llm.new_llm().model.state_dict().items()}

    def spy(done, total):
        assert total == TWO.total_steps == RECIPE.steps + STAGE.steps
        seen["last"] = done

    trained = train(tmp_path, recipe=replace(TWO, stages=(replace(STAGE, steps=2, warmup_steps=1),)), lr=1e-9)
    after = trained.llm.model.state_dict()
    assert set(after) == set(before), "the merged model is a plain one"
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=0)
    train(tmp_path, "spied", progress=spy)
    assert seen["last"] == TWO.total_steps


def test_without_places_all_tokens_are_treated_alike(tmp_path):
    recipe = replace(TWO, places="none")
    trained = train(tmp_path, recipe=recipe)
    tokens = torch.randn(1, 1, 8).expand(1, 4, 8)
    visual = trained.adapter(tokens)
    assert torch.equal(visual[0, 0], visual[0, 3])
    assert not trained.adapter.position.any()
    learnt = train(tmp_path, "learnt").adapter(tokens)
    assert not torch.allclose(learnt[0, 0], learnt[0, 3])


def test_frames_of_fewer_tokens_take_the_places_they_cover(tmp_path):
    """A clip's frame at 1 token gets the mean of the four places of an image."""
    trained = train(tmp_path)
    frames = torch.randn(2, 2, 1, 8)
    visual = trained.adapter(frames)
    assert visual.shape == (2, 2, trained.llm.width)
    with torch.no_grad():
        alone = trained.adapter(frames[:, 0].expand(2, 4, 8)).mean(1)  # the same token in all four places
    torch.testing.assert_close(visual[:, 0] - trained.adapter.frame_position[0], alone)


def test_merged_updates_are_the_updates(tmp_path):
    """The model computes the same with its updates beside the weights and added to them."""
    llm = tiny_llm.new_llm()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    plain = llm.model(ids).logits
    low_rank = LowRank(llm, 2, 4, seed=0)
    torch.testing.assert_close(llm.model(ids).logits, plain)  # B starts at zero
    with torch.no_grad():
        for i, parameter in enumerate(low_rank.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    beside = llm.model(ids).logits
    assert not torch.allclose(beside, plain, atol=1e-3)
    low_rank.merge()
    assert not [name for name in llm.model.state_dict() if "lora" in name or "base_layer" in name]
    torch.testing.assert_close(llm.model(ids).logits, beside, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stop", [SAVE_EVERY + 3, RECIPE.steps + 7, RECIPE.steps + SAVE_EVERY + 5])
def test_an_interrupted_stage_continues_to_the_same_bytes(tmp_path, stop):
    whole = train(tmp_path, "whole")

    def interrupt(done, _):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", progress=interrupt)
    resumed = train(tmp_path, "cut")
    assert weights(resumed) == weights(whole)
    assert resumed.losses == whole.losses
    assert state_file(tmp_path / "cut.safetensors", 1).is_file()


def test_an_epoch_shows_every_row_once():
    llm, things = tiny_llm.new_llm(), mixture(rows=12)
    recipe = replace(TWO, video_share=0.0)
    batches = Batches(llm, things, recipe, 4, seed=3)
    rows = [batches._rows(step, 12, random.Random(0), is_clips=False) for step in range(6)]
    assert sorted(chain(*rows[:3])) == list(range(12))
    assert sorted(chain(*rows[3:])) == list(range(12))
    assert rows[:3] != rows[3:]


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_clips_and_stills_each_have_their_own_epochs(share):
    llm, things = tiny_llm.new_llm(), mixture(rows=12)
    batches = Batches(llm, things, replace(TWO, video_share=share), 4, seed=3)
    every = round(1 / share)
    for is_clips in (False, True):
        steps = [s for s in range(24) if (s % every == every - 1) == is_clips][:3]
        rows = [batches._rows(s, 12, random.Random(0), is_clips=is_clips) for s in steps]
        assert sorted(chain(*rows)) == list(range(12))


def test_standardising_on_some_images_spreads_over_the_mixture(tmp_path):
    trained = train(tmp_path, recipe=replace(TWO, standardise_images=4))
    tokens = mixture().stills.tokens[[0, 3, 6, 9]].reshape(-1, 8).astype(np.float32)
    np.testing.assert_allclose(trained.adapter.mean.numpy(), tokens.mean(0), atol=1e-5)
