"""Encoders of the transformers library, from an allow-list of architectures and safetensors weights."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before transformers is imported)

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.encoders.architectures import ARCHITECTURES, Architecture, read_config
from harness.encoders.base import EncoderOutput, encode_in_chunks, freeze, side_of, state_digest
from harness.encoders.safetensors_load import read_header, read_weights
from harness.errors import SubmissionError, UnsafeInputError
from harness.files import confine
from harness.records import Submission
from harness.submission import UNSAFE_WEIGHTS

_BUILD_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What the library raises on a configuration that describes no network."""


class HFEncoder:
    """A frozen transformers network read as a grid of patch tokens.

    Args:
        submission: gives id, resolution, mean and std.
        model_type: key of `ARCHITECTURES`.
        config: its configuration fields.
        module: the network with its weights.
        layer: hidden layer, 0 = the network's own output.
        device: where it computes.
    """

    def __init__(
        self,
        submission: Submission,
        model_type: str,
        config: dict[str, Any],
        module: nn.Module,
        *,
        layer: int = 0,
        device: str = "cpu",
    ) -> None:
        self.id = submission.id
        self.resolution = submission.input.resolution
        self.mean, self.std = submission.input.mean, submission.input.std
        self.layer = layer
        self.module = freeze(module).to(device)
        self._architecture: Architecture = ARCHITECTURES[model_type]
        if self._architecture.layout == "map":
            # Convolutions run about a third faster on rows of pixels than on planes.
            self.module = self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model_type, self._config, self._device = model_type, config, torch.device(device)
        self.num_params = sum(p.numel() for p in self.module.parameters())
        sample = self._tokens(torch.zeros(1, 3, self.resolution, self.resolution, device=self._device))
        side = side_of(sample.shape[1], self.id)
        self.grid, self.width = (side, side), int(sample.shape[2])

    def encode(self, pixels: Tensor) -> EncoderOutput:
        """Features of B images.

        Args:
            pixels: (B, 3, R, R) fp32, normalised by `mean` and `std`.

        Raises:
            SubmissionError: the network is tied to another resolution than R.
        """
        tokens = encode_in_chunks(self._tokens, pixels.to(self._device, torch.float32))
        side = side_of(tokens.shape[1], self.id)
        return EncoderOutput(tokens, (side, side), tokens.mean(dim=1))

    def weight_digest(self) -> str:
        """sha256 over all weights and buffers."""
        return state_digest(self.module)

    def description(self) -> dict[str, Any]:
        """Architecture, configuration and layer."""
        return {
            "source": "transformers",
            "model_type": self._model_type,
            "config": self._config,
            "layer": self.layer,
        }

    def _tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, R, R) -> (B, N, D)."""
        self._check_side(int(pixels.shape[-1]))
        if self._architecture.layout == "map":
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        try:
            with torch.no_grad(), _exact_float32():
                output = self.module(
                    pixel_values=pixels, output_hidden_states=self.layer > 0, return_dict=True
                )
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise SubmissionError(
                "network cannot encode an image of its native size",
                where=self.id,
                found=f"{type(error).__name__}: {error}",
            ) from error
        hidden = output.last_hidden_state if self.layer == 0 else self._hidden(output.hidden_states)
        if hidden.ndim == 4:
            return cast("Tensor", hidden.flatten(2).transpose(1, 2).contiguous())
        return cast("Tensor", hidden[:, self._architecture.prefix_tokens :])

    def _hidden(self, states: Sequence[Tensor]) -> Tensor:
        if self.layer >= len(states):
            raise SubmissionError(
                "network has too few layers for this protocol",
                where=self.id,
                found=f"{len(states) - 1} layers",
                expected=f"layer {self.layer} from the end",
            )
        return states[-1 - self.layer]

    def _check_side(self, side: int) -> None:
        native = getattr(self.module.config, "image_size", side)
        if self._architecture.fixed_size and native != side:
            raise SubmissionError(
                "network takes one image size only",
                where=self.id,
                found=f"{side} pixels",
                expected=f"image_size {native} of its configuration",
            )


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """Full fp32 products and fixed kernels on a GPU too; the CPU has nothing else."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = before


