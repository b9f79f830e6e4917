"""Small repositories with the columns, types and file names of the hub's datasets."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.datasets.specs import SPECS

SYNSETS = ["n01440764", "n01443537", "n01484850", "n01491361"]


def picture(seed: int, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """A picture that looks like no other."""
    grid = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(grid).resize(size, Image.Resampling.BILINEAR).save(out, kind, quality=90)
    return out.getvalue()


def clip(seed: int) -> bytes:
    """A short mp4."""
    from harness.mini.clips import encode_mp4, sample_clips

    return encode_mp4(next(iter(sample_clips("test", 1, seed=seed))))


def cell(data: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": data, "path": path}


def vqa_rows(images: int = 6, each: int = 3) -> list[dict[str, Any]]:
    rows = []
    for i in range(images):
        for k in range(each):
            answers = [
                {"answer": "yes" if n else "no", "answer_confidence": "yes", "answer_id": n + 1}
                for n in range(10)
            ]
            rows.append(
                {
                    "question_type": "is the",
                    "multiple_choice_answer": "yes",
                    "answers": answers,
                    "image_id": 100 + i,
                    "answer_type": "yes/no",
                    "question_id": 1000 * (100 + i) + k,
                    "question": f"Is thing {k} there?",
                    "image": cell(picture(i), f"COCO_val2014_{100 + i:012d}.jpg"),
                }
            )
    return rows


def text_rows(count: int = 5) -> list[dict[str, Any]]:
    return [
        {
            "image_id": f"img{i:03d}",
            "question_id": 34602 + i,
            "question": "what does it say?",
            "question_tokens": ["what", "does", "it", "say"],
            "image": cell(picture(50 + i)),
            "image_width": 40,
            "image_height": 30,
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "answers": ["stop"] * 9 + [""],
            "image_classes": ["Sign"],
            "set_name": "val",
            "ocr_tokens": ["STOP"],
        }
        for i in range(count)
    ]


def rec_rows(images: int = 3, seed: int = 100) -> list[dict[str, Any]]:
    """Two objects an image, two and three expressions."""
    return [
        {
            "question_id": str(10 * i + k),
            "image": cell(picture(seed + i)),
            "question": "Please carefully observe the area circled in the image.",
            "answer": [f"thing {n}" for n in range(2 + k)],
            "segmentation": [1.0, 2.0, 11.0, 2.0, 11.0, 12.0],
            "bbox": [4.0, 3.0, 20.0, 15.0],
            "iscrowd": 0,
            "file_name": f"COCO_train2014_{seed + i:012d}_{k}.jpg",
        }
        for i in range(images)
        for k in range(2)
    ]


def choice_rows(clips: tuple[int, ...] = (4010069381, 2435100235)) -> list[dict[str, Any]]:
    return [
        {
            "video": video,
            "frame_count": 30,
            "width": 64,
            "height": 64,
            "question": "why did it turn",
            "answer": k,
            "qid": k,
            "type": "CW",
            **{f"a{i}": f"reason {i}" for i in range(5)},
        }
        for video in clips
        for k in range(2)
    ]


def perception_rows(clips: tuple[str, ...] = ("video_1234", "video_5")) -> list[dict[str, Any]]:
    return [
        {
            "video_name": video,
            "question": "Which moves?",
            "question_id": str(k),
            "options": ["one", "two", "three"],
            "answer_id": str(k),
            "area": "physics",
            "reasoning": "descriptive",
            "tag": ["motion"],
        }
        for video in clips
        for k in range(2)
    ]


def class_rows(split: str, each: int = 2, first: int = 200) -> list[dict[str, Any]]:
    rows = []
    for k in range(each):
        for label, synset in enumerate(SYNSETS):
            name = (
                f"{synset}_{k}_{synset}.JPEG" if split == "train" else f"ILSVRC2012_val_{k:08d}_{synset}.JPEG"
            )
            rows.append({"image": cell(picture(first + len(rows)), name), "label": label})
    return rows


def mixture_rows() -> list[dict[str, Any]]:
    def row(i: int, turns: list[str], image: bytes | None) -> dict[str, Any]:
        says = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]
        return {
            "id": f"r{i}",
            "conversations": says,
            "data_source": "sharegpt4v",
            "image": cell(image) if image else None,
        }

    return [
        row(0, ["<image>\nWhat is it?", "A dog.", "Where is it?", "[0.1, 0.2, 0.5, 0.75]"], picture(300)),
        row(1, ["Tell a joke.", "No."], None),
        row(2, ["Describe it.\n<image>", "word " * 41, "Which one?\nA. x\nB. y", "B"], picture(301)),
        row(3, ["<image>\nIs it red?", "Yes, the whole of it is red."], picture(302)),
    ]


RAW: dict[str, dict[str, Callable[[], list[dict[str, Any]]]]] = {
    "vqav2": {"validation": vqa_rows},
    "textvqa": {"validation": text_rows},
    "refcoco": {n: lambda s=s: rec_rows(seed=s) for n, s in (("testA", 100), ("testB", 110), ("val", 120))},
    "refcocoplus": {
        n: lambda s=s: rec_rows(seed=s) for n, s in (("val", 100), ("testA", 110), ("testB", 120))
    },
    "refcocog": {"test": rec_rows},
    "nextqa": {"test": choice_rows},
    "perceptiontest": {"validation": perception_rows},
    "imagenet": {
        "train": lambda: class_rows("train"),
        "validation": lambda: class_rows("validation", 1, 250),
    },
    "mixture": {"train": mixture_rows},
}


def raw_schema(name: str) -> pa.Schema:
    return pa.schema(list(SPECS[name].raw_columns))


def write_raw(path: Path, name: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema or raw_schema(name)), path, row_group_size=4)


def write_repo(folder: Path, name: str, files: int = 2) -> Path:
    """A repository's files: every split in two Parquet files, clips in a zip as the hub has them."""
    import zipfile

    for split, make in RAW[name].items():
        rows = make()
        cut = -(-len(rows) // files)
        for i in range(files):
            path = folder / SPECS[name].prefix / f"{split}-{i:05d}-of-{files:05d}.parquet"
            write_raw(path, name, rows[i * cut : (i + 1) * cut])
    if SPECS[name].media == "clip":
        make = next(iter(RAW[name].values()))
        ids = dict.fromkeys(str(r.get("video", r.get("video_name"))) for r in make())
        with zipfile.ZipFile(folder / "videos.zip", "w") as out:
            for i, video in enumerate(ids):
                out.writestr(f"NExTVideo/{random.Random(i).randrange(99)}/{video}.mp4", clip(i))
    return folder
