"""static/runs.js in a real browser, with ten thousand runs: sort, filter, address, focus, and its speed."""

from __future__ import annotations

import dataclasses
import random

import pytest

pytestmark = pytest.mark.site
ROWS = 10_000
STATE = """() => {
  const t = document.getElementById("runs"), rows = Array.from(t.querySelectorAll("tbody tr[data-row]"));
  return {
    shown: document.getElementById("runs-status").textContent,
    count: Number(t.getAttribute("aria-rowcount")),
    sorted: Array.from(t.tHead.rows[0].cells).filter(h => h.hasAttribute("aria-sort"))
      .map(h => h.dataset.column + " " + h.getAttribute("aria-sort")),
    rows: rows.map(r => Array.from(r.cells).map(c => c.textContent)),
    places: rows.map(r => Number(r.getAttribute("aria-rowindex"))),
    hash: location.hash,
  };
}"""
# Scrolls, and waits until what follows from it is drawn.
SCROLL = """n => new Promise(done => {
  document.getElementById("runs-view").scrollTop = n;
  requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done)));
})"""
# Milliseconds from the event to a laid-out page: median of all columns both ways, and of all filters.
TIMES = """async () => {
  const input = document.getElementById("runs-filter"), all = {sort: [], filter: []};
  const rest = () => new Promise(done => setTimeout(done, 20));
  const time = (kind, act) => {
    const began = performance.now();
    act();
    document.body.getBoundingClientRect();
    all[kind].push(performance.now() - began);
  };
  for (let turn = 0; turn < 4; turn += 1) {
    for (const button of document.querySelectorAll("#runs thead button")) {
      time("sort", () => button.click());
      await rest();
    }
    for (const words of ["r", "re", "resnet", "resnet vqa", "seed 12", "abc", "vit seed 3", "no", ""]) {
      time("filter", () => { input.value = words; input.dispatchEvent(new Event("input")); });
      await rest();
    }
  }
  const median = found => found.sort((a, b) => a - b)[found.length >> 1];
  return {sort: median(all.sort), filter: median(all.filter)};
}"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A site of ten thousand runs, and the runs."""
    import shutil

    from board_site import kit_of, made_site

    from leaderboard.runs_page import runs_files

    made = made_site(tmp_path_factory.mktemp("many"))
    rng = random.Random(1)
    runs = [
        dataclasses.replace(
            made.facts.runs[i % 18],
            seed=i // 18,
            value=None if i % 97 == 0 else rng.randrange(401) / 400,
            run_key=f"{rng.getrandbits(256):064x}",
            bundle_digest=f"{rng.getrandbits(256):064x}",
        )
        for i in range(ROWS)
    ]
    for name, data in runs_files(kit_of(dataclasses.replace(made.facts, runs=tuple(runs)))).items():
        (made.site / name).write_bytes(data)
    shutil.rmtree(made.home / "results")
    return made.site, runs


@pytest.fixture
def visitor(browser, many):
    from browser import visiting

    with visiting(browser, many[0]) as found:
        yield found
        found.listen()
        assert not found.complaints


def press(page, column):
    page.locator(f"#runs th[data-column={column}] button").click()
    return page.evaluate(STATE)


def test_scores_are_printed_as_the_pages_do_ties_too(visitor, many):
    from leaderboard.wording import per_cent

    page = visitor.open("runs.html")
    values = {r.value for r in many[1] if r.value is not None and r.encoder == "vit"}
    page.locator("#runs-filter").fill("vit")
    state = press(page, "value")
    shown, step = [], 0
    while len(set(shown)) < len({per_cent(v) for v in values}) and step < 200:
        shown += [row[2] for row in state["rows"]]
        step += 1
        page.evaluate(SCROLL, step * 700)
        state = page.evaluate(STATE)
    assert set(shown) - {"incomplete"} == {per_cent(v) for v in values}


def test_only_rows_in_view_are_drawn_and_every_row_is_reached(visitor):
    page = visitor.open("runs.html")
    state = page.evaluate(STATE)
    assert state["shown"] == "10,000 runs." and state["count"] == ROWS + 1 and state["places"][0] == 2
    assert len(state["rows"]) < 60
    page.locator("#runs-view").focus()
    page.keyboard.press("End")
    page.locator("#runs tr[aria-rowindex='10001']").wait_for()
    assert len(page.evaluate(STATE)["rows"]) < 60


