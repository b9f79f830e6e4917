"""Scoring of the real RefCOCO sets: that of the mini task, over boxes that come from COCO's floats.

The parser and the score stand once, in eyechart_mini_rec/utils.py, which is loaded by path because its
bytes are part of the digest of results of record. Only what counts as a scorable row differs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

ROUNDING = 0.005
"""How far a reference box may leave 0-1: a few pixels of a COCO annotation. It is scored as it is."""


def _load_mini() -> ModuleType:
    path = Path(__file__).resolve().parent / "eyechart_mini_rec" / "utils.py"
    spec = importlib.util.spec_from_file_location("eyechart_mini_rec_utils", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_mini = _load_mini()
# Plain names, so that harness.lmms finds the functions, and with them their source, for the scorer's digest.
is_parsed = _mini.is_parsed
strict_box = _mini.strict_box
mini_score = _mini.score


def doc_problem(doc: dict[str, Any]) -> str:
    """What makes this row unscorable, or nothing: no area, by which lmms-eval divides, or far outside."""
    x1, y1, x2, y2 = doc["bbox"]
    inside = -ROUNDING <= x1 < x2 <= 1 + ROUNDING and -ROUNDING <= y1 < y2 <= 1 + ROUNDING
    return "" if inside else f"reference box {doc['bbox']}"


def score(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """lmms-eval's record of prediction and reference, one entry a metric; see the mini task."""
    record: dict[str, Any] = mini_score(doc, results)
    return record
