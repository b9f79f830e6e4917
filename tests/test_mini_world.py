"""The still scenes: reproducible, disjoint between splits, and labelled with what is really drawn."""

import hashlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.mini import suite, world
from harness.mini.world import (
    HELD_OUT_WORDS,
    SIDE,
    WORDS,
    Scene,
    box_of,
    class_name,
    class_of,
    draw_background,
    render,
    sample_scenes,
    split_of,
)

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "dev", "test")
GOLDEN = "6ab016f911df67c6bff9932da7a83b690ba2bdc6d7e8709d38d64d3e5bd619c8"
WHOLE_GOLDEN = "d9c68144d8383e3382831d8002dedee7781e96d893adf1a337a3d5c9f8dd4885"
WHOLE = """
import hashlib, random
from harness.mini import captions, clips, language, world
digest = hashlib.sha256()
rng = random.Random(0)
for split in ("train", "dev", "test"):
    scenes = world.sample_scenes(split, 40, seed=1) + world.sample_scenes(split, 10, seed=2, with_sign=True)
    for scene in scenes:
        asked = [language.ask(scene, kind, rng) for kind in language.STILL_KINDS]
        said = (captions.write_caption(scene, rng), language.describe(scene), language.text_map(scene))
        digest.update(repr((scene, world.class_of(scene), asked, said)).encode())
        digest.update(world.render(scene).tobytes())
    digest.update(captions.facts_of(scenes).tobytes())
    for clip in clips.sample_clips(split, 10, seed=1):
        said = language.describe_clip(clip, clips.SHOWN_FRAMES)
        digest.update(repr((clip, language.ask_clip(clip, rng), said)).encode())
        digest.update(clips.render_frame(clip, 5).tobytes())
digest.update(repr(sorted(world.HELD_OUT_WORDS)).encode())
print(digest.hexdigest())
"""


def arrangements(split, seed, count=1200):
    return {(s.things, s.sign) for s in sample_scenes(split, count, seed)}


def test_pixels_are_golden():
    digest = hashlib.sha256()
    for scene in sample_scenes("train", 20, seed=1):
        digest.update(render(scene).tobytes())
    assert digest.hexdigest() == GOLDEN


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_everything_the_world_says_is_the_same_in_every_process(hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", WHOLE],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == WHOLE_GOLDEN


def test_rendering_twice_gives_the_same_pixels_and_leaves_the_masks_alone():
    scenes = sample_scenes("dev", 30, seed=3)
    first = [render(s) for s in scenes]
    assert all((render(s) == p).all() for s, p in zip(reversed(scenes), reversed(first), strict=True))
    assert {p.shape for p in first} == {(SIDE, SIDE, 3)} and {p.dtype for p in first} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("split", SPLITS)
def test_sampling_is_a_prefix_and_depends_on_the_seed(split):
    assert sample_scenes(split, 40, seed=5)[:15] == sample_scenes(split, 15, seed=5)
    assert sample_scenes(split, 15, seed=5) != sample_scenes(split, 15, seed=6)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [0, 101, 106])
def test_sampled_scenes_recompute_to_their_split(split, seed):
    assert {split_of((s.things, s.sign)) for s in sample_scenes(split, 300, seed)} == {split}


def test_no_arrangement_occurs_in_two_splits_whatever_the_seeds():
    found = {split: set().union(*(arrangements(split, seed) for seed in (0, 1, 101))) for split in SPLITS}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["dev"]
    assert not found["dev"] & found["test"]
    assert min(map(len, found.values())) > 3000  # enough of them for the statement to mean something


def unordered(scene):
    """What a picture shows, in whatever order its small objects are listed."""
    return scene.things[0], frozenset(scene.things[1:]), scene.sign


class Unwritten:
    """Takes a dataset's rows and keeps none."""

    def split(self, name, rows, pictures, schema):
        pass

    def clip(self, name, clip):
        pass


