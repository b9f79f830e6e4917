"""What every engine is asked and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from harness.adapter.llm import LanguageModel
from harness.errors import DatasetError

IMAGE_CHUNK = 128
"""Images whose visual tokens an engine holds at a time."""

Progress = Callable[[int, int], None]
Visual = Callable[[Sequence[int]], Tensor]
"""Rows -> (I, N, H) float32 visual tokens of these images or clips."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question about one image or clip."""

    media: int
    """Row of the visual tokens."""
    prompt: str
    options: tuple[str, ...]
    """Letters of a multiple choice; empty for open answers."""
    max_new_tokens: int


class Engine(Protocol):
    """Answers questions with one language model, greedily, whatever they are batched with."""

    name: str
    """Part of the run key."""

    def answer(
        self, requests: Sequence[Request], visual: Visual, progress: Progress | None = None
    ) -> list[str]:
        """Answers in the order of the requests.

        Args:
            requests: any order; several may share an image.
            visual: called with at most `IMAGE_CHUNK` rows at a time.
            progress: called with (answers done, answers in all).

        Raises:
            DatasetError: an option is not a single token of the LLM.
            ResourceError: memory is too small.
            IncompleteError: the engine died; asking a new one again may succeed.
        """
        ...

    def close(self) -> None:
        """End what the engine started; it cannot be asked again."""
        ...


def letter_ids(llm: LanguageModel, options: Sequence[str]) -> list[int]:
    """Token id of every letter of a multiple choice.

    Raises:
        DatasetError: an option is not a single token of the LLM.
    """
    ids = [llm.encode(option) for option in options]
    if any(len(one) != 1 for one in ids):
        raise DatasetError("an option is not a single token of the language model", found=str(tuple(options)))
    return [one[0] for one in ids]
