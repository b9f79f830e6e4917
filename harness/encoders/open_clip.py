"""Encoders of the open_clip library: the image side of a checkpoint that `save_for_hf` wrote.

Patch tokens are those its image tower returns with `output_tokens`: after the final norm where that norm
works on tokens, straight from the last block where it follows the pooling (CoCa, `final_ln_after_pool`).
A residual network gives the map before its attention pooling, a tower of timm what timm gives.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before open_clip is imported)

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import open_clip.model as library
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from harness.encoders.base import VIEW, FrozenEncoder, View
from harness.encoders.config_json import (
    check_ranges,
    read_table,
    refuse_code,
    refuse_flags,
    refuse_unknown,
    stated_side,
)
from harness.encoders.hf import checkpoint_files
from harness.encoders.strict import described_by, hashes_of, load_strictly
from harness.encoders.timm import known_model, set_side, timm_features, timm_map, timm_stride
from harness.errors import SubmissionError, UnsafeInputError
from harness.fields import show
from harness.records import Submission

CONFIG = "open_clip_config.json"
WHERE = f"{CONFIG}: vision_cfg"
_RESNET_STRIDE = 32
_OTHER_SIDE = (
    "text.", "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection",
    "text_decoder.", "logit_scale", "logit_bias", "attn_mask",
)  # fmt: skip
"""Leading names of tensors that do not belong to the image tower."""
_VISION_KEYS = {f.name: f.default for f in fields(library.CLIPVisionCfg)}
_LAYER_ARGUMENTS = {
    "act_kwargs": frozenset({"approximate", "inplace"}),
    "norm_kwargs": frozenset({"bias", "elementwise_affine", "eps"}),
}
"""Tables of the vision configuration -> what may stand in them: no device, no dtype."""
_MODEL_KEYS = frozenset("""
    embed_dim vision_cfg text_cfg quick_gelu custom_text multimodal_cfg init_logit_scale init_logit_bias
    nonscalar_logit_scale cast_dtype output_dict model_type
""".split())  # fmt: skip


class OpenClipConfig(NamedTuple):
    """What an open_clip_config.json says about the image tower."""

    embed_dim: int
    vision: dict[str, Any]
    """Fields of the library's CLIPVisionCfg."""
    quick_gelu: bool
    side: int | None
    """Native side in pixels."""

    @property
    def tower(self) -> str:
        """What kind of network it is."""
        named = self.vision.get("timm_model_name")
        kind = "modified-resnet" if isinstance(self.vision.get("layers"), list) else "vision-transformer"
        return str(named or kind)


class OpenClipEncoder(FrozenEncoder):
    """A frozen image tower of open_clip.

    Args:
        submission: gives id, resolution, mean and std.
        config: from `read_open_clip_config`.
        module: the tower with its weights, at its native side.
        view: what is asked of it; a layer is a block.
    """

    source = "open_clip"

    def __init__(
        self,
        submission: Submission,
        config: OpenClipConfig,
        module: nn.Module,
        view: View = VIEW,
    ) -> None:
        self._config = config
        super().__init__(
            submission,
            module,
            view,
            stride=_stride(module, submission.id),
            planes=not isinstance(module, ModifiedResNet),
            cuts_patches=hasattr(getattr(module, "trunk", None), "patch_embed")
            or hasattr(module, "patch_size"),
        )

    def _take_side(self, module: nn.Module) -> None:
        with described_by(WHERE):
            _set_side(module, self.side)

    def description(self) -> dict[str, Any]:
        """Configuration of the tower and layer."""
        return {
            "source": "open_clip",
            "vision": self._config.vision,
            "embed_dim": self._config.embed_dim,
            "quick_gelu": self._config.quick_gelu,
            "layer": self.layer,
        }

    def _features(self, pixels: Tensor) -> Tensor:
        tower = cast("Any", self.module)
        if isinstance(tower, TimmModel):
            if self.layer == 0:
                return timm_features(tower.trunk, pixels, self.id)
            return timm_map(tower.trunk, pixels, self.layer)
        is_map = isinstance(tower, ModifiedResNet)
        layers = 4 if is_map else len(tower.transformer.resblocks)
        if self.layer >= layers:
            raise self.too_few_layers(layers)
        normed = {} if is_map else {"normalize_intermediates": self.layer == 0 and _norm_is_of_tokens(tower)}
        found = tower.forward_intermediates(
            pixels, indices=[layers - 1 - self.layer + is_map], intermediates_only=True, **normed
        )
        return cast("Tensor", found["image_intermediates"][-1])


def _norm_is_of_tokens(tower: Any) -> bool:
    return tower.attn_pool is None and not tower.final_ln_after_pool


def _stride(tower: nn.Module, where: str) -> int:
    if isinstance(tower, TimmModel):
        return timm_stride(tower.trunk, where)
    if isinstance(tower, ModifiedResNet):
        return _RESNET_STRIDE
    return int(cast("Any", tower).patch_size[0])


