"""The way of a checkpoint, by its commands: submit, doctor, run, ingest, publish; and where it is stopped."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from checkpoints import SAVE, fill, save_timm, save_transformers
from hub_fixtures import constants, hub, online  # noqa: F401  (fixtures)

from harness.bundle import find_bundles, read_bundle
from harness.cli import main
from harness.digest import digest_file
from harness.submission import read_submission

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tiny, request, monkeypatch, tmp_path):
    made = tiny.home("way-" + "".join(c if c.isalnum() else "-" for c in request.node.name))
    monkeypatch.setenv("EYECHART_HOME", str(made.root))
    monkeypatch.chdir(tmp_path)
    return made


def measured(tiny, manifest, *more):
    """Exit code of a run of the miniature."""
    return main(["run", str(manifest), "--protocol", str(tiny.protocol), *more])


def own_code(folder):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from example_checkpoints import write_own_code
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    write_own_code(folder)
    return folder / "submission.toml"


@pytest.mark.parametrize(
    ("source", "name"),
    [("transformers", "dinov2_with_registers"), ("timm", "vit_tiny_patch16_224"), ("open_clip", "vit")],
)
def test_a_checkpoint_of_each_library_becomes_a_row(tiny, home, tmp_path, capsys, source, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    SAVE[source](folder, name)
    assert main(["submit", str(folder)]) == 0
    manifest = fill(folder / "submission.toml")
    assert main(["doctor", str(manifest), "--protocol", str(tiny.protocol)]) == 0
    assert "Verdict: sound." in capsys.readouterr().out
    assert measured(tiny, manifest) == 0
    bundles = [read_bundle(path) for path in find_bundles(home.results)]
    assert {b.run.submission.id for b in bundles} == {"mine"} and len(bundles) == 18
    assert all(b.receipt["doctor"] == {"verdict": "sound", "findings": []} for b in bundles)
    assert all(b.receipt["gmacs"] > 0 and b.receipt["side"] == 64 for b in bundles)
    assert {b.run.tier for b in bundles} == {"re-run"}
    assert main(["ingest"]) == 0
    assert main(["publish"]) == 0
    assert "A checkpoint of mine" in (tmp_path / "site" / "encoders" / "mine.html").read_text()
    assert "A checkpoint of mine" in (tmp_path / "site" / "index.html").read_text()


def test_a_network_of_ones_own_runs_only_when_allowed_and_is_badged(tiny, home, tmp_path, capsys):
    manifest = own_code(tmp_path / "own")
    for command in ("doctor", "plan", "run"):
        assert main([command, str(manifest), "--protocol", str(tiny.protocol)]) == 4
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "brings its own code" in line and "--allow-local-code" in line
    assert main(["doctor", str(manifest), "--protocol", str(tiny.protocol), "--allow-local-code"]) == 0
    assert measured(tiny, manifest, "--allow-local-code") == 0
    assert {read_bundle(p).run.tier for p in find_bundles(home.results)} == {"self-reported"}
    assert main(["ingest"]) == 0
    assert main(["publish"]) == 0
    page = (tmp_path / "site" / "encoders" / "own-code.html").read_text()
    assert "their own code (python)" in page and "self-reported" in page
    (board,) = (tmp_path / "site" / "boards").glob("*.html")
    assert "self-reported" in board.read_text()
    assert "self-reported" in (tmp_path / "site" / "index.html").read_text()


def test_other_code_under_the_same_weights_is_another_encoder(tmp_path):
    from harness.encoders import open_encoder

    said = []
    for change in ("", "# a comment\n"):
        manifest = own_code(tmp_path / "own")
        code = tmp_path / "own" / "encoder.py"
        code.write_text(code.read_text() + change)
        manifest.write_text(
            re.sub(r'sha256 = "\w+"', f'sha256 = "{digest_file(code)}"', manifest.read_text(), count=1)
        )
        sub = read_submission(manifest)
        said.append(open_encoder(sub, tmp_path / "own", allow_code=True).description())
    assert said[0] != said[1]


def test_no_row_of_record_is_somebodys_own_code():
    kinds = {
        json.loads(path.read_text())["submission"]["source"]["kind"]
        for path in (ROOT / "results").glob("*/*/*/run.json")
    }
    assert kinds and "python" not in kinds


@pytest.fixture
def two(tiny, home, tmp_path):
    """The manifests of a checkpoint that was measured, and of the same weights in another file."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    save_transformers(first, "vit")
    main(["submit", str(first)])
    shutil.copytree(first, second)
    (second / "submission.toml").unlink()
    # Another order of the tensors: other bytes, another hash, the same weights.
    from safetensors.torch import load_file, save_file

    weights = load_file(second / "model.safetensors")
    save_file(
        {**weights, "classifier.weight": weights["layernorm.weight"].clone()}, second / "model.safetensors"
    )
    main(["submit", str(second)])
    for folder in (first, second):
        fill(folder / "submission.toml")
    assert measured(tiny, first / "submission.toml") == 0
    return first / "submission.toml", second / "submission.toml"


