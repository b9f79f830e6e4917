"""The architectures and members of the mini zoo."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must precede transformers)

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PvtV2Config, PvtV2Model, ResNetConfig, ResNetModel

WIDTH = 192
"""Channels of the last feature map, 4 x 4 at 64 px, for both architectures."""
MEAN, STD = 0.5, 0.25


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """(n, 64, 64, 3) uint8 -> (n, 3, 64, 64) float32, channels last in memory."""
    scaled = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    return scaled.contiguous(memory_format=torch.channels_last)


def build_encoder(arch: str) -> nn.Module:
    """A freshly initialised encoder of 1.4 M parameters.

    Args:
        arch: "resnet" (convolutions, arXiv 1512.03385) or "pvt" (a transformer with a convolutional stem
            and spatial-reduction attention, PVT v2, arXiv 2106.13797).
    """
    if arch == "resnet":
        config = ResNetConfig(
            embedding_size=48, hidden_sizes=[48, 96, WIDTH], depths=[1, 1, 2], layer_type="basic"
        )
        return ResNetModel(config)
    pyramid = PvtV2Config(
        image_size=64,
        num_encoder_blocks=3,
        depths=[1, 1, 2],
        sr_ratios=[4, 2, 1],
        hidden_sizes=[48, 96, WIDTH],
        patch_sizes=[7, 3, 3],
        strides=[4, 2, 2],
        num_attention_heads=[1, 2, 4],
        mlp_ratios=[4, 4, 4],
    )
    return PvtV2Model(pyramid)
