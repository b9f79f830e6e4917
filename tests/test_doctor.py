"""The doctor names a seeded defect, that one and no other; in sound encoders it names none.

Networks of a person's own (`kind = "python"`) are where defects of a network are seeded; what a manifest can
say wrongly is said in the formats of all three libraries.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_run
import torch
from checkpoints import CASES, MEAN, SAVE, STD, save_open_clip, save_timm, save_transformers, submission
from safetensors.torch import load_file, save_file

from harness import run as run_module
from harness.bundle import find_bundles, read_bundle
from harness.cli import main
from harness.digest import digest_file
from harness.doctor import check_size, examine
from harness.doctor_checks import check_positions
from harness.encoders.base import side_of
from harness.errors import SubmissionError
from harness.protocol import read_protocol
from harness.records import Source, WeightFile
from harness.submission import read_submission, write_manifest

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "harness" / "mini" / "weights"
MINI = read_protocol("mini")
SIDES = (64, 96, 128, 224)
LARGE = {"efficientnet_b0", "timm-vit"}


def at(side):
    """The mini protocol at another side."""
    return replace(MINI, image=replace(MINI.image, resolution=side))


def look(sub, folder, side=64):
    return examine(sub, folder, at(side), allow_code=True)


def codes(sub, folder, side=64):
    return [finding.code for finding in look(sub, folder, side).findings]


# Sound checkpoints


@pytest.mark.parametrize(
    ("number", "source", "name"),
    [(i, *case) for i, case in enumerate(CASES) if case[1] not in LARGE],
    ids=str,
)
def test_a_sound_checkpoint_has_no_finding(tmp_path, number, source, name):
    saved = SAVE[source](tmp_path, name, seed=number)
    assert codes(submission(tmp_path, saved.side), tmp_path, SIDES[number % 4]) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("source", "name"), CASES, ids=[f"{s}-{n}" for s, n in CASES])
def test_a_sound_checkpoint_has_no_finding_at_any_side(tmp_path, source, name, seed):
    saved = SAVE[source](tmp_path, name, seed=seed)
    sub = submission(tmp_path, saved.side)
    assert {side: codes(sub, tmp_path, side) for side in SIDES} == {side: [] for side in SIDES}


LARGER = [
    ("transformers", "vit", dict(image_size=224)),
    ("transformers", "beit", dict(image_size=224)),
    ("transformers", "siglip_vision_model", dict(image_size=224)),
    ("transformers", "dinov2_with_registers", dict(image_size=224)),
    ("transformers", "dinov3_vit", dict(image_size=224)),
    # Windows of 4 leave 2 of 14 places empty: padding tells tokens apart, and is no table of positions.
    ("transformers", "swin", dict(image_size=224)),
    ("timm", "swin_tiny_patch4_window7_224", dict(img_size=224)),
    ("timm", "beit_base_patch16_224", dict(img_size=224)),
    ("timm", "eva02_tiny_patch14_224", dict(img_size=224)),
    ("open_clip", "vit", dict(image_size=224)),
]


@pytest.mark.parametrize(
    ("source", "name", "size"),
    [
        case if i in {0, 5, 9} else pytest.param(*case, marks=pytest.mark.slow)
        for i, case in enumerate(LARGER)
    ],
)
def test_a_sound_checkpoint_at_a_third_of_its_side_has_no_finding(tmp_path, source, name, size):
    SAVE[source](tmp_path, name, seed=2, **size)
    for side in (64, 128):
        assert codes(submission(tmp_path, 224), tmp_path, side) == []


def test_a_native_side_that_is_no_multiple_of_the_patch_is_the_checkpoints_own(tmp_path):
    """SigLIP so400m: patches of 14, 384 pixels, by its own configuration."""
    for source, name, size in (
        ("transformers", "siglip_vision_model", dict(image_size=64, patch_size=14)),
        ("timm", "vit_base_patch16_siglip_224", dict(img_size=64, patch_size=14)),
    ):
        folder = tmp_path / source
        folder.mkdir()
        SAVE[source](folder, name, **size)
        report = look(submission(folder, 64), folder, 96)
        assert report.findings == ()
        assert any("the last 8 at the right and the bottom are not seen" in note for note in report.notes)
        (finding,) = look(submission(folder, 56), folder, 96).findings
        assert finding.code == "resolution" and finding.fix == "resolution = 64"


TRAINED = sorted(path.stem for path in WEIGHTS.glob("mini-*.toml"))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        pytest.param(n, s, marks=[] if (n, s) in quick else pytest.mark.slow)
        for quick in [{("mini-pvt-label-s0", 64), ("mini-resnet-clip-s0", 128), ("mini-resnet-label-s1", 64)}]
        for n in TRAINED
        for s in SIDES
    ],
)
def test_a_trained_encoder_has_no_finding(name, side):
    """In mini-pvt-label a bright square moves every token: what it moves its own more counts."""
    sub = read_submission(WEIGHTS / f"{name}.toml")
    report = look(sub, WEIGHTS, side)
    assert report.verdict == "sound" and report.side == side
    assert report.notes[0].startswith("no file of the checkpoint says mean and std")


# Networks of a person's own


VIT = """
import torch
from torch import nn
from torch.nn import functional as F


