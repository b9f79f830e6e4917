"""Tiny checkpoints of every supported architecture, each written by its own library in its own format.

They have random weights, so they know nothing; they show that what we compute is what the library computes.
`LIBRARY[name](folder, ...)` writes one and returns the library's own network.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import copy
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harness.records import InputSpec, PretrainStage, Source, Submission, WeightFile

BODY = dict(image_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
PATCHES = dict(BODY, patch_size=16)
DINO = dict(image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
MAPS = dict(hidden_sizes=[16, 24, 32], depths=[1, 1, 1])
WINDOWS = dict(
    image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=4
)
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "resnet": dict(MAPS, embedding_size=16, layer_type="basic"),
    "regnet": dict(MAPS, embedding_size=16, groups_width=8),
    "pvt_v2": dict(
        image_size=64, num_encoder_blocks=3, depths=[1, 1, 1], sr_ratios=[4, 2, 1], hidden_sizes=[16, 32, 48],
        patch_sizes=[7, 3, 3], strides=[4, 2, 2], num_attention_heads=[1, 2, 3], mlp_ratios=[2, 2, 2],
    ),
    "convnext": dict(hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_stages=3, image_size=64),
    "convnextv2": dict(hidden_sizes=[8, 16, 24], depths=[1, 1, 1], num_stages=3, image_size=64),
    "dinov3_convnext": dict(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], image_size=128),
    "vit": PATCHES,
    "deit": PATCHES,
    "beit": dict(PATCHES, use_relative_position_bias=True),
    "data2vec-vision": dict(PATCHES, use_relative_position_bias=True, use_mean_pooling=False),
    "ijepa": PATCHES,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "siglip_vision_model": PATCHES,
    "siglip2_vision_model": {k: v for k, v in PATCHES.items() if k != "image_size"} | {"num_patches": 16},
    "clip_vision_model": PATCHES,
    "metaclip_2_vision_model": PATCHES,
    "dinov2": DINO,
    "dinov2_with_registers": dict(DINO, num_register_tokens=3),
    "dinov3_vit": dict(PATCHES, num_register_tokens=4),
}  # fmt: skip
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    "vit_small_patch14_reg4_dinov2": dict(img_size=56, embed_dim=32, depth=2, num_heads=2),
    "vit_small_patch16_dinov3": dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    "deit_tiny_distilled_patch16_224": dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    "vit_base_patch16_siglip_224": dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    "vit_base_patch16_clip_224": dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    "beit_base_patch16_224": dict(img_size=64, embed_dim=32, depth=2, num_heads=2),
    "eva02_tiny_patch14_224": dict(img_size=56, embed_dim=32, depth=2, num_heads=2),
    "swin_tiny_patch4_window7_224": dict(
        img_size=64, window_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 2]
    ),
    "resnet18": dict(layers=[1, 1, 1, 1], channels=[16, 16, 24, 32]),
    "convnext_atto": dict(depths=[1, 1, 1, 1], dims=[8, 12, 16, 24]),
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
}
_TOWER = dict(image_size=64, patch_size=16, width=32, head_width=16, layers=2)
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "vit": _TOWER,
    "vit-avg": dict(_TOWER, pool_type="avg"),
    "vit-coca": dict(_TOWER, attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=5),
    "vit-ln-after": dict(_TOWER, final_ln_after_pool=True, pool_type="avg"),
    "modified-resnet": dict(image_size=64, layers=[1, 1, 1, 1], width=8),
    "timm-vit": dict(image_size=224, timm_model_name="vit_tiny_patch16_224", timm_pool="avg"),
}
MEAN, STD = (0.48, 0.45, 0.4), (0.27, 0.26, 0.28)


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk and the network that the library wrote there."""

    folder: Path
    network: Any
    side: int
    """Native side in pixels."""


