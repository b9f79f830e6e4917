"""The candidate's side of a check: what cannot be held against the baseline is a finding, and no error.

A build that stops on an exception leaves no report, or the last build's. So another protocol, a task under
two sets of conditions and answers that wait for their scores block the tasks they concern, by name, and the
verdict says so in every format; only damage and wrong arguments raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from harness.bundle import Bundle
from harness.errors import IncompleteError, IntegrityError, NotComparableError
from harness.files import read_json
from harness.gate_records import CheckReport, SideSummary
from harness.gate_sides import (
    WAITING,
    WAITING_FIX,
    Blocked,
    Side,
    find_folders,
    read_all,
    refuse_odd_names,
    side_of,
)
from harness.policy import Policy

UNKNOWN = "unknown"


class WaitingRun(NamedTuple):
    """Answers without scores, as far as their run.json says whose they are; "": it does not."""

    folder: Path
    protocol: str
    encoder: str
    task: str


def read_candidate(paths: Sequence[Path], baseline: Side) -> Side:
    """The candidate's runs of the baseline's protocol, and which tasks are blocked and why.

    Raises:
        UsageError: no such folder, no bundles, several encoders or two versions of one.
        IntegrityError: a bundle fails verification.
    """
    folders, waiting = find_folders(paths)
    bundles = read_all(folders)
    blocked = _waiting_tasks([_waiting_run(folder) for folder in waiting], baseline)
    mine = [b for b in bundles if b.run.protocol == baseline.protocol]
    if mine:
        return side_of(mine, baseline.protocol, "candidate", blocked)
    for bundle in bundles:
        refuse_odd_names(bundle)
    names = sorted({b.run.submission.id for b in bundles} | {_waiting_run(f).encoder for f in waiting})
    if bundles:
        blocked = dict.fromkeys(baseline.cells, _other_protocol(bundles, baseline.protocol)) | blocked
    encoder = ", ".join(n for n in names if n) or UNKNOWN
    held = ", ".join(sorted({b.run.protocol for b in bundles})) or baseline.protocol
    return Side(protocol=held, encoder=encoder, title=encoder, cells={}, tier=UNKNOWN, blocked=blocked)


def _other_protocol(bundles: Sequence[Bundle], expected: str) -> Blocked:
    error = NotComparableError(
        "other protocol than the baseline's, in the candidate",
        found=", ".join(sorted({b.run.protocol for b in bundles})),
        expected=expected,
    )
    return Blocked(verdict="not-comparable", reason=error.line().rstrip("."))


def _waiting_tasks(runs: Sequence[WaitingRun], baseline: Side) -> dict[str, Blocked]:
    """The baseline's tasks of which answers wait; all of them where it is not known whose they are."""
    blocked: dict[str, Blocked] = {}
    for run in runs:
        if run.protocol and run.protocol != baseline.protocol:
            continue
        reason = IncompleteError(WAITING, where=str(run.folder), fix=WAITING_FIX).line().rstrip(".")
        tasks = [run.task] if run.protocol and run.task else list(baseline.cells)
        for task in tasks:
            blocked.setdefault(task, Blocked(verdict="incomplete", reason=reason))
    return blocked


def _waiting_run(folder: Path) -> WaitingRun:
    """What run.json says, where it says it as it should: nothing here is under a hash yet."""
    try:
        data = read_json(folder / "run.json")
    except IntegrityError:
        data = None
    data = data if isinstance(data, dict) else {}
    of = data.get("submission")
    encoder = of.get("id") if isinstance(of, dict) else None
    said = (data.get("protocol"), encoder, data.get("task"))
    return WaitingRun(folder, *(x if isinstance(x, str) and x.isprintable() else "" for x in said))


def unreadable(
    error: NotComparableError | IncompleteError, baseline: Path, policy: Policy, *, strict: bool
) -> CheckReport:
    """The report where the baseline's own bundles cannot be made a side: no task is known, the reason is."""
    name = ascii(str(baseline))[1:-1]
    absent = SideSummary(protocol="", encoder=name, tier=UNKNOWN, bundles=())
    return CheckReport(
        verdict="not-comparable" if isinstance(error, NotComparableError) else "incomplete",
        exit_code=error.exit_code,
        strict=strict or policy.inconclusive == "fail",
        level=1 - policy.alpha,
        policy_digest=policy.digest,
        baseline=absent,
        candidate=SideSummary(protocol="", encoder="the candidate", tier=UNKNOWN, bundles=()),
        tasks=(),
        notes=(error.line(),),
    )
