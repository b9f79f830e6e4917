"""Small bundles of made-up runs, for the tests of the index and of what is made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from harness.bundle import count_scores, write_bundle
from harness.pairs import Pair
from harness.records import Answer, InputSpec, PretrainStage, Run, Score, Source, Submission

HEX = "0123456789abcdef" * 4


def submission(encoder: str = "vit", **changes: Any) -> Submission:
    floor = "blind" if encoder == "blind" else None
    made = Submission(
        id=encoder,
        title=encoder.title(),
        authors=(),
        links=(),
        license="Apache-2.0",
        contamination="none known",
        source=Source(kind="floor" if floor else "local", name=encoder, revision="local", files=()),
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=()
        if floor
        else (PretrainStage(objective="sigmoid-contrastive", data="world", images_seen=9),),
        floor=floor,
        identity_digest=HEX,
    )
    return dataclasses.replace(made, **changes)


def write(
    root: Path,
    encoder: str = "vit",
    seed: int = 0,
    *,
    values: Any = None,
    status: str = "scored",
    scorer: str = HEX,
    receipt: dict[str, Any] | None = None,
    n: int = 60,
    answer: str = "yes",
    **changes: Any,
) -> Path:
    """One bundle; `status` is that of its first sample."""
    rng = np.random.default_rng([seed, len(encoder)])
    values = (rng.random(n) < 0.6).astype(float) if values is None else values
    scores = [
        Score(sample_id=f"{i:03}", cluster=f"img-{i // 3}", score=float(v), status="scored")
        for i, v in enumerate(values)
    ]
    null = status in {"error", "missing"}
    if status != "scored":
        scores[0] = dataclasses.replace(scores[0], score=None if null else 0.0, status=status)  # type: ignore[arg-type]
    answers = [
        Answer(sample_id=s.sample_id, prompt_hash="ab" * 8, answer=answer, status="scored") for s in scores
    ]
    run = Run(
        submission=submission(encoder),
        protocol="mini",
        protocol_version=1,
        suite="mini",
        recipes={"feature": HEX},
        task="eyechart_mini_vqa",
        task_digest=HEX,
        dataset_digest=HEX,
        split="validation",
        metric="exact_match",
        chance=0.1,
        seed=seed,
        engine="hf",
        dtype="float32",
        llm_revision=HEX,
        counts=count_scores(scores),
    )
    run = dataclasses.replace(run, **changes)
    environment = {"stages_s": {"adapter": 10 + seed, "answers": 2.5}}
    return write_bundle(
        root, run, answers, receipt or {"frozen": True}, environment, scores=scores, scorer_digest=scorer
    )


PAIRS = (
    Pair(a="resnet", b="vit", held_equal=("images", "tokens"), differs=("objective",), note="measured"),
    Pair(a="resnet", b="absent", held_equal=("images",), differs=("objective",), note="one arm only"),
)


def write_board(root: Path) -> None:
    """Two encoders and a floor, three seeds each."""
    for encoder in ("vit", "resnet", "blind"):
        for seed in range(3):
            write(root, encoder, seed)
