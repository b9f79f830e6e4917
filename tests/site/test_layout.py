"""Nothing scrolls sideways, nothing is cut off, on a phone, at 400 % zoom, on paper and without motion."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import THEMES, WIDTHS, visiting

pytestmark = pytest.mark.site
LAYOUT = (Path(__file__).parent / "layout.js").read_text("utf-8")
# Every element with its computed style, as far as paper and motion ask for it.
STYLES = """
Array.from(document.querySelectorAll("*")).filter(e => !e.closest("svg, .unseen, head")).map(e => {
  const s = getComputedStyle(e);
  return {
    name: e.tagName.toLowerCase() + "." + (e.getAttribute("class") || ""),
    position: s.position, overflow: s.overflowX, scroll: s.scrollBehavior, shown: e.checkVisibility(),
    moves: [s.transitionDuration, s.animationDuration].some(t => t.split(",").some(x => parseFloat(x) > 0)),
  };
})
"""


def faults(visitor, names, widths):
    found = []
    for name in names:
        page = visitor.open(name)
        for width in widths:
            visitor.resize(width)
            found += [f"{name} at {width} px: {fault}" for fault in page.evaluate(LAYOUT)]
    return found


# 320 CSS pixels are 1280 at 400 % zoom.
@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_nothing_is_cut_off_at_any_width(browser, site, script):
    with visiting(browser, site.folder, java_script_enabled=script) as visitor:
        # Without script nothing moves but what it makes: the ends are enough.
        widths = (320, *WIDTHS, 3840) if script else (320, 1440)
        found = faults(visitor, site.sample(), widths)
    assert not found, "\n".join(found)


def test_layout_faults_are_found(browser, tmp_path):
    (tmp_path / "page.html").write_text(
        "<!doctype html><title>x</title><p style='width:2000px'>wide</p>"
        "<div style='overflow:hidden;width:60px'><p style='width:400px;text-align:right'>cut</p></div>"
        "<table style='table-layout:fixed;width:80px'><tr><td>unbreakablewords<td>x</table>"
        "<table><thead><tr><th>a<th>b</thead><tr style='position:relative;left:5px'><td>1<td>2</table>"
    )
    with visiting(browser, tmp_path) as visitor:
        found = "\n".join(faults(visitor, ["page.html"], [360]))
    for words in (
        "scrolls sideways",
        'clipped: "cut" of <p>',
        "runs out of its cell",
        "5 px from its header",
    ):
        assert words in found, found


def test_paper_shows_everything_and_no_menu(browser, site):
    found = []
    with visiting(browser, site.folder, width=800) as visitor:
        for name in site.sample():
            page = visitor.open(name)
            page.emulate_media(media="print")
            shown = [style for style in page.evaluate(STYLES) if style["shown"]]
            assert len(shown) > 5
            found += [f"{name}: {s['name']} sticks" for s in shown if s["position"] in ("sticky", "fixed")]
            found += [f"{name}: {s['name']} clips" for s in shown if s["overflow"] != "visible"]
            found += [f"{name}: menu" for s in shown if s["name"].startswith("nav.")]
    assert not found, "\n".join(sorted(set(found)))


def test_paper_is_as_wide_as_what_stands_on_it(browser, site):
    # A4 less the browser's own margins is about this many CSS pixels.
    with visiting(browser, site.folder, width=720) as visitor:
        found = []
        for name in site.sample():
            page = visitor.open(name)
            page.emulate_media(media="print")
            found += [f"{name}: {fault}" for fault in page.evaluate(LAYOUT)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("width", [1440, 1920, 2560])
def test_all_columns_of_the_board_are_on_a_wide_screen(browser, of_record, width):
    with visiting(browser, of_record.folder, width=width) as visitor:
        page = visitor.open("boards/mini.html")
        assert (
            page.evaluate("(box => box.scrollWidth - box.clientWidth)(document.querySelector('.scroll'))")
            <= 0
        )


def test_an_edge_that_hides_columns_is_shaded(browser, of_record):
    shade = "getComputedStyle(document.querySelector('.scroll')).backgroundImage.split('linear').length - 1"
    line = "getComputedStyle(document.querySelector('.scroll')).borderRightStyle"
    with visiting(browser, of_record.folder, width=1000) as visitor:
        page = visitor.open("boards/mini.html")
        assert (page.evaluate(shade), page.evaluate(line)) == (4, "none")
        page.emulate_media(forced_colors="active")
        assert page.evaluate(line) == "solid"


def test_reduced_motion_moves_nothing(browser, site):
    found = []
    with visiting(browser, site.folder, reduced_motion="reduce") as visitor:
        for name in site.sample():
            styles = visitor.open(name).evaluate(STYLES)
            found += [f"{name}: {s['name']}" for s in styles if s["moves"] or s["scroll"] == "smooth"]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("theme", THEMES)
def test_pictures_of_every_kind_of_page(browser, of_record, screenshots, theme):
    """Not judged here: people look at them. CI keeps the folder."""
    with visiting(browser, of_record.folder, color_scheme=theme) as visitor:
        for kind, names in of_record.types().items():
            page = visitor.open(names[-1])
            for width in WIDTHS:
                visitor.resize(width)
                path = screenshots / f"{kind}-{width}-{theme}.png"
                page.screenshot(path=path, full_page=True)
                assert path.stat().st_size > 4000
