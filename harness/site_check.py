"""A published site against one built anew from the bundles, file by file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import IntegrityError
from harness.pairs import read_pairs
from harness.store import ingest
from harness.verify import Report
from leaderboard.address import stated_address, stated_repository
from leaderboard.build import build_site

SHOWN = 100
MEDIA = "media/"
"""Folder of a site that holds the pictures of task packs."""
BINARY = {".parquet", ".png"}
"""Files whose library's version moves their bytes."""


def verify_site(
    site: Path,
    roots: Sequence[Path],
    pairs: Path | None,
    protocols: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
    datasets: Path | None = None,
) -> Report:
    """Build the site anew and compare.

    Args:
        site: folder that `eyechart publish` made.
        roots: folders of the bundles that it was made from.
        pairs: pairs.toml, or None.
        protocols: files of protocols beside those that come with Eyechart.
        progress: called with (bundles read, bundles in all).
        datasets: folder with a folder a suite, whose task packs the site's questions and pictures are from.

    Returns:
        At most one finding: the first page that differs, and its first line that does.

    Raises:
        UsageError: a root does not exist, or the site names an address that is none.
        IntegrityError: a bundle is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="eyechart-verify-") as folder:
        database, fresh = Path(folder) / "fresh.duckdb", Path(folder) / "site"
        # A site shows the tables of the pairs too, and links to the address that it was published for.
        declared = read_pairs(pairs) if pairs else ()
        report = ingest(database, *roots, pairs=declared, progress=progress)
        # A site without pictures may have been built where no pack was, whatever lies here now.
        tries = [datasets] if (site / MEDIA).is_dir() else [None, datasets]
        found = None
        for packs in dict.fromkeys(tries):
            build_site(
                database,
                fresh,
                pairs,
                protocols=protocols,
                datasets=packs,
                url=stated_address(site),
                repository=stated_repository(site),
            )
            found = _compare(site, fresh)
            if found is None:
                break
    return Report(bundles={}, num_checked=report.num_bundles, findings=(found,) if found else ())


def _compare(site: Path, fresh: Path) -> IntegrityError | None:
    mine, true = (
        {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_symlink() or not p.is_dir()}
        for root in (site, fresh)
    )
    names = mine.keys() | true.keys()
    # Pictures first: without the packs every page of flips differs, and this says why.
    for name in sorted(names, key=lambda n: (not n.startswith(MEDIA), n)):
        where = str(site / name)
        if name.startswith(MEDIA) and (name in mine) != (name in true):
            return _other_pictures(where)
        if name not in mine:
            return IntegrityError("page is missing", where=where)
        if name not in true:
            return IntegrityError("page that no build makes from these bundles", where=where)
        if mine[name].is_symlink() or not mine[name].is_file():
            return IntegrityError("not a plain file", where=where)
        found, expected = mine[name].read_bytes(), true[name].read_bytes()
        if found != expected and mine[name].suffix in BINARY:
            versions = "the versions that downloads.html names, which move these bytes too"
            return IntegrityError("bytes are not what the bundles give", where=where, fix=f"use {versions}")
        if found != expected:
            return _first_line(where, found, expected)
    return None


def _other_pictures(where: str) -> IntegrityError:
    return IntegrityError(
        "pictures are not those of the task packs here",
        where=where,
        fix="make the packs that the site was built with: `eyechart mini data`, `eyechart data pack`",
    )


def _first_line(where: str, found: bytes, expected: bytes) -> IntegrityError:
    lines, wanted = (data.decode("utf-8", "replace").split("\n") for data in (found, expected))
    pairs = zip(lines, wanted, strict=False)
    number = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(lines), len(wanted)))
    mine, true = (part[number] if number < len(part) else "" for part in (lines, wanted))
    start = max(next((i for i, (a, b) in enumerate(zip(mine, true, strict=False)) if a != b), 0) - 30, 0)
    return IntegrityError(
        f"line {number + 1} is not what the bundles give",
        where=where,
        found=_short(mine, start) if number < len(lines) else "the end",
        expected=_short(true, start) if number < len(wanted) else "the end",
    )


def _short(line: str, start: int) -> str:
    text = line.strip() if len(line.strip()) <= SHOWN else f"…{line[start : start + SHOWN]}…"
    return repr(text)
