"""axe-core finds nothing on any kind of page, wide or narrow, light or dark."""

from __future__ import annotations

import pytest
from browser import THEMES, visiting

pytestmark = pytest.mark.site
RUN = (
    "axe.run({resultTypes: ['violations']}).then(r => ({passes: r.passes.length, violations: r.violations}))"
)


def violations(page, where):
    """What axe finds now, and on how many rules the page was judged and passed."""
    found = page.evaluate(RUN)
    lines = []
    for violation in found["violations"]:
        nodes = [node["html"][:160] for node in violation["nodes"]]
        lines.append(f"{where}: {violation['id']}: {violation['help']}: {nodes[:3]} of {len(nodes)}")
    return lines, found["passes"]


def test_axe_finds_no_violation(browser, site):
    from axe_playwright_python.base import AXE_SCRIPT

    found = []
    with visiting(browser, site.folder) as visitor:
        for name in site.sample():
            page = visitor.open(name)
            page.evaluate(AXE_SCRIPT)
            # Both themes and both widths, not all four together: colours do not hang on the width.
            for theme, width in zip(THEMES, (1440, 360), strict=True):
                page.emulate_media(color_scheme=theme)
                visitor.resize(width)
                lines, passed = violations(page, f"{name}, {theme}, {width} px")
                assert passed > 10, "axe looked at nothing"
                found += lines
    assert not found, "\n".join(found)


def test_axe_sees_both_themes(browser, tmp_path):
    from axe_playwright_python.base import AXE_SCRIPT

    style = "p { color: #888; background: #fff } @media (prefers-color-scheme: dark) { p { color: #bbb } }"
    (tmp_path / "page.html").write_text(
        f"<!doctype html><html lang=en><title>x</title><style>{style}</style>"
        "<main><h1>x</h1><p>words</p></main>"
    )
    with visiting(browser, tmp_path) as visitor:
        page = visitor.open("page.html")
        page.evaluate(AXE_SCRIPT)
        for theme, number in (("light", "3.54"), ("dark", "1.91")):
            page.emulate_media(color_scheme=theme)
            (line,), _ = violations(page, theme)
            assert "color-contrast" in line
            summary = page.evaluate(RUN)["violations"][0]["nodes"][0]["failureSummary"]
            assert f"contrast of {number} " in summary
