"""Which revision of a dataset's repository is meant: reviewed pins in the package, a person's own at home."""

from __future__ import annotations

import re
from pathlib import Path

from harness.datasets.specs import SPECS, UNPINNED
from harness.errors import UsageError
from harness.fields import parse_toml, show
from harness.files import write_atomic

SHIPPED = Path(__file__).resolve().parent / "pins.toml"
COMMIT = re.compile(r"[0-9a-f]{40}")
_HEAD = "# Written by `eyechart data fetch --pin`; reviewed once it stands in the package's.\n"


def read_pins(path: Path) -> dict[str, str]:
    """Dataset -> revision of one file; {} where there is none.

    Raises:
        UsageError: not such TOML, an unknown dataset or no revision.
    """
    if not path.is_file():
        return {}
    try:
        table = parse_toml(path.read_bytes())
    except ValueError as error:
        raise UsageError("not valid TOML", where=str(path), found=str(error)) from error
    for name, revision in table.items():
        if name not in SPECS:
            raise UsageError("unknown dataset", where=str(path), found=show(name), expected=", ".join(SPECS))
        if not isinstance(revision, str) or not COMMIT.fullmatch(revision):
            raise UsageError(
                "not a revision", where=f"{path}: {name}", found=show(revision), expected="40 hex digits"
            )
    return table


def pinned(name: str, home: Path) -> str:
    """The revision of a dataset, or UNPINNED; one that was reviewed counts before a person's own."""
    return read_pins(SHIPPED).get(name) or read_pins(home / "pins.toml").get(name) or UNPINNED


def write_pin(name: str, revision: str, home: Path) -> Path:
    """Write a person's own pin; returns the file.

    Raises:
        ResourceError: see `atomic_file`.
    """
    path = home / "pins.toml"
    pins = read_pins(path) | {name: revision}
    lines = "".join(f'{key} = "{pins[key]}"\n' for key in sorted(pins))
    write_atomic(path, (_HEAD + lines).encode())
    return path
