"""Writes the miniature of each repository: file names, columns and Arrow types as on the hub.

Layouts were read from the dataset cards and file listings; what is inside the video archives follows from
where lmms-eval looks after unpacking them (`NExTVideo/`, `videos/`). Everything follows from the seed.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.errors import UsageError
from harness.files import write_atomic, write_parquet
from harness.mini import schemas
from harness.mini.clips import MOVES, sample_clips
from harness.mini.language import ask, ask_clip
from harness.mini.world import COLORS, SHAPES, Split, Thing, box_of, sample_scenes
from harness.rehearsal.conversations import conversations
from harness.rehearsal.hub_schemas import MIXTURE_SCHEMA, PERCEPTION_SCHEMA, RAW_REC_SCHEMA
from harness.rehearsal.pictures import Canvas, choose_canvas, film, photograph
from harness.seeds import derive_seed

Row = dict[str, Any]
QUESTIONS = {
    "color": "what color is",
    "shape": "what",
    "pattern": "what",
    "count": "how many",
    "exist": "is there a",
}
"""Kinds of question, and VQAv2's `question_type` of each."""
REC_SPLITS = {
    "refcoco": ("val", "test", "testA", "testB"),
    "refcocoplus": ("val", "testA", "testB"),
    "refcocog": ("val", "test"),
}
"""Splits of the hub's three repositories; two of their `val` are mixed, see the tasks' READMEs."""
NUM_ARCHIVES = 2
"""Zip files that Perception Test's clips are spread over."""
_COCO_IDS = 600_000
"""COCO's image ids are below this."""
_FIRST_VIDEO = 2_400_000_000
"""Video ids of NExT-QA exceed 32 bits."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be written."""

    folder: Path
    rows: int
    """Rows a split, about: a picture with several questions is not cut."""
    seed: int

    def rng(self, *names: str) -> random.Random:
        """The stream of one split."""
        return random.Random(derive_seed("rehearsal", *names, self.seed))

    def scene_seed(self, *names: str) -> int:
        """Seed of a split's scenes or clips: no two splits share one."""
        return derive_seed("rehearsal-scenes", *names, self.seed) % 2**31

    def table(self, rows: Sequence[Row], schema: pa.Schema, prefix: str, shards: int = 1) -> None:
        """Write rows as `<prefix>-00000-of-0000N.parquet`, in order and as even as they go."""
        for shard in range(shards):
            part = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
            path = self.folder / f"{prefix}-{shard:05d}-of-{shards:05d}.parquet"
            write_parquet(path, schemas.as_table(part, schema), row_group_rows=8)

    def archive(self, name: str, files: dict[str, bytes]) -> None:
        """Write a zip file; a fixed date, so the same files give the same bytes."""
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as packed:
            for path, data in files.items():
                packed.writestr(zipfile.ZipInfo(path), data)
        write_atomic(self.folder / name, target.getvalue())


def _ten_answers(right: str, others: Sequence[str], rng: random.Random) -> list[str]:
    """Seven to ten people say the right thing."""
    wrong = [other for other in others if other != right]
    return [right if i < 7 or rng.random() < 0.5 else rng.choice(wrong) for i in range(schemas.NUM_ANSWERS)]


def _write_vqav2(order: Order) -> None:
    rng, rows = order.rng("vqav2"), list[Row]()
    says = [*COLORS, *SHAPES, "yes", "no", "1", "2"]
    scenes = sample_scenes("test", order.rows, order.scene_seed("vqav2"))
    for scene, image_id in zip(scenes, rng.sample(range(_COCO_IDS), len(scenes)), strict=True):
        image = photograph(scene, choose_canvas(rng))
        for number, (kind, first_words) in enumerate(QUESTIONS.items()):
            question = ask(scene, kind, rng)
            if question is None or rng.random() < 0.4:
                continue
            row = schemas.vqa_row(
                image=image,
                image_id=image_id,
                question_id=image_id * 1000 + number,
                question=question.text[0].upper() + question.text[1:],
                question_type=first_words,
                answer=question.answer,
                answers=_ten_answers(question.answer, says, rng),
            )
            row["image"]["path"] = f"COCO_val2014_{image_id:012d}.jpg"
            rows.append(row)
        if len(rows) >= order.rows:
            break
    order.table(rows, schemas.VQA_SCHEMA, "data/validation", shards=2)


