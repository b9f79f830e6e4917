"""`eyechart compare`: two encoders side by side, for people. Torch-free."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.baseline import board_seeds, read_baseline, resolve
from harness.compare_output import SeedNoise, compare_sides, comparison_json, comparison_text
from harness.errors import NotComparableError, UsageError
from harness.gate_sides import Side, bundle_folders, is_folder, read_side
from harness.home import RESULTS


def run_compare(arguments: argparse.Namespace) -> int:
    """Two encoders side by side; exit 12 where not one task could be compared."""
    if arguments.bootstrap == 1 or arguments.bootstrap < 0:
        raise UsageError("--bootstrap needs two replicates or more", found=str(arguments.bootstrap))
    roots = arguments.results or ([RESULTS] if RESULTS.is_dir() else [])
    for root in roots:
        if not is_folder(root):
            raise UsageError("no such folder of results", where=str(root), fix="give another by --results")
    names = (arguments.a, arguments.b)
    first, second = (_side(name, roots, arguments.protocol) for name in names)
    noise = SeedNoise({}, (), "")
    if not any(is_folder(Path(name)) for name in names):
        pools, lenders = board_seeds(first, roots, with_own=True)
        noise = SeedNoise(pools, tuple(lenders), ", ".join(str(root) for root in roots))
    found = compare_sides(first, second, noise.pools, replicates=arguments.bootstrap)
    show = comparison_json if arguments.json else comparison_text
    print(show(first, second, found, noise))
    compared = any(task.comparison is not None for task in found)
    return 0 if compared else NotComparableError.exit_code


def _side(name: str, roots: Sequence[Path], protocol: str) -> Side:
    path = Path(name)
    if name and is_folder(path):
        return read_side(bundle_folders([path]), protocol, f"bundles of {name}")
    if path.suffix == ".json":
        return resolve(path, read_baseline(path))
    folders = _folders_of(name, roots)
    if not folders:
        shown = ", ".join(str(r) for r in roots) or str(RESULTS)
        raise UsageError(
            "no such encoder", found=name or '""', where=shown, expected="an id, or a folder of bundles"
        )
    chosen = [f for f in folders if protocol in ("", f.parent.name)]
    if not chosen:
        held = ", ".join(sorted({f.parent.name for f in folders}))
        raise UsageError(f"no runs of {name} under this protocol", found=held, expected=protocol)
    return read_side(bundle_folders(chosen), protocol, f"bundles of {name}")


def _folders_of(name: str, roots: Sequence[Path]) -> list[Path]:
    """Folders of an encoder below results, whatever the protocol; a name is a name and no pattern."""
    if name in ("", ".", "..") or Path(name).name != name:
        return []
    protocols = [p for root in roots for p in sorted(root.iterdir()) if is_folder(p)]
    return [protocol / name for protocol in protocols if is_folder(protocol / name)]


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"compare": run_compare}
