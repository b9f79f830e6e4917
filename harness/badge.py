"""Badges: self-contained SVG of two fields, sound XML whatever the text, wide enough in any font."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

GREEN, RED, AMBER, GREY, BLUE = "#2a7d3f", "#b3261e", "#7a5c00", "#555555", "#005a94"
"""Fields behind white text: each has a contrast of at least 5.4 to 1."""
MAX_SHOWN = 60
"""Characters of a field; what is longer ends in an ellipsis, and is whole in the title."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NARROW = frozenset("ijlIft.,:;'|!()[]/ -·")
_WIDE = frozenset("mwMW@%±−—")
_PADDING = 6


def xml_text(text: str) -> str:
    r"""The text with what XML 1.0 cannot hold replaced by U+FFFD; not escaped yet.

    >>> xml_text("a\x00b") == "a\ufffdb"
    True
    """
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def draw_badge(left: str, right: str, colour: str) -> str:
    """A badge; a title and a label say its whole text.

    Args:
        left: what is measured, on dark grey.
        right: the result.
        colour: of the right field, #rrggbb.
    """
    shown = [_shown(text) for text in (left, right)]
    widths = [_text_width(text) for text in shown]
    first, full = widths[0] + 2 * _PADDING, sum(widths) + 4 * _PADDING
    words = xml_text(f"{left}: {right}")
    # textLength makes the text as long as its field whatever font is at hand: nothing is cut.
    texts = "".join(
        f'<text x="{x}" y="14" textLength="{width}" lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
        for x, width, text in zip((_PADDING, first + _PADDING), widths, shown, strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="20" viewBox="0 0 {full} 20" '
        f'role="img" aria-label={quoteattr(words)}>'
        f'<title>{escape(words)}</title><rect width="{first}" height="20" fill="#333"/>'
        f'<rect x="{first}" width="{full - first}" height="20" fill="{colour}"/>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" font-size="11">'
        f"{texts}</g></svg>\n"
    )


def _shown(text: str) -> str:
    """What is drawn: no line breaks, no control or direction marks, not endless."""
    plain = " ".join(text.split())
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain)
    return plain if len(plain) <= MAX_SHOWN else plain[: MAX_SHOWN - 1] + "…"


def _text_width(text: str) -> int:
    """Pixels that Verdana at 11 px needs, rather more than less; letters beyond Latin take a full em."""
    widths = [
        5.0 if c in _NARROW else 11.0 if c in _WIDE or ord(c) > 0x24F else 8.2 if c.isupper() else 7.1
        for c in text
    ]
    return max(1, round(sum(widths)))
