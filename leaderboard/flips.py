"""The flips explorer: samples that one arm of a pair has right and the other has not, on static pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.comparison import RIGHT
from harness.pairs import Pair
from leaderboard.boxes import Box, answers_boxes, lay_out
from leaderboard.comparisons import Comparisons
from leaderboard.compose import encoder_name, task_names, task_title
from leaderboard.facts import Facts
from leaderboard.kit import Kit
from leaderboard.pair_names import DIRECTIONS, flips_href, pair_href
from leaderboard.pair_page import declared, difference_row, span_of
from leaderboard.sample_facts import SHOWN_EACH
from leaderboard.sample_records import Flip, FlipSet, Saying
from leaderboard.sample_views import Shot
from leaderboard.sentences import dead_tasks_words, weak_words
from leaderboard.shots import counted, media_href, shot
from leaderboard.views import EncoderName, Span
from leaderboard.wording import page_name

PAGE_SIZE = 24
_PLAIN = re.compile(r"[\w. -]*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One seed's answers of both arms; None where an arm has no such seed."""

    seed: int
    a: Saying | None
    b: Saying | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One flip."""

    flip: Flip
    shot: Shot | None
    question: str
    references: tuple[str, ...]
    license: str
    """Set where the licence keeps question and picture off the page."""
    rows: tuple[Said, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One choice of a filter; no link where nothing is to be seen."""

    label: str
    href: str
    current: bool
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FlipsPage:
    """One page of flips."""

    href: str
    protocol: str
    a: EncoderName
    b: EncoderName
    pair: str
    task_title: str
    task_href: str
    difference: Span | None
    marks: tuple[str, ...]
    """What is to be known of the difference: a sentence if the task is dead and one a held arm."""
    counts: FlipSet
    num_here: int
    """Flips of the direction that the site shows, over all pages."""
    most: int
    """That it may show of each direction."""
    num_there: int
    """Flips of the direction in all."""
    tasks: tuple[Choice, ...]
    directions: tuple[Choice, ...]
    pages: tuple[Choice, ...]
    cards: tuple[Markup, ...]
    query: str
    has_pack: bool
    suite: str
    dataset: str
    boxed: bool
    """Whether a picture on the page bears boxes."""
    licenses: tuple[str, ...]
    """Of the pictures on the page."""


def flip_pages(kit: Kit) -> dict[str, bytes]:
    """All pages of flips, by path."""
    files: dict[str, bytes] = {}
    for compared in kit.compared:
        for pair in declared(kit.facts):
            for task in task_names(compared):
                for view in task_flips(kit, compared, pair, task):
                    files[view.href] = kit.page("flips.html.j2", view.href, page=view)
    return files


def media_files(kit: Kit) -> dict[str, bytes]:
    """Pictures of the samples on pages, each once, by path."""
    pictures = (s.picture for told in kit.facts.samples.values() for s in told.values())
    return {media_href(p): p.data for p in pictures if p is not None}


