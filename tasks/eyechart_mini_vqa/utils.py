"""VQAv2 scoring by lmms-eval's own function, after a strict look at the answer and the row."""

from __future__ import annotations

import copy
from typing import Any

from lmms_eval.tasks.vqav2 import utils as peer


def is_parsed(doc: dict[str, Any], answer: str) -> bool:  # noqa: ARG001
    """False for an empty answer: lmms-eval gives it the points of a reference that normalises to nothing."""
    return bool(answer.strip())


def doc_problem(doc: dict[str, Any]) -> str:
    """What makes this row unscorable, or nothing.

    lmms-eval leaves out *all equal* reference answers, not one: without ids that tell them apart a right
    answer scores 0.
    """
    ids = [reference["answer_id"] for reference in doc["answers"]]
    if len(ids) < 2:
        return f"{len(ids)} reference answers"
    return "" if len(set(ids)) == len(ids) else f"reference answers share an answer_id: {ids}"


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`{"exact_match": leave-one-out VQA accuracy 0-1}`; the row is copied because lmms-eval edits it."""
    if not is_parsed(doc, results[0]):
        return {"exact_match": 0.0}
    scored: dict[str, float] = peer.vqav2_process_results_val(copy.deepcopy(doc), results)
    return scored
