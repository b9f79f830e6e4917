"""What the authors of VQAv2, TextVQA and ILSVRC give out, written from rows of the hub's schema."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def write_images(rows: list[Row], folder: Path, packed: Path | None = None) -> None:
    """Each image once, in a folder or, below a folder of that name, in a zip."""
    files = {name_of(row): row["image"]["bytes"] for row in rows}
    if packed is not None:
        with zipfile.ZipFile(packed, "w") as out:
            for name, data in files.items():
                out.writestr(f"{folder.name}/{name}", data)
        return
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def name_of(row: Row) -> str:
    number = row["image_id"]
    return f"COCO_val2014_{number:012d}.jpg" if isinstance(number, int) else f"{number}.jpg"


def vqav2_files(rows: list[Row]) -> dict[str, Any]:
    """The two files of visualqa.org; annotations in another order than the questions."""
    about = {"info": {"version": "2.0"}, "license": {}, "data_subtype": "val2014", "data_type": "mscoco"}
    asked = [{n: row[n] for n in ("image_id", "question", "question_id")} for row in rows]
    names = ("question_type", "multiple_choice_answer", "answers", "image_id", "answer_type", "question_id")
    answered = [{n: row[n] for n in names} for row in reversed(rows)]
    return {
        "v2_OpenEnded_mscoco_val2014_questions.json": {
            **about,
            "task_type": "Open-Ended",
            "questions": asked,
        },
        "v2_mscoco_val2014_annotations.json": {**about, "annotations": answered},
    }


def textvqa_files(rows: list[Row]) -> dict[str, Any]:
    """The file of textvqa.org and the OCR tokens beside it."""
    left_out = {"image", "ocr_tokens"}
    data = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
    ocr = [{n: row[n] for n in ("image_id", "ocr_tokens")} | {"ocr_info": []} for row in rows]
    return {
        "TextVQA_0.5.1_val.json": {
            "dataset_type": "val",
            "dataset_name": "textvqa",
            "dataset_version": "0.5.1",
            "data": data,
        },
        "TextVQA_Rosetta_OCR_v0.2_val.json": {"dataset_type": "val", "data": ocr},
    }


def write_json_files(folder: Path, files: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, held in files.items():
        (folder / name).write_text(json.dumps(held))


def meta_mat(synsets: list[str], ancestors: int = 2) -> bytes:
    """meta.mat: leaves first, in an order of their own, then the synsets above them."""
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    kinds += [("children", "O"), ("wordnet_height", "O"), ("num_train_images", "O")]
    table = np.empty((len(synsets) + ancestors, 1), dtype=kinds)
    for i in range(len(table)):
        leaf = i < len(synsets)
        name = synsets[i] if leaf else f"n{90_000_000 + i:08d}"
        children = np.zeros((1, 0)) if leaf else np.array([[1.0, 2.0]])
        number = i + 1 if leaf else 1001 + i - len(synsets)
        table[i, 0] = (float(number), name, "words", "gloss", 0.0 if leaf else 2.0, children, 0.0, 1300.0)
    out = io.BytesIO()
    savemat(out, {"synsets": table}, do_compression=True)
    return out.getvalue()


def bomb_mat(size: int) -> bytes:
    """A MAT file whose one part unpacks to that many zeros."""
    packed = zlib.compress(bytes(size), 9)
    return b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def devkit_files(synsets: list[str], truth: list[int]) -> dict[str, bytes]:
    """Files of the devkit by their names in it; `truth` holds ILSVRC2012_IDs in the order of images."""
    return {
        "ILSVRC2012_devkit_t12/readme.txt": b"readme",
        "ILSVRC2012_devkit_t12/data/meta.mat": meta_mat(synsets),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "".join(
            f"{number}\n" for number in truth
        ).encode(),
    }


def write_devkit(target: Path, files: dict[str, bytes]) -> None:
    """As a .tar.gz where the target is named so, unpacked otherwise."""
    if target.suffix != ".gz":
        for name, data in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return
    with tarfile.open(target, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
