"""A whole suite in miniature: data, language model, encoder, tasks and protocol, made in seconds.

Loaded by path from the tests that need it, made once a session (`shared`). Everything is real but small:
the suite's own writers, a random Qwen2 with the mini tokenizer, a random ResNet saved by transformers.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, ResNetConfig, ResNetModel

from harness.adapter import llm as llm_module
from harness.bundle import find_bundles, read_bundle
from harness.digest import digest_file
from harness.home import Home
from harness.mini import suite
from harness.mini.tokenizer import build_tokenizer
from harness.plan import make_plan
from harness.protocol import PROTOCOLS
from harness.run import run_plan
from harness.scoring import score_in_process
from harness.task import TASKS

COUNTS = {
    "NUM_PROBE_TRAIN": 300,
    "NUM_PROBE_TEST": 100,
    "NUM_VQA": 60,
    "NUM_SIGNS": 40,
    "NUM_REC": 40,
    "NUM_VIDEO": 40,
    "NUM_DIGITS_TRAIN": 1700,
    "NUM_MIXTURE": 520,
    "NUM_MIXTURE_CLIPS": 12,
}
STEPS = 6


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

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
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():  # the default 0.02 makes every logit nearly equal, and greedy choices fragile
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))


def _write_tasks(folder: Path, digests: dict[str, str]) -> None:
    rows = {"digits": 1797 - COUNTS["NUM_DIGITS_TRAIN"], "probe": COUNTS["NUM_PROBE_TEST"]}
    rows |= {name: COUNTS[f"NUM_{name.upper()}"] for name in ("vqa", "signs", "rec", "video")}
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
        r"steps = .*": f"steps = {STEPS}",
        r"warmup_steps = .*": "warmup_steps = 2",
        r"batch = .*": "batch = 8",
        r"width = .*": "width = 24",
        r"position_words = .*": "position_words = []",
    }
    for pattern, new in swaps.items():
        text = re.sub(rf"^{pattern}$", new, text, flags=re.MULTILINE)
    (root / "tiny.toml").write_text(text)
    return Tiny(root, write_manifest(encoder), root / "tiny.toml", root / "tasks", model)


_made: dict[str, Any] = {}


def shared(factory: pytest.TempPathFactory) -> Tiny:
    """The miniature, made once a session."""
    if "tiny" not in _made:
        with pytest.MonkeyPatch.context() as patch:
            _made["tiny"] = build(factory.mktemp("tiny"), patch)
    return _made["tiny"]  # type: ignore[no-any-return]


def install(patch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    """Let the protocol's language model be the miniature's."""
    patch.setitem(llm_module.LOCAL_LLMS, "mini-llm", tiny.llm)


def carry_out(
    tiny: Tiny, home: Home, executor: Any = None, manifest: Path | None = None, batch: int = 64
) -> Any:
    """Plan and run in this process."""
    plan = make_plan(manifest or tiny.manifest, str(tiny.protocol), home, [home.results], tiny.tasks)
    return run_plan(plan, home.results, executor or InlineExecutor(), Quiet, batch)


def uninterrupted(tiny: Tiny) -> Home:
    """Home of one whole run with the real scorer, made once a session; leave it as it is."""
    if "home" not in _made:
        with pytest.MonkeyPatch.context() as patch:
            install(patch, tiny)
            home = tiny.home("uninterrupted")
            carry_out(tiny, home)
            _made["home"] = home
    return _made["home"]  # type: ignore[no-any-return]


def known_scores(tiny: Tiny) -> Any:
    """A scorer that copies what lmms-eval said of the very same answers in the uninterrupted run.

    Answers rest under the hash of what made them; other answers under a known name fail here, and
    answers that are new go to the real scorer.
    """
    known = uninterrupted(tiny).answers

    def score(jobs: Sequence[Any], *, tasks_dir: Path | None = None, progress: Any = None) -> None:
        fresh = []
        for done, job in enumerate(jobs, 1):
            twin = known / job.answers.name
            if not twin.is_file():
                fresh.append(job)
                continue
            assert twin.read_bytes() == job.answers.read_bytes(), f"other answers to {job.task}"
            shutil.copy(twin.with_suffix(".scores"), job.out)
            if progress:
                progress(done, len(jobs))
        if fresh:
            score_in_process(fresh, tasks_dir=tasks_dir)

    return score


def patch_commands(patch: pytest.MonkeyPatch, tiny: Tiny) -> None:
    """Let the commands use the miniature: its tasks, no writing of the real suite, no processes."""
    install(patch, tiny)

    def plan(manifest: Path, protocol: str, home: Home, results: list[Path], **options: Any) -> Any:
        return make_plan(manifest, protocol, home, results, tiny.tasks, **options)

    patch.setattr("harness.commands.ensure_suite", lambda suite, home: None)
    patch.setattr("harness.plan.make_plan", plan)
    patch.setattr("harness.executors.local.LocalExecutor", lambda workers: InlineExecutor())


def contents(root: Path) -> dict[tuple[str, int], tuple[str, bytes]]:
    """Digest and answers of every bundle, by task and seed."""
    found = {}
    for path in find_bundles(root):
        bundle = read_bundle(path)
        found[bundle.run.task, bundle.run.seed] = bundle.digest, (path / "answers.parquet").read_bytes()
    return found
