"""The architectures of transformers that we know: how each is built and how its output is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How one family of networks is built and read.

    Tokens are the library's `last_hidden_state`: after the final norm where the network has one
    (vit, siglip, dinov2), straight from the last block where it has none (clip's norm follows its
    class token only).
    """

    config_class: str
    model_class: str
    layout: Literal["map", "tokens", "patches"]
    """`map`: (B, D, h, w); `tokens`: (B, prefix + h · w, D); `patches`: the same out of cut patches."""
    prefix: int = 0
    """Tokens before the patches: class, distillation."""
    prefix_field: str = ""
    """Configuration field with the number of register tokens, which follow them."""
    options: tuple[tuple[str, Any], ...] = ()
    """Keyword arguments of the model class."""
    resamples: Literal["nothing", "asked", "itself"] = "nothing"
    """Position embeddings at another side than the native one: there are none that depend on it;
    the library resamples them when asked (`interpolate_pos_encoding`); it always does by itself."""
    levels: str = ""
    """Configuration field with one entry a level, each halving the map of patches (swin)."""
    unused: tuple[str, ...] = ()
    """Leading names of tensors that a checkpoint may hold and encoding does not use."""

    def num_prefix(self, config: Mapping[str, Any]) -> int:
        """Prefix tokens of a network with this (complete) configuration."""
        return self.prefix + (int(config[self.prefix_field]) if self.prefix_field else 0)

    def patch_stride(self, config: Mapping[str, Any]) -> int | None:
        """Pixels between tokens of a network that cuts its image into patches; None for others."""
        patch = config.get("patch_size")
        if self.layout == "map" or not isinstance(patch, int):
            return None
        return patch * 2 ** (len(config[self.levels]) - 1) if self.levels else patch


_NO_POOLER = (("add_pooling_layer", False),)
_HEADS = ("classifier.",)
_POOLED = ("pooler.", "classifier.", "decoder.", "lm_head.", "embeddings.mask_token")
"""Poolers, heads, and what masked-image training adds."""


def _transformer(name: str, prefix: int = 1, **changes: Any) -> Architecture:
    """A plain vision transformer of the library."""
    rest = {"options": _NO_POOLER, "resamples": "asked", "unused": _POOLED, **changes}
    return Architecture(
        config_class=f"{name}Config", model_class=f"{name}Model", layout="tokens", prefix=prefix, **rest
    )


def _convolutional(name: str) -> Architecture:
    return Architecture(config_class=f"{name}Config", model_class=f"{name}Model", layout="map", unused=_HEADS)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet": _convolutional("ResNet"),
    "regnet": _convolutional("RegNet"),
    "pvt_v2": _convolutional("PvtV2"),
    "convnext": _convolutional("ConvNext"),
    "convnextv2": _convolutional("ConvNextV2"),
    "dinov3_convnext": Architecture(
        config_class="DINOv3ConvNextConfig",
        model_class="DINOv3ConvNextModel",
        layout="tokens",
        prefix=1,  # the pooled vector stands first
        unused=_HEADS,
    ),
    "swin": _transformer("Swin", prefix=0, levels="depths"),
    "swinv2": _transformer("Swinv2", prefix=0, levels="depths"),
    "vit": _transformer("ViT"),
    "deit": _transformer("DeiT", prefix=2, unused=(*_POOLED, "cls_classifier.", "distillation_classifier.")),
    "beit": _transformer("Beit"),
    "data2vec-vision": _transformer("Data2VecVision"),
    "ijepa": _transformer("IJepa", prefix=0),
    "siglip_vision_model": _transformer("SiglipVision", prefix=0, options=()),
    "siglip2_vision_model": Architecture(
        config_class="Siglip2VisionConfig",
        model_class="Siglip2VisionModel",
        layout="patches",
        resamples="itself",
        unused=_HEADS,
    ),
    "clip_vision_model": _transformer("CLIPVision", options=(), unused=("visual_projection.",)),
    "metaclip_2_vision_model": _transformer("MetaClip2Vision", options=(), unused=("visual_projection.",)),
    "dinov2": _transformer("Dinov2", options=(), resamples="itself", unused=_HEADS),
    "dinov2_with_registers": _transformer(
        "Dinov2WithRegisters",
        options=(),
        resamples="itself",
        prefix_field="num_register_tokens",
        unused=_HEADS,
    ),
    # Rotary embeddings are computed for whatever grid there is.
    "dinov3_vit": _transformer(
        "DINOv3ViT", options=(), resamples="itself", prefix_field="num_register_tokens", unused=_HEADS
    ),
}

_TEXT_SIDE = ("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias")
WHOLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "clip": ("clip_vision_model", _TEXT_SIDE),
    "metaclip_2": ("metaclip_2_vision_model", _TEXT_SIDE),
    "siglip": ("siglip_vision_model", _TEXT_SIDE),
    "siglip2": ("siglip2_vision_model", _TEXT_SIDE),
}
"""Models of two sides -> the architecture of the image side (below `vision_config`), and the leading
names of the text side's tensors."""


def cut_patches(pixels: Any, patch: int) -> Any:
    """Flatten an image's patches, row by row, channels last within a patch.

    Source: what Siglip2ImageProcessor hands to its network.

    Args:
        pixels: (B, 3, S, S).
        patch: side of a patch in pixels; what does not fill one is cut off.

    Returns:
        (B, (S // patch)², 3 · patch²).
    """
    rows = pixels.shape[-1] // patch
    whole = pixels[:, :, : rows * patch, : rows * patch]
    parts = whole.reshape(-1, 3, rows, patch, rows, patch).permute(0, 2, 4, 3, 5, 1)
    return parts.reshape(pixels.shape[0], rows * rows, math.prod((patch, patch, 3)))
