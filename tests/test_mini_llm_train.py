"""Training of the mini language model: what is asked when, and that it goes on exactly where it was."""

from __future__ import annotations

import itertools
import random

import pytest
from safetensors.torch import load_file

from harness.mini import llm_train
from harness.mini.clips import MOVES, NUM_FRAMES, SHOWN_FRAMES, sample_clips
from harness.mini.language import CELLS, ask_cell
from harness.mini.llm_train import (
    LEGS,
    STEPS,
    _clip_part,
    _exercise,
    _Kinds,
    _stays_inside,
    _still_part,
    leg_at,
)
from harness.mini.world import SIDE, cell_of, sample_scenes
from harness.prompts import LETTERS

INSIDE = LEGS[0]
LAST = LEGS[-1]


@pytest.fixture(scope="module")
def llm():
    return llm_train.build_llm()


def test_every_step_has_its_leg_and_place():
    at = 0
    for leg in LEGS:
        assert leg_at(at) == (leg, 0) and leg_at(at + leg.steps - 1) == (leg, leg.steps - 1)
        assert leg.schedule >= leg.steps, "a rate must not come back to where it was"
        at += leg.steps
    assert at == STEPS and leg_at(STEPS + 5) == (LAST, LAST.steps - 1)


def test_an_object_stays_inside_when_no_frame_finds_it_on_the_other_side():
    seen = set()
    for clip in sample_clips("train", 200, seed=1):
        for mover in clip.movers:
            path = [(mover.at(f).x, mover.at(f).y) for f in range(NUM_FRAMES)]
            jumps = any(abs(a - c) + abs(b - d) > SIDE // 2 for (a, b), (c, d) in itertools.pairwise(path))
            assert _stays_inside(mover) == (not jumps)
            seen.add((mover.move, jumps))
    assert seen >= {(move, False) for move in MOVES} | {(move, True) for move in MOVES if move != "nowhere"}


@pytest.mark.parametrize("leg", [INSIDE, LAST], ids=["first", "last"])
def test_exercises_show_one_object_or_two_as_the_leg_says(leg):
    clips = iter(sample_clips("train", 2000, seed=2))
    made = [_exercise(clips, random.Random(i), leg) for i in range(400)]
    alone = [clip.movers[0] for clip in made if len(clip.movers) == 1]
    assert abs(len(alone) / 400 - leg.single) < 0.05
    assert all(_stays_inside(m) for m in alone) == leg.inside


def test_rows_of_clips_hold_what_their_names_say(llm):
    part = _clip_part(llm, random.Random(3), LAST)
    assert len(part.maps) == len(part.rows) == len(part.names) == llm_train.NUM_CLIPS
    asked: dict[str, list[str]] = {}
    for row, names, cells in zip(part.rows, part.names, part.maps, strict=True):
        assert len(row) == len(names) and len(cells) == len(SHOWN_FRAMES) * len(CELLS)
        for exchange, name in zip(row, names, strict=True):
            answer = llm.tokenizer.decode(exchange.answer[:-1])
            asked.setdefault(name, []).append(answer)
            prompt = llm.tokenizer.decode(exchange.tail)
            if name.startswith("video"):
                assert answer in LETTERS and "which way does the" in prompt
                assert ("\nE. " in prompt) == (not name.endswith("_short"))
    assert set(asked["place"]) <= set(CELLS) and len(asked["place"]) == LAST.places * llm_train.NUM_CLIPS
    assert len(asked["describe_clip"]) == llm_train.NUM_CLIPS and asked["clip_look"]
    assert len(asked["video_short"]) >= len(asked["video"]) / 2


def test_rows_of_scenes_ask_only_what_the_leg_asks(llm):
    for leg in (INSIDE, LAST):
        part = _still_part(llm, random.Random(4), _Kinds(), leg)
        names = {name for row in part.names for name in row}
        assert names <= set(leg.kinds) | {"describe"} and ("describe" in names) == leg.describe
        assert {len(row) for row in part.rows} == {llm_train.QUESTIONS + leg.describe}


def test_a_weak_kind_is_asked_more_often():
    kinds, rng = _Kinds(), random.Random(0)
    for _ in range(2000):
        kinds.note("color", 0.0)
    chosen = [kinds.choose(rng, INSIDE) for _ in range(2000)]
    assert chosen.count("color") < 0.4 * chosen.count("shape")


def test_a_cell_is_where_the_named_object_is():
    rng = random.Random(0)
    for scene in sample_scenes("train", 100, seed=5):
        question = ask_cell(scene, rng)
        thing = next(t for t in scene.things if f"the {t.color} {t.shape}?" in question.prompt)
        assert question.answer == CELLS[cell_of(thing)]


def test_an_interrupted_training_ends_in_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(llm_train, "SAVE_EVERY", 2)
    monkeypatch.setattr(llm_train, "LOG_EVERY", 1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    llm_train.train_llm(whole, steps=4)

    def killed(*arguments, **keywords):
        """The curve of step 4 is on disk, its weights are not."""
        if arguments[3] == 4:
            raise KeyboardInterrupt
        save(*arguments, **keywords)

    save = llm_train.save_training
    with monkeypatch.context() as patched:
        patched.setattr(llm_train, "save_training", killed)
        with pytest.raises(KeyboardInterrupt):
            llm_train.train_llm(parts, steps=4)
    llm_train.train_llm(parts, steps=4)
    assert (parts / "curve.json").read_bytes() == (whole / "curve.json").read_bytes()
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)
