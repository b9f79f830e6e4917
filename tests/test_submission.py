"""Submissions: what is wrong with a manifest or its files is one clear line with the right exit code."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from harness.digest import digest_bytes
from harness.errors import EyechartError, SubmissionError, UnsafeInputError, UsageError
from harness.records import PretrainStage, Submission
from harness.safetensors_header import MAX_HEADER_BYTES, read_safetensors_header
from harness.submission import (
    MAX_MANIFEST_BYTES,
    identity_digest,
    read_submission,
    verify_files,
    write_manifest,
)

ZERO = "0" * 64
MANIFEST = f"""\
schema = 1
id = "resnet-siglip"
title = "ResNet, sigmoid-contrastive"
authors = ["A. Person"]
links = ["https://example.org/paper"]
license = "Apache-2.0"
contamination = "none known"

[source]
kind = "transformers"
name = "resnet"
revision = "local"

[[source.files]]
path = "config.json"
sha256 = "{ZERO}"

[[source.files]]
path = "model.safetensors"
sha256 = "{ZERO}"

[input]
resolution = 64
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 1]

[[pretraining]]
objective = "sigmoid-contrastive"
data = "mini world captions"
images_seen = 400000
"""
FLOOR = """\
schema = 1
id = "blind"
title = "Blind"
license = "Apache-2.0"
contamination = "none known"
[source]
kind = "floor"
name = "blind"
revision = "local"
files = []
[input]
resolution = 64
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[floor]
kind = "blind"
"""


def read(folder: Path, text: str | bytes) -> Submission:
    path = folder / "manifest.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_submission(path)


def changed(old: str, new: str, text: str = MANIFEST) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


def refused(kind: type[EyechartError], call, *args) -> str:
    with pytest.raises(EyechartError) as caught:
        call(*args)
    assert type(caught.value) is kind, caught.value
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def test_a_good_manifest(tmp_path):
    sub = read(tmp_path, MANIFEST)
    assert sub.source.files[1].path == "model.safetensors"
    assert sub.input.std == (0.25, 0.25, 1.0)
    assert sub.pretraining[0].locked == "none"
    assert (sub.family, sub.side, sub.floor) == ("sigmoid-contrastive", "contrastive", None)
    assert sub.identity_digest == identity_digest(sub)
    assert len([line for line in MANIFEST.splitlines() if line]) <= 25


def test_windows_line_ends_and_byte_order_mark(tmp_path):
    windows = b"\xef\xbb\xbf" + MANIFEST.replace("\n", "\r\n").encode()
    assert read(tmp_path, windows) == read(tmp_path, MANIFEST)


def test_a_good_floor(tmp_path):
    sub = read(tmp_path, FLOOR)
    assert (sub.floor, sub.base, sub.family, sub.side) == ("blind", "", "none", "floor")
    assert sub.authors == ()
    shuffled = changed('kind = "blind"', 'kind = "shuffled-image"\nbase = "resnet-siglip"', FLOOR)
    other = changed('"resnet-siglip"', '"vit-siglip"', shuffled)
    assert read(tmp_path, shuffled).base == "resnet-siglip"
    assert read(tmp_path, shuffled).identity_digest != read(tmp_path, other).identity_digest


def test_identity_is_source_and_input_only(tmp_path):
    one = read(tmp_path, MANIFEST)
    annotated = changed("ResNet, sigmoid-contrastive", "Another title")
    annotated = changed('id = "resnet-siglip"', 'id = "another-id"', annotated)
    annotated = changed("images_seen = 400000", "images_seen = 5", annotated)
    assert read(tmp_path, annotated).identity_digest == one.identity_digest
    for old, new in [("resolution = 64", "resolution = 65"), (ZERO, "1" * 64), ('"resnet"', '"vit"')]:
        assert read(tmp_path, changed(old, new)).identity_digest != one.identity_digest


# change to the manifest -> what the line must say
MISTAKES = [
    ('title = "', 'titel = "', ["titel", "unknown key", "expected title"]),
    ("resolution = 64", "resolutoin = 64", ["input.resolutoin", "expected resolution"]),
    ("images_seen", "image_seen", ["pretraining[0].image_seen", "images_seen"]),
    ('path = "config', 'pth = "config', ["source.files[0].pth", "expected path"]),
    ("schema = 1\n", "", ["schema", "no such key", "Write schema = 1"]),
    ("schema = 1", "schema = 2", ["schema", "found 2"]),
    ("schema = 1", "schema = true", ["schema", "found True"]),
    ('license = "Apache-2.0"\n', "", ["license", "key missing"]),
    ("resolution = 64", 'resolution = "64"', ["input.resolution", "wrong type", "a whole number"]),
    ("resolution = 64", "resolution = true", ["input.resolution", "wrong type"]),
    ("resolution = 64", "resolution = 64.0", ["input.resolution", "a whole number"]),
    ("resolution = 64", "resolution = -64", ["input.resolution", "out of range", "8 to 4096"]),
    ("resolution = 64", f"resolution = {2**70}", ["input.resolution", "out of range"]),
    ("resolution = 64", f"resolution = {'9' * 5000}", ["not valid TOML"]),
    ("mean = [0.5", "mean = [nan", ["input.mean[0]", "not a finite number"]),
    ("mean = [0.5", "mean = [1e999", ["input.mean[0]", "not a finite number"]),
    ("mean = [0.5", "mean = [-0.5", ["input.mean[0]", "out of range"]),
    ("mean = [0.5", "mean = [127.5", ["input.mean[0]", "0 to 1"]),
    ("mean = [0.5, ", "mean = [", ["input.mean", "wrong number of items", "found 2", "expected 3"]),
    ("std = [0.25", "std = [0.0", ["input.std[0]", "out of range"]),
    ("images_seen = 400000", "images_seen = -1", ["pretraining[0].images_seen", "out of range"]),
    ('id = "resnet', 'id = "ResNet', ["id", "not well formed", "a-z, 0-9"]),
    ('id = "resnet', 'id = "-resnet', ["id", "not well formed"]),
    ('id = "resnet-siglip"', 'id = "r"', ["id", "2 to 63"]),
    ('id = "resnet', f'id = "{"r" * 60}', ["id", "text too long", "at most 63"]),
    ('title = "', f'title = "{"x" * 200}', ["title", "text too long", "at most 200"]),
    ('title = "', 'title = "\\u0000', ["title", "control character", "U+0000"]),
    ('title = "', 'title = "\\n', ["title", "control character", "U+000A"]),
    ('title = "', 'title = "\\u202e', ["title", "control character", "U+202E"]),
    ('title = "ResNet, sigmoid-contrastive"', 'title = " "', ["title", "empty text"]),
    ('authors = ["A. Person"]', "authors = []", ["authors", "wrong number of items"]),
    ('authors = ["A. Person"]', 'authors = "A. Person"', ["authors", "a list"]),
    ('authors = ["A. Person"]', f"authors = {['x'] * 101}", ["authors", "found 101"]),
    ('authors = ["A. Person"]', 'authors = ["A", 3]', ["authors[1]", "wrong type"]),
    ("https://example.org/paper", "javascript:alert(1)", ["links[0]", "https://"]),
    ("https://example.org/paper", "https://a/'><script>", ["links[0]", "https://"]),
    (ZERO, "0" * 63, ["source.files[0].sha256", "64 lower-case hex digits"]),
    (ZERO, "G" * 64, ["source.files[0].sha256", "64 lower-case hex digits"]),
    ('revision = "local"', 'revision = "main"', ["source.revision", "40 hex digits"]),
    ('kind = "transformers"', 'kind = "transformer"', ["source.kind", "unknown value", "Write transformers"]),
    ('kind = "transformers"', "kind = 3", ["source.kind", "unknown value"]),
    (
        '"sigmoid-contrastive"\ndata',
        '"sigmoid-contrastiv"\ndata',
        ["pretraining[0].objective", "Write sigmoid"],
    ),
    ('"sigmoid-contrastive"\ndata', '"none"\ndata', ["pretraining[0].objective", "floors"]),
    ("images_seen = 400000", 'images_seen = 1\nlocked = "image"', ["pretraining", "image side"]),
    ('name = "resnet"', 'name = "../resnet"', ["source.name", "not well formed"]),
    ('name = "resnet"', 'name = "a/../resnet"', ["source.name", "not well formed"]),
    ('path = "config.json"', 'path = "model.safetensors"', ["source.files[1].path", "listed twice"]),
    ('path = "config.json"', 'path = "./config.json"', ["source.files[0].path", "expected config.json"]),
    ('path = "config.json"', 'path = "config.yaml"', ["source.files[0].path", "format not known"]),
    ('path = "config.json"', 'path = "other.safetensors"', ["source.files", "no configuration"]),
    ('path = "model.safetensors"', 'path = "model.json"', ["source.files", "no weights"]),
    ("[input]", '[floor]\nkind = "blind"\n[input]', ["floor", "floors only"]),
    ("[input]", "[input", ["not valid TOML", "line 22"]),
    ("[input]", "[source]", ["not valid TOML", "line 22"]),
    ('license = "', 'title = "again"\nlicense = "', ["not valid TOML", "line 6"]),
    ("[input]", "input = 3\n[x]", ["x", "unknown key"]),
]


@pytest.mark.parametrize(("old", "new", "says"), MISTAKES, ids=lambda v: v[:40] if isinstance(v, str) else "")
def test_mistakes(tmp_path, old, new, says):
    line = refused(SubmissionError, read, tmp_path, changed(old, new))
    for part in ["manifest.toml", *says]:
        assert part in line


FLOOR_MISTAKES = [
    ('[floor]\nkind = "blind"\n', "", ["floor", "key missing"]),
    ('kind = "blind"', 'kind = "blnd"', ["floor.kind", "Write blind"]),
    ('kind = "blind"', 'knd = "blind"', ["floor.knd", "expected kind"]),
    ('kind = "blind"', "", ["floor.kind", "key missing"]),
    ('kind = "blind"', 'kind = "blind"\nbase = "abc"', ["floor.base", "not allowed"]),
    ('kind = "blind"', 'kind = "random-init"', ["floor.base", "key missing"]),
    ('kind = "blind"', 'kind = "random-init"\nbase = "A B"', ["floor.base", "not well formed"]),
    ('revision = "local"', f'revision = "{"0" * 40}"', ["source.revision", '"local"']),
]


@pytest.mark.parametrize(("old", "new", "says"), FLOOR_MISTAKES)
def test_floor_mistakes(tmp_path, old, new, says):
    line = refused(SubmissionError, read, tmp_path, changed(old, new, FLOOR))
    for part in says:
        assert part in line


def test_no_file_list(tmp_path):
    head, _, tail = MANIFEST.partition("[[source.files]]")
    text = head + "files = []\n\n[input]" + tail.partition("[input]")[2]
    assert "no files" in refused(SubmissionError, read, tmp_path, text)
    assert "source.files" in refused(SubmissionError, read, tmp_path, text.replace("files = []\n", ""))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff" + MANIFEST.encode(), "offset 0"),
        (MANIFEST.replace("Person", "Pers\x00on").encode(), "not valid TOML"),
        (MANIFEST.encode().replace(b"Person", b"P\xe9rson"), "not UTF-8"),
        (b"x = " + b"[" * 20000, "nested too deeply"),
        (b"", "schema"),
        (b"# " + b"x" * MAX_MANIFEST_BYTES, "too large"),
    ],
)
def test_not_a_manifest_at_all(tmp_path, data, says):
    assert says in refused(SubmissionError, read, tmp_path, data)


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "manifest.toml"
    with open(path, "wb") as file:
        file.truncate(2**40)
    assert "too large" in refused(SubmissionError, read_submission, path)


def test_no_such_manifest(tmp_path):
    refused(UsageError, read_submission, tmp_path / "no.toml")
    refused(UsageError, read_submission, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    refused(UsageError, read_submission, tmp_path / "pipe")


@pytest.mark.parametrize(
    "name", ["a.bin", "a.pt", "a.pth", "a.ckpt", "a.pkl", "a.PTH", "a.npz", "modeling.py"]
)
def test_pickle_by_name(tmp_path, name):
    line = refused(UnsafeInputError, read, tmp_path, changed("model.safetensors", name))
    assert "source.files[1].path" in line


@pytest.mark.parametrize(
    "name", ["../m.safetensors", "/m.safetensors", "a/../../m.safetensors", "~/m.safetensors"]
)
def test_path_escape(tmp_path, name):
    refused(UnsafeInputError, read, tmp_path, changed("model.safetensors", name))


def test_link_out_of_the_folder(tmp_path):
    folder = tmp_path / "sub"
    folder.mkdir()
    (tmp_path / "m.safetensors").write_bytes(b"")
    (folder / "model.safetensors").symlink_to("../m.safetensors")
    refused(UnsafeInputError, read, folder, MANIFEST)


def test_written_manifest_reads_back(tmp_path):
    odd = changed("ResNet, sigmoid-contrastive", 'Odd \\"quotes\\" \\\\ λ #[x]')
    for text in (
        odd,
        FLOOR,
        changed('[floor]\nkind = "blind"', '[floor]\nkind = "random-init"\nbase = "abc"', FLOOR),
    ):
        sub = read(tmp_path, text)
        write_manifest(sub, tmp_path / "again.toml")
        assert read_submission(tmp_path / "again.toml") == sub


def test_an_invalid_record_is_not_written(tmp_path):
    sub = read(tmp_path, MANIFEST)
    refused(SubmissionError, write_manifest, replace(sub, id="Not a slug"), tmp_path / "w.toml")
    stage = PretrainStage(objective="captioning", data="x", images_seen=1, locked="image")
    refused(SubmissionError, write_manifest, replace(sub, pretraining=(stage,)), tmp_path / "w.toml")
    assert not (tmp_path / "w.toml").exists()


# --- the files that a manifest names


def safetensors(header: object, data: bytes = b"", pad: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, **changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


GOOD = safetensors({"__metadata__": {"format": "pt"}, "a": entry(0, 8), "b": entry(8, 20)}, b"\0" * 20)
CONFIG = b'{"model_type": "resnet"}'


def checkpoint(folder: Path, weights: bytes = GOOD, config: bytes = CONFIG) -> Submission:
    """A submission whose hashes fit whatever bytes its files have."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_bytes(config)
    text = changed(ZERO, digest_bytes(config))
    return read(folder, changed(ZERO, digest_bytes(weights), text))


