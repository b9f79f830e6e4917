"""The stages of a run as functions of plain arguments, so that any executor can carry them out.

Each rests its result on disk under a hash of what made it, and finds it there the next time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.adapter.llm import LanguageModel, load_llm
from harness.adapter.lora import LowRank
from harness.adapter.mixture import Mixture, TokenSource
from harness.adapter.module import Adapter
from harness.adapter.train import TrainedAdapter, state_file, train_adapter
from harness.cache import ArrayCache
from harness.data import (
    ClipFrames,
    EncodedImages,
    check_dataset,
    open_images,
    open_split,
    read_note,
    read_rows,
)
from harness.device import SMALLER, memory_told
from harness.digest import digest_json
from harness.encoders import open_encoder
from harness.encoders.base import Encoder
from harness.errors import IntegrityError
from harness.features import FeatureSet, StreamedTokens, extract, target_grid, versions
from harness.home import Home
from harness.images import prepare
from harness.media import ReferencedImages
from harness.records import Protocol, Submission, Task

Progress = Callable[[int, int], None]
MIXTURE = "mixture"
CALIBRATION_IMAGES = 512
"""Training images that set a random network's batch-norm statistics."""
NOT_HALVED = f"{SMALLER}. A training batch is the protocol's and is never made smaller"
STREAM_SHARE = 0.25
"""A mixture whose features need more than this share of the memory is encoded while it is trained on."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An encoder under a protocol: what every stage is about."""

    submission: Submission
    root: Path
    """Folder of the manifest."""
    protocol: Protocol
    home: Home
    allow_code: bool = False
    """Run the network of a submission that brings its own code."""
    device: str = "cpu"
    """Where encoder and language model compute."""

    @property
    def data(self) -> Path:
        """The suite's datasets."""
        return self.home.data(self.protocol.suite)


def open_subject(subject: Subject) -> Encoder:
    """The frozen encoder; floors with random weights are calibrated on training images."""
    calibration = None
    if subject.submission.floor == "random-init":
        media, _ = mixture_media(subject)
        some = [media.load(i) for i in range(CALIBRATION_IMAGES)]
        shape = subject.submission.input
        calibration = prepare(some, subject.protocol.image, shape.mean, shape.std)
    protocol = subject.protocol
    with memory_told(f"opening {subject.submission.id}"):
        return open_encoder(
            subject.submission,
            subject.root,
            calibration,
            resolution=protocol.image.resolution,
            layer=protocol.tokens.layer,
            device=subject.device,
            allow_code=subject.allow_code,
        )


def mixture_media(subject: Subject) -> tuple[EncodedImages | ReferencedImages, ClipFrames]:
    """Images and clip frames of the training mixture, which may have no clips."""
    folder = subject.data / MIXTURE
    path = folder / "train.parquet"
    rows = read_rows(path)
    keys = [f"mixture-{row['image_id']}" for row in rows]
    clips = [str(row["video"]) for row in _clip_rows(folder)]
    return (
        open_images(keys, rows, folder, path),
        ClipFrames(clips, folder / "clips", subject.protocol.video.frames),
    )


def _clip_rows(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "clips.parquet") if has_clips(folder) else []


def has_clips(folder: Path) -> bool:
    """Whether a mixture has clips."""
    return "clips" in read_note(folder)["rows"]


def mixture_exchanges(subject: Subject) -> tuple[list[list[dict[str, str]]], list[list[dict[str, str]]]]:
    """What is said about each image and each clip of the mixture."""
    folder = subject.data / MIXTURE
    stills, clips = read_rows(folder / "train.parquet"), _clip_rows(folder)
    return [row["exchanges"] for row in stills], [row["exchanges"] for row in clips]


def streams_mixture(subject: Subject, encoder: Encoder) -> bool:
    """Whether the mixture's tokens are too many to be held; moves no number."""
    rows = int(read_note(subject.data / MIXTURE)["rows"]["train"])
    height, width = target_grid(encoder.grid, subject.protocol.tokens.budget)
    needed = rows * height * width * encoder.width * np.dtype(subject.protocol.tokens.dtype).itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return bool(needed > STREAM_SHARE * memory)