def _write_textvqa(order: Order) -> None:
    rng, rows = order.rng("textvqa"), list[Row]()
    scenes = sample_scenes("test", order.rows, order.scene_seed("textvqa"), with_sign=True)
    for number, scene in enumerate(scenes):
        canvas, question = choose_canvas(rng), ask(scene, "sign", rng)
        if question is None:
            continue
        word = question.answer
        rows.append(
            schemas.signs_row(
                image=photograph(scene, canvas),
                width=canvas.width,
                height=canvas.height,
                image_id=f"{rng.getrandbits(64):016x}",
                question_id=34_602 + number,
                question=question.text,
                answers=_ten_answers(word, ["sign", word[:2], "answering does not require reading"], rng),
                image_classes=["Traffic sign", *{thing.shape.capitalize() for thing in scene.things}],
                ocr_tokens=[word.upper(), "TOKEN"],
            )
        )
    order.table(rows, schemas.SIGNS_SCHEMA, "data/validation", shards=3)


def _expressions(thing: Thing, rng: random.Random) -> list[str]:
    """Two to four phrases for one object; colour and shape alone are never shared within a scene."""
    name = f"{thing.color} {thing.shape}"
    phrases = [
        name,
        f"the {thing.size} {name}",
        f"{thing.pattern} {name}",
        f"The {name} that is {thing.pattern}",
    ]
    return rng.sample(phrases, rng.randint(2, len(phrases)))


def _rec_row(thing: Thing, canvas: Canvas, image: bytes, stem: str, number: int, rng: random.Random) -> Row:
    x, y, w, h = canvas.box_px(box_of(thing))
    corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
    file_name = f"{stem}_{number}.jpg"
    return {
        "question_id": str(number),
        "image": schemas.image_cell(image, file_name),
        "question": schemas.REC_QUESTION,
        "answer": _expressions(thing, rng),
        "segmentation": [value for corner in corners for value in corner],
        "bbox": [x, y, w, h],
        "iscrowd": 0,
        "file_name": file_name,
    }


def _write_rec(order: Order, name: str) -> None:
    for split in REC_SPLITS[name]:
        rng, rows = order.rng(name, split), list[Row]()
        scenes = sample_scenes("test", order.rows, order.scene_seed(name, split))
        for scene, image_id in zip(scenes, rng.sample(range(_COCO_IDS), len(scenes)), strict=True):
            canvas, stem = choose_canvas(rng), f"COCO_train2014_{image_id:012d}"
            image = photograph(scene, canvas)
            for thing in scene.things[:2]:
                rows.append(_rec_row(thing, canvas, image, stem, len(rows), rng))
            if len(rows) >= order.rows:
                break
        order.table(rows, RAW_REC_SCHEMA, f"data/{split}")


