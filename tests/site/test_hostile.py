"""What a stranger wrote is shown, letter by letter, and does nothing: not to the reader, not to the page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import sites
from browser import visiting
from hostile_strings import STRINGS, UNBREAKABLE

pytestmark = pytest.mark.site
LAYOUT = (Path(__file__).parent / "layout.js").read_text("utf-8")
TEXTS = """Array.from(document.querySelectorAll("h1, main dt, main dd, main td, main th, main li")).map(
  e => e.textContent)"""
HREFS = """Array.from(document.querySelectorAll("[href], [src]")).map(
  e => e.getAttribute("href") || e.getAttribute("src"))"""


def as_read(text: str) -> str:
    """The text as an HTML parser keeps it: line ends become one kind."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def wanted(texts: Sequence[str]) -> dict[str, int]:
    """What must stand on the page of an encoder with these strings, and how often at least."""
    one = sites.joined(texts)
    # Title, licence, contamination pledge, a receipt's note, hardware.
    counts = {one: 5, ", ".join(texts): 1, f"local: {one}": 1}
    for text in texts:
        # A link, the data and the start of a stage of pretraining, a key of the receipt.
        counts |= {text: 4, f"https://example.org/{text}": 1, f"sha256 of {text}": 1}
    return {as_read(words): count for words, count in counts.items()}


def faults_of_layout(page):
    cut = {text[-1] for text in UNBREAKABLE}
    return [f for f in page.evaluate(LAYOUT) if not (f.startswith("clipped") and cut & set(f))]


def look(visitor, name):
    """Complaints about the layout at two widths; what ran or was asked for goes to `visitor.complaints`."""
    found = []
    page = visitor.open(name)
    for width in (360, 1440):
        visitor.resize(width)
        found += [f"{name} at {width} px: {fault}" for fault in faults_of_layout(page)]
    visitor.listen()
    links = page.evaluate(HREFS)
    found += [
        f"{name}: link {link}"
        for link in links
        if re.match(r"(?!https?:)[a-z+.-]+:|//", link.strip(), re.IGNORECASE)
    ]
    return found


def test_there_are_enough_strings():
    assert len(set(STRINGS)) >= 300
    assert sum(map(len, sites.hostile_groups())) >= 300


def test_every_field_of_an_encoder_is_text_and_nothing_else(browser, hostile):
    faults = []
    with visiting(browser, hostile.folder) as visitor:
        for number, texts in enumerate(sites.hostile_groups()):
            name = f"encoders/x{number:03}.html"
            faults += look(visitor, name)
            found = Counter(visitor.page.evaluate(TEXTS))
            faults += [
                f"{name}: {found[words]} times {words[:60]!r}"
                for words, count in wanted(texts).items()
                if found[words] < count
            ]
    assert not visitor.complaints, "\n".join(visitor.complaints[:40])
    assert not faults, "\n".join(faults[:40])


def test_every_other_page_holds_too(browser, hostile):
    faults, texts = [], []
    # Flips of one direction show what those of both do.
    paths = [p for p in sorted(hostile.folder.rglob("*.html")) if "--only-" not in p.name]
    pages = [p.relative_to(hostile.folder).as_posix() for p in paths]
    with visiting(browser, hostile.folder) as visitor:
        for name in pages:
            if not name.startswith("encoders/"):
                faults += look(visitor, name)
                texts.append(visitor.page.evaluate("document.body.textContent"))
    shown = "\n".join(texts)
    for text in map(as_read, map(sites.joined, sites.hostile_groups())):
        faults += [f"no {w[:60]!r}" for w in (text, f"note: {text}") if w not in shown]
    assert not visitor.complaints, "\n".join(visitor.complaints[:40])
    assert not faults, "\n".join(faults[:40])
