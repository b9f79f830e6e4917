"""Scores of stored answers by lmms-eval's own functions; the only module that imports lmms_eval.

lmms-eval takes seconds to import and changes global state, so it runs in a process of its own:
`scoring.score_in_process` starts `python -m harness.lmms JOBS.json`, which scores any number of jobs after
one import. Tasks are built from the YAML under tasks/ exactly as lmms-eval builds them, except that their
rows come from the Parquet file without its images: nothing here looks at pixels, and no copy of the data
is made.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import io
import math
import os
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from harness import prompts
from harness.digest import digest_json
from harness.errors import DatasetError, EyechartError, IntegrityError, InternalError, UsageError
from harness.files import read_json, read_parquet, write_parquet
from harness.records import Score, Status, Task
from harness.scoring import OFFLINE, SCORES_SCHEMA, ScoreJob, end_with_parent
from harness.task import TASKS, read_task

__all__ = [
    "ScoreJob",
    "Scorer",
    "load_peer",
    "reachable_sources",
    "score_answers",
    "score_rows",
    "scorer_digest",
]


def load_peer() -> Any:
    """Import lmms-eval offline and quiet.

    Returns:
        The module `lmms_eval.api.task`.

    Raises:
        UsageError: lmms-eval is not installed.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    importlib.import_module("harness.torchvision_shim")  # before transformers meets torchvision
    from PIL import ImageFile

    accepts_half_images = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        from lmms_eval.api import task as peer
    except ModuleNotFoundError as error:
        raise UsageError(
            "scoring needs a package that is not installed",
            found=f"no module {error.name}",
            fix="install the extra `run`: pip install 'eyechart[run]'",
        ) from error
    # The import turns this global on, for this whole process.
    ImageFile.LOAD_TRUNCATED_IMAGES = accepts_half_images
    from loguru import logger

    logger.disable("lmms_eval")
    return peer


class Scorer:
    """One task, built by lmms-eval from our YAML over the rows of one split.

    Args:
        task: our record of it.
        table: rows without media columns.
        tasks_dir: folder of tasks.
    """

    def __init__(self, task: Task, table: pa.Table, tasks_dir: Path) -> None:
        self.task = task
        self.peer = _stored_task(task, table, tasks_dir)
        self.aggregate = self.peer.aggregation()[task.metric]
        # is_parsed and doc_problem sit beside the scoring function in the task's utils.py.
        self.rules: dict[str, Any] = self.peer.config.process_results.__globals__
        from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

        self._numbers = EvalAIAnswerProcessor.NUMBER_MAP
        self._first_numbers = dict(self._numbers)

    def check(self, row: dict[str, Any], name: str) -> None:
        """Refuse a row whose score would say something about the row, not about the answer.

        Raises:
            DatasetError: see the task's `doc_problem`.
        """
        problem = self.rules["doc_problem"](row)
        if problem:
            raise DatasetError(
                "row cannot be scored", where=f"{self.task.name}, sample {name}", found=problem
            )

    def judge(self, row: dict[str, Any], answer: str) -> tuple[float, Status]:
        """Score 0-1 of one answer by the task's own metric, as its aggregate over this sample alone.

        Raises:
            InternalError: lmms-eval's score is not in 0-1, or it drew a random number.
        """
        if not self.rules["is_parsed"](row, answer):
            return 0.0, "unparsed"
        state = random.getstate()
        with contextlib.redirect_stdout(io.StringIO()):
            value = self.peer.process_results(row, [answer])[self.task.metric]
            score = float(self.aggregate([value]))
        if random.getstate() != state:
            raise InternalError("the scorer guessed", where=self.task.name, found=repr(answer))
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise InternalError("score is not in 0-1", where=self.task.name, found=f"{score} for {answer!r}")
        self.forget()
        return score, "scored"

    def forget(self) -> None:
        """Undo what an answer left behind: lmms-eval's number words grow with every word it sees."""
        if len(self._numbers) != len(self._first_numbers):
            self._numbers.clear()
            self._numbers.update(self._first_numbers)


def _stored_task(task: Task, table: pa.Table, tasks_dir: Path) -> Any:
    """An lmms-eval `ConfigurableTask` whose rows are `table`, with nothing downloaded or cached."""
    api = load_peer()
    import datasets
    from lmms_eval.utils import load_yaml_config

    class StoredTask(api.ConfigurableTask):  # type: ignore[misc, name-defined]
        def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
            del dataset_kwargs
            self.dataset = {task.split: datasets.Dataset(table.replace_schema_metadata(None))}
            self.dataset_no_image = self.dataset

    config = load_yaml_config(str(tasks_dir / task.name / f"{task.name}.yaml"), mode="full")
    return StoredTask(config=config, model_name="eyechart")