class Encoder(nn.Module):
    STRIDE

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.table = nn.Parameter(torch.zeros(1, 32, NATIVE, NATIVE))
        self.prefix = nn.Parameter(torch.zeros(1, PREFIX, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(32)

    def positions(self, table, rows):
        return POSITIONS

    def forward(self, pixels):
        maps = self.patches(pixels)
        rows = maps.shape[-1]
        tokens = (maps + self.positions(self.table, rows)).flatten(2).mT
        tokens = torch.cat([self.prefix.expand(len(pixels), -1, -1), tokens], 1)
        prefix, patches = self.norm(self.blocks(tokens)).split([PREFIX, rows * rows], 1)
        return OUTPUT


def build():
    return Encoder()
"""
CONVOLUTIONS = """
import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = ((3, 16), (16, 16), (16, 16), (16, 24))


class Encoder(nn.Module):
    STRIDE

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in WIDTHS)
        self.norms = nn.ModuleList(nn.BatchNorm2d(layer.out_channels) for layer in self.layers)

    def forward(self, maps):
        for layer, norm in zip(self.layers, self.norms):
            maps = F.gelu(F.batch_norm(layer(maps), STATISTICS))
        return maps


def build():
    return Encoder()
"""
ROPE = """
import torch
from torch import nn
from torch.nn import functional as F


class Encoder(nn.Module):
    stride = 16

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.mix = nn.Linear(32, 96)
        self.norm = nn.LayerNorm(32)

    def turned(self, x, rows):
        place = torch.arange(rows * rows)
        angle = torch.stack([place // rows, place % rows], 1).repeat(1, 8).float() / rows * 3
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(self, pixels):
        maps = self.patches(pixels)
        tokens = maps.flatten(2).mT
        q, k, v = self.mix(self.norm(tokens)).chunk(3, -1)
        q, k = (self.turned(x, maps.shape[-1]) for x in (q, k))
        return tokens + F.scaled_dot_product_attention(q, k, v)


def build():
    return Encoder()
"""
RESAMPLED = "F.interpolate(table, (rows, rows), mode='bicubic', antialias=True)"
STORED = "norm.running_mean, norm.running_var, norm.weight, norm.bias"
SOUND = {
    "NATIVE": "4",
    "PREFIX": "1",
    "STRIDE": "stride = 16",
    "POSITIONS": RESAMPLED,
    "OUTPUT": "patches",
    "STATISTICS": STORED,
}


def own(folder, text=VIT, *, native=64, seed=0, weights=None, **parts):
    """A submission of a small network of one's own with random weights; `parts` replace words of the text."""
    for word, code in {**SOUND, "NATIVE": str(native // 16), **parts}.items():
        text = text.replace(word, code)
    folder.mkdir(exist_ok=True)
    (folder / "encoder.py").write_text(text)
    space = {}
    exec(compile(text, "encoder.py", "exec"), space)
    torch.manual_seed(seed)
    network = space["build"]()
    for name, tensor in network.state_dict().items():
        if name in {"table", "prefix"}:
            tensor.normal_()
        elif "running" in name or ("weight" in name and tensor.ndim == 1):
            tensor.uniform_(0.8, 1.2)
        elif tensor.ndim > 1:
            tensor.normal_(std=tensor[0].numel() ** -0.5)
    state = network.state_dict()
    if weights:
        weights(state)
    save_file(state, folder / "model.safetensors")
    return submission(folder, native, source=source_of(folder))


def source_of(folder):
    names = ("encoder.py", "model.safetensors")
    files = tuple(WeightFile(path=name, sha256=digest_file(folder / name)) for name in names)
    return Source(kind="python", name="own", revision="local", files=files)


@pytest.mark.parametrize("native", [64, 128, 224])
@pytest.mark.parametrize("prefix", ["0", "5"])
def test_a_vision_transformer_of_ones_own_is_sound(tmp_path, native, prefix):
    sub = own(tmp_path / "own", native=native, PREFIX=prefix, seed=native)
    assert {side: codes(sub, tmp_path / "own", side) for side in SIDES} == {side: [] for side in SIDES}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (VIT, {"STRIDE": "pass"}),
        # Tied to one size, which is the protocol's: nothing to resample.
        (VIT, {"STRIDE": "pass", "POSITIONS": "table"}),
        (VIT, {"POSITIONS": "F.interpolate(table, (rows, rows))"}),
        (VIT, {"POSITIONS": "torch.zeros(1, 32, 1, 1)"}),
        (ROPE, {}),
        (CONVOLUTIONS, {}),
        (CONVOLUTIONS, {"STRIDE": "pass"}),
    ],
    ids=[
        "no-stride",
        "one-size",
        "nearest",
        "no-positions",
        "rope",
        "convolutions",
        "convolutions-no-stride",
    ],
)
def test_near_misses_are_sound(tmp_path, text, parts):
    sub = own(tmp_path / "own", text, **parts)
    sides = (64,) if parts.get("POSITIONS") == "table" else (64, 128)
    assert {side: codes(sub, tmp_path / "own", side) for side in sides} == {side: [] for side in sides}


GRID = "patches.unflatten(1, (rows, rows))"
BLOCKS = "patches.reshape(len(pixels), rows // 2, 2, rows // 2, 2, 32).transpose(2, 3).flatten(1, 4)"
OUTPUTS = {
    "not-finite": {
        "one token": "torch.cat([patches[:, :-1], patches[:, -1:] * float('nan')], 1)",
        "one feature": "torch.cat([patches[..., :-1], patches[..., -1:] / 0], 2)",
        "beyond float16": "patches * 1e5",
    },
    "constant-features": {"all one": "patches * 0 + 1", "all zero": "patches * 0"},
    "constant-tokens": {
        "the last is zero": "torch.cat([patches[:, :-1], 0 * patches[:, -1:]], 1)",
        "two are": "torch.cat([self.prefix.expand(len(pixels), -1, -1)] * 2 + [patches[:, 2:]], 1)",
        "pooled": "patches.mean(1, keepdim=True).expand_as(patches)",
    },
    "low-rank": {
        "1": "patches.mean(2, keepdim=True) * torch.linspace(1, 2, 32)",
        "2": "patches[..., :2] @ torch.arange(64.0).reshape(2, 32).sin()",
        "almost 1": "patches[..., :1] * torch.linspace(1, 2, 32) + 1e-4 * patches",
    },
    "nondeterministic": {
        "dropout": "F.dropout(patches, 0.1)",
        "a little noise": "patches + 1e-4 * torch.randn_like(patches)",
    },
    "batch-dependence": {
        "norm": "F.batch_norm(patches.mT, None, None, training=True).mT",
        "mean": "patches - patches.mean((0, 1))",
        "a little": "patches + 1e-2 * patches.mean((0, 1))",
    },
    "prefix-token": {
        "class": "torch.cat([prefix[:, :1], patches[:, :-1]], 1)",
        "dropped": "torch.cat([patches[:, 1:], prefix[:, :1]], 1)",
        "17 tokens": "torch.cat([prefix, patches], 1)",
        "15 tokens": "patches[:, 1:]",
    },
    "patch-order": {
        "transposed": f"{GRID}.transpose(1, 2).flatten(1, 2)",
        "mirrored left to right": f"{GRID}.flip(2).flatten(1, 2)",
        "upside down": f"{GRID}.flip(1).flatten(1, 2)",
        "turned by half": "patches.flip(1)",
        "turned by a quarter": f"{GRID}.rot90(-1, (1, 2)).flatten(1, 2)",
        "shuffled": "patches[:, torch.randperm(rows * rows, generator=torch.Generator().manual_seed(5))]",
        "in blocks": BLOCKS,
    },
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("code", "how"), [(code, how) for code, ways in OUTPUTS.items() for how in ways], ids=lambda v: v
)
def test_a_defect_of_a_network_is_named_alone(tmp_path, code, how, seed):
    sub = own(tmp_path / "own", OUTPUT=OUTPUTS[code][how], seed=seed)
    for side in (64, 128):
        (finding,) = look(sub, tmp_path / "own", side).findings
        assert finding.code == code
        if code == "patch-order" and how not in {"shuffled", "in blocks"}:
            assert f"as if the grid were {how}" in finding.seen


@pytest.mark.parametrize("number", [1, 2, 5, 9])
def test_the_number_of_prefix_tokens_is_named(tmp_path, number):
    """With the last patches dropped, so that the count fits; and too many, so that there is no grid."""
    for output in ("torch.cat([prefix, patches], 1)[:, : rows * rows]", "torch.cat([prefix, patches], 1)"):
        sub = own(tmp_path / f"own{len(output)}", PREFIX=str(number), OUTPUT=output)
        report = look(sub, tmp_path / f"own{len(output)}", 128)
        (finding,) = report.findings
        assert finding.code == "prefix-token"
        assert finding.fix.startswith(f"drop {number} prefix token{'s' * (number > 1)} (class, registers)")


def test_tokens_without_a_grid_are_a_finding_of_an_encoder_that_does_not_open(tmp_path):
    sub = own(tmp_path / "own", OUTPUT="torch.cat([prefix, patches], 1)")
    report = look(sub, tmp_path / "own")
    assert report.measured is None and report.notes == ()
    assert report.findings[0].seen == "17 tokens of a square picture, 1 more than a grid of 4 x 4"
    assert report.as_json()["measured"] is None
    assert report.receipt() == {"verdict": "findings", "findings": ["prefix-token"]}
    # 15 are nearer to 4 x 4 than to 3 x 3 and 6: the number at twice the side tells.
    sub = own(tmp_path / "fewer", OUTPUT="patches[:, 1:]")
    assert look(sub, tmp_path / "fewer").findings[0].seen.endswith("1 fewer than a grid of 4 x 4")


def test_the_doctor_knows_the_error_of_tokens_without_a_grid():
    """The finding rests on this line of another module."""
    with pytest.raises(SubmissionError) as caught:
        side_of(17, "own")
    assert (caught.value.what, caught.value.found) == (
        "patch tokens of a square image form no square",
        "17 tokens",
    )


CUT = "F.pad(table.flatten(2)[..., : rows * rows], (0, max(0, rows * rows - table[0, 0].numel())))"
POSITIONS = {
    "cut off or padded in a row": f"{CUT}.unflatten(2, (rows, rows))",
    "cut off or padded as a grid": "F.pad(table[..., :rows, :rows], 2 * (0, max(0, rows - len(table[0, 0]))))",  # noqa: E501
    "over and over": "table.flatten(2).repeat(1, 1, 16)[..., : rows * rows].unflatten(2, (rows, rows))",
    "tiles": "table.repeat(1, 1, 4, 4)[..., :rows, :rows]",
    "left out": "table if rows == len(table[0, 0]) else torch.zeros(1, 32, 1, 1)",
}


@pytest.mark.parametrize("how", POSITIONS)
@pytest.mark.parametrize(
    ("native", "side"), [(64, 96), (64, 128), (64, 224), (128, 64), (224, 64), (224, 128)]
)
def test_positions_that_are_not_resampled_are_named_alone(tmp_path, how, native, side):
    sub = own(tmp_path / "own", native=native, POSITIONS=POSITIONS[how])
    (finding,) = look(sub, tmp_path / "own", side).findings
    assert finding.code == "position-embedding"
    assert f"positions of the {side // 16} x {side // 16} tokens of a blank picture" in finding.seen
    assert codes(sub, tmp_path / "own", native) == []


def test_positions_of_a_network_that_does_not_say_its_stride_are_looked_at_too(tmp_path):
    sub = own(tmp_path / "own", STRIDE="pass", POSITIONS=POSITIONS["tiles"])
    assert codes(sub, tmp_path / "own", 128) == ["position-embedding"]


def test_a_table_that_fits_one_side_only_is_a_finding_at_another(tmp_path):
    sub = own(tmp_path / "own", POSITIONS="table")
    report = look(sub, tmp_path / "own", 128)
    (finding,) = report.findings
    assert finding.code == "position-embedding" and report.measured is None
    assert "its own 64 pixels, but of the protocol's 128 pixels: RuntimeError" in finding.seen
    assert codes(sub, tmp_path / "own", 64) == []
    # The other way about: the manifest names a side that the network does not take.
    wrong = replace(sub, input=replace(sub.input, resolution=128))
    assert codes(wrong, tmp_path / "own", 64) == ["resolution"]


def test_a_network_that_takes_no_side_is_an_error_and_no_finding(tmp_path):
    sub = own(tmp_path / "own", OUTPUT="patches @ patches")
    with pytest.raises(SubmissionError, match="cannot encode an image of this size"):
        look(sub, tmp_path / "own", 128)


def test_statistics_of_the_batch_in_a_network_of_convolutions_are_named(tmp_path):
    for statistics in ("None, None, training=True", f"{STORED}, training=True"):
        sub = own(tmp_path / "own", CONVOLUTIONS, STATISTICS=statistics)
        assert codes(sub, tmp_path / "own") == ["batch-dependence"]


def test_positions_are_compared_where_they_differ_only():
    grid = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    tiled = grid.reshape(4, 4, 8).repeat(2, 2, 1).reshape(64, 8)
    assert check_positions(grid, tiled).code == "position-embedding"
    assert check_positions(grid, grid) is None
    assert check_positions(1 + 1e-3 * grid, 1 + 1e-3 * tiled) is None


# Weights


@pytest.mark.parametrize(
    ("source", "name", "tensor"),
    [
        ("transformers", "vit", "embeddings.patch_embeddings.projection.weight"),
        ("timm", "vit_tiny_patch16_224", "patch_embed.proj.weight"),
        ("open_clip", "vit", "visual.conv1.weight"),
    ],
)
def test_huge_weights_are_a_finding_and_weights_that_are_no_numbers_an_error(tmp_path, source, name, tensor):
    SAVE[source](tmp_path, name)
    (path,) = tmp_path.glob("*.safetensors")
    for value, named in ((1e38, ["not-finite"]), (float("nan"), None)):
        state = load_file(path)
        (key,) = (k for k in state if k.endswith(tensor))
        state[key] = torch.full_like(state[key], value)
        save_file(state, path, {"format": "pt"})
        if named:
            assert codes(submission(tmp_path, 64), tmp_path) == named
            continue
        with pytest.raises(SubmissionError, match="NaN") as caught:
            look(submission(tmp_path, 64), tmp_path)
        assert caught.value.exit_code == 3


def test_weights_of_zero_are_named(tmp_path):
    saved = save_transformers(tmp_path, "vit")
    saved.network.embeddings.patch_embeddings.projection.weight.data.zero_()
    saved.network.save_pretrained(tmp_path)
    assert codes(submission(tmp_path, 64), tmp_path) == ["constant-features"]


# Manifests


FORMATS = {
    "transformers": ("vit", save_transformers),
    "timm": ("vit_tiny_patch16_224", save_timm),
    "open_clip": ("vit", save_open_clip),
}
HALVES = (0.5, 0.5, 0.5)


@pytest.fixture(params=FORMATS)
def manifest(request, tmp_path):
    """A sound submission in each library's format, and its folder."""
    name, save = FORMATS[request.param]
    save(tmp_path, name)
    return submission(tmp_path, 64), tmp_path


def given(sub, **changes):
    return replace(sub, input=replace(sub.input, **changes))


@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("resolution", [32, 65, 72, 128, 225])
def test_another_resolution_than_the_networks_is_named_alone(manifest, resolution, side):
    sub, folder = manifest
    (finding,) = look(given(sub, resolution=resolution), folder, side).findings
    assert finding.code == "resolution" and finding.fix == "resolution = 64"
    assert finding.seen.startswith(f"input.resolution = {resolution}")


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("channel-order", dict(mean=MEAN[::-1], std=STD[::-1])),
        ("channel-order", dict(mean=MEAN[::-1])),
        ("normalisation", dict(mean=HALVES, std=HALVES)),
        ("normalisation", dict(std=(0.229, 0.224, 0.225))),
        ("normalisation", dict(mean=(0.48, 0.45, 0.41))),
        ("normalisation", dict(mean=MEAN[::-1], std=HALVES)),
    ],
)
def test_mean_and_std_are_compared_with_the_checkpoints_own(manifest, code, changes):
    sub, folder = manifest
    (finding,) = look(given(sub, **changes), folder).findings
    assert finding.code == code
    for name, value in (("mean", MEAN), ("std", STD)):
        assert (f"{name} = {list(value)}" in finding.fix) == (name in changes)
    assert codes(given(sub, mean=tuple(m + 5e-4 for m in MEAN)), folder) == []


@pytest.mark.parametrize("claim", ["ViT-L", "ViT-B/16", "CLIP ViT-H-14", "300 M parameters", "0.5M params"])
def test_weights_that_contradict_the_claimed_size_are_named_alone(manifest, claim):
    sub, folder = manifest
    (finding,) = look(replace(sub, architecture=claim), folder).findings
    assert finding.code == "size-claim" and 'architecture = "…, ' in finding.fix


def test_two_wrong_lines_are_two_findings(manifest):
    sub, folder = manifest
    wrong = replace(given(sub, mean=HALVES, resolution=96), architecture="ViT-L")
    assert codes(wrong, folder) == ["resolution", "normalisation", "size-claim"]


@pytest.mark.parametrize(
    ("claim", "count", "sound"),
    [
        ("ViT-B/16", 86_000_000, True),
        ("ViT-B/16, 86 M parameters", 85_800_000, True),
        ("ViT-L14", 303_000_000, True),
        ("ViT Large", 86_000_000, False),
        ("ViT-SO400M-14", 428_000_000, True),
        ("EVA ViT-g/14 (1.0 B parameters)", 1_010_000_000, True),
        ("ViT-S, 22 M params", 86_000_000, False),
        ("ResNet, 1.4 M parameters", 1_370_000, True),
        ("ResNet, 25.6 million trainable parameters", 1_370_000, False),
        ("40,256 parameters", 40_256, True),
        ("140,256 parameters", 40_256, False),
        ("12-layer network, 3 parameters a channel", 40_256, True),
        ("vit_small_patch16_36x1_224", 64_000_000, True),
        ("ViT-B-32, laion2b weights", 87_000_000, True),
        ("several ViTs, trained on 400M images", 5_000_000, True),
        ("ViT-bigG/14", 1_840_000_000, True),
        ("", 5, True),
    ],
)
def test_sizes_in_words(claim, count, sound):
    assert (check_size(claim, count) is None) == sound


def test_a_network_of_convolutions_takes_another_resolution_with_a_note(tmp_path):
    save_transformers(tmp_path, "resnet")
    report = look(submission(tmp_path, 112), tmp_path)
    assert report.findings == ()
    assert any("says 64 pixels, the manifest 112" in note for note in report.notes)


def test_a_network_of_ones_own_with_a_resolution_between_patches(tmp_path):
    for resolution, fix in ((65, "resolution = 64"), (75, "resolution = 80"), (225, "resolution = 224")):
        sub = own(tmp_path / "own")
        (finding,) = look(given(sub, resolution=resolution), tmp_path / "own").findings
        assert (finding.code, finding.fix) == ("resolution", fix)


def test_notes_tell_what_is_not_wrong(tmp_path):
    save_transformers(tmp_path, "vit", patch_size=32)
    report = look(submission(tmp_path, 64), tmp_path, 72)
    assert report.findings == () and report.measured.under_budget
    assert [note.split(":")[0] for note in report.notes] == ["measured at 64 pixels", "under budget"]
    (tmp_path / "preprocessor_config.json").unlink()
    report = look(given(submission(tmp_path, 64), mean=HALVES, std=HALVES), tmp_path)
    assert report.findings == () and "says mean and std" in report.notes[0]


def test_the_same_encoder_gives_the_same_report(tmp_path):
    sub = own(tmp_path / "own", OUTPUT=OUTPUTS["patch-order"]["shuffled"])
    first, second = look(sub, tmp_path / "own"), look(sub, tmp_path / "own")
    assert (first.findings, first.notes, first.receipt()) == (second.findings, second.notes, second.receipt())


# The command


def written(sub, folder):
    path = folder / "submission.toml"
    write_manifest(replace(sub, license="MIT", identity_digest=""), path)
    return str(path)


def test_the_table_of_a_sound_encoder(manifest, capsys):
    sub, folder = manifest
    assert main(["doctor", written(sub, folder)]) == 0
    said = capsys.readouterr()
    assert said.err.count("eyechart:") == 0
    assert "Verdict: sound." in said.out.splitlines()[-1]
    for words in ("tiny, protocol mini", "64 pixels, a token every 16", "4 x 4", "GMACs"):
        assert words in said.out


def test_json_of_a_sound_encoder(manifest, capsys):
    sub, folder = manifest
    assert main(["doctor", written(sub, folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["findings"], report["encoder"]) == ("sound", [], "tiny")
    assert report["measured"]["grid"] == [4, 4] and report["measured"]["cost"]["num_tokens"] == 16


def test_findings_are_told_with_exit_code_3(manifest, capsys):
    sub, folder = manifest
    path = written(replace(given(sub, mean=MEAN[::-1], std=STD[::-1]), architecture="ViT-L"), folder)
    assert main(["doctor", path]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "Verdict: 2 findings."
    (line,) = (line for line in lines if line.startswith("channel-order: "))
    assert f"input.mean = {list(MEAN[::-1])}" in line and f"Fix: mean = {list(MEAN)}" in line
    assert main(["doctor", path, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "findings"
    assert [f["code"] for f in report["findings"]] == ["channel-order", "size-claim"]
    assert all(set(f) == {"code", "seen", "expected", "fix"} for f in report["findings"])


def test_an_encoder_that_cannot_be_opened_as_it_is(tmp_path, capsys):
    sub = own(tmp_path / "own", OUTPUT="torch.cat([prefix, patches], 1)")
    path = written(sub, tmp_path / "own")
    assert main(["doctor", path, "--allow-local-code"]) == 3
    said = capsys.readouterr().out
    assert "nothing: it cannot be opened as it is" in said and "Verdict: 1 finding." in said
    assert main(["doctor", path, "--allow-local-code", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["measured"] is None


def one_line(capsys):
    said = capsys.readouterr()
    (line,) = (line for line in said.err.splitlines() if line.startswith("eyechart: "))
    assert "Traceback" not in said.err and said.out == ""
    return line


def test_what_cannot_be_examined_is_one_line(manifest, tmp_path, capsys):
    sub, folder = manifest
    assert main(["doctor", str(WEIGHTS / "floor-blind.toml")]) == 3
    assert "a floor has nothing to examine" in one_line(capsys)
    assert main(["doctor", str(folder / "absent.toml")]) == 2
    assert "no such manifest" in one_line(capsys)
    path = written(sub, folder)
    assert main(["doctor", path, "--protocol", "maxi"]) == 2
    assert "no such protocol" in one_line(capsys)
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main(["doctor", path]) == 3
    assert "hash differs from the manifest's" in one_line(capsys)


def test_code_of_ones_own_needs_to_be_allowed(tmp_path, capsys):
    path = written(own(tmp_path / "own"), tmp_path / "own")
    assert main(["doctor", path]) == 4
    assert "--allow-local-code" in one_line(capsys)
    assert main(["doctor", path, "--allow-local-code"]) == 0


# Runs


@pytest.fixture
def tiny(tmp_path_factory, monkeypatch):
    made = tiny_run.shared(tmp_path_factory)
    tiny_run.patch_commands(monkeypatch, made)
    return made


@pytest.fixture
def faulty(tiny, request, monkeypatch, tmp_path):
    """Manifest of the miniature's encoder, whose own files say another mean."""
    home = tiny.home("doctor-" + re.sub(r"\W+", "-", request.node.name))
    monkeypatch.setenv("EYECHART_HOME", str(home.root))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny.root / "encoder", tmp_path / "mine")
    table = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.25] * 3}
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(table))
    return home, tiny_run.write_manifest(tmp_path / "mine", "faulty")


def test_a_run_refuses_an_encoder_with_a_finding(tiny, faulty, capsys):
    home, path = faulty
    assert main(["run", str(path), "--protocol", str(tiny.protocol)]) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the doctor found a fault: normalisation" in line and "--ignore-doctor" in line
    assert "mean = [0.4, 0.5, 0.6]" in line.lower()
    assert not home.results.exists() and not home.features.exists()


def test_a_run_that_ignores_the_doctor_says_so_in_its_receipts(tiny, faulty):
    home, path = faulty
    assert main(["run", str(path), "--protocol", str(tiny.protocol), "--ignore-doctor"]) == 0
    receipts = [read_bundle(bundle).receipt for bundle in find_bundles(home.results)]
    assert len(receipts) == 18
    assert all(r["doctor"] == {"verdict": "findings", "findings": ["normalisation"]} for r in receipts)


def test_floors_are_not_examined(tiny, faulty, monkeypatch):
    """They are faulty by design."""
    from types import SimpleNamespace

    monkeypatch.setattr(run_module, "examine", None)
    sub = replace(submission(faulty[1].parent, 64), floor="blind")
    plan = SimpleNamespace(subject=SimpleNamespace(submission=sub))
    assert run_module._see_doctor(plan, tiny_run.Quiet, heed=True) == {}


# Time


@pytest.mark.slow
def test_a_vit_b_takes_less_than_a_minute_on_two_cores(tmp_path):
    """Processor seconds of the whole command, so that a busy machine does not decide."""
    script = [sys.executable, str(ROOT / "scripts" / "example_checkpoints.py"), "clip-vit-b-16"]
    subprocess.run([*script, str(tmp_path / "vit")], check=True, capture_output=True)
    path = written(submission(tmp_path / "vit", 224), tmp_path / "vit")
    program = "import sys; from harness.cli import main; sys.exit(main(sys.argv[1:]))"
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", path],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    after = os.times()
    assert done.returncode == 0, done.stdout + done.stderr
    used = sum(after[2:4]) - sum(before[2:4])
    assert used < 60, f"{used:.0f} s of processor time"
