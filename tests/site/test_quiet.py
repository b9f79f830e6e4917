"""A page asks nobody for anything, says nothing on the console and breaks no rule of its policy."""

from __future__ import annotations

import pytest
from browser import THEMES, visiting

pytestmark = pytest.mark.site


@pytest.mark.parametrize(
    "options",
    [
        *({"color_scheme": theme} for theme in THEMES),
        {"forced_colors": "active"},
        {"java_script_enabled": False},
    ],
    ids=["light", "dark", "forced-colours", "no-script"],
)
def test_pages_are_silent_and_stay_at_home(browser, site, options):
    with visiting(browser, site.folder, **options) as visitor:
        for name in site.sample():
            before = len(visitor.requests)
            visitor.open(name)
            assert len(visitor.requests) >= before + 2, "the page itself and its style sheet were asked for"
            visitor.listen()
    assert not visitor.complaints, "\n".join(visitor.complaints)


def test_the_watch_sees_what_it_watches_for(browser, tmp_path):
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; script-src 'self'\">"
    script = (
        "console.log('hello'); alert(1); setTimeout(function () { window.__pwned = 1; throw Error('x'); })"
    )
    (tmp_path / "page.js").write_text(script)
    (tmp_path / "page.html").write_text(
        f"<!doctype html>{policy}<title>x</title><img src=https://example.invalid/x.png>"
        "<script src=page.js></script>"
    )
    with visiting(browser, tmp_path) as visitor:
        visitor.open("page.html")
        visitor.listen()
    text = "\n".join(visitor.complaints)
    for word in ("console: hello", "dialog: 1", "error: x", "blocked: img-src", "executed"):
        assert word in text, text
