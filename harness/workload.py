"""What a run asks of this machine: its work, counted from the data that is here, and what will do it."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness import prompts
from harness.adapter.llm import LanguageModel
from harness.adapter.mixture import choose
from harness.data import read_note
from harness.device import CPU
from harness.encoders.base import Encoder
from harness.encoders.cost import count_gmacs
from harness.errors import DatasetError
from harness.features import target_grid
from harness.forecast import (
    Device,
    Forecast,
    LLMShape,
    Workload,
    cpu_device,
    forecast,
    gpu_device,
    read_shape,
    samples_asked,
    trained_weights,
)
from harness.llm_files import locate_llm
from harness.records import Protocol, Task
from harness.stages import MIXTURE, Subject, streams_mixture

SAMPLED_ROWS = 256
"""Of the mixture, whose texts are counted in tokens."""
POOLED_BYTES = 4
STATES_A_SEED = 4
"""Copies on disk of what is trained: the result, and an unfinished training's weights and two moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderFacts:
    """What a forecast needs to know of an encoder under a protocol."""

    grid: tuple[int, int]
    width: int
    gmacs: float
    """Of one image."""
    num_params: int


def predict(subject: Subject, tasks: Mapping[str, Task], encoder: Encoder) -> tuple[Workload, Forecast]:
    """Count the work of a run, with all its seeds, and predict what it takes.

    Args:
        subject: its data and its language model are here.
        tasks: of the protocol.
        encoder: opened for the protocol.

    Raises:
        DatasetError: a split is unreadable.
        UsageError, IntegrityError: the language model is not here, or its shape is unreadable.
    """
    llm = locate_llm(subject.protocol.llm.name, subject.home.llms)
    asks = any(task.kind != "probe" for task in tasks.values())
    facts = EncoderFacts(
        grid=encoder.grid, width=encoder.width, gmacs=count_gmacs(encoder), num_params=encoder.num_params
    )
    kept, streams = kept_images(subject, tasks, encoder), asks and streams_mixture(subject, encoder)
    load = count_work(subject.protocol, tasks, kept, facts, streams=streams)
    if asks:
        opening, texts = _row_texts(subject, llm)
        load = replace(load, opening_tokens=opening, row_tokens=texts)
    shape = read_shape(llm)
    disk = disk_bytes(subject.protocol, tasks, kept, facts, shape)
    return load, forecast(subject.protocol, shape, load, disk)


