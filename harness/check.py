"""The CI gate: is a candidate worse than a baseline by more than a policy accepts, and beyond noise?

Non-inferiority, task by task, on the same samples. With d the difference candidate − baseline, δ the margin
and [low, high] the interval of `harness.stats`, seeds and clusters included:

    pass          low > −δ: a loss of more than δ is excluded
    regression    high < −δ, and the one-sided p of "the true loss is at most δ" is below half of 1 − level,
                  after Holm over all gating tasks: all of them together raise a false alarm that rarely
    inconclusive  neither
    not comparable, incomplete: nothing is computed, and the reason is named

Pure: cells in, report out. Torch-free, and nothing here reads a file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from harness.comparison import compare, holm
from harness.gate_differences import what_differs
from harness.gate_needs import needed
from harness.gate_records import CheckReport, SideSummary, TaskVerdict, Verdict
from harness.gate_sides import Blocked, Side, TaskCell
from harness.policy import Policy, TaskPolicy
from harness.stats import DifferenceParts, difference_limits
from harness.variance import SeedPool, pool_seeds

EXIT_CODES: dict[Verdict, int] = {
    "pass": 0,
    "regression": 1,
    "inconclusive": 0,
    "incomplete": 9,
    "not-comparable": 12,
}
STRICT_INCONCLUSIVE = 11
Counted = tuple[bool, bool]
"""Of baseline and candidate: whether its seeds are in the pool of a board already."""
_ORDER: tuple[Verdict, ...] = ("regression", "not-comparable", "incomplete", "inconclusive", "pass")
"""The whole verdict is the first of these that a gating task has."""


def check(
    baseline: Side,
    candidate: Side,
    rules: Mapping[str, TaskPolicy],
    policy: Policy,
    *,
    strict: bool = False,
    pools: Mapping[str, SeedPool] | None = None,
    lenders: Collection[str] = (),
    explain: bool = True,
) -> CheckReport:
    """Judge a candidate.

    Args:
        baseline: what is held against; its tasks are the ones judged.
        candidate: what is judged.
        rules: of every task of the baseline, margins filled in; `harness.policy.rules_of`.
        policy: level and looks.
        strict: inconclusive fails whatever the policy says.
        pools: seed variance of tasks known from other encoders, as the baseline's pointer carries it.
        lenders: identities of the encoders that `pools` were made from.
        explain: say what would settle an inconclusive task; costs more than all the rest.
    """
    strict = strict or policy.inconclusive == "fail"
    found: list[TaskVerdict] = []
    parts: dict[str, DifferenceParts] = {}
    counted = (baseline.identity in lenders, candidate.identity in lenders)
    for task, cell in baseline.cells.items():
        other = candidate.cells.get(task) or candidate.blocked.get(task)
        verdict, part = _compare_task(cell, other, rules[task], (pools or {}).get(task), counted)
        found.append(verdict)
        if part is not None:
            parts[task] = part
    found = _judge(found, parts, policy, explain=explain)
    worst = min((v.verdict for v in found if v.importance == "gating"), key=_ORDER.index)
    code = STRICT_INCONCLUSIVE if worst == "inconclusive" and strict else EXIT_CODES[worst]
    return CheckReport(
        verdict=worst,
        exit_code=code,
        strict=strict,
        level=1 - policy.alpha,
        policy_digest=policy.digest,
        baseline=_summary(baseline),
        candidate=_summary(candidate),
        tasks=tuple(found),
        notes=tuple(_notes(baseline, candidate)),
        seed_noise=_seed_noise(tuple(parts), pools or {}, lenders, counted) if parts else "",
    )


def _summary(side: Side) -> SideSummary:
    digests = sorted(d for cell in side.cells.values() for d in cell.digests)
    return SideSummary(protocol=side.protocol, encoder=side.encoder, tier=side.tier, bundles=tuple(digests))


def _notes(baseline: Side, candidate: Side) -> list[str]:
    notes = []
    extra = sorted(set(candidate.cells) - set(baseline.cells))
    if extra:
        notes.append(f"Not judged, since the baseline lacks them: {', '.join(extra)}.")
    for task, cell in baseline.cells.items():
        other = candidate.cells.get(task)
        if other is not None and other.engines != cell.engines:
            engines = f"{', '.join(cell.engines)} and {', '.join(other.engines)}"
            notes.append(f"{task}: answers of baseline and candidate come from {engines}.")
    notes += _fewer_seeds(baseline, candidate)
    shared = {d for c in baseline.cells.values() for d in c.digests}
    if shared & {d for c in candidate.cells.values() for d in c.digests}:
        notes.append("Baseline and candidate share bundles.")
    return notes


def _fewer_seeds(baseline: Side, candidate: Side) -> list[str]:
    """A candidate measured in part passes on less evidence than the baseline has: that is said."""
    tasks: dict[tuple[int, int], list[str]] = {}
    for task, cell in baseline.cells.items():
        other = candidate.cells.get(task)
        if other is not None and len(other.seeds) < len(cell.seeds):
            tasks.setdefault((len(other.seeds), len(cell.seeds)), []).append(task)
    return [
        f"The candidate has fewer seeds than the baseline, {few} against {many}, of: {', '.join(names)}."
        for (few, many), names in sorted(tasks.items())
    ]


def _seed_noise(
    tasks: Sequence[str], pools: Mapping[str, SeedPool], lenders: Collection[str], counted: Counted
) -> str:
    """Where the training noise in the intervals of the compared tasks comes from."""
    alone = [task for task in tasks if task not in pools]
    if len(alone) == len(tasks):
        return "Seed noise is of these two sides only."
    of = f"{len(lenders)} encoders" if lenders else "encoders"
    sides = [
        f"the {name}" for name, is_in in zip(("baseline", "candidate"), counted, strict=True) if not is_in
    ]
    own = f", and from the seeds of {' and '.join(sides)}" if sides else ""
    but = f"; of these two sides only: {', '.join(alone)}" if alone else ""
    return f"Seed noise is from the baseline's pointer, pooled over {of} of a board{own}{but}."


def _compare_task(
    base: TaskCell, cand: TaskCell | Blocked | None, rule: TaskPolicy, pool: SeedPool | None, counted: Counted
) -> tuple[TaskVerdict, DifferenceParts | None]:
    """Everything but the verdict where the two compare."""
    head = TaskVerdict(
        task=base.task, importance=rule.importance, verdict="incomplete", margin=rule.margin, reason=""
    )
    if cand is None:
        return replace(head, reason="the candidate has no run of this task"), None
    if isinstance(cand, Blocked):
        return replace(head, verdict=cand.verdict, reason=cand.reason), None
    head = replace(head, seeds_baseline=len(base.seeds), seeds_candidate=len(cand.seeds))
    differing = what_differs(base, cand)
    if differing:
        reason = f"baseline and candidate differ in {'; '.join(differing)}"
        return replace(head, verdict="not-comparable", reason=reason), None
    for side, cell in (("baseline", base), ("candidate", cand)):
        if cell.num_unscored:
            count = f"{cell.num_unscored:,} of {cell.num_expected:,} answers"
            return replace(head, reason=f"{count} of the {side} are in error or missing"), None
    known = pooled(base, cand, pool, counted)
    found = compare(cand.scores, base.scores, base.clusters, known)
    return (
        replace(
            head,
            verdict="inconclusive",
            baseline=float(base.scores.mean()),
            candidate=float(cand.scores.mean()),
            difference=found.interval.value,
            p=found.interval.p,
            only_candidate=found.only_a,
            only_baseline=found.only_b,
            num_samples=found.num_samples,
            num_clusters=found.num_clusters,
            detectable=found.detectable,
            seeds_unknown=not found.parts.known,
        ),
        found.parts,
    )


def pooled(
    base: TaskCell, cand: TaskCell, pool: SeedPool | None, counted: Counted = (False, False)
) -> SeedPool:
    """Seed variance of both sides together, with that of other encoders where it is known.

    Args:
        base: the baseline's cell.
        cand: the candidate's.
        pool: of a board's encoders.
        counted: whether baseline and candidate are among them: their seeds must not count twice.
    """
    known = pool is not None and pool.df > 0
    of = [] if counted[0] and known else [base.scores]
    # Nor may bundles that stand on both sides.
    if not (counted[1] and known) and not set(cand.digests) & set(base.digests):
        of.append(cand.scores)
    own = pool_seeds(of, base.clusters)
    if pool is None or pool.df == 0:
        return own
    df = own.df + pool.df
    ratio = (own.df * own.ratio + pool.df * pool.ratio) / df
    return SeedPool(ratio, df, (own.df * own.total + pool.df * pool.total) / df)


def _judge(
    found: Sequence[TaskVerdict], parts: Mapping[str, DifferenceParts], policy: Policy, *, explain: bool
) -> list[TaskVerdict]:
    """Intervals, Holm over the gating tasks (absent ones count as tests, too), verdicts and sentences."""
    gating = [v.task for v in found if v.importance == "gating"]
    raw = {v.task: _p_regression(parts[v.task], v.margin) if v.task in parts else 1.0 for v in found}
    adjusted = dict(zip(gating, holm([raw[t] for t in gating]), strict=True))
    judged = []
    for verdict in found:
        if verdict.task not in parts:
            judged.append(verdict)
            continue
        part = parts[verdict.task]
        now = _verdict_of(verdict, part, float(adjusted.get(verdict.task, raw[verdict.task])), policy)
        if explain and now.verdict == "inconclusive" and part.known:
            # A loss must stand out among all gating tasks, a pass only by itself.
            tests = max(len(gating), 1) if part.value < -verdict.margin else 1
            seeds = (verdict.seeds_candidate or 1, verdict.seeds_baseline or 1)
            now = replace(now, needs=needed(part, verdict.margin, 1 - policy.alpha / tests, seeds))
        judged.append(now)
    return judged


def _p_regression(parts: DifferenceParts, margin: float) -> float:
    """One-sided p of a true difference of −margin or better."""
    p = float(difference_limits(*parts[:4], against=-margin).p)
    return p / 2 if parts.value < -margin else 1 - p / 2


def _verdict_of(
    found: TaskVerdict, parts: DifferenceParts, p_regression: float, policy: Policy
) -> TaskVerdict:
    limits = difference_limits(*parts[:4], level=1 - policy.alpha, against=None)
    low, high = float(limits.low), float(limits.high)
    span = f"{_points(parts.value)} points [{_points(low)}, {_points(high)}]"
    margin = f"the margin of {100 * found.margin:.3g} points"
    needs = ""
    verdict: Verdict
    if not parts.known:
        verdict = "inconclusive"
        reason = f"{span}, and one seed a side says nothing about training noise"
        needs = "at least 3 seeds a side, or a baseline that carries the seed variance of a board"
    elif low > -found.margin or found.margin >= 1:
        verdict, reason = "pass", f"{span}: a loss beyond {margin} is excluded"
    elif high < -found.margin and p_regression < policy.alpha / 2:
        verdict, reason = "regression", f"{span}: beyond {margin}, and beyond noise"
    elif high < -found.margin:
        verdict = "inconclusive"
        reason = f"{span}: beyond {margin}, but not beyond noise over all gating tasks"
    else:
        verdict, reason = "inconclusive", f"{span} straddles {margin}"
    return replace(
        found,
        verdict=verdict,
        reason=reason,
        needs=needs,
        ci_low=low,
        ci_high=high,
        p_regression=p_regression,
        real_but_tolerated=verdict == "pass" and high < 0,
    )


def _points(fraction: float) -> str:
    text = f"{100 * fraction:+.2f}" if math.isfinite(fraction) else "unknown"
    return "0.00" if text in {"+0.00", "-0.00"} else text.replace("-", "−")
