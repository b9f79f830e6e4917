"""Packed training rows: one image's visual tokens, then several exchanges that see only them.

Letters: B rows, P prefix length (chat opening and visual tokens), L text length, H LLM width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from harness.adapter.llm import LanguageModel

IGNORE = -100


class Exchange(NamedTuple):
    """Token ids of a question's tail and of its answer, end marker included."""

    tail: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows ready for the LLM."""

    ids: Tensor
    """(B, L) int64, zero padded."""
    labels: Tensor
    """(B, L) int64, already shifted: the token after each position, IGNORE where none is learnt."""
    mask: Tensor
    """(B, 1, P + L, P + L) bool, True where a position may look."""
    positions: Tensor
    """(B, P + L) int64; every exchange continues from P."""


def encode_exchange(llm: LanguageModel, prompt: str, answer: str) -> Exchange:
    """Token ids of one exchange."""
    return Exchange(llm.encode_prompt(prompt).tail, (*llm.encode(answer), llm.end_id))


def pack(rows: Sequence[Sequence[Exchange]], prefix: int) -> Packed:
    """Lay several exchanges of one image into one row; each sees the prefix and itself only.

    The loss is that of separate sequences, the prefix is computed once.
    """
    columns = []
    for exchanges in rows:
        ids: list[int] = []
        labels: list[int] = []
        owner: list[int] = []
        place: list[int] = []
        for number, (tail, answer) in enumerate(exchanges):
            tokens = [*tail, *answer[:-1]]
            ids += tokens
            labels += [IGNORE] * (len(tail) - 1) + list(answer)
            owner += [number + 1] * len(tokens)
            place += range(prefix, prefix + len(tokens))
        columns.append((ids, labels, owner, place))
    longest = max(len(ids) for ids, *_ in columns)

    def grid(column: int, fill: int) -> Tensor:
        return torch.tensor([c[column] + [fill] * (longest - len(c[column])) for c in columns])

    owner_ = grid(2, 0)
    size = len(rows), longest
    same = (owner_[:, :, None] == owner_[:, None, :]) & torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.zeros(size[0], prefix + longest, prefix + longest, dtype=torch.bool)
    mask[:, :prefix, :prefix] = torch.ones(prefix, prefix, dtype=torch.bool).tril()
    mask[:, prefix:, :prefix] = True
    mask[:, prefix:, prefix:] = same
    positions = torch.cat([torch.arange(prefix).expand(size[0], prefix), grid(3, 0)], 1)
    return Packed(grid(0, 0), grid(1, IGNORE), mask[:, None], positions)


def packed_logits(
    llm: LanguageModel, visual: Tensor, opening: Sequence[int], rows: Packed
) -> tuple[Tensor, Tensor]:
    """Logits and labels at the label positions only.

    Args:
        visual: (B, N, H) visual tokens; `opening` are the ids before them.

    Returns:
        (M, V) float32 logits and (M,) int64 labels.
    """
    batch, device = len(visual), visual.device
    parts = [llm.embed(rows.ids.to(device))]
    parts.insert(0, visual.to(parts[0].dtype))
    if opening:
        parts.insert(0, llm.embed(torch.tensor(list(opening), device=device)).expand(batch, -1, -1))
    embeds = torch.cat(parts, 1)
    prefix = embeds.shape[1] - rows.ids.shape[1]
    # Added to the attention scores; a large finite number, since a whole row of -inf would give NaN.
    hidden_from = ~rows.mask.to(device)
    bias = torch.zeros(hidden_from.shape, device=device).masked_fill_(hidden_from, -1e9)
    if torch.is_autocast_enabled(device.type):
        bias = bias.to(torch.get_autocast_dtype(device.type))
    hidden = llm.model.model(
        inputs_embeds=embeds, attention_mask=bias, position_ids=rows.positions.to(device), use_cache=False
    ).last_hidden_state[:, prefix:]
    labels = rows.labels.to(device)
    learnt = labels != IGNORE
    return llm.model.lm_head(hidden[learnt]).float(), labels[learnt]


def weighted_loss(
    logits: Tensor, labels: Tensor, rows: Sequence[Sequence[Exchange]], length_power: float
) -> Tensor:
    """Mean cross-entropy over answer tokens, a token of an answer of n tokens weighing n^-length_power.

    0 is the plain mean over tokens, where long answers lead; 1 counts every exchange alike.

    Args:
        logits: (M, V) of the answer tokens, in the order of `rows`.
        labels: (M,) int64.
        rows: the exchanges that were packed.
        length_power: 0 to 1.

    Returns:
        Scalar, nats.
    """
    each = functional.cross_entropy(logits, labels, reduction="none")
    share = [len(e.answer) ** -length_power for row in rows for e in row for _ in e.answer]
    weights = torch.tensor(share).to(each.device)
    return (each * weights).sum() / weights.sum()
