"""The adapter: standardised encoder tokens in, LLM input vectors out, each token by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.adapter.llm import LanguageModel
from harness.errors import UsageError
from harness.recipes import AdapterRecipe


class Adapter(nn.Module):
    """A linear map or a residual MLP, then vectors for the token's place and, in clips, its frame.

    Letters: B rows, F frames, N tokens a frame, D encoder width, H LLM width.

    Args:
        width: D.
        num_tokens: N.
        num_frames: F of clips.
        recipe: kind, depth, hidden width, starting words.
        llm: gives H, the scale of its embeddings and the starting words.

    Raises:
        UsageError: the recipe's number of starting words does not fit.
    """

    def __init__(
        self, width: int, num_tokens: int, num_frames: int, recipe: AdapterRecipe, llm: LanguageModel
    ) -> None:
        super().__init__()
        sizes = [width, *[recipe.width] * (recipe.depth - 1)] if recipe.kind == "mlp" else [width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], llm.width)
        self.position = nn.Parameter(_start(llm, recipe.position_words, num_tokens, "position_words"))
        self.frame_position = nn.Parameter(_start(llm, recipe.frame_words, num_frames, "frame_words"))
        if recipe.places == "none":
            self.position.requires_grad_(False)
            self.frame_position.requires_grad_(False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        scale = llm.model.get_input_embeddings().weight.detach().float().std().cpu()
        self.register_buffer("scale", scale.clone())
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.mean: Tensor
        self.std: Tensor
        self.scale: Tensor

    def standardise(self, tokens: Tensor) -> None:
        """Take mean and standard deviation of each feature from training tokens (n, N, D).

        A feature that never varies is left at zero: dividing would turn rounding into signal.
        """
        flat = tokens.flatten(0, 1).float()
        self.mean.copy_(flat.mean(0))
        self.std.copy_(flat.std(0) + 1e-4)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) for images or (B, F, N, D) for clips -> (B, N, H) or (B, F·N, H), on its own device."""
        hidden = (tokens.to(self.mean.device) - self.mean) / self.std
        for i, layer in enumerate(self.layers):
            step = functional.gelu(layer(hidden))
            hidden = step if i == 0 else hidden + step
        visual: Tensor = self.out(hidden) * self.scale * self.gain + self._places(tokens.shape[-2])
        if tokens.ndim == 4:
            visual = (visual + self.frame_position[:, None]).flatten(1, 2)
        return visual

    def _places(self, count: int) -> Tensor:
        """(count, H): the vectors of the tokens' places, averaged over the cells of a coarser square grid.

        Frames of a clip may have fewer tokens than an image; a cell lies where the cells it covers lie.
        """
        if count == len(self.position):
            return self.position
        side, new = math.isqrt(len(self.position)), math.isqrt(count)
        # As a matrix: the pooling's own backward pass adds in no fixed order on a graphics card.
        cells = torch.eye(side * side, device=self.position.device).reshape(-1, 1, side, side)
        shares = functional.adaptive_avg_pool2d(cells, new).flatten(1)
        with torch.autocast(self.position.device.type, enabled=False):  # a mean, no layer: in full precision
            pooled: Tensor = shares.T @ self.position
        return pooled


def _start(llm: LanguageModel, words: Sequence[str], count: int, name: str) -> Tensor:
    """(count, H): the mean embedding of each word's tokens, or zeros without words."""
    if not words:
        return torch.zeros(count, llm.width)
    if len(words) != count:
        raise UsageError(
            "number of starting words does not fit",
            where=f"protocol: adapter.{name}",
            found=str(len(words)),
            expected=str(count),
        )
    with torch.no_grad():
        return torch.stack([llm.embed(torch.tensor(llm.encode(word))).mean(0).cpu() for word in words])
