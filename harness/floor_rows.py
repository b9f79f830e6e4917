"""The rows of `floor_differences`: every encoder less each floor that it is held against."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from harness.comparison import all_against, floor_pools
from harness.records import Submission
from harness.stats import Interval, null_unknown
from harness.variance import SeedPool

BEATS_BY = 5.0
"""Standard errors above a floor from which an encoder is said to beat it."""


def own_floors(
    encoder: Submission, kind: str, floors: Sequence[Submission], known: Mapping[str, Submission]
) -> tuple[str, ...]:
    """Floors of a kind that an encoder is held against.

    Made from itself; else from an encoder of its architecture; else all of the kind, since a floor of another
    make is still a floor.

    Args:
        encoder: what is measured.
        kind: as in `Submission.floor`.
        floors: those that are complete on the task.
        known: submissions by id, for what a floor was made from.
    """
    found = [f for f in floors if f.floor == kind]
    own = [f for f in found if f.base == encoder.id]
    kin = [f for f in found if _architecture(f, known) == _architecture(encoder, known)]
    return tuple(f.id for f in own or kin or found)


def _architecture(submission: Submission, known: Mapping[str, Submission]) -> str:
    return known.get(submission.base, submission).source.name


def against_floor(
    encoders: Mapping[str, NDArray[Any]], floor: NDArray[Any], clusters: NDArray[Any], pool: SeedPool | None
) -> dict[str, Interval]:
    """Differences encoder − floor, all at once, without p.

    The pool holds encoders and may understate a floor's noise, or the floor's few seeds may: of the
    interval with the one and with the other, the wider counts.

    Args:
        encoders: id -> (seeds, samples) scores.
        floor: (seeds, samples), the same samples.
        clusters: (samples,).
        pool: seed variance pooled over the encoders.
    """
    arms = list(encoders.values()), floor, clusters
    every = [all_against(*arms, mine, theirs) for mine, theirs in floor_pools(pool, (False, True))]
    return {e: max(found, key=_width) for e, *found in zip(encoders, *every, strict=True)}


def floor_rows(
    submissions: Mapping[str, Submission],
    tables: Mapping[str, NDArray[Any]],
    clusters: NDArray[Any],
    pool: SeedPool,
) -> list[dict[str, Any]]:
    """A row for each complete encoder of a task and each complete floor that it is held against.

    Args:
        submissions: by id, of everything that ran the task.
        tables: (seeds, samples) scores of what is complete, floors included.
        clusters: (samples,).
        pool: seed variance pooled over the encoders that are ranked.
    """
    floors = [submissions[name] for name in sorted(tables) if submissions[name].floor]
    encoders = [submissions[name] for name in sorted(tables) if not submissions[name].floor]
    rows = []
    for floor in floors:
        kind = floor.floor or ""
        held = [e.id for e in encoders if floor.id in own_floors(e, kind, floors, submissions)]
        if not held:
            continue
        found = against_floor({e: tables[e] for e in held}, tables[floor.id], clusters, pool)
        rows += [
            {
                "encoder": encoder,
                "floor": floor.id,
                "kind": kind,
                "difference": difference.value,
                **null_unknown(difference),
                "seeds_unknown": difference.seeds_unknown,
                "beaten": beats(difference),
            }
            for encoder, difference in found.items()
        ]
    return sorted(rows, key=lambda row: (row["encoder"], row["floor"]))


def errors_away(difference: Interval) -> float:
    """A difference in its standard errors; ±inf when it has none, 0 when both are zero or it is unknown."""
    if not math.isfinite(difference.se):
        return 0.0
    if difference.se == 0:
        return math.copysign(math.inf, difference.value) if difference.value else 0.0
    return difference.value / difference.se


def beats(difference: Interval) -> bool:
    """Whether a difference is at least BEATS_BY standard errors above zero."""
    return errors_away(difference) >= BEATS_BY


def _width(interval: Interval) -> float:
    return interval.high - interval.low
