"""Every architecture of every source computes what its own library computes."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoints import (
    CASES,
    SAVE,
    TRANSFORMERS,
    at_side,
    library_tokens,
    save_open_clip,
    save_timm,
    save_transformers,
    submission,
)
from safetensors.torch import load_file, save_file

from harness.encoders import open_encoder
from harness.encoders.architectures import ARCHITECTURES, WHOLE
from harness.encoders.base import fit_side
from harness.encoders.timm import timm_features
from harness.errors import SubmissionError, UnsafeInputError
from harness.records import Source

IDS = [f"{source}-{name}" for source, name in CASES]
WEIGHTS = {"transformers": "model.safetensors", "timm": "model.safetensors"}
WEIGHTS["open_clip"] = "open_clip_model.safetensors"
TOLERANCE = 1e-5
"""Of the largest feature."""


def pixels_of(num, side, seed=1):
    return torch.randn(num, 3, side, side, generator=torch.Generator().manual_seed(seed))


def opened(saved, **changes):
    return open_encoder(submission(saved.folder, saved.side), saved.folder, **changes)


def assert_equal(found, wanted):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= TOLERANCE * float(wanted.abs().max())


@pytest.mark.parametrize(("source", "name"), CASES, ids=IDS)
def test_tokens_and_pooled_vector_equal_the_library_at_every_side(tmp_path, source, name):
    saved = SAVE[source](tmp_path, name)
    saved.network.eyechart_name = name
    for side in (saved.side, 128):
        encoder = opened(saved, resolution=side)
        pixels = pixels_of(3, encoder.side)
        network = at_side(source, saved.network, encoder.side, saved)
        wanted = library_tokens(source, network, pixels)
        output = encoder.encode(pixels)
        assert output.grid == encoder.grid == tuple(wanted.shape[-2:])
        assert output.patch_tokens.dtype == torch.float32
        assert_equal(output.patch_tokens, wanted.flatten(2).transpose(1, 2))
        assert_equal(output.pooled, wanted.mean(dim=(2, 3)))
        assert encoder.side % encoder.stride == 0
        assert encoder.num_params > 0


@pytest.mark.parametrize(("source", "name"), CASES, ids=IDS)
def test_batches_of_1_2_7_and_64_agree(tmp_path, source, name):
    encoder = opened(SAVE[source](tmp_path, name), resolution=64)
    pixels = pixels_of(64, encoder.side)
    whole = encoder.read(pixels)
    for size in (1, 2, 7):  # bare forward passes of this many rows: `encode` fills each to 64
        assert_equal(torch.cat([encoder.read(part) for part in torch.split(pixels[:14], size)]), whole[:14])
    parts = [encoder.encode(part).patch_tokens for part in torch.split(pixels[:14], 7)]
    assert_equal(torch.cat(parts), whole[:14])


def test_every_transformers_architecture_is_among_the_cases():
    assert TRANSFORMERS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize(
    ("source", "name"), [("transformers", "dinov2"), ("timm", "vit_tiny_patch16_224"), ("open_clip", "vit")]
)
def test_the_layer_counts_from_the_end(tmp_path, source, name):
    saved = SAVE[source](tmp_path, name)
    pixels = pixels_of(2, 64)
    with torch.no_grad():
        if source == "transformers":
            wanted = saved.network(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        else:
            call = {"norm": True} if source == "timm" else {}
            found = saved.network.forward_intermediates(
                pixels, indices=[0], intermediates_only=True, output_fmt="NCHW", **call
            )
            wanted = (found[0] if source == "timm" else found["image_intermediates"][0]).flatten(2).mT
    assert_equal(opened(saved, layer=1).encode(pixels).patch_tokens, wanted)
    with pytest.raises(SubmissionError, match="too few layers"):
        opened(saved, layer=9)


def test_the_side_is_the_nearest_multiple_of_the_stride():
    assert [fit_side(64, 518, stride) for stride in (14, 16, 32)] == [70, 64, 64]
    assert fit_side(5, 224, 32) == 32  # never nothing
    assert fit_side(24, 224, 16) == 32  # the larger of two that are as near
    assert fit_side(None, 225, 14) == fit_side(225, 225, 14) == 225  # its own side, whatever that is


def test_a_patch_of_14_sees_the_whole_image_at_64_pixels(tmp_path):
    saved = save_timm(tmp_path, "vit_small_patch14_reg4_dinov2")
    encoder = opened(saved, resolution=64)
    assert (encoder.side, encoder.grid, encoder.stride) == (70, (5, 5), 14)
    pixels = pixels_of(1, 70)
    changed = pixels.clone()
    changed[..., -1, -1] += 3.0
    assert not torch.equal(encoder.encode(pixels).patch_tokens, encoder.encode(changed).patch_tokens)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_the_image_side_of_a_two_sided_checkpoint_is_read(tmp_path, name):
    import transformers

    inner = WHOLE[name][0]
    family = {"clip": "CLIP", "metaclip_2": "MetaClip2", "siglip": "Siglip", "siglip2": "Siglip2"}[name]
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    text = dict(small, vocab_size=50, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=TRANSFORMERS[inner])
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config).eval()
    model.save_pretrained(tmp_path)
    pixels = pixels_of(2, 64)
    wanted = library_tokens("transformers", model.vision_model, pixels)
    encoder = open_encoder(submission(tmp_path, 64), tmp_path)
    assert_equal(encoder.encode(pixels).patch_tokens, wanted.flatten(2).mT)
    assert encoder.num_params < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *(("vit", "ViT"), ("beit", "Beit"), ("deit", "DeiT"), ("swin", "Swin"), ("resnet", "ResNet")),
        *(("convnext", "ConvNext"), ("dinov2", "Dinov2"), ("siglip_vision_model", "Siglip")),
    ],
)
def test_a_classifiers_checkpoint_is_read_without_its_head(tmp_path, name, family):
    import transformers

    torch.manual_seed(0)
    config_class = getattr(transformers, ARCHITECTURES[name].config_class)
    config = config_class(**TRANSFORMERS[name])
    if name == "siglip_vision_model":
        config = transformers.SiglipConfig(vision_config=TRANSFORMERS[name])
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    model.save_pretrained(tmp_path)
    body = model.vision_model if name == "siglip_vision_model" else getattr(model, model.base_model_prefix)
    pixels = pixels_of(2, 64)
    wanted = library_tokens("transformers", body, pixels).flatten(2).mT
    encoder = open_encoder(submission(tmp_path, 64), tmp_path)
    assert_equal(encoder.encode(pixels).patch_tokens, wanted)


EDITS = {
    "missing": lambda weights, name: weights.pop(name),
    "extra": lambda weights, name: weights.update({name + "_more": torch.zeros(2)}),
    "of another shape": lambda weights, name: weights.update({name: torch.zeros(3, 5)}),
}
SOME = [("transformers", "clip_vision_model"), ("timm", "resnet18"), ("open_clip", "vit")]


@pytest.mark.parametrize("kind", sorted(EDITS))
@pytest.mark.parametrize(("source", "name"), SOME)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, source, name, kind):
    saved = SAVE[source](tmp_path, name)
    path = tmp_path / WEIGHTS[source]
    weights = load_file(path)
    key = sorted(k for k in weights if k.startswith("visual.") or source != "open_clip")[3]
    EDITS[kind](weights, key)
    save_file(weights, path)
    shown = key.removeprefix("visual.") if kind != "extra" else key.removeprefix("visual.") + "_more"
    with pytest.raises(SubmissionError, match=rf"1 {kind} \({shown}") as caught:
        opened(saved)
    assert caught.value.exit_code == 3


def test_a_strangers_tensor_beside_both_sides_is_refused(tmp_path):
    saved = save_open_clip(tmp_path, "vit")
    path = tmp_path / "open_clip_model.safetensors"
    weights = load_file(path)
    save_file({**weights, "adapter.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(SubmissionError, match=r"1 extra \(adapter\.weight\)"):
        opened(saved)


def edit(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


TIMM_CONFIGS = {
    "hub": (lambda t: t.update(architecture="hf-hub:a/b"), SubmissionError, "unsupported architecture"),
    "unknown": (lambda t: t.update(architecture="vit_huge_patch1"), SubmissionError, "unsupported arch"),
    "tag": (
        lambda t: t.update(architecture="vit_tiny_patch16_224.augreg_in21k"),
        SubmissionError,
        "unsupported architecture",
    ),
    "type": (lambda t: t.update(architecture=["resnet18"]), SubmissionError, "unsupported architecture"),
    "pickle": (
        lambda t: t["model_args"].update(checkpoint_path="x.pth"),
        SubmissionError,
        "unknown configuration keys: found checkpoint_path",
    ),
    "fetch": (
        lambda t: t["model_args"].update(pretrained=True),
        SubmissionError,
        "unknown configuration keys: found pretrained",
    ),
    "overlay": (
        lambda t: t["model_args"].update(pretrained_cfg_overlay={"url": "x"}),
        SubmissionError,
        "unknown configuration keys",
    ),
    "huge": (
        lambda t: t["model_args"].update(embed_dim=10**9),
        SubmissionError,
        "value out of range: found 1000000000",
    ),
    "deep": (lambda t: t["model_args"].update(depth=10**4), SubmissionError, "value out of range"),
    "misfit": (lambda t: t["model_args"].update(num_heads=5), SubmissionError, "describes no network"),
    "classes": (lambda t: t["model_args"].update(num_classes=11), SubmissionError, "of another shape"),
    "code": (lambda t: t.update(auto_map={"AutoModel": "x.Y"}), UnsafeInputError, "asks for code"),
    "table": (lambda t: t.update(model_args=[1]), SubmissionError, "model_args is no table"),
}


@pytest.mark.parametrize("case", sorted(TIMM_CONFIGS))
def test_a_timm_configuration_is_data(tmp_path, case):
    change, kind, words = TIMM_CONFIGS[case]
    saved = save_timm(tmp_path, "vit_tiny_patch16_224")
    edit(tmp_path / "config.json", change)
    with pytest.raises(kind, match=words):
        opened(saved)


OPEN_CLIP_CONFIGS = {
    "fetch": (
        lambda m: m["vision_cfg"].update(timm_model_name="vit_tiny_patch16_224", timm_model_pretrained=True),
        UnsafeInputError,
        "asks for other weights",
    ),
    "unknown": (lambda m: m["vision_cfg"].update(colour=1), SubmissionError, "unknown configuration keys"),
    "huge": (lambda m: m["vision_cfg"].update(width=10**8), SubmissionError, "value out of range"),
    "deep": (lambda m: m["vision_cfg"].update(layers=10**4), SubmissionError, "value out of range"),
    "heads": (lambda m: m["vision_cfg"].update(head_width=0), SubmissionError, "describes no network"),
    "hub": (
        lambda m: m["vision_cfg"].update(timm_model_name="hf-hub:a/b"),
        SubmissionError,
        "unsupported architecture",
    ),
    "none": (lambda m: m.pop("vision_cfg"), SubmissionError, "has no image tower"),
    "size": (lambda m: m.pop("embed_dim"), SubmissionError, "has no embed_dim"),
    "text": (lambda m: m.update(hf_hub="x"), SubmissionError, "unknown configuration keys"),
}


@pytest.mark.parametrize("case", sorted(OPEN_CLIP_CONFIGS))
def test_an_open_clip_configuration_is_data(tmp_path, case):
    change, kind, words = OPEN_CLIP_CONFIGS[case]
    saved = save_open_clip(tmp_path, "vit")
    edit(tmp_path / "open_clip_config.json", lambda t: change(t["model_cfg"]))
    with pytest.raises(kind, match=words):
        opened(saved)


def test_a_tower_that_would_take_its_text_side_from_a_hub_is_still_read(tmp_path):
    saved = save_open_clip(tmp_path, "vit")
    edit(
        tmp_path / "open_clip_config.json",
        lambda t: t["model_cfg"].update(text_cfg={"hf_model_name": "org/model", "hf_model_pretrained": True}),
    )
    assert opened(saved).grid == (4, 4)


@pytest.mark.parametrize("source", ["transformers", "timm", "open_clip"])
def test_the_kind_must_be_the_files(tmp_path, source):
    name = {"transformers": "vit", "timm": "resnet18", "open_clip": "vit"}[source]
    saved = SAVE[source](tmp_path, name)
    for kind in ("transformers", "timm", "open_clip"):
        claimed = submission(tmp_path, saved.side)
        claimed = submission(
            tmp_path,
            saved.side,
            source=Source(kind=kind, name="x", revision="local", files=claimed.source.files),
        )
        if kind == source:
            open_encoder(claimed, tmp_path)
        else:
            with pytest.raises(SubmissionError, match=r"source\.kind: .*another library"):
                open_encoder(claimed, tmp_path)


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "volo_d1_224", "hiera_tiny_224"])
def test_a_network_without_one_grid_of_its_own_gives_its_last_feature_map(tmp_path, name):
    """Two branches; a class token it does not declare; a norm that is not for maps."""
    from timm import create_model
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = create_model(name, pretrained=False, num_classes=0).eval()
    save_for_hf(network, str(tmp_path), model_args={}, safe_serialization=True)
    side = network.pretrained_cfg["input_size"][-1]
    pixels = pixels_of(1, side)
    how = {} if name.startswith("hiera") else {"norm": True}
    with torch.no_grad():
        wanted = network.forward_intermediates(pixels, indices=1, intermediates_only=True, **how)[0]
    encoder = open_encoder(submission(tmp_path, side), tmp_path)
    assert encoder.grid == tuple(wanted.shape[-2:])
    assert_equal(encoder.read(pixels), wanted.flatten(2).mT)


def test_a_network_without_any_grid_is_refused():
    class Branches(torch.nn.Module):
        def forward_features(self, pixels):
            return [pixels, pixels]

        def forward_intermediates(self, pixels, indices, output_fmt, intermediates_only):
            return [torch.zeros(1, 5, 8)]

    with pytest.raises(SubmissionError, match="no single grid of features: found Branches returns list"):
        timm_features(Branches(), pixels_of(1, 32), "mine")


def test_opening_leaves_no_trace_in_the_random_state(tmp_path):
    saved = save_timm(tmp_path, "resnet18")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    opened(saved)
    assert torch.equal(before, torch.get_rng_state())


def test_tokens_without_a_declared_prefix_are_checked_against_the_feature_map(tmp_path):
    from timm import create_model
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = create_model("levit_128s", pretrained=False, num_classes=0).eval()
    save_for_hf(network, str(tmp_path), model_args={}, safe_serialization=True)
    pixels = pixels_of(1, 224)
    with torch.no_grad():
        wanted = network.forward_features(pixels)
    assert not hasattr(network, "num_prefix_tokens")
    assert_equal(open_encoder(submission(tmp_path, 224), tmp_path).read(pixels), wanted)


def test_transformers_and_open_clip_agree_up_to_the_final_norm(tmp_path):
    """The same CLIP in both formats: open_clip norms its patch tokens, transformers only its class token."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    clip = save_open_clip(tmp_path / "a", "vit")
    tower = clip.network
    hidden = dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=128)
    twin = save_transformers(tmp_path / "b", "clip_vision_model", **hidden, hidden_act="quick_gelu")
    state = {
        "embeddings.class_embedding": tower.class_embedding,
        "embeddings.patch_embedding.weight": tower.conv1.weight,
        "embeddings.position_embedding.weight": tower.positional_embedding,
    }
    for theirs, ours in (("pre_layrnorm", tower.ln_pre), ("post_layernorm", tower.ln_post)):
        state |= {f"{theirs}.weight": ours.weight, f"{theirs}.bias": ours.bias}
    for i, block in enumerate(tower.transformer.resblocks):
        at = f"encoder.layers.{i}"
        parts = {"layer_norm1": block.ln_1, "layer_norm2": block.ln_2, "mlp.fc1": block.mlp.c_fc}
        parts |= {"mlp.fc2": block.mlp.c_proj, "self_attn.out_proj": block.attn.out_proj}
        for part, module in parts.items():
            state |= {f"{at}.{part}.weight": module.weight, f"{at}.{part}.bias": module.bias}
        for j, letter in enumerate("qkv"):
            rows = slice(32 * j, 32 * j + 32)
            state[f"{at}.self_attn.{letter}_proj.weight"] = block.attn.in_proj_weight[rows]
            state[f"{at}.self_attn.{letter}_proj.bias"] = block.attn.in_proj_bias[rows]
    twin.network.load_state_dict(state, strict=True)
    twin.network.save_pretrained(tmp_path / "b")
    pixels = pixels_of(2, 64)
    ours, theirs = (opened(s).encode(pixels).patch_tokens for s in (clip, twin))
    with torch.no_grad():
        assert_equal(tower.ln_post(theirs), ours)


