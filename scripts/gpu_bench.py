"""Speed and memory at the real scale, with random weights: this project's own encoder, training and engine.

    python scripts/gpu_bench.py --out bench.json            ViT-L/14 at 336 pixels, Qwen2.5 0.5B and 1.5B
    python scripts/gpu_bench.py --out bench.json --toy --device cpu

Shapes, batches, packing and number formats are those of the main protocol. Texts are made up: exchanges of
about as many tokens as the forecast assumes. Each figure leaves out its first steps and ends after --seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import harness.torchvision_shim  # noqa: F401  (must run before timm)

import numpy as np
import timm
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from harness.adapter import train
from harness.adapter.llm import LanguageModel
from harness.adapter.mixture import Mixture
from harness.adapter.packing import row_tokens
from harness.device import device_facts, peak_bytes
from harness.encoders.base import ENCODE_CHUNK, View, exact_float32
from harness.encoders.timm import TimmConfig, TimmEncoder
from harness.engines.base import IMAGE_CHUNK, Request
from harness.engines.hf import HFEngine
from harness.forecast import QWEN_SHAPES, TEXT_TOKENS, LLMShape
from harness.mini.tokenizer import build_tokenizer
from harness.protocol import read_protocol
from harness.records import InputSpec, Source, Submission

PEAK = {"H200": 790e12, "H100": 790e12}
"""Dense bfloat16 operations a second that matrices reach, by a part of the card's name."""
TOY_SHAPE = LLMShape(width=64, layers=2, ffn=128, heads=4, groups=2, vocabulary=4096)
ENCODER_WIDTH = 1024
QUESTIONS_AN_IMAGE = 5
NEW_TOKENS = 8
WARM_UP = 2
"""Steps, or progress reports, that are not counted."""


class TimeUp(Exception):  # noqa: N818  (no error)
    """Enough was measured."""


class Clock:
    """Counts work after the first reports; stops it when the time is up."""

    def __init__(self, device: str, seconds: float) -> None:
        self._device, self._seconds = device, seconds
        self._seen, self.done, self.took = 0, 0.0, 0.0
        self._began = self._base = 0.0

    def report(self, done: float) -> None:
        """`done` units of work so far; raises TimeUp."""
        if self._device != "cpu":
            torch.cuda.synchronize()
        now = time.monotonic()
        self._seen += 1
        if self._seen <= WARM_UP:
            self._began, self._base = now, done
            return
        self.done, self.took = done - self._base, now - self._began
        if self.took >= self._seconds:
            raise TimeUp

    @property
    def rate(self) -> float:
        """Units a second; 0 where nothing was counted."""
        return self.done / self.took if self.took else 0.0


class Bench:
    """Rows of the table, written after each."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.seconds, self.toy = arguments.device, arguments.seconds, arguments.toy
        self._out, self.rows = arguments.out, list[dict[str, Any]]()
        self.facts = device_facts(self.device)
        self.peak = next((v for k, v in PEAK.items() if k in self.facts.get("name", "")), 0.0)

    def clock(self) -> Clock:
        """A new clock, the memory's high-water mark set back."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return Clock(self.device, self.seconds)

    def add(self, what: str, clock: Clock, unit: str, ops: float = 0.0, **more: Any) -> None:
        """One row; `ops` are operations a unit."""
        row = {
            "what": what,
            "rate": round(clock.rate, 2),
            "unit": unit,
            "seconds": round(clock.took, 1),
            "peak_gib": round(peak_bytes(self.device) / 2**30, 2),
            "tflops": round(clock.rate * ops / 1e12, 1),
            "share_of_peak": round(clock.rate * ops / self.peak, 3) if self.peak else None,
            **more,
        }
        self.rows.append(row)
        facts = {"torch": torch.__version__, "device": self.facts, "toy": self.toy, "rows": self.rows}
        self._out.write_text(json.dumps(facts, indent=1) + "\n")
        print(json.dumps(row), flush=True)


