"""The command line's words for what rests on bundles: index and site. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.argument_parser import add_places


def add_index(commands: Any) -> None:
    """Add the commands that read bundles: ingest, publish."""
    _add_ingest(commands)
    _add_publish(commands)


def _add_ingest(commands: Any) -> None:
    ingest = commands.add_parser("ingest", help="verify bundles and load them into the DuckDB index")
    ingest.add_argument(
        "results",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="folders of bundles (default: results here and below the home folder)",
    )
    ingest.add_argument("--db", type=Path, help="database (default: eyechart.duckdb below the home folder)")
    ingest.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(ingest)


def _add_publish(commands: Any) -> None:
    publish = commands.add_parser("publish", help="build the static site from the index")
    publish.add_argument("--db", type=Path, help="database (default: eyechart.duckdb below the home folder)")
    publish.add_argument("--site", type=Path, default=Path("site"), help="folder of the site (default: site)")
    publish.add_argument("--pairs", type=Path, help="matched pairs (default: results/pairs.toml where it is)")
    publish.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(publish)
