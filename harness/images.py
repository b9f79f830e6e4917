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
