"""Train the mini language model on text only: perfect maps of scenes and clips, and what is asked of them.

Source of the architecture: Qwen2 (arXiv 2407.10671) as `transformers` implements it, 0.9 M parameters.
It never sees a pixel. Kinds of question that lag behind are asked more often, by the accuracy on the last
steps, so that the mean does not hide a weak one.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must precede transformers)

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from harness.adapter.data import Exchange, encode_exchange, pack, packed_logits
from harness.adapter.llm import LanguageModel
from harness.adapter.optim import build_optimisers, load_training, save_training, set_progress
from harness.files import write_atomic
from harness.mini.clips import sample_clips
from harness.mini.language import (
    DESCRIBE,
    DESCRIBE_CLIP,
    STILL_KINDS,
    ask,
    ask_clip,
    clip_map,
    describe,
    describe_clip,
    text_map,
)
from harness.mini.textmap import embed_maps, encode_maps
from harness.mini.tokenizer import build_tokenizer
from harness.mini.world import sample_scenes
from harness.prompts import LETTERS
from harness.seeds import derive_seed

WIDTH, LAYERS, HEADS, INNER = 128, 4, 4, 384
BATCH = 48
QUESTIONS = 7
CLIP_FRAMES = (1, 3, 5, 7)
"""The frames that the protocol's rule picks from eight: the centre of each quarter."""
MUON_LR, ADAM_LR, WARMUP = 0.02, 3e-3, 50
MAX_NOISE = 0.4
"""Noise on the map, in standard deviations of the embedding table; half of the rows get none."""
LOG_EVERY, SAVE_EVERY = 50, 250


@dataclass(frozen=True, slots=True)
class Leg:
    """A stretch of the training with its own learning-rate schedule."""

    steps: int
    rate: float
    """Factor on both learning rates."""
    clip_every: int
    """Every so many steps the batch is clips; 0 for none."""
    describe: bool
    """Each scene is described as well as asked about."""
    by_token: bool
    """The loss is the mean over answer tokens, so that long answers lead; else over exchanges."""
    schedule_steps: int = 0
    """Length of the rate's schedule where the leg was cut short of it; 0: the leg's own."""


# Questions come first. With descriptions from the start (30 tokens against an answer's two) the colour of an
# object that only its shape names stayed a guess for 3,300 steps; alone it is learnt in a hundred.
LEGS = (
    Leg(1_000, rate=1.0, clip_every=3, describe=False, by_token=False),
    Leg(250, rate=0.6, clip_every=3, describe=True, by_token=False, schedule_steps=1_500),
    # Lookups stand by now; spelling and places come with the long answers.
    Leg(1_500, rate=1.0, clip_every=3, describe=True, by_token=True),
    # Boxes were right in 89 of 100 scenes; no leg had taught the choice about clips, so none are shown.
    Leg(400, rate=0.5, clip_every=0, describe=True, by_token=True),
)
STEPS = sum(leg.steps for leg in LEGS)


def leg_at(step: int) -> tuple[Leg, int]:
    """The leg of a step and the step's number within it."""
    for leg in LEGS:
        if step < leg.steps:
            return leg, step
        step -= leg.steps
    return LEGS[-1], LEGS[-1].steps - 1


