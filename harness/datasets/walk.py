"""Which files of a person's folder are looked at: plain ones, in no hidden folder, each folder once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(place: Path) -> Iterator[Path]:
    """Files at any depth, sorted; links to files are followed (the hub's cache has them), not to folders.

    Left out: pipes, sockets and devices, on which reading may never end; hidden files and folders (a cache's
    own notes, and our home folder, whose default name is hidden, where the source lies beside it).
    """
    for folder, below, names in os.walk(place):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and is_file(path):
                yield path


def is_file(path: Path) -> bool:
    """Whether it is a plain file, or a link to one; a loop of links is none."""
    try:
        return path.is_file()
    except (OSError, RuntimeError):
        return False


def named(place: Path, name: str) -> Path | None:
    """The file of this name: in the folder itself, or the first below."""
    direct = place / name
    return direct if is_file(direct) else next((p for p in files_below(place) if p.name == name), None)
