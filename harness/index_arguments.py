"""The command line's words for what rests on bundles: index, its contents, site. Nothing here needs torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.argument_parser import add_places
from harness.records import TIERS


def add_index(commands: Any) -> None:
    """Add the commands that read bundles: ingest, query, publish, serve, verify."""
    _add_ingest(commands)
    _add_query(commands)
    _add_publish(commands)
    _add_serve(commands)
    _add_verify(commands)


def _add_ingest(commands: Any) -> None:
    ingest = commands.add_parser("ingest", help="verify bundles and load them into the DuckDB index")
    ingest.add_argument(
        "results",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="folders of bundles (default: results here and below the home folder)",
    )
    _add_database(ingest)
    ingest.add_argument("--pairs", type=Path, help="matched pairs (default: results/pairs.toml where it is)")
    ingest.add_argument(
        "--rebuild", action="store_true", help="remove the database first, in whatever state it is"
    )
    ingest.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(ingest)


def _add_query(commands: Any) -> None:
    text = "ask the index in SQL, read-only"
    query = commands.add_parser("query", help=text, description=text)
    query.add_argument("sql", metavar="SQL", help="one statement that reads, e.g. FROM leaderboard")
    query.add_argument(
        "--format", default="table", choices=("table", "csv", "json", "parquet"), help="default: table"
    )
    query.add_argument("--out", type=Path, metavar="FILE", help="write there instead of printing")
    _add_database(query)
    add_places(query)


def add_board(parts: Any) -> None:
    """Add `export board`."""
    text = "every table and view of the index as CSV, JSON and Parquet"
    board = parts.add_parser("board", help=text, description=text)
    board.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder")
    _add_database(board)
    board.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(board)


def _add_database(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", type=Path, help="database (default: eyechart.duckdb below the home folder)")


def _add_publish(commands: Any) -> None:
    publish = commands.add_parser("publish", help="build the static site from the index")
    _add_database(publish)
    publish.add_argument("--site", type=Path, default=Path("site"), help="folder of the site (default: site)")
    publish.add_argument("--pairs", type=Path, help="matched pairs (default: results/pairs.toml where it is)")
    publish.add_argument(
        "--media-from-home",
        action="store_true",
        help="show questions and pictures whose licence forbids it, too: for your own eyes only",
    )
    _add_url(publish)
    publish.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(publish)


def _add_url(parser: argparse.ArgumentParser) -> None:
    text = "address that the site will have: makes the feed's links and the preview image's absolute"
    parser.add_argument("--url", default="", metavar="ADDRESS", help=text)
    text = "address of the repository that results are submitted to: every page links there"
    parser.add_argument("--repository", default="", metavar="ADDRESS", help=text)


def _add_serve(commands: Any) -> None:
    text = "show the site on this machine, and build it anew whenever the index changes"
    serve = commands.add_parser("serve", help=text, description=text)
    _add_database(serve)
    serve.add_argument("--site", type=Path, default=Path("site"), help="folder of the site (default: site)")
    serve.add_argument("--port", type=int, default=8000, help="port of 127.0.0.1 (default: 8000; 0: any)")
    serve.add_argument(
        "--results",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of bundles to ingest first; may be given several times",
    )
    serve.add_argument("--pairs", type=Path, help="matched pairs (default: results/pairs.toml where it is)")
    add_places(serve)


def _add_verify(commands: Any) -> None:
    text = "verify a bundle, a folder of results, a database or a site, and name what is wrong"
    verify = commands.add_parser("verify", help=text, description=text)
    verify.add_argument("path", type=Path, help="bundle, folder of results, database or site")
    verify.add_argument(
        "--rescore", action="store_true", help="score every stored answer again (needs the extra `run`)"
    )
    verify.add_argument(
        "--write-re-scored",
        type=Path,
        metavar="DIR",
        help="with --rescore: where all is well, write self-reported bundles as `re-scored` to a new folder",
    )
    verify.add_argument(
        "--results",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of bundles that a database or site was made from; may be given several times",
    )
    verify.add_argument(
        "--pairs", type=Path, help="matched pairs that it shows (default: results/pairs.toml)"
    )
    verify.add_argument(
        "--max-tier", choices=TIERS, help="refuse bundles, not in the base, that claim a more trusted tier"
    )
    verify.add_argument(
        "--base", type=Path, metavar="DIR", help="results that these would join: nothing there may change"
    )
    verify.add_argument("--json", action="store_true", help="print a JSON object")
    add_places(verify)
