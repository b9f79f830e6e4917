"""Encoders: a submission in, frozen features out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness.errors import SubmissionError
from harness.records import Submission

if TYPE_CHECKING:
    from harness.encoders.base import Encoder


def open_encoder(
    sub: Submission,
    root: Path,
    calibration: npt.NDArray[np.float32] | None = None,
    *,
    layer: int = 0,
    device: str = "cpu",
) -> Encoder:
    """The frozen encoder that a submission describes.

    Args:
        sub: the submission; a `shuffled-image` floor lists its base's files and opens as its base,
            a `random-init` floor lists its base's config.json.
        root: folder that the paths in `sub.source.files` start from.
        calibration: (n, 3, R, R) float32 prepared training pixels, for random-init with batch norm.
        layer: hidden layer the tokens come from, counted from the end (`protocol.tokens.layer`).
        device: torch device that computes.

    Raises:
        UnsafeInputError: pickle, a path outside `root`, a configuration that asks for code.
        SubmissionError: unsupported architecture, or weights that do not fit it exactly.
    """
    from harness.encoders import floors, hf

    if sub.floor == "blind":
        return floors.BlindEncoder(sub, layer=layer, device=device)
    if sub.floor == "pixel-patches":
        return floors.PixelPatchEncoder(sub, layer=layer, device=device)
    if sub.floor == "random-init":
        return floors.open_random_init(sub, root, calibration, layer=layer, device=device)
    if sub.floor == "shuffled-image" or sub.source.kind in {"local", "transformers"}:
        return hf.open_checkpoint(sub, root, layer=layer, device=device)
    raise SubmissionError(
        "unsupported kind of source",
        where=f"{sub.id}: source.kind",
        found=sub.source.kind,
        expected="local or transformers",
    )
