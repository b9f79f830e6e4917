"""TextVQA scoring by lmms-eval's own function, after a strict look at the answer and the row."""

from __future__ import annotations

import copy
from typing import Any

from lmms_eval.tasks.textvqa import utils as peer


def is_parsed(doc: dict[str, Any], answer: str) -> bool:  # noqa: ARG001
    """False for an empty answer: lmms-eval gives it the points of a reference that normalises to nothing."""
    return bool(answer.strip())


def doc_problem(doc: dict[str, Any]) -> str:
    """What makes this row unscorable, or nothing: leave-one-out needs at least two references."""
    number = len(doc["answers"])
    return f"{number} reference answers" if number < 2 else ""


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`{"exact_match": leave-one-out accuracy 0-1}`; lmms-eval's `submission` entry, a file, is left out."""
    if not is_parsed(doc, results[0]):
        return {"exact_match": 0.0}
    scored = peer.textvqa_process_results(copy.deepcopy(doc), results)
    return {"exact_match": float(scored["exact_match"])}
