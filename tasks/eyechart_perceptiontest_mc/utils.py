"""Perception Test scoring by lmms-eval's own functions, for answers that are one of three letters."""

from __future__ import annotations

import copy
from typing import Any

from lmms_eval.tasks.perceptiontest.val import utils as peer

LETTERS = ("A", "B", "C")


def is_parsed(doc: dict[str, Any], answer: str) -> bool:  # noqa: ARG001
    """True for one of the letters A to C alone; lmms-eval takes the first lone A to D of any text."""
    return answer.strip() in LETTERS


def doc_problem(doc: dict[str, Any]) -> str:
    """What makes this row unscorable, or nothing: lmms-eval's prompt calls every option after B "C"."""
    if len(doc["options"]) != len(LETTERS):
        return f"{len(doc['options'])} options"
    right = [str(number) for number in range(len(LETTERS))]
    return "" if str(doc["answer_id"]) in right else f"right answer number {doc['answer_id']}"


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record `{"accuracy": {pred_id, answer_id, correct, …}}`; no letter is no choice."""
    given = results if is_parsed(doc, results[0]) else [""]
    record: dict[str, Any] = peer.perceptiontest_val_process_results_mc(copy.deepcopy(doc), given)
    return record


def accuracy(results: list[dict[str, Any]]) -> float:
    """Share of right choices, 0-1, by lmms-eval's own aggregation (its second argument is unused)."""
    return float(peer.perceptiontest_val_aggregate_accuracy(results, None))
