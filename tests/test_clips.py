"""Real clips: variable frame rates, rotation, trimming, sound, other containers, files cut short."""

from __future__ import annotations

import io
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from harness.errors import DatasetError
from harness.images import decode_clip

TENTH = [i * 100 for i in range(20)]
CODEC = {"mp4": "libx264", "matroska": "libx264", "webm": "libvpx-vp9", "mpegts": "libx264", "avi": "mpeg4"}
SOUND = {"mp4": "aac", "matroska": "libopus", "webm": "libopus"}


def grey_level(i, number):
    return 20 + 200 * i // number


def encode(
    form="mp4",
    times_ms=TENTH,
    *,
    codec="",
    size=(32, 48),
    sound_s=0.0,
    picture=None,
    options=None,
    **codec_options,
):
    """A clip whose i-th picture is one grey, or `picture`, shown from times_ms[i] on."""
    base = Fraction(1, 10 if form == "avi" else 1000)
    with tempfile.NamedTemporaryFile() as file:
        # A file, because moving the index to the front reads what was written.
        with av.open(file.name, "w", format=form, options=options or {}) as container:
            stream = container.add_stream(codec or CODEC[form], rate=10)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = stream.codec_context.time_base = base
            stream.options = {key: str(value) for key, value in codec_options.items()}
            sound = container.add_stream(SOUND[form], rate=48000) if sound_s else None
            if sound:
                sound.layout = "mono"
            for i, moment in enumerate(times_ms):
                grey = np.full((*size, 3), grey_level(i, len(times_ms)), np.uint8)
                frame = av.VideoFrame.from_ndarray(grey if picture is None else picture, format="rgb24")
                frame.time_base, frame.pts = base, int(Fraction(moment, 1000) / base)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if sound:
                _add_silence(container, sound, sound_s)
        return Path(file.name).read_bytes()


def _add_silence(container, stream, seconds):
    for start in range(0, int(seconds * 48000), 960):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def shown(data, frames=4, where="q-1"):
    return [float(picture.mean()) for picture in decode_clip(data, frames, where=where)]


def greys(*indices, number=20):
    return pytest.approx([grey_level(i, number) for i in indices], abs=5)


@pytest.mark.parametrize("form", CODEC)
def test_every_container_shows_the_same_pictures(form):
    """Their times come from packets or from an index, with B-frames or without, from zero or later."""
    bf = {} if form in {"webm", "avi"} else {"bf": 3}
    assert shown(encode(form, **bf)) == greys(2, 7, 12, 17)


VARIABLE = [0, 100, 200, 300, 400, 1900, 2000, 2100, 2200, 3900]


@pytest.mark.parametrize("form", ["mp4", "matroska", "webm"])
def test_variable_frame_rate_is_by_the_clock_not_by_the_count(form):
    data = encode(form, VARIABLE, **({} if form == "webm" else {"bf": 0}))
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([moment / 1000 for moment in VARIABLE], abs=0.002)
    # Four spans of about a second: at 0.5 s the picture of 0.4 s is still on screen.
    assert shown(data) == greys(4, 4, 8, 8, number=10)


def test_a_last_picture_may_be_held_long():
    data = bytearray(encode("mp4", TENTH, codec="mpeg4", bf=0))
    # The last entry of the table of durations: as if the last picture stayed for two seconds more.
    table = data.index(b"stts") + 8
    (entries,) = struct.unpack(">I", data[table : table + 4])
    assert entries == 1
    held = (20 + 20) * 1600 // 20
    data[table + 8 : table + 12] = struct.pack(">I", held)
    assert len(shown(bytes(data))) == 4


def turned(data, quarters):
    """The file with a display matrix that turns its picture clockwise, as telephones write it."""
    one = 1 << 16
    matrix = {
        0: (one, 0, 0, one),
        1: (0, one, -one, 0),
        2: (-one, 0, 0, -one),
        3: (0, -one, one, 0),
    }[quarters]
    a, b, c, d = matrix
    data = bytearray(data)
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    return bytes(data)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_rotation_is_applied(quarters):
    corner = np.full((32, 64, 3), 30, np.uint8)
    corner[:16, :32] = 220
    picture = decode_clip(turned(encode("mp4", size=(32, 64), picture=corner), quarters), 1)[0]
    expected = np.rot90(corner, -quarters)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 6
    assert picture.flags.c_contiguous


