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

from harness.encoders.architectures import ARCHITECTURES, Architecture, cut_patches
from harness.encoders.base import VIEW, FrozenEncoder, View, side_of
from harness.encoders.config_json import read_config, unused_tensors
from harness.encoders.safetensors_load import read_header, read_weights
from harness.encoders.strict import described_by, hashes_of, refuse_differences
from harness.errors import SubmissionError, UnsafeInputError
from harness.files import confine
from harness.records import Submission
from harness.submission import UNSAFE_WEIGHTS

_MEASURING_SIDE = 512


class HFEncoder(FrozenEncoder):
    """A frozen transformers network read as a grid of patch tokens.

    Args:
        submission: gives id, resolution, mean and std.
        model_type: key of `ARCHITECTURES`.
        config: its configuration fields.
        module: the network with its weights.
        view: what is asked of it; a layer is a hidden state.
    """

    source = "transformers"

    def __init__(
        self,
        submission: Submission,
        model_type: str,
        config: dict[str, Any],
        module: nn.Module,
        view: View = VIEW,
    ) -> None:
        self._architecture = ARCHITECTURES[model_type]
        self._model_type, self._config = model_type, config
        whole: dict[str, Any] = cast("Any", module.config).to_dict()
        self._prefix, self._patch = self._architecture.num_prefix(whole), whole.get("patch_size")
        patch = self._architecture.patch_stride(whole)
        self._native = whole.get("image_size")
        super().__init__(
            submission,
            module,
            view,
            stride=patch or _map_stride(model_type, config),
            planes=self._architecture.layout != "map",
            cuts_patches=patch is not None,
        )

    @property
    def num_prefix(self) -> int | None:
        """Class and register tokens before the patches; None for a network without patches."""
        return self._prefix if self._architecture.layout == "tokens" else None

    def _take_side(self, module: nn.Module) -> None:
        del module  # the library resamples at every call
        is_native = self._native in (self.side, [self.side, self.side])
        self._resampled = self._architecture.resamples == "asked" and not is_native

    def description(self) -> dict[str, Any]:
        """Architecture, configuration and layer."""
        return {
            "source": "transformers",
            "model_type": self._model_type,
            "config": self._config,
            "layer": self.layer,
        }

    def _features(self, pixels: Tensor) -> Tensor:
        output = self.module(**self._inputs(pixels), output_hidden_states=self.layer > 0, return_dict=True)
        hidden = output.last_hidden_state if self.layer == 0 else self._hidden(output.hidden_states)
        return cast("Tensor", hidden if hidden.ndim == 4 else hidden[:, self._prefix :])

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        if self._architecture.layout == "patches":
            patches = cut_patches(pixels, int(self._patch or 1))
            side = side_of(patches.shape[1], self.id)
            shapes = torch.tensor([[side, side]] * len(pixels), device=pixels.device)
            mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
            return {"pixel_values": patches, "spatial_shapes": shapes, "pixel_attention_mask": mask}
        asked = {"interpolate_pos_encoding": True} if self._resampled else {}
        return {"pixel_values": pixels, **asked}

    def _hidden(self, states: Sequence[Tensor]) -> Tensor:
        if self.layer >= len(states):
            raise self.too_few_layers(len(states) - 1)
        return states[-1 - self.layer]


def _map_stride(model_type: str, config: Mapping[str, Any]) -> int:
    """Pixels between the cells of a network of convolutions, measured on shapes alone."""
    module = build_module(model_type, config, meta=True).eval()
    with torch.no_grad(), _described_by(model_type):
        image = torch.empty(1, 3, _MEASURING_SIDE, _MEASURING_SIDE, device="meta")
        state = module(pixel_values=image, return_dict=True).last_hidden_state
    cells = int(state.shape[-1]) if state.ndim == 4 else math.isqrt(int(state.shape[1]))
    return max(1, _MEASURING_SIDE // max(1, cells))


def checkpoint_files(
    submission: Submission, root: Path, config: str = "config.json"
) -> tuple[Path, list[Path]]:
    """The configuration and the safetensors files of a submission.

    Raises:
        UnsafeInputError: a path leaves `root`, or a file of another weight format is listed.
        SubmissionError: there is not exactly one configuration.
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
    configs = [p for p in paths if p.name == config]
    if len(configs) != 1:
        raise SubmissionError(
            f"manifest must list one {config}",
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
    model_type: str,
    config: Mapping[str, Any],
    weight_paths: Sequence[Path],
    where: str,
    unused: tuple[str, ...] = (),
    sha256: Mapping[Path, str] | None = None,
) -> nn.Module:
    """A network with a checkpoint's weights, every tensor accounted for.

    Args:
        model_type: key of `ARCHITECTURES`.
        config: its configuration fields.
        weight_paths: safetensors files.
        where: the submission, for error messages.
        unused: leading names of tensors that may be there and are left out: heads, the text side.
        sha256: see `read_weights`.

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
    weights = read_weights(weight_paths, sha256=sha256)
    architecture = ARCHITECTURES[model_type]
    # A checkpoint with a head holds the network below its library name: beit.pooler., vit.embeddings.
    below = f"{_model_class(architecture).base_model_prefix}."
    left_out = unused or ("\0",)
    kept = {n: t for n, t in weights.items() if not n.removeprefix(below).startswith(left_out)}
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
    shapes = [
        f"{name} {list(found)} instead of {list(wanted)}" for name, found, wanted in report["mismatched_keys"]
    ]
    kinds = {
        "missing": sorted(report["missing_keys"]),
        "extra": sorted(report["unexpected_keys"]),
        "of another shape": sorted(shapes),
    }
    refuse_differences(kinds, where, "the architecture's tensors")


def _model_class(architecture: Architecture) -> Any:
    import transformers

    return getattr(transformers, architecture.model_class)


def _library_config(model_type: str, config: Mapping[str, Any]) -> Any:
    import transformers

    return getattr(transformers, ARCHITECTURES[model_type].config_class)(**config)


def _described_by(model_type: str) -> contextlib.AbstractContextManager[None]:
    from huggingface_hub.errors import StrictDataclassError

    return described_by(f"config.json: {model_type}", StrictDataclassError)


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


def open_checkpoint(submission: Submission, root: Path, view: View = VIEW) -> HFEncoder:
    """The encoder of a submission whose files lie below `root`.

    Raises:
        UnsafeInputError: see `checkpoint_files`, `read_config`, `read_header`.
        SubmissionError: see `read_config`, `load_module`.
    """
    config_path, weight_paths = checkpoint_files(submission, root)
    sha256 = hashes_of(submission, root)
    model_type, config = read_config(config_path, sha256[config_path])
    unused = unused_tensors(config_path)
    module = load_module(model_type, config, weight_paths, submission.id, unused, sha256)
    return HFEncoder(submission, model_type, config, module, view)
