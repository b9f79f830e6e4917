"""Bundles of made-up encoders with given scores, for tests of what stands on bundles."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.bundle import count_scores, write_bundle
from harness.records import Answer, InputSpec, PretrainStage, Run, Score, Source, Submission
from harness.submission import identity_digest

HEX = "0123456789abcdef" * 4
TASK = "eyechart_mini_vqa"


def submission(encoder: str, objective: str = "sigmoid-contrastive", **changes: Any) -> Submission:
    made = Submission(
        id=encoder,
        title=encoder.title(),
        authors=(),
        links=(),
        license="Apache-2.0",
        contamination="none known",
        source=Source(kind="local", name=encoder, revision="local", files=()),
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=(PretrainStage(objective=objective, data="world", images_seen=9),),  # type: ignore[arg-type]
    )
    made = dataclasses.replace(made, **changes)
    return dataclasses.replace(made, identity_digest=identity_digest(made))


def draw(
    seed: int, level: float = 0.7, seeds: int = 3, samples: int = 600, seed_sd: float = 0.0
) -> NDArray[Any]:
    """(seeds, samples) of 0/1 scores, harder and easier samples common to all draws."""
    hardness = np.random.default_rng(7).normal(0, 0.2, samples)
    rng = np.random.default_rng(seed)
    shares = np.clip(level + hardness + rng.normal(0, seed_sd, (seeds, 1)), 0, 1)
    return (rng.random((seeds, samples)) < shares).astype(float)


def write_runs(
    root: Path,
    encoder: str,
    scores: NDArray[Any],
    task: str = TASK,
    *,
    first_seed: int = 0,
    status: str = "scored",
    prompt: str = "ab" * 8,
    scorer: str = HEX,
    cluster_size: int = 3,
    of: Submission | None = None,
    said_by_it: Sequence[str] = ("yes",),
    receipt: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    **changes: Any,
) -> list[Path]:
    """One bundle a row of `scores`; `status` is of each first sample, `said_by_it` the answers in turn."""
    paths = []
    for number, row in enumerate(scores):
        rows = [
            Score(sample_id=f"{i:06}", cluster=f"img-{i // cluster_size}", score=float(v), status="scored")
            for i, v in enumerate(row)
        ]
        if status != "scored":
            null = None if status in {"error", "missing"} else 0.0
            rows[0] = dataclasses.replace(rows[0], score=null, status=status)  # type: ignore[arg-type]
        said = status if status in {"error", "missing"} else "scored"
        answers = [
            Answer(sample_id=s.sample_id, prompt_hash=prompt, answer=text, status="scored")
            for s, text in zip(rows, itertools.cycle(said_by_it))
        ]
        answers[0] = dataclasses.replace(answers[0], status=said)  # type: ignore[arg-type]
        run = Run(
            submission=of or submission(encoder),
            protocol="mini",
            protocol_version=1,
            suite="mini",
            recipes={"adapter": HEX, "feature": HEX},
            task=task,
            task_digest=HEX,
            dataset_digest=HEX,
            split="validation",
            metric="exact_match",
            chance=0.1,
            seed=first_seed + number,
            engine="hf",
            dtype="float32",
            llm_revision=HEX,
            counts=count_scores(rows),
        )
        run = dataclasses.replace(run, **changes)
        proof = {"frozen": True} if receipt is None else dict(receipt)
        written = write_bundle(
            root, run, answers, proof, dict(environment or {}), scores=rows, scorer_digest=scorer
        )
        paths.append(written)
    return paths
