"""Greedy answers with a shared prefix: those of transformers' own generate, whatever the batch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from harness.engines.hf import HFEngine, Request
from harness.errors import DatasetError

_spec = importlib.util.spec_from_file_location("tiny_llm_engine", Path(__file__).with_name("tiny_llm.py"))
tiny_llm = importlib.util.module_from_spec(_spec)
sys.modules["tiny_llm_engine"] = tiny_llm
_spec.loader.exec_module(tiny_llm)

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


def test_a_choice_is_one_of_its_letters():
    requests = [Request(i, "which way?", ("A", "B", "C"), 1) for i in range(20)]
    given = answer(requests)
    assert set(given) <= {"A", "B", "C"}
    assert answer(requests, 1) == given


def test_an_option_of_two_tokens_is_refused():
    with pytest.raises(DatasetError, match="single token"):
        answer([Request(0, "which?", ("xyzzy", "B"), 1)])


def test_answers_are_no_longer_than_allowed():
    short = answer([Request(0, PROMPTS[0], (), 1)])[0]
    assert len(LLM.encode(short)) <= 1


def test_the_image_is_seen():
    requests = [Request(i, PROMPTS[0], (), 6) for i in range(20)]
    assert len(set(answer(requests))) > 1


def test_a_question_with_the_placeholder_is_refused():
    with pytest.raises(DatasetError, match="placeholder"):
        LLM.encode_prompt("what is <image>?")