def test_the_same_weights_under_another_name_are_named(tiny, two, capsys):
    first, second = two
    hashes = [[f.sha256 for f in read_submission(path).source.files] for path in two]
    assert hashes[0] != hashes[1]
    assert measured(tiny, second) == 3
    assert "duplicate of first" in capsys.readouterr().err.splitlines()[-1]
    assert main(["status", str(first), "--protocol", str(tiny.protocol)]) == 0  # itself is no duplicate
    # A text side trained around a locked image side shares its parent's weights by design.
    locked = '\n[[pretraining]]\nobjective = "softmax-contrastive"\ndata = "pairs"\nimages_seen = 9\n'
    second.write_text(second.read_text() + locked + 'locked = "image"\n')
    assert main(["plan", str(second), "--protocol", str(tiny.protocol)]) == 0
    capsys.readouterr()


@pytest.fixture
def shop(online, hub, monkeypatch):  # noqa: F811
    """A hub that the client asks by default."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    return hub


def test_a_hub_checkpoint_is_fetched_pinned_and_fetched_again(home, shop, tmp_path, capsys):
    saved = tmp_path / "theirs"
    saved.mkdir()
    save_timm(saved, "vit_tiny_patch16_224")
    files = {p.name: p.read_bytes() for p in saved.iterdir()}
    commit = shop.add_repo("org/net", files, library_name="timm", tags=["license:apache-2.0"])
    assert main(["submit", "org/net"]) == 0
    manifest = fill(Path("net") / "submission.toml")
    sub = read_submission(manifest)
    assert (sub.source.kind, sub.source.name, sub.source.revision) == ("timm", "org/net", commit)
    assert sub.id == "net" and sub.license == "apache-2.0"
    shop.add_repo("org/net", {**files, "model.safetensors": b"newer"}, library_name="timm")
    (Path("net") / "model.safetensors").unlink()
    assert main(["doctor", str(manifest)]) == 3  # says what is missing
    assert "eyechart fetch" in capsys.readouterr().err
    assert main(["fetch", str(manifest)]) == 0
    assert (Path("net") / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert main(["doctor", str(manifest)]) == 0
    assert main(["submit", "org/absent"]) == 3
    assert "org/absent" in capsys.readouterr().err.splitlines()[-1]


def test_options_of_the_hub_do_not_fit_a_folder(home, tmp_path, capsys):
    saved = tmp_path / "here"
    saved.mkdir()
    save_transformers(saved, "vit")
    assert main(["submit", str(saved), "--revision", "main"]) == 2
    assert main(["submit", "no-such-folder"]) == 2
    assert "no such folder" in capsys.readouterr().err.splitlines()[-1]


def test_a_pth_becomes_a_submission(home, tmp_path, capsys):
    import torch

    saved = tmp_path / "saved"
    saved.mkdir()
    network = save_transformers(saved, "vit").network
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "mine.pth")
    out = tmp_path / "made"
    config = str(saved / "config.json")
    assert main(["convert", str(tmp_path / "mine.pth"), "--out", str(out), "--config", config]) == 0
    said = capsys.readouterr().out
    assert "level" in said and f"eyechart submit {out}" in said
    assert main(["submit", str(out), "--mean", *["0.5"] * 3, "--std", *["0.5"] * 3]) == 0
    assert (out / "submission.toml").is_file()


def test_a_folder_with_two_formats_asks_which(home, tmp_path, capsys):
    folder = tmp_path / "both"
    folder.mkdir()
    SAVE["open_clip"](folder, "vit")
    save_transformers(folder, "clip_vision_model")
    assert main(["submit", str(folder)]) == 3
    assert "--format" in capsys.readouterr().err.splitlines()[-1]
    assert main(["submit", str(folder), "--format", "open_clip"]) == 0
    names = [f.path for f in read_submission(fill(folder / "submission.toml")).source.files]
    assert names == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert main(["doctor", str(folder / "submission.toml")]) == 0
