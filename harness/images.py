"""Decode, turn upright, make RGB, resize, normalise: one path for all encoders.

Rules of decoding, in this order: the first frame of an animation; EXIF orientation applied;
transparency laid on white; 16-bit greyscale scaled to 8 (÷ 257); everything else to RGB as PIL does.
docs/decisions/0005-preprocessing.md says where this and the resizing differ from the libraries.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from harness.errors import DatasetError, UnsafeInputError
from harness.recipes import ImageRecipe

RGB = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, upright."""

MAX_PIXELS = 64_000_000
"""Width × height beyond which an image is refused unread, and is never scaled to whole."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error, struct.error)
"""What PIL's decoders raise on damaged bytes; UnidentifiedImageError is an OSError."""
_SLACK_S = Fraction(1, 10)
"""How much sooner than it says a file's last packet may end: sound is padded to whole blocks."""
_PNG_END = b"IEND\xaeB`\x82"
_ORIENTATION_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def decode_rgb(data: bytes, where: str) -> RGB:
    """Decode one image file.

    Args:
        data: the file's bytes (PNG, JPEG, WebP, GIF, BMP, TIFF or PPM).
        where: the sample, for the error message.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DatasetError: the bytes are no such image, or are damaged or cut short.
        UnsafeInputError: more than `MAX_PIXELS` pixels.
    """
    # lmms-eval turns this global on when it is imported; half an image must stay an error, and PNG's
    # checksums are looked at from the first chunk on.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _refuse_bomb(image.width, image.height, where)
            image.load()
            if image.format == "PNG" and _PNG_END not in data:
                # PIL is content once it has the pixels, be the last checksums there or not.
                raise EOFError("the file ends before its IEND chunk")
            return _to_rgb(_upright(image), where)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnsafeInputError("image too large to decode", where=where, found=str(error)) from error
    except _BROKEN as error:
        raise DatasetError(
            "image cannot be decoded",
            where=where,
            found=f"{len(data):,} bytes, {error}",
            expected="a whole PNG, JPEG, WebP, GIF, BMP, TIFF or PPM file",
            fix="restore the dataset from its source",
        ) from error


