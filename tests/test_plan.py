"""`eyechart plan` finds bad input before work starts: one line, the documented exit code, nothing written."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness import commands
from harness.adapter import llm as llm_module
from harness.cli import main
from harness.plan import make_plan

_spec = importlib.util.spec_from_file_location("tiny_run_plan", Path(__file__).with_name("tiny_run.py"))
tiny_run = importlib.util.module_from_spec(_spec)
sys.modules["tiny_run_plan"] = tiny_run
_spec.loader.exec_module(tiny_run)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    made = tiny_run.build(tmp_path_factory.mktemp("tiny-plan"), patch)
    patch.setitem(llm_module.LOCAL_LLMS, "mini-llm", made.llm)
    patch.setattr(commands, "ensure_suite", lambda suite, home: None)
    patch.setattr(
        "harness.plan.make_plan",
        lambda manifest, protocol, home, results: make_plan(manifest, protocol, home, results, made.tasks),
    )
    yield made
    patch.undo()


@pytest.fixture
def folder(tiny, tmp_path):
    shutil.copytree(tiny.root / "encoder", tmp_path / "encoder")
    return tmp_path / "encoder"


def plan(tiny, manifest, capsys, home=None):
    """Exit code and the lines on stderr."""
    home = home or tiny.root / "plan-home"
    if not home.exists():
        home.mkdir()
        (home / "data").symlink_to(tiny.root / "data")
    words = ["plan", str(manifest), "--protocol", str(tiny.protocol), "--home", str(home)]
    code = main(words)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Loading weights")]
    return code, lines


def test_a_sound_submission_is_planned(tiny, folder, capsys):
    manifest = tiny_run.write_manifest(folder)
    home = tiny.root / "sound"
    home.mkdir()
    (home / "data").symlink_to(tiny.root / "data")
    words = ["plan", str(manifest), "--protocol", str(tiny.protocol), "--home", str(home), "--json"]
    assert main(words) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["units"], made["pending"]) == (18, 18)
    assert [p.name for p in home.iterdir()] == ["data"]


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tiny_run.write_manifest(folder)


def missing_tensor(folder):
    return edit_weights(folder, lambda t: t.pop(min(t)))


def extra_tensor(folder):
    return edit_weights(folder, lambda t: t.update(surplus=torch.zeros(3)))


def nan_weights(folder):
    return edit_weights(folder, lambda t: next(v for v in t.values() if v.ndim == 4).fill_(float("nan")))


def wrong_hash(folder):
    manifest = tiny_run.write_manifest(folder)
    edit_weights(folder, lambda t: t.update(surplus=torch.zeros(3)))
    text = manifest.read_text()
    manifest.write_text(text.replace(text.split('sha256 = "')[2][:8], "00000000"))
    return manifest


def misspelt_key(folder):
    manifest = tiny_run.write_manifest(folder)
    manifest.write_text(manifest.read_text().replace("licens", "licenz"))
    return manifest


def missing_file(folder):
    manifest = tiny_run.write_manifest(folder)
    (folder / "model.safetensors").unlink()
    return manifest


def pickled(folder):
    torch.save({"a": torch.zeros(2)}, folder / "model.safetensors")
    return tiny_run.write_manifest(folder)


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return tiny_run.write_manifest(folder)


def outside(folder):
    manifest = tiny_run.write_manifest(folder)
    shutil.copy(folder / "config.json", folder.parent / "config.json")
    manifest.write_text(manifest.read_text().replace('path = "config.json"', 'path = "../config.json"'))
    return manifest


def unsupported(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    return tiny_run.write_manifest(folder)


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (misspelt_key, 3, "licenze"),
        (wrong_hash, 3, "sha256"),
        (missing_file, 3, "model.safetensors"),
        (pickled, 4, "model.safetensors"),
        (truncated, 3, "model.safetensors"),
        (missing_tensor, 3, "missing"),
        (extra_tensor, 3, "surplus"),
        (nan_weights, 3, "nan"),
        (unsupported, 3, "bert"),
        (outside, 4, "../config.json"),
    ],
)
def test_bad_submissions(tiny, folder, capsys, spoil, code, says):
    found, lines = plan(tiny, spoil(folder), capsys)
    assert found == code
    assert len(lines) == 1
    assert says.lower() in lines[0].lower()
    assert not (tiny.root / "plan-home" / "results").exists()


def data_copy(tiny, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(tiny.root / "data", home / "data")
    return home, home / "data" / "mini"


def test_a_changed_task_file_is_a_dataset_error(tiny, folder, tmp_path, capsys):
    home, data = data_copy(tiny, tmp_path)
    path = data / "rec" / "test.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "test.parquet" in lines[0]


def test_missing_data_is_a_dataset_error(tiny, folder, tmp_path, capsys):
    home, data = data_copy(tiny, tmp_path)
    shutil.rmtree(data / "video")
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "eyechart mini data" in lines[0]


def test_no_room_on_the_disk(tiny, folder, capsys, monkeypatch):
    monkeypatch.setattr("harness.files.free_bytes", lambda path: 1000)
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys)
    assert (code, len(lines)) == (6, 1)
    assert "tiny-encoder" in lines[0]
