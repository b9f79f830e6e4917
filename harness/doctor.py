"""`eyechart doctor`: under a minute of looking before hours of running.

Opens the encoder as a run would, looks at its features on pictures of its own making, and compares the
manifest with the checkpoint's own files. It names what is wrong, what was expected and the line to change.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from harness.checkpoint_folder import Reading, read_folder
from harness.doctor_checks import (
    MAX_PREFIX,
    NUM_PICTURES,
    Finding,
    check_neighbours,
    check_order,
    check_positions,
    check_repeats,
    check_values,
    has_table,
    pictures,
    prepared,
    read_all,
)
from harness.encoders import checkpoint_format, open_encoder
from harness.encoders.base import FrozenEncoder
from harness.encoders.cost import Cost, measure_cost
from harness.errors import InternalError, SubmissionError
from harness.features import pool_tokens, target_grid
from harness.records import Protocol, Submission

SAME = 2e-3
"""How far mean and deviation may be from the checkpoint's: files round to three digits."""
_ANY_SIDE = frozenset({"transformers", "python"})
"""Sources whose networks, opened for one side, can be read at another; the rest are opened again."""
_NO_SQUARE, _NO_SUCH_SIDE = "patch tokens of a square image form no square", "network cannot encode an image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What is known of an encoder that opens."""

    side: int
    """Pixels at which the protocol measures this encoder."""
    stride: int
    grid: tuple[int, int]
    under_budget: bool
    cost: Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the doctor saw."""

    encoder: str
    protocol: str
    measured: Measured | None
    """None for an encoder that the findings keep from being opened."""
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What is worth knowing and not wrong."""
    seconds: float

    @property
    def verdict(self) -> str:
        """`sound` or `findings`."""
        return "findings" if self.findings else "sound"

    @property
    def cost(self) -> Cost:
        """Of an encoder that opens."""
        return self._opened().cost

    @property
    def side(self) -> int:
        """Of an encoder that opens, in pixels."""
        return self._opened().side

    def _opened(self) -> Measured:
        if self.measured is None:
            raise InternalError("encoder did not open", where=self.encoder)
        return self.measured

    def receipt(self) -> dict[str, Any]:
        """What a run's receipt keeps: verdict and findings, nothing that changes from run to run."""
        return {"verdict": self.verdict, "findings": [finding.code for finding in self.findings]}

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain values."""
        return {**asdict(self), "verdict": self.verdict}


def examine(
    sub: Submission, root: Path, protocol: Protocol, *, allow_code: bool = False, device: str = "cpu"
) -> Report:
    """Examine a submission's encoder under a protocol.

    Args:
        sub: a submission that is no floor, its files verified.
        root: folder of its files.
        protocol: gives resolution, resize rule, layer and token budget.
        allow_code: open an encoder whose network is the person's own code.
        device: where it computes.

    Raises:
        SubmissionError: a floor; an encoder that does not open has no features to look at.
        UnsafeInputError: see `open_encoder`.
    """
    began = time.monotonic()
    if sub.floor is not None:
        raise SubmissionError("a floor has nothing to examine", where=sub.id, found=f"floor {sub.floor}")
    place: dict[str, Any] = {"layer": protocol.tokens.layer, "device": device, "allow_code": allow_code}
    encoder = _open(sub, root, protocol, place)
    found = [encoder] if isinstance(encoder, Finding) else []
    measured: Measured | None = None
    notes: tuple[str, ...] = ()
    if isinstance(encoder, FrozenEncoder):
        reading = _own_files(root, sub)
        wrong_side = _check_resolution(sub, encoder, reading)
        every = (
            _look(encoder, sub, root, protocol, None if wrong_side else place),
            wrong_side,
            _check_normalisation(sub, reading) if reading else None,
            check_size(sub.architecture, encoder.num_params),
        )
        found = [finding for finding in every if finding]
        notes = _notes(sub, encoder, protocol, reading)
        measured = Measured(
            side=encoder.side,
            stride=encoder.stride,
            grid=encoder.grid,
            under_budget=encoder.grid[0] ** 2 < protocol.tokens.budget,
            cost=measure_cost(encoder),
        )
    return Report(
        encoder=sub.id,
        protocol=protocol.name,
        measured=measured,
        findings=tuple(found),
        notes=notes,
        seconds=time.monotonic() - began,
    )


def _open(sub: Submission, root: Path, protocol: Protocol, place: dict[str, Any]) -> FrozenEncoder | Finding:
    """The encoder as a run opens it, or what keeps a person's own network from being opened."""
    side = protocol.image.resolution
    try:
        return cast("FrozenEncoder", open_encoder(sub, root, resolution=side, **place))
    except SubmissionError as error:
        finding = None
        if sub.source.kind == "python" and error.what == _NO_SQUARE:
            finding = _no_grid(_num_tokens(error), _tokens_at(2 * side, sub, root, place))
        elif sub.source.kind == "python" and error.what.startswith(_NO_SUCH_SIDE):
            finding = _one_side_only(error, sub, root, place)
        if finding is None:
            raise
        return finding


