"""What each page shows, as frozen records. Templates see these and nothing else.

Scores are fractions (0-1); the templates print per cent. Every string may come from a stranger and is
escaped where it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from leaderboard.charts import Strip, Tick
from leaderboard.facts import Place
from leaderboard.sample_views import TaskSamples

CellState = Literal["scored", "incomplete", "not-run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FloorMargin:
    """One encoder against one floor on one task, on the same samples."""

    kind: str
    """Floor in words."""
    floor: str
    """Title of the floor's row."""
    floor_href: str
    required: bool
    """False for pixel patches, which are shown and not part of the rule."""
    difference: Span
    errors_away: float
    """Difference in standard errors."""
    beaten: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One encoder on one task. `span` is set only when state is "scored"."""

    task: str
    task_title: str
    task_href: str
    state: CellState
    num_seeds: int = 0
    num_expected: int = 0
    num_scored: int = 0
    num_unparsed: int = 0
    num_error: int = 0
    num_missing: int = 0
    tier: str = ""
    span: Span | None = None
    lift: Span | None = None
    """Difference to the blind floor; None where no blind floor was run."""
    strip: Strip | None = None
    margins: tuple[FloorMargin, ...] = ()
    dead: bool = False
    """Whether the task is dead: no encoder on it is shown to see."""
    place: Place | None = None
    """Among all ranked encoders; None for floors, self-reported rows and cells without a number."""

    @property
    def lack(self) -> str:
        """Why an incomplete cell has no number: nothing was judged, or not everything."""
        return "partial" if self.num_done else "failed"

    @property
    def not_beaten(self) -> tuple[FloorMargin, ...]:
        """Required floors that this cell does not pass by BEATS_BY standard errors."""
        return tuple(m for m in self.margins if m.required and not m.beaten)

    @property
    def num_done(self) -> int:
        """Samples with a judgement, over all seeds."""
        return self.num_scored + self.num_unparsed


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderName:
    """How an encoder is named wherever it is mentioned."""

    id: str
    title: str
    href: str
    side: str
    family: str
    shape: str
    architecture: str
    floor: str = ""
    """Floor in words; empty for encoders."""
    flags: tuple[str, ...] = ()
    """What a reader of its numbers should know: under the token budget, code of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardRow:
    """One row of the board."""

    name: EncoderName
    cells: tuple[Cell, ...]
    tier: str
    """The least trusted of its cells' tiers; empty where nothing was run."""
    source: str
    """Kind of source: transformers, timm, open_clip, local, python."""
    num_params: int | None
    cost_s: float | None
    """Seconds of all its runs, what several runs share counted once; None where no run says."""
    search: str
    """Lower-case text that the search looks through beside what the row shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskHead:
    """A task as the board's column and the task list name it."""

    name: str
    title: str
    href: str
    kind: str
    metric: str
    num_expected: int
    chance: float
    best: str = ""
    best_span: Span | None = None
    dead: bool = False
    dead_words: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """The sortable table and its floors."""

    tasks: tuple[TaskHead, ...]
    encoders: tuple[BoardRow, ...]
    reported: tuple[BoardRow, ...]
    """Self-reported rows: apart from the ranked ones."""
    floors: tuple[BoardRow, ...]
    sorted_by: str
    """Task whose score orders the rows as served."""
    sorted_title: str
    families: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    """What there is to filter by, sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """First arm minus second arm on one task."""

    task_title: str
    task_href: str
    span: Span | None
    verdict: str
    """In words: which arm is ahead, "undecided", or why there is no number."""
    strip: Strip | None
    held: str = ""
    """Which of the arms a floor holds, in words; empty for neither."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """One declared pair."""

    label: str
    note: str
    held_equal: str
    differs: str
    first: EncoderName
    """The classification arm, where the sides differ."""
    second: EncoderName
    differences: tuple[Difference, ...]
    href: str
    """The pair's own page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedCell:
    """One run of one seed."""

    task_title: str
    task_href: str
    seed: int
    state: CellState
    value: float | None
    num_expected: int
    num_done: int
    num_unparsed: int
    run_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A labelled value; `href` is set when the value is a plain web address."""

    label: str
    value: str
    href: str = ""
    code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCost:
    """Cost of one stage, over the runs of an encoder under one protocol."""

    stage: str
    median_s: float
    longest_s: float
    num_runs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretraining:
    """One stage of an encoder's history."""

    objective: str
    data: str
    images_seen: int
    init_from: str
    locked: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorWord:
    """What the doctor said of an encoder before some runs, or later."""

    text: str
    is_fault: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderSection:
    """An encoder under one protocol."""

    protocol: str
    suite: str
    cells: tuple[Cell, ...]
    ticks: tuple[Tick, ...]
    seeds: tuple[SeedCell, ...]
    costs: tuple[StageCost, ...]
    receipts: tuple[tuple[Fact, ...], ...]
    """Distinct receipts, each with the runs that carry it."""
    machines: tuple[tuple[Fact, ...], ...]
    """Distinct hardware and versions, likewise."""
    doctor: tuple[DoctorWord, ...]
    """Distinct reports of the doctor, with the runs that have them; none for a floor."""
    command: str
    """What measures it again, from its manifest."""
    marks: tuple[str, ...]
    """What the marks of its cells rest on: a sentence a dead task and a cell that a floor holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderPage:
    """One page per encoder."""

    name: EncoderName
    facts: tuple[Fact, ...]
    links: tuple[Fact, ...]
    pretraining: tuple[Pretraining, ...]
    sections: tuple[EncoderSection, ...]
    checks: tuple[Fact, ...]
    """What the doctor looks for: code, and in words."""
    pairs: tuple[Fact, ...]
    """Declared pairs that it is an arm of: label, and page from the site's top."""
    manifest: str
    """As TOML."""
    fetched: bool
    """Whether `eyechart fetch` can bring its files."""
    num_files: int
    """That its manifest names; none for a floor without weights."""
    shipped: str
    """Where this repository has the manifest, its files beside it; empty where it has not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestRow:
    """One encoder in a task's forest plot."""

    name: EncoderName
    cell: Cell


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSection:
    """A task under one protocol."""

    protocol: str
    encoders: tuple[ForestRow, ...]
    """The highest, at most as many as a page can hold."""
    left_out: int
    floors: tuple[ForestRow, ...]
    ticks: tuple[Tick, ...]
    dead: bool
    dead_words: str
    samples: TaskSamples | None
    """None where no ranked encoder is complete."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPage:
    """One page per task."""

    head: TaskHead
    description: str
    suite: str
    facts: tuple[Fact, ...]
    sections: tuple[TaskSection, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodsPage:
    """How the numbers are made, with what the index knows about the recipes."""

    protocols: tuple[tuple[str, tuple[Fact, ...]], ...]
    set_aside: tuple[tuple[str, str], ...]
    """(path, reason) of bundles that are kept and do not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What every page's frame needs."""

    suites: tuple[str, ...]
    tasks: tuple[TaskHead, ...]
    num_runs: int
    num_encoders: int
    index_digest: str
    """sha256 over all bundle digests in the index: names the evidence, not the day."""
    board_href: str = ""
    """The first protocol's board; empty while nothing is measured."""
    local_media: bool = False
    """True where pages show what licences forbid to pass on."""
