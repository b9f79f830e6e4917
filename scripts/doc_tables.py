"""Prints a generated part of a document, or writes it between the document's two markers."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path


def print_or_write(make: Callable[[], str], doc: Path, begin: str, end: str) -> None:
    """Print what `make` gives, or with `--write` on the command line put it into `doc`.

    Args:
        make: the text.
        doc: has each of the two markers once.
        begin: marker before the text.
        end: marker after it.
    """
    warnings.simplefilter("ignore")
    text = make()
    if "--write" not in sys.argv[1:]:
        print(text)
        return
    before, rest = doc.read_text("utf-8").split(begin)
    doc.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")
