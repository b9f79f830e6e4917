"""Protocols: each mistake named, each recipe digest moved by exactly the sections it covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.protocol import PROTOCOLS, RECIPES, SECTIONS, known_protocols, read_protocol, unpinned_fields
from harness.records import Protocol
from harness.task import known_tasks

TEXT = """\
schema = 1
name = "test"
version = 1
suite = "mini"
description = "A protocol\\nfor tests."
seeds = [0, 1, 2]
tasks = ["eyechart_mini_vqa", "eyechart_mini_probe"]

[image]
resize = "squash"
interpolation = "bicubic"
resolution = 64

[tokens]
layer = 0
budget = 16
pooled = "mean"
dtype = "float16"

[video]
frames = 4
tokens_per_frame = 9

[llm]
name = "mini-llm"
revision = "UNPINNED"
training = "full"
lr = 0.004

[adapter]
kind = "mlp"
depth = 3
width = 384
steps = 300
batch = 48
lr = 0.02
warmup_steps = 20
questions_per_image = 3
length_power = 0.5
video_share = 0.25
mixture = "mini-mixture"
mixture_digest = "UNPINNED"
position_words = []
frame_words = ["first", "second"]
dtype = "bfloat16"

[probe]
lambdas = [0.1, 1, 0.01]
max_iter = 100
tolerance = 1e-4
folds = 2

[decoding]
dtype = "float32"
max_new_tokens = 32
"""


def read(folder: Path, text: str) -> Protocol:
    path = folder / "test.toml"
    path.write_text(text, encoding="utf-8")
    return read_protocol(str(path))


def changed(old: str, new: str) -> str:
    assert old in TEXT, old
    return TEXT.replace(old, new, 1)


def test_a_good_protocol(tmp_path):
    protocol = read(tmp_path, TEXT)
    assert protocol.video.tokens_per_frame == 9
    assert protocol.probe.lambdas == (1.0, 0.1, 0.01)
    assert set(protocol.recipe_digests) == {"feature", "probe", "adapter", "decoding"}
    assert unpinned_fields(protocol) == ("llm.revision", "adapter.mixture_digest")
    pinned = TEXT.replace('"UNPINNED"', f'"{"a" * 64}"')
    assert unpinned_fields(read(tmp_path, pinned)) == ()


# a change -> the recipes it must move, and no other
MOVES = [
    ("resolution = 64", "resolution = 96", {"feature", "probe", "adapter"}),
    ("budget = 16", "budget = 9", {"feature", "probe", "adapter"}),
    ("frames = 4", "frames = 5", {"feature", "probe", "adapter"}),
    ("lr = 0.004", "lr = 0.005", {"adapter"}),
    ("steps = 300", "steps = 301", {"adapter"}),
    ("folds = 2", "folds = 3", {"probe"}),
    ("max_new_tokens = 32", "max_new_tokens = 33", {"decoding"}),
    ("lambdas = [0.1, 1, 0.01]", "lambdas = [1.0, 0.10, 0.01]", set()),
    ("seeds = [0, 1, 2]", "seeds = [0, 1, 2, 3]", set()),
    ('"eyechart_mini_vqa", ', "", set()),
    ("A protocol", "Another protocol", set()),
]


@pytest.mark.parametrize(("old", "new", "moved"), MOVES)
def test_recipe_digests(tmp_path, old, new, moved):
    before = read(tmp_path, TEXT).recipe_digests
    after = read(tmp_path, changed(old, new)).recipe_digests
    assert {name for name in before if before[name] != after[name]} == moved


def test_every_section_is_in_a_recipe():
    assert {section for sections in RECIPES.values() for section in sections} == set(SECTIONS)


MISTAKES = [
    ("schema = 1", "schema = 2", ["schema"]),
    ("suite", "siute", ["siute", "expected suite"]),
    ("[tokens]", "[token]", ["token", "expected tokens"]),
    ("budget", "budgte", ["tokens.budgte", "expected budget"]),
    ("budget = 16", "budget = 15", ["tokens.budget", "square"]),
    ("budget = 16", "budget = 0", ["tokens.budget", "out of range"]),
    ("tokens_per_frame = 9", "tokens_per_frame = 8", ["video.tokens_per_frame", "square"]),
    ("seeds = [0, 1, 2]", "seeds = [0, 1]", ["seeds", "expected 3"]),
    ("seeds = [0, 1, 2]", "seeds = [0, 1, 3]", ["seeds", "without gaps"]),
    ("seeds = [0, 1, 2]", "seeds = [0, 1, 1]", ["seeds", "without gaps"]),
    ("seeds = [0, 1, 2]", "seeds = [0, 1, -2]", ["seeds[2]", "out of range"]),
    ('"eyechart_mini_vqa", ', '"eyechart_mini_probe", ', ["tasks", "twice"]),
    ("eyechart_mini_vqa", "vqav2_val", ["tasks[0]", "eyechart_"]),
    ('resize = "squash"', 'resize = "squish"', ["image.resize", "Write squash"]),
    ('training = "full"', 'training = "frozen"', ["llm.lr", "contradicts"]),
    ("lr = 0.004", "lr = 0", ["llm.lr", "contradicts"]),
    ("lr = 0.02", "lr = nan", ["adapter.lr", "finite"]),
    ("video_share = 0.25", "video_share = 1.5", ["adapter.video_share", "0 to 1"]),
    ("warmup_steps = 20", "warmup_steps = 301", ["adapter.warmup_steps", "more than steps"]),
    ('mixture_digest = "UNPINNED"', 'mixture_digest = "latest"', ["adapter.mixture_digest", "64 hex"]),
    ("lambdas = [0.1, 1, 0.01]", "lambdas = []", ["probe.lambdas"]),
    ("lambdas = [0.1, 1, 0.01]", "lambdas = [0.1, 0.1]", ["probe.lambdas", "twice"]),
    ("lambdas = [0.1, 1, 0.01]", "lambdas = [-0.1]", ["probe.lambdas[0]", "out of range"]),
    ("folds = 2", "folds = 1", ["probe.folds", "out of range"]),
    ("folds = 2", "", ["probe.folds", "key missing"]),
    ("max_new_tokens = 32", "max_new_tokens = true", ["decoding.max_new_tokens", "whole number"]),
    ("[probe]", "[probe", ["not valid TOML", "line 47"]),
]


@pytest.mark.parametrize(("old", "new", "says"), MISTAKES)
def test_mistakes(tmp_path, old, new, says):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, changed(old, new))
    line = str(caught.value)
    assert "\n" not in line
    for part in ["test.toml", *says]:
        assert part in line


def test_recipe_digests_cannot_be_given(tmp_path):
    with pytest.raises(UsageError, match="recipe_digests"):
        read(tmp_path, changed("version = 1", "version = 1\nrecipe_digests = {}"))


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(UsageError, match="Write mini") as caught:
        read_protocol("mimi")
    assert caught.value.exit_code == 2


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match="no such protocol file"):
        read_protocol(str(tmp_path / "no.toml"))


@pytest.mark.parametrize("name", known_protocols())
def test_protocols_that_come_with_eyechart(name):
    protocol = read_protocol(name)
    assert protocol.name == name
    assert protocol == read_protocol(str(PROTOCOLS / f"{name}.toml"))
    assert set(protocol.tasks) <= set(known_tasks())


def test_mini_is_known():
    assert "mini" in known_protocols()
