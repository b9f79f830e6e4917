"""Greedy answers with a shared prefix: those of transformers' own generate, whatever the batch."""

from __future__ import annotations

import pytest
import tiny_llm
import torch

from harness.engines import hf
from harness.engines.hf import HFEngine, Request
from harness.errors import DatasetError

LLM = tiny_llm.new_llm(3)
VISUAL = torch.randn(20, 5, LLM.width, generator=torch.Generator().manual_seed(1))
PROMPTS = ["what color is the star?", "how many objects are there?", "what shape is the red thing?", "zebra?"]
REQUESTS = [Request(i % 20, PROMPTS[i % 4] + " " * (i % 3), (), 6) for i in range(70)]


def answer(requests, batch=128):
    return HFEngine(LLM, batch).answer(requests, lambda rows: VISUAL[list(rows)])


def test_equal_to_generate():
    given = answer(REQUESTS[:12])
    for request, text in zip(REQUESTS[:12], given, strict=True):
        prompt = LLM.encode_prompt(request.prompt)
        embeds = torch.cat(
            [
                LLM.embed(torch.tensor([prompt.prefix])),
                VISUAL[request.media][None],
                LLM.embed(torch.tensor([prompt.tail])),
            ],
            1,
        )
        ids = LLM.model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=LLM.end_id,
            pad_token_id=0,
        )[0].tolist()
        ids = ids[: ids.index(LLM.end_id)] if LLM.end_id in ids else ids
        assert text == LLM.decode(ids)


def test_batches_of_1_7_and_64_agree():
    expected = answer(REQUESTS, 64)
    assert answer(REQUESTS, 1) == expected
    assert answer(REQUESTS, 7) == expected
    assert len(set(expected)) > 5


def test_order_does_not_matter():
    expected = answer(REQUESTS)
    assert answer(REQUESTS[::-1]) == expected[::-1]
    order = torch.randperm(len(REQUESTS), generator=torch.Generator().manual_seed(5)).tolist()
    assert answer([REQUESTS[i] for i in order]) == [expected[i] for i in order]


def test_neither_do_the_images_read_at_a_time(monkeypatch):
    expected = answer(REQUESTS)
    monkeypatch.setattr(hf, "IMAGE_CHUNK", 3)
    assert answer(REQUESTS) == expected


def test_questions_share_their_image():
    """Each image goes through the adapter once, and an answer is that of its question asked alone."""
    asked = []

    def visual(rows):
        asked.extend(rows)
        return VISUAL[list(rows)]

    requests = [Request(i % 3, prompt, (), 6) for prompt in PROMPTS for i in range(3)]
    together = HFEngine(LLM).answer(requests, visual)
    assert sorted(asked) == [0, 1, 2]
    assert together == [answer([request])[0] for request in requests]


def test_progress_ends_with_all():
    seen = []
    HFEngine(LLM, 7).answer(REQUESTS, lambda rows: VISUAL[list(rows)], lambda *counts: seen.append(counts))
    assert seen == sorted(seen)
    assert seen[-1] == (len(REQUESTS), len(REQUESTS))


def logits_after(request):
    """(V,) of a plain forward pass over the whole prompt."""
    prompt = LLM.encode_prompt(request.prompt)
    parts = [LLM.embed(torch.tensor([prompt.prefix])), VISUAL[request.media][None]]
    with torch.no_grad():
        embeds = torch.cat([*parts, LLM.embed(torch.tensor([prompt.tail]))], 1)
        return LLM.model(inputs_embeds=embeds).logits[0, -1]


def test_a_choice_is_one_of_its_letters():
    requests = [Request(i, "which way?", ("A", "B", "C"), 1) for i in range(20)]
    given = answer(requests)
    assert set(given) <= {"A", "B", "C"}
    assert answer(requests, 1) == given
    ids = [LLM.encode(letter)[0] for letter in "ABC"]
    for request, letter in zip(requests, given, strict=True):
        logits = logits_after(request)
        assert letter == "ABC"[int(logits[ids].argmax())]
    # The restriction matters: left free, the model would say something else.
    assert any(int(logits_after(r).argmax()) not in ids for r in requests)


def test_choices_and_open_questions_mix():
    mixed = [Request(i % 20, "which way?", ("A", "B"), 1) if i % 2 else REQUESTS[i] for i in range(20)]
    assert answer(mixed) == [answer([request])[0] for request in mixed]


def test_an_option_of_two_tokens_is_refused():
    with pytest.raises(DatasetError, match="single token"):
        answer([Request(0, "which?", ("xyzzy", "B"), 1)])


def test_answers_are_no_longer_than_allowed():
    ends = []
    for limit in (1, 2, 5, 9):
        requests = [Request(i, PROMPTS[0], (), limit) for i in range(20)]
        steps = []
        engine = HFEngine(LLM)
        step = engine._step
        engine._step = lambda ids, cache, steps=steps, step=step: (steps.append(1), step(ids, cache))[1]
        ends.append(engine.answer(requests, lambda rows: VISUAL[list(rows)]))
        assert len(steps) <= limit
    # A longer limit continues the same answer.
    assert all(long.startswith(short) for short, long in zip(ends[0], ends[1], strict=True))


def test_limits_of_neighbours_are_kept_apart():
    requests = [Request(0, PROMPTS[0], (), limit) for limit in (1, 6, 1, 6)]
    assert answer(requests) == [answer([request])[0] for request in requests]


def test_the_image_is_seen():
    requests = [Request(i, PROMPTS[0], (), 6) for i in range(20)]
    assert len(set(answer(requests))) > 1


def test_a_question_with_the_placeholder_is_refused():
    with pytest.raises(DatasetError, match="placeholder"):
        LLM.encode_prompt("what is <image>?")
