"""Column lists of the hub datasets that the mini suite imitates, and builders that fill every column.

A mini dataset must be loadable by the code written for the real one, so names, order and Arrow types are
those of the hub's Parquet files: VQAv2 (`lmms-lab-encoder/VQAv2`), TextVQA (`lmms-lab-encoder/textvqa`),
RefCOCO after lmms-eval's own flattening to one row an expression, NExT-QA MC (`lmms-eval/NExTQA`) and
ImageNet (`ILSVRC/imagenet-1k`). Columns of the first three were read from the dataset cards; the flattened
RefCOCO columns from running lmms-eval 0.7.3's `refcoco_bbox_rec_preprocess_dataset`; the integer widths of
NExT-QA MC could not be checked offline and follow its CSV (ids above 2**31 exist, so int64).

The schemas carry the `huggingface` key that the hub's files carry: without it `datasets` reads an image
column as a plain struct and lmms-eval's `doc["image"].convert` fails.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""Arrow type of an image cell: encoded file bytes and a file name."""

ANSWER = pa.struct(
    [
        pa.field("answer", pa.string()),
        pa.field("answer_confidence", pa.string()),
        pa.field("answer_id", pa.int64()),
    ]
)
"""One of the ten VQAv2 answers. lmms-eval's leave-one-out needs every `answer_id` of a row to differ."""

NUM_ANSWERS = 10
"""Answers a question in VQAv2 and TextVQA."""

OPTION_COLUMNS = ("a0", "a1", "a2", "a3", "a4")
"""Choice columns of NExT-QA MC; `answer` is an index into them."""

Row = dict[str, Any]


def _feature(kind: pa.DataType) -> Any:
    """The `datasets` feature of an Arrow type, in the JSON form stored in Parquet metadata."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    name = {"double": "float64", "float": "float32"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}


def hub_schema(columns: Sequence[tuple[str, pa.DataType]], labels: Sequence[str] = ()) -> pa.Schema:
    """Columns with the `huggingface` note that `datasets` writes beside them.

    Args:
        columns: names and Arrow types, in order.
        labels: class names of the column `label`, in label order.
    """
    features = {name: _feature(kind) for name, kind in columns}
    if labels:
        features["label"] = {"names": list(labels), "_type": "ClassLabel"}
    note = json.dumps({"info": {"features": features}}, ensure_ascii=False)
    return pa.schema(list(columns), metadata={b"huggingface": note.encode()})


VQA_SCHEMA = hub_schema(
    [
        ("question_type", pa.string()),
        ("multiple_choice_answer", pa.string()),
        ("answers", pa.list_(ANSWER)),
        ("image_id", pa.int64()),
        ("answer_type", pa.string()),
        ("question_id", pa.int64()),
        ("question", pa.string()),
        ("image", IMAGE),
    ]
)
"""VQAv2 validation."""

SIGNS_SCHEMA = hub_schema(
    [
        ("image_id", pa.string()),
        ("question_id", pa.int32()),
        ("question", pa.string()),
        ("question_tokens", pa.list_(pa.string())),
        ("image", IMAGE),
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("flickr_original_url", pa.string()),
        ("flickr_300k_url", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("image_classes", pa.list_(pa.string())),
        ("set_name", pa.string()),
        ("ocr_tokens", pa.list_(pa.string())),
    ]
)
"""TextVQA validation."""

REC_SCHEMA = hub_schema(
    [
        ("answer", pa.string()),
        ("question_id", pa.string()),
        ("image", IMAGE),
        ("question", pa.string()),
        ("segmentation", pa.list_(pa.float64())),
        ("bbox", pa.list_(pa.float64())),
        ("iscrowd", pa.int64()),
        ("file_name", pa.string()),
        ("image_width", pa.int64()),
        ("image_height", pa.int64()),
    ]
)
"""RefCOCO as lmms-eval's REC tasks see it after `process_docs`: one row an expression, box xyxy 0-1."""

