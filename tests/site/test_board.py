"""The board in the browser: filters, columns, the address, and ranks of what is left."""

from __future__ import annotations

import base64
import json
import re
import time

import duckdb
import numpy as np
import pytest
from browser import visiting

from harness.comparison import AllPairs, rank
from leaderboard.pair_codes import decode

pytestmark = pytest.mark.site
BOARD = "boards/mini.html"
SHOWN = """() => Array.from(document.querySelectorAll("#board tbody tr[data-id]")).filter(r => !r.hidden)
  .map(r => r.getAttribute("data-id"))"""
CELLS = """() => Object.fromEntries(Array.from(document.querySelectorAll("#board tbody tr[data-id]"))
  .filter(r => !r.hidden).map(r => [r.getAttribute("data-id"), Array.from(r.querySelectorAll("td.score"))
  .map(c => (c.querySelector(".rank") || {}).textContent || "")]))"""
TASKS = """() => Array.from(document.querySelectorAll("#board thead th.score")).map(h => h.dataset.column)"""


def until(page, expression):
    """Wait for an expression to be true; the page's policy forbids playwright's own polling of strings."""
    deadline = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def ask(db, sql, *parameters):
    with duckdb.connect(str(db), read_only=True) as connection:
        return connection.execute(sql, list(parameters)).fetchall()


def expected_ranks(site, task, shown):
    """What Python makes of the same codes for the encoders that are left: {encoder: (low, high, letters)}."""
    text = (site.folder / f"boards/pairs/mini/{task}.js").read_text()
    said = json.loads(text[text.index(" = {") + 3 :].rstrip(";\n"))
    names, count = said["encoders"], len(said["encoders"])
    p = np.ones((count, count))
    upper = np.triu_indices(count, 1)
    p[upper] = decode(np.frombuffer(base64.b64decode(said["p"]), "<u2"))
    p = np.minimum(p, p.T)
    values = np.array(said["values"])
    kept = [i for i, name in enumerate(names) if name in shown]
    value = (values[:, None] - values[None, :])[np.ix_(kept, kept)]
    blank = np.zeros_like(value)
    found = rank(AllPairs(value=value, low=blank, high=blank, se=blank, df=blank, p=p[np.ix_(kept, kept)]))
    return {
        names[i]: (
            int(found.low[n]),
            int(found.high[n]),
            "".join(chr(97 + g) for g, group in enumerate(found.groups) if n in group),
        )
        for n, i in enumerate(kept)
    }


def places(text):
    found = re.fullmatch(r"rank (\d+)(?:–(\d+))? · ([a-z]+)", text)
    assert found, text
    return int(found[1]), int(found[2] or found[1]), found[3]


def test_a_search_leaves_its_rows_and_ranks_them_anew(browser, of_record):
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open(BOARD)
        served = page.evaluate(CELLS)
        page.fill("#f-q", "resnet")
        until(page, f"Object.keys(window.EYECHART_PAIRS || {{}}).length === {len(page.evaluate(TASKS))}")
        page.wait_for_timeout(50)
        shown = page.evaluate(SHOWN)
        assert set(shown) == {e for e in served if "resnet" in e} and 2 < len(shown) < len(served)
        cells = page.evaluate(CELLS)
        for column, task in enumerate(page.evaluate(TASKS)):
            wanted = expected_ranks(of_record, task, shown)
            assert {e: places(row[column]) for e, row in cells.items()} == wanted, task
        assert "Ranks and tie groups are of these" in page.text_content("#status")
        # Floors stay: they are what every row is held against.
        assert page.is_visible("text=Floor: blind")
        page.click("#f-reset")
        until(page, "location.hash.length < 2")
        assert page.evaluate(CELLS) == served
        visitor.listen()
        assert not visitor.complaints


def test_ranks_as_served_are_those_of_the_index(browser, of_record):
    rows = ask(
        of_record.db,
        "SELECT encoder, task, rank_low, rank_high, tie_groups FROM ranks WHERE protocol = 'mini'",
    )
    wanted = {
        (e, t): f"rank {low}{f'–{high}' if high != low else ''} · {''.join(chr(96 + g) for g in groups)}"
        for e, t, low, high, groups in rows
    }
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open(BOARD)
        tasks = page.evaluate(TASKS)
        cells = page.evaluate(CELLS)
    assert {(e, t): text for e, row in cells.items() for t, text in zip(tasks, row, strict=True)} == wanted


def test_every_cell_of_the_board_is_what_the_index_says(browser, of_record):
    rows = ask(
        of_record.db,
        "SELECT encoder, task, value, ci_low, ci_high FROM leaderboard WHERE protocol = 'mini' "
        "AND encoder IN (SELECT encoder FROM encoders WHERE floor IS NULL)",
    )
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open(BOARD)
        tasks = page.evaluate(TASKS)
        shown = page.evaluate(
            """() => Object.fromEntries(Array.from(document.querySelectorAll("#board tr[data-id]")).map(r =>
            [r.dataset.id, Array.from(r.querySelectorAll("td.score")).map(c =>
            c.querySelector(".num").textContent + " " + c.querySelector(".ci").textContent)]))"""
        )
    for encoder, task, value, low, high in rows:
        wanted = f"{100 * value:.1f} [{100 * low:.1f}–{100 * high:.1f}]"
        assert shown[encoder][tasks.index(task)] == wanted
    assert len(shown) * len(tasks) == len(rows)


