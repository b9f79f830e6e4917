"""Numbers and short phrases as the page prints them. Fractions come in, per cent goes out."""

from __future__ import annotations

import math
import re
from urllib.parse import urlsplit

from harness.digest import digest_bytes

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MINUS = "\N{MINUS SIGN}"
FLOOR_WORDS = {
    "blind": "blind",
    "shuffled-image": "shuffled image",
    "random-init": "random init",
    "pixel-patches": "pixel patches",
}
_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def floor_title(title: str) -> str:
    """A floor's title where a sentence says that it is one: "Floor: blind" -> "blind"."""
    return title.removeprefix("Floor:").strip() or title


def per_cent(value: float) -> str:
    """0.9631 -> "96.3"."""
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", _MINUS)


def points(value: float) -> str:
    """Signed difference in percentage points: 0.694 -> "+69.4", with a true minus sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", _MINUS)


def range_of(low: float, high: float) -> str:
    """Interval of a score, "95.1–97.5"."""
    return f"{per_cent(low)}\N{EN DASH}{per_cent(high)}"


def points_range(low: float, high: float) -> str:
    """Interval of a difference, "+62.0 to +66.0"."""
    return f"{points(low)} to {points(high)}"


def number_word(count: int) -> str:
    """Small counts in words, as running text wants them."""
    return _SMALL[count] if 0 <= count < len(_SMALL) else f"{count:,}"


def count_of(count: int, noun: str, plural: str = "") -> str:
    """Count and noun: "1 seed", "3 seeds"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def errors_away(z: float) -> str:
    """A margin in standard errors, "3.1"."""
    if math.isinf(z):
        return "no measurable spread" if z > 0 else f"{_MINUS}\N{INFINITY}"
    return f"{z:.1f}".replace("-", _MINUS)


def seconds(value: float) -> str:
    """Durations for people: "4.2 s", "3 min 20 s", "1 h 5 min"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def millions(count: int) -> str:
    """Parameters, "86.1 M"."""
    return f"{count / 1e6:,.1f} M" if count >= 100_000 else f"{count / 1e6:.3g} M"


def mebibytes(value: float) -> str:
    """Sizes for people, in MiB."""
    return f"{value / 2**20:,.1f} MiB"


def join_words(words: list[str]) -> str:
    """Enumeration: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def pair_label(first: str, second: str) -> str:
    """Two titles with what they share said once.

    >>> pair_label("Net S, labels", "Net S, captions")
    'Net S: labels − captions'
    """
    a, b = first.split(), second.split()
    most = min(len(a), len(b)) - 1
    start = next((i for i in range(most) if a[i] != b[i]), max(most, 0))
    end = next((i for i in range(most - start) if a[-1 - i] != b[-1 - i]), max(most - start, 0))
    if not start:
        return f"{first} {_MINUS} {second}"
    shared = " ".join([*a[:start], *a[len(a) - end :]]).rstrip(",:")
    left, right = (" ".join(words[start : len(words) - end]) for words in (a, b))
    return f"{shared.replace(', (', ' (')}: {left} {_MINUS} {right}"


def page_name(identifier: str) -> str:
    """File name of a page. Identifiers are untrusted: one that is no plain slug is replaced by its hash."""
    if _SLUG.fullmatch(identifier) and ".." not in identifier:
        return f"{identifier}.html"
    return f"x-{digest_bytes(identifier.encode())[:16]}.html"


def web_link(text: str) -> str:
    """The address if it is plain http(s), else the empty string: nothing else becomes a link."""
    if any(ord(c) <= 32 or ord(c) == 127 for c in text):
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    return text if parts.scheme in ("http", "https") and parts.hostname else ""
