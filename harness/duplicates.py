"""The same weights under two names: found by their content, whatever the files are called or cut into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.bundle import find_bundles
from harness.errors import SubmissionError
from harness.records import Submission


def refuse_duplicate(sub: Submission, weights: str, protocol: str, board: Sequence[Path]) -> None:
    """Refuse an encoder whose weights stand on the board under another id.

    Compared is the digest over names, types, shapes and bytes of the image side's tensors in fp32: the order
    of files, shards and a text side make no difference, nor a classifier's head of transformers.
    A model whose image side was
    locked has its parent's weights by design; it is no duplicate of its parent, nor the parent of it.

    Args:
        sub: the submission; floors have another's weights by design and are let pass.
        weights: `Encoder.weight_digest()` of it, opened for this protocol.
        protocol: name; bundles of others were opened at another side and are not compared.
        board: folders of bundles.

    Raises:
        SubmissionError: naming the other encoder.
    """
    if sub.floor is not None or is_locked(sub.pretraining):
        return
    for root in board:
        for path in _first_bundles(root, protocol, sub.id):
            other = _what_it_measured(path)
            if other is None or other["floor"] is not None or other["weights"] != weights:
                continue
            if not any(stage["locked"] == "image" for stage in other["pretraining"]):
                raise SubmissionError(
                    f"duplicate of {other['id']}",
                    where=f"{sub.id}: source.files",
                    found=f"weights {weights[:16]}, which stand in {path.parent}",
                    expected="weights that are not on the board",
                    fix="use that row; or, if another model was meant, check which files the manifest lists",
                )


def is_locked(stages: Sequence[Any]) -> bool:
    """Whether the image side is a parent's: some stage trained the text side around it."""
    return any(stage.locked == "image" for stage in stages)


def _first_bundles(root: Path, protocol: str, but: str) -> list[Path]:
    """One bundle of each encoder under a protocol, except that of one id."""
    found: dict[Path, Path] = {}
    for path in find_bundles(root) if root.is_dir() else []:
        if path.parent.parent.name == protocol and path.parent.name != but:
            found.setdefault(path.parent, path)
    return list(found.values())


def _what_it_measured(path: Path) -> dict[str, Any] | None:
    """Submission and weights of a bundle, not verified: `ingest` does that, and says what is damaged."""
    try:
        run = json.loads((path / "run.json").read_text("utf-8"))
        receipt = json.loads((path / "receipt.json").read_text("utf-8"))
        return {**run["submission"], "weights": receipt["encoder_weights"]["before"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