def test_good_files(tmp_path):
    verify_files(checkpoint(tmp_path), tmp_path)
    tensors = read_safetensors_header(tmp_path / "model.safetensors", "m")
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {
        "a": ("F32", (2,)),
        "b": ("F32", (3,)),
    }


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480])
def test_a_header_that_begins_like_a_pickle_is_no_pickle(tmp_path, length):
    bare = safetensors({"a": entry(0, 8)})
    weights = safetensors({"a": entry(0, 8)}, b"\0" * 8, pad=length - (len(bare) - 8))
    assert weights[0] == 0x80
    verify_files(checkpoint(tmp_path, weights), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_missing_or_changed_file(tmp_path, name):
    sub = checkpoint(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(
        data.replace(b"resnet", b"resnex") if name == "config.json" else data[:-1] + b"\1"
    )
    line = refused(SubmissionError, verify_files, sub, tmp_path)
    assert "hash differs" in line
    assert name in line
    (tmp_path / name).unlink()
    assert "missing" in refused(SubmissionError, verify_files, sub, tmp_path)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_under_a_safe_name(tmp_path, protocol):
    for name in ("weights", "config"):
        sub = checkpoint(tmp_path, **{name: pickle.dumps({"weight": [0.0] * 100}, protocol)})
        refused(UnsafeInputError, verify_files, sub, tmp_path)


def test_zip_under_a_safe_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    sub = checkpoint(tmp_path, (tmp_path / "x.zip").read_bytes())
    refused(UnsafeInputError, verify_files, sub, tmp_path)


BAD_WEIGHTS = [
    (b"", "truncated"),
    (GOOD[:7], "truncated"),
    (GOOD[:40], "truncated"),
    (GOOD[:-1], "truncated"),
    (GOOD + b"\0", "bytes after the last tensor"),
    (safetensors(b"not json"), "not a safetensors header"),
    (safetensors([1]), "not a safetensors header"),
    (safetensors(b"[" * 100000), "not a safetensors header"),
    (safetensors(b'{"a": {}, "a": {}}'), "same name twice"),
    (safetensors({"a": 3}), "not a tensor's entry"),
    (safetensors({"a": entry(0, 8, dtype="F33")}, b"\0" * 8), "dtype not supported"),
    (safetensors({"a": entry(0, 8, dtype=[])}, b"\0" * 8), "dtype not supported"),
    (safetensors({"a": entry(0, 8, shape=[-2])}, b"\0" * 8), "shape not valid"),
    (safetensors({"a": entry(0, 8, shape=[True])}, b"\0" * 8), "shape not valid"),
    (safetensors({"a": entry(0, 8, shape=[2**60])}, b"\0" * 8), "shape not valid"),
    (safetensors({"a": entry(0, 8, shape=[3])}, b"\0" * 8), "do not fit the shape"),
    (safetensors({"a": entry(0, 8, data_offsets=[0])}, b"\0" * 8), "offsets not valid"),
    (safetensors({"a": entry(0, 8, data_offsets=[8, 0])}, b"\0" * 8), "do not fit the shape"),
    (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12), "overlap"),
    (safetensors({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20), "unused bytes"),
    (safetensors({"x" * 600: entry(0, 8)}, b"\0" * 8), "name too long"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-lfs pointer"),
]


@pytest.mark.parametrize(("weights", "says"), BAD_WEIGHTS, ids=[says for _, says in BAD_WEIGHTS])
def test_bad_weights(tmp_path, weights, says):
    line = refused(SubmissionError, verify_files, checkpoint(tmp_path, weights), tmp_path)
    assert says in line
    assert "model.safetensors" in line


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 100_000_001, 2**63, 2**64 - 1])
def test_oversized_header(tmp_path, length):
    sub = checkpoint(tmp_path, struct.pack("<Q", length) + b"{}")
    assert "header too long" in refused(UnsafeInputError, verify_files, sub, tmp_path)


def test_truncated_after_hashing(tmp_path):
    sub = checkpoint(tmp_path)
    os.truncate(tmp_path / "model.safetensors", len(GOOD) - 4)
    assert "truncated" in refused(SubmissionError, verify_files, sub, tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "a JSON object"),
        (b"\xff", "not valid JSON"),
        (b" " * 2**21, "too large"),
    ],
)
def test_bad_config(tmp_path, config, says):
    line = refused(SubmissionError, verify_files, checkpoint(tmp_path, config=config), tmp_path)
    assert says in line
    assert "config.json" in line


def test_special_files(tmp_path):
    sub = checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    refused(UnsafeInputError, verify_files, sub, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    refused(UnsafeInputError, verify_files, sub, tmp_path)


def test_reading_needs_no_torch():
    code = "import sys, harness.submission as s; assert not {'torch', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
