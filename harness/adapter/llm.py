"""The common language model and how a prompt becomes token ids around the visual tokens."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before transformers is imported)

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.digest import digest_arrays
from harness.errors import DatasetError, IntegrityError
from harness.llm_files import LOCAL_LLMS, llm_revision, locate_llm
from harness.recipes import LLMRecipe

__all__ = ["IMAGE", "LOCAL_LLMS", "LanguageModel", "Prompt", "llm_revision", "load_llm", "locate_llm"]

IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids before and after the visual tokens."""

    prefix: tuple[int, ...]
    tail: tuple[int, ...]


class LanguageModel:
    """A causal LM of `transformers` in float32 with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._prompts: dict[str, Prompt] = {}

    @property
    def width(self) -> int:
        """H, the width of the input embeddings."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        kind: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return kind

    @property
    def end_id(self) -> int:
        """Token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    def embed(self, ids: Tensor) -> Tensor:
        """(…) int64, wherever they are -> (…, H) where the model computes."""
        embedded: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embedded

    def encode_prompt(self, text: str, *, image: bool = True) -> Prompt:
        """The chat template around `text`, split where the visual tokens go.

        Raises:
            DatasetError: the text contains the image placeholder itself.
        """
        if text not in self._prompts:
            if IMAGE in text:
                raise DatasetError("question contains the image placeholder", found=IMAGE, where=text[:60])
            chat = [{"role": "user", "content": (IMAGE if image else "") + text}]
            whole = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            before, after = whole.split(IMAGE) if image else ("", whole)
            self._prompts[text] = Prompt(tuple(self.encode(before)), tuple(self.encode(after)))
        return self._prompts[text]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids without markers."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def weight_digest(self) -> str:
        """sha256 over all weights, independent of order."""
        return digest_arrays({k: v.detach().cpu().numpy() for k, v in self.model.state_dict().items()})


def load_llm(
    recipe: LLMRecipe, folder: Path | None = None, *, llms: Path | None = None, device: str = "cpu"
) -> LanguageModel:
    """Load the protocol's language model, float32, evaluation mode.

    Args:
        recipe: name and revision.
        folder: another place than the name's.
        llms: folder of fetched models.
        device: where it computes.

    Raises:
        IntegrityError: the files are not those the protocol pins.
        UsageError: it is not here.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a fraction of a second of loading needs no bar of its own

    place = folder or locate_llm(recipe.name, llms)
    if (found := llm_revision(place)) != recipe.revision:
        raise IntegrityError(
            "language model differs from the protocol's revision",
            where=recipe.name,
            found=found[:16],
            expected=recipe.revision[:16],
            fix="restore the files from git, or use the protocol that pins these",
        )
    # Eager on CPUs, where the fused kernel's backward pass is slower at these sizes (docs/performance.md).
    attention = "eager" if device == "cpu" else "sdpa"
    model = Qwen2ForCausalLM.from_pretrained(place, dtype=torch.float32, attn_implementation=attention)
    # Not AutoTokenizer: by the name in config.json it would rebuild Qwen2's own pre-tokeniser.
    return LanguageModel(model.eval().to(device), PreTrainedTokenizerFast.from_pretrained(place))
