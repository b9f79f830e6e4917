"""Products of bfloat16 matrices on processors without units for them.

A protocol that says bfloat16 trains under autocast. Where a processor has no such units (x86 before AVX-512),
torch multiplies bfloat16 matrices some thirty times slower than float32 ones. There the products are taken in
float32 and rounded once to bfloat16, which is what the units do: the factors are the same numbers, sums are
kept in float32, and only their order differs, as it does between any two processors.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
PRODUCTS = {
    _ATEN.mm.default,
    _ATEN.bmm.default,
    _ATEN.addmm.default,
    _ATEN.baddbmm.default,
    _ATEN.convolution.default,
    _ATEN.convolution_backward.default,
}


def has_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  (torch has no other name for it)


class _InFloat32(TorchDispatchMode):  # type: ignore[misc]  # torch leaves its modes untyped
    """Takes products of bfloat16 numbers in float32; everything else passes."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func not in PRODUCTS or not any(_is_half(a) for a in args):
            return func(*args, **(kwargs or {}))
        return _rounded(func(*(a.float() if _is_half(a) else a for a in args), **(kwargs or {})))


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16


def _rounded(made: Any) -> Any:
    if isinstance(made, torch.Tensor):
        return made.bfloat16()
    return tuple(part if part is None else part.bfloat16() for part in made)


def bfloat16_products(device: str = "cpu") -> AbstractContextManager[object]:
    """Within it products of bfloat16 numbers are fast on any CPU; forward and backward pass belong inside.

    Where there are units, or on a card, nothing changes: results of record were made with units.

    Args:
        device: type, "cpu" or "cuda".
    """
    return contextlib.nullcontext() if device != "cpu" or has_units() else _InFloat32()  # type: ignore[no-untyped-call]
