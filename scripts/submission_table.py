"""The rows that a request adds or takes from the board, as plain text: BEFORE.duckdb AFTER.duckdb.

`eyechart compare` takes this over as soon as it is there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.store import open_store
from harness.tables import text_table

Row = tuple[object, ...]
QUERY = (
    "SELECT l.protocol, l.task, l.encoder, l.family, l.tier, l.value, l.ci_low, l.ci_high, l.num_seeds, "
    "(SELECT max(o.value) FROM leaderboard AS o "
    "WHERE (o.protocol, o.task) = (l.protocol, l.task) AND o.tier <> 'self-reported') "
    "FROM leaderboard AS l ORDER BY ALL"
)


def rows_of(db: Path) -> dict[Row, Row]:
    """Cells of a board: (protocol, task, encoder) -> the rest."""
    connection = open_store(db)
    try:
        found = connection.execute(QUERY).fetchall()
    finally:
        connection.close()
    return {row[:3]: row[3:] for row in found}


def main(before: Path, after: Path) -> str:
    """Text for the comment: what is new, what changed, what is gone."""
    old, new = rows_of(before), rows_of(after)
    shown = []
    for key in sorted(new.keys() | old.keys(), key=str):
        if old.get(key) == new.get(key):
            continue
        what = "new" if key not in old else "changed" if key in new else "gone"
        family, tier, value, low, high, seeds, best = new.get(key) or old[key]
        score = ["incomplete", ""] if value is None else [f"{value:.1%}", f"[{low:.1%}, {high:.1%}]"]
        top = "" if best is None else f"{best:.1%}"
        shown.append([what, *map(str, key), str(family), str(tier), *score, str(seeds), top])
    if not shown:
        return "No row of the board changes."
    head = [
        "",
        "protocol",
        "task",
        "encoder",
        "family",
        "tier",
        "score",
        "95 % interval",
        "seeds",
        "best of the board",
    ]
    return text_table(head, shown, numbers=(6, 7, 8, 9))


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1]), Path(sys.argv[2])) + "\n")
