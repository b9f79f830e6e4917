"""Hostile and broken submissions, through the command line: one line, exit code 3 or 4, nothing left behind.

Every fault of sections 1.1 and 1.2 of the reliability report that a submission can have (M1-M15, W1-W15), and
the tricks of a configuration (C, T, O for transformers, timm, open_clip) and of a person's own code (Y).
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import save_open_clip, save_timm, write_preprocessor
from safetensors.torch import load_file, save_file

from harness.cli import main
from harness.digest import digest_file
from harness.encoders import open_encoder
from harness.protocol import read_protocol
from harness.submission import read_submission

ROOM_BYTES = 2 << 30
"""Of address space beyond what the process has: a configuration that asks for more is no refusal."""
PATIENCE_S = 30
WEIGHTS = {"open_clip": "open_clip_model.safetensors"}
CONFIG = {"open_clip": "open_clip_config.json"}
ALL = ("submit", "doctor", "plan")
READ = ("doctor", "plan")
LOOK = ("submit", "doctor")
PYTHON: dict[str, Any] = {"base": "python", "commands": READ, "kind": "python"}
FORMATS = ("transformers", "timm", "open_clip")
OWN_CODE = """import torch


class Net(torch.nn.Module):
    stride = 16

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, x):
        return self.conv(x).flatten(2).transpose(1, 2)


def build():
    return Net()
"""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a sound checkpoint and its manifest."""

    id: str
    spoil: Callable[[Path], Any]
    """Works on the folder; the manifest's hashes fit what it leaves."""
    code: int
    says: tuple[str, ...]
    base: str = "transformers"
    commands: tuple[str, ...] = ALL
    late: bool = False
    """The manifest was written before."""
    kind: str = "local"


def f(id_: str, spoil: Callable[[Path], Any], code: int, *says: str, **more: Any) -> Fault:
    return Fault(id_, spoil, code, says, **more)


def weights_of(folder: Path) -> Path:
    return folder / WEIGHTS.get(folder.name, "model.safetensors")


def config_of(folder: Path) -> Path:
    return folder / CONFIG.get(folder.name, "config.json")


# --- manifests


def manifest_of(folder: Path, kind: str = "local", paths: tuple[str, ...] = ()) -> Path:
    """submission.toml of what a folder holds, hashes as they are; of what cannot be read, zeros."""
    paths = paths or tuple(
        sorted(
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if p.suffix in {".safetensors", ".py"} or p.name in {"config.json", "open_clip_config.json"}
        )
    )
    files = ""
    for path in paths:
        small = (folder / path).is_file() and (folder / path).stat().st_size < 1 << 30
        sha256 = digest_file(folder / path) if small else "0" * 64
        files += f'[[source.files]]\npath = "{path}"\nsha256 = "{sha256}"\n'
    text = f"""schema = 1
id = "hostile"
title = "Tiny"
authors = ["A. Tester"]
links = ["https://example.org/paper"]
license = "Apache-2.0"
contamination = "none known"
[source]
kind = "{kind}"
name = "tiny"
revision = "local"
{files}
[input]
resolution = 64
mean = [0.48, 0.45, 0.4]
std = [0.27, 0.26, 0.28]
[[pretraining]]
objective = "label-classification"
data = "none"
images_seen = 1
"""
    path = folder / "submission.toml"
    path.write_text(text)
    return path


def said(old: str, new: str | bytes) -> Callable[[Path], Any]:
    """The manifest with another text in it."""

    def spoil(folder: Path) -> None:
        path = folder / "submission.toml"
        data, wanted = path.read_bytes(), old.encode()
        assert wanted in data, old
        path.write_bytes(data.replace(wanted, new.encode() if isinstance(new, str) else new, 1))

    return spoil


