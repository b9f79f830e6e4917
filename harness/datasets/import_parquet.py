"""The hub's Parquet files → items of a prepared dataset, one reader a kind of dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.datasets.conversations import exchanges_of
from harness.datasets.leaks import Leaks
from harness.datasets.padded_boxes import BoxCount, convert, has_box
from harness.datasets.prepare import Draft, Item, Medium
from harness.datasets.rows import Row
from harness.datasets.sources import Clips, Images, RawRow, picture_size, raw_rows, upright_size
from harness.datasets.specs import DatasetSpec
from harness.digest import digest_bytes
from harness.errors import DatasetError
from harness.fields import show

_MAX_SIDE = 1e9
_SYNSET = re.compile(r"(n\d{8})(?:_\d+)?(?:_n\d{8})?\.JPEG|.*_(n\d{8})\.JPEG")


@dataclass
class Reading:
    """What one import shares between its splits."""

    spec: DatasetSpec
    draft: Draft
    images: Path | None
    """Folder or zip of images that rows name."""
    clips: Clips | None
    leaks: Leaks | None = None
    """Evaluation images that the mixture may not contain."""
    progress: Callable[[], None] = lambda: None
    """Told each row of a source."""
    synsets: dict[int, str] = field(default_factory=dict)
    """ImageNet: label -> synset, as file names say it."""
    left_out: dict[str, int] = field(default_factory=dict)
    """The mixture: why rows were left out -> how many."""
    boxes: dict[str, BoxCount] = field(default_factory=dict)
    """The mixture: source -> what became of its boxes."""

    def count_out(self, why: str) -> None:
        """One row, or turn, that is not taken."""
        self.left_out[why] = self.left_out.get(why, 0) + 1


def read_items(reading: Reading, files: list[Path]) -> Iterator[Item]:
    """Items of one split, in the order of its files."""
    spec = reading.spec
    columns = [name for name, _ in spec.raw_columns]
    reader = _READERS[spec.kind](reading)
    number = 0
    for path in files:
        if spec.media == "shard":
            reading.draft.link(path, f"shards/{path.name}")
        for raw in raw_rows(path, columns):
            reading.progress()
            yield from reader(raw, number)
            number += 1


Reader = Callable[[RawRow, int], Iterator[Item]]


def _plain(reading: Reading) -> Reader:
    """VQAv2 and TextVQA: the rows as they are."""
    images = Images(reading.draft, reading.images)

    def read(raw: RawRow, _: int) -> Iterator[Item]:
        medium, _data = images.keep(raw)
        yield Item(raw.row, medium, raw.where)

    return read


def _rec(reading: Reading) -> Reader:
    images = Images(reading.draft, reading.images)

    def read(raw: RawRow, _: int) -> Iterator[Item]:
        medium, data = images.keep(raw)
        size = upright_size(data, raw.where)
        yield from flatten(raw.row, raw.row.get("answer") or [], size, medium, raw.where)

    return read


def flatten(
    row: Row, expressions: list[str], size: tuple[int, int], medium: Medium, where: str
) -> Iterator[Item]:
    """One item an expression; the box from x, y, width, height in pixels to x1, y1, x2, y2 in 0-1.

    As lmms-eval's `refcoco_bbox_rec_preprocess_dataset` does it, but that names stay unique: question k of
    an object is `<question_id>-<k>`.

    Raises:
        DatasetError: no expression, or no box of four numbers.
    """
    if not expressions:
        raise DatasetError("row is not sound", where=f"{where}, field answer", found="no expression")
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_pixels, box)):
        raise DatasetError(
            "row is not sound", where=f"{where}, field bbox", found=show(box), expected="4 numbers"
        )
    if row.get("question_id") is None:
        raise DatasetError("row is not sound", where=f"{where}, field question_id", found="None")
    (width, height), (x, y, w, h) = size, box
    for k, expression in enumerate(expressions):
        yield Item(
            {
                **{name: row[name] for name in ("question", "segmentation", "iscrowd", "file_name")},
                "answer": expression,
                "question_id": f"{row['question_id']}-{k}",
                "bbox": [x / width, y / height, (x + w) / width, (y + h) / height],
                "image_width": width,
                "image_height": height,
            },
            medium,
            where,
        )


def _is_pixels(value: object) -> bool:
    """A number that can be a place in a picture; no int of any length, which could not be divided."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > _MAX_SIDE


