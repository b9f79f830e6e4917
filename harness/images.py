"""Decode, turn upright, make RGB, resize, normalise: one path for all encoders.

Rules of decoding, in this order: the first frame of an animation; EXIF orientation applied;
transparency laid on white; 16-bit greyscale scaled to 8 (÷ 257); everything else to RGB as PIL does.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps

from harness.errors import DatasetError, UnsafeInputError
from harness.records import ImageRecipe

RGB = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, upright."""

MAX_PIXELS = 64_000_000
"""Width × height beyond which an image is refused unread."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, zlib.error, struct.error)
"""What PIL's decoders raise on damaged bytes; UnidentifiedImageError is an OSError."""
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
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _refuse_bomb(image.width, image.height, where)
            # lmms-eval turns this global on when it is imported; half an image must stay an error.
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            image.load()
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
        return _from_deep_grey(np.asarray(image), where)
    if image.mode == "F":
        raise DatasetError(
            "image has no defined brightness range", where=where, found="floating-point pixels"
        )
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _from_deep_grey(values: npt.NDArray[np.generic], where: str) -> RGB:
    wide = values.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise DatasetError(
            "greyscale values outside 16 bits", where=where, found=f"{wide.min()}…{wide.max()}"
        )
    grey = np.round(wide / 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def prepare(
    images: Sequence[RGB],
    recipe: ImageRecipe,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> npt.NDArray[np.float32]:
    """Resize and normalise decoded images into encoder input.

    An image that already is R × R is not resampled. `shortest-side-centre-crop` cuts the central
    square first and scales it once; `letterbox` pads with the mean colour (0 after normalisation).
    Scaling down always averages over the source (PIL's antialiased filters).

    Args:
        images: B arrays (H, W, 3) uint8; sizes may differ.
        recipe: rule, filter and side R.
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
    """The resized image and the row and column of its corner in the R × R frame."""
    side = recipe.resolution
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image, (0, 0)
    source = Image.fromarray(image)
    method = _FILTERS[recipe.interpolation]
    if recipe.resize == "letterbox":
        longest = max(height, width)
        new = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
        resized = source if new == source.size else source.resize(new, method)
        return np.asarray(resized), ((side - new[1]) // 2, (side - new[0]) // 2)
    box: tuple[float, float, float, float] = (0, 0, width, height)
    if recipe.resize == "shortest-side-centre-crop":
        short = min(height, width)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        if short == side:
            # Only a cut: resampling by half a pixel would blur an image that needs no scaling.
            row, column = int(top), int(left)
            return image[row : row + side, column : column + side], (0, 0)
    return np.asarray(source.resize((side, side), method, box=box)), (0, 0)


def decode_clip(source: str | Path | bytes, frames: int, where: str = "") -> list[RGB]:
    """Decode evenly spaced frames of a video, from the first packet to the last.

    The clip's duration is cut into `frames` equal spans; the picture on screen at the centre of each
    is taken, so a short clip may give one picture twice. There is no seeking: what a seek returns
    depends on key frames and on the library's version.

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
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            # A file cut inside its index has a stream of which not even the codec is known.
            if not container.streams.video or container.streams.video[0].codec_context is None:
                raise _broken_clip(where, "no readable video stream")
            stream = container.streams.video[0]
            _refuse_bomb(stream.width, stream.height, where)
            pictures = _frames_at_centres(container, stream, frames, where)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise _broken_clip(where, f"{type(error).__name__}: {error}") from error
    return pictures


def _broken_clip(where: str, found: str) -> DatasetError:
    return DatasetError(
        "clip cannot be decoded",
        where=where,
        found=found,
        expected="a whole video file",
        fix="restore the dataset from its source",
    )


def _frames_at_centres(container: Any, stream: Any, frames: int, where: str) -> list[RGB]:
    """One sequential pass; a picture is converted only when a wanted time falls on it."""
    interval = float(1 / stream.average_rate) if stream.average_rate else 0.04
    declared = int(stream.frames)
    duration = float(stream.duration * stream.time_base) if stream.duration else 0.0
    duration = duration or (container.duration or 0) / 1_000_000 or declared * interval
    if duration <= 0:
        raise _broken_clip(where, "no duration")
    wanted = [(k + 0.5) * duration / frames for k in range(frames)]
    pictures: list[RGB] = []
    shown: Any = None
    start, end, decoded = 0.0, 0.0, 0
    for frame in container.decode(stream):
        moment = frame.time if frame.time is not None else decoded * interval
        if decoded == 0:
            start = moment  # files may start at any time; spans count from the first picture
        moment -= start
        while len(pictures) < frames and shown is not None and moment > wanted[len(pictures)]:
            pictures.append(_picture(shown))
        shown, end, decoded = frame, moment + interval, decoded + 1
    while len(pictures) < frames and shown is not None and wanted[len(pictures)] <= end:
        pictures.append(_picture(shown))
    # Edit lists hide a frame or two of honest files; a cut file lacks a wanted picture or many frames.
    if len(pictures) < frames or decoded < declared - 2:
        raise _broken_clip(
            where, f"{decoded} of {declared or 'unknown'} frames, {end:.2f} of {duration:.2f} s"
        )
    return pictures


def _picture(frame: Any) -> RGB:
    quarter_turns = round((frame.rotation or 0) / 90) % 4
    rgb = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns), dtype=np.uint8)