def read_rows(path: Path) -> pa.Table:
    """A split's rows without its image columns.

    Raises:
        DatasetError: the file is missing or holds no row.
        IntegrityError: it is damaged.
    """
    if not path.is_file():
        raise DatasetError("dataset is missing", where=str(path), fix="write the suite's data first")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError("not a sound Parquet file", where=str(path), found=str(error)) from error
    columns = [
        f.name for f in schema if not (pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0)
    ]
    table = read_parquet(path, columns)
    if table.num_rows == 0:
        raise DatasetError("split is empty", where=str(path))
    return table


def score_answers(jobs: Sequence[ScoreJob], *, tasks_dir: Path | None = None) -> None:
    """Score every job in this process and write its scores file. Imports lmms-eval.

    A sample without an answer row is `missing`; `error` and `missing` answers keep their status and a null
    score. Scores do not depend on the order of jobs or rows.

    Raises:
        UsageError: unknown task, a probe, or lmms-eval is not installed.
        DatasetError: the split is missing, empty, has duplicate samples or a row that cannot be scored.
        IntegrityError: answers name unknown samples, a sample twice, or have a status of none of ours.
    """
    folder = tasks_dir or TASKS
    for number, job in enumerate(jobs, 1):
        task = read_task(job.task, tasks_dir)
        _refuse_probe(task)
        table = read_rows(job.dataset)
        scorer = Scorer(task, table, folder)
        scores = score_rows(scorer, table.to_pylist(), _read_answers(job.answers))
        _write_scores(job.out, scores, task, _digest_of(scorer))
        print(f"scored {number} of {len(jobs)}", flush=True)


def _refuse_probe(task: Task) -> None:
    if task.scorer == prompts.PROBE_SCORER:
        raise UsageError("a probe is scored by its label, not by lmms-eval", where=task.name)


def _read_answers(path: Path) -> dict[str, tuple[str | None, str]]:
    rows = read_parquet(path, ["sample_id", "answer", "status"]).to_pylist()
    answers = {row["sample_id"]: (row["answer"], row["status"]) for row in rows}
    if len(answers) != len(rows):
        raise IntegrityError(
            "a sample is answered twice",
            where=str(path),
            found=f"{len(rows)} answers to {len(answers)} samples",
        )
    return answers


def score_rows(
    scorer: Scorer, rows: Sequence[dict[str, Any]], answers: dict[str, tuple[str | None, str]]
) -> list[Score]:
    """Scores in the order of `rows`.

    Args:
        answers: sample id -> (answer, status); absent samples are `missing`.

    Raises:
        DatasetError, IntegrityError: as `score_answers`.
    """
    task = scorer.task
    names = [prompts.sample_id(task, row, i) for i, row in enumerate(rows)]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError("two rows have one sample id", where=task.name, found=twice)
    strangers = sorted(set(answers) - set(names))
    if strangers:
        raise IntegrityError(
            "answers to samples that the split does not have", where=task.name, found=", ".join(strangers[:3])
        )
    return [
        _score_row(scorer, row, name, i, answers.get(name))
        for i, (row, name) in enumerate(zip(rows, names, strict=True))
    ]


def _score_row(
    scorer: Scorer, row: dict[str, Any], name: str, index: int, given: tuple[str | None, str] | None
) -> Score:
    scorer.check(row, name)
    answer, status = given or (None, "missing")
    cluster = prompts.cluster(scorer.task, row, index)
    if status in ("error", "missing"):
        kept: Status = "error" if status == "error" else "missing"
        return Score(sample_id=name, cluster=cluster, score=None, status=kept)
    if status != "scored" or answer is None:
        raise IntegrityError(
            "answer without text or with an unknown status",
            where=f"{scorer.task.name}, sample {name}",
            found=f"{answer!r}, {status!r}",
            expected=", ".join(get_args(Status)),
        )
    score, judged = scorer.judge(row, answer)
    return Score(sample_id=name, cluster=cluster, score=score, status=judged)


def _write_scores(path: Path, scores: Sequence[Score], task: Task, digest: str) -> None:
    columns = {name: [getattr(score, name) for score in scores] for name in SCORES_SCHEMA.names}
    notes = {"scorer_digest": digest, "lmms_eval": _version(), "task": task.name, "metric": task.metric}
    write_parquet(path, pa.table(columns, schema=SCORES_SCHEMA.with_metadata(notes)))


