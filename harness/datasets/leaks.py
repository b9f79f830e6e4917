"""Whether images of the training mixture are images of an evaluation split: by bytes, and by look.

The look is a difference hash of 64 bits: the picture in grey, scaled to 9 × 8 by averaging; a bit says
whether a pixel is brighter than its right neighbour. Two pictures are taken for one when at most `NEAR`
bits differ, which survives other compression and other size, not a crop. Nearly uniform pictures, whose
bits are all but equal, are compared by bytes only: by look they all agree.
Source: the difference hash as described by N. Krawetz, "Kind of Like That", 2013.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from harness.data import read_note
from harness.datasets.specs import SPECS
from harness.errors import IntegrityError
from harness.files import read_parquet, write_parquet
from harness.images import decode_rgb
from harness.media import MediaReader, read_media_list

NEAR = 4
"""Bits by which the hashes of one picture may differ."""
FEW_BITS = 6
"""A hash with fewer ones, or fewer zeros, is a nearly uniform picture's."""
LEAKS, HASHES = "leaks.parquet", "hashes.parquet"
LEAKS_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("dataset", pa.string()),
        ("reference", pa.string()),
        ("bits", pa.int64()),
        ("same_bytes", pa.bool_()),
        ("removed", pa.bool_()),
    ]
)
# NEAR + 1 bands: of two hashes that differ in NEAR bits at most, one band is equal.
_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True, slots=True)
class Leak:
    """One image of the mixture that is one of an evaluation split."""

    image_id: int
    dataset: str
    reference: str
    """In the evaluation dataset."""
    bits: int
    """That differ between the hashes; 0 where the bytes are the same."""
    same_bytes: bool
    removed: bool = True


def difference_hash(data: bytes, where: str) -> int:
    """64 bits of how a picture looks.

    Raises:
        DatasetError: it cannot be decoded.
    """
    grey = Image.fromarray(decode_rgb(data, where)).convert("L").resize((9, 8), Image.Resampling.BOX)
    pixels = np.asarray(grey, np.int16)
    bits = (pixels[:, :-1] > pixels[:, 1:]).reshape(-1)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def in_threads(work: Callable[[_A], _B], items: Iterable[_A], workers: int) -> Iterator[_B]:
    """Results in order, a bounded number of items in memory; decoding leaves Python's lock."""
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        while batch := list(islice(source, 16 * workers)):
            yield from pool.map(work, batch)


class Leaks:
    """Looks images up among those of evaluation datasets.

    Args:
        table: dataset, reference, sha256 and hash of each.
    """

    def __init__(self, table: Sequence[tuple[str, str, str, int]]) -> None:
        self._table = table
        self._by_bytes = {sha256: i for i, (_, _, sha256, _) in enumerate(table)}
        self.found: list[Leak] = []
        hashes = np.array([h for *_, h in table], np.uint64)
        distinct = [i for i, (*_, h) in enumerate(table) if FEW_BITS <= h.bit_count() <= 64 - FEW_BITS]
        self._rows = np.array(distinct, np.int64)
        self._hashes = hashes[self._rows]
        self._orders = [np.argsort(_band(self._hashes, band), kind="stable") for band in _BANDS]
        self._sorted = [
            _band(self._hashes, band)[order] for band, order in zip(_BANDS, self._orders, strict=True)
        ]

    def near(self, value: int) -> Iterator[tuple[int, int]]:
        """Rows of the table whose hash is near, and by how many bits they differ."""
        if not FEW_BITS <= value.bit_count() <= 64 - FEW_BITS or not len(self._rows):
            return
        one, seen = np.array([value], np.uint64), set[int]()
        for band, order, ordered in zip(_BANDS, self._orders, self._sorted, strict=True):
            key = _band(one, band)[0]
            first, last = np.searchsorted(ordered, key, "left"), np.searchsorted(ordered, key, "right")
            for place in order[first:last].tolist():
                bits = (int(self._hashes[place]) ^ value).bit_count()
                if bits <= NEAR and place not in seen:
                    seen.add(place)
                    yield int(self._rows[place]), bits

    def of(self, image_id: int, data: bytes, sha256: str, where: str) -> list[Leak]:
        """What an image of the mixture is also; kept in `found`."""
        if (row := self._by_bytes.get(sha256)) is not None:
            leaks = [Leak(image_id, *self._table[row][:2], 0, True)]
        else:
            value = difference_hash(data, where)
            leaks = [Leak(image_id, *self._table[row][:2], bits, False) for row, bits in self.near(value)]
        self.found += leaks
        return leaks


def _band(hashes: NDArray[np.uint64], band: tuple[int, int]) -> NDArray[np.uint64]:
    shift, width = band
    return (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)


def evaluation_splits(name: str, folder: Path) -> list[str]:
    """Splits of a prepared dataset that are scored."""
    there = read_note(folder)["rows"]
    return [
        s.name for s in SPECS[name].splits if s.name in there and s.name != "train" and not s.derived_from
    ]


def evaluation_table(
    root: Path, names: Sequence[str], workers: int, progress: Callable[[int, int], None]
) -> list[tuple[str, str, str, int]]:
    """Dataset, reference, sha256 and hash of every image of the evaluation splits that are there.

    Hashes are kept in `hashes.parquet` beside the images, for as long as the dataset stays the same.

    Raises:
        DatasetError: an image is missing or cannot be decoded.
    """
    table: list[tuple[str, str, str, int]] = []
    for name in names:
        listed = read_media_list(root / name)
        hashes = _image_hashes(root / name, name, workers, progress)
        table += [(name, reference, listed[reference][0], h) for reference, h in hashes.items()]
    return table


def _image_hashes(
    folder: Path, name: str, workers: int, progress: Callable[[int, int], None]
) -> dict[str, int]:
    digest = read_note(folder)["digest"]
    try:
        kept = read_parquet(folder / HASHES)
        about = json.loads((kept.schema.metadata or {}).get(b"eyechart", b"{}"))
        if about == {"dataset": digest}:
            paths, values = kept.column("path").to_pylist(), kept.column("hash").to_pylist()
            return {path: int(value, 16) for path, value in zip(paths, values, strict=True)}
    except (IntegrityError, KeyError, ValueError):
        about = {}  # none yet, or of another time: computed anew
    references: dict[str, None] = {}
    for split in evaluation_splits(name, folder):
        column = read_parquet(folder / f"{split}.parquet", ["image"]).column(0)
        references |= dict.fromkeys(column.to_pylist())
    reader = MediaReader(folder)
    loaded = ((reference, reader.read(reference)) for reference in references)
    found: dict[str, int] = {}
    work = in_threads(lambda one: (one[0], difference_hash(one[1], f"{folder}/{one[0]}")), loaded, workers)
    for reference, value in work:
        found[reference] = value
        progress(len(found), len(references))
    schema = pa.schema(
        [("path", pa.string()), ("hash", pa.string())],
        metadata={b"eyechart": json.dumps({"dataset": digest}).encode()},
    )
    rows = [list(found), [f"{value:016x}" for value in found.values()]]
    write_parquet(folder / HASHES, pa.table(rows, schema=schema))
    return found


def write_leaks(folder: Path, found: Sequence[Leak]) -> None:
    """Write `leaks.parquet`: each pair that was found.

    Raises:
        ResourceError: see `atomic_file`.
    """
    rows = [dict(zip(LEAKS_SCHEMA.names, astuple(leak), strict=True)) for leak in found]
    write_parquet(folder / LEAKS, pa.Table.from_pylist(rows, schema=LEAKS_SCHEMA))