@pytest.fixture(scope="module")
def real_scenes():
    """Every scene that the datasets of record are made of, by dataset and split; nothing is drawn."""
    seen, blank = {}, np.zeros((SIDE, SIDE, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        for name, write in suite.DATASETS.items():
            if name in {"digits", "video"}:
                continue

            def keep(split, count, seed, *, with_sign=False, dataset=name):
                scenes = sample_scenes(split, count, seed, with_sign=with_sign)
                seen[dataset, split] = scenes
                return scenes

            patch.setattr(suite, "sample_scenes", keep)
            patch.setattr(suite, "sample_clips", lambda *_, **__: [])
            patch.setattr(suite, "render", lambda scene: blank)
            patch.setattr(suite, "encode_png", lambda pixels: b"")
            write(Unwritten())
    return seen


def test_the_datasets_of_record_share_no_picture_between_train_and_test(real_scenes):
    assert {key: len(scenes) for key, scenes in real_scenes.items()} == {
        ("mixture", "train"): 10_000,
        ("probe", "train"): 8_000,
        ("probe", "test"): 2_000,
        ("vqa", "test"): 2_500,
        ("signs", "test"): 1_000,
        ("rec", "test"): 1_000,
    }
    shown = {split: set() for split in SPLITS}
    for (_, split), scenes in real_scenes.items():
        assert {split_of((s.things, s.sign)) for s in scenes} == {split}
        shown[split] |= {unordered(s) for s in scenes}
    assert len(shown["train"]) > 17_500 and len(shown["test"]) > 6_000
    assert not shown["train"] & shown["test"]


def test_the_probe_of_record_tests_all_144_classes(real_scenes):
    for split in ("train", "test"):
        assert {class_of(s) for s in real_scenes["probe", split]} == set(range(144))


@pytest.mark.slow
def test_no_pre_training_picture_is_in_a_dataset_of_record(real_scenes):
    pool = {unordered(s) for s in sample_scenes("train", 120_000, seed=0)}
    for (_, split), scenes in real_scenes.items():
        assert split == "train" or not pool & {unordered(s) for s in scenes}


def test_the_owner_of_a_scene_depends_on_the_order_in_which_it_lists_small_objects():
    """A limit, not a wish: permuted lists draw one picture but are hashed apart.

    A shared picture would need the same small objects at the same pixels, which no sample has: the tests
    above compare what is shown, without its order.
    """
    rich = [s for s in sample_scenes("test", 300, seed=102) if len(s.things) > 2]
    for scene in rich:
        turned = replace(scene, things=(scene.things[0], *reversed(scene.things[1:])))
        if split_of((turned.things, turned.sign)) != "test":
            assert unordered(turned) == unordered(scene) and (render(turned) == render(scene)).all()
            return
    pytest.fail("order no longer matters: say so in split_of and drop this test")


def test_split_does_not_depend_on_the_background():
    for scene in sample_scenes("test", 50, seed=9):
        other = replace(scene, background=scene.background ^ 1)
        assert split_of((other.things, other.sign)) == "test"


def test_split_shares_are_an_eighth_an_eighth_and_the_rest():
    owners = [split_of(i) for i in range(8000)]
    assert abs(owners.count("test") / 8000 - 1 / 8) < 0.02
    assert abs(owners.count("dev") / 8000 - 1 / 8) < 0.02


def test_held_out_words_are_never_on_a_training_sign_and_always_on_the_others():
    shown = {split: {s.sign.word for s in sample_scenes(split, 1500, 2, with_sign=True)} for split in SPLITS}
    assert not shown["train"] & HELD_OUT_WORDS
    assert shown["dev"] | shown["test"] <= HELD_OUT_WORDS
    assert shown["test"] == HELD_OUT_WORDS
    assert shown["train"] == set(WORDS) - HELD_OUT_WORDS


def test_every_letter_place_of_a_held_out_word_occurs_in_a_training_word():
    train = set(WORDS) - HELD_OUT_WORDS
    places = {(i, letter) for word in train for i, letter in enumerate(word)}
    assert {(i, letter) for word in HELD_OUT_WORDS for i, letter in enumerate(word)} <= places
    assert len(WORDS) == 256 and 30 < len(HELD_OUT_WORDS) < 80


def test_items_are_inside_apart_and_one_a_cell():
    for scene in sample_scenes("train", 400, seed=4):
        items = [(t.x, t.y, t.radius, t.radius) for t in scene.things]
        if scene.sign:
            items.append((scene.sign.x, scene.sign.y, *world.SIGN_HALF))
        assert all(w <= x < SIDE - w and h <= y < SIDE - h for x, y, w, h in items)
        for i, (x, y, w, h) in enumerate(items):
            assert all(abs(x - a) >= w + u or abs(y - b) >= h + v for a, b, u, v in items[:i])
        assert len({world.cell_of(i) for i in (*scene.things, scene.sign) if i}) == len(items)
        assert scene.things[0].size == "large" and {t.size for t in scene.things[1:]} <= {"small"}
        assert len({(t.shape, t.color) for t in scene.things}) == len(scene.things)


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("size", world.SIZES)
def test_masks_of_all_shapes_differ_and_reach_their_half_extent(shape, size):
    mask = world.shape_mask(shape, world.RADIUS[size])
    assert mask.shape == (2 * world.RADIUS[size] + 1,) * 2
    others = [world.shape_mask(s, world.RADIUS[size]) for s in world.SHAPES if s != shape]
    assert all((mask != other).mean() > 0.05 for other in others)
    assert min(mask.any(0).sum(), mask.any(1).sum()) >= 2 * world.RADIUS[size] - 3


def bounds(changed):
    """x1, y1, x2, y2 in px of the true pixels."""
    ys, xs = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def test_a_box_is_tight_around_the_pixels_that_a_thing_alone_changes():
    things = {replace(t, x=32, y=30) for s in sample_scenes("train", 500, seed=7) for t in s.things}
    for thing in things:
        changed = (render(Scene((thing,), None, 3)) != draw_background(3)).any(2)
        assert tuple(v * SIDE for v in box_of(thing)) == bounds(changed), thing
    assert len(things) > 200


def test_boxes_are_tight_in_whole_scenes_up_to_the_pixel_that_neighbours_may_share():
    exact, checked = 0, 0
    for scene in sample_scenes("test", 150, seed=7):
        picture = render(scene)
        for i, thing in enumerate(scene.things):
            without = replace(scene, things=scene.things[:i] + scene.things[i + 1 :])
            tight = bounds((picture != render(without)).any(2))
            off = [abs(v * SIDE - w) for v, w in zip(box_of(thing), tight, strict=True)]
            assert max(off) <= 1, (scene, thing)
            exact, checked = exact + (max(off) == 0), checked + 1
    assert checked > 150 and exact > 0.95 * checked


def test_a_sign_changes_exactly_its_own_box():
    for scene in sample_scenes("test", 40, seed=8, with_sign=True):
        changed = (render(scene) != render(replace(scene, sign=None))).any(2)
        x, y = scene.sign.x, scene.sign.y
        assert bounds(changed) == (x - 19, y - 9, x + 19, y + 9)


def test_signs_of_all_words_look_different():
    pictures = {world._sign_bitmap(word).tobytes() for word in WORDS}
    assert len(pictures) == len(WORDS)


@pytest.mark.parametrize("letters", [world.CONSONANTS, world.VOWELS])
def test_letters_that_share_a_place_differ_in_three_dots_or_more(letters):
    dots = {letter: "".join(world._GLYPHS[letter].split()) for letter in letters}
    for a, b in itertools.combinations(letters, 2):
        assert sum(p != q for p, q in zip(dots[a], dots[b], strict=True)) >= 3, (a, b)
    for letter in letters:
        assert [len(row) for row in world._GLYPHS[letter].split()] == [5] * 7


def test_the_background_is_muted_and_its_own():
    first, second = draw_background(1), draw_background(2)
    assert (first != second).mean() > 0.5
    assert 40 < first.mean() < 200


def test_there_are_144_classes_each_with_its_own_name_and_its_scenes():
    assert world.NUM_CLASSES == 144
    assert len({class_name(i) for i in range(144)}) == 144
    scenes = sample_scenes("train", 4000, seed=101)
    labels = [class_of(s) for s in scenes]
    assert set(labels) == set(range(144))
    for scene, label in zip(scenes[:300], labels, strict=False):
        thing = scene.things[0]
        assert class_name(label) == f"{thing.pattern} {thing.color} {thing.shape}"


def test_the_class_follows_the_dominant_object_only():
    scene = next(s for s in sample_scenes("train", 50, seed=1) if len(s.things) > 1)
    assert class_of(scene) == class_of(Scene(scene.things[:1], None, 0))
