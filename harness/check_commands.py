"""Commands that hold encoders against each other: compare, check, baseline. Torch-free."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.baseline import (
    Baseline,
    board_pools,
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
from harness.errors import ResourceError, UsageError
from harness.files import write_atomic
from harness.gate_records import CheckReport
from harness.gate_sides import Side, bundle_folders, first_seeds, is_folder, read_side
from harness.home import RESULTS
from harness.policy import Policy, read_policy, rules_of
from harness.variance import SeedPool


def run_check(arguments: argparse.Namespace) -> int:
    """Judge a candidate; the exit code is the verdict."""
    if arguments.self_test:
        return _self_test(arguments)
    if arguments.baseline is None or not arguments.candidate:
        raise UsageError("--baseline and --candidate are needed", fix="see `eyechart check --help`")
    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    report = judge(arguments.baseline, arguments.candidate, policy, strict=arguments.strict)
    _write_outputs(report, arguments)
    return say_verdict(report, as_json(report) if arguments.json else as_text(report))


def say_verdict(report: CheckReport, text: str) -> int:
    """Print a report and return its exit code, which stands whether or not somebody reads."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return report.exit_code


def _self_test(arguments: argparse.Namespace) -> int:
    """Rates of the verdicts over splits of stored seeds."""
    from harness.self_test import curve, self_test, table, unpack

    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    path: Path = arguments.self_test
    if arguments.splits < 1:
        raise UsageError("--splits must be at least 1", found=str(arguments.splits))
    sides = unpack(path) if path.is_file() else board_sides([path], arguments.protocol)
    if not sides:
        raise UsageError("no runs of this protocol", where=str(path), found=arguments.protocol)
    whole = max(sides, key=lambda side: min(len(c.seeds) for c in side.cells.values()))
    rules = rules_of(policy, {task: cell.task_digest for task, cell in whole.cells.items()})
    found = self_test(sides, rules, policy, splits=arguments.splits)
    print(table(found))
    if len(found) > 1:
        print(f"\nWhat was found of each loss on a gating task:\n{curve(found, rules)}")
    return 0


def judge(
    baseline: Path,
    candidate: Sequence[Path],
    policy: Policy,
    *,
    strict: bool = False,
    num_seeds: int | None = None,
) -> CheckReport:
    """Read both sides and check.

    Args:
        baseline: a pointer file, or a folder of bundles.
        candidate: folders of bundles.
        policy: the declared rules.
        strict: inconclusive fails.
        num_seeds: of the candidate that this look may see; None: all that are stored.

    Raises:
        UsageError, IntegrityError, NotComparableError: see `read_side` and `rules_of`.
    """
    base, pools = read_reference(baseline)
    other = read_side(bundle_folders(candidate), base.protocol, "candidate")
    if num_seeds is not None:
        other = first_seeds(other, num_seeds)
    rules = rules_of(policy, {task: cell.task_digest for task, cell in base.cells.items()})
    return check(base, other, rules, policy, strict=strict, pools=pools)


def judge_looks(baseline: Path, policy: Policy, measure: Callable[[int], Sequence[Path]]) -> CheckReport:
    """Measure a candidate with as many seeds as the policy declares, and with more only while inconclusive.

    Args:
        baseline: a pointer file, or a folder of bundles.
        policy: its `seeds` are the looks; `alpha` is shared out over them, so that stopping early is fair.
        measure: takes a number of seeds, measures 0 to that less 1, and returns their bundles.
    """
    for number, count in enumerate(policy.seeds, 1):
        report = judge(baseline, measure(count), policy, num_seeds=count)
        look = f"look {number} of {len(policy.seeds)}, {count} seeds"
        print(f"eyechart: {look}: {summary_line(report)}", file=sys.stderr)
        if report.verdict != "inconclusive":
            break
    return report


def read_reference(path: Path) -> tuple[Side, Mapping[str, SeedPool]]:
    """The side a pointer or a folder names, and the seed variance that the pointer carries."""
    if is_folder(path):
        return read_side(bundle_folders([path]), what="baseline"), {}
    pointer = read_baseline(path)
    return resolve(path, pointer), pointer.pools


def _write_outputs(report: CheckReport, arguments: argparse.Namespace) -> None:
    outputs: dict[str, Callable[[CheckReport], str | bytes]] = {
        "json_file": lambda r: as_json(r) + "\n",
        "junit": as_junit,
        "markdown": as_markdown,
        "badge": as_badge,
    }
    for name, make in outputs.items():
        path = getattr(arguments, name)
        if path is not None:
            made = make(report)
            _write(path, made.encode() if isinstance(made, str) else made)
    if arguments.github:
        # Workflow commands are read from stdout; with --json they would spoil it.
        stream = sys.stderr if arguments.json else sys.stdout
        print("\n".join(as_annotations(report)), file=stream)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            try:
                with open(summary, "a", encoding="utf-8") as file:
                    file.write(as_markdown(report) + "\n")
            except OSError as error:
                raise ResourceError(
                    "cannot append to the summary", where=summary, found=str(error)
                ) from error
    if arguments.json:
        print(summary_line(report), file=sys.stderr)


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
    made = promote(path, old, arguments.bundles, arguments.reason, arguments.board)
    print("\n".join(lines(made)))
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Two encoders side by side, for people."""
    from harness.compare_output import compare_sides, comparison_json, comparison_text

    if arguments.bootstrap == 1 or arguments.bootstrap < 0:
        raise UsageError("--bootstrap needs two replicates or more", found=str(arguments.bootstrap))
    roots = [root for root in arguments.results or [RESULTS] if root.is_dir()]
    first, second = (_side(name, roots, arguments.protocol) for name in (arguments.a, arguments.b))
    by_id = not (is_folder(Path(arguments.a)) or is_folder(Path(arguments.b)))
    pools = board_pools(first, roots, with_own=True) if by_id else {}
    found = compare_sides(first, second, pools, replicates=arguments.bootstrap)
    show = comparison_json if arguments.json else comparison_text
    print(show(first, second, found))
    return 0


def _side(name: str, roots: Sequence[Path], protocol: str) -> Side:
    path = Path(name)
    if is_folder(path):
        return read_side(bundle_folders([path]), protocol, f"bundles of {name}")
    if path.suffix == ".json":
        return read_reference(path)[0]
    folders = [f for root in roots for f in sorted(root.glob(f"*/{name}")) if f.is_dir()]
    if protocol:
        folders = [f for f in folders if f.parent.name == protocol]
    if not folders:
        shown = ", ".join(str(r) for r in roots) or str(RESULTS)
        raise UsageError("no such encoder", found=name, where=shown, expected="an id, or a folder of bundles")
    return read_side(bundle_folders(folders), protocol, f"bundles of {name}")


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "compare": run_compare,
    "check": run_check,
    "baseline": run_baseline,
}
