"""Reads task packs: questions, references and pictures of the samples that a page shows, where it may."""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from harness.data import RGB
from harness.datasets.packs import PACK_SCHEMA
from harness.digest import digest_bytes
from harness.errors import DatasetError, IntegrityError, UnsafeInputError
from harness.files import read_parquet
from harness.images import decode_clip, decode_rgb
from harness.media import MediaReader, check_media, read_media_list
from leaderboard.sample_records import PackSample, Picture

FREE = frozenset(
    "Apache-2.0 BSD-3-Clause CC-BY-2.0 CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 MIT".split()
)
"""Licences that let anyone pass the samples on, by SPDX identifier. A pack's licence is one of these word for
word or the samples stay unshown: "CC-BY-4.0; images are COCO's" is not on the list."""
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
MAX_THUMBNAIL_BYTES = 64 * 2**10
MAX_SIDE = 2048
LOCAL_SIDE = 256
"""Longest side in px of a copy made for a person's own eyes."""
LOCAL_FRAMES = 4
_DIGEST, _NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"[\w-]+")


def find_pack(datasets: Path, suite: str, digest: str) -> Path | None:
    """The pack of a dataset, or None.

    Args:
        datasets: folder with a folder a suite.
        suite: as the index names it; untrusted.
        digest: of the dataset; untrusted.
    """
    if not _NAME.fullmatch(suite) or not _DIGEST.fullmatch(digest):
        return None
    return next(iter(sorted((datasets / suite).glob(f"*/packs/{digest}.parquet"))), None)


def read_pack(path: Path, task: str, wanted: Collection[str], *, local: bool) -> dict[str, PackSample]:
    """What a pack tells of some samples of a task, by sample id.

    Args:
        path: of the pack, below its dataset.
        task: name of the task.
        wanted: sample ids.
        local: show everything, whatever the licence says, with pictures from the dataset itself: for a
            person's own eyes.

    Raises:
        IntegrityError: the pack is damaged or has other columns.
    """
    try:
        table = read_parquet(path, PACK_SCHEMA.names).cast(PACK_SCHEMA)
    except pa.ArrowInvalid as error:
        raise IntegrityError("columns of other types", where=str(path), found=str(error)) from error
    mine = pc.and_(
        pc.equal(table["task"], task), pc.is_in(table["sample_id"], pa.array(sorted(wanted), pa.string()))
    )
    camera = _Camera(path.parent.parent) if local else None
    return {str(row["sample_id"]): _sample(row, camera) for row in table.filter(mine).to_pylist()}


def _sample(row: dict[str, Any], camera: _Camera | None) -> PackSample:
    license_ = row["license"] or ""
    if license_ not in FREE and camera is None:
        return PackSample(license=license_, shown=False)
    thumbnail = row["thumbnail"]
    if thumbnail is None and camera is not None:
        thumbnail = camera.copy(row["media"] or "")
    return PackSample(
        license=license_,
        shown=True,
        question=row["question"] or "",
        references=tuple(str(r) for r in row["references"] or ()),
        picture=read_picture(thumbnail) if thumbnail else None,
    )


def read_picture(data: bytes) -> Picture | None:
    """A small JPEG, PNG or WebP as the site may carry it; None for anything else."""
    if len(data) > MAX_THUMBNAIL_BYTES:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=tuple(FORMATS)) as image:
            (width, height), suffix = image.size, FORMATS[image.format or ""]
    except (OSError, SyntaxError, ValueError, KeyError):  # what PIL raises on bytes that are none of these
        return None
    if not 0 < max(width, height) <= MAX_SIDE:
        return None
    return Picture(name=f"{digest_bytes(data)[:32]}.{suffix}", data=data, width=width, height=height)


class _Camera:
    """Makes small copies of a dataset's own images and clips.

    Args:
        folder: the dataset's.
    """

    def __init__(self, folder: Path) -> None:
        self._reader, self._listed = MediaReader(folder), read_media_list(folder)

    def copy(self, reference: str) -> bytes | None:
        """WebP of the picture, or of a clip's frames side by side; None where it is not to be had."""
        try:
            data = self._reader.read(reference)
            check_media(data, self._listed.get(reference), reference)
            pictures = self._frames(data, reference) if reference.endswith(".mp4") else None
            pictures = pictures or [decode_rgb(data, reference)]
        except (DatasetError, UnsafeInputError, ImportError):  # no PyAV here: a page without the clip
            return None
        return _side_by_side(pictures)

    def _frames(self, data: bytes, reference: str) -> list[RGB]:
        return decode_clip(data, LOCAL_FRAMES, where=reference)


def _side_by_side(pictures: list[RGB]) -> bytes:
    side = LOCAL_SIDE if len(pictures) == 1 else LOCAL_SIDE // 2
    small = [Image.fromarray(p) for p in pictures]
    for image in small:
        image.thumbnail((side, side))
    strip = Image.new("RGB", (sum(i.width for i in small), max(i.height for i in small)))
    left = 0
    for image in small:
        strip.paste(image, (left, 0))
        left += image.width
    target = io.BytesIO()
    strip.save(target, "WEBP", quality=80, method=4)
    return target.getvalue()
