"""`eyechart doctor`: under a minute of looking before hours of running.

Opens the encoder as a run would, looks at its features on pictures of its own making, and compares the
manifest with the checkpoint's own files. It names what is wrong, what was expected and the line to change.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.checkpoint_folder import Reading, read_folder
from harness.doctor_checks import (
    NUM_PICTURES,
    Finding,
    check_neighbours,
    check_order,
    check_positions,
    check_repeats,
    check_size,
    check_values,
    first_finding,
    pictures,
    prepared,
)
from harness.encoders import checkpoint_format, open_encoder
from harness.encoders.base import FrozenEncoder
from harness.encoders.cost import Cost, measure_cost
from harness.errors import SubmissionError
from harness.features import target_grid
from harness.records import Protocol, Submission

SAME = 2e-3
"""How far mean and deviation may be from the checkpoint's: files round to three digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the doctor saw."""

    encoder: str
    protocol: str
    side: int
    """Pixels at which the protocol measures this encoder."""
    stride: int
    grid: tuple[int, int]
    under_budget: bool
    cost: Cost
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    """What is worth knowing and not wrong."""
    seconds: float

    @property
    def verdict(self) -> str:
        """`sound` or `findings`."""
        return "findings" if self.findings else "sound"

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
    encoder = open_encoder(sub, root, resolution=protocol.image.resolution, **place)
    if not isinstance(encoder, FrozenEncoder):
        raise SubmissionError("not an encoder that can be examined", where=sub.id)
    reading = _own_files(root, sub)
    found = [_look(encoder, sub, root, protocol, place), *_compare(sub, encoder, reading)]
    budget = protocol.tokens.budget
    reduced = target_grid(encoder.grid, budget)
    return Report(
        encoder=sub.id,
        protocol=protocol.name,
        side=encoder.side,
        stride=encoder.stride,
        grid=encoder.grid,
        under_budget=reduced[0] * reduced[1] < budget,
        cost=measure_cost(encoder),
        findings=tuple(finding for finding in found if finding is not None),
        notes=_notes(encoder, protocol, reading),
        seconds=time.monotonic() - began,
    )


def _look(
    encoder: FrozenEncoder, sub: Submission, root: Path, protocol: Protocol, place: dict[str, Any]
) -> Finding | None:
    """What the features show; only the first thing, since it would show in all that follows."""
    pixels = prepared(encoder, protocol.image, pictures(NUM_PICTURES))
    output = encoder.encode(pixels)

    def positions() -> Finding | None:
        if encoder.side == sub.input.resolution or not encoder.cuts_patches:
            return None
        native = open_encoder(sub, root, **place)
        return check_positions(native, encoder) if isinstance(native, FrozenEncoder) else None

    return first_finding([
        lambda: check_values(output.patch_tokens, output.pooled),
        lambda: check_repeats(encoder, pixels[:4]),
        lambda: check_neighbours(encoder, pixels[:8]),
        lambda: check_order(encoder),
        positions,
    ])  # fmt: skip


def _own_files(root: Path, sub: Submission) -> Reading | None:
    """What the checkpoint's folder says; None for networks of a person's own."""
    if sub.source.kind == "python":
        return None
    configs = [root / f.path for f in sub.source.files if f.path.endswith("config.json")]
    return read_folder(configs[0].parent, checkpoint_format(sub, root))


def _compare(sub: Submission, encoder: FrozenEncoder, reading: Reading | None) -> list[Finding | None]:
    """The manifest beside the checkpoint's own files and the count."""
    return [
        _check_resolution(sub, encoder, reading),
        _check_normalisation(sub, reading) if reading else None,
        check_size(sub.architecture, encoder.num_params),
    ]


def _check_resolution(sub: Submission, encoder: FrozenEncoder, reading: Reading | None) -> Finding | None:
    side, stride = sub.input.resolution, encoder.stride
    own = reading.built_for if reading else None
    if encoder.cuts_patches and side % stride:
        near = own or round(side / stride) * stride or stride
        return Finding(
            code="resolution",
            seen=f"input.resolution = {side}, which is no multiple of the patch of {stride} pixels",
            expected=f"{near}",
            fix=f"resolution = {near}",
        )
    if own and own != side:
        return Finding(
            code="resolution",
            seen=f"input.resolution = {side}",
            expected=f"{own}, which the network's configuration says",
            fix=f"resolution = {own}",
        )
    return None


def _check_normalisation(sub: Submission, reading: Reading) -> Finding | None:
    for name, said, read in (
        ("mean", sub.input.mean, reading.mean),
        ("std", sub.input.std, reading.std),
    ):
        if read is None or _near(said, read[0]):
            continue
        line = f"{name} = {list(read[0])}"
        turned = _near(said[::-1], read[0])
        return Finding(
            code="channel-order" if turned else "normalisation",
            seen=f"input.{name} = {list(said)}" + (", the channels in reverse" if turned else ""),
            expected=f"{list(read[0])}, as {read[1]} says",
            fix=line,
        )
    return None


def _near(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(abs(x - y) <= SAME for x, y in zip(a, b, strict=True))


def _notes(encoder: FrozenEncoder, protocol: Protocol, reading: Reading | None) -> tuple[str, ...]:
    notes = []
    if reading is None or reading.mean is None:
        notes.append("no file of the checkpoint says mean and std: the manifest's are taken as they are")
    if encoder.side != protocol.image.resolution:
        notes.append(
            f"measured at {encoder.side} pixels: the multiple of its stride of {encoder.stride} "
            f"that is nearest to the protocol's {protocol.image.resolution}"
        )
    rows, side = encoder.grid[0], round(protocol.tokens.budget**0.5)
    if rows < side:
        notes.append(f"under budget: a grid of {rows} x {rows}, the protocol allows {side} x {side}")
    return tuple(notes)
