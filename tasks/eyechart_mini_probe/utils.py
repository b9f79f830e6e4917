"""A probe has no prompt: lmms-eval lists this task, and loading it says who runs it."""

from __future__ import annotations

from typing import Any, NoReturn


def refuse(*_args: Any) -> NoReturn:
    """Stop lmms-eval before it asks a language model an empty question.

    Raises:
        RuntimeError: always.
    """
    message = "linear probes are fitted on features, not asked. Run them with `eyechart run`."
    raise RuntimeError(message)
