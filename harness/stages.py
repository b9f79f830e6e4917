"""The stages of a run as functions of plain arguments, so that any executor can carry them out.

Each rests its result on disk under a hash of what made it, and finds it there the next time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.adapter.llm import LanguageModel, load_llm
from harness.adapter.mixture import Mixture
from harness.adapter.module import Adapter
from harness.adapter.train import train_adapter
from harness.cache import ArrayCache
from harness.data import ClipFrames, EncodedImages, check_dataset, open_split, read_rows
from harness.digest import digest_json
from harness.encoders import open_encoder
from harness.encoders.base import Encoder
from harness.errors import IntegrityError
from harness.features import FeatureSet, extract, versions
from harness.home import Home
from harness.images import prepare
from harness.records import Protocol, Submission, Task

Progress = Callable[[int, int], None]
MIXTURE = "mixture"
CALIBRATION_IMAGES = 512
"""Training images that set a random network's batch-norm statistics."""


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
    return open_encoder(
        subject.submission,
        subject.root,
        calibration,
        resolution=protocol.image.resolution,
        layer=protocol.tokens.layer,
        allow_code=subject.allow_code,
    )


def mixture_media(subject: Subject) -> tuple[EncodedImages, ClipFrames]:
    """Images and clip frames of the training mixture."""
    folder = subject.data / MIXTURE
    rows = read_rows(folder / "train.parquet")
    keys = [f"mixture-{row['image_id']}" for row in rows]
    stills = EncodedImages(
        keys, [row["image"]["bytes"] or b"" for row in rows], str(folder / "train.parquet")
    )
    clips = [str(row["video"]) for row in read_rows(folder / "clips.parquet")]
    return stills, ClipFrames(clips, folder / "clips", subject.protocol.video.frames)


def mixture_exchanges(subject: Subject) -> tuple[list[list[dict[str, str]]], list[list[dict[str, str]]]]:
    """What is said about each image and each clip of the mixture."""
    folder = subject.data / MIXTURE
    stills, clips = (read_rows(folder / f"{name}.parquet") for name in ("train", "clips"))
    return [row["exchanges"] for row in stills], [row["exchanges"] for row in clips]


def media_sets(tasks: Sequence[Task]) -> list[str]:
    """Names of everything that must be encoded, the largest first so that workers end together."""
    probes = [f"{task.name}:{part}" for task in tasks if task.kind == "probe" for part in ("train", "test")]
    others = [f"{task.name}:test" for task in tasks if task.kind != "probe"]
    return ["mixture:stills", *probes, "mixture:clips", *others] if others else probes


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
    features = load_features(subject, tasks, name, encoder, progress)
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
        "images": len(features.keys),
        "weights_before": before,
        "weights_after": after,
        "grid": list(features.grid),
        "under_budget": features.under_budget,
        "num_params": encoder.num_params,
        "seconds": time.monotonic() - began,
    }


def load_features(
    subject: Subject, tasks: dict[str, Task], name: str, encoder: Encoder, progress: Progress | None = None
) -> FeatureSet:
    """Features of one set, from the cache where they are there."""
    media, digest, budget = _open_media(subject, tasks, name)
    cache = ArrayCache(subject.home.features)
    return extract(
        encoder, media, subject.protocol, cache, dataset_digest=digest, budget=budget, progress=progress
    )


def adapter_key(subject: Subject, encoder: Encoder, seed: int) -> str:
    """Hash of everything that makes an adapter. A shuffled-image floor shares its base's."""
    protocol = subject.protocol
    return digest_json(
        {
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
    stills = load_features(subject, tasks, "mixture:stills", encoder)
    clips = load_features(subject, tasks, "mixture:clips", encoder)
    exchanges, clip_exchanges = mixture_exchanges(subject)
    frames = subject.protocol.video.frames
    return Mixture(
        stills, exchanges, clips.tokens.reshape(-1, frames, *clips.tokens.shape[1:]), clip_exchanges
    )


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
        trained = train_adapter(
            load_llm(subject.protocol.llm),
            _load_mixture(subject, tasks, encoder),
            recipe,
            subject.protocol.llm.lr,
            seed,
            state=state,
            progress=progress,
        )
        arrays = {f"adapter.{k}": v.numpy() for k, v in trained.adapter.state_dict().items()}
        if subject.protocol.llm.training != "frozen":
            arrays |= {f"llm.{k}": v.numpy() for k, v in trained.llm.model.state_dict().items()}
        arrays["losses"] = np.array(trained.losses)
        cache.write(key, arrays, {"encoder": subject.submission.id, "seed": seed})
        state.unlink(missing_ok=True)
    progress(recipe.steps, recipe.steps)
    losses = cache.read(key)["losses"].tolist()
    return {
        "seed": seed,
        "key": key,
        "losses": losses,
        "found": found,
        "encoder_weights": encoder.weight_digest(),
        "seconds": time.monotonic() - began,
    }


def load_adapter(subject: Subject, encoder: Encoder, seed: int) -> tuple[Adapter, LanguageModel]:
    """The trained adapter and language model of a seed, from the cache."""
    import torch

    arrays = ArrayCache(subject.home.adapters).read(adapter_key(subject, encoder, seed))
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    state = {k[8:]: v for k, v in tensors.items() if k.startswith("adapter.")}
    llm = load_llm(subject.protocol.llm)
    num_tokens, num_frames = len(state["position"]), len(state["frame_position"])
    adapter = Adapter(encoder.width, num_tokens, num_frames, subject.protocol.adapter, llm)
    adapter.load_state_dict(state)
    if trained := {k[4:]: v for k, v in tensors.items() if k.startswith("llm.")}:
        llm.model.load_state_dict(trained)
    return adapter.eval(), llm
