"""Packing equals separate sequences; training repeats and resumes to the byte."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import tiny_llm
import torch
from safetensors.torch import save_file

from harness.adapter.data import Exchange, encode_exchange, pack, packed_logits, weighted_loss
from harness.adapter.mixture import Mixture, choose
from harness.adapter.module import Adapter
from harness.adapter.optim import orthogonalise, set_progress
from harness.adapter.train import SAVE_EVERY, train_adapter
from harness.errors import DatasetError, IntegrityError, UsageError
from harness.features import FeatureSet
from harness.protocol import read_protocol

RECIPE = replace(
    read_protocol("mini").adapter,
    steps=60,
    batch=6,
    width=16,
    position_words=(),
    frame_words=(),
    warmup_steps=2,
)
ASKED = [
    ("what color is the star?", "red"),
    ("how many objects are there?", "3"),
    ("is there a red ring?", "no"),
]


@pytest.fixture
def llm():
    return tiny_llm.new_llm()


def mixture(rows=12, seed=0):
    draw = np.random.default_rng(seed)
    tokens = draw.normal(size=(rows, 4, 8)).astype(np.float16)
    stills = FeatureSet(
        tokens, tokens.mean(1).astype(np.float32), [f"i{i}" for i in range(rows)], (2, 2), False
    )
    said = [
        [{"kind": f"k{j}", "prompt": p, "answer": a} for j, (p, a) in enumerate(ASKED)] for _ in range(rows)
    ]
    clips = draw.normal(size=(rows, 2, 4, 8)).astype(np.float16)
    choices = [[{"kind": "video", "prompt": "which way?", "answer": "A"}] * 2 for _ in range(rows)]
    return Mixture(stills, said, clips, choices)


def weights(trained):
    state = {**trained.adapter.state_dict(), **trained.llm.model.state_dict()}
    return {name: value.numpy().tobytes() for name, value in state.items()}


def train(tmp_path, name="state", lr=0.01, recipe=RECIPE, seed=0, **more):
    return train_adapter(
        tiny_llm.new_llm(), mixture(), recipe, lr, seed, state=tmp_path / f"{name}.safetensors", **more
    )


def test_a_packed_row_is_its_exchanges_one_by_one(llm):
    opening = llm.encode_prompt("").prefix
    visual = torch.randn(1, 5, llm.width)
    exchanges = [encode_exchange(llm, *asked) for asked in ASKED]
    with torch.no_grad():
        logits, labels = packed_logits(llm, visual, opening, pack([exchanges], len(opening) + 5))
        alone = []
        for tail, answer in exchanges:
            text = torch.tensor([[*tail, *answer]])
            embeds = torch.cat([llm.embed(torch.tensor([opening])), visual, llm.embed(text)], 1)
            out = llm.model(inputs_embeds=embeds).logits[0]
            alone.append(out[-len(answer) - 1 : -1])
    assert labels.tolist() == [i for _, answer in exchanges for i in answer]
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_loss_is_that_of_separate_sequences(llm, power):
    """Two rows of several exchanges, against each exchange in a row of its own; 0 is the mean over tokens."""
    opening = llm.encode_prompt("").prefix
    visual = torch.randn(2, 5, llm.width, generator=torch.Generator().manual_seed(2))
    rows = [[encode_exchange(llm, *a) for a in asked] for asked in (ASKED, ASKED[:1])]
    with torch.no_grad():
        logits, labels = packed_logits(llm, visual, opening, pack(rows, len(opening) + 5))
        together = weighted_loss(logits, labels, rows, power)
        total, weight = 0.0, 0.0
        for image, row in zip(visual, rows, strict=True):
            for tail, answer in row:
                embeds = torch.cat([llm.embed(torch.tensor([opening])), image[None]], 1)
                embeds = torch.cat([embeds, llm.embed(torch.tensor([[*tail, *answer]]))], 1)
                alone = llm.model(inputs_embeds=embeds).logits[0, -len(answer) - 1 : -1]
                mean = torch.nn.functional.cross_entropy(alone, torch.tensor(answer))
                total += float(mean) * len(answer) ** (1 - power)
                weight += len(answer) ** (1 - power)
    assert float(together) == pytest.approx(total / weight, rel=1e-5)


def test_a_question_does_not_see_its_neighbours(llm):
    """Its logits are the same whatever is asked before it and whatever the other answer was."""
    opening = llm.encode_prompt("").prefix
    visual = torch.randn(1, 5, llm.width)
    last = encode_exchange(llm, *ASKED[2])
    seen = []
    for other in (("what shape is the thing?", "ring"), ("is there a sign?", "yes")):
        packed = pack([[encode_exchange(llm, *other), last]], len(opening) + 5)
        with torch.no_grad():
            seen.append(packed_logits(llm, visual, opening, packed)[0][-len(last.answer) :])
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-5)


def test_padding_of_a_shorter_row_changes_nothing(llm):
    opening = llm.encode_prompt("").prefix
    visual = torch.randn(2, 5, llm.width)
    short, long = [encode_exchange(llm, *ASKED[0])], [encode_exchange(llm, *a) for a in ASKED]
    with torch.no_grad():
        both, _ = packed_logits(llm, visual, opening, pack([short, long], len(opening) + 5))
        one, _ = packed_logits(llm, visual[:1], opening, pack([short], len(opening) + 5))
    torch.testing.assert_close(both[: len(one)], one, atol=1e-4, rtol=1e-4)


def test_labels_are_the_answer_and_its_end(llm):
    packed = pack([[Exchange((5, 6), (7, 8))]], 3)
    assert packed.ids.tolist() == [[5, 6, 7]]
    assert packed.labels.tolist() == [[-100, 7, 8]]


@pytest.mark.parametrize(("kind", "depth", "layers"), [("mlp", 3, 2), ("linear", 1, 0)])
def test_shapes(llm, kind, depth, layers):
    adapter = Adapter(8, 4, 2, replace(RECIPE, kind=kind, depth=depth), llm)
    assert len(adapter.layers) == layers
    assert adapter(torch.randn(3, 4, 8)).shape == (3, 4, llm.width)
    assert adapter(torch.randn(3, 2, 4, 8)).shape == (3, 8, llm.width)


def test_starting_words_must_fit(llm):
    with pytest.raises(UsageError, match="position_words"):
        Adapter(8, 4, 2, replace(RECIPE, position_words=("a1",)), llm)


def test_training_repeats_and_learns(tmp_path):
    first, second = train(tmp_path, "a"), train(tmp_path, "b")
    assert weights(first) == weights(second)
    assert first.losses[-1] < first.losses[0]
    assert weights(train(tmp_path, "c", seed=1)) != weights(first)


def test_killed_after_a_checkpoint_it_continues_to_the_same_bytes(tmp_path):
    def stop(done, total):
        if done == SAVE_EVERY + 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "cut", progress=stop)
    assert (tmp_path / "cut.safetensors").exists()
    resumed, whole = train(tmp_path, "cut"), train(tmp_path, "whole")
    assert weights(resumed) == weights(whole)
    assert resumed.losses == whole.losses


def test_a_state_saved_at_the_last_step_is_the_trained_adapter(tmp_path):
    """Killed between the last checkpoint and the cache."""
    whole = train(tmp_path)
    steps = []
    again = train(tmp_path, progress=lambda done, total: steps.append(done))
    assert (steps, weights(again), again.losses) == ([], weights(whole), whole.losses)


def test_a_frozen_llm_stays_as_it_was(tmp_path):
    trained = train(tmp_path, lr=0.0)
    assert trained.llm.weight_digest() == tiny_llm.new_llm().weight_digest()
    assert train(tmp_path, "along").llm.weight_digest() != trained.llm.weight_digest()


def test_a_mixture_smaller_than_a_batch(tmp_path):
    with pytest.raises(DatasetError, match="smaller"):
        train(tmp_path, recipe=replace(RECIPE, batch=99))


def flip_a_bit(data):
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


@pytest.mark.parametrize(
    "damage", [lambda data: b"nonsense", lambda data: b"", lambda data: data[:-1], flip_a_bit]
)
def test_a_damaged_state_is_set_aside(tmp_path, damage):
    recipe = replace(RECIPE, steps=8)
    whole = weights(train(tmp_path, recipe=recipe))
    path = tmp_path / "state.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match="set aside") as caught:
        train(tmp_path, recipe=recipe)
    assert caught.value.exit_code == 8
    assert path.with_name(path.name + ".corrupt").exists()
    assert weights(train(tmp_path, recipe=recipe)) == whole


def test_a_state_without_its_digest_is_no_state(tmp_path):
    save_file({"step": torch.tensor(3)}, tmp_path / "state.safetensors")
    with pytest.raises(IntegrityError, match="set aside"):
        train(tmp_path)


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8)])
def test_orthogonalise(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_schedule():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    optimiser.param_groups[0]["base_lr"] = 2.0
    rates = []
    for step in range(100):
        set_progress([optimiser], step, 100, 10)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.2)
    assert rates[20] == pytest.approx(2.0)
    assert rates[-1] < 0.05


def test_a_step_asks_one_question_of_each_kind_before_a_second_of_any():
    said = [{"kind": "describe", "prompt": "d", "answer": "d"}]
    said += [
        {"kind": k, "prompt": f"{k}{i}", "answer": "a"} for k in ("video", "place", "rec") for i in (0, 1)
    ]
    first_two = set()
    for seed in range(40):
        chosen = choose(said, 4, random.Random(seed))
        assert chosen[0]["kind"] == "describe" and len(chosen) == 5
        assert {c["kind"] for c in chosen[1:4]} == {"video", "place", "rec"}
        assert len({c["prompt"] for c in chosen}) == 5
        first_two.add((chosen[1]["prompt"], chosen[4]["kind"]))
    assert len(first_two) > 8, "kinds and questions are drawn, not taken in order"
    assert len(choose(said, 99, random.Random(0))) == 7
    assert [c["kind"] for c in choose(said[1:3], 1, random.Random(0))] == ["video"]