def test_sorting_puts_absent_scores_last_both_ways(visitor, many):
    page = visitor.open("runs.html")
    absent = sum(r.value is None for r in many[1])
    for direction, first in (("descending", "100.0"), ("ascending", "0.0")):
        state = press(page, "value")
        assert state["sorted"] == [f"value {direction}"] and state["rows"][0][2] == first
        page.evaluate("document.getElementById('runs-view').scrollTop = 1e9")
        page.locator("#runs tr[aria-rowindex='10001']").wait_for()
        last = page.evaluate(STATE)["rows"][-5:]
        assert absent > 5 and {row[2] for row in last} == {"incomplete"}


def test_the_filter_counts_what_fits(visitor, many):
    page = visitor.open("runs.html")
    runs = many[1]
    for words, fits in {
        "VIT": lambda r: r.encoder == "vit",
        "resnet seed 7": lambda r: r.encoder == "resnet" and r.seed == 7,
        runs[5].run_key[:9]: lambda r: r is runs[5],
        "no such thing": lambda r: False,
    }.items():
        page.locator("#runs-filter").fill(words)
        state = page.evaluate(STATE)
        count = sum(map(fits, runs))
        none = "" if count else " Nothing fits: Reset shows all."
        assert state["shown"] == f"{count:,} of 10,000 runs.{none}" and state["count"] == count + 1, words
        assert len(state["rows"]) == min(count, len(state["rows"]))


def test_the_filter_reads_ids_and_reset_shows_all(visitor, many):
    page = visitor.open("runs.html")
    task = many[1][0].task
    page.locator("#runs-filter").fill(task)
    count = sum(r.task == task for r in many[1])
    assert page.evaluate(STATE)["shown"] == f"{count:,} of 10,000 runs."
    page.locator("#runs-filter").fill("html")
    assert page.evaluate(STATE)["shown"].startswith("0 of")
    page.click("#runs-reset")
    state = page.evaluate(STATE)
    assert state["shown"] == "10,000 runs." and page.locator("#runs-filter").input_value() == ""
    page.go_back()
    assert page.evaluate(STATE)["shown"].startswith("0 of")


def test_the_address_holds_the_view_and_back_returns_to_it(visitor):
    page = visitor.open("runs.html")
    page.locator("#runs-filter").fill("vit")
    press(page, "seed")
    state = press(page, "run_key")
    assert state["hash"] == "#sort=run_key&filter=vit"
    before = state["rows"]
    page.reload()
    again = page.evaluate(STATE)
    assert again["rows"] == before and page.locator("#runs-filter").input_value() == "vit"
    page.go_back()
    page.wait_for_url("**#sort=-seed&filter=vit")
    assert page.evaluate(STATE)["sorted"] == ["seed descending"]
    page.go_back()
    page.wait_for_url("**#filter=vit")
    assert page.evaluate(STATE)["sorted"] == []


@pytest.mark.parametrize(
    "hash_", ["#sort=nothing", "#sort=-", "#filter=%3Cscript%3E", "#sort=__proto__", "#%E0%A4%A"]
)
def test_an_odd_address_is_no_trouble(visitor, hash_):
    page = visitor.open("runs.html")
    page.evaluate("h => { location.hash = h; }", hash_)
    page.wait_for_timeout(50)
    assert page.evaluate(STATE)["sorted"] == []


def test_focus_stays_on_its_run_while_it_is_drawn(visitor):
    page = visitor.open("runs.html")
    page.locator("#runs tbody tr[aria-rowindex='20'] a").first.focus()
    row = page.evaluate("document.activeElement.closest('tr').dataset.row")
    page.evaluate("document.getElementById('runs-view').scrollTop = 350")
    page.wait_for_timeout(50)
    assert page.evaluate("document.activeElement.closest('tr').dataset.row") == row
    page.evaluate("document.getElementById('runs-view').scrollTop = 50000")
    page.wait_for_timeout(50)
    assert page.evaluate("document.activeElement.id") == "runs-view"


def test_sort_and_filter_take_less_than_a_frame(visitor):
    times = visitor.open("runs.html").evaluate(TIMES)
    assert times["sort"] < 16 and times["filter"] < 16, times
