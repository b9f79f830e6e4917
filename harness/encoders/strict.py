"""Weights into a network, every tensor accounted for before anything of its size is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.encoders.safetensors_load import read_header, read_weights
from harness.errors import SubmissionError

SHOWN = 10
"""Names listed of each kind of difference."""


def load_strictly(
    build: Callable[[bool], nn.Module],
    weight_paths: Sequence[Path],
    where: str,
    expected: str,
    *,
    prefix: str = "",
    unused: tuple[str, ...] = (),
) -> nn.Module:
    """A network with a checkpoint's weights: no tensor missing, extra or of another shape.

    Args:
        build: makes the network; given True, without memory for its weights.
        weight_paths: safetensors files.
        where: the submission, for error messages.
        expected: what the tensors should have been.
        prefix: leading name of the network's tensors in the files.
        unused: leading names of tensors that may be there and are left out.

    Raises:
        UnsafeInputError: see `read_header`.
        SubmissionError: see `read_header`; tensors that differ; NaN or infinite weights.
    """
    if not weight_paths:
        raise SubmissionError(
            "no weights listed", where=f"{where}: source.files", expected="a .safetensors file"
        )
    stored = {name: e.shape for path in weight_paths for name, e in read_header(path).items()}
    wanted = {name: tuple(t.shape) for name, t in build(True).state_dict().items()}
    inside = {n.removeprefix(prefix): s for n, s in stored.items() if n.startswith(prefix)}
    outside = [n for n in stored if not n.startswith(prefix)]
    strangers = [n for n in outside if not n.startswith(unused or ("\0",))]
    missing = sorted(wanted.keys() - inside.keys())
    extra = sorted([*(inside.keys() - wanted.keys()), *strangers])
    shapes = [
        f"{n} {list(inside[n])} instead of {list(wanted[n])}"
        for n in sorted(wanted.keys() & inside.keys())
        if inside[n] != wanted[n]
    ]
    refuse_differences({"missing": missing, "extra": extra, "of another shape": shapes}, where, expected)
    weights = read_weights(weight_paths)
    with torch.random.fork_rng(devices=[]):
        module = build(False)
    module.load_state_dict({n: weights[prefix + n] for n in wanted}, strict=True)
    return module


def refuse_differences(kinds: Mapping[str, Sequence[Any]], where: str, expected: str) -> None:
    """Raises SubmissionError, listing the first names of each kind, unless there are none."""
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if parts:
        raise SubmissionError(
            "weights do not fit the configuration",
            where=where,
            found="; ".join(parts),
            expected=f"exactly {expected}",
        )
