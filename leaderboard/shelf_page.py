"""The published shelf as a page: tables of papers, and whether our own pairs point the same way.

Published numbers stand beside ours in words only, never in one table. Ours come from suite `main` alone: the
mini suite is a toy and is held against nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from leaderboard.charts import SHAPE_OF_SIDE
from leaderboard.comparisons import Comparisons
from leaderboard.compose import difference_span, task_title
from leaderboard.kit import Kit
from leaderboard.sentences import pairs_here
from leaderboard.shelf import PUBLISHED, Column, Contrast, Paper, Row, Table, read_shelf
from leaderboard.wording import per_cent, points_range, web_link

MAIN = "main"
"""The suite of real encoders and real data."""
_MINUS = "\N{MINUS SIGN}"
NOT_READ = "nobody has read the paper's table for us yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class OurSide:
    """One of our pairs on one of our tasks, held against a published contrast."""

    words: str
    """Which pair, and which side is ahead by how much."""
    verdict: str
    """"same direction", "opposite direction" or "undecided"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastLine:
    """One column of a published pair."""

    task: str
    difference: str
    """Classification less contrastive, signed, digits as published; empty where a value is missing."""
    theirs: str
    """In words: which side is ahead by how much, or why there is no number."""
    ours: tuple[OurSide, ...]
    ours_words: str
    """Why `ours` is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairView:
    """One published pair, column by column."""

    classification: str
    contrastive: str
    note: str
    lines: tuple[ContrastLine, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowView:
    """One row as printed."""

    encoder: str
    objective: str
    side: str
    shape: str
    resolution: str
    values: tuple[str, ...]
    """Digits as published; empty where there is no value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableView:
    """One published table as printed."""

    title: str
    source: str
    seen: bool
    uncertainty: str
    columns: tuple[Column, ...]
    rows: tuple[RowView, ...]
    pairs: tuple[PairView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperView:
    """One paper as printed."""

    anchor: str
    paper: Paper
    href: str
    """Plain https address, or empty."""
    address: str
    """What the link says."""
    tables: tuple[TableView, ...]
    status: str
    """One line for the list of contents."""


def shelf_pages(kit: Kit, folder: Path = PUBLISHED) -> Mapping[str, bytes]:
    """`published.html`.

    Raises:
        UsageError: a file of the shelf is not valid.
    """
    mains = tuple(c for c in kit.compared if kit.facts.suites[c.protocol] == MAIN)
    papers = tuple(paper_view(paper, mains) for paper in read_shelf(folder))
    page = kit.page(
        "published.html.j2", "published.html", papers=papers, has_main=bool(mains), not_read=NOT_READ
    )
    return {"published.html": page}


def paper_view(paper: Paper, mains: Sequence[Comparisons]) -> PaperView:
    """A paper with its contrasts held against our protocols of suite `main`."""
    address = f"arXiv {paper.arxiv}" if paper.arxiv else paper.link
    tables = tuple(_table_view(table, mains) for table in paper.tables)
    num_pairs = sum(len(t.pairs) for t in tables)
    read = "numbers read in their source" if all(t.seen for t in tables) else NOT_READ
    pairs = f"{num_pairs} {'pair' if num_pairs == 1 else 'pairs'}" if num_pairs else "no pair"
    return PaperView(
        anchor=f"paper-{paper.name}",
        paper=paper,
        href=web_link(f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else paper.link),
        address=address,
        tables=tables,
        status=f"{pairs} of classification against contrastive; {read}",
    )


def _table_view(table: Table, mains: Sequence[Comparisons]) -> TableView:
    return TableView(
        title=table.title,
        source=table.source,
        seen=table.verified == "seen",
        uncertainty=table.uncertainty,
        columns=table.columns,
        rows=tuple(_row_view(row) for row in table.rows),
        pairs=tuple(pair_view(table, pair, mains) for pair in table.pairs),
    )


def _row_view(row: Row) -> RowView:
    return RowView(
        encoder=row.encoder,
        objective=row.objective,
        side=row.side,
        shape=SHAPE_OF_SIDE[row.side],
        resolution=row.resolution,
        values=tuple("" if v is None else signless(v) for v in row.values),
    )


def pair_view(table: Table, pair: Contrast, mains: Sequence[Comparisons]) -> PairView:
    """A published pair, every column of its table in order; no column of a table that nobody has read."""
    arms = table.row(pair.classification), table.row(pair.contrastive)
    lines = []
    for i, column in enumerate(table.columns if table.verified == "seen" else ()):
        left, right = (arm.values[i] for arm in arms)
        gap = None if left is None or right is None else left - right
        lines.append(_line(column, gap, mains))
    return PairView(
        classification=arms[0].encoder, contrastive=arms[1].encoder, note=pair.note, lines=tuple(lines)
    )


def _line(column: Column, gap: Decimal | None, mains: Sequence[Comparisons]) -> ContrastLine:
    ours = () if gap is None else tuple(o for task in column.ours for o in our_sides(task, gap, mains))
    if not column.ours:
        words = "no task of ours asks this"
    elif not mains:
        words = "no main-suite row yet"
    elif gap is None:
        words = "held against nothing: there is no published number"
    else:
        words = "no main-suite pair is complete on this task yet"
    return ContrastLine(
        task=column.task,
        difference="" if gap is None else signed(gap),
        theirs="not given for both" if gap is None else _ahead(gap, column.unit),
        ours=ours,
        ours_words="" if ours else words,
    )


def our_sides(task: str, gap: Decimal, mains: Sequence[Comparisons]) -> tuple[OurSide, ...]:
    """Our pairs of classification against contrastive on one task, each with its verdict.

    Left out: pairs that the records contradict, and pairs with a self-reported arm.

    Args:
        task: name of a task of ours.
        gap: the published difference, classification less contrastive.
        mains: comparisons of protocols of suite `main`, and of no other.
    """
    found = []
    for compared in mains:
        facts = compared.facts
        assert facts.suites[compared.protocol] == MAIN, compared.protocol
        for arms in pairs_here(compared):
            if not arms.counts:
                continue
            difference = compared.difference(arms.first, arms.second, task)
            if difference is None:
                continue
            span = difference_span(difference)
            titles = [facts.submissions[e].title for e in (arms.first, arms.second)]
            size = f"{per_cent(abs(span.value))} points [{points_range(span.low, span.high)}]"
            decided = span.low > 0 or span.high < 0
            side = "classification" if span.value > 0 else "contrastive"
            words = f"{side} ahead by {size}" if decided else f"neither side ahead, {size}"
            same = (span.value > 0) == (gap > 0) and gap != 0
            verdict = "same direction" if same else "opposite direction"
            verdict = "undecided" if not decided else verdict if gap else "published: no difference"
            where = f"{task_title(facts, task)}, protocol {compared.protocol}, {titles[0]} less {titles[1]}"
            found.append(OurSide(words=f"{where}: {words}", verdict=verdict))
    return tuple(found)


def signless(value: Decimal) -> str:
    """A published number with a true minus sign and its digits unchanged."""
    return f"{value:f}".replace("-", _MINUS)


def signed(gap: Decimal) -> str:
    """A difference: +24.30, −1.20, 0.00."""
    return f"{gap:+f}".replace("-", _MINUS) if gap else f"{abs(gap):f}"


def _ahead(gap: Decimal, unit: str) -> str:
    if not gap:
        return "no difference"
    side = "classification" if gap > 0 else "contrastive"
    return f"{side} ahead by {abs(gap):f} {'points' if unit == '%' else unit}"
