"""What every maker of pages gets: the facts, the comparisons, and a way to fill a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leaderboard import wording
from leaderboard.comparisons import Comparisons
from leaderboard.facts import Facts
from leaderboard.views import BEATS_BY, Board, Site

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

    def page(self, template: str, href: str, **values: object) -> bytes:
        """A page as UTF-8; `root` leads from `href` back to the site's top, so that file:// works."""
        root = "../" * href.count("/")
        text = self.environment.get_template(template).render(
            site=self.site, root=root, here=href, beats_by=f"{BEATS_BY:g}", **values
        )
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
    )
    made.globals.update(
        range_of=wording.range_of, points_range=wording.points_range, count_of=wording.count_of
    )
    return made
