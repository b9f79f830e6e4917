"""NExT-QA multiple-choice scoring by lmms-eval's own functions, for answers that are one letter."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import nltk
from huggingface_hub import constants


def _import_peer() -> Any:
    """lmms-eval's module fetches word lists and needs HF_HOME when imported; choices need neither."""
    os.environ.setdefault("HF_HOME", constants.HF_HOME)
    fetch = nltk.download
    nltk.download = lambda *_args, **_options: False
    try:
        from lmms_eval.tasks.nextqa import utils
    finally:
        nltk.download = fetch
    return utils


peer = _import_peer()


def is_parsed(doc: dict[str, Any], answer: str) -> bool:  # noqa: ARG001
    """True for one of the letters A to E alone; for anything else lmms-eval guesses, at worst at random."""
    return answer.strip() in peer.OPTIONS


def doc_problem(doc: dict[str, Any]) -> str:
    """What makes this row unscorable, or nothing."""
    return "" if doc["answer"] in range(len(peer.OPTIONS)) else f"right answer number {doc['answer']}"


def clip_path(doc: dict[str, Any]) -> list[str]:
    """The clip's file, below EYECHART_HOME or `.eyechart` of the repository.

    Raises:
        FileNotFoundError: the suite was not written yet.
    """
    home = os.environ.get("EYECHART_HOME") or Path(__file__).resolve().parents[2] / ".eyechart"
    path = Path(home) / "data" / "mini" / "video" / "clips" / f"{doc['video']}.mp4"
    if not path.is_file():
        message = f"{path} is missing. Write the suite first: `eyechart mini data`."
        raise FileNotFoundError(message)
    return [str(path)]


def prompt(doc: dict[str, Any]) -> str:
    """lmms-eval's own prompt: the question and five lettered options, nothing after them."""
    text: str = peer.nextqa_doc_to_text_mc(doc)
    return text


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`{"exact_match": 0 or 1}`; lmms-eval's parser only ever sees a bare letter."""
    if not is_parsed(doc, results[0]):
        return {"exact_match": 0.0}
    scored = peer.nextqa_mc_process_results(copy.deepcopy(doc), results)
    return {"exact_match": float(scored["exact_match"])}
