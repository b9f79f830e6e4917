"""Encoders of the timm library: its own constructors, a stranger's arguments as data, safetensors only.

Patch tokens are what `forward_features` returns: a map as it is, tokens without the prefix that the
network itself declares (`num_prefix_tokens`: class, distillation, registers).
"""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (must run before timm is imported)

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
from torch import Tensor, nn

from harness.encoders.base import VIEW, FrozenEncoder, View
from harness.encoders.config_json import (
    check_ranges,
    read_table,
    refuse_code,
    refuse_flags,
    refuse_unknown,
    stated_side,
)
from harness.encoders.hf import checkpoint_files
from harness.encoders.strict import described_by, hashes_of, load_strictly
from harness.errors import SubmissionError
from harness.fields import show
from harness.records import Submission
from harness.submission import MAX_SIDE

_OWN_ARGUMENTS = frozenset({"num_classes", "in_chans", "global_pool", "img_size"})
_DERIVED = ("relative_position_index", "relative_coords_table", "attn_mask", "mask_token")
"""What timm leaves out when it loads a checkpoint of an older version itself."""
_REFUSED_ARGUMENTS = frozenset("""
    pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path cache_dir features_only exportable
    scriptable weights no_jit kwargs self model_cfg cfg embed_cfg backbone embed_layer block_fn device dtype
""".split())  # fmt: skip
"""Arguments of constructors that would read files, fetch, wrap the network in another, or allocate it before
its shapes are compared with the files'."""


WHERE = "config.json: model_args"


class TimmConfig(NamedTuple):
    """What a timm config.json says about a network."""

    architecture: str
    arguments: dict[str, Any]
    """Keyword arguments of its constructor."""
    side: int | None
    """Native side in pixels, where it is said."""


class TimmEncoder(FrozenEncoder):
    """A frozen timm network.

    Args:
        submission: gives id, resolution, mean and std.
        config: from `read_timm_config`.
        module: the network with its weights, at its native side.
        view: what is asked of it; a layer is a feature map.
    """

    source = "timm"

    def __init__(
        self,
        submission: Submission,
        config: TimmConfig,
        module: nn.Module,
        view: View = VIEW,
    ) -> None:
        self._config = config
        super().__init__(
            submission,
            module,
            view,
            stride=timm_stride(module, submission.id),
            planes=hasattr(module, "patch_embed"),
            cuts_patches=hasattr(module, "patch_embed"),
        )

    def _take_side(self, module: nn.Module) -> None:
        set_side(module, self.side)

    def description(self) -> dict[str, Any]:
        """Architecture, its arguments and layer."""
        return {
            "source": "timm",
            "architecture": self._config.architecture,
            "arguments": self._config.arguments,
            "layer": self.layer,
        }

    def _features(self, pixels: Tensor) -> Tensor:
        if self.layer == 0:
            return timm_features(self.module, pixels, self.id)
        layers = len(cast("Any", self.module).feature_info)
        if self.layer >= layers:
            raise self.too_few_layers(layers)
        return timm_map(self.module, pixels, self.layer)


def timm_features(module: nn.Module, pixels: Tensor, where: str) -> Tensor:
    """A network's own output without prefix tokens: (B, D, h, w) or (B, N, D).

    Where `forward_features` returns no single grid (several branches, a class token that the network does not
    declare), the library's own last feature map is read instead.

    Raises:
        SubmissionError: the network has neither.
    """
    found = cast("Any", module).forward_features(pixels)
    if isinstance(found, Tensor) and found.ndim == 4:
        rows_of_cells = str(getattr(module, "output_fmt", "NCHW")) == "NHWC"
        return found.permute(0, 3, 1, 2) if rows_of_cells else found
    prefix = getattr(module, "num_prefix_tokens", None)
    is_tokens = isinstance(found, Tensor) and found.ndim == 3
    if is_tokens and prefix is not None:
        return cast("Tensor", found[:, int(prefix) :])
    last = timm_map(module, pixels, 0)
    if last.ndim != 4:
        raise SubmissionError(
            "network has no single grid of features",
            where=where,
            found=f"{type(module).__name__} returns {type(found).__name__}",
        )
    return found if is_tokens and found.shape[1] == last[0, 0].numel() else last


def timm_map(module: nn.Module, pixels: Tensor, layer: int) -> Tensor:
    """(B, D, h, w): the feature map `layer` levels before the last, by the library's own rule."""
    network = cast("Any", module)
    names = inspect.signature(network.forward_intermediates).parameters
    how: dict[str, Any] = {"indices": layer + 1, "output_fmt": "NCHW", "intermediates_only": True}
    try:
        maps: Sequence[Tensor] = network.forward_intermediates(
            pixels, **how, **({"norm": True} if "norm" in names else {})
        )
    except AssertionError:  # the library's word for a norm that it does not apply to maps
        maps = network.forward_intermediates(pixels, **how)
    return maps[0]


