"""runs.html: every run, sorted, filtered and drawn by static/runs.js out of dictionary-coded columns.

Without scripts the page holds its first rows, and the CSV has them all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.compose import encoder_name, task_title
from leaderboard.kit import Kit
from leaderboard.wording import page_name

WHOLE, SERVED = 500, 200
"""The page holds up to WHOLE rows itself, and of more only the first SERVED: the script draws the rest."""
RUNS_JS, RUNS_CSV = "data/runs.js", "data/all-runs.csv"
_KEY_SHOWN, _DIGEST_SHOWN = 16, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """One served row."""

    encoder: str
    encoder_href: str
    task: str
    task_href: str
    protocol: str
    seed: int
    value: float | None
    num_expected: int
    num_scored: int
    num_unparsed: int
    num_error: int
    num_missing: int
    tier: str
    engine: str
    run_key: str
    bundle_digest: str


def run_rows(kit: Kit) -> list[RunRow]:
    """All runs in the order of the index: protocol, task, encoder, seed."""
    names = {e: encoder_name(kit.facts, e) for e in {r.encoder for r in kit.facts.runs}}
    return [
        RunRow(
            encoder=names[r.encoder].title,
            encoder_href=names[r.encoder].href,
            task=task_title(kit.facts, r.task),
            task_href=f"tasks/{page_name(r.task)}",
            protocol=r.protocol,
            seed=r.seed,
            value=r.value,
            num_expected=r.num_expected,
            num_scored=r.num_scored,
            num_unparsed=r.num_unparsed,
            num_error=r.num_error,
            num_missing=r.num_missing,
            tier=r.tier,
            engine=r.inputs.get("engine", ""),
            run_key=r.run_key[:_KEY_SHOWN],
            bundle_digest=r.bundle_digest[:_DIGEST_SHOWN],
        )
        for r in kit.facts.runs
    ]


def runs_files(kit: Kit) -> dict[str, bytes]:
    """The page, its columns as a classic script, and its CSV."""
    rows = run_rows(kit)
    served = rows if len(rows) <= WHOLE else rows[:SERVED]
    page = kit.page("runs.html.j2", "runs.html", rows=served, num_rows=len(rows), columns=COLUMNS)
    return {"runs.html": page, RUNS_JS: runs_script(rows), RUNS_CSV: runs_csv(kit)}


COLUMNS = (
    ("encoder", "Encoder", "word"),
    ("task", "Task", "word"),
    ("value", "Score, %", "number"),
    ("seed", "Seed", "number"),
    ("protocol", "Protocol", "word"),
    ("num_expected", "Expected", "number"),
    ("num_scored", "Scored", "number"),
    ("num_unparsed", "Unparsed", "number"),
    ("num_error", "Error", "number"),
    ("num_missing", "Missing", "number"),
    ("tier", "Tier", "word"),
    ("engine", "Engine", "word"),
    ("run_key", "Run", "hash"),
    ("bundle_digest", "Bundle", "hash"),
)
"""(field of RunRow, heading, kind): "word" repeats, "number", "hash" is like no other. A phone shows 3."""


def runs_script(rows: Sequence[RunRow]) -> bytes:
    """`window.EYECHART_RUNS`: numbers as they are, words as dictionary and codes, hashes as one text."""
    columns: dict[str, Any] = {}
    for name, _, kind in COLUMNS:
        values = [getattr(row, name) for row in rows]
        if kind == "word":
            links = [getattr(row, f"{name}_href", "") for row in rows]
            columns[name] = _coded(list(zip(values, links, strict=True)))
        else:
            columns[name] = "".join(values) if kind == "hash" else values
    # ASCII, and no "<": sound whatever it is embedded in and however it is read.
    table = {"rows": len(rows), "columns": columns}
    text = json.dumps(table, separators=(",", ":"), sort_keys=True).replace("<", "\\u003c")
    return f"window.EYECHART_RUNS={text};\n".encode("ascii")


def _coded(values: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Distinct (word, link), sorted, and for each row the place of its own."""
    distinct = sorted(set(values), key=lambda v: (v[0].casefold(), v))
    place = {value: number for number, value in enumerate(distinct)}
    coded = {"words": [word for word, _ in distinct], "codes": [place[value] for value in values]}
    links = [link for _, link in distinct]
    return {**coded, "hrefs": links} if any(links) else coded


def runs_csv(kit: Kit) -> bytes:
    """The same runs with names, whole hashes and scores as fractions."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run in kit.facts.runs:
        writer.writerow(
            [run.inputs.get("engine", "") if n == "engine" else getattr(run, n) for n in CSV_COLUMNS]
        )
    return text.getvalue().encode("utf-8", "replace")


CSV_COLUMNS = (
    "protocol", "encoder", "task", "seed", "value", "num_expected", "num_scored", "num_unparsed", "num_error",
    "num_missing", "tier", "engine", "run_key", "bundle_digest",
)  # fmt: skip
