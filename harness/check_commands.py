"""The gate's commands: check and baseline. Torch-free."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.baseline import (
    Baseline,
    board_sides,
    describe,
    lines,
    make_baseline,
    promote,
    read_baseline,
    resolve,
)
from harness.check import STRICT_INCONCLUSIVE, check
from harness.check_output import (
    as_annotations,
    as_badge,
    as_json,
    as_junit,
    as_markdown,
    as_text,
    summary_line,
)
from harness.errors import IncompleteError, NotComparableError, ResourceError, UsageError
from harness.files import write_atomic
from harness.gate_candidate import read_candidate, unreadable
from harness.gate_records import CheckReport
from harness.gate_sides import Side, bundle_folders, first_seeds, is_file, is_folder, read_side
from harness.policy import Policy, TaskPolicy, read_policy, rules_of
from harness.variance import SeedPool


def run_check(arguments: argparse.Namespace) -> int:
    """Judge a candidate; the exit code is the verdict."""
    if arguments.self_test:
        return _self_test(arguments)
    _refuse_idle(arguments, ("protocol", "splits"), "belongs to --self-test")
    if arguments.baseline is None or not arguments.candidate:
        raise UsageError("--baseline and --candidate are needed", fix="see `eyechart check --help`")
    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    report = judge(arguments.baseline, arguments.candidate, policy, strict=arguments.strict)
    code = say_verdict(report, as_json(report) if arguments.json else as_text(report))
    failed = _write_outputs(report, arguments)
    for error in failed:
        with contextlib.suppress(OSError):
            print(f"eyechart: {error.line()}", file=sys.stderr, flush=True)
    # A verdict that fails the build keeps its code, which says more; only "all is well" gives way.
    return code or (failed[0].exit_code if failed else 0)


def _refuse_idle(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """An option that would do nothing is a misunderstanding, and says so."""
    for name in names:
        if getattr(arguments, name) not in (None, False, []):
            raise UsageError(f"--{name.replace('_', '-')} {why}", fix="see `eyechart check --help`")


def say_verdict(report: CheckReport, text: str) -> int:
    """Print a report and return its exit code, which stands whether or not somebody reads."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return report.exit_code


def _self_test(arguments: argparse.Namespace) -> int:
    """Rates of the verdicts over splits of stored seeds."""
    from harness.self_test import SPLITS, curve, self_test, table, unpack

    idle = ("baseline", "candidate", "strict", "json", "json_file", "junit", "markdown", "badge", "github")
    _refuse_idle(arguments, idle, "does nothing with --self-test")
    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    path: Path = arguments.self_test
    splits = SPLITS if arguments.splits is None else arguments.splits
    if splits < 1:
        raise UsageError("--splits must be at least 1", found=str(splits))
    if is_file(path):
        _refuse_idle(arguments, ("protocol",), "is of folders: a file of scores has its own")
        sides = unpack(path)
    else:
        sides = board_sides([path], arguments.protocol or "mini")
    if not sides:
        raise UsageError("no runs of this protocol", where=str(path), found=arguments.protocol or "mini")
    whole = max(sides, key=lambda side: min(len(c.seeds) for c in side.cells.values()))
    rules = rules_of(policy, {task: cell.task_digest for task, cell in whole.cells.items()})
    found = self_test(sides, rules, policy, splits=splits)
    print(table(found))
    if len(found) > 1:
        print(f"\nWhat was found of each loss on a gating task:\n{curve(found, rules)}")
    return 0


class Reference(NamedTuple):
    """What candidates are held against, read and found sound."""

    side: Side
    rules: Mapping[str, TaskPolicy]
    pools: Mapping[str, SeedPool]
    lenders: Mapping[str, str]
    """Encoders whose seeds are in `pools` -> digests of their identities."""


def judge(baseline: Path, candidate: Sequence[Path], policy: Policy, *, strict: bool = False) -> CheckReport:
    """Read both sides and check.

    Args:
        baseline: a pointer file, or a folder of bundles.
        candidate: folders of bundles.
        policy: the declared rules.
        strict: inconclusive fails.

    Raises:
        UsageError, IntegrityError: see `read_side`, `read_candidate` and `rules_of`.
    """
    try:
        reference = read_reference(baseline, policy)
    except (NotComparableError, IncompleteError) as error:
        return unreadable(error, baseline, policy, strict=strict)
    return judge_against(reference, candidate, policy, strict=strict)


def judge_against(
    reference: Reference,
    candidate: Sequence[Path],
    policy: Policy,
    *,
    strict: bool = False,
    num_seeds: int | None = None,
) -> CheckReport:
    """Check a candidate; `num_seeds` of it are what this look may see, None: all that are stored."""
    other = read_candidate(candidate, reference.side)
    if num_seeds is not None:
        other = first_seeds(other, num_seeds)
    base, rules, pools, lenders = reference
    return check(base, other, rules, policy, strict=strict, pools=pools, lenders=frozenset(lenders.values()))


