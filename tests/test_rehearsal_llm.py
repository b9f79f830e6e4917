"""The rehearsal's language model is built as Qwen2.5 is, and what the code asks of one holds for it."""

from __future__ import annotations

import pytest
import torch

from harness.adapter.llm import load_llm, locate_llm
from harness.engines.base import Request
from harness.engines.hf import HFEngine
from harness.errors import IntegrityError, UsageError
from harness.recipes import LLMRecipe
from harness.rehearsal import llm as made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("llms")
    return home / made.NAME.replace("/", "--")


@pytest.fixture(scope="module")
def recipe(folder):
    return LLMRecipe(name=made.NAME, revision=made.write_llm(folder), training="lora", lr=0.001)


@pytest.fixture(scope="module")
def llm(folder, recipe):
    return load_llm(recipe, llms=folder.parent)


def test_the_same_files_on_every_call(folder, recipe, tmp_path):
    assert made.write_llm(tmp_path / "again") == recipe.revision


def test_the_chat_opens_with_the_system_message(llm):
    opening = llm.tokenizer.decode(llm.encode_prompt("").prefix)
    assert opening == f"<|im_start|>system\n{made.SYSTEM}<|im_end|>\n<|im_start|>user\n"
    assert (
        llm.tokenizer.decode(llm.encode_prompt("where?").tail) == "where?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert llm.tokenizer.decode([llm.end_id]) == "<|im_end|>"


@pytest.mark.parametrize(
    "text", ["[0.12, 0.34, 0.50, 0.75]", "naïve café ☕", "two\n\nlines ", "A", "it's 2026"]
)
def test_any_text_comes_back(llm, text):
    assert llm.decode(llm.encode(text)) == text


def test_letters_and_digits_stand_alone(llm):
    assert all(len(llm.encode(letter)) == 1 for letter in "ABCDE")
    assert len(llm.encode("2026")) == 4


def test_its_shape_is_that_of_qwen(llm):
    config, names = llm.model.config, dict(llm.model.named_parameters())
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.tie_word_embeddings
    assert "model.layers.0.self_attn.q_proj.bias" in names
    assert "model.layers.0.self_attn.o_proj.bias" not in names


def test_a_model_that_is_not_here_says_how_to_get_it(tmp_path):
    with pytest.raises(UsageError, match="eyechart protocol fetch"):
        locate_llm("Qwen/Qwen2.5-0.5B-Instruct", tmp_path)


def test_a_changed_file_is_refused(folder, recipe, tmp_path):
    made.write_llm(tmp_path / folder.name)
    with (tmp_path / folder.name / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityError, match="differs from the protocol"):
        load_llm(recipe, llms=tmp_path)


def test_values_of_a_protocol_are_replaced_in_their_section():
    text = '[a]\nname = "x"\n[[a.b]]\nname = 1\nsteps = 2\n'
    assert made.pinned_protocol(text, {"a.b.name": "3"}) == '[a]\nname = "x"\n[[a.b]]\nname = 3\nsteps = 2\n'
    with pytest.raises(KeyError):
        made.pinned_protocol(text, {"a.c": "3"})


def test_bfloat16_answers_whatever_the_batch(llm, recipe, folder):
    low = load_llm(recipe, llms=folder.parent)
    low.model.to(torch.bfloat16)
    visual = torch.randn(3, 4, low.width, generator=torch.Generator().manual_seed(0))
    asked = [Request(i % 3, f"What is at place {i}?", (), 4) for i in range(5)]
    asked.append(Request(2, "Which?", ("A", "B"), 1))
    answers = [HFEngine(low, batch).answer(asked, lambda rows: visual[list(rows)]) for batch in (1, 8)]
    assert answers[0] == answers[1]
    assert answers[0][-1] in ("A", "B")
    assert all(answers[0])
