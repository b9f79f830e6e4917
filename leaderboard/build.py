"""Index to static site. The same index, pairs and task definitions give the same bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import ResourceError, UsageError
from leaderboard.address import base_address, repository_address
from leaderboard.badges import badge_files
from leaderboard.board import board, board_page
from leaderboard.changes import changes_pages
from leaderboard.comparisons import Comparisons
from leaderboard.compose import task_names, task_page
from leaderboard.downloads import download_files
from leaderboard.facts import Facts
from leaderboard.feed import feed_files
from leaderboard.flips import flip_pages, media_files
from leaderboard.home import home_section
from leaderboard.index import read_facts
from leaderboard.kit import HERE, Kit, Maker, environment
from leaderboard.pair_codes import pair_files
from leaderboard.pair_page import pair_pages
from leaderboard.profiles import encoder_page, methods_page, site_frame
from leaderboard.runs_page import runs_files
from leaderboard.sentences import REHEARSAL
from leaderboard.shelf_page import shelf_pages
from leaderboard.social import social_files
from leaderboard.submit_page import submit_pages

MARKER = ".eyechart-site"
"""Names a folder as one that a build may replace; a folder without it is never emptied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReport:
    """What a build wrote."""

    pages: int
    bytes: int
    """All files together, uncompressed."""
    index: Path
    first: bool
    """Whether no build stood at this place before."""
    new: tuple[str, ...]
    """Files that the build before had not; all of them in the first build."""
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    without_pictures: tuple[str, ...] = ()
    """Tasks of which no task pack was at hand, so that their pages show ids in place of samples."""


def build_site(
    db: Path,
    out: Path,
    pairs: Path | None = None,
    tasks_dir: Path | None = None,
    protocols: Sequence[Path] = (),
    datasets: Path | None = None,
    *,
    local_media: bool = False,
    url: str = "",
    repository: str = "",
) -> SiteReport:
    """Build the static site of everything in the index.

    Args:
        db: the DuckDB index, as `eyechart ingest` makes it.
        out: folder of the site; an earlier build there is replaced.
        pairs: pairs.toml, or None for no pair table.
        tasks_dir: folder with the task definitions; the repository's by default.
        protocols: files of protocols beside those that come with Eyechart.
        datasets: folder with a folder a suite, whose task packs tell what a sample is; None for none.
        local_media: show what licences forbid, too, for a person's own eyes; every page says so.
        url: address that the site will have, or empty: makes the feed's links and the preview's absolute.
        repository: address of the repository that results are submitted to, or empty.

    Raises:
        UsageError: `out` holds something that is no site, or `url` or `repository` is no address.
        StoreBusyError: another process writes the index.
        ResourceError: the disk is full.
    """
    address, home = base_address(url), repository_address(repository)
    facts = read_facts(db, pairs, tasks_dir, protocols, datasets, local_media=local_media)
    report = write_site(render_site(facts, db, address, home), out)
    played = {(run.protocol, run.task) for run in facts.runs}
    lacking = {task for protocol, task in played if (protocol, task) not in facts.samples}
    return replace(report, without_pictures=tuple(sorted(lacking)))


def render_site(
    facts: Facts, database: Path | None = None, url: str = "", repository: str = ""
) -> dict[str, bytes]:
    """All files of the site by relative path; without `database` none of its tables as files."""
    compared = [Comparisons(facts, protocol) for protocol in _protocol_order(facts)]
    kit = Kit(
        facts=facts,
        compared=compared,
        boards=[board(c) for c in compared],
        site=site_frame(facts, compared),
        environment=environment(),
        database=database,
        url=url,
        repository=repository,
    )
    files: dict[str, bytes] = {}
    for make in MAKERS:
        made = make(kit)
        twice = files.keys() & made.keys()
        assert not twice, f"made twice: {sorted(twice)}"
        files.update(made)
    return files


def _front_pages(kit: Kit) -> dict[str, bytes]:
    sections = [home_section(c, b) for c, b in zip(kit.compared, kit.boards, strict=True)]
    return {
        "index.html": kit.page("index.html.j2", "index.html", sections=sections),
        "methods.html": kit.page("methods.html.j2", "methods.html", page=methods_page(kit.facts)),
        "404.html": kit.page("404.html.j2", "404.html"),
    }


def _board_pages(kit: Kit) -> dict[str, bytes]:
    views = (board_page(c, b) for c, b in zip(kit.compared, kit.boards, strict=True))
    return {v.href: kit.page("board.html.j2", v.href, page=v) for v in views}


