"""The perfect text of a scene as visual tokens: each cell is the sum of the embeddings of its words.

The language model learns to read it with noise of random strength, so that it can later read an imperfect
map that an adapter writes; the proof of the model (tests/test_mini_llm.py) reads it without noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from harness.adapter.llm import LanguageModel

MOST_WORDS = 20


def encode_maps(llm: LanguageModel, maps: Sequence[Sequence[Sequence[str]]]) -> Tensor:
    """(B, N, MOST_WORDS) int64 token ids of each bag, zero padded. Every word must be one token."""
    table = torch.zeros(len(maps), len(maps[0]), MOST_WORDS, dtype=torch.int64)
    vocabulary = llm.tokenizer.get_vocab()
    for i, cells in enumerate(maps):
        for j, words in enumerate(cells):
            table[i, j, : len(words)] = torch.tensor([vocabulary[w] for w in words])
    return table


def embed_maps(llm: LanguageModel, table: Tensor) -> Tensor:
    """(B, N, MOST_WORDS) ids -> (B, N, H) sums of word embeddings."""
    weight = llm.model.get_input_embeddings().weight
    bags = functional.embedding_bag(table.flatten(0, 1), weight, mode="sum", padding_idx=0)
    return bags.view(*table.shape[:2], -1)