def whole(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        path = folder / "submission.toml"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def manifest(id_: str, spoil: Callable[[Path], Any], *says: str, code: int = 3, **more: Any) -> Fault:
    return Fault(id_, spoil, code, ("submission.toml", *says), commands=READ, late=True, **more)


def gigabyte(folder: Path) -> None:
    os.truncate(folder / "submission.toml", 1 << 30)


TITLE, SIDE, MEAN = 'title = "Tiny"', "resolution = 64", "mean = [0.48"
CONFIG_PATH, WEIGHTS_PATH = 'path = "config.json"', 'path = "model.safetensors"'
DOTS = ".a" * 30_000
KEYS = ", ".join(f"a{i} = 1" for i in range(5000))
MANIFESTS = [
    manifest("M1-latin", said("Tester", b"T\xe9ster"), "not UTF-8", "0xe9 at offset"),
    manifest("M1-utf16", whole(lambda d: d.decode().encode("utf-16")), "not UTF-8", "offset 0"),
    manifest("M1-nul", said("Tester", "T\0"), "not valid TOML", r"\x00"),
    manifest("M1-surrogate", said("Tester", r"T\ud800"), "not valid TOML", "Unicode scalar"),
    manifest("M1-surrogate-bytes", said("Tester", b"T\xed\xa0\x80"), "not UTF-8"),
    manifest("M1-old-mac-line-ends", whole(lambda d: d.replace(b"\n", b"\r")), "not valid TOML"),
    manifest("M2-key-twice", said("schema = 1\n", "schema = 1\nschema = 1\n"), "not valid TOML", "line 2"),
    manifest("M2-table-twice", whole(lambda d: d + b"[input]\n"), "not valid TOML", "input"),
    manifest("M2-brackets", said(TITLE, "title = " + "[" * 30_000), "nested too deeply"),
    manifest("M2-tables-in-tables", said(TITLE, "title = " + "{a=" * 15_000), "nested too deeply"),
    manifest("M2-dotted-bomb", said(TITLE, f"title{DOTS} = 1"), "not valid TOML", "too many parts"),
    manifest("M2-dotted-header", whole(lambda d: d + f"[x{DOTS}]\n".encode()), "too many parts"),
    manifest("M2-dotted-in-a-line", said(TITLE, f'title = {{"""a"""" = 1, b{DOTS} = ""}}'), "not valid TOML"),
    manifest("M2-lists-in-lists", said(TITLE, "title = " + "[" * 200 + "]" * 200), "title", "wrong type"),
    manifest("M2-thousands-of-keys", said(TITLE, f"title = {{{KEYS}}}"),
             "title", "wrong type"),
    manifest("M2-hex-number", said(SIDE, "resolution = 0x" + "f" * 50_000), "input.resolution",
             "out of range"),
    manifest("M2-hex-in-a-list", said(MEAN, "mean = [0x" + "f" * 50_000), "input.mean[0]", "out of range"),
    manifest("M2-hex-for-a-text", said(TITLE, "title = 0x" + "f" * 50_000), "title", "wrong type"),
    manifest("M2-long-number", said(SIDE, "resolution = " + "9" * 50_000), "not valid TOML", "4300"),
    manifest("M2-long-key", whole(lambda d: b"x" * 60_000 + b" = 1\n" + d), "xxx...", "unknown key"),
    manifest("M2-long-word", said('kind = "local"', f'kind = "{"l" * 60_000}"'), "source.kind",
             "unknown value"),
    manifest("M2-table-for-a-word", said('kind = "local"', "kind" + ".a" * 30 + " = 1"), "source.kind"),
    manifest("M3-gigabyte", gigabyte, "manifest too large", "65,536"),
    manifest("M3-long-text", said("Tiny", "T" * 60_000), "title", "found 60000 characters"),
    manifest("M4-unknown", said(TITLE, f"{TITLE}\nflavour = 1"), "flavour", "unknown key"),
    manifest("M4-misspelt", said(SIDE, "resolutoin = 64"), "input.resolutoin", "Write resolution"),
    manifest("M4-missing", said('license = "Apache-2.0"\n', ""), "license", "key missing"),
    manifest("M5-true", said(SIDE, "resolution = true"), "input.resolution", "a whole number"),
    manifest("M5-text", said(SIDE, 'resolution = "64"'), "input.resolution", "a whole number"),
    manifest("M5-fraction", said(SIDE, "resolution = 64.0"), "input.resolution", "a whole number"),
    manifest("M5-date", said(SIDE, "resolution = 1979-05-27"), "input.resolution", "a whole number"),
    manifest("M5-nan", said(MEAN, "mean = [nan"), "input.mean[0]", "not a finite number"),
    manifest("M5-1e999", said(MEAN, "mean = [1e999"), "input.mean[0]", "not a finite number"),
    manifest("M5-negative", said(SIDE, "resolution = -64"), "input.resolution", "8 to 4096"),
    manifest("M5-zero", said(SIDE, "resolution = 0"), "input.resolution", "8 to 4096"),
    manifest("M5-2**63", said(SIDE, f"resolution = {2**63}"), "input.resolution", "8 to 4096"),
    manifest("M5-schema-of-a-fraction", said("schema = 1", "schema = 1.0"), "schema", "found 1.0"),
    manifest("M6-mean-of-255", said(MEAN, "mean = [127.5"), "input.mean[0]", "0 to 1"),
    manifest("M6-std-0", said("std = [0.27", "std = [0.0"), "input.std[0]", "out of range"),
    manifest("M6-no-mean", said("mean = [0.48, 0.45, 0.4]\n", ""), "input.mean", "key missing"),
    manifest("M6-two-channels", said("mean = [0.48, 0.45, 0.4]", "mean = [0.5, 0.5]"), "input.mean",
             "expected 3"),
    manifest("M7-upper-case", said('"hostile"', '"Hostile"'), "id", "a-z, 0-9"),
    manifest("M7-dot", said('"hostile"', '"hostile."'), "id", "not well formed"),
    manifest("M7-dash", said('"hostile"', '"-hostile"'), "id", "not well formed"),
    manifest("M7-long", said('"hostile"', f'"{"h" * 64}"'), "id", "at most 63"),
    manifest("M7-homoglyph", said('"hostile"', '"hostile\u212a"'), "id", "not well formed"),
    manifest("M7-windows-device", said('"hostile"', '"com1"'), "id", "device"),
    manifest("M7-id-of-a-floor", said('"hostile"', '"floor-blind"'), "id", "floor"),
    manifest("M7-zero-width", said('"Tiny"', '"\u200b\u200b"'), "title", "U+200B"),
    manifest("M7-right-to-left", said('"Tiny"', '"\u202ex"'), "title", "U+202E"),
    manifest("M8-dotdot", said(CONFIG_PATH, 'path = "../config.json"'), "files[0].path", "../", code=4),
    manifest("M8-dotdot-inside", said(CONFIG_PATH, 'path = "a/../../x.json"'), "files[0].path", code=4),
    manifest("M8-absolute", said(CONFIG_PATH, 'path = "/etc/config.json"'), "files[0].path", "/etc", code=4),
    manifest("M8-home", said(CONFIG_PATH, 'path = "~/config.json"'), "files[0].path", "~", code=4),
    manifest("M8-address", said(CONFIG_PATH, 'path = "file:///c.json"'), "files[0].path", "file:", code=4),
    manifest("M8-drive", said(CONFIG_PATH, 'path = "C:/config.json"'), "files[0].path", "C:", code=4),
    manifest("M8-unc", said(CONFIG_PATH, r"path = '\\host\share\c.json'"), "files[0].path", code=4),
    manifest("M8-nul", said(CONFIG_PATH, r'path = "con\u0000fig.json"'), "files[0].path", "U+0000"),
    manifest("M8-device", said(CONFIG_PATH, 'path = "/dev/zero"'), "files[0].path", "/dev/zero", code=4),
    manifest("M10-branch", said('revision = "local"', 'revision = "main"'), "source.revision", "40 hex"),
    manifest("M10-short", said('revision = "local"', 'revision = "0a1b2c3"'), "source.revision", "40 hex"),
    manifest("M10-commit-of-local-files", said('revision = "local"', f'revision = "{"0" * 40}"'), "revision"),
    manifest("M11-javascript", said("https://example.org/paper", "javascript:alert(1)"), "links[0]", "https"),
    manifest("M11-data", said("https://example.org/paper", "data:text/html,x"), "links[0]", "https"),
    manifest("M11-tag-in-a-link", said("https://example.org/paper", "https://a/<script>"), "links[0]"),
    manifest("M14-newer", said("schema = 1", "schema = 2"), "schema", "expected 1", "Update Eyechart"),
    manifest("M14-older", said("schema = 1", "schema = 0"), "schema", "expected 1"),
    manifest("W1-bin", said(WEIGHTS_PATH, 'path = "pytorch_model.bin"'), "files[1].path", "safetensors",
             code=4),
    manifest("W1-onnx", said(WEIGHTS_PATH, 'path = "model.onnx"'), "files[1].path", "safetensors", code=4),
    manifest("W1-gguf", said(WEIGHTS_PATH, 'path = "model.GGUF"'), "files[1].path", "safetensors", code=4),
    manifest("W1-own-code", said(WEIGHTS_PATH, 'path = "modeling.py"'), "files[1].path", code=4),
]  # fmt: skip

# --- weights


def raw(data: bytes) -> Callable[[Path], Any]:
    return lambda folder: weights_of(folder).write_bytes(data)


def header(table: object, data: bytes = b"") -> Callable[[Path], Any]:
    """A safetensors file with this header."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return raw(struct.pack("<Q", len(text)) + text + data)


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **changes}


def one(**changes: Any) -> Callable[[Path], Any]:
    return header({"a": entry(0, 8, **changes)}, b"\0" * 8)


def bomb(count: int) -> Callable[[Path], Any]:
    empty = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return header(b"{" + b",".join(empty % i for i in range(count)) + b"}")


def tensors(change: Callable[[dict[str, torch.Tensor], str], Any]) -> Callable[[Path], Any]:
    """Change the weights; the name given is that of a convolution of the image side."""

    def spoil(folder: Path) -> None:
        path = weights_of(folder)
        held = load_file(path)
        change(held, min(name for name in held if held[name].ndim == 4))
        save_file(held, path)

    return spoil


def as_dtype(dtype: torch.dtype) -> Callable[[Path], Any]:
    return tensors(
        lambda held, _: held.update({n: (9 * t).to(dtype) for n, t in held.items() if t.is_floating_point()})
    )


def sparse(folder: Path, name: str, num_bytes: int) -> None:
    text = json.dumps({name: entry(0, num_bytes)}).encode()
    with open(folder / name, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + num_bytes)


def five_vast_shards(folder: Path) -> None:
    weights_of(folder).unlink()
    names = [f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    for name in names:
        sparse(folder, name, 15 << 30)
    index = {"weight_map": {name: name for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def torch_save(folder: Path) -> None:
    torch.save({"a": torch.zeros(2)}, weights_of(folder))


def append_zip(folder: Path) -> None:
    with zipfile.ZipFile(weights_of(folder), "a") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


def instead(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Something else under the name of the weights."""

    def spoil(folder: Path) -> None:
        weights_of(folder).unlink()
        make(weights_of(folder))

    return spoil


def renamed(name: str) -> Callable[[Path], Any]:
    return lambda folder: weights_of(folder).rename(folder / name)


def flip_a_bit(folder: Path) -> None:
    data = bytearray(weights_of(folder).read_bytes())
    data[-7] ^= 1
    weights_of(folder).write_bytes(data)


def cut_off(folder: Path) -> None:
    os.truncate(weights_of(folder), weights_of(folder).stat().st_size - 100)


def linked_from_a_blob(folder: Path) -> None:
    renamed("blob")(folder)
    weights_of(folder).symlink_to("blob")


PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def shards(change: Callable[[dict[str, Any], Path, dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    """The weights in two files with an index, then something wrong with them."""

    def spoil(folder: Path) -> None:
        held = load_file(weights_of(folder))
        weights_of(folder).unlink()
        place = {name: PARTS[i >= 9] for i, name in enumerate(sorted(held))}
        for part in PARTS:
            save_file({n: t for n, t in held.items() if place[n] == part}, folder / part)
        index = {"metadata": {"total_size": sum(t.nbytes for t in held.values())}, "weight_map": place}
        change(index, folder, held)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def both_formats(folder: Path) -> None:
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copy(folder.parent / "open_clip" / name, folder)


def two_configs(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir()
        shutil.copy(folder / "config.json", folder / name)
    (folder / "config.json").unlink()


def fill(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Path], Any]:
    return tensors(lambda held, name: held.update({name: torch.full_like(held[name], value, dtype=dtype)}))


SUBMIT = ("submit",)
FILE = "model.safetensors"
FILES = [
    f("W1-only-bin", renamed("pytorch_model.bin"), 4, "pytorch_model.bin", "eyechart convert",
      commands=SUBMIT),
    f("W1-only-onnx", renamed("model.onnx"), 4, "model.onnx", "not safetensors", commands=SUBMIT),
    f("W1-nothing", lambda folder: weights_of(folder).unlink(), 3, "no weights", FILE, commands=SUBMIT),
    f("W2-pickle", raw(pickle.dumps({"a": [0.0] * 99})), 4, FILE, "pickle"),
    f("W2-old-pickle", raw(pickle.dumps({"a": [0.0] * 99}, 0)), 4, FILE),
    f("W2-torch-zip", torch_save, 4, FILE, "pickle"),
    f("W2-7z", raw(b"7z\xbc\xaf\x27\x1c" + b"\0" * 99), 4, FILE),
    f("W2-zip-at-the-end", append_zip, 3, FILE, "bytes after the last tensor"),
    f("W2-git-lfs", raw(b"version https://git-lfs.github.com/spec/v1\n"), 3, FILE, "git-lfs pointer"),
    f("W3-length", raw(struct.pack("<Q", 2**63) + b"{}"), 4, FILE, "header too long"),
    f("W3-empty", raw(b""), 3, FILE, "truncated"),
    f("W3-truncated", cut_off, 3, FILE, "truncated"),
    f("W3-name-twice", header(b'{"a":{},"a":{}}'), 3, FILE, "same name twice", "'a'"),
    f("W3-not-utf8", header(b'{"\xff":1}'), 3, FILE, "not a safetensors header"),
    f("W3-nan", header(b'{"a":NaN}'), 3, FILE, "NaN"),
    f("W3-overlap", header({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12), 3, FILE, "overlap"),
    f("W3-hole", header({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20), 3, FILE, "unused bytes"),
    f("W3-negative", one(data_offsets=[-8, 0]), 3, FILE, "'a'", "offsets not valid"),
    f("W3-beyond-the-file", header({"a": entry(0, 1 << 40)}), 3, FILE, "truncated"),
    f("W3-true-for-a-size", one(shape=[True]), 3, FILE, "'a'", "shape not valid"),
    f("W3-rank-9", one(shape=[2] + [1] * 8), 3, FILE, "'a'", "shape not valid"),
    f("W3-endless-size", one(shape=[10**4000]), 3, FILE, "'a'", "shape not valid"),
    f("W3-long-name", header({"x" * 600: entry(0, 8)}, b"\0" * 8), 3, FILE, "name too long"),
    f("W4-header-bomb", bomb(1_000_000), 4, FILE, "header too long"),
    f("W4-within-the-length", bomb(140_000), 4, FILE, "too many parts"),
    f("W4-too-many-tensors", bomb(20_001), 4, FILE, "too many tensors", "20,001"),
    f("W4-lists", header(b'{"a":[' + b"[]," * 2_500_000 + b"1]}"), 4, FILE, "too many parts"),
    f("W4-metadata", header({"__metadata__": {str(i): "" for i in range(300_000)}}), 4, FILE,
      "too many parts"),
    f("W5-missing-shard", shards(lambda i, d, w: (d / PARTS[1]).unlink()), 3, PARTS[1], commands=SUBMIT),
    f("W5-shard-not-listed", shards(lambda i, d, w: (d / PARTS[1]).unlink()), 3, "source.files", "missing",
      commands=READ),
    f("W5-extra-shard", shards(lambda i, d, w: save_file({"z": torch.ones(3)}, d / "model-3.safetensors")), 3,
      "model-3.safetensors", commands=SUBMIT),
    f("W5-outside", shards(lambda i, d, w: i["weight_map"].update(x="../x.safetensors")), 4, "index.json",
      "../x.safetensors", commands=SUBMIT),
    f("W5-absolute", shards(lambda i, d, w: i["weight_map"].update(x="/etc/passwd")), 4, "index.json",
      "/etc/passwd", commands=SUBMIT),
    f("W5-another-shard", shards(lambda i, d, w: i["weight_map"].update({min(w): PARTS[1]})), 3, "index.json",
      min(PARTS), commands=SUBMIT),
    f("W5-tensor-not-in-the-index", shards(lambda i, d, w: i["weight_map"].pop(min(w))), 3, "index.json",
      PARTS[0], commands=SUBMIT),
    f("W5-total", shards(lambda i, d, w: i["metadata"].update(total_size=5)), 3,
      "index.json: metadata.total_size", "found 5", commands=SUBMIT),
    f("W5-no-map", shards(lambda i, d, w: i.update(weight_map=[1])), 3, "index.json: weight_map",
      commands=SUBMIT),
    f("W5-in-two-shards", shards(lambda i, d, w: save_file({n: w[n] for n in sorted(w)[8:]}, d / PARTS[1])),
      3, "model-0000"),
    *(f(f"W6-missing-{form}", tensors(lambda w, name: w.pop(name)), 3, "source.files", "1 missing", base=form)
      for form in FORMATS),
    *(f(f"W6-extra-{form}", tensors(lambda w, _: w.update({"x" * 500: torch.ones(2)})), 3, "source.files",
        "1 extra", "xxx...", base=form) for form in FORMATS),
    *(f(f"W6-shape-{form}", tensors(lambda w, name: w.update({name: torch.ones(2)})), 3, "source.files",
        "[2] instead of", base=form) for form in FORMATS),
    *(f(f"W7-nan-{form}", fill(float("nan")), 3, "safetensors: ", "NaN", base=form) for form in FORMATS),
    f("W7-infinity", fill(-float("inf")), 3, FILE, "infinity"),
    f("W7-too-large-for-float32", fill(1e300, torch.float64), 3, FILE, "infinity"),
    *(f(f"W9-uint8-{form}", as_dtype(torch.uint8), 3, "safetensors: ", "found uint8", base=form)
      for form in FORMATS),
    *(f(f"W9-{str(dtype)[6:]}", as_dtype(dtype), 3, FILE, "dtype") for dtype in (
        torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64)),
    f("W9-int4", header({"a": entry(0, 1, dtype="I4", shape=[2])}, b"\0"), 3, FILE, "'a'", "'I4'"),
    f("W10-17-gib", lambda d: sparse(d, "model.safetensors", 17 << 30), 4, FILE, "too large"),
    f("W10-75-gib-in-shards", five_vast_shards, 4, "too large together", "68,719,476,736"),
    f("W11-pipe", instead(os.mkfifo), 4, FILE, "not a plain file"),
    f("W11-folder", instead(Path.mkdir), 4, FILE, "not a plain file"),
    f("W11-endless-device", instead(lambda p: p.symlink_to("/dev/zero")), 4, FILE, late=True),
    f("W11-link-out", instead(lambda p: p.symlink_to("../timm/model.safetensors")), 4, FILE, late=True),
    f("W11-link-to-itself", instead(lambda p: p.symlink_to(p.name)), 4, FILE, late=True),
    f("W11-link-to-nothing", instead(lambda p: p.symlink_to("nothing")), 4, FILE, commands=SUBMIT),
    f("W11-gone", lambda folder: weights_of(folder).unlink(), 3, FILE, "missing", commands=READ, late=True),
    f("W11-link-to-another-kind", linked_from_a_blob, 4, FILE, "not a plain file", commands=READ, late=True),
    f("W12-one-bit", flip_a_bit, 3, FILE, "hash differs", commands=READ, late=True),
    f("W12-cut-later", cut_off, 3, FILE, "truncated", commands=READ, late=True),
    f("W15-two-files", lambda d: shutil.copy(weights_of(d), d / "other.safetensors"), 3, "safetensors",
      "two files", commands=READ),
    f("W15-no-index",
      lambda d: (shutil.copy(weights_of(d), d / "a.safetensors"), renamed("b.safetensors")(d)), 3,
      "a.safetensors, b.safetensors", commands=SUBMIT),
    f("W15-two-formats", both_formats, 3, "two formats", "--format", commands=SUBMIT),
    f("W15-two-formats-listed", both_formats, 3, "source.files", "two formats", commands=READ),
    f("W15-two-configurations", two_configs, 3, "source.files", "found 2", commands=READ),
]  # fmt: skip

# --- configurations


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        table = json.loads(config_of(folder).read_text())
        change(table)
        config_of(folder).write_text(json.dumps(table))

    return spoil


def swap(old: str, new: str) -> Callable[[Path], Any]:
    """The configuration with another text in it, for what json.dumps would not write."""

    def spoil(folder: Path) -> None:
        text = config_of(folder).read_text()
        assert old in text, text
        config_of(folder).write_text(text.replace(old, new, 1))

    return spoil


def commands_for(id_: str) -> tuple[str, ...]:
    """`plan` opens an encoder as `doctor` does, after a look at the suite: a few of each are enough."""
    return ALL if id_ in {"code", "device", "fetch", "many-layers", "rectangle"} else LOOK


def c(id_: str, says: str | tuple[str, ...], code: int = 3, **fields: Any) -> Fault:
    spoil = edit(lambda table: table.update(fields))
    says = ("config.json", *((says,) if isinstance(says, str) else says))
    return Fault(f"C-{id_}", spoil, code, says, commands=commands_for(id_))


def t(id_: str, says: str, code: int = 3, *, architecture: str = "", **arguments: Any) -> Fault:
    def change(table: dict[str, Any]) -> None:
        table["architecture"] = architecture or table["architecture"]
        table["model_args"] = {**({} if architecture else table["model_args"]), **arguments}

    return Fault(f"T-{id_}", edit(change), code, (says,), base="timm", commands=commands_for(id_))


def o(id_: str, says: str, code: int = 3, model: dict[str, Any] | None = None, **vision: Any) -> Fault:
    def change(table: dict[str, Any]) -> None:
        table["model_cfg"].update(model or {})
        if isinstance(table["model_cfg"]["vision_cfg"], dict):
            table["model_cfg"]["vision_cfg"].update(vision)

    says_ = (CONFIG["open_clip"], says)
    return Fault(f"O-{id_}", edit(change), code, says_, base="open_clip", commands=commands_for(id_))


def beside(name: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return spoil


def replaced(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        config_of(folder).unlink()
        make(config_of(folder))

    return spoil


RANGE = "out of range"
PRE = "preprocessor_config.json"
TEN_MB = edit(lambda table: table.update(x="x" * 10_000_000))
CONFIGURATIONS = [
    *(f(f"C-byte-order-mark-{form}", lambda d: config_of(d).write_bytes(b"\xef\xbb\xbf{}"), 3, "config.json",
        "BOM", base=form) for form in FORMATS),
    *(f(f"C-nan-{form}", swap("{", '{"x": NaN, '), 3, "config.json", "NaN", base=form) for form in FORMATS),
    *(f(f"C-name-twice-{form}", swap("{", '{"x": 1, "x": 2, '), 3, "config.json", "same name twice",
        base=form)
      for form in FORMATS),
    *(f(f"C-deep-{form}", swap("{", '{"x": ' + "[" * 200_000), 3, "config.json", "recursion", base=form)
      for form in FORMATS),
    *(f(f"C-10-mb-{form}", TEN_MB, 4, "config.json", "too large", base=form, commands=SUBMIT)
      for form in FORMATS),
    *(f(f"C-10-mb-listed-{form}", TEN_MB, 3, "config.json", "too large", base=form, commands=READ)
      for form in FORMATS),
    *(f(f"C-pipe-{form}", replaced(os.mkfifo), 4, "config.json", "not a plain file", base=form)
      for form in FORMATS),
    *(f(f"C-link-out-{form}", replaced(lambda p: p.symlink_to("/dev/zero")), 4, "config.json", base=form,
        late=True) for form in FORMATS),
    f("C-list", lambda d: config_of(d).write_text("[]"), 3, "config.json"),
    f("C-pickle", lambda d: config_of(d).write_bytes(pickle.dumps({"a": [0.0] * 9})), 4, "config.json",
      "pickle", commands=READ),
    f("C-thousands-of-digits", swap('"embedding_size": 8', '"embedding_size": ' + "9" * 5000), 3,
      "config.json"),
    f("C-hundreds-of-digits", swap('"embedding_size": 8', '"embedding_size": ' + "9" * 4000), 3,
      "config.json: embedding_size", RANGE),
    f("C-1e999", swap('"embedding_size": 8', '"embedding_size": 1e999'), 3, "config.json: embedding_size",
      RANGE),
    c("long-text", RANGE, hidden_act="x" * 900_000),
    c("long-key", "xxx...", **{"x" * 900_000: 1}),
    c("long-unsafe-key", "xxx...", 4, **{"auto_map" + "x" * 900_000: 1}),
    c("surrogate", RANGE, hidden_act="\ud800"),
    c("surrogate-key", r"\ud800", **{"\ud800": 1}),
    c("code", "auto_map", 4, auto_map={"AutoModel": "evil--evil.Model"}),
    c("kernel", "attn_implementation", 4, attn_implementation="org/kernel"),
    c("type-of-a-list", "model_type", model_type=["resnet"]),
    c("true", "config.json", embedding_size=True),
    c("negative", "config.json", embedding_size=-8),
    c("lists-in-lists", ("depths", "whole numbers"), depths=[[1], [1], [1]]),
    c("many-layers", ("depths", "256 together"), depths=[200, 200, 200]),
    c("many-stages", ("depths", "256 together"), depths=[256] * 64, hidden_sizes=[8] * 64),
    c("another-network", "config.json", hidden_act="os.system"),
    f("C-vast", edit(lambda x: x.update(hidden_sizes=[65536] * 3)), 3, "another network than the weights"),
    f("C-preprocessor-link-out", beside(PRE, lambda p: p.symlink_to("/etc/passwd")), 4, PRE, commands=LOOK),
    f("C-preprocessor-pipe", beside(PRE, os.mkfifo), 4, PRE, "not a plain file", commands=LOOK),
    f("C-preprocessor-nan", beside(PRE, lambda p: p.write_text('{"image_mean": [NaN, 0, 0]}')), 3, PRE, "NaN",
      commands=LOOK),
    f("C-card-link-out", beside("README.md", lambda p: p.symlink_to("/etc/passwd")), 4, "README.md",
      commands=LOOK),
    t("hub", "config.json: architecture", architecture="hf_hub:org/name"),
    t("zero-width-name", "config.json: architecture", architecture="resnet18\u200b"),
    t("long-name", "config.json: architecture", architecture="v" * 900_000),
    t("read-a-file", "checkpoint_path", checkpoint_path="x.pth"),
    t("fetch", "pretrained", pretrained=True),
    t("device", "model_args: unknown configuration keys: found device", device="cpu", embed_dim=8192,
      depth=48),
    t("dtype", "found dtype", dtype="float16"),
    t("nested-lists", "layers", architecture="resnet18", layers=[[1, 1], [1]]),
    t("negative-layers", "layers", architecture="resnet18", layers=[-1, 1, 1, 1]),
    t("true-for-layers", "layers", architecture="resnet18", layers=[True] * 4),
    t("true-for-heads", "model_args: num_heads", num_heads=True),
    t("many-layers", "256 together", depth=257),
    t("many-blocks", "another network", architecture="cait_xxs24_224", depth_token_only=60_000),
    t("many-dense-blocks", "another network", architecture="densenet121", block_config=[60_000] * 4),
    t("vast-image", "img_size", architecture="vit_small_patch16_dinov3", img_size=65_536),
    t("vast-masks", "another network", architecture="swin_tiny_patch4_window7_224", img_size=4096),
    t("vast-window", "window_sizes", architecture="tiny_vit_5m_224", window_sizes=[64] * 4),
    t("rectangle", "img_size", img_size=[64, 32]),
    t("size-of-true", "img_size", img_size=True),
    t("table", "model_args: embed_dim", embed_dim={"a": 1}),
    t("name-of-code", "describes no network", norm_layer="os.system"),
    t("old-name", "weights do not fit", architecture="vit_tiny_r_s16_p8_224_in21k"),
    f("T-no-table", edit(lambda x: x.update(model_args="x")), 3, "config.json", "model_args", base="timm"),
    o("fetch", "timm_model_pretrained", 4, timm_model_name="resnet18", timm_model_pretrained=True),
    o("fetch-by-a-word", "timm_model_pretrained", 4, timm_model_name="resnet18", timm_model_pretrained="yes"),
    o("hub", "timm_model_name", timm_model_name="hf_hub:org/name"),
    o("text-for-a-table", "act_kwargs", act_kwargs="x"),
    o("device", "norm_kwargs", norm_kwargs={"device": "cpu"}),
    o("nested-lists", "layers", layers=[[1, 1, 1, 1]]),
    o("many-layers", "256 together", layers=[512] * 4),
    o("negative", "layers", layers=-1),
    o("true-for-layers", "layers", layers=True),
    o("true-for-a-width", "vision_cfg: width", width=True),
    o("rectangle", "image_size", image_size=[64, 32]),
    o("vast-image", "image_size", image_size=65_536, patch_size=1),
    o("vast-table", "pos_embed_type", image_size=4096, patch_size=1, pos_embed_type="sin_cos_2d"),
    o("surrogate", "pool_type", pool_type="\ud800"),
    o("word-for-a-flag", "quick_gelu", model={"quick_gelu": "false"}),
    o("true-for-a-number", "embed_dim", model={"embed_dim": True}),
    o("negative-width", "describes no network", model={"embed_dim": -4}),
    o("list", "vision_cfg", model={"vision_cfg": [1]}),
    o("code", "auto_map", 4, model={"auto_map": {}}),
]  # fmt: skip

# --- a person's own code


def y(id_: str, old: str, new: str, *says: str) -> Fault:
    text = OWN_CODE.replace(old, new, 1)
    assert text != OWN_CODE, id_
    spoil = beside("encoder.py", lambda p: p.write_text(text))
    return Fault(f"Y-{id_}", spoil, 3, says, **PYTHON)


TOKENS = "self.conv(x).flatten(2).transpose(1, 2)"
FORWARD = f"return {TOKENS}"
OWN = [
    y("exit", "import torch", "raise SystemExit(0)", "encoder.py", "SystemExit"),
    y("exit-in-build", "return Net()", "raise SystemExit(0)", "encoder.py", "SystemExit"),
    y("exit-in-forward", FORWARD, "raise SystemExit(0)", "hostile", "SystemExit"),
    y("syntax", "def build():", "def build(:", "encoder.py", "SyntaxError"),
    y("no-build", "def build():", "def construct():", "encoder.py", "no build()"),
    y("no-network", "return Net()", "return 3", "encoder.py", "int"),
    y("error-in-forward", FORWARD, "return {}['x']", "hostile", "KeyError"),
    y("complex", FORWARD, f"{FORWARD}.to(torch.complex64)", "hostile", "patch tokens"),
    y("another-network-each-time", "        self.conv = torch.nn.Conv2d(3, 8,",
      "        Net.stride += 1\n        self.conv = torch.nn.Conv2d(3, 8 if Net.stride == 17 else 9,",
      "source.files", "do not fit the network"),
    y("state-beside-the-tensors", "    def forward",
      "    def get_extra_state(self):\n        return 1\n\n    def forward",
      "source.files", "no tensor"),
    y("another-eval", "    def forward", "    def eval(self):\n        return None\n\n    def forward",
      "hostile", "network fails"),
    f("Y-not-allowed", lambda d: None, 4, "source.kind", "--allow-local-code", **PYTHON),
    f("Y-too-large", beside("encoder.py", lambda p: p.write_text(OWN_CODE + "#" * (1 << 20))), 3,
      "encoder.py", "too large", **PYTHON),
]  # fmt: skip

FAULTS = [*MANIFESTS, *FILES, *CONFIGURATIONS, *OWN]


# --- carrying them out


@pytest.fixture(scope="module")
def sound(tiny, tmp_path_factory):
    """A sound checkpoint of every format, without a manifest."""
    root = tmp_path_factory.mktemp("sound")
    shutil.copytree(tiny.root / "encoder", root / "transformers")
    (root / "transformers" / "submission.toml").unlink()
    write_preprocessor(root / "transformers", 64)
    save_timm(root / "timm", "vit_tiny_patch16_224")
    save_open_clip(root / "open_clip", "vit")
    (root / "python").mkdir()
    (root / "python" / "encoder.py").write_text(OWN_CODE)
    state = torch.nn.Conv2d(3, 8, 16, stride=16).state_dict()
    save_file(
        {f"conv.{name}": tensor for name, tensor in state.items()}, root / "python" / "model.safetensors"
    )
    return root


@contextlib.contextmanager
def bounded():
    """A fault that is not refused shows here, instead of taking the machine's memory or the whole night."""

    def too_long(*_: object) -> None:
        raise TimeoutError

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def contents(root: Path) -> dict[str, object]:
    """What a folder holds, without following links or opening pipes."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        state = path.lstat()
        found[str(path.relative_to(root))] = (
            os.readlink(path) if path.is_symlink()
            else digest_file(path) if path.is_file() and state.st_size < 1 << 27
            else (state.st_mode, state.st_size)
        )  # fmt: skip
    return found


@pytest.fixture
def workplace(tiny, tmp_path, monkeypatch):
    """A home with the suite's data, and a place where a traceback would show."""
    (tmp_path / "reports").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "reports"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "data").symlink_to(tiny.root / "data")
    return tmp_path


def words_of(command: str, tiny: Any, workplace: Path, folder: Path, *more: str) -> list[str]:
    if command == "submit":
        return ["submit", str(folder), *more]
    words = [command, str(folder / "submission.toml"), "--protocol", str(tiny.protocol), *more]
    return words + (["--home", str(workplace / "home")] if command == "plan" else [])


def refused(capsys, code, words, *says):
    """The one line of a refused command."""
    with bounded():
        found = main(words)
    out, err = capsys.readouterr()
    assert found == code, err
    assert out == "", out
    assert err.count("\n") == 1, err
    assert err.startswith("eyechart: "), err
    assert len(err) < 2500, err
    for part in says:
        assert part in err, err


CASES = [(fault, command) for fault in FAULTS for command in fault.commands]


@pytest.mark.parametrize(("fault", "command"), CASES, ids=[f"{f.id}-{command}" for f, command in CASES])
def test_one_line_the_code_and_no_trace(tiny, sound, workplace, capsys, fault, command):
    shutil.copytree(sound, workplace / "in")
    folder = workplace / "in" / fault.base
    steps = [fault.spoil, *([] if command == "submit" else [lambda f: manifest_of(f, fault.kind)])]
    for step in reversed(steps) if fault.late else steps:
        step(folder)
    before = contents(workplace)
    own = ["--allow-local-code"] if fault.kind == "python" and fault.id != "Y-not-allowed" else []
    refused(capsys, fault.code, words_of(command, tiny, workplace, folder, *own), *fault.says)
    assert contents(workplace) == before


def test_every_id_is_of_one_fault():
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("base", [*FORMATS, "python"])
def test_the_sound_ones_are_taken(tiny, sound, workplace, capsys, base, command):
    """Or a refusal above would prove nothing."""
    if (base, command) == ("python", "submit"):
        pytest.skip("code of one's own has no format to read")
    folder = shutil.copytree(sound / base, workplace / base)
    own = []
    if command != "submit":
        manifest_of(folder, "python" if base == "python" else "local")
        own = ["--allow-local-code"] if base == "python" else []
    before = contents(folder)
    with bounded():
        assert main(words_of(command, tiny, workplace, folder, *own)) == 0, capsys.readouterr()
    new = {"submission.toml"} if command == "submit" else set()
    assert contents(folder).keys() - before.keys() == new
    assert os.listdir(workplace / "reports") == []
    assert os.listdir(workplace / "home") == ["data"]


TAKEN = {
    "M1-bom-and-windows-line-ends": whole(lambda d: b"\xef\xbb\xbf" + d.replace(b"\n", b"\r\n")),
    "M7-persian-and-emoji": said('"Tiny"', '"\u0646\u0645\u06cc\u200c\u062e \U0001f468\u200d\U0001f4bb"'),
    "M11-markup-is-text": said('"Apache-2.0"', "'<script>alert(1)</script>'"),
    "M15-templates-are-text": said('"Tiny"', '"${HOME} {{7*7}} %(x)s {0} `id`"'),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_odd_and_no_fault_is_kept_letter_by_letter(sound, workplace, case):
    folder = shutil.copytree(sound / "transformers", workplace / "transformers")
    path = manifest_of(folder)
    TAKEN[case](folder)
    made = read_submission(path)
    assert case != "M15-templates-are-text" or made.title == "${HOME} {{7*7}} %(x)s {0} `id`"
    assert case != "M11-markup-is-text" or made.license == "<script>alert(1)</script>"


def test_m15_a_variable_in_a_path_is_a_name(tiny, sound, workplace, capsys, monkeypatch):
    folder = shutil.copytree(sound / "transformers", workplace / "transformers")
    manifest_of(folder)
    monkeypatch.setenv("WEIGHTS", "model")
    said(WEIGHTS_PATH, 'path = "${WEIGHTS}.safetensors"')(folder)
    refused(capsys, 3, words_of("doctor", tiny, workplace, folder), "${WEIGHTS}.safetensors", "missing")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("base", FORMATS)
def test_w9_other_fractions_are_taken(sound, workplace, base, dtype):
    folder = shutil.copytree(sound / base, workplace / base)
    tensors(lambda held, _: held.update({n: t.to(dtype) for n, t in held.items() if t.is_floating_point()}))(
        folder
    )
    module = open_encoder(read_submission(manifest_of(folder)), folder).module
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_w11_a_hard_link_is_a_file_and_its_bytes_are_checked(tiny, sound, workplace, capsys):
    folder = shutil.copytree(sound / "transformers", workplace / "transformers")
    os.link(weights_of(folder), workplace / "another-name")
    manifest_of(folder)
    assert main(words_of("doctor", tiny, workplace, folder)) == 0
    capsys.readouterr()
    with open(workplace / "another-name", "r+b") as file:
        file.seek(-7, os.SEEK_END)
        file.write(b"\x01")
    refused(capsys, 3, words_of("doctor", tiny, workplace, folder), "model.safetensors", "hash differs")


def other_weights(folder: Path) -> None:
    """The same names and shapes, other values: nothing but the hash tells."""
    path = weights_of(folder)
    held = load_file(path)
    save_file({n: t + 1 if t.is_floating_point() else t for n, t in held.items()}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def other_heads(folder: Path) -> None:
    """Another number of heads: another function of the very same tensors."""
    key = "num_heads" if folder.name == "timm" else "head_width"
    edit(
        lambda t: (t["model_args"] if key == "num_heads" else t["model_cfg"]["vision_cfg"]).update({key: 8})
    )(folder)


def other_activation(folder: Path) -> None:
    """Another function of the very same tensors."""
    swap('"relu"', '"gelu"')(folder)


def other_code(folder: Path) -> None:
    (folder / "encoder.py").write_text(OWN_CODE.replace("return self", "return 2 * self"))


SWAPS = [
    ("transformers", other_weights, "model.safetensors"),
    ("transformers", other_activation, "config.json"),
    ("timm", other_weights, "model.safetensors"),
    ("timm", other_heads, "config.json"),
    ("open_clip", other_weights, "open_clip_model.safetensors"),
    ("open_clip", other_heads, "open_clip_config.json"),
    ("python", other_weights, "model.safetensors"),
    ("python", other_code, "encoder.py"),
]


@pytest.mark.parametrize("command", READ)
@pytest.mark.parametrize(("base", "change", "name"), SWAPS, ids=[f"{b}-{c.__name__}" for b, c, _ in SWAPS])
def test_w11_replaced_between_the_hash_and_the_load(
    tiny, sound, workplace, capsys, monkeypatch, base, change, name, command
):
    import harness.plan
    import harness.submission

    folder = shutil.copytree(sound / base, workplace / base)
    manifest_of(folder, "python" if base == "python" else "local")
    verify = harness.submission.verify_files

    def then_change(*arguments: Any) -> None:
        verify(*arguments)
        change(folder)

    for module in (harness.submission, harness.plan):
        monkeypatch.setattr(module, "verify_files", then_change)
    own = ["--allow-local-code"] if base == "python" else []
    refused(capsys, 3, words_of(command, tiny, workplace, folder, *own), name, "hash differs")


def test_w11_weights_do_not_change_with_their_file_once_they_are_read(sound, workplace):
    folder = shutil.copytree(sound / "transformers", workplace / "transformers")
    encoder = open_encoder(read_submission(manifest_of(folder)), folder)
    before = encoder.weight_digest()
    data = weights_of(folder).read_bytes()
    with open(weights_of(folder), "r+b") as file:
        file.write(b"\xff" * len(data))
    assert encoder.weight_digest() == before
    os.truncate(weights_of(folder), 0)
    assert encoder.weight_digest() == before


def test_code_that_nobody_hashed_is_not_run(sound, workplace):
    """Python would rather run a compiled file beside the one that the manifest lists."""
    import importlib.util
    import py_compile

    folder = shutil.copytree(sound / "python", workplace / "python")
    evil = workplace / "evil.py"
    evil.write_text("import os\nos.mkdir(os.environ['EVIL'])\n" + OWN_CODE)
    cached = Path(importlib.util.cache_from_source(str(folder / "encoder.py")))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), cfile=str(cached), invalidation_mode=mode)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVIL", str(workplace / "ran"))
        open_encoder(read_submission(manifest_of(folder, "python")), folder, allow_code=True)
    assert not (workplace / "ran").exists()


FINDINGS = [
    f("W7-zero-block", fill(0.0), 3, "constant-features"),
    f("W7-all-zero", tensors(lambda w, _: w.update({n: t * 0 for n, t in w.items()})), 3, "constant-"),
    f("W7-denormal",
      tensors(lambda w, _: w.update({n: t.float() * 0 + 1e-40 for n, t in w.items() if "weight" in n})),
      3, "Verdict"),
    f("W7-vast", fill(3e38), 3, "not-finite", base="timm"),
    f("M6-no-multiple-of-the-patch", said(SIDE, "resolution = 60"), 3, "resolution", "multiple", base="timm",
      late=True),
    f("M12-size-claim", said(TITLE, f'{TITLE}\narchitecture = "ViT, 86 M parameters"'), 3, "size-claim",
      late=True),
    replace(y("W8-nan", FORWARD, f"{FORWARD} * float('nan')"), says=("not-finite",)),
    replace(y("W8-constant", FORWARD, f"{FORWARD} * 0 + 1"), says=("constant-features",)),
    replace(y("W13-chance", FORWARD, f"return (t := {TOKENS}) + torch.rand_like(t)"),
            says=("nondeterministic",)),
    replace(y("W13-neighbours", FORWARD, f"return (t := {TOKENS}) - t.mean(dim=0)"),
            says=("batch-dependence",)),
]  # fmt: skip


@pytest.mark.parametrize("fault", FINDINGS, ids=lambda fault: fault.id)
def test_what_only_features_show_is_a_finding(tiny, sound, workplace, capsys, fault):
    folder = shutil.copytree(sound / fault.base, workplace / fault.base)
    steps = [fault.spoil, lambda f: manifest_of(f, fault.kind)]
    for step in reversed(steps) if fault.late else steps:
        step(folder)
    before = contents(workplace)
    own = ["--allow-local-code"] if fault.kind == "python" else []
    with bounded():
        code = main(words_of("doctor", tiny, workplace, folder, *own))
    out, err = capsys.readouterr()
    assert (code, err) == (3, "")
    assert all(part in out for part in fault.says), out
    assert contents(workplace) == before


def test_m13_the_same_weights_in_other_files_are_a_duplicate(tiny, sound, workplace, capsys):
    folder = shutil.copytree(sound / "transformers", workplace / "transformers")
    digest = open_encoder(read_submission(manifest_of(folder)), folder).weight_digest()
    bundle = workplace / "board" / tiny_protocol(tiny) / "first" / ("0" * 16)
    bundle.mkdir(parents=True)
    submission = {"id": "first", "floor": None, "pretraining": [{"locked": "none"}]}
    (bundle / "run.json").write_text(json.dumps({"submission": submission}))
    (bundle / "receipt.json").write_text(json.dumps({"encoder_weights": {"before": digest}}))
    (bundle / "COMMIT").touch()
    shards(lambda *_: None)(folder)
    manifest_of(folder)
    words = words_of("plan", tiny, workplace, folder, "--results", str(workplace / "board"))
    refused(capsys, 3, words, "source.files", "duplicate of first")


def tiny_protocol(tiny: Any) -> str:
    return read_protocol(str(tiny.protocol)).name


BOMBS = [
    "M2-dotted-bomb",
    "M2-hex-number",
    "M2-brackets",
    "M3-gigabyte",
    "W4-header-bomb",
    "W4-within-the-length",
]
BOMBS += ["W4-lists", "W4-metadata"]


@pytest.mark.parametrize("id_", BOMBS)
def test_bombs_cost_nothing(tiny, sound, workplace, capsys, id_):
    fault = next(fault for fault in FAULTS if fault.id == id_)
    folder = shutil.copytree(sound / fault.base, workplace / fault.base)
    manifest_of(folder)
    fault.spoil(folder)
    began = time.process_time()
    refused(capsys, fault.code, words_of("doctor", tiny, workplace, folder))
    assert time.process_time() - began < 1.0
