"""Generated rows and answers of the four question tasks; loaded by path from the tests that need them."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path

from PIL import Image

from harness.files import write_parquet
from harness.mini import schemas
from harness.task import TASKS, read_task

TASK_NAMES = ("eyechart_mini_vqa", "eyechart_mini_signs", "eyechart_mini_rec", "eyechart_mini_video")
WORDS = (
    "red",
    "two",
    "a ring",
    "Yes",
    "none",
    "dog's",
    "the cat",
    "3",
    "half-moon",
    "isnt",
    "10,000",
    "Größe",
)


def png(size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def vqa_rows(number: int, draw: random.Random) -> list[dict]:
    rows = []
    for i in range(number):
        answers = [draw.choice(WORDS[:3] if i % 2 else WORDS) for _ in range(10)]
        question = draw.choice(["What is it?", "how many\nrings", " Is THIS a cat ?", "Größe?"])
        rows.append(
            schemas.vqa_row(
                image=png(), image_id=i // 3, question_id=100 + i, question=question,
                answer=answers[0], answers=answers,
            )
        )  # fmt: skip
    return rows


def signs_rows(number: int, draw: random.Random) -> list[dict]:
    rows = []
    for i in range(number):
        answers = [draw.choice(WORDS[:4] if i % 2 else WORDS) for _ in range(10)]
        question = draw.choice(["what does the SIGN say?", "What Word Is Printed", "éa says what"])
        rows.append(
            schemas.signs_row(
                image=png(), width=8, height=8, image_id=f"s{i // 2}", question_id=i,
                question=question, answers=answers, ocr_tokens=("cat",),
            )
        )  # fmt: skip
    return rows


def rec_rows(number: int, draw: random.Random) -> list[dict]:
    rows = []
    for i in range(number):
        x, y = draw.uniform(0, 0.6), draw.uniform(0, 0.6)
        box = (x, y, x + draw.uniform(0.05, 0.4), y + draw.uniform(0.05, 0.4)) if i else (0.0, 0.0, 0.5, 0.5)
        rows.append(
            schemas.rec_row(
                image=png(), width=8, height=8, image_id=i // 2, object_index=i % 2, question_id=f"q{i}",
                expression=draw.choice(["the red ring", "Größter Kreis", "left  star "]), box=box,
            )
        )  # fmt: skip
    return rows


def video_rows(number: int, draw: random.Random) -> list[dict]:
    rows = []
    for i in range(number):
        options = draw.sample(["left", "right ", " up", "down", "it stays", "B is larger", "a ring"], 5)
        rows.append(
            schemas.video_row(
                video=i // 2 + 2**33, frame_count=8, width=8, height=8, question=" which way? ",
                options=options, answer=draw.randrange(5), qid=i % 2, kind="TC",
            )
        )  # fmt: skip
    return rows


ODD_TEXTS = (
    "", " ", "trailing  ", "  both ", "ÉCOLE İstanbul ß?", "ALL CAPS", "tab\there",
    "A. not an option\nB. nor this", "🙂 é ﬁ", "{question} %s <image>", "Straße\u00a0\u2028",
    "ǆ titlecase", "'quoted' \\n",
)  # fmt: skip
"""Questions and options that a real row may hold and a careless prompt would change."""


def perception_rows(number: int, draw: random.Random) -> list[dict]:
    rows = []
    for i in range(number):
        row = dict(video=f"video_{i // 2}", video_name=f"video_{i // 2}", question=" What happens? ")
        row |= dict(question_id=str(i % 2), options=draw.sample(["a ring", " left", "B", "", "A man"], 3))
        row |= dict(answer_id=str(draw.randrange(3)), area="physics", reasoning="descriptive", tag=["motion"])
        rows.append(row)
    return rows


def odd_variants(row: dict) -> list[dict]:
    """The row with each odd text as its question, as its expression, and as its options."""
    variants = []
    for i, text in enumerate(ODD_TEXTS):
        odd = {**row, "question": text}
        if isinstance(row.get("answer"), str):
            odd["answer"] = text
        choices = [ODD_TEXTS[(i + k) % len(ODD_TEXTS)] for k in range(5)]
        if "a0" in row:
            odd |= {f"a{k}": choice for k, choice in enumerate(choices)}
        if "options" in row:
            odd["options"] = choices[:3]
        variants.append(odd)
    return variants


ROWS = dict(zip(TASK_NAMES, (vqa_rows, signs_rows, rec_rows, video_rows), strict=True))


def make_rows(task: str, number: int, seed: int = 0) -> list[dict]:
    return ROWS[task](number, random.Random(f"{task}-{seed}"))


def make_answer(task: str, row: dict, draw: random.Random) -> str:
    """A right, near, wrong, odd or empty answer."""
    kind = draw.randrange(8)
    if kind == 0:
        return draw.choice(["", " ", "\n", "???", "the", "I do not know, B or A", "[0.1, 0.2]"])
    if task.endswith("video"):
        if kind < 4:
            return "ABCDE"[row["answer"]]
        return draw.choice(["A", "B", "C", "D", " E ", "b", "(A)", "A person", "D."])
    if not task.endswith("rec"):
        answers = [a["answer"] if isinstance(a, dict) else a for a in row["answers"]]
        return draw.choice(answers) if kind < 6 else draw.choice([*WORDS, "Red.", " TWO\n", "a red", "dogs"])
    box = [min(1.0, max(0.0, v + draw.choice([0, 0.02, -0.1]))) for v in row["bbox"]]
    text = "[" + ", ".join(f"{v:.2f}" for v in box) + "]"
    odd = [
        f"{text} or [0.10, 0.20, 0.30, 0.40]",
        text.replace("0.", "."),
        text.replace("0.", "1."),
        f"({text})",
    ]
    odd += [
        "[0.50, 0.50, 0.10, 0.10]",
        "[0.20, 0.20, 0.20, 0.20]",
        "[0.50, 0.00, 0.00, 0.50]",
        text.strip("[]"),
    ]
    return text if kind < 6 else draw.choice(odd)


def write_suite(folder: Path, rows: dict[str, list[dict]]) -> Path:
    """Copies tasks/ beside a `.eyechart` home that holds `rows`, so that the YAML finds its data.

    Returns:
        The copied tasks folder.
    """
    shutil.copytree(TASKS, folder / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for name, given in rows.items():
        task = read_task(name)
        table = schemas.as_table(given, schemas.SCHEMAS[task.dataset])
        write_parquet(dataset_path(folder, name), table)
    return folder / "tasks"


def dataset_path(folder: Path, name: str) -> Path:
    task = read_task(name)
    return folder / ".eyechart" / "data" / "mini" / task.dataset / f"{task.split}.parquet"