def _num_tokens(error: SubmissionError) -> int:
    """Tokens of a picture for which there is no square grid; 0 for another error."""
    found = re.fullmatch(r"(\d+) tokens", error.found)
    return int(found[1]) if found and error.what == _NO_SQUARE else 0


def _tokens_at(side: int, sub: Submission, root: Path, place: dict[str, Any]) -> int:
    """Tokens of a picture of another side; 0 where the network takes none."""
    try:
        return open_encoder(sub, root, resolution=side, **place).grid[0] ** 2
    except SubmissionError as error:
        return _num_tokens(error)


def _no_grid(num: int, at_twice: int) -> Finding | None:
    """What `num` tokens have too many: at twice the side, patches are four times as many."""
    excess, rest = divmod(4 * num - at_twice, 3) if at_twice else (0, 1)
    if rest or not 0 < abs(excess) <= MAX_PREFIX:
        excess = num - math.isqrt(num) ** 2
    rows = math.isqrt(num - excess)
    if excess > MAX_PREFIX or rows**2 != num - excess:
        return None
    many = f"{abs(excess)} {'more' if excess > 0 else 'fewer'}"
    return Finding(
        code="prefix-token",
        seen=f"{num} tokens of a square picture, {many} than a grid of {rows} x {rows}",
        expected="a square number of patch tokens",
        fix=f"drop {excess} prefix token{'s' * (excess != 1)} (class, registers) before the patches"
        if excess > 0
        else "keep all patch tokens: some were dropped as if they were prefix tokens",
    )


def _one_side_only(
    error: SubmissionError, sub: Submission, root: Path, place: dict[str, Any]
) -> Finding | None:
    if not _tokens_at(sub.input.resolution, sub, root, place):
        return None
    return Finding(
        code="position-embedding",
        seen=f"the network takes its own {sub.input.resolution} pixels, but of the protocol's {error.found}",
        expected="features at every side that is a multiple of the patch",
        fix="interpolate what is tied to one size, most often a table of position embeddings",
    )


def _look(
    encoder: FrozenEncoder, sub: Submission, root: Path, protocol: Protocol, place: dict[str, Any] | None
) -> Finding | None:
    """What the features show first: later checks would only see its consequences.

    `place` is None where the native side is not known.
    """
    pixels = prepared(encoder, protocol.image, pictures(NUM_PICTURES))
    tokens = read_all(encoder, pixels)
    own_code = encoder.source == "python"
    checks: list[Callable[[], Finding | None]] = [
        lambda: check_values(tokens),
        lambda: _check_range(encoder, tokens, protocol),
        lambda: check_repeats(encoder, pixels, tokens),
        lambda: check_neighbours(encoder, pixels, tokens),
        lambda: check_order(encoder, apart=own_code or not encoder.cuts_patches),
        lambda: _look_at_positions(encoder, sub, root, place) if place else None,
    ]
    return next((finding for check in checks if (finding := check())), None)


