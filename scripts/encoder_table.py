"""Print the table of docs/encoders.md: every architecture against its own library.

    python scripts/encoder_table.py            the table
    python scripts/encoder_table.py --write    into docs/encoders.md, between its markers

Each row is a tiny checkpoint with random weights, saved by its library (tests/checkpoints.py), opened at its
native side and under the mini protocol. The difference is the largest of any patch token or pooled vector,
at both sides, as a share of the largest feature.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

import checkpoints
import torch
from doc_tables import print_or_write

from harness.doctor import examine
from harness.encoders import open_encoder
from harness.protocol import read_protocol

DOC = ROOT / "docs" / "encoders.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
OTHER_SIDE = 128


def row(source: str, name: str) -> str:
    """One line of the table."""
    protocol = read_protocol("mini")
    with tempfile.TemporaryDirectory() as folder:
        saved = checkpoints.SAVE[source](Path(folder), name)
        saved.network.eyechart_name = name
        sub = checkpoints.submission(saved.folder, saved.side)
        worst = 0.0
        for side in (saved.side, OTHER_SIDE):
            encoder = open_encoder(sub, saved.folder, resolution=side)
            generator = torch.Generator().manual_seed(0)
            pixels = torch.randn(2, 3, encoder.side, encoder.side, generator=generator)
            network = checkpoints.at_side(source, saved.network, encoder.side, saved)
            wanted = checkpoints.library_tokens(source, network, pixels)
            found = encoder.encode(pixels)
            scale = float(wanted.abs().max())
            tokens = wanted.flatten(2).transpose(1, 2)
            worst = max(worst, float((found.patch_tokens - tokens).abs().max()) / scale)
            worst = max(worst, float((found.pooled - tokens.mean(dim=1)).abs().max()) / scale)
        report = examine(sub, saved.folder, protocol)
    return (
        f"| {name} | {source} | {worst:.1e} | {report.side} | {report.grid[0]} × {report.grid[1]} "
        f"| {report.cost.num_params:,} | {report.cost.gmacs:.5f} | {report.verdict} |"
    )


def table() -> str:
    """The whole table."""
    head = "| architecture | source | max difference | side under mini | grid | parameters | GMACs | doctor |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for done, (source, name) in enumerate(checkpoints.CASES, 1):
        print(f"\r{done} of {len(checkpoints.CASES)} {source} {name}\x1b[K", end="", file=sys.stderr)
        lines.append(row(source, name))
    print(file=sys.stderr)
    return "\n".join(lines)


if __name__ == "__main__":
    print_or_write(table, DOC, BEGIN, END)
