"""A random two-layer Qwen2 with the mini tokenizer, in memory. Loaded by path."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from harness.adapter.llm import LanguageModel
from harness.mini.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()


def new_llm(seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(TOKENIZER),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        eos_token_id=TOKENIZER.eos_token_id,
        pad_token_id=TOKENIZER.pad_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("eager")
    with torch.no_grad():  # the default 0.02 makes every logit nearly equal, and greedy choices fragile
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return LanguageModel(model.eval(), TOKENIZER)
