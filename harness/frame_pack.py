"""Frames of clips, decoded where PyAV is installed, for a machine without it.

One Parquet file `frames-<n>.parquet` in a dataset's folder takes the place of its clips/: a row a clip, its
n frames below one another in one lossless WebP. Whoever has the clips themselves never reads it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from harness.errors import DatasetError, IntegrityError
from harness.files import read_parquet, write_parquet
from harness.images import decode_clip, decode_rgb

RGB = NDArray[np.uint8]
SCHEMA = pa.schema([("clip", pa.string()), ("frames", pa.binary())])
MADE_BY = b"decoded_by"


def pack_name(frames: int) -> str:
    """File name of the pack of a dataset whose clips are seen in `frames` frames."""
    return f"frames-{frames}.parquet"


def write_pack(clips: Path, names: Sequence[str], frames: int, target: Path) -> None:
    """Decode clips and keep the frames that the protocol sees.

    Args:
        clips: folder of <name>.mp4.
        names: of the clips.
        frames: how many of each.
        target: file to write.

    Raises:
        DatasetError: a clip cannot be decoded.
    """
    rows = []
    for name in names:
        stack = np.concatenate(decode_clip(clips / f"{name}.mp4", frames))
        picture = io.BytesIO()
        Image.fromarray(stack).save(picture, "WEBP", lossless=True, quality=80, method=4)
        rows.append({"clip": name, "frames": picture.getvalue()})
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({MADE_BY: f"av {version('av')}".encode()}))
    write_parquet(target, table)


class FramePack:
    """Frames by clip.

    Args:
        path: of the file.
        frames: frames of each clip.

    Raises:
        DatasetError: not such a file.
    """

    def __init__(self, path: Path, frames: int) -> None:
        try:
            table = read_parquet(path, SCHEMA.names)
        except IntegrityError as error:
            raise DatasetError("frames cannot be read", where=str(path), found=error.found) from error
        self._path, self._frames = path, frames
        self._pictures: dict[str, Any] = dict(
            zip(table["clip"].to_pylist(), table["frames"].to_pylist(), strict=True)
        )
        self.decoded_by = (table.schema.metadata or {}).get(MADE_BY, b"unknown").decode()

    def load(self, clip: str) -> list[RGB]:
        """(H, W, 3) uint8 of each frame of a clip.

        Raises:
            DatasetError: the clip is not in it, or cannot be decoded.
        """
        if clip not in self._pictures:
            raise DatasetError("frames of a clip are missing", where=f"{self._path}: clip {clip}")
        stack = decode_rgb(self._pictures[clip], f"{self._path}: clip {clip}")
        return [np.ascontiguousarray(frame) for frame in np.split(stack, self._frames)]