def media_sets(tasks: Sequence[Task], *, clips: bool = True) -> list[str]:
    """Names of everything that must be encoded, the largest first so that workers end together.

    Args:
        tasks: of the protocol.
        clips: whether the mixture has any.
    """
    probes = [f"{task.name}:{part}" for task in tasks if task.kind == "probe" for part in ("train", "test")]
    others = [f"{task.name}:test" for task in tasks if task.kind != "probe"]
    moving = ["mixture:clips"] if clips else []
    return ["mixture:stills", *probes, *moving, *others] if others else probes


def _open_media(subject: Subject, tasks: dict[str, Task], name: str) -> tuple[Any, str, int]:
    """Media, dataset digest and token budget of one set."""
    owner, part = name.split(":")
    protocol = subject.protocol
    if owner == MIXTURE:
        digest = check_dataset(subject.data / MIXTURE, protocol.adapter.mixture_digest)
        stills, clips = mixture_media(subject)
        is_clips = part == "clips"
        return (clips if is_clips else stills), digest, _budget(protocol, is_clips=is_clips)
    task = tasks[owner]
    split = open_split(task, subject.data, protocol.video.frames, "train" if part == "train" else None)
    if task.kind == "probe":
        # It reads pooled vectors only; ImageNet's tokens would need hundreds of gigabytes.
        return split.media, split.digest, 1
    return split.media, split.digest, _budget(protocol, is_clips=isinstance(split.media, ClipFrames))


def _budget(protocol: Protocol, *, is_clips: bool) -> int:
    return protocol.video.tokens_per_frame if is_clips else protocol.tokens.budget


def extract_job(
    *, subject: Subject, tasks: dict[str, Task], name: str, encoder: Encoder | None = None, progress: Progress
) -> dict[str, Any]:
    """Encode one set of media into the cache; proves that the weights did not move meanwhile.

    Raises:
        IntegrityError: the encoder's weights changed.
    """
    began = time.monotonic()
    encoder = encoder or open_subject(subject)
    before = encoder.weight_digest()
    facts = _encode_set(subject, tasks, name, encoder, progress)
    after = encoder.weight_digest()
    if before != after:
        raise IntegrityError(
            "encoder weights changed during extraction",
            where=subject.submission.id,
            found=after[:16],
            expected=before[:16],
        )
    return {
        "name": name,
        **facts,
        "weights_before": before,
        "weights_after": after,
        "num_params": encoder.num_params,
        "seconds": time.monotonic() - began,
    }


def _encode_set(
    subject: Subject, tasks: dict[str, Task], name: str, encoder: Encoder, progress: Progress
) -> dict[str, Any]:
    """Features into the cache, except a mixture that is encoded while it is trained on."""
    if name == "mixture:stills" and streams_mixture(subject, encoder):
        budget = subject.protocol.tokens.budget
        grid = target_grid(encoder.grid, budget)
        return {"images": 0, "grid": list(grid), "under_budget": grid[0] * grid[1] < budget}
    features = load_features(subject, tasks, name, encoder, progress)
    return {
        "images": len(features.keys),
        "grid": list(features.grid),
        "under_budget": features.under_budget,
    }


def load_features(
    subject: Subject, tasks: dict[str, Task], name: str, encoder: Encoder, progress: Progress | None = None
) -> FeatureSet:
    """Features of one set, from the cache where they are there."""
    media, digest, budget = _open_media(subject, tasks, name)
    cache = ArrayCache(subject.home.features)
    return extract(
        encoder,
        media,
        subject.protocol,
        cache,
        dataset_digest=digest,
        budget=budget,
        progress=progress,
        device=subject.device,
    )


def adapter_key(subject: Subject, encoder: Encoder, seed: int) -> str:
    """Hash of everything that makes an adapter. A shuffled-image floor shares its base's."""
    protocol = subject.protocol
    # A graphics card rounds otherwise; keys of the record, all made on CPUs, stay as they were.
    place = {} if subject.device == "cpu" else {"device": subject.device}
    return digest_json(
        {
            **place,
            "encoder": encoder.description(),
            "weights": encoder.weight_digest(),
            "mean": encoder.mean,
            "std": encoder.std,
            "recipe": protocol.recipe_digests["adapter"],
            "mixture": check_dataset(subject.data / MIXTURE, protocol.adapter.mixture_digest),
            "seed": seed,
            "side": encoder.side,
            "versions": versions(),
        }
    )