def count_work(
    protocol: Protocol,
    tasks: Mapping[str, Task],
    kept: Mapping[str, int],
    facts: EncoderFacts,
    *,
    streams: bool,
) -> Workload:
    """The work of a run from counts of images.

    Args:
        protocol: budget, steps, seeds.
        tasks: of the protocol.
        kept: see `kept_images`.
        facts: of the encoder.
        streams: whether the mixture is encoded while it is trained on, for each seed anew.
    """
    recipe, frames = protocol.adapter, protocol.video.frames
    height, width = target_grid(facts.grid, protocol.tokens.budget)
    drawn = recipe.steps * recipe.batch + sum(s.steps * s.batch for s in recipe.stages)
    passes = len(protocol.seeds) * (drawn + recipe.standardise_images)
    # A clip is asked with the tokens of all its frames.
    clip = -(-frames * protocol.video.tokens_per_frame // (height * width))
    asked = {name: task for name, task in tasks.items() if task.kind != "probe"}
    return Workload(
        images=sum(kept.values()),
        streamed_images=passes if streams else 0,
        gmacs=facts.gmacs,
        width=facts.width,
        tokens=height * width,
        questions=samples_asked(dict(tasks)),
        asked_images=sum(kept[n] // frames * clip if _has_clips(t) else kept[n] for n, t in asked.items()),
        encoder_params=facts.num_params,
    )


def kept_images(subject: Subject, tasks: Mapping[str, Task], encoder: Encoder) -> dict[str, int]:
    """Images and frames whose features are kept, by the name of their set (see `stages.media_sets`)."""
    frames, found = subject.protocol.video.frames, {}
    for name, task in tasks.items():
        if task.kind == "probe":
            rows = read_note(subject.data / task.dataset)["rows"]
            found[name] = int(rows["train"]) + int(rows[task.split])
        else:
            found[name] = _unique(subject, task) * (frames if _has_clips(task) else 1)
    if any(task.kind != "probe" for task in tasks.values()):
        rows = read_note(subject.data / MIXTURE)["rows"]
        found["mixture:clips"] = int(rows.get("clips", 0)) * frames
        if not streams_mixture(subject, encoder):
            found["mixture:stills"] = int(rows["train"])
    return found


def _has_clips(task: Task) -> bool:
    return task.kind == "choice"


def _unique(subject: Subject, task: Task) -> int:
    """Images or clips of a task's split: questions share them."""
    path = subject.data / task.dataset / f"{task.split}.parquet"
    try:
        values = pq.read_table(path, columns=[task.cluster_key])[task.cluster_key].to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DatasetError("split cannot be read", where=str(path), found=task.cluster_key) from error
    return len({prompts.cluster(task, {task.cluster_key: value}) for value in values})


def _row_texts(subject: Subject, folder: Path) -> tuple[int, float]:
    """Tokens before an image, and of what a training row says after it, by the mixture's first rows."""
    from transformers import PreTrainedTokenizerFast

    llm = LanguageModel(None, PreTrainedTokenizerFast.from_pretrained(folder))
    path = subject.data / MIXTURE / "train.parquet"
    try:
        batches = pq.ParquetFile(path).iter_batches(SAMPLED_ROWS, columns=["exchanges"])
        rows = next(batches)["exchanges"].to_pylist()
    except (OSError, KeyError, StopIteration, pa.ArrowException) as error:
        raise DatasetError("split cannot be read", where=str(path), found="exchanges") from error
    rng, tokens = random.Random(0), 0
    for row in rows:
        for said in choose(row, subject.protocol.adapter.questions_per_image, rng):
            tokens += len(llm.encode_prompt(said["prompt"]).tail) + len(llm.encode(said["answer"]))
    return len(llm.encode_prompt("").prefix), tokens / len(rows)


def disk_bytes(
    protocol: Protocol,
    tasks: Mapping[str, Task],
    kept: Mapping[str, int],
    facts: EncoderFacts,
    shape: LLMShape,
) -> int:
    """Bytes of features and adapters of all seeds; see `count_work` for the arguments."""
    number = np.dtype(protocol.tokens.dtype).itemsize
    total, only_probes = 0, True
    for name, images in kept.items():
        budget, task = protocol.tokens.budget, tasks.get(name)
        if task is not None and task.kind == "probe":
            budget = 1
        else:
            only_probes = False
            if name == "mixture:clips" or (task is not None and _has_clips(task)):
                budget = protocol.video.tokens_per_frame
        height, width = target_grid(facts.grid, budget)
        total += images * facts.width * (height * width * number + POOLED_BYTES)
    trained = 0 if only_probes else 4 * trained_weights(protocol, shape, facts.width)
    return total + len(protocol.seeds) * STATES_A_SEED * trained


def device_here(kind: str, workers: int | None = None) -> Device:
    """What computes on this machine, with the memory that may still be taken.

    Args:
        kind: "cpu" or "cuda".
        workers: processes; None for one a core, at most four, as a run takes them.
    """
    if kind == CPU:
        return cpu_device(workers or min(4, len(os.sched_getaffinity(0))), free_memory())
    import torch

    free, _ = torch.cuda.mem_get_info(kind)
    gpu = gpu_device(torch.cuda.get_device_name(kind), int(free))
    return replace(gpu, workers=1)


def free_memory() -> int:
    """Bytes that this process may still take: what the system calls available, within its own limits."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    known = Path("/proc/meminfo")
    if known.is_file():
        lines = dict(line.split(":", 1) for line in known.read_text("ascii").splitlines())
        limits.append(int(lines.get("MemAvailable", lines["MemTotal"]).split()[0]) * 1024)
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        limits.append(int(text) - int(used.read_text()))
    return max(0, min(limits))
