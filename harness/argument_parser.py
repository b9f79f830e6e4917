"""What all parts of the command line share: the parser and the place options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from harness.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Exit code 2 and one line for wrong arguments."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, which names the command's help."""
        raise UsageError(message, fix=f"see `{self.prog} --help`")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add --home."""
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="data and caches (default: $EYECHART_HOME or .eyechart)"
    )
