"""All pairs' p values for the browser, which ranks the rows that a filter leaves.

A value is 16 bits: floor(−1000 ln p), so that a decoded p is never below the true one and at most a
thousandth above it. What the browser proves, `harness.comparison.rank` proves too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.board_rows import MeasuredTask, measure_all
from leaderboard.comparisons import Comparisons
from leaderboard.compose import task_kind, task_names
from leaderboard.facts import ScoreTable
from leaderboard.kit import Kit
from leaderboard.wording import page_name

SCALE = 1000.0
"""Codes a unit of −ln p."""
RANKED_UP_TO = 1500
"""Encoders of one task; the file grows with their square, to 3 MB here."""
_HIGHEST = 2**16 - 1


def pair_file(protocol: str, task: str) -> str:
    """The task's file beside the board."""
    return f"boards/pairs/{page_name(protocol)[:-5]}/{page_name(task)[:-5]}.js"


def encode(p: NDArray[Any]) -> NDArray[np.uint16]:
    """P values of any shape as codes; 0 and NaN-free input expected."""
    with np.errstate(divide="ignore"):
        codes = np.floor(-np.log(p) * SCALE)
    found: NDArray[np.uint16] = np.minimum(codes, _HIGHEST).astype(np.uint16)
    return found


def decode(codes: NDArray[Any]) -> NDArray[np.float64]:
    """What the browser makes of the codes."""
    found: NDArray[np.float64] = np.exp(-codes.astype(np.float64) / SCALE)
    return found


def compared_tables(compared: Comparisons, task: str) -> dict[str, ScoreTable]:
    """Score tables of a task's ranked encoders; empty where they are not compared all with all."""
    facts, aside = compared.facts, {*compared.floors, *compared.reported}
    tables = {
        e: table
        for e in compared.encoders
        if e not in aside and (table := facts.scores.get((compared.protocol, e, task))) is not None
    }
    same = len({table.sample_ids for table in tables.values()}) == 1
    return tables if same and 2 <= len(tables) <= RANKED_UP_TO else {}


def _measured(compared: Comparisons, task: str) -> MeasuredTask | None:
    """All pairs, as the index compared them."""
    tables = compared_tables(compared, task)
    if not tables:
        return None
    return measure_all(
        compared.protocol,
        task,
        {e: table.scores for e, table in tables.items()},
        next(iter(tables.values())).clusters,
        compared.facts.seed_pools[compared.protocol, task],
        is_probe=task_kind(compared.facts, task) == "probe",
    )


def script(task: str, encoders: Sequence[str], values: Sequence[float], p: NDArray[Any]) -> bytes:
    """A classic script, since file:// has no fetch: encoders, their scores, the upper triangle row by row."""
    upper = np.triu_indices(len(encoders), 1)
    codes = encode(p[upper]).astype("<u2").tobytes()
    body = {"encoders": list(encoders), "values": list(values), "p": base64.b64encode(codes).decode()}
    return (
        "(window.EYECHART_PAIRS = window.EYECHART_PAIRS || {})"
        f"[{json.dumps(task)}] = {json.dumps(body, separators=(',', ':'))};\n"
    ).encode()


def pair_files(kit: Kit) -> dict[str, bytes]:
    """One file a protocol and task that has two ranked encoders or more."""
    files = {}
    for compared in kit.compared:
        for task in task_names(compared):
            found = _measured(compared, task)
            if found is not None:
                # Places are by the order of these: the differences' own, so that ties fall as in the index.
                values = [float(v) for v in found.pairs.value.mean(axis=1)]
                files[pair_file(compared.protocol, task)] = script(
                    task, found.encoders, values, found.pairs.p
                )
    return files
