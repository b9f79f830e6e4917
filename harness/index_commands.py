"""Commands that read bundles and what is made of them: index and site. Torch-free."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from harness.errors import UsageError
from harness.home import RESULTS, find_home
from harness.tables import spell_bytes


def ingest_results(arguments: argparse.Namespace) -> int:
    """Verify bundles and load them."""
    from harness.store import ingest

    home = find_home(arguments.home)
    roots = arguments.results or [root for root in (RESULTS, home.results) if root.is_dir()]
    if not roots:
        raise UsageError("no results to ingest", expected=f"{RESULTS} or {home.results}")
    report = ingest(arguments.db or home.database, *roots)
    left_out = ("set_aside", "incomplete", "uncommitted")
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


def publish(arguments: argparse.Namespace) -> int:
    """Build the static site."""
    from leaderboard.build import build_site

    home = find_home(arguments.home)
    pairs = arguments.pairs or (RESULTS / "pairs.toml" if (RESULTS / "pairs.toml").is_file() else None)
    own = sorted(home.protocols.glob("*.toml"))
    report = build_site(arguments.db or home.database, arguments.site, pairs, protocols=own)
    if arguments.json:
        print(
            json.dumps({"pages": report.pages, "bytes": report.bytes, "index": str(report.index)}, indent=1)
        )
    else:
        print(f"{report.pages} pages, {spell_bytes(report.bytes)}: {report.index}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"ingest": ingest_results, "publish": publish}