@pytest.mark.parametrize(
    ("control", "value", "sql"),
    [
        ("#f-by", "side:classification", "side = 'classification'"),
        ("#f-by", "family:sigmoid-contrastive", "family = 'sigmoid-contrastive'"),
        ("#f-source", "local", "json_extract_string(submission, '$.source.kind') = 'local'"),
    ],
)
def test_each_choice_leaves_what_sql_leaves(browser, of_record, control, value, sql):
    wanted = {e for (e,) in ask(of_record.db, f"SELECT encoder FROM encoders WHERE floor IS NULL AND {sql}")}
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open(BOARD)
        page.select_option(control, value)
        assert set(page.evaluate(SHOWN)) == wanted and wanted


def test_parameters_from_and_to_are_as_printed(browser, of_record):
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open(BOARD)
        sizes = page.evaluate(
            """() => Object.fromEntries(Array.from(document.querySelectorAll("#board tr[data-id]")).map(r =>
            [r.dataset.id, parseFloat(r.querySelector("td.params").textContent)]))"""
        )
        least, most = min(sizes.values()), max(sizes.values())
        assert least < most
        page.fill("#f-max", str(least))
        assert set(page.evaluate(SHOWN)) == {e for e, n in sizes.items() if n == least}
        page.fill("#f-max", "")
        page.fill("#f-min", str(most))
        assert set(page.evaluate(SHOWN)) == {e for e, n in sizes.items() if n == most}
        page.fill("#f-min", str(most + 0.1))
        assert page.evaluate(SHOWN) == []


def test_the_sorted_column_is_named_and_beside_the_names_on_a_phone(browser, of_record):
    edges = """() => ["#board thead .who", "#board th[aria-sort]"]
      .map(h => document.querySelector(h).getBoundingClientRect())"""
    with visiting(browser, of_record.folder, width=320) as visitor:
        page = visitor.open(BOARD)
        for name in ("", "#sort=eyechart_mini_video", "#sort=eyechart_mini_probe&dir=ascending"):
            page.evaluate(f"location.hash = '{name}'")
            page.wait_for_timeout(50)
            names, column = page.evaluate(edges)
            assert column["left"] >= names["right"] - 1 and column["right"] <= 321, name
        assert "Sorted by Mini linear probe, lowest first." in page.text_content("#status")
        page.evaluate("location.hash = '#sort=eyechart_mini_probe&hide=eyechart_mini_probe'")
        page.wait_for_timeout(50)
        assert "Sorted by Mini linear probe, a hidden column, highest first." in page.text_content("#status")


def test_the_address_holds_everything_and_the_back_button_works(browser, of_record):
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open(BOARD)
        plain = page.evaluate(SHOWN)
        page.select_option("#f-by", "side:contrastive")
        page.click("details.columns > summary")
        page.uncheck("#c-cost")
        page.click("#board thead th[data-column='eyechart_mini_probe'] button")
        page.click("#board thead th[data-column='eyechart_mini_probe'] button")
        until(page, "location.hash.includes('ascending')")
        address, shown = page.url, page.evaluate(SHOWN)
        assert not page.is_visible("#board th.cost") and not page.is_visible("#board td.cost >> nth=0")
        with visiting(browser, of_record.folder) as other:
            again = other.page
            again.goto(address)
            assert again.evaluate(SHOWN) == shown
            assert again.input_value("#f-by") == "side:contrastive" and not again.is_checked("#c-cost")
            assert not again.is_visible("#board th.cost")
            marks = again.eval_on_selector_all(
                "#board th[aria-sort]", "hs => hs.map(h => [h.dataset.column, h.getAttribute('aria-sort')])"
            )
            assert marks == [["eyechart_mini_probe", "ascending"]]
        for _ in range(4):
            page.go_back()
        assert page.evaluate("location.hash") == "" and page.evaluate(SHOWN) == plain
        assert page.is_visible("#board th.cost") and page.input_value("#f-by") == ""
        page.go_forward()
        assert page.input_value("#f-by") == "side:contrastive"


def test_nonsense_in_the_address_is_passed_over(browser, of_record):
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.page
        page.goto((of_record.folder / BOARD).as_uri())
        plain = page.evaluate(SHOWN)
        bad = "#by=side:nobody&sort=__proto__&dir=up&hide=constructor,%00&min=x&tier=%3Cscript%3E&q=%20"
        page.evaluate(f"location.hash = {json.dumps(bad)}")
        page.wait_for_timeout(50)
        # What no control can say is no filter: the rows would be gone with nothing to show why.
        assert page.evaluate(SHOWN) == plain
        visitor.listen()
        assert not visitor.complaints


def test_only_whole_rows(browser, awkward):
    with visiting(browser, awkward.folder) as visitor:
        page = visitor.open(BOARD)
        whole = page.evaluate(
            """() => Array.from(document.querySelectorAll("#board tr[data-id]")).filter(r =>
            Array.from(r.querySelectorAll("td.score")).every(c => c.dataset.value)).map(r => r.dataset.id)"""
        )
        assert 0 < len(whole) < len(page.evaluate(SHOWN))
        page.check("#f-complete")
        assert page.evaluate(SHOWN) == whole


def test_absence_floors_and_tiers_are_said_in_words(browser, awkward):
    with visiting(browser, awkward.folder, java_script_enabled=False) as visitor:
        text = visitor.open(BOARD).text_content("#board")
    for words in ("not run", "partial (", "1 seed only", "not above blind", "dead task", "self-reported"):
        assert words in text, words
