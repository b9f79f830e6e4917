"""What every maker of pages gets: the facts, the comparisons, and a way to fill a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.floor_rows import BEATS_BY
from leaderboard import wording
from leaderboard.comparisons import Comparisons
from leaderboard.facts import Facts
from leaderboard.views import Board, Site

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Kit:
    """The inputs of a build, the same for all makers."""

    facts: Facts
    compared: Sequence[Comparisons]
    """One a protocol, in the order of the pages."""
    site: Site
    environment: Environment
    boards: Sequence[Board] = ()
    """Of each protocol, in the same order."""
    database: Path | None = None
    """The index itself, for what is copied out of it; None where only facts are at hand."""
    url: str = ""
    """Address of the hosted site, with a slash at its end; empty for a site that knows none."""
    repository: str = ""
    """Address of the repository that results are submitted to, without a slash at its end; or empty."""

    def page(self, template: str, href: str, **values: object) -> bytes:
        """A page as UTF-8; `root` leads from `href` back to the site's top, so that file:// works."""
        # A host shows 404.html in place of whatever page is missing, however deep: only its address helps.
        root = self.url if self.url and href == "404.html" else "../" * href.count("/")
        text = self.environment.get_template(template).render(
            site=self.site, root=root, here=href, url=self.url, repository=self.repository,
            beats_by=f"{BEATS_BY:g}", **values,
        )  # fmt: skip
        return text.encode()


Maker = Callable[[Kit], Mapping[str, bytes]]
"""Makes some of the site's files, by relative path; no two makers make the same one."""


def environment() -> Environment:
    """Templates with everything escaped and nothing undefined."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(
        per_cent=wording.per_cent,
        points=wording.points,
        errors_away=wording.errors_away,
        seconds=wording.seconds,
        thousands=lambda n: f"{n:,}",
        millions=wording.millions,
        for_sorting=lambda x: f"{x:.6g}",
        megabytes=lambda n: f"{n / 1e6:g} MB",
    )
    made.globals.update(
        range_of=wording.range_of, points_range=wording.points_range, count_of=wording.count_of
    )
    return made