def judge_looks(
    baseline: Path, policy: Policy, measure: Callable[[int], Sequence[Path]], protocol: str = ""
) -> CheckReport:
    """Measure a candidate with as many seeds as the policy declares, and with more only while inconclusive.

    Args:
        baseline: a pointer file, or a folder of bundles; read before anything is measured, and the policy
            held against it, so that a slip of the pen costs no training.
        policy: its `seeds` are the looks; `alpha` is shared out over them, so that stopping early is fair.
        measure: takes a number of seeds, measures 0 to that less 1, and returns their bundles.
        protocol: of what is measured, where it is known.

    Raises:
        NotComparableError: another protocol than the baseline's.
    """
    reference = read_reference(baseline, policy)
    expected = reference.side.protocol
    if protocol and protocol != expected:
        raise NotComparableError(
            "other protocol than the baseline's", where=str(baseline), found=protocol, expected=expected
        )
    for number, count in enumerate(policy.seeds, 1):
        report = judge_against(reference, measure(count), policy, num_seeds=count)
        look = f"look {number} of {len(policy.seeds)}, {count} seeds"
        print(f"eyechart: {look}: {summary_line(report)}", file=sys.stderr)
        if report.verdict != "inconclusive":
            break
    return report


def read_reference(path: Path, policy: Policy) -> Reference:
    """The side a pointer or a folder names, its tasks' rules, and what the pointer says of seeds."""
    if is_folder(path):
        side = read_side(bundle_folders([path]), what="baseline")
        pools, lenders = {}, {}
    else:
        pointer = read_baseline(path)
        side, pools, lenders = resolve(path, pointer), pointer.pools, pointer.lenders
    rules = rules_of(policy, {task: cell.task_digest for task, cell in side.cells.items()})
    return Reference(side, rules, pools, lenders)


def _write_outputs(report: CheckReport, arguments: argparse.Namespace) -> list[ResourceError]:
    """Write every form that is wanted; what cannot be written keeps no other from being."""
    outputs: dict[str, Callable[[CheckReport], str | bytes]] = {
        "json_file": lambda r: as_json(r) + "\n",
        "junit": as_junit,
        "markdown": as_markdown,
        "badge": as_badge,
    }
    failed = []
    for name, make in outputs.items():
        path = getattr(arguments, name)
        if path is None:
            continue
        made = make(report)
        try:
            _write(path, made.encode() if isinstance(made, str) else made)
        except ResourceError as error:
            failed.append(error)
    # Workflow commands are read from stdout; with --json they would spoil it. And nobody may be reading.
    with contextlib.suppress(OSError):
        if arguments.github:
            stream = sys.stderr if arguments.json else sys.stdout
            print("\n".join(as_annotations(report)), file=stream, flush=True)
        if arguments.json:
            print(summary_line(report), file=sys.stderr, flush=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY") if arguments.github else None
    if summary:
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(as_markdown(report) + "\n")
        except OSError as error:
            failed.append(ResourceError("cannot append to the summary", where=summary, found=str(error)))
    return failed


def _write(path: Path, data: bytes) -> None:
    """Write a file whole; what is there and no plain file, a pipe or a device, is written to."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with open(path, "wb") as file:
                file.write(data)
            return
    except OSError as error:
        raise ResourceError("cannot write", where=str(path), found=str(error)) from error
    write_atomic(path, data)


def run_baseline(arguments: argparse.Namespace) -> int:
    """Set, show or promote the baseline."""
    path: Path = arguments.file
    if arguments.part == "show":
        found = read_baseline(path)
        resolve(path, found)
        print(json.dumps(describe(found), indent=1) if arguments.json else "\n".join(lines(found)))
        return 0
    if arguments.part == "set":
        if path.exists():
            raise UsageError(
                "there is a baseline already", where=str(path), fix="use `eyechart baseline promote`"
            )
        made = make_baseline(
            path,
            arguments.bundles,
            protocol=arguments.protocol,
            reason=arguments.reason,
            board=arguments.board,
        )
        print("\n".join(lines(made)))
        return 0
    return _promote(arguments, path, read_baseline(path))


def _promote(arguments: argparse.Namespace, path: Path, old: Baseline) -> int:
    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    report = judge(path, arguments.bundles, policy)
    accepted = report.verdict == "pass"
    if not accepted and not arguments.accept:
        print(as_text(report))
        print("eyechart: not promoted; --accept does it all the same, with a --reason", file=sys.stderr)
        return report.exit_code or STRICT_INCONCLUSIVE
    if not accepted and not arguments.reason:
        raise UsageError("--accept needs a --reason", found=summary_line(report))
    made = promote(
        path, old, arguments.bundles, arguments.reason, arguments.board, drop_tasks=arguments.drop_tasks
    )
    if arguments.drop_tasks:
        # Read back, since the candidate may have more bundles than the pointer names.
        dropped = sorted({task.task for task in report.tasks} - set(resolve(path, made).cells))
        gone = f"no check judges these any more: {', '.join(dropped)}" if dropped else "no task was dropped"
        print(f"eyechart: {gone}", file=sys.stderr)
    print("\n".join(lines(made)))
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": run_check,
    "baseline": run_baseline,
}
