"""The command line's words for what holds encoders against each other: compare, check, baseline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.argument_parser import Parser
from harness.home import RESULTS

POINTER = RESULTS / "baseline.json"


def add_check(commands: Any) -> None:
    """Add compare, check and baseline."""
    _add_compare(commands)
    _add_check(commands)
    _add_baseline(commands)


def _add_compare(commands: Any) -> None:
    text = "two encoders on the same samples: differences, intervals, flips"
    compare = commands.add_parser("compare", help=text, description=text)
    for name in ("a", "b"):
        compare.add_argument(name, metavar=name.upper(), help="id of an encoder, or a folder of its bundles")
    compare.add_argument("--protocol", default="", help="which runs, where there are several protocols")
    compare.add_argument(
        "--results", type=Path, nargs="+", metavar="DIR", help="where ids are looked up (default: results)"
    )
    compare.add_argument(
        "--bootstrap",
        type=int,
        default=0,
        metavar="N",
        help="show a clustered bootstrap of N replicates, too",
    )
    compare.add_argument("--json", action="store_true", help="print a JSON object instead of a table")


def _add_check(commands: Any) -> None:
    text = "is a candidate worse than the baseline, beyond margin and noise? Exit code 1 says so"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("--baseline", type=Path, metavar="REF", help="pointer file, or folder of bundles")
    check.add_argument(
        "--candidate", type=Path, nargs="+", metavar="BUNDLES", help="folders of the candidate's bundles"
    )
    _add_policy(check)
    check.add_argument("--strict", action="store_true", help="exit 11 where the evidence is inconclusive")
    check.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    outputs = {
        "json-file": "the report as JSON",
        "junit": "JUnit XML, a test case a task",
        "markdown": "a comment for a pull request",
        "badge": "an SVG badge",
    }
    for name, what in outputs.items():
        check.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write {what}")
    check.add_argument(
        "--github", action="store_true", help="print annotations, and append to $GITHUB_STEP_SUMMARY"
    )
    check.add_argument(
        "--self-test",
        type=Path,
        metavar="PATH",
        help="measure this check's own error rates on 20 or more stored seeds of one encoder, and on those "
        "of damaged copies: a Parquet file of scores, or a folder of bundles",
    )
    check.add_argument("--protocol", help="of a folder's runs in the self-test (default: mini)")
    check.add_argument("--splits", type=int, metavar="N", help="of the self-test (default: 1000)")


def _add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="margins and rules (default: the tasks' own margins)"
    )


def _add_baseline(commands: Any) -> None:
    baseline = commands.add_parser("baseline", help="the pointer to what checks hold candidates against")
    parts = baseline.add_subparsers(dest="part", required=True, parser_class=Parser, metavar="PART")
    texts = {
        "set": "point at bundles for the first time",
        "show": "verify the bundles pointed at, and describe them",
        "promote": "point at a candidate instead, if it passes the check",
    }
    for name, text in texts.items():
        part = parts.add_parser(name, help=text, description=text)
        part.add_argument("--file", type=Path, default=POINTER, help=f"pointer file (default: {POINTER})")
        if name == "show":
            part.add_argument("--json", action="store_true", help="print a JSON object")
            continue
        part.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLES", help="folders of bundles")
        part.add_argument("--reason", default="", help="why, for those who read it later")
        part.add_argument(
            "--board",
            type=Path,
            nargs="+",
            default=[],
            metavar="DIR",
            help="results whose other encoders lend their seed variance",
        )
        if name == "set":
            part.add_argument("--protocol", default="", help="which runs, where there are several protocols")
        else:
            _add_policy(part)
            part.add_argument("--accept", action="store_true", help="promote what the check does not pass")
            part.add_argument(
                "--drop-tasks",
                action="store_true",
                help="let tasks go that the candidate lacks: no check judges them any more",
            )