def _encoder_pages(kit: Kit) -> dict[str, bytes]:
    views = (encoder_page(kit.facts, kit.compared, e) for e in sorted({e for _, e, _ in kit.facts.metrics}))
    return {v.name.href: kit.page("encoder.html.j2", v.name.href, page=v) for v in views}


def _task_pages(kit: Kit) -> dict[str, bytes]:
    views = (
        task_page(kit.facts, kit.compared, t)
        for t in sorted({t for c in kit.compared for t in task_names(c)})
    )
    return {v.head.href: kit.page("task.html.j2", v.head.href, page=v) for v in views}


def _static_files(_: Kit) -> dict[str, bytes]:
    return {f"static/{path.name}": path.read_bytes() for path in sorted((HERE / "static").iterdir())}


MAKERS: tuple[Maker, ...] = (
    _front_pages,
    _board_pages,
    pair_files,
    _encoder_pages,
    _task_pages,
    shelf_pages,
    submit_pages,
    changes_pages,
    pair_pages,
    flip_pages,
    media_files,
    _static_files,
    badge_files,
    feed_files,
    download_files,
    social_files,
    runs_files,
)
"""Who makes which part of the site."""


def _protocol_order(facts: Facts) -> list[str]:
    """Main suites before the demonstrations, so that toy numbers never come first beside real ones."""
    last = ("mini", REHEARSAL)
    return sorted(
        facts.suites, key=lambda p: (last.index(facts.suites[p]) + 1 if facts.suites[p] in last else 0, p)
    )


def write_site(files: Mapping[str, bytes], out: Path) -> SiteReport:
    """Write the files beside `out` and swap them in, so that a reader never meets half a site.

    Raises:
        UsageError: `out` holds something that is no site.
        ResourceError: the disk is full, or the folder cannot be replaced; the old site stays.
    """
    out = out.resolve()  # a link to a folder keeps leading there
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).exists())):
        raise UsageError(
            "not replaced: it holds something that is no site",
            where=str(out),
            expected="an empty folder, or one that an earlier build made",
            fix="choose another folder",
        )
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".site-", dir=out.absolute().parent))
    except OSError as error:
        raise ResourceError("cannot make the site's folder", where=str(out), found=str(error)) from error
    try:
        staging.chmod(0o755)
        before = _files_of(out)
        same = {name for name in files.keys() & before.keys() if before[name].read_bytes() == files[name]}
        _write_files(staging, {MARKER: b"", **files}, {name: before[name] for name in same})
        changed = tuple(sorted(files.keys() & before.keys() - same))
        _swap(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    pages = sum(name.endswith(".html") for name in files)
    return SiteReport(
        pages=pages,
        bytes=sum(map(len, files.values())),
        index=out / "index.html",
        first=not before,
        new=tuple(sorted(files.keys() - before.keys())),
        changed=changed,
        removed=tuple(sorted(before.keys() - files.keys())),
    )


def _files_of(site: Path) -> dict[str, Path]:
    """Plain files of an earlier build by relative path, without the marker."""
    found = (p for p in site.rglob("*") if p.is_file() and not p.is_symlink())
    return {p.relative_to(site).as_posix(): p for p in found if p.name != MARKER}


def _write_files(folder: Path, files: Mapping[str, bytes], same: Mapping[str, Path]) -> None:
    """Plain writes: nobody reads the folder yet, and a site that a power cut takes can be made again.

    A file of `same` is taken over from the last build, its time with it, so that what copies the site
    elsewhere carries only what changed.
    """
    try:
        for name, data in sorted(files.items()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in same:
                _take_over(same[name], path)
            else:
                path.write_bytes(data)
    except OSError as error:
        raise ResourceError("cannot write the site", where=str(folder), found=str(error)) from error


def _take_over(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copy2(old, new)


def _swap(staging: Path, out: Path) -> None:
    """The new site in place of the old one; where that fails, the old one is put back."""
    aside = staging.with_name(f"{staging.name}-old")
    try:
        if out.exists():
            out.rename(aside)
        try:
            staging.rename(out)
        except OSError:
            if aside.exists():
                aside.rename(out)
            raise
    except OSError as error:
        raise ResourceError("cannot replace the site", where=str(out), found=str(error)) from error
    shutil.rmtree(aside, ignore_errors=True)
