"""Rows of the index that need all encoders at once: ranks, the families, the probe against the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.comparison import AllPairs, all_pairs, rank
from harness.family import MIN_INDEPENDENT, FamilyEffect, family_effect, rank_agreement
from harness.variance import SeedPool


@dataclass(frozen=True, kw_only=True)
class MeasuredTask:
    """All pairs of the encoders of one task; floors and self-reported rows are not among them."""

    protocol: str
    task: str
    is_probe: bool
    encoders: tuple[str, ...]
    pairs: AllPairs


def measure_all(
    protocol: str,
    task: str,
    tables: Mapping[str, NDArray[Any]],
    clusters: NDArray[Any],
    pool: SeedPool,
    *,
    is_probe: bool,
) -> MeasuredTask | None:
    """All pairs of a task; None with fewer than two encoders or clusters.

    Args:
        protocol: its name.
        task: its name.
        tables: (seeds, samples) scores of each encoder that is ranked.
        clusters: (samples,).
        pool: their pooled seed variance.
        is_probe: whether a linear probe answered.
    """
    if len(tables) < 2 or len(np.unique(clusters)) < 2:
        return None
    pairs = all_pairs(list(tables.values()), clusters, pool)
    return MeasuredTask(protocol=protocol, task=task, is_probe=is_probe, encoders=tuple(tables), pairs=pairs)


def rank_rows(measured: Sequence[MeasuredTask]) -> list[dict[str, Any]]:
    """A row an encoder and task: the places that the data leave open, and the tie groups it is in."""
    rows = []
    for m in measured:
        found = rank(m.pairs)
        for place, encoder in enumerate(m.encoders):
            groups = [number for number, group in enumerate(found.groups, 1) if place in group]
            rows.append(
                {
                    "protocol": m.protocol,
                    "task": m.task,
                    "encoder": encoder,
                    "rank_low": int(found.low[place]),
                    "rank_high": int(found.high[place]),
                    "tie_groups": groups,
                    "num_ranked": len(m.encoders),
                }
            )
    return rows


def agreement_rows(measured: Sequence[MeasuredTask]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `rank_agreement` and `rank_flips`: each probe against each task a language model answers."""
    agreements, flips = [], []
    for probe in (m for m in measured if m.is_probe):
        for other in (m for m in measured if not m.is_probe and m.protocol == probe.protocol):
            names = [e for e in probe.encoders if e in other.encoders]
            found = rank_agreement(names, _some(probe, names), _some(other, names))
            place = {"protocol": probe.protocol, "probe": probe.task, "task": other.task}
            agreements.append(
                {
                    **place,
                    "num_encoders": found.num_encoders,
                    "correlation": found.correlation,
                    "ci_low": found.low,
                    "ci_high": found.high,
                }
            )
            flips += [{**place, "by_probe": first, "by_task": second} for first, second in found.flips]
    return agreements, flips


def _some(measured: MeasuredTask, names: Sequence[str]) -> AllPairs:
    chosen = np.array([measured.encoders.index(name) for name in names], dtype=np.intp)
    return AllPairs(*(matrix[np.ix_(chosen, chosen)] for matrix in measured.pairs))


def family_rows(
    differences: Sequence[Mapping[str, Any]],
    sides: Mapping[str, str],
    contradicted: set[tuple[str, str]],
    reported: Collection[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Rows of `family_effects`: classification minus contrastive by task, the pair as the unit.

    Args:
        differences: rows of `pair_differences`.
        sides: encoder -> side.
        contradicted: pairs whose declaration does not hold; they are left out.
        reported: (protocol, encoder) with self-reported rows; nor do their pairs count.
    """
    by_task: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in differences:
        a, b = str(row["a"]), str(row["b"])
        apart = {(row["protocol"], a), (row["protocol"], b)} & set(reported)
        if (a, b) in contradicted or apart or {sides[a], sides[b]} != {"classification", "contrastive"}:
            continue
        turned = sides[a] == "contrastive"
        arms, sign = ((b, a), -1.0) if turned else ((a, b), 1.0)
        by_task.setdefault((row["protocol"], row["task"]), {})[arms] = sign * row["difference"]
    return [
        {"protocol": protocol, "task": task, **_effect_row(family_effect(found))}
        for (protocol, task), found in sorted(by_task.items())
    ]


def _effect_row(effect: FamilyEffect) -> dict[str, Any]:
    pooled = effect.pooled
    lows = [interval.low for _, interval in effect.leave_one_out]
    highs = [interval.high for _, interval in effect.leave_one_out]
    return {
        "num_pairs": effect.num_pairs,
        "num_independent": effect.num_independent,
        "difference": None if pooled is None else pooled.value,
        "ci_low": None if pooled is None else pooled.low,
        "ci_high": None if pooled is None else pooled.high,
        "p": None if pooled is None else pooled.p,
        "without_one_low": min(lows, default=None),
        "without_one_high": max(highs, default=None),
        "sentence": family_sentence(effect),
    }


def family_sentence(effect: FamilyEffect) -> str:
    """What the pairs of one task say together, or why they are not put together.

    >>> family_sentence(FamilyEffect(num_pairs=3, num_independent=2, pooled=None, leave_one_out=()))
    '3 pairs, 2 of them independent: fewer than 5, so no pooled effect is given'
    """
    pairs = f"{effect.num_pairs} {'pair' if effect.num_pairs == 1 else 'pairs'}"
    count = f"{pairs}, {effect.num_independent} of them independent"
    if effect.pooled is None:
        return f"{count}: fewer than {MIN_INDEPENDENT}, so no pooled effect is given"
    p = effect.pooled
    if p.low <= 0 <= p.high:
        return f"{count}: no difference is proven between the families"
    ahead = "classification" if p.value > 0 else "contrastive"
    firm = "whichever is left out" if effect.holds_without_any else "not whichever is left out"
    return f"{count}: {ahead} pretraining is ahead, {firm}"
