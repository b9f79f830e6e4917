"""What an encoder is to the rest of the harness, and how any of them encodes the same at every batch size.

Numerics: fp32 throughout, no autocast, no TF32. Every forward pass has exactly `ENCODE_CHUNK` rows; the
last one is filled by repeating rows that are then dropped. A row's features therefore do not depend on
how many images were asked for, only on its place within a chunk, and `features.extract` keeps that
place fixed: on one machine with one set of versions and threads, features are byte-identical whatever
`--batch` says. A row moved to another place in a chunk agrees within 1e-5 of the largest feature.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from harness.digest import digest_arrays
from harness.errors import IntegrityError, InternalError, SubmissionError
from harness.records import Submission

ENCODE_CHUNK = 64
"""Rows of every forward pass."""


class EncoderOutput(NamedTuple):
    """Features of B images, fp32, on the encoder's device."""

    patch_tokens: Tensor
    """(B, N, D), row-major over the grid; prefix tokens (class, registers) are left out."""
    grid: tuple[int, int]
    """(h, w) with h · w = N."""
    pooled: Tensor
    """(B, D), mean over patch tokens."""


class Encoder(Protocol):
    """A frozen image encoder."""

    id: str
    width: int
    """D, features a token."""
    grid: tuple[int, int]
    """(h, w) at `side`."""
    num_params: int
    resolution: int
    """Native side in pixels, as the manifest says it."""
    side: int
    """Side in pixels of the images it was opened for: see `fit_side`."""
    stride: int
    """Pixels from one token to the next."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: int
    """Which hidden layer the tokens come from, counted from the end."""

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """Features of (B, 3, S, S) fp32 normalised pixels with S = `side`; any B ≥ 1."""

    def weight_digest(self) -> str:
        """sha256 over all weights and buffers; equal before and after every stage."""

    def description(self) -> dict[str, Any]:
        """Plain values that, with the weights, determine the function computed."""


def encode_in_chunks(forward: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """Apply `forward` to B rows in passes of exactly `ENCODE_CHUNK` rows.

    Args:
        forward: (ENCODE_CHUNK, 3, R, R) -> (ENCODE_CHUNK, …); row i depends on row i alone.
        pixels: (B, 3, R, R).

    Returns:
        (B, …).
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[0] == 0:
        raise InternalError("not a batch of images", found=str(tuple(pixels.shape)), expected="(B, 3, R, R)")
    parts = []
    for chunk in torch.split(pixels, ENCODE_CHUNK):
        missing = ENCODE_CHUNK - chunk.shape[0]
        full = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)]) if missing else chunk
        parts.append(forward(full)[: chunk.shape[0]])
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def freeze(module: nn.Module) -> nn.Module:
    """Evaluation mode, and no parameter can be trained."""
    return module.eval().requires_grad_(False)


def state_digest(module: nn.Module) -> str:
    """sha256 over a module's parameters and persistent buffers.

    Raises:
        IntegrityError: a parameter could be trained, so that equal digests would prove nothing.
    """
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    if trainable or module.training:
        raise IntegrityError(
            "encoder is not frozen",
            found=f"{len(trainable)} trainable tensors: {', '.join(trainable[:1])}"
            if trainable
            else "train mode",
        )
    return digest_arrays({name: t.detach().cpu().numpy() for name, t in module.state_dict().items()})


def side_of(num_tokens: int, where: str) -> int:
    """Side of the square grid that holds `num_tokens` tokens of a square image."""
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise SubmissionError(
            "patch tokens of a square image form no square", where=where, found=f"{num_tokens} tokens"
        )
    return side


class View(NamedTuple):
    """What a protocol asks of an encoder, and where it computes."""

    resolution: int | None = None
    """`protocol.image.resolution`; None is the encoder's native one."""
    layer: int = 0
    """Counted from the end, 0 = the network's own output (`protocol.tokens.layer`)."""
    device: str = "cpu"


