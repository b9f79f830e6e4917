"""A small model of Qwen2.5's shape with random weights, and a tokenizer built as Qwen2's is.

Byte-level BPE behind Qwen2's pre-tokeniser, its three markers and its chat template with the default
system message; grouped keys and values, biases on queries, keys and values only, tied embeddings. What the
real model would meet in the code, this one meets; what it answers means nothing.
Source: the configuration, tokenizer.json and chat template of Qwen2.5-0.5B-Instruct.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import random
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from harness.llm_files import llm_revision
from harness.mini.suite import still_exchanges
from harness.mini.world import sample_scenes
from harness.prompts import BOX_REQUEST, LETTERS, SHORT_ANSWER
from harness.protocol import replace_values
from harness.seeds import derive_seed

NAME = "eyechart/rehearsal-llm"
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
"""Where Qwen2 cuts a text before any merge: each digit stands alone."""
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 900
WIDTH, LAYERS, HEADS, GROUPS = 128, 3, 4, 2
SCALE = 2.0
"""Weights are drawn this much wider than by default, so that greedy choices do not hang on rounding."""

pinned_protocol = replace_values
"""(TOML, `section.key` -> value) -> the TOML of a protocol on this model and data."""


def corpus() -> list[str]:
    """Texts of the kind the tokenizer will meet, the same on every call."""
    rng = random.Random(derive_seed("rehearsal-corpus"))
    texts = [SYSTEM, BOX_REQUEST, SHORT_ANSWER, "user", "assistant", "system", *LETTERS]
    for scene in sample_scenes("train", 300, seed=301):
        for exchange in still_exchanges(scene, rng):
            texts += [exchange["prompt"], exchange["answer"]]
    return texts


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, trained anew; identical on every call."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(PIECES)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    markers = [AddedToken(text, special=True, normalized=False) for text in (END_OF_TEXT, START, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(markers),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus(), trainer)
    core.add_special_tokens(markers)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=END_OF_TEXT,
        eos_token=END,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_llm(folder: Path) -> str:
    """Write the model as transformers does, unless it is there.

    Returns:
        Its revision, as a protocol pins it.
    """
    if not (folder / "tokenizer.json").is_file():
        tokenizer = build_tokenizer()
        torch.manual_seed(derive_seed("rehearsal-llm") % 2**31)
        config = Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=GROUPS,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = Qwen2ForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(SCALE)
        logging.disable_progress_bar()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(str(folder))
    return llm_revision(folder)
