"""Frames of clips without the clips: the very pixels, and a clear line where they are missing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from harness.data import ClipFrames, frames_decoder
from harness.errors import DatasetError
from harness.frame_pack import pack_name, write_pack
from harness.mini.clips import encode_mp4, sample_clips

FRAMES = 4


@pytest.fixture
def folder(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    for i, clip in enumerate(sample_clips("test", 3, seed=1)):
        (clips / f"{i}.mp4").write_bytes(encode_mp4(clip))
    write_pack(clips, ["0", "1", "2"], FRAMES, tmp_path / pack_name(FRAMES))
    return tmp_path


def all_frames(folder):
    frames = ClipFrames(["0", "1", "2"], folder / "clips", FRAMES)
    return np.stack([frames.load(i) for i in range(3 * FRAMES)])


def test_the_same_pixels(folder):
    decoded = all_frames(folder)
    assert frames_decoder([folder], FRAMES) == ""
    shutil.rmtree(folder / "clips")
    assert np.array_equal(all_frames(folder), decoded)
    assert frames_decoder([folder, folder], FRAMES).startswith("av ")


def test_clips_are_preferred(folder):
    (folder / "clips" / "1.mp4").unlink()
    with pytest.raises(DatasetError, match="clip is missing"):
        all_frames(folder)


def test_a_clip_that_is_not_packed(folder):
    shutil.rmtree(folder / "clips")
    with pytest.raises(DatasetError, match="frames of a clip are missing"):
        ClipFrames(["7"], folder / "clips", FRAMES).load(0)


def test_a_damaged_pack(folder):
    shutil.rmtree(folder / "clips")
    pack = folder / pack_name(FRAMES)
    pack.write_bytes(pack.read_bytes()[:-9])
    with pytest.raises(DatasetError, match="frames cannot be read"):
        all_frames(folder)
