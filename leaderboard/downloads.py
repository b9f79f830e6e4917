"""data/ and downloads.html: the board as files for other programs, and a table of what they are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL
import pyarrow as pa

from harness.digest import digest_bytes
from harness.export_board import Limits, export_board
from leaderboard.badges import badge_files
from leaderboard.kit import Kit
from leaderboard.runs_page import RUNS_CSV, runs_csv

LIMITS = Limits(rows=20_000, bytes=5_000_000)
"""Of a table and of a file; what is larger a reader makes with one command."""
HOLDS = {
    "attempts": "what was tried before an encoder was submitted, as declared",
    "costs": "seconds by stage, a row a run and stage",
    "declared_pairs": "pairs of encoders as declared, measured or not",
    "encoders": "what was submitted: family, side, licence, pretraining",
    "family_effects": "classification less contrastive, the pair as the unit",
    "floor_differences": "each encoder less the floors it is held against, with intervals",
    "flips": "samples that one arm of a pair has right and the other has not",
    "leaderboard": "the board: a row an encoder and task, with its interval and counts",
    "meta": "version of the index",
    "metrics": "the board with standard errors and degrees of freedom",
    "pair_differences": "differences between the arms of a pair, with intervals",
    "pair_facts": "what a pair declares equal, and what the records say of it",
    "pairs": "differences between the arms of a pair, with what is held equal",
    "rank_agreement": "how far the probe's order is that of the questions",
    "rank_flips": "encoders whose order the probe and the questions prove differently",
    "ranks": "places that the data leave open, and tie groups",
    "receipts": "hashes and the proof that the encoder stayed frozen, a row a run",
    "runs": "all that is known of each run, set aside or not",
    "samples": "every score and answer of the runs that count",
    "scores": "every score and answer of all runs",
    "seeds": "value and counts of each run",
    "stage_costs": "seconds by stage, a row a run, set aside or not",
    "tasks": "tasks as run: digests, chance, seed noise",
    "tombstones": "rows that were withdrawn, and why",
}
"""What each table and view holds; docs/format.md has their columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One row of the page's table."""

    href: str
    rows: int | None
    """None for a file without rows."""
    bytes: int
    sha256: str
    holds: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DownloadsPage:
    """What downloads.html shows."""

    files: tuple[Download, ...]
    left_out: tuple[str, ...]
    """Tables that are too large in some format, with these formats: "samples (csv, json, parquet)"."""
    limits: Limits
    badge: str
    """An example; empty for none."""
    num_badges: int
    versions: str
    """Libraries whose version moves the bytes of a file."""


def download_files(kit: Kit) -> dict[str, bytes]:
    """The tables as files, where the index itself is at hand, and the page."""
    tables, left_out, rows = _tables(kit.database) if kit.database else ({}, (), {})
    data = runs_csv(kit)
    listed = [
        _download(RUNS_CSV, data, len(kit.facts.runs), "what the page of all runs shows, in its order"),
        *(_download(href, tables[href], rows.get(href), _holds(href)) for href in sorted(tables)),
    ]
    badges = badge_files(kit)
    page = DownloadsPage(
        files=tuple(listed),
        left_out=_by_table(left_out),
        limits=LIMITS,
        badge=min(badges, default=""),
        num_badges=len(badges),
        versions=f"pyarrow {pa.__version__}, Pillow {PIL.__version__}",
    )
    return {**tables, "downloads.html": kit.page("downloads.html.j2", "downloads.html", page=page)}


def _tables(database: Path) -> tuple[dict[str, bytes], tuple[str, ...], dict[str, int]]:
    """Files by href, names of those left out, and rows by href."""
    with tempfile.TemporaryDirectory(prefix="eyechart-data-") as folder:
        report = export_board(database, Path(folder) / "data", LIMITS)
        files = {f"data/{p.name}": p.read_bytes() for p in sorted(report.folder.iterdir())}
    return files, report.left_out, {f"data/{f.file}": f.rows for f in report.files}


def _holds(href: str) -> str:
    name = Path(href).stem
    return "rows and hashes of the files, for programs" if name == "index" else HOLDS[name]


def _download(href: str, data: bytes, rows: int | None, holds: str) -> Download:
    return Download(href=href, rows=rows, bytes=len(data), sha256=digest_bytes(data), holds=holds)


def _by_table(names: Sequence[str]) -> tuple[str, ...]:
    formats: dict[str, list[str]] = {}
    for name in sorted(names):
        table, _, form = name.partition(".")
        formats.setdefault(table, []).append(form)
    return tuple(f"{table} ({', '.join(forms)})" for table, forms in formats.items())