def test_a_clip_that_was_trimmed_without_encoding_it_anew_is_whole():
    """An edit list hides what precedes the cut; those pictures are decoded and never shown."""
    data = encode("mp4", [moment - 800 for moment in TENTH], bf=2)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 20
        assert sum(packet.is_discard for packet in container.demux(stream)) == 8
    assert shown(data, 3) == greys(10, 14, 18)


def test_pictures_may_begin_late():
    """Spans count from the first picture."""
    assert shown(encode("matroska", [moment + 5000 for moment in TENTH], bf=2)) == greys(2, 7, 12, 17)


@pytest.mark.parametrize("form", SOUND)
@pytest.mark.parametrize("sound_s", [1.0, 3.0])
def test_sound_does_not_count(form, sound_s):
    assert shown(encode(form, sound_s=sound_s)) == greys(2, 7, 12, 17)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
@pytest.mark.parametrize("form", ["mp4", "webm"])
def test_short_clips_show_pictures_twice_in_order(form, number):
    """Rule: the picture on screen at the centre of each of `frames` equal spans, however few there are."""
    expected = [int((k + 0.5) * number / 8) for k in range(8)]
    assert shown(encode(form, TENTH[:number]), 8) == greys(*expected, number=number)


def test_sound_alone_is_no_clip():
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        stream.layout = "mono"
        _add_silence(container, stream, 1)
    with pytest.raises(DatasetError, match="q-1: clip cannot be decoded: found no readable video stream"):
        shown(target.getvalue())


def test_pictures_without_any_time_are_refused():
    target = io.BytesIO()
    with av.open(target, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DatasetError, match="no duration"):
        shown(target.getvalue())


def test_zero_duration_in_the_header_is_measured_instead():
    data = bytearray(encode("mp4"))
    for box, offset in ((b"mdhd", 4 + 4 + 8 + 4), (b"tkhd", 4 + 4 + 8 + 8), (b"mvhd", 4 + 4 + 8 + 4)):
        start = data.index(box) + offset
        data[start : start + 4] = bytes(4)
    assert shown(bytes(data)) == greys(2, 7, 12, 17)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("form", "options"),
    [("mp4", {}), ("mp4", {"movflags": "+faststart"}), ("matroska", {}), ("webm", {}), ("avi", {})],
    ids=["mp4", "mp4-index-first", "matroska", "webm", "avi"],
)
def test_a_file_cut_short_is_refused(form, options, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(form, [i * 100 for i in range(60)], size=(64, 64), picture=noise, options=options)
    assert len(shown(data)) == 4
    with pytest.raises(DatasetError, match=r"^q-7: clip cannot be decoded"):
        shown(data[: int(len(data) * share)], where="q-7")


def test_lost_pictures_in_the_middle_are_refused():
    data = bytearray(encode("mp4", codec="mpeg4", g=1))
    start = data.index(b"mdat") + 4
    (size,) = struct.unpack(">I", data[start - 8 : start - 4])
    middle = start + size // 3
    data[middle : middle + size // 3] = bytes(size // 3)
    with pytest.raises(DatasetError, match="q-1: clip cannot be decoded"):
        shown(bytes(data))


def test_cover_art_is_no_video():
    """A picture attached to a sound file looks like a stream of one frame."""
    from av.stream import Disposition

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        sound, cover = container.add_stream("aac", rate=48000), container.add_stream("mjpeg", rate=1)
        sound.layout = "mono"
        cover.disposition = Disposition.attached_pic.value
        cover.height, cover.width, cover.pix_fmt = 32, 48, "yuvj420p"
        white = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 255, np.uint8), format="rgb24")
        container.mux(cover.encode(white.reformat(format="yuvj420p")))
        container.mux(cover.encode())
        _add_silence(container, sound, 1)
    data = target.getvalue()
    with av.open(io.BytesIO(data)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(DatasetError, match="no readable video stream"):
        shown(data)
