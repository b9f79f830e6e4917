"""Rows of differing length laid one after another into one sequence, without padding.

A row is the chat opening, an image's visual tokens and several exchanges. Each exchange sees the row's
prefix and itself; no row sees another. The loss is that of separate sequences.
Letters: T tokens of a packed sequence, N visual tokens, H LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.adapter.data import IGNORE, Exchange
from harness.adapter.llm import LanguageModel
from harness.adapter.row_attention import Rows, is_by_rows
from harness.errors import DatasetError

MASKED = -1e9
"""Added to an attention score; finite, since a whole row of -inf would give NaN."""


def row_tokens(exchanges: Sequence[Exchange], prefix: int) -> int:
    """Tokens of a row with a prefix of `prefix` tokens; the end marker is learnt but never read."""
    return prefix + sum(len(tail) + len(answer) - 1 for tail, answer in exchanges)


def fit_exchanges(exchanges: Sequence[Exchange], prefix: int, capacity: int) -> list[Exchange]:
    """The first exchanges that fit into one packed sequence.

    Raises:
        DatasetError: not even the first does.
    """
    kept = list(exchanges)
    while len(kept) > 1 and row_tokens(kept, prefix) > capacity:
        kept.pop()
    if row_tokens(kept, prefix) > capacity:
        raise DatasetError(
            "an exchange of the training mixture is longer than a packed sequence",
            found=f"{row_tokens(kept, prefix):,} tokens",
            expected=f"at most {capacity:,} (adapter.pack_tokens)",
        )
    return kept


def fill_bins(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing: rows into sequences of at most `capacity` tokens.

    Args:
        sizes: tokens of each row, each at most `capacity`.
        capacity: tokens of a sequence.

    Returns:
        Row numbers of each sequence; every row is in exactly one.
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for row in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        place = next((b for b, room in enumerate(left) if room >= sizes[row]), None)
        if place is None:
            bins.append([])
            left.append(capacity)
            place = len(bins) - 1
        bins[place].append(row)
        left[place] -= sizes[row]
    return bins


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One packed sequence, ready for the LLM."""

    texts: list[Tensor]
    """Token ids after each row's prefix, int64."""
    labels: Tensor
    """(T,) int64: the token after each position, IGNORE where none is learnt."""
    positions: Tensor
    """(1, T) int64; each row counts from 0, and each of its exchanges continues from its prefix."""
    rows: Tensor
    """(T,) int64: which row a position belongs to."""
    owners: Tensor
    """(T,) int64: 0 in a row's prefix, else the number of the exchange."""

    def bias(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """(1, 1, T, T) to add to the attention scores: 0 where a position may look, else `MASKED`."""
        size, rows, owners = len(self.rows), self.rows.to(device), self.owners.to(device)
        same = rows[:, None] == rows[None, :]
        seen = (owners[None, :] == 0) | (owners[:, None] == owners[None, :])
        allowed = (same & seen).tril_()
        return torch.zeros(1, 1, size, size, dtype=dtype, device=device).masked_fill_(~allowed, MASKED)


def lay_out(rows: Sequence[Sequence[Exchange]], prefix: int) -> PackedSequence:
    """Lay rows one after another.

    Args:
        rows: exchanges of each row.
        prefix: tokens before a row's first exchange: opening and visual tokens.
    """
    texts: list[Tensor] = []
    labels: list[int] = []
    positions: list[int] = []
    numbers: list[int] = []
    owners: list[int] = []
    for number, exchanges in enumerate(rows):
        ids: list[int] = []
        labels += [IGNORE] * prefix
        positions += range(prefix)
        owners += [0] * prefix
        for owner, (tail, answer) in enumerate(exchanges, 1):
            tokens = [*tail, *answer[:-1]]
            ids += tokens
            labels += [IGNORE] * (len(tail) - 1) + list(answer)
            positions += range(prefix, prefix + len(tokens))
            owners += [owner] * len(tokens)
        texts.append(torch.tensor(ids))
        numbers += [number] * (prefix + len(ids))
    return PackedSequence(
        texts,
        torch.tensor(labels),
        torch.tensor([positions]),
        torch.tensor(numbers),
        torch.tensor(owners),
    )


def sequence_logits(
    llm: LanguageModel, visual: Tensor, opening: Sequence[int], packed: PackedSequence
) -> tuple[Tensor, Tensor]:
    """Logits and labels at the label positions only.

    Args:
        llm: its device computes.
        visual: (R, N, H) visual tokens of the sequence's rows.
        opening: ids before them.
        packed: from `lay_out` with a prefix of len(opening) + N.

    Returns:
        (M, V) float32 logits and (M,) int64 labels.
    """
    device = visual.device
    start = llm.embed(torch.tensor(list(opening), device=device)) if opening else None
    parts: list[Tensor] = []
    for row, ids in enumerate(packed.texts):
        if start is not None:
            parts.append(start)
        parts += [visual[row].to(llm.dtype), llm.embed(ids.to(device))]
    labels = packed.labels.to(device)
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else llm.dtype
    if is_by_rows(llm):
        looks: dict[str, Any] = {"rows": Rows.of(packed.rows, packed.owners, MASKED, dtype, device)}
    else:
        looks = {"attention_mask": packed.bias(dtype, device)}
    hidden = llm.model.model(
        inputs_embeds=torch.cat(parts)[None],
        position_ids=packed.positions.to(device),
        use_cache=False,
        **looks,
    ).last_hidden_state[0]
    learnt = labels != IGNORE
    return llm.model.lm_head(hidden[learnt]).float(), labels[learnt]


def answer_weights(rows: Sequence[Sequence[Exchange]], length_power: float) -> Tensor:
    """(M,) weight of each answer token, n^-length_power in an answer of n, in the order of `lay_out`."""
    return torch.tensor([len(e.answer) ** -length_power for row in rows for e in row for _ in e.answer])


def summed_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of cross-entropies in nats; the caller divides by the weights of the whole batch.

    Args:
        logits: (M, V).
        labels: (M,) int64.
        weights: (M,).
    """
    each = functional.cross_entropy(logits, labels, reduction="none")
    return (each * weights.to(each.device)).sum()
