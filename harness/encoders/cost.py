"""What an encoder costs, counted on the network itself: nothing of it is claimed by anyone."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.encoders.base import Encoder, FrozenEncoder

TIMED_ROWS = 8
"""Rows of the forward pass that is timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of one image at the side an encoder was opened for."""

    num_params: int
    """Of the network as it was submitted, at its native side, text side left out."""
    gmacs: float
    """10⁹ multiply-accumulates an image, of matrix products, convolutions and attention."""
    num_tokens: int
    images_per_s: float
    """Of a forward pass of `TIMED_ROWS` rows in fp32; the machine is the one that ran it."""


def count_gmacs(encoder: Encoder) -> float:
    """10⁹ multiply-accumulates of one image, by torch's own counter (two operations each).

    Encoders without a network (floors) cost nothing.
    """
    if not isinstance(encoder, FrozenEncoder):
        return 0.0
    image = torch.zeros(1, 3, encoder.side, encoder.side)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # The counter knows products and convolutions, not the fused kernels of attention.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder.read(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops()) / 2 / 1e9


def measure_cost(encoder: FrozenEncoder) -> Cost:
    """Count and time an encoder."""
    images = torch.zeros(TIMED_ROWS, 3, encoder.side, encoder.side)
    encoder.read(images).cpu()
    began = time.perf_counter()
    encoder.read(images).cpu()  # a graphics card has finished only when its numbers are here
    took = time.perf_counter() - began
    return Cost(
        num_params=encoder.num_params,
        gmacs=count_gmacs(encoder),
        num_tokens=encoder.grid[0] * encoder.grid[1],
        images_per_s=TIMED_ROWS / took,
    )