VIDEO_SCHEMA = hub_schema(
    [
        ("video", pa.int64()),
        ("frame_count", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("question", pa.string()),
        ("answer", pa.int64()),
        ("qid", pa.int64()),
        ("type", pa.string()),
        *((name, pa.string()) for name in OPTION_COLUMNS),
    ]
)
"""NExT-QA MC test; the clip is `clips/<video>.mp4` beside the Parquet file."""

REC_QUESTION = (
    "Please carefully observe the area circled in the image and come up with a caption for the area."
)
"""The hub fills RefCOCO's `question` with a captioning instruction that the REC tasks ignore."""


def image_schema(labels: Sequence[str] = ()) -> pa.Schema:
    """ImageNet's columns: image, label.

    Args:
        labels: class names in label order, for the metadata, as on the hub; the Arrow type stays int64.
    """
    return hub_schema([("image", IMAGE), ("label", pa.int64())], labels)


def image_cell(data: bytes, path: str = "") -> Row:
    """An image column's value from encoded bytes (PNG or JPEG); no path is null, as the hub has it."""
    return {"bytes": data, "path": path or None}


def image_row(image: bytes, label: int, path: str = "") -> Row:
    """One row of an image-classification split (`image_schema`)."""
    return {"image": image_cell(image, path), "label": label}


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdigit() else "other"


def vqa_row(
    *,
    image: bytes,
    image_id: int,
    question_id: int,
    question: str,
    answer: str,
    question_type: str = "",
    answers: Sequence[str] | None = None,
) -> Row:
    """One row of `VQA_SCHEMA`.

    Args:
        image: encoded image.
        image_id: the scene; several questions share it, and it is the cluster.
        question_id: unique in the split.
        question: as shown to the model, before the prompt's suffix.
        answer: the most frequent answer; `answer_type` is derived from it.
        question_type: first words of the question by default, as VQAv2 has them.
        answers: ten answers; ten copies of `answer` by default. `answer_id` counts 1 to 10.

    Raises:
        ValueError: `answers` does not hold exactly ten.
    """
    given = [answer] * NUM_ANSWERS if answers is None else list(answers)
    if len(given) != NUM_ANSWERS:
        raise ValueError(f"question {question_id} has {len(given)} answers, VQAv2 has {NUM_ANSWERS}")
    return {
        "question_type": question_type or " ".join(question.lower().split()[:3]),
        "multiple_choice_answer": answer,
        "answers": [
            {"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(given, 1)
        ],
        "image_id": image_id,
        "answer_type": _answer_type(answer),
        "question_id": question_id,
        "question": question,
        "image": image_cell(image),
    }


def signs_row(
    *,
    image: bytes,
    width: int,
    height: int,
    image_id: str,
    question_id: int,
    question: str,
    answers: str | Sequence[str],
    image_classes: Sequence[str] = (),
    ocr_tokens: Sequence[str] = (),
    set_name: str = "val",
) -> Row:
    """One row of `SIGNS_SCHEMA`.

    Args:
        image: encoded image.
        width, height: its size in pixels.
        image_id: the scene, and the cluster.
        question_id: unique in the split, below 2**31.
        question: lmms-eval capitalises it (first letter upper, the rest lower).
        answers: one answer, repeated ten times, or ten.
        ocr_tokens: words in the image; they are never in a prompt.

    Raises:
        ValueError: `answers` is a list that does not hold exactly ten.
    """
    given = [answers] * NUM_ANSWERS if isinstance(answers, str) else list(answers)
    if len(given) != NUM_ANSWERS:
        raise ValueError(f"question {question_id} has {len(given)} answers, TextVQA has {NUM_ANSWERS}")
    return {
        "image_id": image_id,
        "question_id": question_id,
        "question": question,
        "question_tokens": question.lower().rstrip("?").split(),
        "image": image_cell(image),
        "image_width": width,
        "image_height": height,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": given,
        "image_classes": list(image_classes),
        "set_name": set_name,
        "ocr_tokens": list(ocr_tokens),
    }


def rec_row(
    *,
    image: bytes,
    width: int,
    height: int,
    image_id: int,
    object_index: int,
    question_id: str,
    expression: str,
    box: Sequence[float],
) -> Row:
    """One row of `REC_SCHEMA`. RefCOCO has no image column of its own: the file name says the image.

    Args:
        image: encoded image.
        width, height: its size in pixels.
        image_id: the scene; ends up in `file_name` as `EYECHART_mini_<12 digits>_<object>.png`, from which
            `harness.prompts.cluster` takes it back, as for COCO's names.
        object_index: which object of the scene.
        question_id: unique in the split.
        expression: the phrase; lmms-eval's column is called `answer`.
        box: x1, y1, x2, y2 as fractions 0-1 of the image.

    Raises:
        ValueError: the box has no area or leaves the image; lmms-eval divides by its area.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise ValueError(f"question {question_id}: box {list(box)} is not x1 < x2, y1 < y2 within 0-1")
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return {
        "answer": expression,
        "question_id": question_id,
        "image": image_cell(image),
        "question": REC_QUESTION,
        "segmentation": [v for x, y in corners for v in (x * width, y * height)],
        "bbox": [x1, y1, x2, y2],
        "iscrowd": 0,
        "file_name": f"EYECHART_mini_{image_id:012d}_{object_index}.png",
        "image_width": width,
        "image_height": height,
    }


def video_row(
    *,
    video: int,
    frame_count: int,
    width: int,
    height: int,
    question: str,
    options: Sequence[str],
    answer: int,
    qid: int,
    kind: str = "TC",
) -> Row:
    """One row of `VIDEO_SCHEMA`.

    Args:
        video: clip number; the file is `clips/<video>.mp4`, and it is the cluster.
        frame_count, width, height: of the clip.
        options: five choices.
        answer: index of the right one, 0-4.
        qid: unique in the split. (NExT-QA's own `qid` counts within a video; `harness.prompts.sample_id`
            joins both.)
        kind: NExT-QA question type: CW, CH, TN, TC, TP, DC, DL or DO.

    Raises:
        ValueError: not five distinct options, or `answer` out of range.
    """
    if len(options) != len(OPTION_COLUMNS) or len({o.strip() for o in options}) != len(options):
        raise ValueError(f"question {qid}: {list(options)} are not five different options")
    if not 0 <= answer < len(options):
        raise ValueError(f"question {qid}: answer {answer} is not an index into five options")
    return {
        "video": video,
        "frame_count": frame_count,
        "width": width,
        "height": height,
        "question": question,
        "answer": answer,
        "qid": qid,
        "type": kind,
        **dict(zip(OPTION_COLUMNS, options, strict=True)),
    }


SCHEMAS: dict[str, pa.Schema] = {
    "vqa": VQA_SCHEMA,
    "signs": SIGNS_SCHEMA,
    "rec": REC_SCHEMA,
    "video": VIDEO_SCHEMA,
    "probe": image_schema(),
    "digits": image_schema(),
}
"""Dataset folder -> schema."""


def as_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """A table of built rows; a missing or extra column is an error, never a silent null.

    Raises:
        ValueError: a row's keys are not exactly the schema's columns.
    """
    for row in rows:
        if set(row) != set(schema.names):
            raise ValueError(f"row has columns {sorted(row)}, schema has {sorted(schema.names)}")
    return pa.Table.from_pylist(list(rows), schema=schema)
