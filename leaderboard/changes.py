"""The changelog of scores: what moved a published number, read from CHANGELOG.md when the site is built."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.digest import digest_bytes
from harness.errors import UsageError
from leaderboard.kit import HERE, Kit
from leaderboard.markdown import Block, Items, Paragraph, Part, Span, plain_text, read_markdown

SCORES = "Scores"
"""The heading, below a version's, of what moved a number."""
_OWN_DATE = re.compile(r"(?P<date>\d{4}-\d{2}-\d{2}): ")
_DATED = re.compile(r"\[?(?P<version>.+?)\]?(?:\s+[-–—]\s+|\s+\()(?P<date>\d{4}-\d{2}-\d{2})\)?")


HEADING = 90
"""Characters of an entry's heading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreChange:
    """One entry under **Scores**."""

    version: str
    """As the version's heading says it, without the date."""
    date: str
    """Year, month and day: those that the entry begins with, else the heading's; empty for neither."""
    anchor: str
    """`changes.html#<anchor>`. Made from the text, so that it outlives the version's being named."""
    text: str
    """Plain text, a line a paragraph or row."""
    blocks: tuple[Block, ...]

    @property
    def heading(self) -> str:
        """What changed, in a line: how the entry begins."""
        words = " ".join(self.text.split())
        return words if len(words) <= HEADING else words[:HEADING].rsplit(" ", 1)[0] + " …"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionView:
    """All entries of a version, in the file's order."""

    anchor: str
    version: str
    date: str
    changes: tuple[ScoreChange, ...]


def changelog_path() -> Path | None:
    """CHANGELOG.md of the repository that this package lies in; None where it was installed without one."""
    root = HERE.parent
    # Beside an installed package there may be a stranger's CHANGELOG.md; our repository has both files.
    here = (root / "CHANGELOG.md").is_file() and (root / "pyproject.toml").is_file()
    return root / "CHANGELOG.md" if here else None


def scores_entries(path: Path | None = None) -> tuple[ScoreChange, ...]:
    """Entries under **Scores**, newest version first as the file has them; none where there is no changelog.

    Args:
        path: the changelog; the repository's by default.

    Raises:
        UsageError: the file cannot be read or is not UTF-8.
    """
    path = path or changelog_path()
    return tuple(c for version in _versions(path) for c in version.changes) if path else ()


def changes_pages(kit: Kit) -> Mapping[str, bytes]:
    """`changes.html`."""
    return changes_page(kit, changelog_path())


def changes_page(kit: Kit, path: Path | None) -> Mapping[str, bytes]:
    """`changes.html` of one changelog; None says that none came along.

    Raises:
        UsageError: as `scores_entries`.
    """
    versions = _versions(path) if path else ()
    page = kit.page(
        "changes.html.j2",
        "changes.html",
        versions=versions,
        came_along=path is not None,
        withdrawn=kit.facts.tombstones,
    )
    return {"changes.html": page}


def _versions(path: Path) -> tuple[VersionView, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("cannot read the changelog", where=str(path), found=str(error)) from error
    found: list[VersionView] = []
    seen: Counter[str] = Counter()
    version = date = ""
    inside = False
    for part in read_markdown(text):
        if part.level <= 2:
            match = _DATED.fullmatch(part.title)
            version, date = (match["version"], match["date"]) if match else (part.title.strip("[]"), "")
        if part.level <= 3:
            inside = part.level == 3 and part.title == SCORES
        if not inside:
            continue
        changes = tuple(_change(blocks, version, date, seen) for blocks in _entries(part))
        if part.level > 3 and found:
            found[-1] = replace(found[-1], changes=(*found[-1].changes, *changes))
        else:
            anchor = _numbered(f"version-{_slug(version)}", seen)
            found.append(VersionView(anchor=anchor, version=version, date=date, changes=changes))
    return tuple(found)


def _entries(part: Part) -> list[tuple[Block, ...]]:
    """Each item of a list is an entry, and so is what stands outside a list; a lower heading goes before."""
    entries: list[tuple[Block, ...]] = []
    for block in part.blocks:
        entries += list(block.items) if isinstance(block, Items) else [(block,)]
    head = (Paragraph(spans=(Span(text=part.title, strong=True),)),) if part.level > 3 else ()
    return [(*head, *entry) for entry in entries if entry]


def _change(blocks: Sequence[Block], version: str, date: str, seen: Counter[str]) -> ScoreChange:
    text = plain_text(blocks)
    own = _OWN_DATE.match(text)
    anchor = _numbered(f"change-{digest_bytes(text.encode())[:12]}", seen)
    return ScoreChange(
        version=version, date=own["date"] if own else date, anchor=anchor, text=text, blocks=tuple(blocks)
    )


def _numbered(anchor: str, seen: Counter[str]) -> str:
    """The anchor, with a number from its second use on."""
    seen[anchor] += 1
    return anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "unnamed"