def _refuse_bomb(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise UnsafeInputError(
            "image too large to decode",
            where=where,
            found=f"{width}×{height}",
            expected=f"at most {MAX_PIXELS:,} pixels",
        )


def _upright(image: Image.Image) -> Image.Image:
    # Looking for EXIF costs more than decoding a small PNG; its chunks are all known after load().
    if image.format == "PNG" and not any(key in image.info for key in _ORIENTATION_KEYS):
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image, where: str) -> RGB:
    if image.mode.startswith("I"):
        return _from_deep_grey(np.asarray(image), image.info.get("transparency"), where)
    if image.mode == "F":
        raise DatasetError(
            "image has no defined brightness range", where=where, found="floating-point pixels"
        )
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _from_deep_grey(values: npt.NDArray[np.generic], transparent: object, where: str) -> RGB:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise DatasetError(
            "greyscale values outside 16 bits", where=where, found=f"{wide.min()}…{wide.max()}"
        )
    grey = np.round(wide / 257).astype(np.uint8)
    if isinstance(transparent, int):
        grey[wide == transparent] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def prepare(
    images: Sequence[RGB],
    recipe: ImageRecipe,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> npt.NDArray[np.float32]:
    """Resize and normalise decoded images into encoder input.

    The rule makes the image fill a square of side S = R / `crop_fraction`, rounded down, and the centre
    R × R is kept: `squash` scales each side to S; `shortest-side-centre-crop` the shorter one, the other
    in proportion; `letterbox` the longer one, and what is then missing is the mean colour (0 after
    normalisation). Sides are whole pixels, and of an odd surplus the smaller half is cut off first.
    An image that already has its size is not resampled; scaling down averages over the source (PIL's
    antialiased filters).

    Source: PIL's processors of transformers; sides as in torchvision's `Resize` and timm's
    `ResizeKeepRatio`.

    Args:
        images: B arrays (H, W, 3) uint8; sizes may differ.
        recipe: rule, filter, side R and crop.
        mean: per channel, of pixel values 0-1.
        std: per channel, of pixel values 0-1.

    Returns:
        (B, 3, R, R) float32.
    """
    side = recipe.resolution
    scale = np.array([1.0 / (255.0 * s) for s in std], dtype=np.float32).reshape(3, 1, 1)
    shift = np.array([m / s for m, s in zip(mean, std, strict=True)], dtype=np.float32).reshape(3, 1, 1)
    pixels = np.empty((len(images), 3, side, side), dtype=np.float32)
    for row, image in enumerate(images):
        fitted, (top, left) = _fit(image, recipe)
        height, width = fitted.shape[:2]
        if (height, width) != (side, side):
            pixels[row] = 0.0
        target = pixels[row, :, top : top + height, left : left + width]
        np.multiply(fitted.transpose(2, 0, 1), scale, out=target)
        target -= shift
    return pixels


def _fit(image: RGB, recipe: ImageRecipe) -> tuple[RGB, tuple[int, int]]:
    """The resized and cropped image, and the row and column of its corner in the R × R frame."""
    old_height, old_width = image.shape[:2]
    height, width = _scaled_size(old_height, old_width, recipe)
    rows, top = _centre(height, recipe.resolution)
    columns, left = _centre(width, recipe.resolution)
    if (height, width) == (old_height, old_width):
        return image[rows, columns], (top, left)
    source, method = Image.fromarray(image), _FILTERS[recipe.interpolation]
    if height * width <= MAX_PIXELS:
        return np.asarray(source.resize((width, height), method))[rows, columns], (top, left)
    # The same geometry without the whole: 1 × 20,000 pixels would become 224 × 4,480,000.
    across, down = old_width / width, old_height / height
    box = (
        columns.start * across,
        rows.start * down,
        min(columns.stop * across, old_width),
        min(rows.stop * down, old_height),
    )
    size = (columns.stop - columns.start, rows.stop - rows.start)
    return np.asarray(source.resize(size, method, box=box)), (top, left)


def _scaled_size(height: int, width: int, recipe: ImageRecipe) -> tuple[int, int]:
    """Height and width after scaling, before the centre is kept."""
    # A quotient a rounding error below a whole number (117 / 0.936) means that number.
    frame = math.floor(recipe.resolution / recipe.crop_fraction + 1e-6)
    if recipe.resize == "squash":
        return frame, frame
    short, long = min(height, width), max(height, width)
    if recipe.resize == "letterbox":
        ratio = long / frame
        return max(1, round(height / ratio)), max(1, round(width / ratio))
    other = int(frame * long / short)
    return (frame, other) if height <= width else (other, frame)


def _centre(length: int, side: int) -> tuple[slice, int]:
    """The central pixels of a length, at most `side` of them, and where they begin among `side`."""
    start = max(0, (length - side) // 2)
    return slice(start, start + min(length, side)), max(0, (side - length) // 2)


def decode_clip(source: str | Path | bytes, frames: int, where: str = "") -> list[RGB]:
    """Decode evenly spaced frames of a video, from the first packet to the last.

    The clip's duration is cut into `frames` equal spans; the picture on screen at the centre of each
    is taken, so a clip of fewer pictures gives some of them twice, in order. Times are those of the
    pictures, counted from the first one, so a variable frame rate needs no care. There is no seeking:
    what a seek returns depends on key frames and on the library's version. Cover art is no video;
    pixels are taken as square.

    Args:
        source: path, or the file's bytes.
        frames: how many.
        where: the sample, for the error message; the path when empty.

    Returns:
        `frames` arrays (H, W, 3) uint8, rotated as the file says.

    Raises:
        DatasetError: no video in it, damaged, or it ends before it should.
        UnsafeInputError: a picture has more than `MAX_PIXELS` pixels.
    """
    import av

    where = where or ("clip" if isinstance(source, bytes) else str(source))
    try:
        with _open_clip(source) as container:
            stream = _video_stream(container, where)
            _refuse_bomb(stream.width, stream.height, where)
            if stream.duration:
                duration = stream.duration * stream.time_base
            else:
                duration = _measured_duration(source, where)
            pictures = _frames_at_centres(container, stream, frames, duration, where)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _broken_clip(where, f"{type(error).__name__}: {error}") from error
    return pictures


def _open_clip(source: str | Path | bytes) -> Any:
    import av

    return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))


def _video_stream(container: Any, where: str) -> Any:
    """The first video stream that is no cover art."""
    from av.stream import Disposition

    for stream in container.streams.video:
        # A file cut inside its index has a stream of which not even the codec is known.
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    raise _broken_clip(where, "no readable video stream")


def _broken_clip(where: str, found: str) -> DatasetError:
    return DatasetError(
        "clip cannot be decoded",
        where=where,
        found=found,
        expected="a whole video file",
        fix="restore the dataset from its source",
    )


def _frame_interval(stream: Any) -> Fraction:
    """Mean seconds between two pictures; only a guess where no time is written."""
    return 1 / Fraction(stream.average_rate) if stream.average_rate else Fraction(1, 25)


def _measured_duration(source: str | Path | bytes, where: str) -> Fraction:
    """Seconds that the video spans by its packets, in files that only say how long all streams together are.

    WebM and Matroska are such files, and sound often runs longer than pictures. One pass without decoding.

    Raises:
        DatasetError: no times in it, or all streams end before the file says it does.
    """
    with _open_clip(source) as container:
        stream = _video_stream(container, where)
        interval = _frame_interval(stream)
        starts: list[Fraction] = []
        end = last = Fraction(0)
        for packet in container.demux():
            if packet.pts is None:
                continue
            moment = packet.pts * packet.time_base
            after = moment + (packet.duration or 0) * packet.time_base
            last = max(last, after)
            if packet.stream.index == stream.index:
                starts.append(moment)
                end = max(end, after, moment + interval)
        declared = Fraction(container.duration or 0, 1_000_000)
    if not starts or end <= min(starts):
        raise _broken_clip(where, "no duration")
    if max(last, end) < declared - 2 * interval - _SLACK_S:
        raise _broken_clip(where, f"{float(max(last, end)):.2f} of {float(declared):.2f} s")
    return end - min(starts)


def _frames_at_centres(container: Any, stream: Any, frames: int, duration: Fraction, where: str) -> list[RGB]:
    """One sequential pass; a picture is converted only when a wanted time falls on it.

    Times are fractions: a wanted time often is the very moment at which a picture begins, and that picture
    is then the one, whatever a float's last bit would say.
    """
    interval, declared = _frame_interval(stream), int(stream.frames)
    wanted = [(2 * k + 1) * duration / (2 * frames) for k in range(frames)]
    pictures: list[RGB] = []
    shown: Any = None
    start = end = Fraction(0)
    decoded = given = hidden = 0
    for packet in container.demux(stream):
        given += packet.size > 0
        hidden += packet.is_discard
        for frame in packet.decode():
            moment = frame.pts * frame.time_base if frame.pts is not None else decoded * interval
            if decoded == 0:
                start = moment  # files may start at any time; spans count from the first picture
            moment -= start
            while len(pictures) < frames and shown is not None and moment > wanted[len(pictures)]:
                pictures.append(_picture(shown))
            shown, end, decoded = frame, moment + interval, decoded + 1
    # A cut file ends early and lacks pictures. A last picture may be held long, and an edit list, left by
    # whoever trimmed the clip, may hide pictures: an honest file has one of the two, not both.
    early = end < duration - 2 * interval
    cut = early and (declared == 0 or decoded + hidden < declared - 2)
    if shown is None or cut or decoded + hidden < given - 2:
        raise _broken_clip(
            where, f"{decoded} of {declared or given} frames, {float(end):.2f} of {float(duration):.2f} s"
        )
    return pictures + [_picture(shown)] * (frames - len(pictures))


def _picture(frame: Any) -> RGB:
    quarter_turns = round((frame.rotation or 0) / 90) % 4
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns), dtype=np.uint8)
