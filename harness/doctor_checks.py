"""What can be wrong with an encoder that opens: each check looks at features, not at names.

The pictures are made here, so that a verdict depends on nothing but the encoder and the protocol's image
recipe. A check returns what it found wrong, or None; later ones assume that the earlier ones passed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.encoders.base import Encoder, FrozenEncoder
from harness.images import RGB, prepare
from harness.records import ImageRecipe
from harness.seeds import derive_seed

NUM_PICTURES = 48
BATCH_TOLERANCE = 1e-4
"""Of the largest feature: how far a row may move when its neighbours change."""
NUM_CELLS = 20
"""Cells at most in which the bright square is put."""

NUM_GROUNDS = 2
"""Backgrounds on which the square is followed."""
CELLS_APART = 7
"""Cells a side at which a network of convolutions is looked at: those of most at 224 pixels."""
FOLLOWS = 0.25
NAMED = 1.0
"""Standard deviations by which the token of a square's cell must rise at least, and another rule's token to
be named, if it rises twice as much: neighbours see the square too. Sound encoders: docs/encoders.md."""
ROWS = 16
"""Rows of a forward pass while the square moves."""

Code = Literal[
    "not-finite",
    "constant-features",
    "constant-tokens",
    "low-rank",
    "nondeterministic",
    "batch-dependence",
    "prefix-token",
    "patch-order",
    "position-embedding",
    "resolution",
    "normalisation",
    "channel-order",
    "size-claim",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: Code
    seen: str
    expected: str
    fix: str
    """The line of the manifest, or the part of the encoder, that repairs it."""


def pictures(num: int, side: int = 96) -> list[RGB]:
    """`num` different pictures: smooth colours, a few rectangles; the same ones every time.

    Returns:
        Arrays (side, side, 3) uint8.
    """
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


def check_values(tokens: Tensor, pooled: Tensor) -> Finding | None:
    """Numbers, that differ from picture to picture and from place to place.

    Args:
        tokens: (B, N, D) of B different pictures.
        pooled: (B, D).
    """
    bad = ~torch.isfinite(tokens).all(dim=2)
    if bool(bad.any()):
        return Finding(
            code="not-finite",
            seen=f"NaN or infinity in {int(bad.sum()):,} of {bad.numel():,} tokens",
            expected="finite features for every picture",
            fix="restore the weights, or convert them again in float32",
        )
    scale = float(tokens.abs().max())
    moved = (tokens - tokens[:1]).abs().amax(dim=(0, 2))
    still = moved <= 1e-6 * scale
    if scale == 0 or bool(still.all()):
        return Finding(
            code="constant-features",
            seen="the same features for every picture",
            expected="features that depend on the picture",
            fix="check the weights: a layer that outputs a constant hides everything below it",
        )
    if bool(still.any()):
        return Finding(
            code="constant-tokens",
            seen=f"{int(still.sum())} of {len(still)} tokens never change",
            expected="every token depends on the picture",
            fix="check the weights of the patch embedding and which tokens the encoder returns",
        )
    return _check_rank(pooled)


def _check_rank(pooled: Tensor) -> Finding | None:
    spread = torch.linalg.svdvals((pooled - pooled.mean(dim=0)).double())
    total = float((spread**2).sum())
    rank = float(total**2 / (spread**4).sum()) if total > 0 else 0.0
    # Participation ratio: 1 for features that all lie on one line.
    if rank > 1.001:
        return None
    return Finding(
        code="low-rank",
        seen=f"pooled features of {len(pooled)} pictures lie on one line (effective rank {rank:.4f})",
        expected="features that tell more than one thing apart",
        fix="check the last layer's weights: collapsed features carry one number a picture",
    )


def check_repeats(encoder: FrozenEncoder, pixels: Tensor) -> Finding | None:
    """The same rows twice give the same features.

    Args:
        encoder: frozen.
        pixels: (B, 3, S, S), B ≥ 2.
    """
    first, second = encoder.read(pixels), encoder.read(pixels)
    scale, moved = float(first.abs().max()), float((first - second).abs().max())
    if moved <= 1e-6 * scale:
        return None
    return Finding(
        code="nondeterministic",
        seen=f"features of one picture differ by {moved / scale:.1e} of the largest between two calls",
        expected="equal features",
        fix="remove dropout and other chance from the encoder's forward pass",
    )


def check_neighbours(encoder: FrozenEncoder, pixels: Tensor) -> Finding | None:
    """A picture's features do not depend on what else is in the batch.

    Args:
        encoder: frozen.
        pixels: (B, 3, S, S), B ≥ 8, all different.
    """
    first, second = pixels[:4].clone(), pixels[4:8].clone()
    second[1] = first[0]
    a, b = encoder.read(first)[0], encoder.read(second)[1]
    scale, moved = float(a.abs().max()), float((a - b).abs().max())
    if moved <= BATCH_TOLERANCE * scale:
        return None
    return Finding(
        code="batch-dependence",
        seen=f"features of one picture move by {moved / scale:.1e} of the largest with other neighbours",
        expected=f"at most {BATCH_TOLERANCE:.0e}",
        fix="use stored statistics in the encoder's normalisation layers, not the batch's",
    )


def check_order(encoder: FrozenEncoder) -> Finding | None:
    """A bright square that moves across the picture moves through the grid of tokens.

    A network of convolutions is looked at with a picture large enough that its cells see apart: at the side
    of a small protocol each of them sees everything.
    """
    side = encoder.side if encoder.cuts_patches else max(encoder.side, CELLS_APART * encoder.stride)
    rows = math.isqrt(encoder.read(torch.zeros(1, 3, side, side)).shape[1])
    if rows < 2:
        return None
    cells = _some_cells(rows * rows)
    moved = torch.stack([_follow_square(encoder, side, rows, cells, k) for k in range(NUM_GROUNDS)]).mean(
        dim=0
    )
    # A token that moves whatever is done to the picture tells nothing: only its own ups and downs count.
    follows = (moved - moved.mean(dim=0)) / moved.std(dim=0).clamp_min(1e-12)
    return _explain_order(np.array(cells), follows.numpy(), rows)


def _some_cells(num: int) -> list[int]:
    if num <= NUM_CELLS:
        return list(range(num))
    generator = np.random.default_rng(derive_seed("doctor", "cells"))
    return sorted(int(c) for c in generator.choice(num, NUM_CELLS, replace=False))


def _follow_square(encoder: FrozenEncoder, side: int, rows: int, cells: Sequence[int], ground: int) -> Tensor:
    """(cells, N): how far each token moves when a square is put into each cell."""
    generator = torch.Generator().manual_seed(derive_seed("doctor", "ground", ground) % 2**31)
    plain = 0.3 * torch.randn(3, side, side, generator=generator)
    images = [plain]
    for cell in cells:
        row, column = divmod(cell, rows)
        image = plain.clone()
        inside = slice(row * side // rows, (row + 1) * side // rows)
        image[:, inside, column * side // rows : (column + 1) * side // rows] += 3.0
        images.append(image)
    tokens = torch.cat([encoder.read(part) for part in torch.stack(images).split(ROWS)])
    moved: Tensor = (tokens[1:] - tokens[:1]).norm(dim=2)
    return moved


def _explain_order(cells: npt.NDArray[np.int64], follows: npt.NDArray[Any], rows: int) -> Finding | None:
    """Which rule takes the cell of the square to the token that follows it, in standard deviations."""
    row, column = np.divmod(cells, rows)
    last = rows - 1
    rules = {
        "transposed": column * rows + row,
        "mirrored left to right": row * rows + (last - column),
        "upside down": (last - row) * rows + column,
        "turned by half": rows * rows - 1 - cells,
        **{f"+ {k}": cells + k for k in range(1, 10)},
    }
    here = _mean_at(follows, cells)
    rule, best = max(((r, _mean_at(follows, c)) for r, c in rules.items()), key=lambda item: item[1])
    named = best >= NAMED and best > 2 * here
    if here >= FOLLOWS and not named:
        return None
    seen = f"with a square in patch k token k moves by {here:.1f} deviations"
    if named and rule.startswith("+"):
        num = rule.split()[1]
        return Finding(
            code="prefix-token",
            seen=f"{seen}, token k {rule} by {best:.1f}",
            expected="token k moves most",
            fix=f"drop {num} prefix token{'s' * (num != '1')} (class, registers) before the patches",
        )
    how = f"the grid is {rule}" if named else "no token follows it"
    return Finding(
        code="patch-order",
        seen=f"{seen}: {how}",
        expected="tokens row by row, from the top left",
        fix="return the tokens row-major over the grid",
    )


def _mean_at(follows: npt.NDArray[Any], tokens: npt.NDArray[np.int64]) -> float:
    """Mean over the cells for which the token exists; shifted cells may lie beyond the grid."""
    inside = np.flatnonzero((tokens >= 0) & (tokens < follows.shape[1]))
    return float(follows[inside, tokens[inside]].mean()) if len(inside) else -np.inf


def check_positions(native: FrozenEncoder, encoder: FrozenEncoder) -> Finding | None:
    """At another side than its own, an encoder's positions are resampled, not cut off or padded.

    On a blank picture tokens differ by their position only. Their map at the protocol's side must look like
    the native map resampled, and not like the native map's first tokens in a row.

    Args:
        native: opened at its native side.
        encoder: opened at the protocol's.
    """
    if native.grid == encoder.grid:
        return None
    own, here = (e.read(torch.zeros(1, 3, e.side, e.side))[0] for e in (native, encoder))
    if float((own - own.mean(dim=0)).abs().max()) <= 1e-4 * float(own.abs().max()):
        return None
    planes = own.T.reshape(1, -1, *native.grid)
    resampled = F.interpolate(planes, size=encoder.grid, mode="bilinear", antialias=True)[0].flatten(1).T
    num = min(len(own), len(here))
    alike, cut = _alike(here, resampled), _alike(here[:num], own[:num])
    if cut <= alike + 0.2 or cut <= 0.5:
        return None
    return Finding(
        code="position-embedding",
        seen=f"positions at {encoder.side} pixels are the first {num} of the {len(own)} native ones "
        f"(likeness {cut:.2f}, to the resampled grid {alike:.2f})",
        expected="the grid of position embeddings resampled to the new one",
        fix="interpolate the position embeddings over the grid in two dimensions",
    )


def _alike(a: Tensor, b: Tensor) -> float:
    """Correlation over tokens and features, each feature centred over the tokens."""
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else 0.0


_PARAMETERS = re.compile(
    r"(\d+(?:\.\d+)?)\s*(k|m|mio|million|b|bn|billion)\s*(?:param|weights)", re.IGNORECASE
)
_UNITS = {"k": 1e3, "m": 1e6, "mio": 1e6, "million": 1e6, "b": 1e9, "bn": 1e9, "billion": 1e9}
_SIZES = {"ti": 5.7e6, "tiny": 5.7e6, "s": 22e6, "small": 22e6, "b": 86e6, "base": 86e6, "l": 304e6}
_SIZES |= {"large": 304e6, "h": 632e6, "huge": 632e6, "g": 1.01e9, "giant": 1.01e9}
_NAMED = re.compile(
    r"\bvit[-_ ](ti|tiny|s|small|b|base|l|large|h|huge|g|giant)\b(?=[/\s,_-]|$)", re.IGNORECASE
)


def check_size(claim: str, num_params: int) -> Finding | None:
    """What the manifest's words say of the size agrees with the count, numbers within a tenth.

    Args:
        claim: `architecture` of the manifest.
        num_params: counted.
    """
    stated = [(float(n) * _UNITS[unit.lower()], 1.1, m) for m, n, unit in _spans(_PARAMETERS, claim)]
    stated += [(_SIZES[name.lower()], 2.0, m) for m, name in _spans(_NAMED, claim)]
    for size, factor, words in stated:
        if not size / factor <= num_params <= size * factor:
            return Finding(
                code="size-claim",
                seen=f"{num_params:,} parameters counted, the manifest says “{words}”",
                expected=f"about {size:,.0f}",
                fix=f'architecture = "…, {_short(num_params)} parameters", or the weights that were meant',
            )
    return None


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[str, ...]]:
    return [(match[0], *match.groups()) for match in pattern.finditer(text)]


def _short(count: int) -> str:
    exponent = min(3, max(0, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 10 ** (3 * exponent):.3g}" + ["", " k", " M", " B"][exponent]


Check = Callable[[], Finding | None]


def first_finding(checks: Sequence[Check]) -> Finding | None:
    """The finding of the first check that has one: later ones would only see its consequences."""
    for check in checks:
        finding = check()
        if finding is not None:
            return finding
    return None
