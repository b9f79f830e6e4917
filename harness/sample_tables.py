"""Answers and scores of one run as Arrow tables: their columns, their order, and what must hold in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import IntegrityError
from harness.records import STATUSES, Answer, Counts, Score

ANSWER_SCHEMA = pa.schema([(name, pa.string()) for name in ("sample_id", "prompt_hash", "answer", "status")])
SCORE_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("cluster", pa.string()), ("score", pa.float64()), ("status", pa.string())]
)


def table_of_answers(answers: Sequence[Answer]) -> pa.Table:
    """Columns of `ANSWER_SCHEMA`, sorted by sample_id (by code point)."""
    return _sorted_table(answers, ANSWER_SCHEMA)


def table_of_scores(scores: Sequence[Score]) -> pa.Table:
    """Columns of `SCORE_SCHEMA`, sorted by sample_id (by code point)."""
    return _sorted_table(scores, SCORE_SCHEMA)


def _sorted_table(records: Sequence[Answer] | Sequence[Score], schema: pa.Schema) -> pa.Table:
    rows = sorted((asdict(record) for record in records), key=lambda row: str(row["sample_id"]))
    return pa.Table.from_pylist(rows, schema)


def count_statuses(statuses: Sequence[str] | pa.ChunkedArray) -> Counts:
    """Counts of one run: one status an expected sample, whatever became of it."""
    column = statuses if isinstance(statuses, pa.ChunkedArray) else pa.array(statuses, pa.string())
    seen = {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
    return Counts(num_expected=len(column), **{f"num_{name}": seen.get(name, 0) for name in STATUSES})


def check_samples(answers: pa.Table, scores: pa.Table, answers_at: str, scores_at: str) -> None:
    """Ids, statuses and scores are sound in themselves and fit each other.

    Args:
        answers: `ANSWER_SCHEMA`.
        scores: `SCORE_SCHEMA`.
        answers_at: file of the answers, for errors.
        scores_at: file of the scores, for errors.

    Raises:
        IntegrityError: names the file, what is wrong and the first sample with it.
    """
    _check_columns(answers, answers_at)
    _check_columns(scores, scores_at)
    if not answers["sample_id"].equals(scores["sample_id"]):
        found = set(answers["sample_id"].to_pylist()) ^ set(scores["sample_id"].to_pylist())
        raise IntegrityError("not the samples of the answers", where=scores_at, found=repr(min(found)))
    said, status, score = answers["status"], scores["status"], scores["score"]
    null = pc.is_in(status, pa.array(["error", "missing"]))
    wrong = {
        "unknown status": pc.invert(pc.is_in(status, pa.array(STATUSES))),
        "score beside the status error or missing": pc.and_(null, score.is_valid()),
        "score is not a number between 0 and 1": pc.and_not(pc.invert(null), _between(score, 0, 1)),
        "unparsed answer with a score": pc.and_not(pc.equal(status, "unparsed"), _between(score, 0, 0)),
        "status is not that of the answer": pc.and_(pc.not_equal(said, "scored"), pc.not_equal(said, status)),
    }
    for what, rows in wrong.items():
        first = pc.index(rows, True).as_py()
        if first >= 0:
            raise IntegrityError(
                what, where=scores_at, found=f"sample {scores['sample_id'][first].as_py()!r}"
            )


def _between(score: pa.ChunkedArray, low: float, high: float) -> pa.ChunkedArray:
    inside = pc.and_(pc.greater_equal(score, low), pc.less_equal(score, high))  # false for NaN
    return pc.fill_null(inside, False)


def _check_columns(table: pa.Table, where: str) -> None:
    for name in table.column_names:
        if name != "score" and table[name].null_count:
            raise IntegrityError("null in a column that has none", where=where, found=name)
    ids = table["sample_id"]
    if not len(ids):
        raise IntegrityError("no samples", where=where)
    before, after = ids.slice(0, len(ids) - 1), ids.slice(1)
    first = pc.index(pc.less(before, after), False).as_py()
    if first >= 0:
        what = "duplicate sample id" if before[first] == after[first] else "samples are not sorted by id"
        raise IntegrityError(what, where=where, found=repr(after[first].as_py()))