def check_exactness(bench: Bench) -> None:
    """Largest error of a convolution and a product, as a share of the largest value: TF32 would show 1e-3."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 256, 32, 32, generator=generator), torch.randn(256, 256, 3, 3, generator=generator)
    for name, work in {
        "convolution": lambda x, w: torch.nn.functional.conv2d(x, w, padding=1),
        "product": lambda x, w: x.flatten(2).transpose(1, 2) @ w.flatten(1)[:, :256],
    }.items():
        with exact_float32():
            found = work(a.to(bench.device), b.to(bench.device)).cpu().double()
        true = work(a.double(), b.double())
        error = float((found - true).abs().max() / true.abs().max())
        print(f"exact float32, {name}: error {error:.1e}", flush=True)
        bench.facts[f"error_of_{name}"] = error


def bench_encoder(bench: Bench) -> None:
    """Images a second through our own encoder (exact float32) and through the bare network in bfloat16."""
    name, side = ("vit_tiny_patch16_224", 64) if bench.toy else ("vit_large_patch14_clip_336", 336)
    module = timm.create_model(name, pretrained=False, num_classes=0, img_size=side)
    source = Source(kind="timm", name=name, revision="random", files=())
    shape = InputSpec(resolution=side, mean=(0.5,) * 3, std=(0.5,) * 3)
    sub = Submission(
        id="bench", title="", authors=(), links=(), license="", contamination="",
        source=source, input=shape, pretraining=(),
    )  # fmt: skip
    encoder = TimmEncoder(sub, TimmConfig(name, {}, side), module, View(side, device=bench.device))
    pixels = torch.rand(ENCODE_CHUNK, 3, side, side)
    macs = encoder.num_params * (encoder.grid[0] ** 2 + 1)
    clock = bench.clock()
    _repeat(lambda: float(encoder.encode(pixels).pooled.sum()), clock, ENCODE_CHUNK)
    bench.add(f"{name}, exact float32", clock, "images/s", 2.0 * macs)
    half = encoder.module.to(torch.bfloat16)
    moved = pixels.to(bench.device, torch.bfloat16)
    clock = bench.clock()
    with torch.no_grad():
        _repeat(lambda: half.forward_features(moved), clock, ENCODE_CHUNK)
    bench.add(f"{name}, bfloat16 (no protocol uses it)", clock, "images/s", 2.0 * macs)


def _repeat(work: Callable[[], Any], clock: Clock, units: int) -> None:
    done = 0
    try:
        while True:
            work()
            clock.report(done := done + units)
    except TimeUp:
        return


class RandomTokens:
    """Visual tokens of `count` images that nobody encoded."""

    def __init__(self, count: int, tokens: int, width: int) -> None:
        self.keys = [str(i) for i in range(count)]
        self._tokens = np.random.default_rng(0).standard_normal((64, tokens, width)).astype(np.float16)

    def tokens_of(self, rows: Sequence[int]) -> Any:
        """(b, N, D) float16."""
        return self._tokens[[row % 64 for row in rows]]


def new_llm(shape: LLMShape, device: str) -> LanguageModel:
    """A Qwen2 of a shape, random weights in float32 as `load_llm` gives it, with the mini tokenizer."""
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.groups,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, max_position_embeddings=32768,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    model.set_attn_implementation("eager" if device == "cpu" else "sdpa")
    return LanguageModel(model.eval(), tokenizer)


def sentence(rng: random.Random, words: Sequence[str], count: int) -> str:
    """`count` words."""
    return " ".join(rng.choice(words) for _ in range(count))


def new_mixture(questions: int, count: int, tokens: int) -> Mixture:
    """Random tokens and exchanges of about `TEXT_TOKENS` tokens."""
    rng, words = random.Random(0), ["red", "blue", "star", "square", "left", "right"]
    half = TEXT_TOKENS // 2
    said = [
        [{"kind": "describe", "prompt": sentence(rng, words, half), "answer": sentence(rng, words, half)}]
        + [
            {"kind": "vqa", "prompt": sentence(rng, words, half), "answer": sentence(rng, words, half)}
            for _ in range(questions)
        ]
        for _ in range(count)
    ]
    clips = np.zeros((0, 1, 1, ENCODER_WIDTH), np.float16)
    return Mixture(RandomTokens(count, tokens, ENCODER_WIDTH), said, clips, [])


def bench_training(bench: Bench, name: str, shape: LLMShape) -> None:
    """Steps and tokens a second of both stages of the main protocol."""
    protocol = read_protocol("main")
    recipe, tokens = protocol.adapter, protocol.tokens.budget
    later = recipe.stages[0]
    if bench.toy:
        recipe, later = replace(recipe, batch=8, pack_tokens=1024, width=64), replace(later, batch=4)
    llm = new_llm(shape, bench.device)
    mixture = new_mixture(recipe.questions_per_image, 64 if bench.toy else 512, tokens)
    prefix = len(llm.encode_prompt("").prefix) + tokens
    for stage in (1, 2):
        only = replace(recipe, stages=()) if stage == 1 else replace(recipe, steps=1, stages=(later,))
        batch = recipe.batch if stage == 1 else later.batch
        clock = bench.clock()

        def count(done: int, _: int, clock: Clock = clock, batch: int = batch) -> None:
            clock.report(done * batch)

        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(TimeUp):
            train.train_adapter(
                llm, mixture, only, 0.0 if stage == 1 else protocol.llm.lr, 0,
                state=Path(folder) / "state.safetensors", progress=count,
            )  # fmt: skip
        rows = [train.Batches(llm, mixture, recipe, 1, 0)(step)[1][0] for step in range(32)]
        row = float(np.mean([row_tokens(exchanges, prefix) for exchanges in rows]))
        bench.add(
            f"{name}, stage {stage}", clock, "rows/s", 4.0 * shape.layer_weights * row,
            steps_per_s=round(clock.rate / batch, 4), tokens_per_s=round(clock.rate * row), batch=batch,
        )  # fmt: skip
        llm = new_llm(shape, bench.device) if stage == 1 else llm


def bench_answers(bench: Bench, name: str, shape: LLMShape) -> None:
    """Answers a second of the reference engine in bfloat16, five questions an image."""
    llm = new_llm(shape, bench.device)
    llm.model.to(torch.bfloat16)
    tokens = read_protocol("main").tokens.budget
    rng, words = random.Random(1), ["red", "blue", "star", "square", "left", "right"]
    images = 4 if bench.toy else 40 * IMAGE_CHUNK
    requests = [
        Request(i // QUESTIONS_AN_IMAGE, sentence(rng, words, 24), (), NEW_TOKENS)
        for i in range(images * QUESTIONS_AN_IMAGE)
    ]
    some = torch.randn(IMAGE_CHUNK, tokens, llm.width, generator=torch.Generator().manual_seed(0)) * 0.02
    some = some.to(bench.device)
    clock = bench.clock()
    with contextlib.suppress(TimeUp):
        HFEngine(llm, 4 if bench.toy else 128).answer(
            requests, lambda rows: some[: len(rows)], lambda done, _: clock.report(done)
        )
    per_answer = tokens / QUESTIONS_AN_IMAGE + 24 + NEW_TOKENS
    bench.add(
        f"{name}, answers of {NEW_TOKENS} tokens", clock, "answers/s", 2.0 * shape.layer_weights * per_answer
    )


def parts(bench: Bench) -> Iterator[tuple[str, Callable[[], None]]]:
    """Everything that is measured, the most wanted first."""
    shapes = {"toy": TOY_SHAPE} if bench.toy else {k.split("/")[1]: v for k, v in QWEN_SHAPES.items()}
    yield "exactness", lambda: check_exactness(bench)
    yield "encoder", lambda: bench_encoder(bench)
    for name, shape in shapes.items():
        yield f"training {name}", lambda name=name, shape=shape: bench_training(bench, name, shape)
        yield f"answers {name}", lambda name=name, shape=shape: bench_answers(bench, name, shape)


def main() -> None:
    """Measure; one part that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each figure")
    parser.add_argument("--only", default="", help="parts whose name has this in it")
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    if arguments.toy:
        arguments.seconds = 1.0
    bench = Bench(arguments)
    for name, work in parts(bench):
        if arguments.only not in name:
            continue
        try:
            work()
        except Exception as error:  # noqa: BLE001
            import traceback

            traceback.print_exc()
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
    print("| what | rate | of peak | peak memory |\n|---|---|---|---|")
    for row in bench.rows:
        share = f"{row['share_of_peak']:.0%}" if row["share_of_peak"] is not None else "–"
        print(f"| {row['what']} | {row['rate']:,} {row['unit']} | {share} | {row['peak_gib']} GiB |")


if __name__ == "__main__":
    main()
