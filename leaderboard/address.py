"""The address that a hosted site is told, and what it is told back."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import UsageError
from leaderboard.wording import web_link

_PLAIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~!$&()*+,;=:@%/-]*)?")
_REPOSITORY = re.compile(r'<a id="repository" href="([^"]*)"')
_CANONICAL = re.compile(r'<link rel="canonical" href="([^"]*)">')


def base_address(text: str, option: str = "--url") -> str:
    """The address of a site's top with a slash at its end; empty for the empty text.

    Args:
        text: the address.
        option: where it was given.

    Raises:
        UsageError: not a plain http(s) address of a folder.
    """
    if not text:
        return ""
    plain = _PLAIN.fullmatch(text) and web_link(text) and urlsplit(text).username is None
    if not plain or ".." in urlsplit(text).path.split("/"):
        raise UsageError(
            "not an address of a site",
            where=option,
            found=repr(text)[:120],
            expected="http(s)://host/path/ without query, fragment or user",
        )
    return text if text.endswith("/") else f"{text}/"


def repository_address(text: str) -> str:
    """The address of the repository, without a slash at its end; empty for the empty text.

    Raises:
        UsageError: not a plain http(s) address.
    """
    return base_address(text, "--repository").rstrip("/")


def stated_repository(site: Path) -> str:
    """The repository that a published site's start page names, empty for none.

    Raises:
        UsageError: it names something that is no address.
    """
    return repository_address(_stated(site, _REPOSITORY))


def stated_address(site: Path) -> str:
    """The address that a published site says it has, empty for none: what its start page calls canonical.

    Raises:
        UsageError: it says something that is no address.
    """
    return base_address(_stated(site, _CANONICAL).removesuffix("index.html"))


def _stated(site: Path, pattern: re.Pattern[str]) -> str:
    """What the start page has in the pattern's group; empty where it has not."""
    page = site / "index.html"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    found = pattern.search(text)
    return html.unescape(found[1]) if found else ""
