"""What the site knows of single samples: answers seed by seed, and what a task pack tells of a sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Saying:
    """One encoder's answer to one sample with one seed."""

    seed: int
    answer: str
    score: float | None
    """Fraction."""
    status: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A sample that one arm of a pair has right and the other has not."""

    sample_id: str
    cluster: str
    score_a: float
    """Mean over the arm's seeds, a fraction."""
    score_b: float
    said_a: tuple[Saying, ...]
    said_b: tuple[Saying, ...]

    @property
    def right(self) -> str:
        """The arm that has it: "a" or "b"."""
        return "a" if self.score_a > self.score_b else "b"


@dataclass(frozen=True, kw_only=True, slots=True)
class FlipSet:
    """The flips of a pair on one task: how many there are, and those that the site shows."""

    num_a: int
    """Samples that the first arm alone has right."""
    num_b: int
    num_samples: int
    shown: tuple[Flip, ...]
    """By largest difference of mean score, equals by a hash of the id; at most so many each way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A small copy of a sample's image, or of the frames of its clip side by side."""

    name: str
    """File name: the hash of the bytes."""
    data: bytes
    width: int
    height: int
    """Pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSample:
    """What a task pack tells of one sample. Where the licence forbids, it tells nothing but that."""

    license: str
    shown: bool
    """False: the licence does not let the site repeat question, references and picture."""
    question: str = ""
    references: tuple[str, ...] = ()
    picture: Picture | None = None
