"""Low-rank updates of the language model by `peft`; the only module that imports it.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1:
W + (alpha / rank) · B A with B = 0 at the start. On every linear layer of attention and MLP, no dropout.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.adapter.llm import LanguageModel
from harness.seeds import derive_seed

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of the linear layers in Qwen2 and other models of Llama's shape."""


class LowRank(nn.Module):
    """The updates of one language model, laid into it in place.

    Its parameters and state are those of all A and B, float32, in the order of their names.

    Args:
        llm: its model computes with the updates from now on; everything else in it is frozen.
        rank: of each update.
        alpha: each is scaled by alpha / rank.
        seed: names the initial values of A.
        stage: number of the training stage, likewise.
    """

    def __init__(self, llm: LanguageModel, rank: int, alpha: int, seed: int, stage: int = 1) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=list(TARGETS), lora_dropout=0.0, bias="none"
        )
        torch.manual_seed(derive_seed("lora-init", seed, stage) % 2**31)
        wrapped: Any = get_peft_model(llm.model, config)
        named = sorted((name, p) for name, p in llm.model.named_parameters() if "lora_" in name)
        for _, parameter in named:
            parameter.data = parameter.data.float()
        self.updates = nn.ParameterList([parameter for _, parameter in named])
        # In a list, so that the whole language model does not become a part of this module.
        self._outside = [llm, wrapped]

    def merge(self) -> None:
        """Add the updates to the weights and remove them: the language model is a plain one again."""
        llm, wrapped = self._outside
        llm.model = wrapped.merge_and_unload()
        llm.model.requires_grad_(False)