def build_llm(seed: int = 0) -> LanguageModel:
    """A freshly initialised mini language model with its tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # type: ignore[call-arg]
    )
    torch.manual_seed(derive_seed("mini-llm", seed) % 2**31)
    return LanguageModel(Qwen2ForCausalLM(config), tokenizer)


class _Kinds:
    """Running error of each question kind, and how often it is asked."""

    def __init__(self) -> None:
        self.error = dict.fromkeys((*STILL_KINDS, "describe", "video", "describe_clip"), 1.0)

    def choose(self, rng: random.Random) -> str:
        # A box counts as right here only to the last step of 1/32, so its error says little.
        weights = [0.6 if kind == "rec" else 0.2 + self.error[kind] for kind in STILL_KINDS]
        return rng.choices(STILL_KINDS, weights)[0]

    def note(self, kind: str, wrong: float) -> None:
        self.error[kind] += 0.01 * (wrong - self.error[kind])


def _still_rows(
    llm: LanguageModel, rng: random.Random, kinds: _Kinds, leg: Leg
) -> tuple[list[Any], list[list[Exchange]], list[list[str]]]:
    """Maps, packed exchanges and the kind of each exchange, for one batch of scenes."""
    scenes = sample_scenes("train", BATCH, seed=rng.randrange(2**40))
    rows, names = [], []
    for scene in scenes:
        row = [encode_exchange(llm, DESCRIBE, describe(scene))] if leg.describe else []
        name = ["describe"] if leg.describe else []
        while name.count("describe") + QUESTIONS > len(row):
            question = ask(scene, kinds.choose(rng), rng)
            if question is not None:
                row.append(encode_exchange(llm, question.prompt, question.answer))
                name.append(question.kind)
        rows.append(row)
        names.append(name)
    return [text_map(s) for s in scenes], rows, names


def _clip_rows(
    llm: LanguageModel, rng: random.Random
) -> tuple[list[Any], list[list[Exchange]], list[list[str]]]:
    clips = sample_clips("train", BATCH, seed=rng.randrange(2**40))
    rows = []
    for clip in clips:
        asked = [ask_clip(clip, rng, which) for which in (0, 1, 0, 1)]
        row = [encode_exchange(llm, q.prompt, LETTERS[q.answer]) for q in asked]
        rows.append([*row, encode_exchange(llm, DESCRIBE_CLIP, describe_clip(clip))])
    return [clip_map(c, CLIP_FRAMES) for c in clips], rows, [["video"] * 4 + ["describe_clip"]] * BATCH


def _note_errors(
    kinds: _Kinds, rows: list[list[Exchange]], names: list[list[str]], right: torch.Tensor
) -> None:
    """Charge each exchange's kind with whether all its answer tokens were right."""
    position = 0
    for row, name in zip(rows, names, strict=True):
        for exchange, kind in zip(row, name, strict=True):
            length = len(exchange.answer)
            kinds.note(kind, 0.0 if bool(right[position : position + length].all()) else 1.0)
            position += length


def train_llm(work: Path, steps: int = STEPS, seed: int = 0) -> Path:
    """Train and save; returns the folder with the model, its tokenizer and curve.json. Resumable."""
    llm = build_llm(seed)
    modules: dict[str, nn.Module] = {"llm": llm.model}
    optimisers = build_optimisers(modules, MUON_LR, ADAM_LR)
    work.mkdir(parents=True, exist_ok=True)
    state, curve_file = work / "training.safetensors", work / "curve.json"
    first, _ = load_training(state, modules, optimisers)
    record = json.loads(curve_file.read_text()) if first else {"curve": [], "error": None}
    kinds = _Kinds()
    kinds.error |= record["error"] or {}
    opening = llm.encode_prompt(DESCRIBE).prefix
    started = time.monotonic()
    for step in range(first, steps):
        leg, place = leg_at(step)
        set_progress(optimisers, place, leg.schedule_steps or leg.steps, WARMUP, rate=leg.rate)
        rng = random.Random(derive_seed("mini-llm-step", seed, step))
        torch.manual_seed(derive_seed("mini-llm-noise", seed, step) % 2**31)
        is_clip = leg.clip_every > 0 and place % leg.clip_every == leg.clip_every - 1
        maps, rows, names = _clip_rows(llm, rng) if is_clip else _still_rows(llm, rng, kinds, leg)
        visual = embed_maps(llm, encode_maps(llm, maps))
        strength = (torch.rand(BATCH, 1, 1) * 2 - 1).clamp(min=0) * MAX_NOISE
        visual = visual + torch.randn_like(visual) * strength * llm.embed(torch.arange(5)).detach().std()
        with torch.autocast("cpu", torch.bfloat16):
            logits, labels = packed_logits(llm, visual, opening, pack(rows, len(opening) + visual.shape[1]))
        share = [1.0 if leg.by_token else 1 / len(e.answer) for row in rows for e in row for _ in e.answer]
        weights = torch.tensor(share)
        loss = (functional.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(llm.model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        _note_errors(kinds, rows, names, logits.argmax(1) == labels)
        if (step + 1) % LOG_EVERY == 0:
            row = {"step": step + 1, "loss": round(float(loss.detach()), 4)}
            row |= {f"right_{k}": round(1 - e, 4) for k, e in kinds.error.items()}
            record["curve"].append(row)
            print(
                json.dumps(row), f"{(time.monotonic() - started) / (step + 1 - first):.3f} s/step", flush=True
            )
        if (step + 1) % SAVE_EVERY == 0:
            record["error"] = kinds.error
            write_atomic(curve_file, json.dumps(record, indent=1).encode() + b"\n")
            save_training(state, modules, optimisers, step + 1)
    llm.model.half().save_pretrained(work)
    llm.tokenizer.save_pretrained(str(work))
    return work
