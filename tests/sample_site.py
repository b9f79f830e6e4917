"""A small index with flips, and a task pack beside it, for the tests of the pages that show samples."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from harness.bundle import count_scores, write_bundle
from harness.datasets.packs import PACK_SCHEMA
from harness.files import write_parquet
from harness.pairs import read_pairs
from harness.records import Answer, Run, Score
from harness.store import ingest
from tests.index_bundles import HEX, submission

VQA, REC, VIDEO = "eyechart_mini_vqa", "eyechart_mini_rec", "eyechart_mini_video"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`$(id)"
EVIL = "evil--x-"
"""An encoder whose id, though a plain slug, could be read as the names of two."""
NUM = 260
SEEDS = 2
BOX_A, BOX_B, TRUE_BOX = "[0.10, 0.20, 0.50, 0.60]", "[0.25, 0.25, 0.75, 1.00]", "[0.00, 0.25, 0.50, 0.75]"
OBJECTIVES = {"net-a": "label-classification", "net-b": "sigmoid-contrastive", EVIL: "sigmoid-contrastive"}
PAIRS = f"""
[[pair]]
a = "net-a"
b = "net-b"
held_equal = ["resolution", "images"]
differs = ["objective"]
note = "A <b>note</b>."

[[pair]]
a = "net-a"
b = {EVIL!r}
held_equal = ["objective"]
differs = ["information"]
note = "Says the objective is equal."
"""


def write_site_inputs(home: Path, license_: str = "CC-BY-4.0", *, pack: bool = True) -> Path:
    """Index, pairs and pack below `home`; returns the index."""
    for number, (encoder, objective) in enumerate(OBJECTIVES.items()):
        for task in (VQA, REC, VIDEO):
            for seed in range(SEEDS):
                if (encoder, task) != (EVIL, VIDEO):
                    _bundle(home / "results", encoder, objective, task, seed, number)
    (home / "pairs.toml").write_text(PAIRS)
    db = home / "db.duckdb"
    ingest(db, home / "results", pairs=read_pairs(home / "pairs.toml"))
    if pack:
        write_pack(home / "data" / "mini" / "made" / "packs" / f"{HEX}.parquet", license_)
    return db


def _bundle(root: Path, encoder: str, objective: str, task: str, seed: int, number: int) -> None:
    rng = np.random.default_rng([seed, number, len(task)])
    share = (0.75, 0.4, 0.5)[number]
    scores = [
        Score(sample_id=f"{i:03}", cluster=f"c{i // 2}", score=float(rng.random() < share), status="scored")
        for i in range(NUM)
    ]
    said = {VQA: HOSTILE, REC: (BOX_A, BOX_B, "no box")[number], VIDEO: "B"}[task]
    answers = [
        Answer(sample_id=s.sample_id, prompt_hash="ab" * 8, answer=said, status="scored") for s in scores
    ]
    stages = submission().pretraining
    subject = submission(
        encoder,
        pretraining=(dataclasses.replace(stages[0], objective=objective),),
        title=f"{encoder} {HOSTILE}",
    )
    run = Run(
        submission=subject,
        protocol="mini",
        protocol_version=1,
        suite="mini",
        recipes={"feature": HEX},
        task=task,
        task_digest=HEX,
        dataset_digest=HEX,
        split="test",
        metric="exact_match",
        chance=0.2 if task == VIDEO else 0.0,
        seed=seed,
        engine="hf",
        dtype="float32",
        llm_revision=HEX,
        counts=count_scores(scores),
    )
    write_bundle(root, run, answers, {"num_params": 7}, {}, scores=scores, scorer_digest=HEX)


def png(number: int, width: int = 16, height: int = 16) -> bytes:
    """A picture of one colour."""
    target = io.BytesIO()
    Image.new("RGB", (width, height), (number % 256, 90, 200)).save(target, "PNG")
    return target.getvalue()


def write_pack(path: Path, license_: str, **changes: Any) -> None:
    """One pack for all three tasks."""
    rows = []
    for task in (VQA, REC, VIDEO):
        for i in range(NUM):
            wide = task == VIDEO
            row = {
                "sample_id": f"{i:03}",
                "task": task,
                "question": f"Secret {HOSTILE} {i}?",
                "references": {VQA: ["red", "red", HOSTILE], REC: [TRUE_BOX], VIDEO: ["A"]}[task],
                "cluster": f"c{i // 2}",
                "license": license_,
                "media": f"images/{i}.png",
                "thumbnail": png(i, 64 if wide else 16),
            }
            rows.append(row | changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(path, pa.Table.from_pylist(rows, PACK_SCHEMA))