def _write_nextqa(order: Order) -> None:
    rng, rows = order.rng("nextqa"), list[Row]()
    files: dict[str, bytes] = {}
    for clip in sample_clips("test", (order.rows + 1) // 2, order.scene_seed("nextqa")):
        canvas, video = choose_canvas(rng), _FIRST_VIDEO + rng.randrange(10**5) + 10**5 * len(files)
        files[f"NExTVideo/{video}.mp4"], frames = film(clip, canvas, rng)
        for which in range(len(clip.movers)):
            choice = ask_clip(clip, rng, which)
            rows.append(
                schemas.video_row(
                    video=video,
                    frame_count=frames,
                    width=canvas.width,
                    height=canvas.height,
                    question=choice.text.rstrip("?"),
                    options=choice.options,
                    answer=choice.answer,
                    qid=which,
                )
            )
    order.table(rows, schemas.VIDEO_SCHEMA, "MC/test")
    order.archive("videos.zip", files)


def _write_perceptiontest(order: Order) -> None:
    rng, rows = order.rng("perceptiontest"), list[Row]()
    archives: list[dict[str, bytes]] = [{} for _ in range(NUM_ARCHIVES)]
    clips = sample_clips("test", (order.rows + 1) // 2, order.scene_seed("perceptiontest"))
    for number, clip in enumerate(clips):
        video = f"video_{number}{rng.randrange(10)}"
        archives[number % NUM_ARCHIVES][f"videos/{video}.mp4"], _ = film(clip, choose_canvas(rng), rng)
        for which, mover in enumerate(clip.movers):
            choice = ask_clip(clip, rng, which)
            options = [mover.move, *rng.sample([move for move in MOVES if move != mover.move], 2)]
            rng.shuffle(options)
            rows.append(
                {
                    "video_name": video,
                    "question": choice.text[0].upper() + choice.text[1:],
                    "question_id": str(which),
                    "options": options,
                    "answer_id": str(options.index(mover.move)),
                    "area": "physics",
                    "reasoning": "descriptive",
                    "tag": ["motion"],
                }
            )
    order.table(rows, PERCEPTION_SCHEMA, "mc_question_val/validation")
    for number, files in enumerate(archives, 1):
        order.archive(f"videos_chunked_{number:02d}.zip", files)


def _write_imagenet(order: Order) -> None:
    """Six classes, the shape of the dominant object: few enough to be learnt from a few rows."""
    schema = schemas.image_schema(SHAPES)
    splits: tuple[tuple[str, Split, int], ...] = (("train", "train", 4), ("validation", "test", 1))
    for split, source, times in splits:
        rng, rows = order.rng("imagenet", split), list[Row]()
        for scene in sample_scenes(source, order.rows * times, order.scene_seed("imagenet", split)):
            label = SHAPES.index(scene.things[0].shape)
            name = f"n{label:08d}_{len(rows)}.JPEG"
            rows.append(schemas.image_row(photograph(scene, choose_canvas(rng)), label, name))
        order.table(rows, schema, f"data/{split}", shards=times)


def _write_mixture(order: Order) -> None:
    rng = order.rng("mixture")
    scenes = sample_scenes("train", order.rows, order.scene_seed("mixture"))
    rows = [row for scene in scenes for row in conversations(scene, choose_canvas(rng), rng)]
    order.table(rows, MIXTURE_SCHEMA, "data/train", shards=2)


WRITERS: dict[str, Callable[[Order], None]] = {
    "vqav2": _write_vqav2,
    "textvqa": _write_textvqa,
    **{name: lambda order, name=name: _write_rec(order, name) for name in REC_SPLITS},  # type: ignore[misc]
    "nextqa": _write_nextqa,
    "perceptiontest": _write_perceptiontest,
    "imagenet": _write_imagenet,
    "mixture": _write_mixture,
}
"""Dataset -> writer of its repository."""


def write_raw(root: Path, dataset: str, *, rows: int = 24, seed: int = 0) -> Path:
    """Write one miniature repository.

    Args:
        root: parent of all of them.
        dataset: a key of WRITERS, named as the prepared dataset.
        rows: rows a split, about; ImageNet's `train` has four times as many.
        seed: another seed gives other scenes and questions.

    Returns:
        Its folder, `<root>/<dataset>`; the same arguments give the same bytes with the same libraries.

    Raises:
        UsageError: no such dataset, or fewer than four rows.
        ResourceError: the disk cannot take it.
    """
    if dataset not in WRITERS:
        raise UsageError("no such dataset", found=dataset, expected=", ".join(WRITERS))
    if rows < 4:
        raise UsageError("too few rows for every shard to have one", found=str(rows), expected="4 or more")
    folder = root / dataset
    WRITERS[dataset](Order(folder, rows, seed))
    return folder
