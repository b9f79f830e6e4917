"""`eyechart plan` finds bad input before work starts: one line, the documented exit code, nothing written."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
import tiny_run
import torch
from safetensors.torch import load_file, save_file

from harness.cli import main
from harness.digest import digest_file


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


def unknown_key(folder):
    manifest = tiny_run.write_manifest(folder)
    manifest.write_text('flavour = "vanilla"\n' + manifest.read_text())
    return manifest


def missing_hash(folder):
    manifest = tiny_run.write_manifest(folder)
    manifest.write_text(re.sub(r'sha256 = "\w+"\n', "", manifest.read_text(), count=1))
    return manifest


def misshapen(folder):
    return edit_weights(folder, lambda t: t.update({min(t): torch.zeros(7)}))


def by_link(folder):
    manifest = tiny_run.write_manifest(folder)
    (folder.parent / "elsewhere").mkdir()
    shutil.move(folder / "config.json", folder.parent / "elsewhere")
    (folder / "config.json").symlink_to(folder.parent / "elsewhere" / "config.json")
    return manifest


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (unknown_key, 3, "flavour"),
        (missing_hash, 3, "sha256"),
        (misshapen, 3, "expected"),
        (by_link, 4, "config.json"),
    ],
)
def test_more_bad_submissions(tiny, folder, capsys, spoil, code, says):
    test_bad_submissions(tiny, folder, capsys, spoil, code, says)
    assert not (tiny.root / "plan-home" / "cache").exists()


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


def rewrite(path, change, *, seal):
    """Change a split's rows; `seal` makes hash and count in the note fit the new file."""
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    if seal:
        note_path = path.parent / "DATASET.json"
        note = json.loads(note_path.read_text())
        note["files"][path.name], note["rows"][path.stem] = digest_file(path), len(rows)
        note_path.write_text(json.dumps(note))


def cut_image(rows):
    rows[4]["image"]["bytes"] = rows[4]["image"]["bytes"][:100]
    return rows


def test_a_corrupt_image_is_named(tiny, folder, tmp_path, capsys):
    home, data = data_copy(tiny, tmp_path)
    rewrite(data / "rec" / "test.parquet", cut_image, seal=False)
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "row 4" in lines[0]
    assert "test.parquet" in lines[0]


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize("split", ["rec/test", "probe/train", "mixture/train"])
def test_an_empty_split_is_a_dataset_error(tiny, folder, tmp_path, capsys, split, seal):
    home, data = data_copy(tiny, tmp_path)
    rewrite(data / f"{split}.parquet", lambda rows: [], seal=seal)
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "empty" in lines[0]
    assert f"{split}.parquet" in lines[0]
    assert [p.name for p in home.iterdir()] == ["data"]


def test_rows_that_are_gone_are_a_dataset_error(tiny, folder, tmp_path, capsys):
    home, data = data_copy(tiny, tmp_path)
    rewrite(data / "vqa" / "validation.parquet", lambda rows: rows[:-1], seal=True)
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "validation.parquet" in lines[0]


def test_another_dataset_than_the_pinned_one(tiny, folder, tmp_path, capsys):
    home, data = data_copy(tiny, tmp_path)
    note = json.loads((data / "vqa" / "DATASET.json").read_text())
    (data / "vqa" / "DATASET.json").write_text(json.dumps({**note, "digest": "0" * 64}))
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "pinned" in lines[0]


@pytest.mark.parametrize("note", ["", "[]", '{"digest": 3}', "{"])
def test_a_damaged_note_is_a_dataset_error(tiny, folder, tmp_path, capsys, note):
    home, data = data_copy(tiny, tmp_path)
    (data / "vqa" / "DATASET.json").write_text(note)
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys, home)
    assert (code, len(lines)) == (5, 1)
    assert "DATASET.json" in lines[0]


def test_a_changed_language_model_is_refused(tiny, folder, tmp_path, capsys, monkeypatch):
    shutil.copytree(tiny.llm, tmp_path / "llm")
    with open(tmp_path / "llm" / "chat_template.jinja", "a") as file:
        file.write(" ")
    monkeypatch.setitem(tiny_run.llm_module.LOCAL_LLMS, "mini-llm", tmp_path / "llm")
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys)
    assert (code, len(lines)) == (8, 1)
    assert "mini-llm" in lines[0]


def test_a_missing_language_model_is_one_line(tiny, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tiny_run.llm_module.LOCAL_LLMS, "mini-llm", tmp_path / "absent")
    code, lines = plan(tiny, tiny_run.write_manifest(folder), capsys)
    assert (code, len(lines)) == (8, 1)
    assert "config.json" in lines[0]
