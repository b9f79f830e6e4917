"""Everything is reached, seen and pressed with the keyboard alone; tables sort as they say."""

from __future__ import annotations

import pytest
from browser import visiting

pytestmark = pytest.mark.site
# Where the focus is: which of the page's stops, and whether a reader can tell.
FOCUS = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const s = getComputedStyle(e), box = e.getBoundingClientRect();
  return {
    place: window.__stops.indexOf(e),
    name: e.tagName.toLowerCase() + " " + (e.textContent || "").trim().slice(0, 30),
    marked: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2,
    in_view: box.bottom > 0 && box.top < innerHeight && box.width > 0 && box.height > 0,
  };
}"""
STOPS = """() => {
  const all = "a[href], button, input, select, textarea, summary, [tabindex='0']";
  window.__stops = Array.from(document.querySelectorAll(all)).filter(
    e => !e.disabled && (e.checkVisibility() || e.matches(".skip")));
  return window.__stops.length;
}"""
TABLES = "document.querySelectorAll('table:has(thead th button)').length"
SORTED = """([table, column]) => {
  const t = document.querySelectorAll("table:has(thead th button)")[table];
  const heads = Array.from(t.tHead.rows[0].cells);
  const numeric = heads[column].hasAttribute("data-numeric");
  return {
    marks: heads.map(h => h.getAttribute("aria-sort")),
    numeric: numeric,
    keys: Array.from(t.tBodies[0].rows).map(r => {
      const c = r.cells[column], v = c.getAttribute("data-value");
      const said = c.tagName === "TH" && c.querySelector("a") || c;
      if (numeric) return v === null ? null : Number(v);
      return v === null ? said.textContent.trim().toLowerCase() : v;
    }),
  };
}"""


def test_tab_reaches_everything_in_order_and_shows_where(browser, site):
    faults = []
    with visiting(browser, site.folder, reduced_motion="reduce") as visitor:
        for kind, names in site.types().items():
            page = visitor.open(names[-1])
            number, seen = page.evaluate(STOPS), []
            for _ in range(min(number, 400)):
                page.keyboard.press("Tab")
                seen.append(page.evaluate(FOCUS))
            assert seen[0] and seen[0]["name"].startswith("a Skip to"), seen[0]
            places = [stop["place"] for stop in seen if stop]
            if places != list(range(min(number, 400))):
                faults.append(f"{kind}: reached {places} of {number}")
            faults += [f"{kind}: focus not marked on {s['name']}" for s in seen if s and not s["marked"]]
            faults += [f"{kind}: focus out of view on {s['name']}" for s in seen if s and not s["in_view"]]
    assert not faults, "\n".join(faults)


def test_the_skip_link_leads_past_the_menu(browser, of_record):
    with visiting(browser, of_record.folder) as visitor:
        page = visitor.open("index.html")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")


def _in_order(state, column, descending):
    """Whether keys run one way, absent ones last, and only this column says so."""
    keys = state["keys"]
    there = [k for k in keys if k is not None]
    word = "descending" if descending else "ascending"
    marks = [word if i == column else None for i in range(len(state["marks"]))]
    return (
        there == sorted(there, reverse=descending)
        and keys == there + [None] * (len(keys) - len(there))
        and state["marks"] == marks
    )


def test_every_sortable_column_sorts_both_ways_by_key(browser, site):
    faults, columns, absent = [], 0, 0
    with visiting(browser, site.folder) as visitor:
        for names in site.types().values():
            page = visitor.open(names[-1])
            for table in range(page.evaluate(TABLES)):
                heads = (
                    page.locator("table:has(thead th button)")
                    .nth(table)
                    .locator("thead tr")
                    .first.locator("th")
                )
                for column in range(heads.count()):
                    button = heads.nth(column).locator("button")
                    if not button.count():
                        continue
                    columns += 1
                    button.focus()
                    before = None
                    for key in ("Enter", "Space"):
                        page.keyboard.press(key)
                        state = page.evaluate(SORTED, [table, column])
                        absent += None in state["keys"]
                        descending = state["marks"][column] == "descending"
                        if not _in_order(state, column, descending):
                            faults.append(f"{names[-1]}: table {table}, column {column}, {key}: {state}")
                        if descending == before:
                            faults.append(f"{names[-1]}: table {table}, column {column}: not turned")
                        before = descending
                    assert page.evaluate("document.activeElement.tagName") == "BUTTON", (
                        "focus stays where it was"
                    )
        visitor.listen()
    assert not faults, "\n".join(faults)
    assert not visitor.complaints
    assert columns > 5
    if "awkward" in site.folder.as_posix():
        assert absent, "no table had a cell without a number"
