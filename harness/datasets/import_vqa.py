"""VQAv2 and TextVQA from what their authors give out: JSON files, and the images beside them.

    v2_OpenEnded_mscoco_val2014_questions.json   questions {question_id, image_id, question}
    v2_mscoco_val2014_annotations.json           annotations {question_id, image_id, answers, …}
    val2014/ or val2014.zip                      COCO_val2014_000000000042.jpg

    TextVQA_0.5.1_val.json                       data {question_id, image_id, question, answers, …}
    TextVQA_Rosetta_OCR_v0.2_val.json            data {image_id, ocr_tokens}, if it is there
    train_images/ or train_val_images.zip        <image_id>.jpg

Rows come in the order of the questions and mean what the hub's rows mean: same names, questions, answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.datasets.json_source import field_of, read_json_source, table_of, texts_of
from harness.datasets.prepare import Draft, Item
from harness.datasets.rows import Row
from harness.datasets.sources import Images
from harness.datasets.walk import named
from harness.errors import DatasetError, UsageError

SPLIT = "validation"
QUESTIONS, ANNOTATIONS = "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"
TEXTVQA, OCR = "TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json"
PLACES = {"vqav2": ("val2014", "val2014.zip"), "textvqa": ("train_images", "train_val_images.zip")}
"""Where each keeps its images, below the folder that holds the JSON."""
NO_OCR = (
    f"ocr_tokens are empty, {OCR} is not there: no task asks with them, but the digest differs from the hub's"
)


@dataclass(frozen=True, slots=True)
class VqaFiles:
    """Rows of an official release, read, and the images they name."""

    files: list[Path]
    rows: list[tuple[Row, str, str]]
    """Row without its image, name of the image's file, where the row is."""
    images: Path
    notes: tuple[str, ...] = field(default=())


def find_vqa(dataset: str, place: Path, images: Path | None) -> VqaFiles | None:
    """Read the official files of a folder; None where there are none.

    Raises:
        DatasetError: one is missing, or is not what its name says.
        UsageError: nobody says where the images are.
    """
    names = {"vqav2": (QUESTIONS, ANNOTATIONS), "textvqa": (TEXTVQA,)}.get(dataset, ())
    found = {name: path for name in names if (path := named(place, name))}
    if not found:
        return None
    for name in names:
        if name not in found:
            fix = "put it beside the other; the official zip files are to be unpacked first"
            raise DatasetError("file is missing", where=str(place), expected=name, fix=fix)
    folder = images or next((p for n in PLACES[dataset] if (p := place / n).exists()), None)
    if folder is None:
        expected = " or ".join(PLACES[dataset])
        raise UsageError(
            "the images are needed", where=str(place), expected=expected, fix="give them with --images"
        )
    if dataset == "vqav2":
        rows = list(_vqav2(found[QUESTIONS], found[ANNOTATIONS]))
        return VqaFiles(list(found.values()), rows, folder)
    ocr = named(place, OCR)
    rows = list(_textvqa(found[TEXTVQA], _ocr_tokens(ocr) if ocr else {}))
    return VqaFiles([found[TEXTVQA], *([ocr] if ocr else [])], rows, folder, () if ocr else (NO_OCR,))


def vqa_items(source: VqaFiles, draft: Draft, advance: Callable[[], None]) -> Iterator[Item]:
    """Items in the order of the questions."""
    images = Images(draft, source.images)
    for row, name, where in source.rows:
        advance()
        medium, _data = images.file(name, f"{where}, field image_id")
        yield Item(dict(row), medium, where)


def _vqav2(questions_path: Path, annotations_path: Path) -> Iterator[tuple[Row, str, str]]:
    questions = _subset(questions_path, "questions", "data_subtype", "val2014")
    answered = _by_question(annotations_path)
    for i, question in enumerate(questions):
        where = f"{questions_path}: row {i}"
        key = field_of(question, "question_id", int, where)
        if key not in answered:
            raise DatasetError(
                "question without annotations",
                where=f"{where}, field question_id",
                found=str(key),
                expected=f"one of {annotations_path.name}",
            )
        row = answered[key]
        if row["image_id"] != (image := field_of(question, "image_id", int, where)):
            raise DatasetError(
                "question and annotation name two images",
                where=f"{where}, field image_id",
                found=str(image),
                expected=f"{row['image_id']}, as in {annotations_path.name}",
            )
        text = {"question": field_of(question, "question", str, where)}
        yield {**row, **text}, f"COCO_val2014_{image:012d}.jpg", where
    if len(answered) > len(questions):
        raise DatasetError(
            "annotations without a question",
            where=str(annotations_path),
            found=f"{len(answered):,} annotations",
            expected=f"{len(questions):,}, as many as questions",
        )


def _by_question(path: Path) -> dict[int, Row]:
    """question_id -> the hub's columns of its annotation."""
    answered: dict[int, Row] = {}
    for i, held in enumerate(_subset(path, "annotations", "data_subtype", "val2014")):
        where = f"{path}: row {i}"
        key = field_of(held, "question_id", int, where)
        if key in answered:
            raise DatasetError(
                "two annotations of one question", where=f"{where}, field question_id", found=str(key)
            )
        row: Row = {
            name: field_of(held, name, str, where)
            for name in ("question_type", "multiple_choice_answer", "answer_type")
        }
        answers = field_of(held, "answers", list, where)
        row["answers"] = [_answer(answer, f"{where}, field answers") for answer in answers]
        row["image_id"], row["question_id"] = field_of(held, "image_id", int, where), key
        answered[key] = row
    return answered


def _answer(held: object, where: str) -> Row:
    texts = {name: field_of(held, name, str, where) for name in ("answer", "answer_confidence")}
    return {**texts, "answer_id": field_of(held, "answer_id", int, where)}


def _textvqa(path: Path, ocr: dict[str, list[str]]) -> Iterator[tuple[Row, str, str]]:
    for i, held in enumerate(_subset(path, "data", "dataset_type", "val")):
        where = f"{path}: row {i}"
        row: Row = {
            name: field_of(held, name, str, where)
            for name in ("image_id", "question", "flickr_original_url", "flickr_300k_url", "set_name")
        }
        row |= {
            name: field_of(held, name, int, where) for name in ("question_id", "image_width", "image_height")
        }
        row |= {name: texts_of(held, name, where) for name in ("question_tokens", "answers", "image_classes")}
        row["ocr_tokens"] = ocr.get(row["image_id"], [])
        yield row, f"{row['image_id']}.jpg", where


def _ocr_tokens(path: Path) -> dict[str, list[str]]:
    rows = table_of(read_json_source(path), "data", path, "rows with image_id and ocr_tokens")
    named = ((f"{path}: row {i}", row) for i, row in enumerate(rows))
    return {field_of(row, "image_id", str, where): texts_of(row, "ocr_tokens", where) for where, row in named}


def _subset(path: Path, name: str, about: str, expected: str) -> list[Any]:
    """The rows of a file, which must not say that it is of another subset."""
    held = read_json_source(path)
    rows = table_of(held, name, path, "rows")
    if (said := held.get(about, expected)) != expected:
        raise DatasetError(
            "file of another subset", where=f"{path}: {about}", found=str(said)[:80], expected=expected
        )
    return rows
