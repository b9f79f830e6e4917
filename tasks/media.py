"""Pictures and clips of the prepared datasets, as plain lmms-eval asks for them (`doc_to_visual`).

`eyechart run` reads media itself (harness/data.py); this is for `lmms_eval --include_path tasks`, and it
reads through the same `harness.media`, so both see the same pixels. A prepared dataset lies in
`data/main/<dataset>/` below EYECHART_HOME, or below `.eyechart` of the repository.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    # Last, so that it only counts where nothing was installed and lmms-eval runs from elsewhere.
    sys.path.append(str(ROOT))

from harness.images import decode_rgb  # noqa: E402
from harness.media import MediaReader  # noqa: E402

Doc = dict[str, Any]


def dataset_folder(dataset: str) -> Path:
    """Folder of a prepared dataset of the main suite, which need not be there."""
    home = os.environ.get("EYECHART_HOME") or ROOT / ".eyechart"
    return Path(home) / "data" / "main" / dataset


@cache
def _reader(folder: Path) -> MediaReader:
    """One a folder: it keeps the row group that it read last."""
    return MediaReader(folder)


def _image_reader(dataset: str) -> Callable[[Doc], list[Image.Image]]:
    def read(doc: Doc) -> list[Image.Image]:
        """The row's RGB picture, embedded as on the hub or named by a reference.

        Raises:
            DatasetError: the image is missing or damaged.
            UnsafeInputError: its reference leaves the folder.
        """
        image = doc["image"]
        if not isinstance(image, str):
            return [image.convert("RGB")]
        folder = dataset_folder(dataset)
        pixels = decode_rgb(_reader(folder).read(image), str(folder / image))
        return [Image.fromarray(pixels)]

    return read


def _clip_finder(dataset: str) -> Callable[[Doc], list[str]]:
    def find(doc: Doc) -> list[str]:
        """Path of the row's mp4.

        Raises:
            FileNotFoundError: the clip is not there.
        """
        path = dataset_folder(dataset) / "clips" / f"{doc['video']}.mp4"
        if not path.is_file():
            message = f"{path} is missing. Import the dataset first: `eyechart data import {dataset}`."
            raise FileNotFoundError(message)
        return [str(path)]

    return find


# One name a dataset, because lmms-eval gives `doc_to_visual` the row and nothing else.
vqav2_image = _image_reader("vqav2")
textvqa_image = _image_reader("textvqa")
refcoco_image = _image_reader("refcoco")
refcocoplus_image = _image_reader("refcocoplus")
refcocog_image = _image_reader("refcocog")
nextqa_clip = _clip_finder("nextqa")
perceptiontest_clip = _clip_finder("perceptiontest")
