"""A trained encoder, adapter and language model as one LLaVA checkpoint that plain transformers loads.

LLaVA's model knows a vision tower at its native side, one place where class tokens are dropped, a projector
of two linear layers with a GELU between, and no pooling. What fits into that is exported, everything else
is refused by name; and whatever is written was compared before: its image features equal ours.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before transformers is imported)

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.adapter.llm import IMAGE, LanguageModel
from harness.adapter.module import Adapter
from harness.encoders.base import Encoder
from harness.encoders.hf import HFEncoder
from harness.errors import ResourceError, UsageError
from harness.features import pool_tokens, target_grid
from harness.files import write_json
from harness.records import Protocol

TOLERANCE = 2e-4
"""Largest difference of projected image features, relative to their largest value."""
NOTE = "eyechart.json"


def export_llava(
    encoder: Encoder,
    adapter: Adapter,
    llm: LanguageModel,
    protocol: Protocol,
    folder: Path,
    origin: dict[str, Any],
) -> Path:
    """Write a LLaVA checkpoint: model, processor, tokenizer, and a note where it comes from.

    Args:
        encoder: frozen, opened for the protocol, on the CPU.
        adapter: trained.
        llm: trained along or not; updates merged; extended by an image token here.
        protocol: says how images are resized.
        folder: must not exist yet, or be empty.
        origin: written into `eyechart.json`.

    Returns:
        The folder.

    Raises:
        UsageError: something of this encoder, adapter or protocol has no place in LLaVA's model, or its
            image features are not ours.
        ResourceError: the folder is not empty.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    if folder.exists() and any(folder.iterdir()):
        raise ResourceError("folder is not empty", where=str(folder), fix="name a new folder with --to")
    tower = _tower(encoder, protocol)
    projector = _projector(adapter, llm)
    token = _add_image_token(llm)
    vision: Any = tower.module.config
    vision.image_size, vision.tie_last_hidden_states = encoder.side, True
    config = LlavaConfig(
        vision_config=vision,
        text_config=llm.model.config,
        image_token_index=token,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default" if tower.num_prefix else "full",
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    _load(model.model.vision_tower, tower.module.state_dict())
    _load(model.model.multi_modal_projector, projector)
    _load(model.model.language_model, llm.model.model.state_dict())
    model.lm_head.load_state_dict(llm.model.lm_head.state_dict())
    _compare(model, encoder, adapter)
    _processor(tower, protocol, llm).save_pretrained(str(folder))
    model.generation_config.eos_token_id = llm.end_id
    model.generation_config.pad_token_id = llm.tokenizer.pad_token_id
    model.save_pretrained(str(folder))
    write_json(folder / NOTE, origin)
    return folder


def require_place(encoder: Encoder, protocol: Protocol) -> None:
    """See before any training whether this encoder under this protocol could be exported at all.

    Raises:
        UsageError: it could not; says what has no place in LLaVA's model.
    """
    _tower(encoder, protocol)
    recipe = protocol.adapter
    if (recipe.kind, recipe.depth) != ("mlp", 2):
        raise _no_place(f"an adapter of kind {recipe.kind} and depth {recipe.depth}", "kind mlp, depth 2")
    if recipe.places != "none":
        raise _no_place("an adapter with vectors for the tokens' places", 'adapter.places = "none"')


def _tower(encoder: Encoder, protocol: Protocol) -> HFEncoder:
    """The encoder, if LLaVA's model can hold it.

    Raises:
        UsageError: it cannot.
    """
    if not isinstance(encoder, HFEncoder) or encoder.num_prefix not in {0, 1}:
        found = encoder.id if isinstance(encoder, HFEncoder) else "another library's network"
        raise _no_place(found, "a transformers network of patches with one class token or none")
    if encoder.layer != 0:
        raise _no_place(f"features {encoder.layer} layers before the last", "tokens.layer = 0")
    if encoder.side != encoder.resolution:
        raise _no_place(
            f"an encoder of {encoder.resolution} pixels seen at {encoder.side}", "its native side"
        )
    if target_grid(encoder.grid, protocol.tokens.budget) != encoder.grid:
        raise _no_place(
            f"{encoder.grid[0]} x {encoder.grid[1]} tokens pooled to {protocol.tokens.budget}",
            "a budget that holds all of them: LLaVA does not pool",
        )
    if protocol.image.resize == "letterbox":
        raise _no_place("letterboxed images", "squash or shortest-side-centre-crop")
    return encoder


def _no_place(found: str, expected: str) -> UsageError:
    return UsageError("no place in a LLaVA checkpoint", found=found, expected=expected)


def _projector(adapter: Adapter, llm: LanguageModel) -> dict[str, Tensor]:
    """Weights of LLaVA's projector: standardisation is folded into the first layer, gain into the last.

    Raises:
        UsageError: another depth or width, or vectors for the tokens' places.
    """
    if len(adapter.layers) != 1 or adapter.out.in_features != llm.width:
        raise _no_place(
            f"an adapter of {len(adapter.layers) + 1} layers, {adapter.out.in_features} wide",
            f"2 layers, {llm.width} wide (kind mlp, depth 2)",
        )
    if bool(adapter.position.any()):
        raise _no_place("an adapter with vectors for the tokens' places", 'adapter.places = "none"')
    first = cast("nn.Linear", adapter.layers[0])
    with torch.no_grad():
        inwards = first.weight / adapter.std
        factor = adapter.scale * adapter.gain
        return {
            "linear_1.weight": inwards,
            "linear_1.bias": first.bias - inwards @ adapter.mean,
            "linear_2.weight": adapter.out.weight * factor,
            "linear_2.bias": adapter.out.bias * factor,
        }


def _add_image_token(llm: LanguageModel) -> int:
    """Id of the token that marks an image; the model gets a row for it where it has none."""
    llm.tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    if len(llm.tokenizer) > llm.model.get_input_embeddings().num_embeddings:
        llm.model.resize_token_embeddings(len(llm.tokenizer), mean_resizing=False)
    return int(llm.tokenizer.convert_tokens_to_ids(IMAGE))


def _load(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Every tensor of the network; what only the library's class adds (a pooler) is not used by LLaVA."""
    report = module.load_state_dict(state, strict=False)
    missing = [name for name in report.missing_keys if not name.startswith(("pooler.", "head."))]
    if missing or report.unexpected_keys:
        raise _no_place(
            f"tensors {', '.join([*missing, *report.unexpected_keys][:3])}", "the library's own vision tower"
        )


def _compare(model: Any, encoder: Encoder, adapter: Adapter) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, encoder.side, encoder.side, generator=draw)
    with torch.no_grad():
        output = encoder.encode(pixels)
        ours = adapter(pool_tokens(output.patch_tokens, output.grid, output.grid))
        theirs = torch.stack(list(model.model.get_image_features(pixels).pooler_output))
    gap = (
        float((ours - theirs).abs().max() / ours.abs().max()) if ours.shape == theirs.shape else float("inf")
    )
    if not gap <= TOLERANCE:
        # dinov2: the library's tower gives LLaVA its last block without the final norm that we read after.
        raise _no_place(
            f"image features that differ by {gap:.1e} of their largest value",
            f"at most {TOLERANCE:.0e}: a tower whose last hidden state is what LLaVA reads",
        )


def _processor(tower: HFEncoder, protocol: Protocol, llm: LanguageModel) -> Any:
    """Resizes, normalises and spells out the image token as often as there are tokens."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side, crop = tower.side, protocol.image.resize == "shortest-side-centre-crop"
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side} if crop else {"height": side, "width": side},
        resample={"bicubic": 3, "bilinear": 2}[protocol.image.interpolation],
        do_center_crop=crop,
        crop_size={"height": side, "width": side},
        image_mean=list(tower.mean),
        image_std=list(tower.std),
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=llm.tokenizer,
        patch_size=tower.side // tower.grid[0],
        vision_feature_select_strategy="default" if tower.num_prefix else "full",
        num_additional_image_tokens=tower.num_prefix,
    )
