"""What an encoder is to the rest of the harness, and how any of them encodes the same at every batch size.

Numerics: fp32 throughout, no autocast, no TF32. Every forward pass has exactly `ENCODE_CHUNK` rows; the
last one is filled by repeating rows that are then dropped. A row's features therefore do not depend on
how many images were asked for, only on its place within a chunk, and `features.extract` keeps that
place fixed: on one machine with one set of versions and threads, features are byte-identical whatever
`--batch` says. A row moved to another place in a chunk agrees within 1e-5 of the largest feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from harness.digest import digest_arrays
from harness.errors import IntegrityError, InternalError, SubmissionError

ENCODE_CHUNK = 64
"""Rows of every forward pass."""


class EncoderOutput(NamedTuple):
    """Features of B images, fp32, on the encoder's device."""

    patch_tokens: Tensor
    """(B, N, D), row-major over the grid; prefix tokens (class, registers) are left out."""
    grid: tuple[int, int]
    """(h, w) with h · w = N."""
    pooled: Tensor
    """(B, D), mean over patch tokens."""


class Encoder(Protocol):
    """A frozen image encoder."""

    id: str
    width: int
    """D, features a token."""
    grid: tuple[int, int]
    """(h, w) at `resolution`."""
    num_params: int
    resolution: int
    """Native side in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: int
    """Which hidden layer the tokens come from, counted from the end."""

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """Features of (B, 3, R, R) fp32 normalised pixels; any B ≥ 1."""

    def weight_digest(self) -> str:
        """sha256 over all weights and buffers; equal before and after every stage."""

    def description(self) -> dict[str, Any]:
        """Plain values that, with the weights, determine the function computed."""


def encode_in_chunks(forward: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Apply `forward` to B rows in passes of exactly `ENCODE_CHUNK` rows.

    Args:
        forward: (ENCODE_CHUNK, 3, R, R) -> (ENCODE_CHUNK, …); row i depends on row i alone.
        pixels: (B, 3, R, R).

    Returns:
        (B, …).
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[0] == 0:
        raise InternalError("not a batch of images", found=str(tuple(pixels.shape)), expected="(B, 3, R, R)")
    parts = []
    for chunk in torch.split(pixels, ENCODE_CHUNK):
        missing = ENCODE_CHUNK - chunk.shape[0]
        full = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)]) if missing else chunk
        parts.append(forward(full)[: chunk.shape[0]])
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode, and no parameter can be trained."""
    return module.eval().requires_grad_(False)


def state_digest(module: nn.Module) -> str:
    """sha256 over a module's parameters and persistent buffers.

    Raises:
        IntegrityError: a parameter could be trained, so that equal digests would prove nothing.
    """
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    if trainable or module.training:
        raise IntegrityError(
            "encoder is not frozen",
            found=f"{len(trainable)} trainable tensors: {', '.join(trainable[:1])}"
            if trainable
            else "train mode",
        )
    return digest_arrays({name: t.detach().cpu().numpy() for name, t in module.state_dict().items()})


def side_of(num_tokens: int, where: str) -> int:
    """Side of the square grid that holds `num_tokens` tokens of a square image."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise SubmissionError(
            "patch tokens of a square image form no square", where=where, found=f"{num_tokens} tokens"
        )
    return side
