"""Index to static site. The same index, pairs and task definitions give the same bytes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.errors import ResourceError, UsageError
from harness.files import write_atomic
from leaderboard import wording
from leaderboard.comparisons import Comparisons
from leaderboard.compose import task_names, task_page
from leaderboard.facts import Facts
from leaderboard.index import read_facts
from leaderboard.profiles import encoder_page, methods_page, protocol_section, site_frame
from leaderboard.sentences import REHEARSAL
from leaderboard.views import BEATS_BY

HERE = Path(__file__).resolve().parent
MARKER = ".eyechart-site"
"""Names a folder as one that a build may replace; a folder without it is never emptied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReport:
    """What a build wrote."""

    pages: int
    bytes: int
    """All files together, uncompressed."""
    index: Path


def build_site(
    db: Path,
    out: Path,
    pairs: Path | None = None,
    tasks_dir: Path | None = None,
    protocols: Sequence[Path] = (),
) -> SiteReport:
    """Build the static site of everything in the index.

    Args:
        db: the DuckDB index, as `eyechart ingest` makes it.
        out: folder of the site; an earlier build there is replaced.
        pairs: pairs.toml, or None for no pair table.
        tasks_dir: folder with the task definitions; the repository's by default.
        protocols: files of protocols beside those that come with Eyechart.

    Raises:
        UsageError: `out` holds something that is no site.
        StoreBusyError: another process writes the index.
        ResourceError: the disk is full.
    """
    return write_site(render_site(read_facts(db, pairs, tasks_dir, protocols)), out)


def render_site(facts: Facts) -> dict[str, bytes]:
    """All files of the site by relative path."""
    environment = _environment()
    compared = [Comparisons(facts, protocol) for protocol in _protocol_order(facts)]
    site = site_frame(facts, compared)

    def page(template: str, root: str, **values: object) -> bytes:
        text = environment.get_template(template).render(
            site=site, root=root, beats_by=f"{BEATS_BY:g}", **values
        )
        return text.encode()

    files = {
        "index.html": page("index.html.j2", "", sections=[protocol_section(c) for c in compared]),
        "methods.html": page("methods.html.j2", "", page=methods_page(facts)),
        "404.html": page("404.html.j2", ""),
    }
    for encoder in sorted({e for _, e, _ in facts.metrics}):
        view = encoder_page(facts, compared, encoder)
        files[view.name.href] = page("encoder.html.j2", "../", page=view)
    for task in sorted({t for c in compared for t in task_names(c)}):
        files[f"tasks/{wording.page_name(task)}"] = page(
            "task.html.j2", "../", page=task_page(facts, compared, task)
        )
    for path in sorted((HERE / "static").iterdir()):
        files[f"static/{path.name}"] = path.read_bytes()
    return files


def _protocol_order(facts: Facts) -> list[str]:
    """Main suites before the demonstrations, so that toy numbers never come first beside real ones."""
    last = ("mini", REHEARSAL)
    return sorted(
        facts.suites, key=lambda p: (last.index(facts.suites[p]) + 1 if facts.suites[p] in last else 0, p)
    )


def write_site(files: Mapping[str, bytes], out: Path) -> SiteReport:
    """Write the files beside `out` and swap them in, so that a reader never meets half a site."""
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
        write_atomic(staging / MARKER, b"")
        for name, data in sorted(files.items()):
            write_atomic(staging / name, data)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    pages = sum(name.endswith(".html") for name in files)
    return SiteReport(pages=pages, bytes=sum(map(len, files.values())), index=out / "index.html")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        per_cent=wording.per_cent,
        points=wording.points,
        errors_away=wording.errors_away,
        seconds=wording.seconds,
        thousands=lambda n: f"{n:,}",
    )
    environment.globals.update(
        range_of=wording.range_of, points_range=wording.points_range, count_of=wording.count_of
    )
    return environment
