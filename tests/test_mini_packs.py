"""Task packs of the embedded suite: every sample of every task, with a picture of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from harness import prompts
from harness.data import read_note, read_rows
from harness.datasets.packs import PACK_SCHEMA, tasks_of
from harness.files import read_parquet
from harness.images import decode_rgb
from harness.mini import suite
from harness.mini.clips import SHOWN_FRAMES, render_frame, sample_clips
from harness.mini.packs import GAP, write_packs
from leaderboard.packs import FREE, read_picture

COUNTS = {
    "NUM_PROBE_TRAIN": 2,
    "NUM_PROBE_TEST": 5,
    "NUM_VQA": 6,
    "NUM_REC": 4,
    "NUM_VIDEO": 3,
    "NUM_SIGNS": 3,
}
NAMES = ("probe", "vqa", "signs", "rec", "video")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in COUNTS.items():
            patch.setattr(suite, name, count)
        for name in NAMES:
            suite._write_one(name, place)
    write_packs(place)
    return place


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_tells_every_sample_with_its_picture(root, name):
    path = root / name / "packs" / f"{read_note(root / name)['digest']}.parquet"
    table = read_parquet(path)
    assert table.schema.equals(PACK_SCHEMA)
    (task,) = tasks_of("mini", name)
    rows = read_rows(root / name / f"{task.split}.parquet")
    told = table.to_pylist()
    assert len(told) == len(rows)
    for i, (row, pack) in enumerate(zip(rows, told, strict=True)):
        probe = task.kind == "probe"
        assert pack["sample_id"] == (
            prompts.sample_id(task, row, i) if probe else prompts.sample_id(task, row)
        )
        assert pack["references"] == list(prompts.references(task, row))
        assert pack["cluster"] == prompts.cluster(task, row, i)
        assert pack["task"] == task.name and pack["license"] in FREE
        picture = read_picture(pack["thumbnail"])
        assert picture is not None and picture.name.endswith(".webp") and len(picture.data) < 8_000
        if name == "video":
            assert (picture.width, picture.height) == (4 * 64 + 3 * GAP, 64)
            assert all(f"{letter}. " in pack["question"] for letter in "ABCDE")
        else:
            seen = np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB"), np.int64)
            assert np.abs(seen - decode_rgb(row["image"]["bytes"], "")).mean() < 10


def test_a_strip_is_of_the_frames_that_are_shown(root):
    pack = read_parquet(next((root / "video" / "packs").iterdir())).to_pylist()[1]
    clip = sample_clips("test", 3, seed=suite.VIDEO_SEED)[1]
    strip = np.asarray(Image.open(io.BytesIO(pack["thumbnail"])).convert("RGB"), np.int64)
    for place, frame in enumerate(SHOWN_FRAMES):
        start = place * (64 + GAP)
        assert np.abs(strip[:, start : start + 64] - render_frame(clip, frame)).mean() < 12


def test_a_probes_number_is_explained(root):
    pack = read_parquet(next((root / "probe" / "packs").iterdir())).to_pylist()[0]
    assert f"Number {pack['references'][0]} means a " in pack["question"]


def test_packs_are_written_once_and_alike(root, tmp_path):
    assert write_packs(root) == []
    path = next((root / "rec" / "packs").iterdir())
    before = path.read_bytes()
    path.unlink()
    assert write_packs(root) == [path]
    assert path.read_bytes() == before