def _check_range(encoder: FrozenEncoder, tokens: Tensor, protocol: Protocol) -> Finding | None:
    """Features must fit the type that the cache stores them in."""
    dtype = protocol.tokens.dtype
    pooled = pool_tokens(tokens, encoder.grid, target_grid(encoder.grid, protocol.tokens.budget))
    largest, most = float(pooled.abs().max()), torch.finfo(getattr(torch, dtype)).max
    if largest <= most:
        return None
    return Finding(
        code="not-finite",
        seen=f"features of up to {largest:.1e}, which {dtype} cannot hold",
        expected=f"at most {most:,.0f}",
        fix="check the weights of the last layers, or end the network with a norm",
    )


def _look_at_positions(
    encoder: FrozenEncoder, sub: Submission, root: Path, place: dict[str, Any]
) -> Finding | None:
    """The blank picture at the native side and at the protocol's, of a network that knows its places."""
    side, own_code = sub.input.resolution, encoder.source == "python"
    again = encoder.source not in _ANY_SIDE
    if side == encoder.side or not (encoder.cuts_patches or own_code):
        return None
    if again and not has_table(encoder.module, encoder.grid[0] ** 2):
        return None
    native = cast("FrozenEncoder", open_encoder(sub, root, **place)) if again else encoder
    try:
        own = read_all(native, torch.zeros(1, 3, side, side))[0]
    except SubmissionError as error:
        return Finding(
            code="resolution",
            seen=f"the network takes images of {encoder.side} pixels, but of its own {error.found}",
            expected="the side that it was trained with",
            fix="resolution = …, the side that it was trained with",
        )
    if not has_table(native.module, len(own)):
        return None
    return check_positions(own, read_all(encoder, torch.zeros(1, 3, encoder.side, encoder.side))[0])


def _own_files(root: Path, sub: Submission) -> Reading | None:
    """What the checkpoint's folder says; a person's own network has none."""
    if sub.source.kind == "python":
        return None
    configs = [root / f.path for f in sub.source.files if f.path.endswith("config.json")]
    return read_folder(configs[0].parent, checkpoint_format(sub, root))


def _own_side(encoder: FrozenEncoder, reading: Reading | None) -> tuple[int, str] | None:
    """The side that the files say the network is tied to, and how they say it."""
    if reading and reading.built_for:
        return reading.built_for, "the network's configuration"
    return reading.resolution if reading and encoder.cuts_patches else None


def _check_resolution(sub: Submission, encoder: FrozenEncoder, reading: Reading | None) -> Finding | None:
    side, stride, own = sub.input.resolution, encoder.stride, _own_side(encoder, reading)
    if own and own[0] != side:
        return Finding(
            code="resolution",
            seen=f"input.resolution = {side}",
            expected=f"{own[0]}, as {own[1]} says",
            fix=f"resolution = {own[0]}",
        )
    if own or not encoder.cuts_patches or side % stride == 0:
        return None
    near = max(1, round(side / stride)) * stride
    return Finding(
        code="resolution",
        seen=f"input.resolution = {side}, which is no multiple of the patch of {stride} pixels",
        expected=f"a multiple of {stride}",
        fix=f"resolution = {near}",
    )


