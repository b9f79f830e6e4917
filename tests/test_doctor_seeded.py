"""The doctor names a seeded defect, that one and no other; in sound checkpoints it names none."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace

import pytest
import torch
from checkpoints import CASES, SAVE, save_open_clip, save_timm, save_transformers, submission
from safetensors.torch import save_file

from harness.doctor import examine
from harness.protocol import read_protocol
from harness.records import InputSpec, Source, WeightFile

MINI = read_protocol("mini")
QUICK = [case for case in CASES if case[1] not in {"efficientnet_b0", "mobilenetv3_small_050", "timm-vit"}]


def codes(sub, folder, protocol=MINI, **more):
    return [finding.code for finding in examine(sub, folder, protocol, **more).findings]


@pytest.mark.parametrize(("source", "name"), QUICK, ids=[f"{s}-{n}" for s, n in QUICK])
def test_a_sound_checkpoint_has_no_finding(tmp_path, source, name):
    saved = SAVE[source](tmp_path, name, seed=1)
    assert codes(submission(tmp_path, saved.side), tmp_path) == []


NETWORK = """
import torch
import torch.nn.functional as F


class Encoder(torch.nn.Module):
    stride = 16

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 24, 16, 16)
        self.norm = torch.nn.BatchNorm1d(24)
        self.places = torch.nn.Parameter(torch.zeros(64, 24))
        self.register_parameter("cls", torch.nn.Parameter(torch.zeros(1, 1, 24)))

    def positions(self, side):
        table = self.places.T.reshape(1, 24, 8, 8)
        return F.interpolate(table, size=(side, side), mode="bicubic", antialias=True).flatten(2).mT

    def forward(self, pixels):
        grid = self.patches(pixels)
        side = grid.shape[-1]
        tokens = grid.flatten(2).mT + {positions}
        {body}
        return {result}


def build():
    return Encoder()
"""
SOUND = dict(positions="self.positions(side)", body="pass", result="tokens")
DEFECTS = {
    "not-finite": dict(result="torch.cat([tokens[:, :-1], tokens[:, -1:] * float('nan')], 1)"),
    "constant-features": dict(result="tokens * 0 + 1"),
    "constant-tokens": dict(result="torch.cat([tokens[:, :-1], torch.ones_like(tokens[:, -1:])], 1)"),
    "low-rank": dict(result="tokens.mean(-1, keepdim=True) * torch.linspace(1, 2, 24)"),
    "nondeterministic": dict(result="F.dropout(tokens, 0.2, training=True)"),
    "batch-dependence": dict(body="tokens = F.batch_norm(tokens.mT, None, None, training=True).mT"),
    "prefix-token": dict(result="torch.cat([tokens.mean(1, keepdim=True) + self.cls, tokens[:, :-1]], 1)"),
    "patch-order": dict(result="tokens.reshape(len(tokens), side, side, -1).transpose(1, 2).flatten(1, 2)"),
    "position-embedding": dict(positions="self.places[: side * side]"),
}


def own(folder, **changes):
    """A submission of a small network of one's own, native at 128 pixels."""
    import importlib.util

    parts = {**SOUND, **changes}
    code = textwrap.dedent(NETWORK)
    for name, text in parts.items():
        code = code.replace("{" + name + "}", text)
    folder.mkdir()
    (folder / "encoder.py").write_text(code)
    spec = importlib.util.spec_from_file_location("own", folder / "encoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    network = module.build()
    network.places.data.normal_()
    network.cls.data.normal_()
    save_file(network.state_dict(), folder / "model.safetensors")
    from harness.digest import digest_file

    files = tuple(
        WeightFile(path=n, sha256=digest_file(folder / n)) for n in ("encoder.py", "model.safetensors")
    )
    source = Source(kind="python", name="own", revision="local", files=files)
    return submission(folder, 128, source=source)


def test_the_network_in_which_defects_are_seeded_is_sound(tmp_path):
    sub = own(tmp_path / "own")
    for resolution in (64, 128, 160):
        protocol = replace(MINI, image=replace(MINI.image, resolution=resolution))
        assert codes(sub, tmp_path / "own", protocol, allow_code=True) == []


@pytest.mark.parametrize("code", sorted(DEFECTS))
def test_a_seeded_defect_of_the_network_is_named_alone(tmp_path, code):
    sub = own(tmp_path / "own", **DEFECTS[code])
    assert codes(sub, tmp_path / "own", allow_code=True) == [code]


def given(sub, **changes):
    return replace(sub, input=replace(sub.input, **changes))


def test_a_wrong_manifest_is_named_with_the_line_that_fixes_it(tmp_path):
    saves = {"transformers": ("vit", save_transformers), "timm": ("vit_tiny_patch16_224", save_timm)}
    saves["open_clip"] = ("vit", save_open_clip)
    for source, (name, save) in saves.items():
        folder = tmp_path / source
        folder.mkdir()
        save(folder, name)
        sub = submission(folder, 64)
        own_mean = sub.input.mean
        wrong = {
            "resolution": given(sub, resolution=72),
            "channel-order": given(sub, mean=own_mean[::-1], std=sub.input.std[::-1]),
            "normalisation": given(sub, mean=(0.5, 0.5, 0.5)),
            "size-claim": replace(sub, architecture="ViT-L"),
        }
        for code, claimed in wrong.items():
            report = examine(claimed, folder, MINI)
            assert [f.code for f in report.findings] == [code], source
            if code in {"channel-order", "normalisation"}:
                assert re.search(r"mean = \[0\.48, 0\.45, 0\.4\]", report.findings[0].fix)
        counted = examine(sub, folder, MINI).cost.num_params
        assert codes(replace(sub, architecture=f"ViT, {counted / 1000:.1f} k parameters"), folder) == []


def test_a_checkpoint_that_says_nothing_of_its_input_gets_a_note(tmp_path):
    save_transformers(tmp_path, "resnet")
    (tmp_path / "preprocessor_config.json").unlink()
    sub = replace(submission(tmp_path, 64), input=InputSpec(resolution=64, mean=(0.5,) * 3, std=(0.5,) * 3))
    report = examine(sub, tmp_path, MINI)
    assert report.findings == () and any("says mean and std" in note for note in report.notes)
