"""The last stages of a unit: probe predictions and, per seed, the answers to every task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from harness.adapter.module import Adapter
from harness.answer_parts import AnswerParts
from harness.data import ClipFrames, Split, open_split
from harness.digest import digest_bytes, digest_json
from harness.encoders.base import Encoder
from harness.engines.base import IMAGE_CHUNK, Engine, Request
from harness.engines.choose import REFERENCE, open_engine
from harness.errors import DatasetError, IntegrityError
from harness.features import FeatureSet
from harness.files import read_parquet, write_parquet
from harness.probe import cross_fit, fit_path
from harness.records import Answer, Protocol, Sample, Task
from harness.sample_tables import ANSWER_SCHEMA, table_of_answers
from harness.seeds import numpy_generator
from harness.stages import Subject, adapter_job, load_adapter, load_features, open_subject

Progress = Callable[[int, int], None]
ANSWERS_VERSION = 1
PART_IMAGES = 2 * IMAGE_CHUNK
"""Images whose answers are saved together: what a death of the process or of its engine can cost."""
ANSWERS_A_STEP = 150
"""Answers that take about as long as a training step (docs/performance.md); only the ETA depends on it."""


def shuffled_rows(count: int, task: str, seed: int) -> NDArray[np.int64]:
    """A permutation without fixed points: row i gets another row's image.

    Raises:
        DatasetError: a single row, for which there is no other.
    """
    if count < 2:
        raise DatasetError("too few images to shuffle", where=task, found=str(count), expected="at least 2")
    order = numpy_generator("shuffled-image", task, seed).permutation(count)
    moved = np.empty(count, np.int64)
    moved[order] = np.roll(order, 1)
    return moved


def answers_key(subject: Subject, task: Task, split: Split, made_by: str, seed: int, engine: str) -> str:
    """Hash of everything that makes a task's answers."""
    return digest_json(
        {
            "version": ANSWERS_VERSION,
            "made_by": made_by,
            "floor": subject.submission.floor,
            "task": task.digest,
            "dataset": split.digest,
            "decoding": subject.protocol.recipe_digests["decoding"],
            "video": subject.protocol.video,
            "seed": seed,
            "engine": engine,
        }
    )


