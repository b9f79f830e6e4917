"""A whole suite in miniature: data, language model, encoder, tasks and protocol, made in seconds.

Loaded by path from the tests that need it. Everything is real but small: the suite's own writers, a
random Qwen2 with the mini tokenizer, a random ResNet saved by transformers.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, ResNetConfig, ResNetModel

from harness.adapter import llm as llm_module
from harness.digest import digest_file
from harness.home import Home
from harness.mini import suite
from harness.mini.tokenizer import build_tokenizer
from harness.protocol import PROTOCOLS
from harness.task import TASKS

COUNTS = {
    "NUM_PROBE_TRAIN": 160,
    "NUM_PROBE_TEST": 60,
    "NUM_VQA": 30,
    "NUM_SIGNS": 16,
    "NUM_REC": 16,
    "NUM_VIDEO": 12,
    "NUM_DIGITS_TRAIN": 1700,
    "NUM_MIXTURE": 520,
    "NUM_MIXTURE_CLIPS": 12,
}


@dataclass(frozen=True)
class Tiny:
    """Where the miniature rests."""

    root: Path
    manifest: Path
    protocol: Path
    tasks: Path
    llm: Path

    def home(self, name: str) -> Home:
        """A fresh home that shares the data."""
        home = Home(self.root / name)
        home.root.mkdir()
        (home.root / "data").symlink_to(self.root / "data")
        return home


class InlineExecutor:
    """The executor's interface without processes; patched objects stay patched."""

    workers = 1

    def __init__(self, interrupt_at: int | None = None) -> None:
        self._left = interrupt_at

    def run(self, jobs: Sequence[Any], progress: Any = None, total: int | None = None) -> list[Any]:
        """Carry the jobs out one after another; the n-th report of progress may be a Ctrl-C."""

        def report(done: int, of: int) -> None:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise KeyboardInterrupt
            if progress:
                progress(done, of)

        return [function(**arguments, progress=report) for function, arguments in jobs]


class Quiet:
    """A stage that shows nothing."""

    def __init__(self, name: str, unit: str = "") -> None:
        self.name = name

    def __call__(self, done: int, total: int) -> None:
        """Nothing."""

    def close(self, note: str = "") -> float:
        """No time."""
        return 0.0


def write_encoder(folder: Path, seed: int = 0) -> None:
    """A random ResNet of 16 channels with a 4 x 4 grid, as transformers saves it."""
    torch.manual_seed(seed)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16], depths=[1, 1, 1], layer_type="basic")
    ResNetModel(config).half().save_pretrained(folder)


def write_manifest(folder: Path, name: str = "tiny-encoder", **changes: str) -> Path:
    """submission.toml for the encoder in `folder`."""
    files = "".join(
        f'[[source.files]]\npath = "{n}"\nsha256 = "{digest_file(folder / n)}"\n'
        for n in ("config.json", "model.safetensors")
    )
    text = f"""schema = 1
id = "{name}"
title = "Tiny"
authors = ["A. Tester"]
links = []
license = "Apache-2.0"
contamination = "none known"
[source]
kind = "local"
name = "resnet"
revision = "local"
{files}
[input]
resolution = 64
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[[pretraining]]
objective = "label-classification"
data = "none"
images_seen = 1
"""
    for old, new in changes.items():
        text = text.replace(old, new)
    path = folder / "submission.toml"
    path.write_text(text)
    return path


def write_llm(folder: Path) -> None:
    """A random Qwen2 of width 32 with the mini tokenizer."""
    tokenizer = build_tokenizer()
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))


def _write_tasks(folder: Path, digests: dict[str, str]) -> None:
    rows = {"probe": 60, "vqa": 30, "signs": 16, "rec": 16, "video": 12, "digits": 97}
    for name, digest in digests.items():
        if name == "mixture":
            continue
        source = TASKS / f"eyechart_mini_{name}"
        target = folder / source.name
        shutil.copytree(source, target)
        path = target / f"{source.name}.yaml"
        text = re.sub(r"dataset_digest: \w+", f"dataset_digest: {digest}", path.read_text())
        path.write_text(re.sub(r"num_expected: \d+", f"num_expected: {rows[name]}", text))


def build(root: Path, monkeypatch: Any) -> Tiny:
    """Make everything below `root`."""
    for name, count in COUNTS.items():
        monkeypatch.setattr(suite, name, count)
    digests = dict(suite._write_one(name, root / "data" / "mini") for name in suite.DATASETS)
    encoder, model = root / "encoder", root / "llm"
    write_encoder(encoder)
    write_llm(model)
    _write_tasks(root / "tasks", digests)
    text = (PROTOCOLS / "mini.toml").read_text()
    swaps = {
        r"revision = .*": f'revision = "{llm_module.llm_revision(model)}"',
        r"mixture_digest = .*": f'mixture_digest = "{digests["mixture"]}"',
        r"steps = .*": "steps = 6",
        r"warmup_steps = .*": "warmup_steps = 2",
        r"batch = .*": "batch = 8",
        r"width = .*": "width = 24",
        r"position_words = .*": "position_words = []",
    }
    for pattern, new in swaps.items():
        text = re.sub(rf"^{pattern}$", new, text, flags=re.MULTILINE)
    (root / "tiny.toml").write_text(text)
    return Tiny(root, write_manifest(encoder), root / "tiny.toml", root / "tasks", model)
