"""Encoders: a submission in, frozen features out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    resolution: int | None = None,
    layer: int = 0,
    device: str = "cpu",
    allow_code: bool = False,
) -> Encoder:
    """The frozen encoder that a submission describes.

    Args:
        sub: the submission; a `shuffled-image` floor lists its base's files and opens as its base,
            a `random-init` floor lists its base's config.json.
        root: folder that the paths in `sub.source.files` start from.
        calibration: (n, 3, R, R) float32 prepared training pixels, for random-init with batch norm.
        resolution: the protocol's (`protocol.image.resolution`); the encoder's `side` is the multiple of
            its stride nearest to it. None opens it at its native resolution.
        layer: hidden layer the tokens come from, counted from the end (`protocol.tokens.layer`).
        device: torch device that computes.
        allow_code: run the network of a submission with `source.kind = "python"`.

    Raises:
        UnsafeInputError: pickle, a path outside `root`, a configuration that asks for code, or code itself.
        SubmissionError: unsupported architecture, or weights that do not fit it exactly.
    """
    from harness.encoders import floors, hf
    from harness.encoders.base import View

    view = View(resolution, layer, device)
    if sub.floor == "blind":
        return floors.BlindEncoder(sub, view)
    if sub.floor == "pixel-patches":
        return floors.PixelPatchEncoder(sub, view)
    if sub.floor == "random-init":
        return floors.open_random_init(sub, root, calibration, view)
    if sub.source.kind == "python":
        from harness.encoders.local_code import open_local_code

        return open_local_code(sub, root, view, allow_code=allow_code)
    form = checkpoint_format(sub, root)
    if form == "open_clip":
        from harness.encoders import open_clip

        return open_clip.open_open_clip(sub, root, view)
    if form == "timm":
        from harness.encoders import timm

        return timm.open_timm(sub, root, view)
    return hf.open_checkpoint(sub, root, view)


def checkpoint_format(sub: Submission, root: Path) -> Literal["transformers", "timm", "open_clip"]:
    """Which library wrote a submission's files, by the files themselves.

    Raises:
        SubmissionError: the files are of another library than `source.kind` says.
    """
    from harness.encoders.config_json import library_of, read_table
    from harness.files import confine

    names = {Path(file.path).name: file.path for file in sub.source.files}
    form: Literal["transformers", "timm", "open_clip"] = "transformers"
    if "open_clip_config.json" in names:
        form = "open_clip"
    elif "config.json" in names:
        table = read_table(confine(root, names["config.json"]), "config.json")
        form = library_of(table)
    if sub.source.kind not in {"local", "floor", form}:
        raise SubmissionError(
            "files are of another library than the manifest says",
            where=f"{sub.id}: source.kind",
            found=sub.source.kind,
            expected=form,
        )
    return form
