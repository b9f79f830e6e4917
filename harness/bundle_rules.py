"""What one bundle must hold beyond its hashes: new hashes are easily made, a contradiction stays.

`harness.bundle` says whether the bytes are those that were written. Here the parts of a bundle are held
against each other and against the definitions under tasks/ and harness/protocols.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.bundle import Bundle, check_place, read_bundle
from harness.digest import canonical_json, digest_bytes, plain_json
from harness.errors import EyechartError, IntegrityError
from harness.prompts import PROBE_SCORER
from harness.protocol import PROTOCOLS, read_protocol, unpinned_fields
from harness.records import Protocol, Run, Submission, Task
from harness.submission import submission_from_table
from harness.task import known_tasks, read_task

MAX_JSON_BYTES, MAX_TABLE_BYTES, MAX_UNPACKED_BYTES = 4 << 20, 64 << 20, 1 << 30
MAX_ANSWER, MAX_NAME = 20_000, 500
"""Characters of an answer, and of a sample's or a cluster's name."""
MAX_SEED = 2**31 - 1
ENGINES = ("probe", "hf", "vllm")
_HEX = re.compile(r"[0-9a-f]{64}")
_PATTERNS = {
    "protocol": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "suite": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "task": re.compile(r"eyechart_[a-z0-9_]{1,100}"),
    "split": re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}"),
    "metric": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_@.+:-]{0,62}"),
    "engine": re.compile("|".join(ENGINES)),
    "dtype": re.compile(r"float32|float16|bfloat16"),
    "task_digest": _HEX,
    "dataset_digest": _HEX,
    "llm_revision": re.compile(r"|[0-9a-f]{40}|[0-9a-f]{64}"),
}
"""How the words of run.json are spelt. Checked before the run key: half a character has no hash."""


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """What is known here of tasks and protocols."""

    tasks: Mapping[str, Task]
    """By digest."""
    protocols: Mapping[tuple[str, int], Protocol]
    """By name and version; without those that still have something UNPINNED."""


def read_definitions(own: Path | None = None, tasks_dir: Path | None = None) -> Definitions:
    """All tasks and pinned protocols that this installation knows.

    Args:
        own: folder of a person's own protocols and pinned copies.
        tasks_dir: folder of the task definitions; None is the repository's.

    Raises:
        UsageError: one of the definitions is not valid.
    """
    tasks = [read_task(name, tasks_dir) for name in known_tasks(tasks_dir)]
    folders = [PROTOCOLS, own] if own is not None else [PROTOCOLS]
    names = sorted({path.stem for folder in folders for path in folder.glob("*.toml")})
    protocols = [read_protocol(name, own) for name in names]
    return Definitions(
        tasks={task.digest: task for task in tasks},
        protocols={(p.name, p.version): p for p in protocols if not unpinned_fields(p)},
    )


def inspect_bundle(path: Path, definitions: Definitions) -> Bundle:
    """Read one bundle and check everything that can be seen in it alone.

    Raises:
        IntegrityError: the first thing that is wrong, with the file.
    """
    try:
        _check_sizes(path)
        bundle = read_bundle(path)
        check_bundle(bundle, definitions)
    except OSError as error:
        raise IntegrityError("cannot read", where=str(path), found=error.strerror or str(error)) from error
    return bundle


def check_bundle(bundle: Bundle, definitions: Definitions) -> None:
    """Hold the parts of a bundle, whose hashes are right, against each other and the definitions.

    Raises:
        IntegrityError: the first contradiction, with the file and the key.
    """
    run, where = bundle.run, str(bundle.path / "run.json")
    _check_spelling(run, where)
    _check_submission(run.submission, where)
    check_place(bundle)
    task = definitions.tasks.get(run.task_digest)
    if task is not None:
        _check_task(run, task, where)
    protocol = definitions.protocols.get((run.protocol, run.protocol_version))
    if protocol is not None:
        _check_protocol(run, protocol, where)
    _check_samples(bundle)
    _check_receipt(bundle)
    _check_environment(bundle)


def is_known(run: Run, definitions: Definitions) -> bool:
    """Whether task and protocol of a run are defined here, so that its samples could be counted."""
    protocol = (run.protocol, run.protocol_version) in definitions.protocols
    return protocol and run.task_digest in definitions.tasks


def _check_sizes(path: Path) -> None:
    """Refuse files too large to be what they are called, before anything reads them whole."""
    for entry in sorted(path.iterdir()) if path.is_dir() else []:
        if entry.is_symlink() or not entry.is_file():
            continue  # refused by name in read_bundle
        table, size = entry.suffix == ".parquet", entry.stat().st_size
        limit = MAX_TABLE_BYTES if table else MAX_JSON_BYTES
        if size > limit:
            raise IntegrityError(
                "file is too large", where=str(entry), found=f"{size:,}", expected=f"at most {limit:,} bytes"
            )
        unpacked = _unpacked_bytes(entry) if table else 0
        if unpacked > MAX_UNPACKED_BYTES:
            found, expected = f"{unpacked:,}", f"at most {MAX_UNPACKED_BYTES:,} bytes"
            raise IntegrityError(
                "table unpacks to too much", where=str(entry), found=found, expected=expected
            )


def _unpacked_bytes(path: Path) -> int:
    try:
        about = pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError):
        return 0  # damaged: read_bundle says how, after the hashes
    return sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))


def _check_spelling(run: Run, where: str) -> None:
    for name, pattern in _PATTERNS.items():
        value = getattr(run, name)
        if not pattern.fullmatch(value):
            raise IntegrityError(f"{name} is not well formed", where=where, found=repr(value)[:80])
    for name, digest in run.recipes.items():
        if not re.fullmatch(r"[a-z]{1,30}", name) or not _HEX.fullmatch(digest):
            raise IntegrityError("recipes are not well formed", where=where, found=repr({name: digest})[:120])
    ranges = {"seed": (0, MAX_SEED), "protocol_version": (1, 10**6), "chance": (0, 1)}
    for name, (low, high) in ranges.items():
        value = getattr(run, name)
        if not low <= value <= high:
            raise IntegrityError(
                f"{name} is out of range", where=where, found=str(value)[:80], expected=f"{low} to {high}"
            )
    if (run.engine == "probe") != (run.llm_revision == ""):
        found = f"engine {run.engine}, llm_revision {run.llm_revision[:16]!r}"
        raise IntegrityError("engine and llm_revision contradict each other", where=where, found=found)


def _check_submission(submission: Submission, where: str) -> None:
    """The record must be one that a manifest could have said, its identity digest that of its parts."""
    table: dict[str, Any] = plain_json(submission)
    floor, base, recorded = (table.pop(key) for key in ("floor", "base", "identity_digest"))
    if floor is not None:
        table["floor"] = {"kind": floor, **({"base": base} if base else {})}
    elif base:
        raise IntegrityError("submission.base belongs to floors only", where=where, found=repr(base)[:80])
    try:
        read = submission_from_table({"schema": 1, **table}, Path("submission"))
    except EyechartError as error:
        what = f"{error.where}: {error.what}".removeprefix("submission: ")
        raise IntegrityError(
            f"not a valid submission: {what}", where=where, found=error.found, expected=error.expected
        ) from error
    if read.identity_digest != recorded:
        raise IntegrityError(
            "identity_digest is not that of source and input",
            where=where,
            found=recorded[:64],
            expected=read.identity_digest,
        )
    if replace(read, identity_digest="") != replace(submission, identity_digest=""):
        raise IntegrityError("submission does not read back as itself", where=where, found=submission.id)


def _check_task(run: Run, task: Task, where: str) -> None:
    facts = ("split", "metric", "chance", "suite")
    wanted: dict[str, Any] = {"task": task.name, **{name: getattr(task, name) for name in facts}}
    if task.dataset_digest != "UNPINNED":
        wanted["dataset_digest"] = task.dataset_digest
    for name, expected in wanted.items():
        if (found := getattr(run, name)) != expected:
            what = f"{name} is not that of the task's definition"
            raise IntegrityError(what, where=where, found=str(found), expected=str(expected))
    if run.counts.num_expected != task.num_expected:
        raise IntegrityError(
            "number of samples is not that of the task's definition",
            where=where,
            found=str(run.counts.num_expected),
            expected=str(task.num_expected),
        )
    if (run.engine == "probe") != (task.scorer == PROBE_SCORER):
        expected = "probe" if task.scorer == PROBE_SCORER else "hf or vllm"
        raise IntegrityError(
            "engine cannot answer this task", where=where, found=run.engine, expected=expected
        )


def _check_protocol(run: Run, protocol: Protocol, where: str) -> None:
    probe = run.engine == "probe"
    used = ("feature", "probe") if probe else ("adapter", "decoding", "feature")
    wanted = {
        "suite": protocol.suite,
        "recipes": {name: protocol.recipe_digests[name] for name in used},
        "llm_revision": "" if probe else protocol.llm.revision,
        "dtype": "float32" if probe else protocol.decoding.dtype,
    }
    for name, expected in wanted.items():
        if (found := getattr(run, name)) != expected:
            what = f"{name} differs from version {protocol.version} of the protocol {protocol.name}"
            raise IntegrityError(what, where=where, found=str(found)[:300], expected=str(expected)[:300])
    if run.task not in protocol.tasks:
        raise IntegrityError(f"{protocol.name} does not ask this task", where=where, found=run.task)


def _check_samples(bundle: Bundle) -> None:
    said, scores = bundle.answer_table, bundle.score_table
    answers_at = str(bundle.path / "answers.parquet")
    scores_at = str(bundle.path / f"scores-{bundle.scorer_digest}.parquet")
    _refuse_first(
        said, pc.invert(_matches(said["prompt_hash"], r"[0-9a-f]{16}")), "prompt hash is not 16 hex digits",
        answers_at,
    )  # fmt: skip
    too_long = pc.greater(pc.utf8_length(said["answer"]), MAX_ANSWER)
    _refuse_first(said, too_long, f"answer of more than {MAX_ANSWER:,} characters", answers_at)
    for name in ("sample_id", "cluster"):
        odd = pc.or_(pc.greater(pc.utf8_length(scores[name]), MAX_NAME), pc.equal(scores[name], ""))
        _refuse_first(scores, odd, f"{name} is empty or too long", scores_at)
    if bundle.run.engine != "probe":
        return
    # A probe's sample is a picture: it asks nothing, is its own cluster, and is right or wrong.
    nothing = digest_bytes(b"")[:16]
    _refuse_first(said, pc.not_equal(said["prompt_hash"], nothing), "a probe has no prompt", answers_at)
    ids = _matches(said["sample_id"], rf"{re.escape(bundle.run.split)}-(0|[1-9][0-9]*)")
    _refuse_first(said, pc.invert(ids), "not the name of a probe's sample", answers_at)
    apart = pc.not_equal(scores["cluster"], scores["sample_id"])
    _refuse_first(scores, apart, "a probe's sample is its own cluster", scores_at)
    partly = pc.fill_null(pc.invert(pc.is_in(scores["score"], pa.array([0.0, 1.0]))), False)
    partly = pc.and_(partly, scores["score"].is_valid())
    _refuse_first(scores, partly, "a probe scores 0 or 1", scores_at)


def _matches(column: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(column, rf"\A({pattern})\z")


def _refuse_first(table: pa.Table, wrong: pa.ChunkedArray, what: str, where: str) -> None:
    first = pc.index(wrong, True).as_py()
    if first >= 0:
        raise IntegrityError(what, where=where, found=f"sample {table['sample_id'][first].as_py()[:80]!r}")


def _check_receipt(bundle: Bundle) -> None:
    """The run must have proved that it left the encoder as it was."""
    receipt, where = bundle.receipt, str(bundle.path / "receipt.json")
    _refuse_unwritable(receipt, where)
    weights = receipt.get("encoder_weights")
    if not isinstance(weights, dict) or set(weights) != {"before", "after"}:
        raise IntegrityError("no digests of the encoder's weights", where=where, found=repr(weights)[:80])
    if weights["before"] != weights["after"] or receipt.get("frozen") is not True:
        found = f"{str(weights['before'])[:16]} before, {str(weights['after'])[:16]} after"
        raise IntegrityError("the encoder was not frozen", where=where, found=found)
    if not _HEX.fullmatch(str(weights["before"])):
        found = repr(weights["before"])[:80]
        raise IntegrityError("digest of the encoder's weights is not 64 hex digits", where=where, found=found)


def _check_environment(bundle: Bundle) -> None:
    where = str(bundle.path / "environment.json")
    _refuse_unwritable(bundle.environment, where)
    stages = bundle.environment.get("stages_s", {})
    if not isinstance(stages, dict):
        raise IntegrityError("stages_s is not {stage: seconds}", where=where, found=repr(stages)[:80])
    for stage, seconds in stages.items():
        if type(seconds) not in (int, float) or not math.isfinite(seconds) or not 0 <= seconds < 10**9:
            found = repr({stage: seconds})[:80]
            raise IntegrityError("stages_s is not {stage: seconds}", where=where, found=found)


def _refuse_unwritable(value: dict[str, Any], where: str) -> None:
    """The index keeps these objects as canonical JSON; what has none would stop every ingest."""
    try:
        canonical_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        found = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise IntegrityError("has no canonical JSON form", where=where, found=found) from error
