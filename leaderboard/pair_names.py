"""Where the pages of a pair and of its flips lie. Identifiers are untrusted."""

from __future__ import annotations

import json

from harness.digest import digest_bytes
from leaderboard.wording import page_name

DIRECTIONS = ("all", "a", "b")
"""Flips of both kinds, those that only the first arm has right, those that only the second has."""


def stem(*names: str) -> str:
    """Part of a path for one name or several: joined by "--" where each is plain, else a hash of all."""
    parts = [page_name(name).removesuffix(".html") for name in names]
    # With "--" in a name, or "-" at its end, two lists of names could be joined to one text.
    if any("--" in part or part.endswith("-") for part in parts):
        return f"x-{digest_bytes(json.dumps(names).encode())[:16]}"
    return "--".join(parts)


def pair_href(a: str, b: str) -> str:
    """Page of a declared pair, from the site's top; `a` and `b` in the order of the declaration."""
    return f"pairs/{stem(a, b)}.html"


def flips_href(protocol: str, a: str, b: str, task: str, direction: str = "all", number: int = 1) -> str:
    """Page of a pair's flips on a task, from the site's top.

    Args:
        protocol: name of the protocol.
        a: first arm, as declared.
        b: second arm.
        task: name of the task.
        direction: one of `DIRECTIONS`.
        number: of the page, from 1.
    """
    turn = "" if direction == "all" else f"--only-{'first' if direction == 'a' else 'second'}"
    return f"flips/{stem(protocol)}/{stem(a, b)}/{stem(task)}{turn}-{number}.html"