def task_flips(kit: Kit, compared: Comparisons, pair: Pair, task: str) -> list[FlipsPage]:
    """The pages of a pair's flips on one task: all, then each direction; none where nothing flips."""
    found = kit.facts.flips.get((compared.protocol, task, pair.a, pair.b))
    if found is None or not found.shown:
        return []
    row = difference_row(compared, pair, task)
    difference = None if row is None else span_of(row)
    marks = (*dead_tasks_words(compared, (task,)), *weak_words(compared, (pair.a, pair.b), (task,)))
    cards = {f.sample_id: _render(kit, compared, task, f) for f in found.shown}
    pages = []
    for direction in DIRECTIONS:
        flips = [f for f in found.shown if direction in ("all", f.right)]
        for start in range(0, len(flips), PAGE_SIZE):
            part = flips[start : start + PAGE_SIZE]
            where = _Place(pair, task, direction, start // PAGE_SIZE + 1, difference, marks)
            pages.append(_page(compared, found, where, part, len(flips), cards))
    return pages


@dataclass(frozen=True, slots=True)
class _Place:
    """Which page of which pair and task."""

    pair: Pair
    task: str
    direction: str
    number: int
    difference: Span | None
    marks: tuple[str, ...]


def _page(
    compared: Comparisons,
    found: FlipSet,
    where: _Place,
    part: Sequence[Flip],
    num_here: int,
    cards: dict[str, Markup],
) -> FlipsPage:
    facts, protocol, pair, task = compared.facts, compared.protocol, where.pair, where.task
    told = facts.samples.get((protocol, task), {})
    shown = [told[f.sample_id] for f in part if f.sample_id in told]
    counts = {"all": found.num_a + found.num_b, "a": found.num_a, "b": found.num_b}
    definition = facts.tasks.get(task)
    return FlipsPage(
        href=flips_href(protocol, pair.a, pair.b, task, where.direction, where.number),
        protocol=protocol,
        a=encoder_name(facts, pair.a),
        b=encoder_name(facts, pair.b),
        pair=pair_href(pair.a, pair.b),
        task_title=task_title(facts, task),
        task_href=f"tasks/{page_name(task)}",
        difference=where.difference,
        marks=where.marks,
        counts=found,
        num_here=num_here,
        most=SHOWN_EACH,
        num_there=counts[where.direction],
        tasks=_task_choices(compared, pair, task),
        directions=_direction_choices(compared, found, where),
        pages=tuple(
            Choice(
                label=str(n),
                href=flips_href(protocol, pair.a, pair.b, task, where.direction, n),
                current=n == where.number,
                count=0,
            )
            for n in range(1, -(-num_here // PAGE_SIZE) + 1)
        ),
        cards=tuple(cards[f.sample_id] for f in part),
        query=query_words(protocol, task, pair, where.direction),
        has_pack=(protocol, task) in facts.samples,
        suite=facts.suites[protocol],
        dataset=definition.dataset if definition else "",
        boxed=bool(shown) and answers_boxes(definition),
        licenses=tuple(sorted({s.license for s in shown if s.shown and s.picture is not None})),
    )


def _task_choices(compared: Comparisons, pair: Pair, task: str) -> tuple[Choice, ...]:
    choices = []
    for other in task_names(compared):
        found = compared.facts.flips.get((compared.protocol, other, pair.a, pair.b))
        if found is not None:
            choices.append(
                Choice(
                    label=task_title(compared.facts, other),
                    href=flips_href(compared.protocol, pair.a, pair.b, other) if found.shown else "",
                    current=other == task,
                    count=found.num_a + found.num_b,
                )
            )
    return tuple(choices)


def _direction_choices(compared: Comparisons, found: FlipSet, where: _Place) -> tuple[Choice, ...]:
    counts = {"all": found.num_a + found.num_b, "a": found.num_a, "b": found.num_b}
    labels = {"all": "All", "a": "Only A right", "b": "Only B right"}
    pair = where.pair
    return tuple(
        Choice(
            label=labels[d],
            href=flips_href(compared.protocol, pair.a, pair.b, where.task, d) if counts[d] else "",
            current=d == where.direction,
            count=counts[d],
        )
        for d in DIRECTIONS
    )


def query_words(protocol: str, task: str, pair: Pair, direction: str = "all") -> str:
    """The command that lists a pair's flips on a task; safe to paste, whatever the names are."""
    given = {"protocol": protocol, "task": task, "a": pair.a, "b": pair.b}
    given |= {} if direction == "all" else {"right_side": direction}
    where = " AND ".join(f"{name} = {_sql_text(value)}" for name, value in given.items())
    sql = f"SELECT sample_id, score_a, score_b, right_side FROM flips WHERE {where}"
    plain = all(_PLAIN.fullmatch(value) for value in given.values())
    return f"eyechart query {chr(34) + sql + chr(34) if plain else shlex.quote(sql)}"


def _sql_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _render(kit: Kit, compared: Comparisons, task: str, flip: Flip) -> Markup:
    """A card's markup: made once, since two pages show it, and escaped by the template that makes it."""
    view = card(compared.facts, compared.protocol, task, flip)
    template = kit.environment.get_template("_flip.html.j2")
    return Markup(template.render(card=view, root="../../../", right=RIGHT))  # noqa: S704


def card(facts: Facts, protocol: str, task: str, flip: Flip) -> Card:
    """What a page tells of one flip."""
    told = facts.samples.get((protocol, task), {}).get(flip.sample_id)
    seeds = sorted({s.seed for s in (*flip.said_a, *flip.said_b)})
    a, b = ({s.seed: s for s in said} for said in (flip.said_a, flip.said_b))
    boxes: tuple[Box, ...] = ()
    if told is not None and told.picture is not None and answers_boxes(facts.tasks.get(task)):
        boxes = lay_out(told.references, *([s.answer for s in said] for said in (flip.said_a, flip.said_b)))
    return Card(
        flip=flip,
        shot=shot(told, flip.sample_id, boxes),
        question=told.question if told else "",
        references=counted(told.references) if told else (),
        license="" if told is None or told.shown else told.license or "not stated",
        rows=tuple(Said(seed=seed, a=a.get(seed), b=b.get(seed)) for seed in seeds),
    )