def _version() -> str:
    return importlib.metadata.version("lmms_eval")


def scorer_digest(task: Task, tasks_dir: Path | None = None) -> str:
    """sha256 of all code that turns an answer into a score. Imports lmms-eval unless the task is a probe.

    It covers lmms-eval's version, the source of every lmms-eval function, class and constant reachable from
    the task's scoring and aggregation functions, the task's utils.py, the files it borrows rules from, and
    `Scorer` here.
    """
    if task.scorer == prompts.PROBE_SCORER:
        return digest_json({"scorer": task.scorer, "rule": "1 if the predicted label is the label, else 0"})
    load_peer()
    from lmms_eval.utils import load_yaml_config

    folder = tasks_dir or TASKS
    config = load_yaml_config(str(folder / task.name / f"{task.name}.yaml"), mode="full")
    rules = next(m for m in config["metric_list"] if m["metric"] == task.metric)
    return _digest_code(task, config["process_results"], rules["aggregation"])


def _digest_of(scorer: Scorer) -> str:
    return _digest_code(scorer.task, scorer.peer.config.process_results, scorer.aggregate)


def _digest_code(task: Task, score: FunctionType, aggregate: FunctionType | str) -> str:
    if isinstance(aggregate, str):
        from lmms_eval.api.registry import get_aggregation

        aggregate = get_aggregation(aggregate)
    rules = [item for item in score.__globals__.values() if isinstance(item, FunctionType)]
    facts = {
        "lmms_eval": _version(),
        "metric": task.metric,
        "scorer": task.scorer,
        "sources": reachable_sources([*rules, aggregate]),
        "task": Path(score.__code__.co_filename).read_text(encoding="utf-8"),
        "harness": inspect.getsource(Scorer),
    }
    # A rule that a task takes from another task's file; without one the digest is as it always was.
    borrowed = {Path(rule.__code__.co_filename) for rule in rules} - {Path(score.__code__.co_filename)}
    if texts := sorted(path.read_text(encoding="utf-8") for path in borrowed):
        facts["borrowed"] = texts
    return digest_json(facts)


def reachable_sources(items: Iterable[Any]) -> dict[str, str]:
    """Source text of lmms-eval's functions, classes and constants that `items` use, directly or not.

    Returns:
        Qualified name -> source, or `repr` for a constant.
    """
    found: dict[str, str] = {}
    queue = list(items)
    while queue:
        item = inspect.unwrap(queue.pop())
        name = f"{item.__module__}.{item.__qualname__}"
        if name in found:
            continue
        if item.__module__.startswith("lmms_eval"):
            found[name] = inspect.getsource(item)
        methods = (
            [m for m in vars(item).values() if isinstance(m, FunctionType)]
            if isinstance(item, type)
            else [item]
        )
        for method in methods:
            for used, value in _globals_used(method):
                if isinstance(value, FunctionType | type) and value.__module__.startswith("lmms_eval"):
                    queue.append(value)
                elif isinstance(value, str | int | float | list | tuple) and used.startswith("lmms_eval"):
                    found[used] = repr(value)
    return found


def _globals_used(function: FunctionType) -> list[tuple[str, Any]]:
    """(qualified name, value) of globals that a function's code names, through module aliases too."""
    names = _names(function.__code__)
    space = function.__globals__
    used = [(f"{space.get('__name__')}.{n}", space[n]) for n in sorted(names) if n in space]
    modules = [v for _, v in used if isinstance(v, ModuleType) and v.__name__.startswith("lmms_eval")]
    return used + [
        (f"{m.__name__}.{n}", getattr(m, n)) for m in modules for n in sorted(names) if hasattr(m, n)
    ]


def _names(code: CodeType) -> set[str]:
    nested = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*(_names(c) for c in nested))


def main(arguments: Sequence[str]) -> int:
    """`python -m harness.lmms JOBS.json [PARENT]`: score all jobs, exit with the code of what went wrong."""
    os.environ.update(OFFLINE)
    if len(arguments) > 1:
        end_with_parent(int(arguments[1]))
    try:
        listed = read_json(Path(arguments[0]))
        jobs = [
            ScoreJob(
                task=j["task"], dataset=Path(j["dataset"]), answers=Path(j["answers"]), out=Path(j["out"])
            )
            for j in listed["jobs"]
        ]
        score_answers(jobs, tasks_dir=Path(listed["tasks_dir"]) if listed["tasks_dir"] else None)
    except EyechartError as error:
        print(error.line(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
