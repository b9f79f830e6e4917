"""Train the mini language model on text only: perfect maps of scenes and clips, and what is asked of them.

Source of the architecture: Qwen2 (arXiv 2407.10671) as `transformers` implements it, 0.9 M parameters.
It never sees a pixel. Kinds of question about scenes that lag behind are asked more often, by the accuracy
on the last steps, so that the mean does not hide a weak one.
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must precede transformers)

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from harness.adapter.data import Exchange, encode_exchange, pack, packed_logits, weighted_loss
from harness.adapter.llm import LanguageModel
from harness.adapter.optim import build_optimisers, load_training, save_training, set_progress
from harness.bfloat16 import bfloat16_products
from harness.files import write_atomic
from harness.mini.clips import MOVES, NUM_FRAMES, SHOWN_FRAMES, SPEED, Clip, Mover, sample_clips
from harness.mini.language import (
    DESCRIBE,
    DESCRIBE_CLIP,
    STILL_KINDS,
    ask,
    ask_cell,
    ask_clip,
    ask_place,
    clip_map,
    describe,
    describe_clip,
    text_map,
)
from harness.mini.textmap import embed_maps, encode_maps
from harness.mini.tokenizer import build_tokenizer
from harness.mini.world import Scene, sample_scenes
from harness.prompts import LETTERS
from harness.seeds import derive_seed

WIDTH, LAYERS, HEADS, INNER = 128, 4, 4, 384
NUM_STILLS, NUM_CLIPS = 32, 16
"""Rows of a step. Both in every step: Muon's steps are of one size, so in turns each would undo the other."""
QUESTIONS = 7
MUON_LR, ADAM_LR, WARMUP = 0.02, 3e-3, 50
MAX_NOISE = 0.4
"""Noise on the map, in standard deviations of the embedding table; half of the rows get none."""
LOG_EVERY, SAVE_EVERY = 50, 250


LOOKUPS = ("color", "shape", "pattern")
ASKED = (*STILL_KINDS, "cell")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """A stretch of the training with its own learning-rate schedule."""

    steps: int
    schedule: int
    """Steps of the rate's schedule; more than `steps` where the leg stops in the midst of it."""
    rate: float = 0.5
    """Factor on both learning rates."""
    kinds: tuple[str, ...] = ASKED
    """What is asked about scenes."""
    places: int = 2
    """Questions about where things are in a clip."""
    looks: int = 0
    """Questions about what things look like in a clip."""
    shorten: bool = False
    """Which way an object goes is also asked with none or some of the options, so that its name is near."""
    describe: bool = True
    """Each scene and clip is described as well as asked about."""
    single: float
    """Share of the clips that show one object: which way it goes is then learnt without looking it up."""
    inside: bool = False
    """Such an object does not leave the picture."""
    length_power: float = 0.5
    """A token of an answer of n tokens weighs n to minus this: 1 counts exchanges, 0 tokens."""