def stir(network: Any) -> Any:
    """Make every tensor its own: a fresh network's gains are all alike, and swapped ones go unnoticed."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


def write_preprocessor(folder: Path, side: int) -> None:
    """The preprocessor_config.json of transformers."""
    table = dict(
        do_resize=True, do_normalize=True, size={"height": side, "width": side},
        image_mean=list(MEAN), image_std=list(STD), resample=3,
    )  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(table))


def save_transformers(folder: Path, name: str, seed: int = 0, **changes: Any) -> Saved:
    """A network of `ARCHITECTURES`, by `save_pretrained`."""
    import transformers

    from harness.encoders.architectures import ARCHITECTURES

    torch.manual_seed(seed)
    architecture = ARCHITECTURES[name]
    config = getattr(transformers, architecture.config_class)(**{**TRANSFORMERS[name], **changes})
    network = stir(getattr(transformers, architecture.model_class)(config))
    network.save_pretrained(folder)
    side = getattr(config, "image_size", 64)
    side = side if isinstance(side, int) else side[0]
    write_preprocessor(folder, side)
    return Saved(folder, network, side)


def save_timm(folder: Path, name: str, seed: int = 0, **changes: Any) -> Saved:
    """A timm network with ten classes, by `save_for_hf`."""
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(seed)
    arguments = {**TIMM[name], **changes}
    network = stir(timm.create_model(name, pretrained=False, num_classes=10, **arguments))
    side = arguments.get("img_size", 64)
    network.pretrained_cfg.update(mean=MEAN, std=STD, input_size=(3, side, side))
    save_for_hf(network, str(folder), model_args=arguments, safe_serialization=True)
    return Saved(folder, network, side)


class _NoTokenizer:
    """`save_for_hf` wants one; the image side needs none."""

    def save_pretrained(self, folder: Any) -> None:
        """Nothing to save."""


def save_open_clip(folder: Path, name: str, seed: int = 0, **changes: Any) -> Saved:
    """A two-sided open_clip model, by `save_for_hf`."""
    from open_clip.model import CLIP
    from open_clip.push_to_hf_hub import save_for_hf

    torch.manual_seed(seed)
    text = dict(context_length=8, vocab_size=32, width=32, heads=2, layers=1)
    config = dict(
        embed_dim=24, vision_cfg={**OPEN_CLIP[name], **changes}, text_cfg=text, quick_gelu=name == "vit"
    )
    model = stir(CLIP(**config))
    model.visual.image_mean, model.visual.image_std = MEAN, STD
    save_for_hf(model, _NoTokenizer(), config, str(folder), safe_serialization=True)
    return Saved(folder, model.visual, int(config["vision_cfg"]["image_size"]))


SAVE: dict[str, Callable[..., Saved]] = {
    "transformers": save_transformers,
    "timm": save_timm,
    "open_clip": save_open_clip,
}
CASES = [
    *(("transformers", name) for name in TRANSFORMERS),
    *(("timm", name) for name in TIMM),
    *(("open_clip", name) for name in OPEN_CLIP),
]


def library_tokens(source: str, network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """(B, D, h, w) by an independent call of the library, prefix tokens left out by what the table says.

    Written apart from harness.encoders: from the libraries' documentation, with the numbers of prefix
    tokens spelt out by hand.
    """
    with torch.no_grad():
        found = _CALLS[source](network, pixels)
    if found.ndim == 4:
        return found
    side = round(found.shape[1] ** 0.5)
    return found.transpose(1, 2).reshape(len(pixels), -1, side, side)


def at_side(source: str, network: Any, side: int, saved: Saved) -> Any:
    """The library's own network for images of another side, made the library's own way."""
    network = copy.deepcopy(network)
    if hasattr(network, "set_input_size"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's own, about its own indexing
            network.set_input_size((side, side))
    elif source == "open_clip" and type(network).__name__ == "VisionTransformer":
        from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP, resize_pos_embed

        config = json.loads((saved.folder / "open_clip_config.json").read_text())["model_cfg"]
        config["vision_cfg"]["image_size"] = side
        config["vision_cfg"], config["text_cfg"] = (
            CLIPVisionCfg(**config["vision_cfg"]),
            CLIPTextCfg(**config["text_cfg"]),
        )
        model = CustomTextCLIP(**config).eval()
        state = load_file(saved.folder / "open_clip_model.safetensors")
        resize_pos_embed(state, model)
        network = model.visual
        network.load_state_dict(
            {n.removeprefix("visual."): t for n, t in state.items() if n.startswith("visual.")}
        )
    return network


HAND_COUNTED = {
    "deit": 2, "dinov2_with_registers": 4, "dinov3_vit": 5, "dinov3_convnext": 1, "vit": 1, "beit": 1,
    "data2vec-vision": 1, "clip_vision_model": 1, "metaclip_2_vision_model": 1, "dinov2": 1,
    "vit_small_patch14_reg4_dinov2": 5, "vit_small_patch16_dinov3": 5, "deit_tiny_distilled_patch16_224": 2,
    "vit_tiny_patch16_224": 1, "vit_base_patch16_clip_224": 1, "beit_base_patch16_224": 1,
    "eva02_tiny_patch14_224": 1,
}  # fmt: skip


def _call_transformers(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    name = network.config.model_type
    if name == "siglip2_vision_model":
        side = pixels.shape[-1] // 16
        rows = [
            torch.stack(
                [
                    image[:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16].permute(1, 2, 0).reshape(-1)
                    for r in range(side)
                    for c in range(side)
                ]
            )
            for image in pixels
        ]
        shapes, mask = torch.full((len(pixels), 2), side), torch.ones(len(pixels), side * side)
        return network(torch.stack(rows), pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state
    asked = "interpolate_pos_encoding" in inspect.signature(network.forward).parameters
    native = getattr(network.config, "image_size", None)
    extra = {"interpolate_pos_encoding": True} if asked and pixels.shape[-1] != native else {}
    found = network(pixel_values=pixels, **extra).last_hidden_state
    return found if found.ndim == 4 else found[:, HAND_COUNTED.get(name, 0) :]


def _call_timm(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    found = network.forward_features(pixels)
    if type(network).__name__ == "SwinTransformer":
        return found.permute(0, 3, 1, 2)
    return found if found.ndim == 4 else found[:, HAND_COUNTED.get(network.eyechart_name, 0) :]


def _call_open_clip(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    kind = type(tower).__name__
    if kind == "TimmModel":
        return tower.trunk.forward_features(pixels)[:, 1:]
    if kind == "ModifiedResNet":
        return tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
    if tower.attn_pool is not None:
        kept: list[torch.Tensor] = []
        hook = tower.transformer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        tower(pixels)
        hook.remove()
        return kept[0][:, 1:]
    tower.output_tokens = True
    return tower(pixels)[1]


_CALLS = {"transformers": _call_transformers, "timm": _call_timm, "open_clip": _call_open_clip}


def submission(folder: Path, side: int, kind: str = "local", **changes: Any) -> Submission:
    """A submission of everything in a folder that a manifest may name."""
    names = sorted(
        p.name for p in folder.iterdir()
        if p.suffix == ".safetensors" or p.name in {"config.json", "open_clip_config.json"}
    )  # fmt: skip
    files = tuple(
        WeightFile(path=n, sha256=hashlib.sha256((folder / n).read_bytes()).hexdigest()) for n in names
    )
    fields: dict[str, Any] = dict(
        id="tiny", title="Tiny", authors=("Nobody",), links=(), license="", contamination="none known",
        source=Source(kind=kind, name="tiny", revision="local", files=files),
        input=InputSpec(resolution=side, mean=MEAN, std=STD),
        pretraining=(PretrainStage(objective="self-supervised", data="nothing", images_seen=0),),
    )  # fmt: skip
    return Submission(**{**fields, **changes})


ANSWERS = {
    'title = ""': 'title = "A checkpoint of mine"',
    "authors = []": 'authors = ["A. Person"]',
    'license = ""': 'license = "MIT"',
    'contamination = ""': 'contamination = "none known"',
    'objective = ""': 'objective = "label-classification"',
    'data = ""': 'data = "my pictures"',
    "# images_seen = 0": "images_seen = 1000",
}


def fill(manifest: Path, **more: str) -> Path:
    """What a person does with a draft: the open fields, in the text of the file that was written."""
    text = manifest.read_text()
    for before, after in {**ANSWERS, **more}.items():
        text = text.replace(before, after)
    manifest.write_text(text)
    return manifest
