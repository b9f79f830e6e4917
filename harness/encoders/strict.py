"""Weights into a network, every tensor accounted for before anything of its size is allocated."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from harness.encoders.safetensors_load import read_header, read_weights
from harness.errors import SubmissionError
from harness.fields import cut, show
from harness.files import confine
from harness.records import Submission

BUILD_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What a library raises on a configuration that describes no network."""
SHOWN = 10
"""Names listed of each kind of difference."""
SHOWN_LENGTH = 160
SPARE_TENSORS = 1000
SPARE_VALUES = 10_000_000
"""Of a network beyond its files': tied tensors, and tables that it computes (positions, masks)."""


@contextlib.contextmanager
def described_by(where: str, *more: type[Exception]) -> Iterator[None]:
    """Building a network from a configuration: one line of ours for whatever the library says.

    Args:
        where: the part of the configuration, for the error message.
        more: what this library raises beside `BUILD_ERRORS`.

    Raises:
        SubmissionError: the configuration describes no network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries to themselves: own indexing, old names
            yield
    except (*BUILD_ERRORS, *more) as error:
        raise SubmissionError(
            "configuration describes no network",
            where=where,
            found=cut(f"{type(error).__name__}: {error}", 200),
        ) from error


def load_strictly(
    build: Callable[[bool], nn.Module],
    weight_paths: Sequence[Path],
    where: str,
    expected: str,
    *,
    prefix: str = "",
    unused: tuple[str, ...] = (),
    derived: tuple[str, ...] = (),
    sha256: Mapping[Path, str] | None = None,
) -> nn.Module:
    """A network with a checkpoint's weights: no tensor missing, extra or of another shape.

    Args:
        build: makes the network; given True, without memory for its weights.
        weight_paths: safetensors files.
        where: the submission, for error messages.
        expected: what the tensors should have been.
        prefix: leading name of the network's tensors in the files.
        unused: leading names of tensors that may be there and are left out.
        derived: endings of tensors that an older library stored: they may be there without a use.
        sha256: see `read_weights`.

    Raises:
        UnsafeInputError: see `read_header`.
        SubmissionError: see `read_weights`; tensors that differ; a network of another size than the files.
    """
    if not weight_paths:
        raise SubmissionError(
            "no weights listed", where=f"{where}: source.files", expected="a .safetensors file"
        )
    stored = {name: e.shape for path in weight_paths for name, e in read_header(path).items()}
    with _bounded(len(stored), where):
        outline = build(True)
    _refuse_vast(outline, sum(math.prod(shape) for shape in stored.values()), where)
    tensors = outline.state_dict()
    if others := [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise SubmissionError(
            "network keeps state that is no tensor", where=f"{where}: source.files", found=others[0]
        )
    wanted = {name: tuple(t.shape) for name, t in tensors.items()}
    inside = {n.removeprefix(prefix): s for n, s in stored.items() if n.startswith(prefix)}
    outside = [n for n in stored if not n.startswith(prefix)]
    strangers = [n for n in outside if not n.startswith(unused or ("\0",))]
    left_over = [n for n in inside.keys() - wanted.keys() if not n.endswith(derived or ("\0",))]
    kinds = _differences(inside, wanted) | {"extra": sorted([*left_over, *strangers])}
    refuse_differences(kinds, where, expected)
    weights = read_weights(weight_paths, {prefix + n: t.dtype for n, t in tensors.items()}, sha256)
    with torch.random.fork_rng(devices=[]):
        # What code of one's own keeps outside its state is then the same in every process.
        torch.manual_seed(0)
        module = build(False)
    try:
        module.load_state_dict({n: weights[prefix + n] for n in wanted}, strict=True)
    except (KeyError, RuntimeError) as error:  # only code of one's own builds another network each time
        raise SubmissionError(
            "weights do not fit the network", where=f"{where}: source.files", found=show(str(error))
        ) from error
    return module


def _differences(
    stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, list[str]]:
    """Names of the network's tensors that the files lack or have in another shape."""
    shapes = [
        f"{name} {list(stored[name])} instead of {list(wanted[name])}"
        for name in sorted(wanted.keys() & stored.keys())
        if stored[name] != wanted[name]
    ]
    missing = sorted(wanted.keys() - stored.keys())
    return {"missing": missing, "extra": [], "of another shape": shapes}


def hashes_of(submission: Submission, root: Path) -> dict[Path, str]:
    """The sha256 that the manifest says of each file, by its place below `root`."""
    return {confine(root, file.path): file.sha256 for file in submission.source.files}


@contextlib.contextmanager
def _bounded(num_stored: int, where: str) -> Iterator[None]:
    """Stops a constructor that makes many more tensors than the files hold, instead of waiting for it."""
    left = num_stored + SPARE_TENSORS

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise _another_network(where, f"{num_stored:,} tensors", "many more")

    hook = torch_module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _refuse_vast(outline: nn.Module, in_files: int, where: str) -> None:
    """Before allocation: what a network computes for itself depends on its configuration alone."""
    described = sum(t.numel() for ts in (outline.parameters(), outline.buffers()) for t in ts)
    if described > 4 * in_files + SPARE_VALUES:
        raise _another_network(where, f"{in_files:,} weights", f"{described:,}")


def _another_network(where: str, found: str, expected: str) -> SubmissionError:
    return SubmissionError(
        "configuration describes another network than the weights",
        where=f"{where}: source.files",
        found=found,
        expected=expected,
    )


def refuse_differences(kinds: Mapping[str, Sequence[Any]], where: str, expected: str) -> None:
    """Raises SubmissionError, listing the first names of each kind, unless there are none."""
    parts = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in kinds.items() if names]
    if parts:
        raise SubmissionError(
            "weights do not fit the configuration",
            where=f"{where}: source.files",
            found="; ".join(parts),
            expected=f"exactly {expected}",
        )


def _listed(names: Sequence[str]) -> str:
    more = ["…"] if len(names) > SHOWN else []
    return ", ".join([*(cut(name, SHOWN_LENGTH) for name in names[:SHOWN]), *more])
