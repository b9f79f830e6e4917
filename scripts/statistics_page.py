"""Write the tables of docs/statistics.md anew: coverage and width of the intervals (`make statistics`).

The page's text is by hand; what stands between the two marks is from here. Minutes on two cores; the same
draws on every machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.simulation import METHODS, Covered, World, further, grid, simulate

PAGE = ROOT / "docs" / "statistics.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
WORLDS = 2000
LEAST = 0.94
_SHORT = ("ours", "items only", "unclustered", "seeds ignored")

Found = dict[tuple[str, bool], Covered]


def measure(task: tuple[World, int, int]) -> Found:
    """One cell, in a process of its own."""
    world, num_worlds, seed = task
    return simulate(world, num_worlds, seed)


def words(world: World) -> list[str]:
    """The cell's own columns."""
    seeds = f"{world.num_seeds}" + (" + pool" if world.pool else "")
    kind = "soft" if world.soft else "0/1"
    level = f"{100 * world.level:g}"
    return [
        f"{world.num_samples:,}",
        str(world.cluster_size),
        seeds,
        f"{100 * world.seed_sd:g}",
        level,
        kind,
    ]


def table(worlds: list[World], found: list[Found], *, paired: bool) -> list[str]:
    """Markdown: coverage in per cent, and the mean width of ours in points."""
    head = ["samples", "cluster", "seeds", "seed SD", "level", "scores", "ours", "width"]
    lines = [f"| {' | '.join([*head, *_SHORT[1:]])} |", "|" + "--:|" * (len(head) + len(_SHORT) - 1)]
    for world, cell in zip(worlds, found, strict=True):
        cover = {name: cell[name, paired] for name in METHODS}
        own = cover["ours"]
        shown = [f"**{100 * own.share:.1f}**", f"{100 * own.width:.2f}"]
        others = [f"{100 * cover[name].share:.1f}" for name in _SHORT[1:]]
        lines.append(f"| {' | '.join([*words(world), *shown, *others])} |")
    return lines


def summary(found: list[Found], num_worlds: int) -> list[str]:
    """Least and mean coverage of each method over all cells."""
    lines = ["| interval | of a score: least, mean | of a difference: least, mean |", "|---|--:|--:|"]
    for name in METHODS:
        cells = []
        for paired in (False, True):
            shares = [cell[name, paired].share for cell in found]
            cells.append(f"{100 * min(shares):.1f}, {100 * sum(shares) / len(shares):.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    error = 100 * (0.95 * 0.05 / num_worlds) ** 0.5
    lines += [
        "",
        f"{len(found)} cells of {num_worlds:,} worlds; Monte-Carlo standard error {error:.2f} points.",
    ]
    return lines


def main() -> int:
    """Simulate, write the page, and fail where ours covers less than 94 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=WORLDS, help=f"draws a cell (default: {WORLDS})")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print instead of writing")
    arguments = parser.parse_args()
    worlds = [*grid(), *further()]
    began = time.monotonic()
    found: list[Found] = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        tasks = [(world, arguments.worlds, number) for number, world in enumerate(worlds)]
        for cell in pool.map(measure, tasks):
            found.append(cell)
            spent = time.monotonic() - began
            left = spent / len(found) * (len(worlds) - len(found))
            print(f"\r{len(found)}/{len(worlds)} cells, {left / 60:.0f} min left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    lines = ["", *summary(found, arguments.worlds), "", "### Scores", "", *table(worlds, found, paired=False)]
    lines += ["", "### Differences of two encoders", "", *table(worlds, found, paired=True), ""]
    text = "\n".join(lines)
    if arguments.dry:
        print(text)
    else:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    least = min(cell["ours", paired].share for cell in found for paired in (False, True))
    print(f"least coverage of ours: {100 * least:.1f} %, at least {100 * LEAST:.0f} % wanted")
    return 0 if least >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