def _load_mixture(subject: Subject, tasks: dict[str, Task], encoder: Encoder) -> Mixture:
    exchanges, clip_exchanges = mixture_exchanges(subject)
    frames, budget = subject.protocol.video.frames, subject.protocol.tokens.budget
    stills: TokenSource
    if streams_mixture(subject, encoder):
        stills = StreamedTokens(encoder, mixture_media(subject)[0], subject.protocol, budget)
    else:
        stills = load_features(subject, tasks, "mixture:stills", encoder)
    if not clip_exchanges:
        return Mixture(stills, exchanges, np.zeros((0, frames, 1, encoder.width), np.float16), [])
    tokens = load_features(subject, tasks, "mixture:clips", encoder).tokens
    return Mixture(stills, exchanges, tokens.reshape(-1, frames, *tokens.shape[1:]), clip_exchanges)


def adapter_job(
    *,
    subject: Subject,
    tasks: dict[str, Task],
    seed: int,
    encoder: Encoder | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Train the adapter of one seed, unless it is in the cache."""
    began = time.monotonic()
    encoder = encoder or open_subject(subject)
    key, cache, recipe = (
        adapter_key(subject, encoder, seed),
        ArrayCache(subject.home.adapters),
        subject.protocol.adapter,
    )
    found = cache.has(key)
    if not found:
        state = subject.home.unfinished / f"{key}.safetensors"
        with memory_told(f"training of seed {seed}", NOT_HALVED):
            trained = train_adapter(
                load_llm(subject.protocol.llm, llms=subject.home.llms, device=subject.device),
                _load_mixture(subject, tasks, encoder),
                recipe,
                subject.protocol.llm.lr,
                seed,
                state=state,
                num_frames=subject.protocol.video.frames,
                progress=progress,
            )
        cache.write(key, _arrays(trained, subject.protocol), {"encoder": subject.submission.id, "seed": seed})
        for stage in range(1 + len(recipe.stages)):
            state_file(state, stage).unlink(missing_ok=True)
    progress(recipe.total_steps, recipe.total_steps)
    losses = cache.read(key)["losses"].tolist()
    return {
        "seed": seed,
        "key": key,
        "losses": losses,
        "found": found,
        "encoder_weights": encoder.weight_digest(),
        "seconds": time.monotonic() - began,
    }


def _arrays(trained: TrainedAdapter, protocol: Protocol) -> dict[str, Any]:
    """What the cache keeps: the adapter, and of the LLM only what was trained."""
    arrays = {f"adapter.{k}": v.cpu().numpy() for k, v in trained.adapter.state_dict().items()}
    if protocol.llm.training == "full":
        arrays |= {f"llm.{k}": v.cpu().numpy() for k, v in trained.llm.model.state_dict().items()}
    for stage, updates in enumerate(trained.updates, 1):
        arrays |= {f"lora.{stage}.{i}": tensor.numpy() for i, tensor in enumerate(updates)}
    return {**arrays, "losses": np.array(trained.losses)}


def load_adapter(
    subject: Subject, encoder: Encoder, seed: int, key: str = ""
) -> tuple[Adapter, LanguageModel]:
    """The trained adapter and language model of a seed, from the cache; low-rank updates are merged.

    `key` is that of the cache where it was trained on another device than the subject's.
    """
    import torch

    protocol = subject.protocol
    arrays = ArrayCache(subject.home.adapters).read(key or adapter_key(subject, encoder, seed))
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    state = {k[8:]: v for k, v in tensors.items() if k.startswith("adapter.")}
    llm = load_llm(protocol.llm, llms=subject.home.llms, device=subject.device)
    num_tokens, num_frames = len(state["position"]), len(state["frame_position"])
    adapter = Adapter(encoder.width, num_tokens, num_frames, protocol.adapter, llm)
    adapter.load_state_dict(state)
    if trained := {k[4:]: v for k, v in tensors.items() if k.startswith("llm.")}:
        llm.model.load_state_dict(trained)
    for number, stage in enumerate(protocol.adapter.stages, 1):
        low_rank = LowRank(llm, stage.lora_rank, stage.lora_alpha, seed, number)
        with torch.no_grad():
            for i, parameter in enumerate(low_rank.updates):
                parameter.copy_(tensors[f"lora.{number}.{i}"])
        low_rank.merge()
    llm.model.to(getattr(torch, protocol.decoding.dtype))
    return adapter.eval().to(subject.device), llm
