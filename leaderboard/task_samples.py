"""A task sample by sample over the ranked encoders: how scores spread, and which samples are hardest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.comparison import RIGHT
from leaderboard.boxes import answers_boxes, lay_out
from leaderboard.charts import Scale, score_scale, ticks
from leaderboard.comparisons import Comparisons
from leaderboard.sample_records import PackSample
from leaderboard.sample_views import Bar, HardSample, TaskSamples
from leaderboard.shots import counted, shot
from leaderboard.wording import number_word, per_cent

NUM_HARDEST = 12
NUM_BINS = 10
_HEIGHT = 120.0
"""Px of the highest bar."""


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Scores of a task's samples over the encoders that are ranked and complete on it."""

    encoders: tuple[str, ...]
    sample_ids: tuple[str, ...]
    means: NDArray[np.float64]
    """(samples,), mean over encoders of the mean over seeds."""
    num_right: NDArray[np.int64]
    """(samples,), encoders that have it right: mean over seeds at least one half."""

    def hardest(self) -> list[int]:
        """Positions of the samples with the lowest means; ties by id."""
        # Means of equal scores may differ in the last bit: what is printed equal is a tie.
        order = np.lexsort((np.array(self.sample_ids), np.round(self.means, 9)))
        return [int(i) for i in order[:NUM_HARDEST]]


def difficulty(compared: Comparisons, task: str) -> Difficulty | None:
    """Scores by sample over the ranked encoders; None where none is complete.

    An encoder whose samples are others than the first one's, by id, is left out.
    """
    out = {*compared.floors, *compared.reported}
    found: list[str] = []
    ids: tuple[str, ...] = ()
    total = num_right = np.zeros(0)
    for encoder in compared.encoders:
        table = compared.facts.scores.get((compared.protocol, encoder, task))
        if encoder in out or table is None or (found and table.sample_ids != ids):
            continue
        # Summed one by one: a table of all encoders and samples need not fit into memory.
        mean = table.scores.mean(axis=0)
        if not found:
            ids, total, num_right = table.sample_ids, np.zeros(len(mean)), np.zeros(len(mean))
        found.append(encoder)
        total, num_right = total + mean, num_right + (mean >= RIGHT)
    if not found:
        return None
    return Difficulty(
        encoders=tuple(found),
        sample_ids=ids,
        means=total / len(found),
        num_right=num_right.astype(np.int64),
    )


def task_samples(compared: Comparisons, task: str) -> TaskSamples | None:
    """Distribution and hardest samples; None where no ranked encoder is complete."""
    found = difficulty(compared, task)
    if found is None:
        return None
    chance = compared.facts.chances.get((compared.protocol, task), 0.0)
    told = compared.facts.samples.get((compared.protocol, task), {})
    definition = compared.facts.tasks.get(task)
    boxed = answers_boxes(definition)
    hardest = tuple(
        _hard_sample(found, i, chance, told.get(found.sample_ids[i]), boxed=boxed) for i in found.hardest()
    )
    choice = definition is not None and definition.kind == "choice"
    return TaskSamples(
        num_encoders=len(found.encoders),
        num_samples=len(found.sample_ids),
        num_all_right=int(np.sum(found.num_right == len(found.encoders))),
        num_none_right=int(np.sum(found.num_right == 0)),
        bars=bars(found.means, score_scale()),
        ticks=ticks(score_scale()),
        height=int(_HEIGHT),
        hardest=hardest,
        trap=_trap_words(hardest, chance) if choice else "",
        has_pack=(compared.protocol, task) in compared.facts.samples,
    )


def _hard_sample(
    found: Difficulty, i: int, chance: float, told: PackSample | None, *, boxed: bool
) -> HardSample:
    name = found.sample_ids[i]
    return HardSample(
        sample_id=name,
        mean=float(found.means[i]),
        num_right=int(found.num_right[i]),
        below_chance=bool(found.means[i] < chance),
        question=told.question if told else "",
        references=counted(told.references) if told else (),
        license="" if told is None or told.shown else told.license or "not stated",
        shot=shot(told, name, lay_out(told.references, (), ()) if told and boxed else ()),
    )


def bars(means: NDArray[np.float64], scale: Scale) -> tuple[Bar, ...]:
    """Counts of samples in ten equal ranges of the mean score; the last range holds 1."""
    which = np.minimum((means * NUM_BINS + 1e-9).astype(np.int64), NUM_BINS - 1)
    counts = np.bincount(which, minlength=NUM_BINS).tolist()
    highest = max(*counts, 1)
    edges = [i / NUM_BINS for i in range(NUM_BINS + 1)]
    return tuple(
        Bar(
            x=scale.at(edges[i]),
            width=scale.span(edges[i], edges[i + 1]),
            y=round(_HEIGHT * (1 - count / highest), 2),
            height=round(_HEIGHT * count / highest, 2),
            label=_range_words(100 * i // NUM_BINS, 100 * (i + 1) // NUM_BINS),
            count=count,
        )
        for i, count in enumerate(counts)
    )


def _range_words(low: int, high: int) -> str:
    return f"{low} to {high}" if high == 100 else f"{low} to below {high}"


def _trap_words(hardest: Sequence[HardSample], chance: float) -> str:
    below = sum(h.below_chance for h in hardest)
    if not below:
        return ""
    return (
        f"Guessing gives {per_cent(chance)} %, and {number_word(below)} of these "
        f"{'lies' if below == 1 else 'lie'} below it. A sample that encoders get right less often than by "
        "guessing may be a trap, with a misleading option or a wrong reference, and not hard to see."
    )