def answer_with(
    engine: Engine,
    adapter: Adapter,
    features: FeatureSet,
    task: Task,
    split: Split,
    protocol: Protocol,
    order: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
    parts: AnswerParts | None = None,
) -> list[Answer]:
    """Answers to every sample of a task, in the order of the split.

    Args:
        engine: with the LLM of the same seed.
        adapter: of the same seed.
        features: of the split's media; frames of a clip one after another.
        task: how long an answer may be.
        split: samples.
        protocol: frames a clip.
        order: (I,) which image each image is replaced with, for the shuffled floor.
        progress: called with (answers done, answers in all).
        parts: where finished answers are kept meanwhile, and found again.
    """
    import torch

    is_clip = isinstance(split.media, ClipFrames)
    tokens = np.asarray(features.tokens)
    if is_clip:
        tokens = tokens.reshape(-1, protocol.video.frames, *tokens.shape[1:])
    firsts = features.keys[:: protocol.video.frames] if is_clip else features.keys
    place = {key: i for i, key in enumerate(firsts)}
    order = np.arange(len(tokens)) if order is None else order

    def visual(rows: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            some = torch.from_numpy(tokens[order[list(rows)]]).float()
            shown: torch.Tensor = adapter(some.to(adapter.position.device))
            return shown

    limit = task.max_new_tokens or protocol.decoding.max_new_tokens
    media = [place[sample.media[0]] for sample in split.samples]
    asked = [Request(row, s.prompt, s.options, limit) for row, s in zip(media, split.samples, strict=True)]
    said: dict[int, Answer] = {}
    for here in _parts_of(media):
        samples = [split.samples[i] for i in here]
        answers = parts.read(samples) if parts else None
        if answers is None:

            def report(done: int, _: int, base: int = len(said)) -> None:
                if progress:
                    progress(base + done, len(media))

            texts = engine.answer([asked[i] for i in here], visual, report)
            answers = [_said(sample, text) for sample, text in zip(samples, texts, strict=True)]
            if parts:
                parts.write(samples, answers)
        said |= dict(zip(here, answers, strict=True))
    return [said[i] for i in range(len(media))]


def _parts_of(media: Sequence[int]) -> Iterator[list[int]]:
    """Places of the samples that are answered and saved together: those of `PART_IMAGES` images."""
    images = sorted(set(media))
    for start in range(0, len(images), PART_IMAGES):
        chunk = set(images[start : start + PART_IMAGES])
        yield [i for i, row in enumerate(media) if row in chunk]


def _said(sample: Sample, text: str) -> Answer:
    return Answer(
        sample_id=sample.sample_id,
        prompt_hash=digest_bytes(sample.prompt.encode())[:16],
        answer=text,
        status="scored",
    )


def answers_file(subject: Subject, key: str) -> Path:
    """Where answers rest."""
    return subject.home.answers / f"{key}.parquet"


def seed_steps(protocol: Protocol, tasks: dict[str, Task]) -> int:
    """What a seed's progress counts up to: training steps, and answers in their worth of steps."""
    asked = [task.num_expected for task in tasks.values() if task.kind != "probe"]
    return protocol.adapter.total_steps + sum(number // ANSWERS_A_STEP for number in asked)


def seed_job(
    *,
    subject: Subject,
    tasks: dict[str, Task],
    seed: int,
    batch: int,
    engine: str = REFERENCE,
    progress: Progress,
) -> dict[str, Any]:
    """Train the adapter of one seed, then answer every task with it; finished parts are found again.

    Raises:
        ResourceError, IncompleteError: the engine died; what it had answered is kept.
    """
    asked = [task for task in tasks.values() if task.kind != "probe"]
    steps = subject.protocol.adapter.total_steps
    total = seed_steps(subject.protocol, tasks)

    def train_progress(done: int, _: int) -> None:
        progress(done, total)

    # One and the same encoder for training and answers: its digest at the end speaks for both.
    encoder = open_subject(subject)
    trained = adapter_job(subject=subject, tasks=tasks, seed=seed, encoder=encoder, progress=train_progress)
    files, seconds, done = {}, {}, steps
    with _Answerer(subject, tasks, encoder, seed, engine, batch) as answerer:
        for task in asked:
            began = time.monotonic()
            split = open_split(task, subject.data, subject.protocol.video.frames)
            key = answers_key(subject, task, split, trained["key"], seed, engine)
            path = answers_file(subject, key)
            if not path.is_file():
                base = done

                def report(answered: int, _: int, base: int = base) -> None:
                    progress(base + answered // ANSWERS_A_STEP, total)

                parts = AnswerParts(subject.home.unfinished / f"answers-{key}")
                write_parquet(path, table_of_answers(answerer.answer(task, split, parts, report)))
                parts.clear()
            done += task.num_expected // ANSWERS_A_STEP
            progress(done, total)
            files[task.name], seconds[task.name] = str(path), time.monotonic() - began
    weights = encoder.weight_digest()
    return {**trained, "encoder_weights": weights, "answers": files, "answer_s": seconds}


class _Answerer:
    """The adapter and the engine of one seed, opened at the first task that is not answered yet."""

    def __init__(
        self,
        subject: Subject,
        tasks: dict[str, Task],
        encoder: Encoder,
        seed: int,
        engine: str,
        batch: int,
    ) -> None:
        self._subject, self._tasks, self._encoder = subject, tasks, encoder
        self._seed, self._engine_name, self._batch = seed, engine, batch
        self._opened: tuple[Engine, Adapter] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            self._opened[0].close()

    def answer(self, task: Task, split: Split, parts: AnswerParts, report: Progress) -> list[Answer]:
        """Answers to every sample of a task, the images shuffled where the encoder is that floor."""
        subject = self._subject
        if self._opened is None:
            adapter, llm = load_adapter(subject, self._encoder, self._seed)
            self._opened = open_engine(self._engine_name, llm, self._batch), adapter
        engine, adapter = self._opened
        features = load_features(subject, self._tasks, f"{task.name}:test", self._encoder)
        order = None
        if subject.submission.floor == "shuffled-image":
            frames = subject.protocol.video.frames if isinstance(split.media, ClipFrames) else 1
            order = shuffled_rows(len(features.keys) // frames, task.name, self._seed)
        return answer_with(engine, adapter, features, task, split, subject.protocol, order, report, parts)


def probe_job(*, subject: Subject, tasks: dict[str, Task], name: str, progress: Progress) -> dict[str, Any]:
    """Probe one task for every seed of the protocol: one path of fits, folds by seed."""
    began = time.monotonic()
    task, protocol = tasks[name], subject.protocol
    encoder = open_subject(subject)
    frames = protocol.video.frames
    train, test = (open_split(task, subject.data, frames, part) for part in ("train", None))
    fit_x, test_x = (
        load_features(subject, tasks, f"{name}:{part}", encoder).pooled for part in ("train", "test")
    )
    path = fit_path(fit_x, train.labels, protocol.probe)
    progress(1, 1 + len(protocol.seeds))
    runs = {}
    for done, seed in enumerate(protocol.seeds, 2):
        seen = (
            test_x[shuffled_rows(len(test_x), name, seed)]
            if subject.submission.floor == "shuffled-image"
            else test_x
        )
        result = cross_fit(path, seen, test.labels, protocol.probe, seed)
        answers = [
            Answer(
                sample_id=s.sample_id, prompt_hash=digest_bytes(b"")[:16], answer=str(int(p)), status="scored"
            )
            for s, p in zip(test.samples, result.predictions, strict=True)
        ]
        file = answers_file(
            subject, answers_key(subject, task, test, _probe_maker(subject, path), seed, "probe")
        )
        write_parquet(file, table_of_answers(answers))
        runs[seed] = {
            "answers": str(file),
            "lambdas": list(result.lambdas),
            "unconverged": list(result.unconverged),
        }
        progress(done, 1 + len(protocol.seeds))
    return {
        "task": name,
        "runs": runs,
        "encoder_weights": encoder.weight_digest(),
        "seconds": time.monotonic() - began,
    }


def _probe_maker(subject: Subject, path: Any) -> str:
    """What made the predictions: the fits themselves."""
    return digest_json(
        {
            "recipe": subject.protocol.recipe_digests["probe"],
            "weights": digest_bytes(b"".join(fit.weights.tobytes() for fit in path.fits)),
        }
    )


def read_answers(path: Path) -> list[Answer]:
    """Answers as a job left them.

    Raises:
        IntegrityError: the file is damaged; it was set aside, and running again answers anew.
    """
    try:
        table = read_parquet(path)
        if not table.schema.equals(ANSWER_SCHEMA):
            raise IntegrityError("not a file of answers", found=", ".join(table.schema.names))
    except IntegrityError as error:
        with contextlib.suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + ".corrupt"))
        raise IntegrityError(
            "stored answers are damaged",
            where=str(path),
            found=error.found or error.what,
            fix="run the same command again: the file was set aside",
        ) from error
    return [Answer(**row) for row in table.to_pylist()]
