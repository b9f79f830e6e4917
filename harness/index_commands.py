"""Commands that read bundles and what is made of them: index, its contents, site. Torch-free."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.home import RESULTS, find_home
from harness.tables import spell_bytes

if TYPE_CHECKING:
    from leaderboard.build import SiteReport


def ingest_results(arguments: argparse.Namespace) -> int:
    """Verify bundles and load them."""
    from harness.pairs import own_pairs, read_pairs
    from harness.store import ingest
    from harness.verify import refuse_empty

    home = find_home(arguments.home)
    roots = arguments.results or [root for root in (RESULTS, home.results) if root.is_dir()]
    if not roots:
        raise UsageError("no results to ingest", expected=f"{RESULTS} or {home.results}")
    for root in arguments.results or ():
        refuse_empty(root)
    declared = arguments.pairs or own_pairs()
    report = ingest(
        arguments.db or home.database,
        *roots,
        pairs=read_pairs(declared) if declared else (),
        rebuild=arguments.rebuild,
    )
    left_out = ("set_aside", "incomplete", "uncommitted", "pairs")
    if arguments.json:
        print(
            json.dumps(
                {
                    "db": str(report.db),
                    "bundles": report.num_bundles,
                    "samples": report.num_samples,
                    "cells": report.num_cells,
                    **{name: list(getattr(report, name)) for name in left_out},
                },
                indent=1,
            )
        )
        return 0
    print(
        f"{report.num_bundles} bundles, {report.num_samples:,} samples, "
        f"{report.num_cells} cells in {report.db}"
    )
    for name in left_out:
        for item in getattr(report, name):
            print(f"  {name.replace('_', ' ')}: {item}")
    return 0


def query(arguments: argparse.Namespace) -> int:
    """Answer one SQL statement."""
    from harness.files import atomic_file
    from harness.query import query_store, spell_table
    from harness.row_formats import write_rows

    if arguments.format == "parquet" and arguments.out is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal", fix="add --out FILE, or send the output elsewhere")
    database = arguments.db or find_home(arguments.home).database
    with query_store(database, arguments.sql) as rows:
        if arguments.format == "table":
            text = spell_table(rows)
            if arguments.out is None:
                print(text)
                return 0
            with atomic_file(arguments.out) as file:
                file.write(f"{text}\n".encode())
        elif arguments.out is None:
            write_rows(arguments.format, sys.stdout.buffer, rows.schema, rows.batches)
            sys.stdout.buffer.flush()
            return 0
        else:
            with atomic_file(arguments.out) as file:
                count = write_rows(arguments.format, file, rows.schema, rows.batches)
            print(f"{count:,} {'row' if count == 1 else 'rows'} in {arguments.out}")
    return 0


def write_board(arguments: argparse.Namespace) -> int:
    """Write every table and view of the index for other programs."""
    from harness.export_board import export_board

    report = export_board(arguments.db or find_home(arguments.home).database, arguments.to)
    if arguments.json:
        counts = {"tables": report.num_tables, "rows": report.num_rows, "bytes": report.num_bytes}
        print(json.dumps({"path": str(report.folder), **counts}, indent=1))
    else:
        print(
            f"{report.num_tables} tables and views, {report.num_rows:,} rows, "
            f"{spell_bytes(report.num_bytes)} in {report.folder}"
        )
    return 0


def publish(arguments: argparse.Namespace) -> int:
    """Build the static site."""
    from harness.pairs import own_pairs
    from leaderboard.build import build_site

    home = find_home(arguments.home)
    pairs = arguments.pairs or own_pairs()
    own = sorted(home.protocols.glob("*.toml"))
    report = build_site(
        arguments.db or home.database,
        arguments.site,
        pairs,
        protocols=own,
        datasets=home.datasets,
        local_media=arguments.media_from_home,
        url=arguments.url,
        repository=arguments.repository,
    )
    if arguments.json:
        facts = {"pages": report.pages, "bytes": report.bytes, "index": str(report.index)}
        changes = {name: list(getattr(report, name)) for name in ("new", "changed", "removed")}
        print(json.dumps({**facts, "first": report.first, **changes}, indent=1))
    else:
        print(spell_build(report))
        if report.without_pictures:
            names = ", ".join(name.removeprefix("eyechart_") for name in report.without_pictures)
            how = "`eyechart mini data` (the mini suite) or `eyechart data pack` makes what they need"
            print(f"No pictures and questions of {names}: {how}, then publish again.")
        if arguments.media_from_home:
            print("For your own eyes: it shows what licences forbid to pass on. Do not publish it.")
    return 0


def spell_build(report: SiteReport) -> str:
    """A build in one line: pages, size, what changed, and the page to open."""
    size = f"{report.pages} pages, {spell_bytes(report.bytes)}"
    if report.first:
        return f"{size}; the first build here: {report.index}"
    counts = f"{len(report.new)} new, {len(report.changed)} changed, {len(report.removed)} removed"
    return f"{size}; since the last build {counts}: {report.index}"


def serve(arguments: argparse.Namespace) -> int:
    """Show the site until interrupted, and build it anew whenever the index changes."""
    from harness.pairs import own_pairs, read_pairs
    from harness.store import ingest
    from leaderboard.build import build_site
    from leaderboard.serve import serve_site

    home = find_home(arguments.home)
    database = arguments.db or home.database
    pairs = arguments.pairs or own_pairs()
    if arguments.results:
        ingest(database, *arguments.results, pairs=read_pairs(pairs) if pairs else ())

    def build() -> str:
        own = sorted(home.protocols.glob("*.toml"))
        report = build_site(database, arguments.site, pairs, protocols=own, datasets=home.datasets)
        return spell_build(report)

    serve_site(arguments.site, database, build, tell=_tell, port=arguments.port)
    return 0


def _tell(line: str) -> None:
    print(line, flush=True)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "ingest": ingest_results,
    "query": query,
    "publish": publish,
    "serve": serve,
}
