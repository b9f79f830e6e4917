"""The architectures we know, and how a stranger's config.json becomes one of them.

config.json is data: only the architecture's own fields reach the library, as values within limits.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before transformers is imported)

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import SubmissionError, UnsafeInputError

MAX_CONFIG_BYTES = 1 << 20
MAX_CONFIG_NUMBER = 65_536
MAX_LAYERS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """How one family of networks is built and read.

    Tokens are the library's `last_hidden_state`: after the final norm where the network has one
    (vit, siglip, dinov2), straight from the last block where it has none (clip's norm follows its
    class token only).
    """

    config_class: str
    model_class: str
    layout: Literal["map", "tokens"]
    """`map`: (B, D, h, w); `tokens`: (B, prefix + h · w, D)."""
    prefix_tokens: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    """Keyword arguments of the model class."""
    fixed_size: bool = False
    """True when position embeddings tie it to config.image_size."""
    unused: tuple[str, ...] = ()
    """Leading names of tensors that a checkpoint may hold and encoding does not use."""


_NO_POOLER = (("add_pooling_layer", False),)

ARCHITECTURES: dict[str, Architecture] = {
    "resnet": Architecture(config_class="ResNetConfig", model_class="ResNetModel", layout="map"),
    "pvt_v2": Architecture(config_class="PvtV2Config", model_class="PvtV2Model", layout="map"),
    "convnext": Architecture(config_class="ConvNextConfig", model_class="ConvNextModel", layout="map"),
    "swin": Architecture(
        config_class="SwinConfig",
        model_class="SwinModel",
        layout="tokens",
        options=_NO_POOLER,
        fixed_size=True,
    ),
    "vit": Architecture(
        config_class="ViTConfig",
        model_class="ViTModel",
        layout="tokens",
        prefix_tokens=1,
        options=_NO_POOLER,
        fixed_size=True,
        unused=("pooler.",),
    ),
    "siglip_vision_model": Architecture(
        config_class="SiglipVisionConfig", model_class="SiglipVisionModel", layout="tokens", fixed_size=True
    ),
    "clip_vision_model": Architecture(
        config_class="CLIPVisionConfig",
        model_class="CLIPVisionModel",
        layout="tokens",
        prefix_tokens=1,
        fixed_size=True,
    ),
    "dinov2": Architecture(
        config_class="Dinov2Config",
        model_class="Dinov2Model",
        layout="tokens",
        prefix_tokens=1,
        # It resamples its position embeddings by itself, but then it is another function of the image.
        fixed_size=True,
    ),
}

_IGNORED = frozenset({
    "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "is_encoder_decoder",
    "label2id", "model_type", "out_features", "out_indices", "output_attentions", "output_hidden_states",
    "problem_type", "return_dict", "stage_names", "torch_dtype", "transformers_version",
})  # fmt: skip
"""Book-keeping that every configuration may carry and that does not change the features."""
_DERIVED = {"swin": frozenset({"hidden_size", "num_layers"})}
"""Fields the library writes although it computes them from others."""
_UNSAFE = (
    "auto_map", "trust_remote_code", "custom_pipelines", "quantization_config", "_attn_implementation",
    "attn_implementation", "_experts_implementation", "_commit_hash",
)  # fmt: skip
"""Leading names of keys that would load code, other weights or another kernel."""
_LAYER_FIELDS = frozenset({"num_hidden_layers", "depths", "num_encoder_blocks", "num_stages"})


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """Read config.json as data.

    Returns:
        The model type, a key of `ARCHITECTURES`, and the fields to build its configuration from.

    Raises:
        UnsafeInputError: a key that would load code, or a file beyond any honest size.
        SubmissionError: not JSON, an architecture we do not know, an unknown key, a number out of range.
    """
    where = path.name
    config = read_table(path, where)
    model_type = config.get("model_type")
    unsafe = sorted(key for key in config if key.startswith(_UNSAFE))
    if unsafe:
        raise UnsafeInputError(
            "configuration asks for code or settings of its own",
            where=where,
            found=", ".join(unsafe),
            fix="remove the key; an own architecture cannot be an official row",
        )
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise SubmissionError(
            "unsupported architecture",
            where=f"{where}: model_type",
            found=f"{model_type!r:.60}",
            expected="one of " + ", ".join(sorted(ARCHITECTURES)),
        )
    dropped = _IGNORED | _DERIVED.get(model_type, frozenset())
    fields = {key: value for key, value in config.items() if key not in dropped}
    unknown = sorted(set(fields) - known_fields(model_type))
    if unknown:
        raise SubmissionError(
            "unknown configuration keys",
            where=where,
            found=", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""),
            expected=f"fields of {model_type} only",
        )
    for key, value in fields.items():
        _check_range(key, value, where)
    return model_type, fields


def read_table(path: Path, where: str) -> dict[str, Any]:
    """A JSON object out of a stranger's file.

    Raises:
        UnsafeInputError: a file beyond any honest size.
        SubmissionError: unreadable, not JSON, or no object.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UnsafeInputError(
                "configuration too large", where=where, found=f"{path.stat().st_size:,} bytes"
            )
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SubmissionError(
            "cannot read configuration", where=where, found=error.strerror or str(error)
        ) from error
    except (ValueError, RecursionError) as error:
        raise SubmissionError("configuration is not JSON", where=where, found=str(error)) from error
    if not isinstance(config, dict):
        raise SubmissionError("configuration is not a JSON table", where=where, found=type(config).__name__)
    return config


def known_fields(model_type: str) -> frozenset[str]:
    """Names of the configuration fields that belong to the architecture itself."""
    import transformers

    own = inspect.signature(getattr(transformers, ARCHITECTURES[model_type].config_class).__init__).parameters
    shared = inspect.signature(transformers.PretrainedConfig.__init__).parameters
    return frozenset(
        name for name in own if name not in shared and not name.startswith("_") and name != "kwargs"
    )


def _check_range(key: str, value: Any, where: str) -> None:
    """Numbers so small that building the network, before shapes are compared, exhausts nothing."""
    limit = MAX_LAYERS if key in _LAYER_FIELDS else MAX_CONFIG_NUMBER
    values = value if isinstance(value, list) else [value]
    ok = len(values) <= 64 and all(
        v is None or isinstance(v, (str, bool)) or (isinstance(v, (int, float)) and abs(v) <= limit)
        for v in values
    )
    if not ok:
        raise SubmissionError(
            "configuration value out of range",
            where=f"{where}: {key}",
            found=f"{value!r:.60}",
            expected=f"plain values up to {limit}",
        )