def _check_normalisation(sub: Submission, reading: Reading) -> Finding | None:
    """Mean and deviation, in one finding: who mistakes one mistakes the other in the same way."""
    said = {"mean": sub.input.mean, "std": sub.input.std}
    read = {name: value for name, value in (("mean", reading.mean), ("std", reading.std)) if value}
    wrong = [name for name, (own, _) in read.items() if not _near(said[name], own)]
    if not wrong:
        return None
    turned = all(_near(said[name][::-1], read[name][0]) for name in wrong)
    return Finding(
        code="channel-order" if turned else "normalisation",
        seen=", ".join(f"input.{name} = {list(said[name])}" for name in wrong)
        + (": blue, green, red" if turned else ""),
        expected=", ".join(f"{name} {list(read[name][0])}" for name in wrong)
        + f", as {read[wrong[0]][1]} says"
        + (" of red, green, blue" if turned else ""),
        fix=", ".join(f"{name} = {list(read[name][0])}" for name in wrong),
    )


def _near(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(abs(x - y) <= SAME for x, y in zip(a, b, strict=True))


_PARAMETERS = re.compile(
    r"(\d[\d,]*(?:\.\d+)?)[ -]?(k|m|mio|million|b|bn|billion)?\.?[ -](?:trainable )?param", re.IGNORECASE
)
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
_SIZES = {"t": 5.7e6, "s": 22e6, "b": 86e6, "l": 304e6, "h": 632e6, "g": 1.01e9}
_NAMES = "ti|tiny|s|small|b|base|l|large|h|huge|g|giant"
_NAMED = re.compile(rf"\bvit[- ]({_NAMES})(?![A-Za-z_])", re.IGNORECASE)
"""As people write it; names of timm (vit_small_patch16_36x1_224) are of many sizes."""
_FEWEST = 1000
"""A smaller number before the word is another thing's."""


def check_size(claim: str, num_params: int) -> Finding | None:
    """What the manifest says of the size agrees with the count: numbers within a tenth, names within 2.

    Args:
        claim: `architecture` of the manifest.
        num_params: counted on the image side.
    """
    stated = [
        (float(m[1].replace(",", "")) * _UNITS[(m[2] or "")[:1].lower()], 1.1, m[0] + "eters")
        for m in _PARAMETERS.finditer(claim)
    ]
    stated += [(_SIZES[m[1][0].lower()], 2.0, m[0]) for m in _NAMED.finditer(claim)]
    for size, factor, words in stated:
        if size < _FEWEST or size / factor <= num_params <= size * factor:
            continue
        return Finding(
            code="size-claim",
            seen=f"{num_params:,} parameters counted on the image side, “{words}” claimed",
            expected=f"about {size:,.0f}",
            fix=f'architecture = "…, {_short(num_params)} parameters", or the weights that were meant',
        )
    return None


def _short(count: int) -> str:
    exponent = min(3, max(0, int(math.log10(max(count, 1)) // 3)))
    return f"{count / 10 ** (3 * exponent):.3g}" + ["", " k", " M", " B"][exponent]


def _notes(
    sub: Submission, encoder: FrozenEncoder, protocol: Protocol, reading: Reading | None
) -> tuple[str, ...]:
    notes, stated, side = [], reading and reading.resolution, sub.input.resolution
    if reading is None or reading.mean is None or reading.std is None:
        notes.append("no file of the checkpoint says mean and std: the manifest's are taken as they are")
    if stated and stated[0] != side and not _own_side(encoder, reading):
        notes.append(f"{stated[1]} says {stated[0]} pixels, the manifest {side}: this network takes both")
    if encoder.cuts_patches and side % encoder.stride:
        unseen = side % encoder.stride
        notes.append(
            f"its own {side} pixels are no multiple of the patch of {encoder.stride}: "
            f"the last {unseen} at the right and the bottom are not seen"
        )
    if encoder.side != protocol.image.resolution:
        notes.append(
            f"measured at {encoder.side} pixels: the multiple of its stride of {encoder.stride} "
            f"that is nearest to the protocol's {protocol.image.resolution}"
        )
    rows, most = encoder.grid[0], round(protocol.tokens.budget**0.5)
    if rows < most:
        notes.append(f"under budget: a grid of {rows} x {rows}, the protocol allows {most} x {most}")
    return tuple(notes)
