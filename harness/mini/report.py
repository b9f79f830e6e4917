"""The tables of docs/mini.md, from the results of record and the training curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.home import Home
from harness.mini.members import ARCHS, FLOORS, MEMBERS, WEIGHTS
from harness.store import ingest, open_store

TASKS = ("probe", "digits", "vqa", "signs", "rec", "video")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(markdown_table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _cells(database: Path) -> dict[tuple[str, str], str]:
    connection = open_store(database)
    try:
        rows = connection.execute("SELECT encoder, task, value, ci_low, ci_high FROM leaderboard").fetchall()
    finally:
        connection.close()
    shown = {}
    for encoder, task, value, low, high in rows:
        text = "incomplete" if value is None else f"{value * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"
        shown[encoder, task.removeprefix("eyechart_mini_")] = text
    return shown


def _curve_table() -> str:
    rows = []
    for member in MEMBERS:
        path = WEIGHTS / member.name / "curve.json"
        if not path.is_file():
            continue
        curve = [row for row in json.loads(path.read_text()) if "word_accuracy" in row]
        words = " · ".join(f"{row['word_accuracy'] * 100:.0f}" for row in curve)
        classes = " · ".join(f"{row['class_accuracy'] * 100:.0f}" for row in curve)
        rows.append([member.name, words, classes, f"{curve[-1]['images']:,}"])
    steps = "every 51,200 images"
    return markdown_table(["member", f"unseen sign words, % ({steps})", "class, %", "images"], rows)


def _stage_table(database: Path) -> str:
    """Median seconds of each stage over the runs of record, as their environment.json has them."""
    connection = open_store(database)
    try:
        rows = connection.execute(
            "SELECT stage, median(seconds), max(seconds), count(*) FROM costs GROUP BY stage ORDER BY stage"
        ).fetchall()
    finally:
        connection.close()
    shown = [[stage, f"{median:.1f}", f"{most:.1f}", str(n)] for stage, median, most, n in rows]
    return markdown_table(["stage", "median s", "longest s", "runs"], shown)


def _memory(results: Path) -> str:
    peaks = []
    for path in sorted(results.glob("mini/*/*/environment.json")):
        note: dict[str, Any] = json.loads(path.read_text())
        peaks.append(int(note["peak_memory_bytes"]))
    return f"{max(peaks) / 1e9:.1f} GB" if peaks else "not measured"


def report_markdown(home: Home, results: Path) -> str:
    """All tables, as docs/mini.md carries them."""
    database = home.root / "report.duckdb"
    ingest(database, results)
    cells = _cells(database)
    ids = [f"mini-{m.name}" for m in MEMBERS] + list(FLOORS)
    rows = [[i, *(cells.get((i, task), "not run") for task in TASKS)] for i in ids]
    objective = {f"mini-{m.name}": f"{ARCHS[m.arch].split(',')[0]}, {m.objective}" for m in MEMBERS}
    named = [
        [objective.get(row[0], row[0]) + (" (2nd)" if row[0].endswith("s1") else ""), *row[1:]]
        for row in rows
    ]
    return "\n\n".join(
        [
            "### Scores, per cent, with 95 % intervals over seeds and clusters",
            markdown_table(["encoder", *TASKS], named),
            "### Curves of pre-training",
            _curve_table(),
            "### Seconds of each stage, one worker, two encoders side by side",
            _stage_table(database),
            f"Peak memory (parent and largest worker; a process runs several encoders): {_memory(results)}.",
        ]
    )