def _clips(reading: Reading) -> Reader:
    """NExT-QA as it is; Perception Test gets the column `video` beside `video_name`."""
    clips, own = reading.clips, "video" in dict(reading.spec.raw_columns)
    assert clips is not None

    def read(raw: RawRow, _: int) -> Iterator[Item]:
        row = raw.row if own else {"video": raw.row["video_name"], **raw.row}
        if row["video"] is None:
            raise DatasetError("clip has no name", where=f"{raw.where}, field video", found="null")
        yield Item(row, clips.keep(str(row["video"]), raw.where), raw.where)

    return read


def _classes(reading: Reading) -> Reader:
    """ImageNet: images stay in their shards; file names that tell synsets tell the order of the labels."""

    def read(raw: RawRow, _: int) -> Iterator[Item]:
        label = raw.row["label"]
        if match := _SYNSET.fullmatch(raw.image_path.rsplit("/", 1)[-1]):
            said = match[1] or match[2]
            if reading.synsets.setdefault(label, said) != said:
                raise DatasetError(
                    "one label means two classes",
                    where=f"{raw.where}, field label",
                    found=f"{label} for {said}",
                    expected=f"{label} for {reading.synsets[label]}",
                )
        yield Item(raw.row, _in_shard(raw), raw.where)

    return read


def _in_shard(raw: RawRow) -> Medium:
    if not raw.image:
        raise DatasetError("image is missing", where=f"{raw.where}, field image", found="no bytes")
    return Medium(f"shards/{raw.file.name}#{raw.index}", digest_bytes(raw.image), len(raw.image))


def _mixture(reading: Reading) -> Reader:
    def read(raw: RawRow, number: int) -> Iterator[Item]:
        if not raw.image:
            return reading.count_out("no image")
        medium = _in_shard(raw)
        if reading.leaks and (leaks := reading.leaks.of(number, raw.image, medium.sha256, raw.where)):
            return reading.count_out(f"an image of {leaks[0].dataset}")
        exchanges, dropped = exchanges_of(raw.row["conversations"] or [])
        for _ in range(dropped):
            reading.count_out("turn without an answer")
        exchanges = _unpadded(exchanges, raw, reading)
        if not exchanges:
            return reading.count_out("no exchange")
        yield Item({"image_id": number, "exchanges": exchanges}, medium, raw.where)
        return None

    return read


def _unpadded(exchanges: list[dict[str, str]], raw: RawRow, reading: Reading) -> list[dict[str, str]]:
    """Exchanges with boxes as fractions of the picture, see `padded_boxes`."""
    if not any(map(has_box, exchanges)):
        return exchanges
    width, height, turned = picture_size(raw.image or b"", raw.where)
    if turned:
        # LLaVA draws boxes on the pixels as they are stored; the harness shows the picture upright.
        kept = [exchange for exchange in exchanges if not has_box(exchange)]
        for _ in exchanges[len(kept) :]:
            reading.count_out("box on a turned picture")
        return kept
    count = reading.boxes.setdefault(raw.row["data_source"] or "", BoxCount())
    converted = [convert(exchange, width, height, count) for exchange in exchanges]
    for _ in range(converted.count(None)):
        reading.count_out("box in the padding")
    return [exchange for exchange in converted if exchange is not None]


_READERS: dict[str, Callable[[Reading], Reader]] = {
    "vqa": _plain,
    "text": _plain,
    "rec": _rec,
    "choice": _clips,
    "choice3": _clips,
    "classes": _classes,
    "mixture": _mixture,
}