# Looking up comes first and alone: with descriptions from the start (30 tokens against an answer's two) the
# colour of an object that only its shape names stayed a guess for 3,300 steps. Clips begin with one object
# inside the picture, whose place already tells something about its way; two objects and the wrapping follow.
_LOOKING_UP = Leg(
    steps=400,
    schedule=400,
    rate=1.0,
    kinds=LOOKUPS,
    describe=False,
    single=1.0,
    inside=True,
    length_power=1.0,
)
LEGS = (
    _LOOKING_UP,
    replace(_LOOKING_UP, steps=350, schedule=800, kinds=STILL_KINDS, single=0.5),
    Leg(steps=500, schedule=2_000, rate=0.4, kinds=STILL_KINDS, single=0.5, inside=True),
    Leg(steps=500, schedule=1_500, single=0.2),
    Leg(steps=250, schedule=2_250, single=0.1, places=4),
    Leg(steps=1_250, schedule=2_000, single=0.05, places=4, looks=2),
    Leg(steps=1_000, schedule=1_000, rate=0.4, single=0.05, places=4, looks=2, shorten=True),
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


MOVE_KINDS = ("video", "video_short", "video_single", "video_single_short")
CLIP_KINDS = (*MOVE_KINDS, "place", "clip_look", "describe_clip")


class _Kinds:
    """Running error of each question kind; it decides how often a kind is asked about scenes."""

    def __init__(self) -> None:
        self.error = dict.fromkeys((*ASKED, "describe", *CLIP_KINDS), 1.0)

    def choose(self, rng: random.Random, leg: Leg) -> str:
        """A kind of still question."""
        # A box counts as right here only to the last step of 1/32, so its error says little.
        weights = [0.6 if kind == "rec" else 0.2 + self.error[kind] for kind in leg.kinds]
        return rng.choices(leg.kinds, weights)[0]

    def note(self, kind: str, wrong: float) -> None:
        self.error[kind] += 0.01 * (wrong - self.error[kind])


class _Part(NamedTuple):
    """Rows that share one shape: maps, exchanges, and the kind of each exchange."""

    maps: list[list[list[str]]]
    rows: list[list[Exchange]]
    names: list[list[str]]


def _still_part(llm: LanguageModel, rng: random.Random, kinds: _Kinds, leg: Leg) -> _Part:
    part = _Part([], [], [])
    for scene in sample_scenes("train", NUM_STILLS, seed=rng.randrange(2**40)):
        row = [encode_exchange(llm, DESCRIBE, describe(scene))] if leg.describe else []
        name = ["describe"] if leg.describe else []
        while name.count("describe") + QUESTIONS > len(row):
            kind = kinds.choose(rng, leg)
            question = ask_cell(scene, rng) if kind == "cell" else ask(scene, kind, rng)
            if question is not None:
                row.append(encode_exchange(llm, question.prompt, question.answer))
                name.append(question.kind)
        part.maps.append(text_map(scene))
        part.rows.append(row)
        part.names.append(name)
    return part


def _stays_inside(mover: Mover) -> bool:
    """It does not leave on one side to enter on the other."""
    first, last = mover.thing, mover.at(NUM_FRAMES - 1)
    dx, dy = (d * SPEED * (NUM_FRAMES - 1) for d in MOVES[mover.move])
    return (last.x - first.x, last.y - first.y) == (dx, dy)


def _exercise(clips: Iterator[Clip], rng: random.Random, leg: Leg) -> Clip:
    """The next clip, or one of its objects alone.

    Alone it stays inside the picture where the leg says so: where it is then already tells something about
    where it goes, a first step towards comparing frames. Else one frame tells nothing, as in the task.
    """
    clip = next(clips)
    if rng.random() >= leg.single:
        return clip
    while leg.inside and not _stays_inside(clip.movers[0]):
        clip = next(clips)
    return replace(clip, movers=clip.movers[:1])


def _clip_part(llm: LanguageModel, rng: random.Random, leg: Leg) -> _Part:
    part = _Part([], [], [])
    # Objects that would leave the picture are passed over: two of three stay, so eight times is plenty.
    enough = NUM_CLIPS * (8 if leg.inside else 1)
    clips = iter(sample_clips("train", enough, seed=rng.randrange(2**40)))
    for _ in range(NUM_CLIPS):
        clip = _exercise(clips, rng, leg)
        row, name = [], []
        for _ in range(leg.places):
            place = ask_place(clip, rng, SHOWN_FRAMES)
            row.append(encode_exchange(llm, place.prompt, place.answer))
            name.append("place")
        still = Scene(tuple(mover.thing for mover in clip.movers), None, clip.background)
        for _ in range(leg.looks):
            look = ask(still, rng.choice(LOOKUPS), rng)
            if look is not None:
                row.append(encode_exchange(llm, look.prompt, look.answer))
                name.append("clip_look")
        for which in range(len(clip.movers)):
            choice = ask_clip(clip, rng, which)
            kind = "video" if len(clip.movers) > 1 else "video_single"
            lines = choice.prompt.split("\n")
            for shown in (1, rng.randrange(1, len(lines)), len(lines)) if leg.shorten else (len(lines),):
                row.append(encode_exchange(llm, "\n".join(lines[:shown]), LETTERS[choice.answer]))
                name.append(kind if shown == len(lines) else f"{kind}_short")
        if leg.describe:
            row.append(encode_exchange(llm, DESCRIBE_CLIP, describe_clip(clip, SHOWN_FRAMES)))
            name.append("describe_clip")
        part.maps.append(clip_map(clip, SHOWN_FRAMES))
        part.rows.append(row)
        part.names.append(name)
    return part


def _learn_part(llm: LanguageModel, part: _Part, leg: Leg, kinds: _Kinds) -> float:
    """Add the gradient of one part of the batch; returns its loss."""
    visual = embed_maps(llm, encode_maps(llm, part.maps))
    strength = (torch.rand(len(part.maps), 1, 1) * 2 - 1).clamp(min=0) * MAX_NOISE
    visual = visual + torch.randn_like(visual) * strength * llm.embed(torch.arange(5)).detach().std()
    opening = llm.encode_prompt(DESCRIBE).prefix
    with bfloat16_products():
        with torch.autocast("cpu", torch.bfloat16):
            packed = pack(part.rows, len(opening) + visual.shape[1])
            logits, labels = packed_logits(llm, visual, opening, packed)
        loss = weighted_loss(logits, labels, part.rows, leg.length_power)
        (loss * len(part.maps) / (NUM_STILLS + NUM_CLIPS)).backward()  # type: ignore[no-untyped-call]
    right, position = logits.argmax(1) == labels, 0
    for row, name in zip(part.rows, part.names, strict=True):
        for exchange, kind in zip(row, name, strict=True):
            length = len(exchange.answer)
            kinds.note(kind, 0.0 if bool(right[position : position + length].all()) else 1.0)
            position += length
    return float(loss.detach())


def train_llm(work: Path, steps: int = STEPS, seed: int = 0) -> Path:
    """Train and save; returns the folder with the model, its tokenizer and curve.json. Resumable."""
    llm = build_llm(seed)
    modules: dict[str, nn.Module] = {"llm": llm.model}
    optimisers = build_optimisers(modules, MUON_LR, ADAM_LR)
    work.mkdir(parents=True, exist_ok=True)
    state, curve_file = work / "training.safetensors", work / "curve.json"
    # The errors decide what is asked next, so they rest in the same file as the weights.
    first, errors = load_training(state, modules, optimisers)
    kinds = _Kinds()
    kinds.error |= dict(zip(kinds.error, errors, strict=bool(first)))
    curve = json.loads(curve_file.read_text())["curve"][: first // LOG_EVERY] if first else []
    started = time.monotonic()
    for step in range(first, steps):
        leg, place = leg_at(step)
        set_progress(optimisers, place, leg.schedule, WARMUP, rate=leg.rate)
        rng = random.Random(derive_seed("mini-llm-step", seed, step))
        torch.manual_seed(derive_seed("mini-llm-noise", seed, step) % 2**31)
        loss = _learn_part(llm, _still_part(llm, rng, kinds, leg), leg, kinds)
        clip_loss = _learn_part(llm, _clip_part(llm, rng, leg), leg, kinds)
        nn.utils.clip_grad_norm_(llm.model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if (step + 1) % LOG_EVERY == 0:
            row = {"step": step + 1, "loss": round(loss, 4), "clip_loss": round(clip_loss, 4)}
            row |= {f"right_{k}": round(1 - e, 4) for k, e in kinds.error.items()}
            curve.append(row)
            print(
                json.dumps(row), f"{(time.monotonic() - started) / (step + 1 - first):.3f} s/step", flush=True
            )
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            write_atomic(curve_file, json.dumps({"curve": curve}, indent=1).encode() + b"\n")
            save_training(state, modules, optimisers, step + 1, list(kinds.error.values()))
    llm.model.half().save_pretrained(work)
    llm.tokenizer.save_pretrained(str(work))
    return work