def _set_side(tower: nn.Module, side: int) -> None:
    """Resample position embeddings as the library does when it loads a checkpoint at another size."""
    if isinstance(tower, TimmModel):
        set_side(tower.trunk, side)
    elif not isinstance(tower, ModifiedResNet):
        network = cast("Any", tower)
        patch = int(network.patch_size[0])
        network.image_size, network.grid_size = (side, side), (side // patch, side // patch)
        holder, name = nn.Module(), "visual.positional_embedding"
        holder.visual = network
        state = {name: network.positional_embedding.data}
        library.resize_pos_embed(state, holder)  # type: ignore[no-untyped-call]
        network.positional_embedding = nn.Parameter(state[name], requires_grad=False)


def read_open_clip_config(path: Path, sha256: str = "") -> OpenClipConfig:
    """Read open_clip_config.json as data.

    Args:
        path: the file.
        sha256: see `read_table`.

    Raises:
        UnsafeInputError: a key that would load code or fetch weights.
        SubmissionError: not such a file, an unknown key, a number out of range.
    """
    model = read_table(path, path.name, sha256).get("model_cfg")
    where = f"{path.name}: model_cfg"
    if not isinstance(model, dict) or not isinstance(model.get("vision_cfg"), dict):
        raise SubmissionError("configuration has no image tower", where=where, expected="vision_cfg")
    refuse_code(model, where)
    refuse_unknown(model, _MODEL_KEYS, where, "fields of open_clip's models")
    vision, where_model, where = dict(model["vision_cfg"]), where, f"{where}: vision_cfg"
    refuse_code(vision, where)
    refuse_unknown(vision, _VISION_KEYS, where, "fields of CLIPVisionCfg")
    if (pretrained := vision.pop("timm_model_pretrained", False)) not in (False, None):
        raise UnsafeInputError(
            "configuration asks for other weights than its own",
            where=where,
            found=f"timm_model_pretrained = {show(pretrained)}",
            fix="set it to false: the checkpoint holds the weights",
        )
    if vision.get("timm_model_name") is not None:
        known_model(vision["timm_model_name"], f"{where}: timm_model_name")
    _check_vision(vision, where)
    embed_dim, quick_gelu = model.get("embed_dim"), model.get("quick_gelu", False)
    if type(embed_dim) is not int:
        raise SubmissionError("configuration has no embed_dim", where=where_model, found=show(embed_dim))
    if not isinstance(quick_gelu, bool):
        raise SubmissionError(
            "wrong type", where=f"{where_model}: quick_gelu", found=show(quick_gelu), expected="true or false"
        )
    check_ranges({"embed_dim": embed_dim}, where_model)
    return OpenClipConfig(embed_dim, vision, quick_gelu, stated_side(vision.get("image_size", 224)))


def _check_vision(vision: dict[str, Any], where: str) -> None:
    """Every field a plain value; the two tables that there are, of the layers' own arguments."""
    plain = {key: value for key, value in vision.items() if key not in _LAYER_ARGUMENTS}
    refuse_flags(plain, _VISION_KEYS, where)
    check_ranges(plain, where)
    for name, known in _LAYER_ARGUMENTS.items():
        table = vision.get(name)
        if table is not None and not isinstance(table, dict):
            raise SubmissionError(
                "wrong type", where=f"{where}: {name}", found=show(table), expected="a table"
            )
        refuse_unknown(table or {}, known, f"{where}: {name}", f"one of {', '.join(sorted(known))}")
        check_ranges(table or {}, f"{where}: {name}")
    if vision.get("pos_embed_type", "learnable") != "learnable":
        # The installed library computes the other kind whatever its size, and then fails.
        raise SubmissionError(
            "unsupported position embedding",
            where=f"{where}: pos_embed_type",
            found=show(vision["pos_embed_type"]),
            expected="learnable",
        )


def build_tower(config: OpenClipConfig, *, meta: bool = False) -> nn.Module:
    """The image tower of a configuration, with the library's random weights.

    Raises:
        SubmissionError: the configuration describes no network.
    """
    with described_by(WHERE), torch.device("meta" if meta else "cpu"):
        tower = library._build_vision_tower(  # noqa: SLF001  (the library has no public way to build one side)
            config.embed_dim, library.CLIPVisionCfg(**config.vision), config.quick_gelu
        )
    return cast("nn.Module", tower)


def open_open_clip(submission: Submission, root: Path, view: View = VIEW) -> OpenClipEncoder:
    """The image side of a submission in open_clip's on-disk format.

    Raises:
        UnsafeInputError: see `checkpoint_files`, `read_open_clip_config`, `read_header`.
        SubmissionError: see `read_open_clip_config`, `load_strictly`.
    """
    config_path, weight_paths = checkpoint_files(submission, root, CONFIG)
    if any(Path(file.path).name == "config.json" for file in submission.source.files):
        raise SubmissionError(
            "checkpoint is there in two formats",
            where=f"{submission.id}: source.files",
            found=f"config.json and {CONFIG}",
            fix="list the files of one of them",
        )
    sha256 = hashes_of(submission, root)
    config = read_open_clip_config(config_path, sha256[config_path])
    module = load_strictly(
        lambda meta: build_tower(config, meta=meta),
        weight_paths,
        submission.id,
        "the image tower's tensors",
        prefix="visual.",
        unused=_OTHER_SIDE,
        sha256=sha256,
    )
    return OpenClipEncoder(submission, config, module, view)