def checkpoint_files(submission: Submission, root: Path) -> tuple[Path, list[Path]]:
    """config.json and the safetensors files of a submission.

    Raises:
        UnsafeInputError: a path leaves `root`, or a file of another weight format is listed.
        SubmissionError: there is not exactly one config.json.
    """
    paths = [confine(root, file.path) for file in submission.source.files]
    pickles = [p.name for p in paths if p.suffix in UNSAFE_WEIGHTS]
    if pickles:
        raise UnsafeInputError(
            "weights are not safetensors",
            where=submission.id,
            found=pickles[0],
            fix="convert them to safetensors",
        )
    configs = [p for p in paths if p.name == "config.json"]
    if len(configs) != 1:
        raise SubmissionError(
            "manifest must list one config.json",
            where=f"{submission.id}: source.files",
            found=f"{len(configs)}",
        )
    return configs[0], [p for p in paths if p.suffix == ".safetensors"]


def build_module(model_type: str, config: Mapping[str, Any], *, meta: bool = False) -> nn.Module:
    """A network of this architecture with the library's random weights.

    Args:
        model_type: key of `ARCHITECTURES`.
        config: its configuration fields.
        meta: shapes only, nothing allocated.

    Raises:
        SubmissionError: the configuration describes no network.
    """
    architecture = ARCHITECTURES[model_type]
    with _described_by(model_type), torch.device("meta" if meta else "cpu"):
        network = _model_class(architecture)(
            _library_config(model_type, config), **dict(architecture.options)
        )
    return cast("nn.Module", network)


def load_module(
    model_type: str, config: Mapping[str, Any], weight_paths: Sequence[Path], where: str
) -> nn.Module:
    """A network with a checkpoint's weights, every tensor accounted for.

    Raises:
        UnsafeInputError: see `read_header`.
        SubmissionError: see `read_header`; missing, extra or mis-shaped tensors; NaN weights.
    """
    if not weight_paths:
        raise SubmissionError(
            "no weights listed", where=f"{where}: source.files", expected="a .safetensors file"
        )
    in_files = sum(math.prod(e.shape) for path in weight_paths for e in read_header(path).values())
    described = sum(p.numel() for p in build_module(model_type, config, meta=True).parameters())
    if described > 4 * in_files + 10_000_000:
        # Checked before the network is allocated: missing tensors would be filled with random values.
        raise SubmissionError(
            "configuration describes another network than the weights",
            where=where,
            found=f"{in_files:,} weights",
            expected=f"{described:,}",
        )
    weights = read_weights(weight_paths)
    architecture = ARCHITECTURES[model_type]
    kept = {name: t for name, t in weights.items() if not name.startswith(architecture.unused or ("\0",))}
    with _described_by(model_type), _quiet_library(), torch.random.fork_rng(devices=[]):
        # The library renames tensors of older checkpoints here; its report is our strictness.
        module, report = _model_class(architecture).from_pretrained(
            None,
            config=_library_config(model_type, config),
            state_dict=kept,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **dict(architecture.options),
        )
    _refuse_differences(report, where)
    return cast("nn.Module", module)


def _refuse_differences(report: Mapping[str, Any], where: str) -> None:
    wrong_shape = [
        f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in report["mismatched_keys"]
    ]
    kinds = (
        ("missing", sorted(report["missing_keys"])),
        ("extra", sorted(report["unexpected_keys"])),
        ("of another shape", sorted(wrong_shape)),
    )
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
        for kind, names in kinds
        if names
    ]
    if parts:
        raise SubmissionError(
            "weights do not fit the configuration",
            where=where,
            found="; ".join(parts),
            expected="exactly the architecture's tensors",
        )


def _model_class(architecture: Architecture) -> Any:
    import transformers

    return getattr(transformers, architecture.model_class)


def _library_config(model_type: str, config: Mapping[str, Any]) -> Any:
    import transformers

    return getattr(transformers, ARCHITECTURES[model_type].config_class)(**config)


@contextlib.contextmanager
def _described_by(model_type: str) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (*_BUILD_ERRORS, StrictDataclassError) as error:
        raise SubmissionError(
            "configuration describes no network",
            where=f"config.json: {model_type}",
            found=f"{type(error).__name__}: {error}",
        ) from error


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Without the library's own load report and bars: we print one line ourselves."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def open_checkpoint(submission: Submission, root: Path, *, layer: int = 0, device: str = "cpu") -> HFEncoder:
    """The encoder of a submission whose files lie below `root`.

    Raises:
        UnsafeInputError: see `checkpoint_files`, `read_config`, `read_header`.
        SubmissionError: see `read_config`, `load_module`.
    """
    config_path, weight_paths = checkpoint_files(submission, root)
    model_type, config = read_config(config_path)
    module = load_module(model_type, config, weight_paths, submission.id)
    return HFEncoder(submission, model_type, config, module, layer=layer, device=device)