def test_swinv2_keeps_the_windows_that_it_was_pretrained_with(tmp_path):
    saved = save_transformers(tmp_path, "swinv2", pretrained_window_sizes=[2, 2, 2])
    pixels = pixels_of(2, 64)
    wanted = library_tokens("transformers", saved.network, pixels)
    assert_equal(opened(saved).encode(pixels).patch_tokens, wanted.flatten(2).mT)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dinov2_with_registers", {"interpolate_antialias": True, "interpolate_offset": 0.0}),
        ("siglip_vision_model", {"_attn_implementation_autoset": True}),
        ("clip_vision_model", {"dropout": 0.0, "projection_dim": 512, "top_k": 50, "torchscript": False}),
    ],
)
def test_what_older_versions_wrote_is_accepted(tmp_path, name, more):
    saved = save_transformers(tmp_path, name)
    edit(tmp_path / "config.json", lambda table: table.update(more))
    assert opened(saved).grid == (4, 4)


def test_an_image_side_described_twice_must_be_the_same(tmp_path):
    import transformers

    text = dict(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50
    )
    text |= dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = transformers.CLIPConfig(text_config=text, vision_config=TRANSFORMERS["clip_vision_model"])
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    edit(path, lambda t: t.update(vision_config_dict={"hidden_size": t["vision_config"]["hidden_size"]}))
    assert open_encoder(submission(tmp_path, 64), tmp_path).grid == (4, 4)
    edit(path, lambda t: t.update(vision_config_dict={"hidden_act": "gelu"}))
    with pytest.raises(SubmissionError, match="described twice, in two ways: found hidden_act"):
        open_encoder(submission(tmp_path, 64), tmp_path)


def test_tables_that_timm_once_stored_may_be_there_and_nothing_else(tmp_path):
    saved = save_timm(tmp_path, "swin_tiny_patch4_window7_224")
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    old = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    save_file({**weights, **old}, path)
    assert opened(saved).grid == (4, 4)
    save_file({**weights, "layers.0.blocks.0.attn.other": torch.zeros(2)}, path)
    with pytest.raises(SubmissionError, match=r"1 extra \(layers"):
        opened(saved)
