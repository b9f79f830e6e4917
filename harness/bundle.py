"""Bundles: the truth about one run, on disk under hashes.

    results/<protocol>/<encoder>/<first 16 digits of the run key>[-2, -3 …]/
        run.json                  the Run record: inputs and counts
        answers.parquet           sample_id, prompt_hash, answer, status; sorted by sample_id
        scores-<scorer>.parquet   sample_id, cluster, score, status; the same samples in the same order
        receipt.json              what the run proved about itself (frozen weights, …)
        environment.json          hardware, versions, costs; outside the hashes
        MANIFEST.sha256           hash of each file above but the environment, as `sha256sum` prints it
        COMMIT                    bundle digest = sha256 of MANIFEST.sha256; absent: does not count

The *run key* hashes what went in, the *bundle digest* what came out: a second run of the same inputs that
answers differently stands beside the first. A bundle is built in a hidden folder and renamed into place.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.digest import digest_bytes, digest_file, digest_json
from harness.errors import IntegrityError, ResourceError
from harness.files import (
    confine,
    read_json,
    read_parquet,
    sync_folder,
    temporary_name,
    write_atomic,
    write_json,
    write_parquet,
)
from harness.record_json import record_from_json
from harness.records import SCHEMA_VERSION, Answer, Counts, Run, Score
from harness.sample_tables import (
    ANSWER_SCHEMA,
    SCORE_SCHEMA,
    check_samples,
    count_statuses,
    table_of_answers,
    table_of_scores,
)

COMMIT, MANIFEST = "COMMIT", "MANIFEST.sha256"
KEY_DIGITS, SCORER_DIGITS = 16, 12

KEY_FIELDS = (
    "protocol", "protocol_version", "suite", "recipes", "task", "task_digest", "dataset_digest",
    "split", "metric", "seed", "engine", "dtype", "llm_revision",
)  # fmt: skip
"""Fields of Run inside the run key, beside the encoder's identity."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MANIFEST_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9.-]+)")
_SCORES_NAME = re.compile(rf"scores-[0-9a-f]{{{SCORER_DIGITS}}}\.parquet")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose every byte under a hash was verified when it was read."""

    path: Path
    run: Run
    answer_table: pa.Table
    """`ANSWER_SCHEMA`, sorted by sample_id."""
    score_table: pa.Table
    """`SCORE_SCHEMA`, row for row the samples of `answer_table`."""
    scorer_digest: str
    """12 hex digits."""
    receipt: dict[str, Any]
    environment: dict[str, Any]
    digest: str

    @cached_property
    def answers(self) -> list[Answer]:
        """One record a sample, sorted by sample_id."""
        return [Answer(**row) for row in self.answer_table.to_pylist()]

    @cached_property
    def scores(self) -> list[Score]:
        """One record a sample, sorted by sample_id."""
        return [Score(**row) for row in self.score_table.to_pylist()]


def run_key(run: Run) -> str:
    """sha256 over the inputs of a run: everything that can move its numbers, no annotation, no count.

    A floor's kind and base are inputs too: a shuffled-image floor has its base's weights.
    """
    submission = run.submission
    inputs = {name: getattr(run, name) for name in KEY_FIELDS}
    return digest_json(
        {**inputs, "encoder": submission.identity_digest, "floor": submission.floor, "base": submission.base}
    )


def count_scores(scores: Iterable[Score]) -> Counts:
    """Counts of one run from its scores: one row an expected sample, whatever became of it."""
    return count_statuses([score.status for score in scores])


def write_bundle(
    results_root: Path,
    run: Run,
    answers: Sequence[Answer],
    receipt: dict[str, Any],
    environment: dict[str, Any],
    *,
    scores: Sequence[Score] | None = None,
    scorer_digest: str = "",
) -> Path:
    """Write one run below `results_root`; nothing half-written ever bears a COMMIT.

    Args:
        results_root: folder that holds <protocol>/<encoder>/.
        run: inputs, and counts that must equal those of `scores`.
        answers: one an expected sample, any order.
        receipt: JSON values; under the hash.
        environment: JSON values; not under the hash. `stages_s` = {stage: seconds} feeds the view `costs`.
        scores: one an answer. Without them the bundle waits for `add_scores`, uncommitted.
        scorer_digest: at least 12 hex digits that name the scorer's code.

    Returns:
        The bundle's folder. One that already holds the same contents is left alone and returned; one with
        other contents for the same inputs is kept, and the new one gets the next free suffix.

    Raises:
        IntegrityError: duplicate ids, samples of answers and scores differ, a score does not fit its status,
            counts do not add up, or the bundle already there is damaged.
        ResourceError: the disk is full.
    """
    home = _home(results_root, run)
    answer_table = table_of_answers(answers)
    staging = home / temporary_name()
    try:
        write_json(staging / "run.json", run)
        write_json(staging / "receipt.json", receipt)
        write_json(staging / "environment.json", environment)
        write_parquet(staging / "answers.parquet", answer_table)
        digest = ""
        if scores is not None:
            score_table = table_of_scores(scores)
            unit = f"{run.submission.id}, {run.task}, seed {run.seed}"
            check_samples(answer_table, score_table, f"answers of {unit}", f"scores of {unit}")
            _check_counts(run, score_table, f"run of {unit}")
            if not re.fullmatch(rf"[0-9a-f]{{{SCORER_DIGITS},64}}", scorer_digest):
                raise IntegrityError("scorer digest is not hexadecimal", found=repr(scorer_digest))
            write_parquet(staging / f"scores-{scorer_digest[:SCORER_DIGITS]}.parquet", score_table)
            digest = _seal(staging)
        return _place(staging, home / run_key(run)[:KEY_DIGITS], digest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def add_scores(bundle: Path, scores: Sequence[Score], scorer_digest: str) -> Path:
    """Score stored answers: commit a bundle that waits for scores, or re-score a committed one.

    A committed bundle is never changed: the new scores stand beside it in a bundle of their own, with the
    same answers and receipt.

    Returns:
        The folder of the committed bundle that holds these scores.

    Raises:
        IntegrityError, ResourceError: as `write_bundle`; also if a committed bundle fails verification.
    """
    if (bundle / COMMIT).exists():
        read_bundle(bundle)
    run = replace(_read_run(bundle / "run.json"), counts=count_scores(scores))
    answer_table = _read_table(bundle / "answers.parquet", ANSWER_SCHEMA)
    answers = [Answer(**row) for row in answer_table.to_pylist()]
    receipt, environment = _read_object(bundle / "receipt.json"), _read_object(bundle / "environment.json")
    root = bundle.absolute().parent.parent.parent
    return write_bundle(root, run, answers, receipt, environment, scores=scores, scorer_digest=scorer_digest)


def read_unscored(path: Path) -> tuple[Run, dict[str, Any], dict[str, Any]]:
    """Run, receipt and environment of a folder that waits for its scores; no hash is verified.

    Raises:
        IntegrityError: a file is missing or not what it should be.
    """
    receipt, environment = _read_object(path / "receipt.json"), _read_object(path / "environment.json")
    return _read_run(path / "run.json"), receipt, environment


def read_bundle(path: Path) -> Bundle:
    """Read a committed bundle and verify all of it.

    Raises:
        IntegrityError: names the first file that is missing, extra, changed, or does not fit the others.
    """
    digest, names = _verify_hashes(path)
    scores_name = next(name for name in names if _SCORES_NAME.fullmatch(name))
    run = _read_run(path / "run.json")
    answer_table = _read_table(path / "answers.parquet", ANSWER_SCHEMA)
    score_table = _read_table(path / scores_name, SCORE_SCHEMA)
    check_samples(answer_table, score_table, str(path / "answers.parquet"), str(path / scores_name))
    _check_counts(run, score_table, str(path / "run.json"))
    environment = path / "environment.json"
    return Bundle(
        path=path,
        run=run,
        answer_table=answer_table,
        score_table=score_table,
        scorer_digest=scores_name.removeprefix("scores-").removesuffix(".parquet"),
        receipt=_read_object(path / "receipt.json"),
        environment=_read_object(environment) if environment.exists() else {},
        digest=digest,
    )


def check_place(bundle: Bundle) -> None:
    """Refuse a bundle that lies under another protocol, encoder or run key than its own.

    Raises:
        IntegrityError: names the folder.
    """
    place, run = bundle.path.absolute(), bundle.run
    want = f"{run.protocol}/{run.submission.id}/{run_key(run)[:KEY_DIGITS]}"
    got = "/".join(place.parts[-3:])
    if got != want and not re.fullmatch(rf"{re.escape(want)}-[1-9][0-9]*", got):
        raise IntegrityError("bundle lies in the wrong folder", where=str(place), found=got, expected=want)


def find_bundles(root: Path) -> list[Path]:
    """Folders of committed bundles below `root`, sorted."""
    return [path for path in _candidates(root) if (path / COMMIT).exists()]


def find_uncommitted(root: Path) -> list[Path]:
    """Folders where a bundle belongs that bear no COMMIT: waiting for scores, or damaged."""
    return [path for path in _candidates(root) if not (path / COMMIT).exists()]


def _candidates(root: Path) -> list[Path]:
    found = (path for path in root.glob("*/*/*") if path.is_dir())
    # A link, at whatever depth, leads out of the results or round in a circle.
    inside = (
        p for p in found if not (p.is_symlink() or p.parent.is_symlink() or p.parent.parent.is_symlink())
    )
    return sorted(path for path in inside if not any(p.startswith(".") for p in path.relative_to(root).parts))


def _home(results_root: Path, run: Run) -> Path:
    for part in (run.protocol, run.submission.id):
        if not _SLUG.fullmatch(part):
            raise IntegrityError("not usable as a folder name", found=repr(part), expected=_SLUG.pattern)
    if not re.fullmatch(r"[0-9a-f]{64}", run.submission.identity_digest):
        found = repr(run.submission.identity_digest)
        raise IntegrityError("encoder has no identity digest", where=run.submission.id, found=found)
    return confine(results_root, f"{run.protocol}/{run.submission.id}")


def _seal(folder: Path) -> str:
    """Write MANIFEST.sha256, then COMMIT; return the bundle digest."""
    names = sorted(p.name for p in folder.iterdir() if p.name != "environment.json")
    lines = [f"{digest_file(folder / name)}  {name}\n" for name in names]
    manifest = "".join(lines).encode()
    write_atomic(folder / MANIFEST, manifest)
    write_atomic(folder / COMMIT, _commit(manifest))
    return digest_bytes(manifest)


def _commit(manifest: bytes) -> bytes:
    return f"{digest_bytes(manifest)}\n".encode()


def _place(staging: Path, first: Path, digest: str) -> Path:
    """Rename a finished folder to the first name that is free, or find its equal already there."""
    for number in itertools.count(1):
        target = first if number == 1 else first.with_name(f"{first.name}-{number}")
        if target.exists() and not (target / COMMIT).exists():
            # Waiting for the scores that we bring, or cut off by a kill: either way we supersede it.
            shutil.rmtree(target)
        try:
            os.rename(staging, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise ResourceError("cannot place the bundle", where=str(target), found=str(error)) from error
        else:
            sync_folder(target.parent)
            return target
        if digest and (target / COMMIT).read_bytes() == f"{digest}\n".encode():
            read_bundle(target)
            return target
    raise AssertionError("unreachable: the count has no end")


def _verify_hashes(path: Path) -> tuple[str, list[str]]:
    """Bundle digest and the names under it, once every hash was found right."""
    present = {entry.name: entry for entry in path.iterdir()} if path.is_dir() else {}
    for name in (COMMIT, MANIFEST):
        if name not in present:
            raise IntegrityError(
                f"{name} is missing", where=str(path), fix="run the command that made it again"
            )
    for entry in present.values():
        if entry.is_symlink() or not entry.is_file():
            raise IntegrityError("not a plain file", where=str(entry))
    manifest = (path / MANIFEST).read_bytes()
    if (path / COMMIT).read_bytes() != _commit(manifest):
        raise IntegrityError(f"{MANIFEST} and {COMMIT} do not fit each other", where=str(path / MANIFEST))
    recorded = _parse_manifest(manifest, path / MANIFEST)
    extra = sorted(set(present) - set(recorded) - {COMMIT, MANIFEST, "environment.json"})
    if extra:
        raise IntegrityError("file is not in the manifest", where=str(path / extra[0]))
    for name, want in recorded.items():
        if name not in present:
            raise IntegrityError("file is missing", where=str(path / name))
        found = digest_file(path / name)
        if found != want:
            raise IntegrityError("file was changed", where=str(path / name), found=found, expected=want)
    return digest_bytes(manifest), list(recorded)


def _parse_manifest(manifest: bytes, where: Path) -> dict[str, str]:
    recorded: dict[str, str] = {}
    for line in manifest.decode("ascii", "replace").splitlines():
        match = _MANIFEST_LINE.fullmatch(line)
        if match is None:
            raise IntegrityError("not a manifest line", where=str(where), found=repr(line))
        recorded[match[2]] = match[1]
    # One way to write it: no line twice, no other line ends.
    if manifest != "".join(f"{digest}  {name}\n" for name, digest in recorded.items()).encode():
        raise IntegrityError("manifest has a line twice, or other line ends", where=str(where))
    scores = [name for name in recorded if _SCORES_NAME.fullmatch(name)]
    expected = sorted(["answers.parquet", "receipt.json", "run.json", *scores])
    if len(scores) != 1 or list(recorded) != expected:
        found = ", ".join(recorded)
        raise IntegrityError("manifest does not list one of each file, sorted", where=str(where), found=found)
    return recorded


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    table = read_parquet(path)
    if not table.schema.equals(schema):
        found, expected = (str(s).replace("\n", ", ") for s in (table.schema, schema))
        raise IntegrityError(
            "columns are not the ones of this file", where=str(path), found=found, expected=expected
        )
    try:
        table.validate(full=True)  # offsets inside their buffers, and text that is UTF-8
    except pa.ArrowException as error:
        raise IntegrityError("not a sound table", where=str(path), found=str(error)[:200]) from error
    return table


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise IntegrityError("not a JSON object", where=str(path))
    return value


def _read_run(path: Path) -> Run:
    data = _read_object(path)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            "schema version", where=str(path), found=repr(version), expected=str(SCHEMA_VERSION)
        )
    run = record_from_json(Run, data, str(path))
    if not run.counts.balanced():
        raise IntegrityError("counts do not add up to num_expected", where=str(path), found=str(run.counts))
    return run


def _check_counts(run: Run, scores: pa.Table, where: str) -> None:
    counted = count_statuses(scores["status"])
    if counted != run.counts:
        what = "counts are not those of the scores"
        raise IntegrityError(what, where=where, found=str(run.counts), expected=str(counted))