VIEW = View()


def fit_side(resolution: int | None, native: int, stride: int) -> int:
    """Side in pixels at which an encoder sees the images of a protocol.

    Its native one where the protocol asks for that; else the multiple of its stride that is nearest, the
    larger of two. A network of patches cuts off what is left at the right and the bottom edge, so an image
    of another side would be seen in part: at 64 pixels and patches of 14, only 77 % of it.
    """
    if resolution is None or resolution == native:
        return native
    return max(1, math.floor(resolution / stride + 0.5)) * stride


class FrozenEncoder:
    """A frozen network read as a grid of patch tokens; each source of checkpoints says how it is read.

    Args:
        submission: gives id, native resolution, mean and std.
        module: the network with its weights, at its native side.
        view: what is asked of it.
        stride: pixels from one token to the next.
        planes: False lays images out as rows of pixels, in which convolutions run about a third faster.
        cuts_patches: the network's first layer leaves out what does not fill a whole patch.
    """

    source: ClassVar[str]

    def __init__(
        self,
        submission: Submission,
        module: nn.Module,
        view: View,
        *,
        stride: int,
        planes: bool = True,
        cuts_patches: bool = False,
    ) -> None:
        self.id, self.resolution = submission.id, submission.input.resolution
        self.mean, self.std = submission.input.mean, submission.input.std
        self.layer, self.stride = view.layer, stride
        self.side = fit_side(view.resolution, self.resolution, stride)
        self.num_params = sum(p.numel() for p in module.parameters())
        self._take_side(module)
        self.module = freeze(module).to(view.device)
        self.cuts_patches = cuts_patches
        self._planes, self._device = planes, torch.device(view.device)
        if not planes:
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        sample = self.read(torch.zeros(1, 3, self.side, self.side))
        rows = side_of(sample.shape[1], self.id)
        self.grid, self.width = (rows, rows), int(sample.shape[2])

    def _take_side(self, module: nn.Module) -> None:
        """Make a network that is tied to its native side take images of `side`."""

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """Features of B images.

        Args:
            pixels: (B, 3, S, S) fp32 with S = `side`, normalised by `mean` and `std`.

        Raises:
            SubmissionError: the network cannot take such an image.
        """
        tokens = encode_in_chunks(self.read, pixels)
        side = side_of(tokens.shape[1], self.id)
        return EncoderOutput(tokens, (side, side), tokens.mean(dim=1))

    def read(self, pixels: Tensor) -> Tensor:
        """One forward pass of B rows as they are, without filling a chunk.

        Args:
            pixels: (B, 3, S, S) fp32.

        Returns:
            (B, N, D) patch tokens, row-major over the grid.

        Raises:
            SubmissionError: the network cannot take such an image.
        """
        pixels = pixels.to(self._device, torch.float32)
        if not self._planes:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        try:
            with torch.no_grad(), exact_float32():
                found = self._features(pixels)
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise SubmissionError(
                "network cannot encode an image of this size",
                where=self.id,
                found=f"{pixels.shape[-1]} pixels: {type(error).__name__}: {error}",
            ) from error
        return found.flatten(2).transpose(1, 2).contiguous() if found.ndim == 4 else found

    def _features(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D, h, w), or (B, N, D) without prefix tokens."""
        raise NotImplementedError

    def weight_digest(self) -> str:
        """sha256 over all weights and buffers."""
        return state_digest(self.module)

    def description(self) -> dict[str, Any]:
        """Plain values that, with the weights, determine the function computed."""
        raise NotImplementedError

    def too_few_layers(self, layers: int) -> SubmissionError:
        """The error of a protocol that asks for a layer which the network does not have."""
        return SubmissionError(
            "network has too few layers for this protocol",
            where=self.id,
            found=f"{layers} layers",
            expected=f"layer {self.layer} from the end",
        )


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Full fp32 products and fixed kernels on a GPU too; the CPU has nothing else."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before
