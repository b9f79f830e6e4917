"""`eyechart compare`: two encoders on every task they share, as a table or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from harness.bootstrap import Bootstrap, paired_bootstrap
from harness.check import pooled
from harness.check_output import points
from harness.comparison import Comparison, compare, holm
from harness.digest import digest_json
from harness.gate_differences import what_differs
from harness.gate_sides import Side
from harness.tables import text_table
from harness.variance import SeedPool


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskComparison:
    """One task, a minus b; either a comparison or the reason why there is none."""

    task: str
    a: float | None
    b: float | None
    comparison: Comparison | None
    p_holm: float | None
    """The p of the comparison by Holm over the tasks compared."""
    bootstrap: Bootstrap | None
    reason: str


class SeedNoise(NamedTuple):
    """Where the training noise of a comparison comes from: the same two sides have other intervals by it."""

    pools: Mapping[str, SeedPool]
    """By task; a task it lacks is served by the two sides themselves."""
    lenders: tuple[str, ...]
    """Encoders that the pools are made of."""
    where: str
    """Folders of results that they lie in."""

    def line(self, tasks: Sequence[str]) -> str:
        """One sentence on the tasks that were compared."""
        own = [task for task in tasks if task not in self.pools]
        if len(own) == len(tasks):
            return "Seed noise is of these two sides only."
        but = f", but for {', '.join(own)}: of these two sides only" if own else ""
        return f"Seed noise is pooled over {len(self.lenders)} encoders of {self.where}{but}."


def compare_sides(
    a: Side, b: Side, pools: Mapping[str, SeedPool], *, replicates: int = 0
) -> list[TaskComparison]:
    """Compare two encoders on every task that either has.

    Args:
        a: first side.
        b: second side.
        pools: seed variance by task from a board; a task it lacks is served by the two sides themselves.
        replicates: of the clustered bootstrap beside the intervals; 0: none.
    """
    found: list[TaskComparison] = []
    for task in sorted({*a.cells, *b.cells}):
        left, right = a.cells.get(task), b.cells.get(task)
        values = [
            float(c.scores.mean()) if c is not None and not c.num_unscored else None for c in (left, right)
        ]
        reason, compared, drawn = "", None, None
        if left is None or right is None:
            reason = f"{'a' if left is None else 'b'} has no run of it"
        elif differing := what_differs(left, right):
            reason = f"they differ in {'; '.join(differing)}"
        elif None in values:
            reason = "answers are in error or missing"
        else:
            pool = pools.get(task)
            known = pool if pool is not None and pool.df > 0 else pooled(left, right, None)
            floors = (a.is_floor, b.is_floor)
            compared = compare(left.scores, right.scores, left.clusters, known, floors)
            if replicates:
                drawn = paired_bootstrap(left.scores, right.scores, left.clusters, replicates=replicates)
        found.append(
            TaskComparison(
                task=task,
                a=values[0],
                b=values[1],
                comparison=compared,
                p_holm=None,
                bootstrap=drawn,
                reason=reason,
            )
        )
    return _with_holm(found)


def _with_holm(found: list[TaskComparison]) -> list[TaskComparison]:
    tested = [t for t in found if t.comparison is not None]
    raw = [t.comparison.interval.p for t in tested if t.comparison is not None]
    by_task = dict(zip((t.task for t in tested), holm(raw), strict=True))
    return [replace(t, p_holm=float(by_task[t.task])) if t.task in by_task else t for t in found]


def comparison_text(a: Side, b: Side, found: list[TaskComparison], noise: SeedNoise) -> str:
    """A table for people, then what could not be compared and why."""
    header = ["task", "a", "b", "a − b", "95 % interval", "p", "p (Holm)", "seeds", "flips", "detectable"]
    drawn = any(t.bootstrap is not None for t in found)
    header += ["bootstrap, seeds held fixed"] if drawn else []
    table = text_table(header, [_row(t, drawn=drawn) for t in found], numbers=(1, 2, 3, 5, 6, 7, 9))
    compared = [t for t in found if t.comparison is not None]
    unknown = [t.task for t in compared if t.comparison is not None and t.comparison.interval.seeds_unknown]
    lines = [_head(a, b), table, *(f"{t.task}: not compared, {t.reason}." for t in found if t.reason)]
    if compared:
        lines.append(noise.line([t.task for t in compared]))
    else:
        lines.append("Nothing could be compared.")
    if unknown:
        lines.append(f"Training noise is unknown, and not in the interval, of: {', '.join(unknown)}.")
    return "\n".join(lines)


def _head(a: Side, b: Side) -> str:
    """Who is who; two versions, or two sets of runs, under one id by the digest of their bundles."""
    names = [side.encoder for side in (a, b)]
    if a.encoder == b.encoder:
        names = [f"{side.encoder} (bundles {_bundles(side)[:8]})" for side in (a, b)]
    protocol = f"protocol {a.protocol}"
    if a.protocol != b.protocol:
        protocol = f"protocols {a.protocol} and {b.protocol}"
    return f"a = {names[0]}, b = {names[1]}, {protocol}; points"


def _bundles(side: Side) -> str:
    return digest_json(sorted(digest for cell in side.cells.values() for digest in cell.digests))


def _row(t: TaskComparison, *, drawn: bool) -> list[str]:
    row = [t.task.removeprefix("eyechart_"), *("–" if x is None else f"{100 * x:.2f}" for x in (t.a, t.b))]
    c = t.comparison
    if c is None:
        row += ["–"] * 7
    else:
        i = c.interval
        row += [points(i.value), f"[{points(i.low)}, {points(i.high)}]", _p(i.p), _p(t.p_holm)]
        row += [f"{c.seeds_a}/{c.seeds_b}", f"+{c.only_a} −{c.only_b}"]
        row.append("–" if c.detectable is None else f"{100 * c.detectable:.2f}")
    if drawn:
        boot = t.bootstrap
        row.append("" if boot is None else f"[{points(boot.low)}, {points(boot.high)}]")
    return row


def _p(p: float | None) -> str:
    return "" if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}"


def comparison_json(a: Side, b: Side, found: list[TaskComparison], noise: SeedNoise) -> str:
    """The same as JSON: fractions, null for what is unknown."""

    def finite(x: float) -> float | None:
        return x if math.isfinite(x) else None

    tasks: list[dict[str, Any]] = []
    for t in found:
        row: dict[str, Any] = {"task": t.task, "a": t.a, "b": t.b, "reason": t.reason}
        if t.comparison is not None:
            c, i = t.comparison, t.comparison.interval
            row |= {"difference": i.value, "ci_low": i.low, "ci_high": i.high, "p": i.p, "p_holm": t.p_holm}
            row |= {"se": finite(i.se), "df": i.df, "seeds_unknown": i.seeds_unknown}
            row |= {"only_a": c.only_a, "only_b": c.only_b, "detectable": c.detectable}
            row |= {"num_samples": c.num_samples, "num_clusters": c.num_clusters}
            row |= {"seeds_a": c.seeds_a, "seeds_b": c.seeds_b}
        if t.bootstrap is not None:
            row["bootstrap"] = {k: v for k, v in t.bootstrap._asdict().items() if k != "num_cells"}
        tasks.append(row)
    compared = [t.task for t in found if t.comparison is not None]
    head = {
        "a": a.encoder,
        "b": b.encoder,
        "bundles_a": _bundles(a),
        "bundles_b": _bundles(b),
        "protocol": a.protocol if a.protocol == b.protocol else None,
        "protocol_a": a.protocol,
        "protocol_b": b.protocol,
        "seed_noise": noise.line(compared) if compared else None,
        "seed_lenders": list(noise.lenders),
    }
    return json.dumps({**head, "tasks": tasks}, indent=1)
