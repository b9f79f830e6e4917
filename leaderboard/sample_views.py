"""What pages show of single samples, as frozen records."""

from __future__ import annotations

from dataclasses import dataclass

from leaderboard.boxes import Box
from leaderboard.charts import Tick


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A picture as a page shows it."""

    href: str
    width: int
    height: int
    """Px on the page."""
    alt: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of the distribution."""

    x: str
    width: str
    y: float
    height: float
    """Px, from the top."""
    label: str
    """Range of mean scores, per cent."""
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HardSample:
    """One of the hardest samples."""

    sample_id: str
    mean: float
    num_right: int
    below_chance: bool
    question: str
    references: tuple[str, ...]
    license: str
    """Set where the licence keeps question and picture off the page."""
    shot: Shot | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSamples:
    """The part of a task's page that is about its samples."""

    num_encoders: int
    num_samples: int
    num_all_right: int
    num_none_right: int
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    height: int
    """Px of the highest bar."""
    hardest: tuple[HardSample, ...]
    trap: str
    """A caution about samples below chance; empty where there is none to give."""
    has_pack: bool
