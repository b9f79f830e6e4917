"""The numbers on the pages are the index's, and are all there without script."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import visiting

from harness.query import query_store
from harness.task import known_tasks, read_task

pytestmark = pytest.mark.site
TEXT = """Array.from(document.querySelectorAll("table")).map(t => Array.from(t.rows).map(
  r => Array.from(r.cells).map(c => c.innerText.replace(/\\s+/g, " ").trim())))"""
BOARDS = """Array.from(document.querySelectorAll("table.board")).map(t => ({
  caption: t.caption.textContent,
  heads: Array.from(t.tHead.rows[0].cells).map(
    c => (c.querySelector("span:not(.note), a") || c).textContent.replace(/\\s+/g, " ").trim()),
  rows: Array.from(t.rows).filter(r => r.cells[0].querySelector("a")).map(r => ({
    href: r.cells[0].querySelector("a").getAttribute("href"),
    cells: Array.from(r.cells).map(c => ({
      num: (c.querySelector(".num") || {textContent: ""}).textContent,
      ci: (c.querySelector(".ci") || {textContent: ""}).textContent,
      text: c.innerText.replace(/\\s+/g, " "),
    })),
  })),
}))"""


def _shown(value: float) -> str:
    return f"{100 * value:.1f}"


def test_tables_read_the_same_without_script(browser, site):
    found = {}
    for script in (True, False):
        with visiting(browser, site.folder, java_script_enabled=script) as visitor:
            found[script] = {name: visitor.open(name).evaluate(TEXT) for name in site.sample()}
    assert found[True] == found[False]
    assert sum(len(table) for tables in found[True].values() for table in tables) > 50
    assert re.search(r"\d\d\.\d", json.dumps(found[False]["index.html"]))


def view(db: Path) -> dict[tuple[str, str, str], tuple[float | None, ...]]:
    """(protocol, encoder, task) -> value, low, high, done, expected; as `eyechart query` reads them."""
    sql = (
        "SELECT protocol, encoder, task, value, ci_low, ci_high, num_scored + num_unparsed, num_expected "
        "FROM leaderboard"
    )
    with query_store(db, sql) as rows:
        columns = [
            column for batch in rows.batches for column in zip(*batch.to_pydict().values(), strict=True)
        ]
    return {tuple(row[:3]): tuple(row[3:]) for row in columns}


def _expected(cell: tuple[float | None, ...] | None) -> tuple[str, str, str]:
    """Number, interval and words of a cell of the board."""
    if cell is None:
        return "", "", "not run"
    value, low, high, done, expected = cell
    if value is None or low is None or high is None:
        return "", "", f"{'partial' if done else 'failed'} ({done:,} of {expected:,})"
    return _shown(value), f"[{_shown(low)}\N{EN DASH}{_shown(high)}]", ""


def test_every_number_of_the_board_is_the_query_s(browser, site):
    index, faults, checked = view(site.db), [], set()
    titles = {task: read_task(task).title if task in known_tasks(None) else task for _, _, task in index}
    with visiting(browser, site.folder) as visitor:
        boards = [
            board
            for path in sorted(site.folder.rglob("*.html"))
            if b'class="board' in path.read_bytes()
            for board in visitor.open(path.relative_to(site.folder).as_posix()).evaluate(BOARDS)
        ]
    for board in boards:
        protocol = re.search(r"of protocol ([\w-]+)", board["caption"])[1]
        columns = {
            task: board["heads"].index(title) for task, title in titles.items() if title in board["heads"]
        }
        assert columns
        for row in board["rows"]:
            encoder = re.search(r"encoders/([a-z0-9-]+)\.html", row["href"])[1]
            for task, column in columns.items():
                cell = row["cells"][column]
                number, interval, words = _expected(index.get((protocol, encoder, task)))
                if (cell["num"], cell["ci"]) != (number, interval) or words not in cell["text"]:
                    faults.append(
                        f"{protocol}, {encoder}, {task}: page {cell}, query {number} {interval} {words}"
                    )
                checked.add((protocol, encoder, task))
    assert not faults, "\n".join(faults)
    assert set(index) <= checked, sorted(set(index) - checked)
    assert len(index) > 20