def timm_stride(module: nn.Module, where: str) -> int:
    """Pixels between the cells of the network's last feature map.

    Raises:
        SubmissionError: the network does not say it.
    """
    info = getattr(module, "feature_info", None)
    last = info[-1] if info else None
    reduction = last.get("reduction") if isinstance(last, Mapping) else None
    if not isinstance(reduction, int) or not 1 <= reduction <= MAX_SIDE:
        raise SubmissionError("network has no feature map", where=where, found=type(module).__name__)
    return reduction


def set_side(module: nn.Module, side: int) -> None:
    """Make a network tied to one image size take another: the library resamples its position embeddings."""
    if hasattr(module, "set_input_size"):
        with described_by(WHERE):
            cast("Any", module).set_input_size(img_size=(side, side))


def read_timm_config(path: Path, sha256: str = "") -> TimmConfig:
    """Read timm's config.json as data.

    Args:
        path: the file.
        sha256: see `read_table`.

    Raises:
        UnsafeInputError: a key that would load code or files.
        SubmissionError: not an architecture of the installed timm, or an argument we do not pass on.
    """
    table = read_table(path, path.name, sha256)
    refuse_code(table, path.name)
    name = known_model(table.get("architecture"), f"{path.name}: architecture")
    stated = table.get("pretrained_cfg")
    stated = stated if isinstance(stated, dict) else {}
    arguments = _arguments(table, stated, name, path.name)
    size = stated.get("input_size")
    size = arguments.get("img_size") or (size[-2:] if isinstance(size, list) else size)
    return TimmConfig(name, arguments, stated_side(size))


def known_model(name: object, where: str) -> str:
    """The name of an architecture of the installed timm: no tag, no address, no path.

    Raises:
        SubmissionError: anything else.
    """
    if not isinstance(name, str) or not name.isidentifier() or not timm.is_model(name):
        raise SubmissionError(
            "unsupported architecture",
            where=where,
            found=show(name),
            expected=f"a model of timm {timm.__version__}",
        )
    return name


def _arguments(table: dict[str, Any], stated: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    given = table.get("model_args") or {}
    if not isinstance(given, dict):
        raise SubmissionError("model_args is no table", where=where, found=type(given).__name__)
    where = f"{where}: model_args"
    refuse_code(given, where)
    known = _known_arguments(name)
    refuse_unknown(given, known, where, f"arguments of {name} that are plain values")
    refuse_flags(given, known, where)
    check_ranges(given, where)
    classes = given.get("num_classes", table.get("num_classes", stated.get("num_classes", 0)))
    check_ranges({"num_classes": classes}, where)
    return {**given, "num_classes": classes}


@functools.cache
def _known_arguments(name: str) -> dict[str, Any]:
    """Arguments of the class behind an architecture and their defaults; its entry point takes anything."""
    with torch.device("meta"), described_by(WHERE):
        module = timm.create_model(name, pretrained=False)
    known: dict[str, Any] = dict.fromkeys(_OWN_ARGUMENTS)
    for kind in reversed(type(module).__mro__[:-1]):
        if kind.__module__.startswith("timm.") and "__init__" in vars(kind):
            parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            known |= {parameter.name: parameter.default for parameter in parameters}
    return {name: default for name, default in known.items() if name not in _REFUSED_ARGUMENTS}


def build_timm(config: TimmConfig, *, meta: bool = False) -> nn.Module:
    """The network of a configuration, with the library's random weights.

    Raises:
        SubmissionError: the configuration describes no network.
    """
    with described_by(WHERE), torch.device("meta" if meta else "cpu"):
        return timm.create_model(config.architecture, pretrained=False, **config.arguments)


def open_timm(submission: Submission, root: Path, view: View = VIEW) -> TimmEncoder:
    """The encoder of a submission in timm's on-disk format (config.json and safetensors).

    Raises:
        UnsafeInputError: see `checkpoint_files`, `read_timm_config`, `read_header`.
        SubmissionError: see `read_timm_config`, `load_strictly`.
    """
    config_path, weight_paths = checkpoint_files(submission, root)
    sha256 = hashes_of(submission, root)
    config = read_timm_config(config_path, sha256[config_path])
    module = load_strictly(
        lambda meta: build_timm(config, meta=meta),
        weight_paths,
        submission.id,
        "the architecture's tensors",
        derived=_DERIVED,
        sha256=sha256,
    )
    return TimmEncoder(submission, config, module, view)
