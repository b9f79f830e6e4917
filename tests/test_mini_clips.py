"""The clips: motion wraps around, one frame is worth nothing, two are, and the mp4 is reproducible."""

import io
import math
import random

import av
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from harness.errors import DatasetError
from harness.images import decode_clip
from harness.mini import clips as clip_world
from harness.mini.clips import (
    MOVES,
    NUM_FRAMES,
    SHOWN_FRAMES,
    SPEED,
    Clip,
    Mover,
    encode_mp4,
    render_frame,
    sample_clips,
)
from harness.mini.language import ask_clip
from harness.mini.world import COLORS, PATTERNS, SHAPES, SIDE, SIZES, Thing, draw_background, split_of
from harness.protocol import read_protocol

COUNT, TRAIN = 4000, 2500


@pytest.fixture(scope="module")
def clips():
    return sample_clips("train", COUNT, seed=11)


def one_hot(value, values):
    return [float(value == v) for v in values]


def looks(thing):
    """Everything that can be seen of an object in one frame, positions also as cells and on the circle."""
    x, y = 2 * math.pi * thing.x / SIDE, 2 * math.pi * thing.y / SIDE
    return [
        thing.x / SIDE,
        thing.y / SIDE,
        *(math.sin(x), math.cos(x), math.sin(y), math.cos(y)),
        *one_hot(thing.x // 8, range(8)),
        *one_hot(thing.y // 8, range(8)),
        *one_hot(thing.shape, SHAPES),
        *one_hot(thing.color, COLORS),
        *one_hot(thing.pattern, PATTERNS),
        *one_hot(thing.size, SIZES),
    ]


def accuracy(model, x, y):
    x, y = np.array(x), np.array(y)
    model.fit(x[:TRAIN], y[:TRAIN])
    return float((model.predict(x[TRAIN:]) == y[TRAIN:]).mean())


def linear():
    return LogisticRegression(C=0.1, max_iter=500)


def forest():
    return RandomForestClassifier(40, min_samples_leaf=5, random_state=0, n_jobs=1)


def chance_bound():
    """Three standard errors of an accuracy whose truth is one fifth."""
    return 3 * math.sqrt(0.2 * 0.8 / (COUNT - TRAIN))


def test_objects_wrap_around():
    mover = Mover(Thing(62, 3, "small", "star", "red", "solid"), "right")
    assert [mover.at(f).x for f in range(3)] == [62, 2, 6]
    assert Mover(mover.thing, "up").at(1).y == SIDE - 1
    assert Mover(mover.thing, "nowhere").at(7) == mover.thing
    assert all(Mover(mover.thing, move).at(SIDE // SPEED) == mover.thing for move in MOVES)


def test_a_wrapped_object_keeps_all_its_pixels():
    def painted(x, y):
        thing = Thing(x, y, "large", "cross", "cyan", "checked")
        other = Thing(32, 32, "small", "ring", "red", "solid")
        clip = Clip((Mover(other, "nowhere"), Mover(thing, "nowhere")), 5)
        return (render_frame(clip, 0) == (60, 205, 215)).all(2)

    middle = painted(10, 40)
    assert painted(0, 40).sum() == middle.sum() > 50
    assert (np.roll(middle, (30, -10), (0, 1)) == painted(0, 6)).all()


def test_sampling_is_reproducible_and_owned_by_its_split():
    for split in ("train", "dev", "test"):
        assert sample_clips(split, 40, 1)[:10] == sample_clips(split, 10, 1)
        assert {split_of(clip.movers) for clip in sample_clips(split, 100, 2)} == {split}
    train = {c.movers for seed in (0, 107) for c in sample_clips("train", 1500, seed)}
    assert not train & {c.movers for seed in (0, 105) for c in sample_clips("test", 1000, seed)}


# ---- one frame is worth nothing: by symmetry


@pytest.mark.parametrize("move", list(MOVES))
@pytest.mark.parametrize("frame", range(NUM_FRAMES))
def test_a_move_permutes_the_positions_so_that_uniform_stays_uniform(move, frame):
    """For every direction a frame shows each of the 64 x 64 places exactly once: the same distribution."""
    looks = {"size": "small", "shape": "ring", "color": "red", "pattern": "dotted"}
    starts = [(x, y) for x in range(SIDE) for y in range(SIDE)]
    shown = [Mover(Thing(x, y, **looks), move).at(frame) for x, y in starts]
    assert sorted((t.x, t.y) for t in shown) == starts
    assert {(t.size, t.shape, t.color, t.pattern) for t in shown} == {tuple(looks.values())}


def test_places_and_looks_are_drawn_without_knowing_the_direction(monkeypatch):
    """Other names for the directions: the same objects at the same places, and each name in its turn."""
    monkeypatch.setattr(clip_world, "split_of", lambda movers: "train")
    before = sample_clips("train", 300, seed=5)
    names = dict(zip(MOVES, "abcde", strict=True))
    monkeypatch.setattr(clip_world, "MOVES", dict.fromkeys("abcde", (0, 0)))
    after = sample_clips("train", 300, seed=5)
    for a, b in zip(before, after, strict=True):
        assert [m.thing for m in a.movers] == [m.thing for m in b.movers]
        assert [names[m.move] for m in a.movers] == [m.move for m in b.movers]


# ---- and by measurement


def test_the_two_objects_can_be_told_apart(clips):
    assert all(
        (a.thing.shape, a.thing.color) != (b.thing.shape, b.thing.color) for a, b in (c.movers for c in clips)
    )


def test_directions_are_equally_frequent_and_so_are_answer_letters(clips):
    rng = random.Random(0)
    choices = [ask_clip(c, rng) for c in clips]
    moves = [choice.options[choice.answer] for choice in choices]
    four_errors = 4 * math.sqrt(0.2 * 0.8 / COUNT)
    assert all(abs(moves.count(m) / COUNT - 0.2) < four_errors for m in MOVES)
    assert all(abs(sum(c.answer == i for c in choices) / COUNT - 0.2) < four_errors for i in range(5))


@pytest.mark.parametrize("model", [linear, forest])
@pytest.mark.parametrize("frame", [0, NUM_FRAMES // 2, NUM_FRAMES - 1])
def test_one_frame_says_nothing_about_the_asked_object(clips, model, frame):
    x = [looks(c.movers[0].at(frame)) for c in clips]
    y = [c.movers[0].move for c in clips]
    assert abs(accuracy(model(), x, y) - 0.2) < chance_bound()


@pytest.mark.parametrize("model", [linear, forest])
def test_one_frame_of_both_objects_says_nothing_either(clips, model):
    x = [looks(c.movers[1].at(3)) + looks(c.movers[0].at(3)) for c in clips]
    y = [c.movers[1].move for c in clips]
    assert abs(accuracy(model(), x, y) - 0.2) < chance_bound()


def test_two_frames_say_it(clips):
    def difference(clip):
        a, b = clip.movers[0].at(0), clip.movers[0].at(1)
        return [
            float((b.x - a.x + SIDE // 2) % SIDE - SIDE // 2),
            float((b.y - a.y + SIDE // 2) % SIDE - SIDE // 2),
        ]

    x = [difference(c) for c in clips]
    assert accuracy(linear(), x, [c.movers[0].move for c in clips]) > 0.99


def test_two_frames_say_it_even_without_knowing_of_the_wrap(clips):
    x = [
        [c.movers[0].at(4).x - c.movers[0].at(2).x, c.movers[0].at(4).y - c.movers[0].at(2).y] for c in clips
    ]
    # A wrapped step points the other way, so a straight line misreads it; a tree does not.
    assert accuracy(forest(), x, [c.movers[0].move for c in clips]) > 0.8


def test_the_looks_of_two_frames_say_what_those_of_one_do_not(clips):
    x = [looks(c.movers[0].at(2)) + looks(c.movers[0].at(4)) for c in clips]
    assert accuracy(forest(), x, [c.movers[0].move for c in clips]) > 0.8


def coding_errors(clip, frame):
    """(81,) mean error of the decoded pixels in 7 x 7 px squares around the asked object."""
    thing = clip.movers[1].at(frame)
    decoded = decode_clip(encode_mp4(clip), NUM_FRAMES)[frame].astype(int)
    error = np.abs(decoded - render_frame(clip, frame)).mean(2)
    centred = np.roll(error, (32 - thing.y, 32 - thing.x), (0, 1))[:63, :63]
    return centred.reshape(9, 7, 9, 7).mean((1, 3)).ravel()


@pytest.mark.slow
def test_the_codec_leaves_no_trail_that_tells_the_direction(clips):
    x = [coding_errors(c, NUM_FRAMES - 1) for c in clips]
    assert abs(accuracy(forest(), x, [c.movers[1].move for c in clips]) - 0.2) < chance_bound()


def test_frames_show_the_movers_on_an_unchanging_background():
    clip = sample_clips("test", 1, seed=3)[0]
    background = draw_background(clip.background)
    frames = [render_frame(clip, i) for i in range(NUM_FRAMES)]
    still = np.all([(f == background).all(2) for f in frames], axis=0)
    assert 0.2 < still.mean() < 1
    assert (render_frame(clip, 2) == frames[2]).all()


def test_mp4_bytes_are_deterministic_and_the_clip_s_own():
    first, second = sample_clips("test", 2, seed=105)
    assert encode_mp4(first) == encode_mp4(first)
    assert encode_mp4(first) != encode_mp4(second)


def test_every_frame_of_a_clip_is_a_key_frame():
    """A predicted frame keeps a trail of where its object came from (the slow test above measures it)."""
    for clip in sample_clips("test", 20, seed=105):
        with av.open(io.BytesIO(encode_mp4(clip))) as container:
            packets = [p for p in container.demux(video=0) if p.size]
        assert len(packets) == NUM_FRAMES and all(p.is_keyframe for p in packets)


def test_eight_frames_decode_in_order_and_near_what_was_drawn():
    for clip in sample_clips("test", 4, seed=105):
        decoded = decode_clip(encode_mp4(clip), NUM_FRAMES)
        drawn = np.stack([render_frame(clip, i) for i in range(NUM_FRAMES)]).astype(int)
        assert len(decoded) == NUM_FRAMES and decoded[0].shape == (SIDE, SIDE, 3)
        for i, frame in enumerate(decoded):
            errors = np.abs(drawn - frame.astype(int)).mean(axis=(1, 2, 3))
            assert errors[i] < 15  # chroma is halved in both directions, so edges bleed
            assert errors[i] <= errors.min() + 1e-9 or (drawn[int(errors.argmin())] == drawn[i]).all()


def test_fewer_frames_are_the_centres_of_equal_spans():
    clip = sample_clips("test", 1, seed=105)[0]
    data = encode_mp4(clip)
    everything, two = decode_clip(data, NUM_FRAMES), decode_clip(data, 2)
    assert [next(i for i, f in enumerate(everything) if (f == t).all()) for t in two] == [2, 6]


def test_a_clip_cut_in_half_is_a_dataset_error():
    data = encode_mp4(sample_clips("test", 1, seed=105)[0])
    with pytest.raises(DatasetError) as error:
        decode_clip(data[: len(data) // 2], NUM_FRAMES, where="clip 7")
    assert error.value.exit_code == 5 and "clip 7" in str(error.value)


def test_the_shown_frames_are_those_that_the_protocol_decodes():
    clip = sample_clips("test", 1, seed=105)[0]
    shown = decode_clip(encode_mp4(clip), read_protocol("mini").video.frames)
    every = decode_clip(encode_mp4(clip), NUM_FRAMES)
    assert len(shown) == len(SHOWN_FRAMES)
    assert all((a == every[i]).all() for a, i in zip(shown, SHOWN_FRAMES, strict=True))
