"""What the start page and the boards show, as frozen records; the rest is in `views`."""

from __future__ import annotations

from dataclasses import dataclass

from leaderboard.charts import Tick
from leaderboard.planes import Plane
from leaderboard.views import Board, Difference, EncoderName, PairRow, Span


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterRow:
    """The scatter's data table."""

    key: str
    name: EncoderName
    probe: Span
    answers: Span


@dataclass(frozen=True, kw_only=True, slots=True)
class ScatterFigure:
    """Chart and table of probe against VQA."""

    chart: Plane
    rows: tuple[ScatterRow, ...]
    left_out: tuple[str, ...]
    """Encoders without both numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeRow:
    """One row of the table behind the chart of costs."""

    key: str
    name: EncoderName
    cost_s: float
    score: Span
    beaten: str
    """Whether a row scores higher at less cost: "no", "by point value only", or "yes, proven"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TradeFigure:
    """Cost against score."""

    chart: Plane
    rows: tuple[TradeRow, ...]
    left_out: int
    """Rows that are neither drawn nor listed, because another beats them and there are many."""
    unlike: int
    """Rows left out because their cost is of fewer tasks or seeds."""
    machines: tuple[str, ...]
    """Hardware of the runs: seconds of different machines do not compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairPoint:
    """One pair in the pair plot and its table."""

    key: str
    label: str
    href: str
    probe: Span
    answers: Span


@dataclass(frozen=True, kw_only=True, slots=True)
class PairKind:
    """What is declared of a pair's information, and how such a pair is drawn."""

    words: str
    side: str
    shape: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFigure:
    """Probe difference against answer difference, one point a pair that crosses the sides."""

    chart: Plane
    rows: tuple[PairPoint, ...]
    kinds: tuple[PairKind, ...]
    """Those that are drawn, for the legend."""
    num_left_out: int
    """Pairs without both numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flipped:
    """An encoder that the probe puts ahead of others which are ahead of it on the task, both proven."""

    name: EncoderName
    ahead_on_task: tuple[EncoderName, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementView:
    """A probe's order against a task's."""

    probe_title: str
    probe_href: str
    num_held: int
    """Encoders that a floor holds on the probe: an order of such tells little."""
    task_title: str
    task_href: str
    dead: bool
    words: str
    num_flips: int
    flipped: tuple[Flipped, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairStrip:
    """One pair on one task."""

    label: str
    href: str
    difference: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskForest:
    """All pairs on one task."""

    task_title: str
    task_href: str
    dead: bool
    tally: str
    held: str
    """In how many pairs arms are held by a floor, in words; empty for none."""
    rows: tuple[PairStrip, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AspectRow:
    """One aspect over all pairs that cross the sides, and how far the records bear it out."""

    aspect: str
    num_equal: int
    num_differs: int
    num_confirmed: int
    num_contradicted: int
    num_unknown: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """What the start page shows of one protocol."""

    name: str
    suite: str
    board_href: str
    answer: str
    answer_more: tuple[str, ...]
    num_pairs: int
    """Pairs that cross the sides, measured on at least one task."""
    pairs: PairFigure | None
    scatter: ScatterFigure | None
    agreements: tuple[AgreementView, ...]
    forests: tuple[TaskForest, ...]
    ticks: tuple[Tick, ...]
    pooled_words: str
    aspects: tuple[AspectRow, ...]
    unplotted: tuple[tuple[str, str], ...]
    """(label, page) of pairs that stand in no row beside the pair plot."""
    others: tuple[PairRow, ...]
    """Pairs within one side, such as two pre-trainings of one recipe."""
    board: Board


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardPage:
    """The board of one protocol on a page of its own."""

    name: str
    suite: str
    href: str
    board: Board
    left_out: int
    """Ranked rows beyond those on the page."""
    weak: tuple[str, ...]
    """One sentence per cell that does not pass a floor."""
    floors_missing: tuple[str, ...]
    trade: TradeFigure | None
    strips: bool
    """Whether cells have small bars."""
    pair_files_json: str
    """[[task, file], …] with all pairs of its ranked encoders, for the ranks of what a filter leaves."""
    num_margins: int
    """Cells that were held against a required floor."""
    unranked: tuple[str, ...]
    """Titles of tasks without such a file: fewer than two encoders, or too many."""
