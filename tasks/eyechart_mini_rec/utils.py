"""RefCOCO REC scoring by lmms-eval's own functions, after a strict parse of the box."""

from __future__ import annotations

import copy
import re
from typing import Any

from lmms_eval.tasks.refcoco import utils_rec as peer

NUM_CORNERS = 4
NUMBER = re.compile(r"\s*\d+(?:\.\d+)?\s*", re.ASCII)
"""A coordinate as lmms-eval's parser takes it, without sign: digits must come before the point."""


def strict_box(answer: str) -> list[float] | None:
    """x1, y1, x2, y2 of the only `[a, b, c, d]` in the answer with all four in 0-1, else None."""
    groups = [group.split(",") for group in re.findall(r"\[([^\[\]]*)\]", answer)]
    boxes = [group for group in groups if len(group) == NUM_CORNERS]
    if len(boxes) != 1 or not all(NUMBER.fullmatch(text) for text in boxes[0]):
        return None
    box = [float(text) for text in boxes[0]]
    return box if all(0 <= value <= 1 for value in box) else None


def is_parsed(doc: dict[str, Any], answer: str) -> bool:  # noqa: ARG001
    """True when the answer holds exactly one well-formed box; an inverted one is a box, and a miss."""
    return strict_box(answer) is not None


def doc_problem(doc: dict[str, Any]) -> str:
    """What makes this row unscorable, or nothing: lmms-eval divides by the area of the reference box."""
    x1, y1, x2, y2 = doc["bbox"]
    return "" if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 else f"reference box {doc['bbox']}"


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record of prediction and reference, one entry a metric.

    An answer without exactly one box, or with a box that has no area, is handed on as no box at all
    (`[0, 0, 0, 0]` there): an inverted box makes lmms-eval's union negative or zero.
    """
    box = strict_box(results[0])
    empty = box is None or box[2] <= box[0] or box[3] <= box[1]
    record: dict[str, Any] = peer.refcoco_bbox_rec_process_result(
        copy.deepcopy(doc), [""] if empty else results
    )
    # The centre of "no box" lies in any reference box that touches the corner: a point for silence.
    record.pop("refcoco_Center_ACC")
    return record
