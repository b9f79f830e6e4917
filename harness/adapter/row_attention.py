"""Attention of a packed sequence, row by row: for graphics cards.

Rows never see each other, so a mask over the whole sequence is mostly zeros, and the fused kernels, which add
up keys in a fixed order when asked to (`torch.use_deterministic_algorithms`), have one block a head to give
to a hundred processors. Rows laid side by side have one a row and head, each a fraction as long.
Letters: T tokens of the packed sequence, R rows, L tokens of the longest, A heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.adapter.llm import LanguageModel

NAME = "eyechart_rows"
"""Under which the function is registered with transformers (`AttentionInterface`)."""
_CHOSEN = "_attn_implementation"
"""Where a model of transformers keeps the name of its attention function; there is no public way to ask."""
_ALIGN = 16
"""L is a multiple of this: the kernels copy a bias whose rows are not aligned."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the tokens of a packed sequence lie once its rows stand side by side."""

    slots: Tensor
    """(T,) int64: place of each token among R · L."""
    bias: Tensor
    """(R, 1, L, L) to add to the attention scores; what pads look at does not matter."""

    @classmethod
    def of(
        cls, rows: Tensor, owners: Tensor, masked: float, dtype: torch.dtype, device: torch.device
    ) -> Rows:
        """Rows of a packed sequence.

        Args:
            rows: (T,) int64, ascending: which row a token belongs to.
            owners: (T,) int64: 0 in a row's prefix, else the number of its exchange.
            masked: what is added where a token may not look.
            dtype: of the bias.
            device: of both.
        """
        counts = torch.bincount(rows)
        num, longest = len(counts), -(-int(counts.max()) // _ALIGN) * _ALIGN
        starts = torch.cumsum(counts, 0) - counts
        slots = torch.arange(len(rows)) - starts[rows] + rows * longest
        owner = torch.full((num * longest,), -1)
        owner[slots] = owners
        owner = owner.view(num, longest).to(device)
        seen = (owner[:, None, :] == 0) | (owner[:, :, None] == owner[:, None, :])
        bias = torch.zeros(num, 1, longest, longest, dtype=dtype, device=device)
        return cls(slots.to(device), bias.masked_fill_(~seen.tril_()[:, None], masked))


class _Apart(torch.autograd.Function):
    """(T, …) -> (R · L, …), zeros between. Slots differ, so neither way adds anything up."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, slots: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(slots)
        return packed.new_zeros(size, *packed.shape[1:]).index_copy_(0, slots, packed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return grads[0].index_select(0, slots), None, None


class _Together(torch.autograd.Function):
    """(R · L, …) -> (T, …), the reverse."""

    @staticmethod
    def forward(ctx: Any, apart: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.size = len(apart)
        return apart.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        whole = grads[0].new_zeros(ctx.size, *grads[0].shape[1:])
        return whole.index_copy_(0, slots, grads[0]), None


def attend_by_rows(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    rows: Rows,
    **_: object,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        _module: the attention layer; all that it knows is in the shapes.
        query: (1, A, T, D).
        key: (1, A', T, D): A' divides A.
        value: like `key`.
        _mask: none; `rows` has the bias.
        scaling: of the scores.
        dropout: as ever.
        rows: of this packed sequence.

    Returns:
        (1, T, A, D) and no weights.
    """
    num, longest = len(rows.bias), rows.bias.shape[-1]
    heads = query.shape[1]

    def apart(packed: Tensor) -> Tensor:
        spread: Tensor = _Apart.apply(packed[0].transpose(0, 1), rows.slots, num * longest)  # type: ignore[no-untyped-call]
        spread = spread.view(num, longest, *spread.shape[1:]).transpose(1, 2)
        own = spread.shape[1]
        if own == heads:
            return spread
        shared = spread[:, :, None].expand(num, own, heads // own, longest, spread.shape[-1])
        return shared.reshape(num, heads, longest, spread.shape[-1])

    found = functional.scaled_dot_product_attention(
        apart(query), apart(key), apart(value), rows.bias, dropout_p=dropout, scale=scaling
    )
    flat = found.transpose(1, 2).reshape(num * longest, heads, -1)
    together: Tensor = _Together.apply(flat, rows.slots)  # type: ignore[no-untyped-call]
    return together[None], None


@contextmanager
def rows_apart(llm: LanguageModel, *, wanted: bool) -> Iterator[None]:
    """Packed sequences are attended to row by row inside, where it is wanted."""
    from transformers import AttentionInterface

    if not wanted:
        yield
        return
    AttentionInterface.register(NAME, attend_by_rows)
    before = getattr(llm.model.config, _CHOSEN)
    llm.model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        llm.model.set_attn_implementation(before)


def is_by_rows(llm: LanguageModel) -> bool:
    """Whether `rows_apart` is in force."""
    return bool(getattr(llm.model.config, _CHOSEN) == NAME)
