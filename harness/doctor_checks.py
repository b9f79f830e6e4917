"""What can be wrong with an encoder that opens: each check looks at features, not at names.

The pictures are made here, so that a verdict depends on nothing but the encoder and the protocol's image
recipe. A check returns what it found wrong, or None; later ones assume that the earlier ones passed.
tests/test_doctor.py seeds every defect, and holds sound encoders of every architecture against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.encoders.base import Encoder, FrozenEncoder
from harness.errors import SubmissionError
from harness.images import RGB, prepare
from harness.recipes import ImageRecipe
from harness.seeds import derive_seed

NUM_PICTURES = 24
ROWS = 8
"""Rows of a forward pass."""
STILL = 1e-6
"""Of the largest feature: what moves less does not move."""
BATCH_TOLERANCE = 1e-4
"""Of the largest feature: how far a row may move when its neighbours change."""
MIN_DIMENSIONS = 4
DIMENSION = 3e-3
"""Dimensions that pooled features must span at least; one counts when its singular value is this large a
part of the first."""

NUM_CELLS = 16
"""Cells at most in which the bright square is put."""
NUM_GROUNDS = 2
"""Backgrounds on which the square is followed."""
CELLS_APART = 7
"""Cells a side at which a network of convolutions is looked at: those of most at 224 pixels."""
FOLLOWS = 0.9
NAMED = 1.0
"""Standard deviations by which the token of a square's cell must rise at least, and another rule's token to
be named, if it rises twice as much: neighbours see the square too. Of 16 shuffled tokens, four in their
places by chance give 0.75."""
STRAYS, CLEARLY = 0.2, 2.5
"""Part of the places whose square may move a token far off most, by more than so many deviations."""
MAX_PREFIX = 9
"""Prefix tokens that are looked for: a class token and eight registers are the most in use."""

POSITIONS_MATTER = 1e-2
NO_POSITIONS = 1e-3
"""Of the largest feature: what tokens of a blank picture must differ by before their places are compared. Of
that difference: what tokens differ by at most that have no places."""
ALIKE = 0.4
MORE_ALIKE = 0.25
"""Correlation with positions in wrong places that is a finding, and by how much it must be above that with
positions in the right ones."""

Code = Literal[
    "not-finite", "constant-features", "constant-tokens", "low-rank", "nondeterministic", "batch-dependence",
    "prefix-token", "patch-order", "position-embedding",
    "resolution", "normalisation", "channel-order", "size-claim",
]  # fmt: skip
"""What the features show, and below it what the manifest says wrongly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: Code
    seen: str
    expected: str
    fix: str
    """The line of the manifest, or the part of the encoder, that repairs it."""


