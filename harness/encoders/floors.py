"""Encoders that know nothing: what a score is worth is measured from here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.digest import digest_arrays
from harness.encoders.base import ENCODE_CHUNK, VIEW, EncoderOutput, View
from harness.encoders.config_json import read_config
from harness.encoders.hf import HFEncoder, build_module, checkpoint_files
from harness.errors import InternalError
from harness.records import Submission
from harness.seeds import derive_seed

PATCH = 16
"""Side in pixels of a patch of the blind and the pixel floor."""
BLIND_WIDTH = 64


class BlindEncoder:
    """Zeros for every image: what the LLM scores by the question alone."""

    def __init__(self, submission: Submission, view: View = VIEW) -> None:
        self.id, self.resolution, self.stride = submission.id, submission.input.resolution, PATCH
        self.side = view.resolution or self.resolution
        self.mean, self.std = submission.input.mean, submission.input.std
        self.width, self.num_params, self.layer = BLIND_WIDTH, 0, view.layer
        self.grid = _patch_grid(self.side)
        self._device = torch.device(view.device)

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """(B, 3, R, R) -> zeros (B, N, 64)."""
        h, w = _patch_grid(int(pixels.shape[-1]))
        tokens = torch.zeros(pixels.shape[0], h * w, self.width, device=self._device)
        return EncoderOutput(tokens, (h, w), tokens.mean(dim=1))

    def weight_digest(self) -> str:
        """There are no weights; the digest of none."""
        return digest_arrays({})

    def description(self) -> dict[str, Any]:
        """What it computes."""
        return {"source": "floor", "floor": "blind", "width": self.width, "patch": PATCH}


class PixelPatchEncoder:
    """Each token is the raw pixels of one patch: what the adapter and the LLM can do by themselves."""

    def __init__(self, submission: Submission, view: View = VIEW) -> None:
        self.id, self.resolution, self.stride = submission.id, submission.input.resolution, PATCH
        self.side = view.resolution or self.resolution
        self.mean, self.std = submission.input.mean, submission.input.std
        self.width, self.num_params, self.layer = 3 * PATCH * PATCH, 0, view.layer
        self.grid = _patch_grid(self.side)
        self._device = torch.device(view.device)

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """(B, 3, R, R) -> (B, N, 3 · PATCH²), channels first within a patch; a ragged edge is cut off."""
        h, w = _patch_grid(int(pixels.shape[-1]))
        whole = pixels[:, :, : h * PATCH, : w * PATCH].to(self._device, torch.float32)
        patches = whole.reshape(-1, 3, h, PATCH, w, PATCH).permute(0, 2, 4, 1, 3, 5)
        tokens = patches.reshape(pixels.shape[0], h * w, self.width)
        return EncoderOutput(tokens, (h, w), tokens.mean(dim=1))

    def weight_digest(self) -> str:
        """There are no weights; the digest of none."""
        return digest_arrays({})

    def description(self) -> dict[str, Any]:
        """What it computes."""
        return {"source": "floor", "floor": "pixel-patches", "patch": PATCH}


def _patch_grid(resolution: int) -> tuple[int, int]:
    side = max(1, resolution // PATCH)
    if resolution < PATCH:
        raise InternalError("image smaller than a patch", found=f"{resolution}", expected=f"at least {PATCH}")
    return side, side


def open_random_init(
    submission: Submission,
    root: Path,
    calibration: npt.NDArray[np.float32] | None,
    view: View = VIEW,
) -> HFEncoder:
    """The base's architecture with seeded random weights.

    Batch-norm statistics of a fresh network (0 and 1) would squash its features, an unfair floor; they
    are measured on `calibration`, which must come from training images.

    Args:
        submission: a floor whose files include the base's config.json.
        root: folder of the files.
        calibration: (n, 3, R, R) float32 prepared pixels; may be None for a network without batch norm.
        view: what is asked of it.

    Raises:
        InternalError: the network has batch norm and there are no calibration images.
        SubmissionError: see `read_config`.
    """
    config_path, _ = checkpoint_files(submission, root)
    model_type, config = read_config(config_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("encoder", "random-init", model_type))
        module = build_module(model_type, config)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    if norms:
        if calibration is None or len(calibration) < 2:
            raise InternalError(
                "random-init floor needs training images to calibrate batch norm", where=submission.id
            )
        if calibration.dtype != np.float32 or calibration.ndim != 4 or calibration.shape[1] != 3:
            raise InternalError(
                "calibration images are not prepared pixels",
                where=submission.id,
                found=f"{calibration.dtype} {calibration.shape}",
                expected="float32 (n, 3, R, R)",
            )
        _calibrate(module, norms, calibration)
    return HFEncoder(submission, model_type, config, module, view)


def _calibrate(module: nn.Module, norms: list[Any], pixels: npt.NDArray[np.float32]) -> None:
    """Set running statistics to the plain average over batches of `ENCODE_CHUNK` images."""
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's spelling of a cumulative average
        norm.train()
    images = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))
    batches = [
        b for b in torch.split(images, ENCODE_CHUNK) if len(b) == ENCODE_CHUNK or len(images) < ENCODE_CHUNK
    ]
    with torch.no_grad():
        for batch in batches:
            module(pixel_values=batch)
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
        norm.eval()
