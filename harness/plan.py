"""(encoder x task x seed) -> units of work, and everything that can be found wrong before work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from harness.bundle import find_bundles, read_bundle, run_key
from harness.data import check_dataset, read_note
from harness.device import CPU
from harness.duplicates import refuse_duplicate
from harness.engines.choose import REFERENCE
from harness.errors import DatasetError, IntegrityError
from harness.files import require_free
from harness.forecast import Device, Forecast, Workload, refuse_what_does_not_fit
from harness.home import Home
from harness.llm_files import llm_revision, locate_llm
from harness.prompts import PROBE_SCORER
from harness.protocol import read_protocol, refuse_unpinned
from harness.records import Counts, Protocol, Run, Submission, Task
from harness.stages import MIXTURE, Subject, open_subject
from harness.submission import read_submission, verify_files
from harness.task import read_task
from harness.workload import predict


@dataclass(frozen=True, slots=True)
class Unit:
    """One (task, seed) of the plan."""

    task: Task
    seed: int
    run: Run
    """With empty counts: what the run key is computed from."""
    bundle: Path | None
    """The committed bundle, where there is one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Checked inputs and what is to be done."""

    subject: Subject
    tasks: dict[str, Task]
    units: tuple[Unit, ...]
    load: Workload
    """The work, counted."""
    forecast: Forecast
    """What it takes, predicted."""
    num_params: int
    grid: tuple[int, int]
    side: int
    """Pixels at which the encoder is measured."""
    tasks_dir: Path | None = None
    """Folder of the task definitions; None is the repository's."""
    engine: str = REFERENCE
    """What answers the questions."""

    @property
    def pending(self) -> list[Unit]:
        """Units without a committed bundle."""
        return [unit for unit in self.units if unit.bundle is None]


def empty_run(
    submission: Submission,
    protocol: Protocol,
    task: Task,
    dataset_digest: str,
    seed: int,
    engine: str = REFERENCE,
) -> Run:
    """The inputs of a run, before it has counts."""
    is_probe = task.scorer == PROBE_SCORER
    used = ("feature", "probe") if is_probe else ("feature", "adapter", "decoding")
    return Run(
        submission=submission,
        protocol=protocol.name,
        protocol_version=protocol.version,
        suite=protocol.suite,
        # Only what the task depends on: a new probe recipe must not take answers off the board.
        recipes={name: protocol.recipe_digests[name] for name in used},
        task=task.name,
        task_digest=task.digest,
        dataset_digest=dataset_digest,
        split=task.split,
        metric=task.metric,
        chance=task.chance,
        seed=seed,
        engine="probe" if is_probe else engine,
        dtype="float32" if is_probe else protocol.decoding.dtype,
        llm_revision="" if is_probe else protocol.llm.revision,
        counts=Counts(
            num_expected=task.num_expected,
            num_scored=0,
            num_unparsed=0,
            num_error=0,
            num_missing=task.num_expected,
        ),
        # Nobody else can know what a person's own code computes.
        tier="self-reported" if submission.source.kind == "python" else "re-run",
    )


def make_plan(
    manifest: Path,
    protocol: str | Protocol,
    home: Home,
    results: list[Path],
    tasks_dir: Path | None = None,
    *,
    board: Sequence[Path] = (),
    allow_code: bool = False,
    engine: str = REFERENCE,
    device: str = CPU,
) -> Plan:
    """Read and check everything; nothing is written and nothing is trained.

    Args:
        manifest: submission.toml.
        protocol: name or path of a protocol, or one that was read.
        home: data and caches.
        results: folders whose committed bundles count as done.
        tasks_dir: another folder of task definitions.
        board: folders of bundles among which a duplicate of this encoder is looked for.
        allow_code: run the network of a submission that brings its own code.
        engine: what answers the questions; part of the run keys of all tasks but probes.
        device: where encoder and language model compute; part of no run key, of the receipt instead.

    Raises:
        SubmissionError, UnsafeInputError: manifest, hashes, architecture, weights.
        DatasetError: data missing, changed, empty.
        IntegrityError: the language model differs from the protocol's.
        UsageError: unknown protocol or task, or a protocol that is not pinned yet.
    """
    protocol = read_protocol(protocol, home.protocols) if isinstance(protocol, str) else protocol
    refuse_unpinned(protocol)
    tasks = {name: read_task(name, tasks_dir) for name in protocol.tasks}
    submission = read_submission(manifest)
    root = manifest.absolute().parent
    verify_files(submission, root)
    _check_llm(protocol, home)
    subject = Subject(submission, root, protocol, home, allow_code, device)
    digests = _check_data(subject, tasks)
    encoder = open_subject(subject)
    refuse_duplicate(submission, encoder.weight_digest(), protocol.name, board)
    done = _committed(results, protocol.name, submission.id)
    units = []
    for task, seed in product(tasks.values(), protocol.seeds):
        run = empty_run(submission, protocol, task, digests[task.dataset], seed, engine)
        units.append(Unit(task, seed, run, done.get(run_key(run))))
    load, wanted = predict(subject, tasks, encoder)
    return Plan(
        subject,
        tasks,
        tuple(units),
        load,
        wanted,
        encoder.num_params,
        encoder.grid,
        encoder.side,
        tasks_dir,
        engine,
    )


def require_room(plan: Plan, device: Device) -> None:
    """Room for what is pending. Not part of `make_plan`: on a full disk one may still ask where a run stands.

    Args:
        plan: from `make_plan`.
        device: what computes here (`workload.device_here`).

    Raises:
        ResourceError: not enough disk or memory; says what would do.
    """
    if not plan.pending:
        return
    subject = plan.subject
    require_free(subject.home.root, plan.forecast.disk_bytes, f"the run of {subject.submission.id}")
    if any(unit.task.kind != "probe" for unit in plan.pending):
        refuse_what_does_not_fit(plan.forecast, device)


def _check_llm(protocol: Protocol, home: Home) -> None:
    found = llm_revision(locate_llm(protocol.llm.name, home.llms))
    if found != protocol.llm.revision:
        raise IntegrityError(
            "language model differs from the protocol's revision",
            where=protocol.llm.name,
            found=found[:16],
            expected=protocol.llm.revision[:16],
        )


def _check_data(subject: Subject, tasks: dict[str, Task]) -> dict[str, str]:
    """Digest of each dataset, once it and the mixture were found whole."""
    digests = {t.dataset: check_dataset(subject.data / t.dataset, t.dataset_digest) for t in tasks.values()}
    check_dataset(subject.data / MIXTURE, subject.protocol.adapter.mixture_digest)
    for task in tasks.values():
        _check_rows(subject.data / task.dataset, task)
    return digests


def _check_rows(folder: Path, task: Task) -> None:
    """A split that the run would refuse must be found before work starts."""
    rows = read_note(folder)["rows"].get(task.split)
    if rows != task.num_expected:
        raise DatasetError(
            "split has another number of rows than the task expects",
            where=str(folder / f"{task.split}.parquet"),
            found=str(rows),
            expected=str(task.num_expected),
        )


def _committed(results: list[Path], protocol: str, encoder: str) -> dict[str, Path]:
    """Run key -> folder of this encoder's committed bundles, every one verified."""
    found: dict[str, Path] = {}
    for root in results:
        for path in find_bundles(root) if root.is_dir() else []:
            if path.parent == root / protocol / encoder:
                found.setdefault(run_key(read_bundle(path).run), path)
    return found