def pictures(num: int, side: int = 96) -> list[RGB]:
    """`num` different pictures, (side, side, 3) uint8: smooth colours, a few rectangles; always the same."""
    generator = np.random.default_rng(derive_seed("doctor", "pictures"))
    made = []
    for _ in range(num):
        coarse = torch.from_numpy(generator.uniform(0, 255, (1, 3, 5, 5)))
        smooth = F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
        picture = smooth[0].permute(1, 2, 0).clamp(0, 255).to(torch.uint8).numpy().copy()
        for _ in range(4):
            top, left = generator.integers(0, side - side // 6, 2)
            height, width = generator.integers(side // 12, side // 3, 2)
            picture[top : top + height, left : left + width] = generator.integers(0, 256, 3)
        made.append(picture)
    return made


def prepared(encoder: Encoder, recipe: ImageRecipe, images: Sequence[RGB]) -> Tensor:
    """(B, 3, S, S) as the encoder sees them under a protocol."""
    here = replace(recipe, resolution=encoder.side)
    return torch.from_numpy(prepare(list(images), here, encoder.mean, encoder.std))


def read_all(encoder: FrozenEncoder, pixels: Tensor) -> Tensor:
    """(B, N, D) of B pictures, a few rows at a time, in main memory."""
    return torch.cat([encoder.read(part).cpu() for part in pixels.split(ROWS)])


def check_values(tokens: Tensor) -> Finding | None:
    """Finite numbers that differ from picture to picture and from place to place.

    Args:
        tokens: (B, N, D) of B different pictures.
    """
    bad = ~torch.isfinite(tokens).all(dim=2)
    if bool(bad.any()):
        return Finding(
            code="not-finite",
            seen=f"NaN or infinity in {int(bad.sum()):,} of {bad.numel():,} tokens of {len(tokens)} pictures",
            expected="finite features for every picture",
            fix="restore the weights, or convert them again in float32",
        )
    scale = float(tokens.abs().max())
    still = (tokens - tokens[:1]).abs().amax(dim=(0, 2)) <= STILL * scale
    if scale == 0 or bool(still.all()):
        return Finding(
            code="constant-features",
            seen=f"the same features for {len(tokens)} different pictures",
            expected="features that depend on the picture",
            fix="check the weights: a layer that outputs a constant hides everything below it",
        )
    if bool(still.any()):
        return Finding(
            code="constant-tokens",
            seen=f"{int(still.sum())} of {len(still)} tokens are the same in every picture, "
            f"the first of them number {int(still.nonzero()[0]) + 1}",
            expected="every token depends on the picture",
            fix="check the weights of the patch embedding, and which tokens the encoder returns",
        )
    apart = (tokens - tokens[:, :1]).abs().amax(dim=(1, 2))
    if tokens.shape[1] > 1 and bool((apart <= STILL * scale).all()):
        return Finding(
            code="constant-tokens",
            seen=f"the {tokens.shape[1]} tokens of a picture are all the same",
            expected="a token for each place of the picture",
            fix="return the tokens before they are pooled",
        )
    return _check_rank(tokens.mean(dim=1))


def _check_rank(pooled: Tensor) -> Finding | None:
    spread = torch.linalg.svdvals((pooled - pooled.mean(dim=0)).double())
    rank = int((spread > DIMENSION * spread[0]).sum())
    wanted = min(MIN_DIMENSIONS, *pooled.shape)
    if rank >= wanted:
        return None
    return Finding(
        code="low-rank",
        seen=f"mean features of {len(pooled)} pictures differ in {rank} "
        f"direction{'s' * (rank != 1)} of {pooled.shape[1]}",
        expected=f"at least {wanted}",
        fix="check the last layer's weights: features have collapsed",
    )


def check_repeats(encoder: FrozenEncoder, pixels: Tensor, tokens: Tensor) -> Finding | None:
    """The same rows again give the same features.

    Args:
        pixels: (B, 3, S, S), B ≥ `ROWS`.
        tokens: (B, N, D) read before.
    """
    again, scale = read_all(encoder, pixels[:ROWS]), float(tokens.abs().max())
    moved = float((again - tokens[:ROWS]).abs().max())
    if moved <= STILL * scale:
        return None
    return Finding(
        code="nondeterministic",
        seen=f"features of one picture differ by {moved / scale:.1e} of the largest between two calls",
        expected="equal features",
        fix="remove dropout and other chance from the encoder's forward pass",
    )


def check_neighbours(encoder: FrozenEncoder, pixels: Tensor, tokens: Tensor) -> Finding | None:
    """A picture's features do not depend on what else is in the batch.

    Args:
        pixels: (B, 3, S, S), B ≥ 1.5 `ROWS`, all different.
        tokens: (B, N, D) read before, `ROWS` at a time.
    """
    half = ROWS // 2
    mixed = read_all(encoder, torch.cat([pixels[ROWS : ROWS + half], pixels[:half]]))
    scale, moved = float(tokens.abs().max()), float((mixed[half:] - tokens[:half]).abs().max())
    if moved <= BATCH_TOLERANCE * scale:
        return None
    return Finding(
        code="batch-dependence",
        seen=f"features of one picture move by {moved / scale:.1e} of the largest "
        "when other pictures are encoded with it",
        expected=f"at most {BATCH_TOLERANCE:.0e}",
        fix="use stored statistics in the encoder's normalisation layers, not the batch's",
    )


def check_order(encoder: FrozenEncoder, *, apart: bool) -> Finding | None:
    """A bright square that moves across the picture moves through the grid of tokens.

    Args:
        apart: look at it with a picture large enough that cells see apart, if the network takes one: at the
            side of a small protocol each cell of a network of convolutions sees everything.
    """
    side, rows = encoder.side, encoder.grid[0]
    larger = CELLS_APART * encoder.stride
    if apart and larger > side:
        try:
            side, rows = larger, math.isqrt(encoder.read(torch.zeros(1, 3, larger, larger)).shape[1])
        except SubmissionError:
            side = encoder.side
    if rows < 2:
        return None
    cells = _some_cells(rows * rows)
    grounds = [_follow_square(encoder, side, rows, cells, k) for k in range(NUM_GROUNDS)]
    moved = torch.stack(grounds).mean(dim=0)
    # A square that moves every token tells as little as a token that every square moves.
    moved /= moved.mean(dim=1, keepdim=True).clamp_min(1e-12)
    follows = (moved - moved.mean(dim=0)) / moved.std(dim=0).clamp_min(1e-12)
    return _explain_order(np.array(cells), follows.numpy(), rows)


def _some_cells(num: int) -> list[int]:
    if num <= NUM_CELLS:
        return list(range(num))
    chosen = np.random.default_rng(derive_seed("doctor", "cells")).choice(num, NUM_CELLS, replace=False)
    return sorted(int(c) for c in chosen)


def _follow_square(encoder: FrozenEncoder, side: int, rows: int, cells: Sequence[int], ground: int) -> Tensor:
    """(cells, N): how far each token moves when a square is put into each cell."""
    generator = torch.Generator().manual_seed(derive_seed("doctor", "ground", ground) % 2**31)
    plain = 0.3 * torch.randn(3, side, side, generator=generator)
    images = plain.repeat(1 + len(cells), 1, 1, 1)
    edges = [k * side // rows for k in range(rows + 1)]
    for image, cell in zip(images[1:], cells, strict=True):
        row, column = divmod(cell, rows)
        image[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] += 3.0
    tokens = read_all(encoder, images)
    return (tokens[1:] - tokens[:1]).norm(dim=2)  # type: ignore[no-any-return]


def order_rules(cells: npt.NDArray[np.int64], rows: int) -> dict[str, npt.NDArray[np.int64]]:
    """Where the tokens of `cells` would be found, by how the grid could be wrong."""
    (row, column), last = np.divmod(cells, rows), rows - 1
    return {
        "transposed": column * rows + row,
        "mirrored left to right": row * rows + (last - column),
        "upside down": (last - row) * rows + column,
        "turned by half": rows * rows - 1 - cells,
        "turned by a quarter": column * rows + (last - row),
        "turned back by a quarter": (last - column) * rows + row,
        "transposed and turned by half": (last - column) * rows + (last - row),
        **{f"+ {k}": cells + k for k in range(1, MAX_PREFIX + 1)},
        **{f"- {k}": cells - k for k in range(1, MAX_PREFIX + 1)},
    }


def _explain_order(cells: npt.NDArray[np.int64], follows: npt.NDArray[Any], rows: int) -> Finding | None:
    """Which rule takes the cell of the square to the token that follows it, in standard deviations."""
    here = _mean_at(follows, cells)
    found = {rule: _mean_at(follows, there) for rule, there in order_rules(cells, rows).items()}
    rule = max(found, key=lambda name: found[name])
    best = found[rule]
    named, strays = best >= NAMED and best > 2 * here, _count_strays(follows, cells, rows)
    if here >= FOLLOWS and not named and strays <= STRAYS * len(cells):
        return None
    if named and rule[0] in "+-":
        num = int(rule[2:])
        tokens = f"token{'s' * (num != 1)}"
        return Finding(
            code="prefix-token",
            seen=f"a bright square in patch k moves token k {rule} ({best:.1f} deviations), "
            f"not token k ({here:.1f})",
            expected="token k moves most",
            fix=f"drop {num} prefix {tokens} (class, registers) before the patches, and no patch at the end"
            if rule[0] == "+"
            else f"keep the first {num} patch {tokens}: they were dropped as if they were prefix tokens",
        )
    as_if = (
        f"as if the grid were {rule} ({best:.1f})" if named else f"in {strays} of {len(cells)} places far off"
    )
    return Finding(
        code="patch-order",
        seen=f"a bright square moves another token than its own ({here:.1f} deviations), {as_if}",
        expected="tokens row by row, from the top left",
        fix="return the tokens row-major over the grid",
    )


def _count_strays(follows: npt.NDArray[Any], cells: npt.NDArray[np.int64], rows: int) -> int:
    """Cells whose square moves a token beyond the neighbours most: clearly, and twice as much as its own."""
    moved = np.array(np.divmod(follows.argmax(axis=1), rows))
    away = np.abs(moved - np.divmod(cells, rows)).max(axis=0)
    most, its_own = follows.max(axis=1), follows[np.arange(len(cells)), cells]
    return int(((away > 1) & (most > CLEARLY) & (most > 2 * its_own)).sum())


def _mean_at(follows: npt.NDArray[Any], tokens: npt.NDArray[np.int64]) -> float:
    """Mean over the cells for which the token exists; shifted cells may lie beyond the grid."""
    inside = np.flatnonzero((tokens >= 0) & (tokens < follows.shape[1]))
    return float(follows[inside, tokens[inside]].mean()) if len(inside) else -np.inf


def has_table(module: nn.Module, num: int) -> bool:
    """Whether a tensor of the network has a row for each of `num` tokens, perhaps with prefix tokens."""
    rows, side = range(num, num + MAX_PREFIX + 1), math.isqrt(num)
    shapes = [[n for n in t.shape if n > 1] for t in (*module.parameters(), *module.buffers())]
    flat = any(len(shape) == 2 and (shape[0] in rows or shape[1] in rows) for shape in shapes)
    return flat or any(
        len(shape) == 3 and side in {shape[0], shape[2]} and shape[1] == side for shape in shapes
    )


def check_positions(own: Tensor, here: Tensor) -> Finding | None:
    """At another side than its own, an encoder's positions are resampled, not cut off, padded or repeated.

    Tokens of a blank picture differ by their position only.

    Args:
        own: (h · h, D) of a blank picture at the native side.
        here: (H · H, D) at the protocol's.
    """
    own, here = _as_grid(own), _as_grid(here)
    if own.shape == here.shape or _spread(own) <= POSITIONS_MATTER * float(own.abs().max()):
        return None
    right, wrong = max(_alike(here, way) for way in _resampled(own, len(here))), _out_of_place(own, here)
    rule = max(wrong, key=lambda name: wrong[name])
    if wrong[rule] < max(ALIKE, right + MORE_ALIKE):
        return None
    return Finding(
        code="position-embedding",
        seen=f"positions of the {len(here)} x {len(here)} tokens of a blank picture are {rule} "
        f"(likeness {wrong[rule]:.2f}, to resampled ones {right:.2f})",
        expected=f"the native grid of {len(own)} x {len(own)} position embeddings resampled to the new one",
        fix="interpolate the position embeddings over the grid, in two dimensions",
    )


def _as_grid(tokens: Tensor) -> Tensor:
    side = math.isqrt(len(tokens))
    return tokens[: side * side].reshape(side, side, -1)


def _resampled(own: Tensor, side: int) -> list[Tensor]:
    """The ways of the libraries: averaged over what becomes one place, or not."""
    planes, ways = own.permute(2, 0, 1)[None], (("bilinear", True), ("bicubic", False))
    made = [F.interpolate(planes, (side, side), mode=mode, antialias=how) for mode, how in ways]
    return [plane[0].permute(1, 2, 0) for plane in made]


def _out_of_place(own: Tensor, here: Tensor) -> dict[str, float]:
    """Likeness to what is made of a table of positions without resampling it."""
    h, H = len(own), len(here)
    row, grid = own.flatten(0, 1), here.flatten(0, 1)
    if _spread(here) <= NO_POSITIONS * _spread(own):
        return {"all the same": 1.0}
    if h > H:
        return {
            f"the first {H * H} native ones": _alike(grid, row[: H * H]),
            "the native ones of the upper left corner": _alike(here, own[:H, :H]),
        }
    across, along = -(-H // h), -(-H * H // (h * h))
    corner = torch.zeros(H, H, dtype=torch.bool)
    corner[:h, :h] = True
    first = torch.arange(H * H) < h * h
    return {
        "the native ones over and over": _alike(grid, row.repeat(along, 1)[: H * H]),
        "the native grid laid as tiles": _alike(here, own.repeat(across, across, 1)[:H, :H]),
        f"the {h * h} native ones and then nothing": _padded(row, grid, first),
        "the native grid in the upper left corner and nothing beyond": _padded(row, grid, corner.flatten()),
    }


def _padded(row: Tensor, grid: Tensor, inside: Tensor) -> float:
    """Likeness of the tokens `inside`, if those outside have no positions of their own."""
    return _alike(grid[inside], row) if _spread(grid[~inside]) <= NO_POSITIONS * _spread(grid) else -1.0


def _spread(tokens: Tensor) -> float:
    """Largest distance of a feature from its mean over the tokens."""
    tokens = tokens.flatten(0, -2)
    return float((tokens - tokens.mean(dim=0)).abs().max())


def _alike(a: Tensor, b: Tensor) -> float:
    """Correlation over tokens and features, each feature centred over the tokens."""
    a, b = a.flatten(0, -2), b.flatten(0, -2)
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else 0.0
