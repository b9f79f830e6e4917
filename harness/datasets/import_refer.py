"""RefCOCO, + and g from what the REFER API gives out: COCO's instances.json and the references as JSON.

    instances.json   images {id, file_name, width, height}, annotations {id, image_id, bbox, segmentation}
    refs….json       [{ref_id, ann_id, image_id, file_name, split, sentences [{sent}]}]

The references come as a pickle, `refs(unc).p`, and are never read as one. The expression is `sent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.datasets.import_parquet import flatten
from harness.datasets.json_source import field_of, read_json_source
from harness.datasets.prepare import Draft, Item
from harness.datasets.sources import Images, refuse_pickle, upright_size
from harness.datasets.specs import DatasetSpec
from harness.datasets.walk import is_file
from harness.errors import DatasetError
from harness.fields import nearest

QUESTION = "Please carefully observe the area circled in the image and come up with a caption for the area."
"""What the hub writes into the column `question`; no task reads it."""


@dataclass(frozen=True, slots=True)
class Refer:
    """Both files, read."""

    refs_path: Path
    instances_path: Path
    refs: list[dict[str, Any]]
    images: dict[int, dict[str, Any]]
    annotations: dict[int, dict[str, Any]]


def find_refer(place: Path) -> tuple[Path, Path] | None:
    """instances.json and the references of a folder; None where there are none.

    Raises:
        UnsafeInputError: the references are there as a pickle only.
        DatasetError: several files of references.
    """
    instances = place / "instances.json"
    if not is_file(instances):
        return None
    refs = sorted(p for p in place.glob("refs*.json") if is_file(p))
    if not refs:
        for path in sorted(place.glob("refs*")):
            refuse_pickle(path)
        raise DatasetError("no references", where=str(place), expected="refs.json beside instances.json")
    if len(refs) > 1:
        found = ", ".join(p.name for p in refs)
        raise DatasetError(
            "several files of references", where=str(place), found=found, fix="leave the one you mean there"
        )
    return refs[0], instances


def read_refer(refs: Path, instances: Path) -> Refer:
    """Read both files.

    Raises:
        DatasetError: not such JSON.
    """
    listed, held = read_json_source(refs), read_json_source(instances)
    for path, value, kind in ((refs, listed, list), (instances, held, dict)):
        if not isinstance(value, kind):
            raise DatasetError(
                "not a file of REFER's", where=str(path), found=type(value).__name__, expected=kind.__name__
            )
    tables = {name: held.get(name) for name in ("images", "annotations")}
    for name, rows in tables.items():
        if not isinstance(rows, list) or not all(isinstance(r, dict) and _is_id(r.get("id")) for r in rows):
            found = nearest(name, [k for k in held if k not in tables]) if name not in held else ""
            raise DatasetError(
                f"no list of {name}", where=f"{instances}: {name}", found=found, expected="rows with an id"
            )
    images, annotations = ({row["id"]: row for row in rows or []} for rows in tables.values())
    return Refer(refs, instances, listed, images, annotations)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def splits_of(refer: Refer, spec: DatasetSpec) -> dict[str, int]:
    """Splits of the spec that the references hold, and how many expressions each."""
    wanted = [split.name for split in spec.splits if not split.derived_from]
    counts: dict[str, int] = {}
    for i, ref in enumerate(refer.refs):
        where = f"{refer.refs_path}: row {i}"
        if (split := field_of(ref, "split", str, where)) in wanted:
            counts[split] = counts.get(split, 0) + len(field_of(ref, "sentences", list, where))
    return {name: counts[name] for name in wanted if name in counts}


def refer_items(refer: Refer, split: str, draft: Draft, images: Path) -> Iterator[Item]:
    """Items of one split, in the order of the references."""
    kept = Images(draft, images)
    for i, ref in enumerate(refer.refs):
        where = f"{refer.refs_path}: row {i}"
        if field_of(ref, "split", str, where) != split:
            continue
        annotation = _known(refer.annotations, ref, "ann_id", where)
        image = _known(refer.images, ref, "image_id", where)
        if annotation.get("image_id") != image["id"]:
            raise DatasetError(
                "object and image do not belong together",
                where=f"{where}, field ann_id",
                found=f"image {annotation.get('image_id')}",
                expected=f"image {image['id']}",
            )
        name = field_of(image, "file_name", str, f"{refer.instances_path}: image {image['id']}")
        medium, data = kept.file(name, f"{where}, field image_id")
        size = upright_size(data, where)
        if size != (image.get("width"), image.get("height")):
            raise DatasetError(
                "image has another size than its boxes were drawn on",
                where=f"{where}, field image_id",
                found=f"{size[0]} x {size[1]} in {name}",
                expected=f"{image.get('width')} x {image.get('height')}",
            )
        row = {
            "question_id": str(field_of(ref, "ref_id", int, where)),
            "question": QUESTION,
            "segmentation": _polygon(annotation.get("segmentation")),
            "bbox": annotation.get("bbox"),
            "iscrowd": annotation.get("iscrowd", 0),
            # As the hub and the REFER files name it: the image and, last, the object.
            "file_name": f"{name.rsplit('.', 1)[0]}_{annotation['id']}.jpg",
        }
        sentences = field_of(ref, "sentences", list, where)
        said = [field_of(s, "sent", str, f"{where}, field sentences") for s in sentences]
        yield from flatten(row, said, size, medium, where)


def _polygon(value: object) -> list[float]:
    """The first polygon, as the hub has it; masks of other forms are not needed here."""
    first = value[0] if isinstance(value, list) and value else None
    numbers = isinstance(first, list) and all(isinstance(v, int | float) for v in first)
    return [float(v) for v in first] if numbers and first else []


def _known(table: dict[int, dict[str, Any]], ref: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    key = field_of(ref, name, int, where)
    if key not in table:
        raise DatasetError(
            "not in instances.json", where=f"{where}, field {name}", found=str(key), expected="a known id"
        )
    return table[key]
