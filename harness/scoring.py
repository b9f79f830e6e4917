"""Starting the scorer in a process of its own, and reading what it wrote. Imports no lmms-eval.

`harness.lmms` is the other side: it is what the process runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from harness.errors import EyechartError, IntegrityError, InternalError, ResourceError
from harness.files import read_parquet, write_json
from harness.records import Score

SCORES_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("cluster", pa.string()),
        ("score", pa.float64()),
        ("status", pa.string()),
    ]
)
"""Columns of a scores file; its metadata holds `scorer_digest`, `lmms_eval`, `task` and `metric`."""

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreJob:
    """One answers file to score."""

    task: str
    """Name of a task under tasks/, not a probe."""
    dataset: Path
    """Parquet file of the task's split."""
    answers: Path
    """Parquet file with at least sample_id, answer, status (`records.Answer`)."""
    out: Path
    """Scores file to write, one row a row of the dataset and in its order."""


def score_in_process(
    jobs: Sequence[ScoreJob],
    *,
    tasks_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Score `jobs` in a fresh offline process, one import of lmms-eval for all of them.

    Args:
        tasks_dir: folder of tasks, tasks/ of the repository by default.
        progress: called with (jobs done, jobs in all).

    Raises:
        EyechartError: what the process met, as the class of its exit code.
    """
    listed = [
        {"task": j.task, **{k: str(getattr(j, k)) for k in ("dataset", "answers", "out")}} for j in jobs
    ]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="eyechart-score-") as folder:
        job_file, log = Path(folder) / "jobs.json", Path(folder) / "stderr"
        write_json(job_file, {"jobs": listed, "tasks_dir": str(tasks_dir) if tasks_dir else None})
        command = [sys.executable, "-m", "harness.lmms", str(job_file), str(os.getpid())]
        environment = {**os.environ, **OFFLINE, "PYTHONPATH": path}
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            ) as child,
        ):
            try:
                done = _follow(child, len(jobs), progress)
            finally:
                # After Ctrl-C here no scorer may stay behind that still writes files.
                child.kill()
        if done != 0:
            raise _child_error(done, log.read_text(encoding="utf-8", errors="replace"))


def end_with_parent(parent: int, every: float = 1.0) -> None:
    """End this process, unfinished, as soon as the one that started it is gone.

    A parent that is killed outright cannot stop its scorer, which would write scores that nobody waits for.

    Args:
        parent: its process id, told by itself: asked for here it may be gone already.
        every: seconds between two looks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _follow(child: subprocess.Popen[str], total: int, progress: Callable[[int, int], None] | None) -> int:
    assert child.stdout is not None
    for line in child.stdout:
        if progress is not None and line.startswith("scored "):
            progress(int(line.split()[1]), total)
    return child.wait()


def _child_error(code: int, stderr: str) -> EyechartError:
    lines = [line for line in stderr.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "nothing on stderr"
    if code < 0:
        error: EyechartError = ResourceError(
            f"the scoring process was killed by signal {-code}", fix="free some memory and run it again"
        )
    else:
        known = {kind.exit_code: kind for kind in EyechartError.__subclasses__()}
        kind = known.get(code)
        error = kind(last) if kind else InternalError("the scoring process failed", found=last)
    error.add_note(stderr)
    return error


def read_scores(path: Path) -> tuple[list[Score], str]:
    """Scores in dataset order, and the digest of the code that made them.

    Raises:
        IntegrityError: not a scores file.
    """
    table = read_parquet(path)
    digest = (table.schema.metadata or {}).get(b"scorer_digest", b"").decode()
    if table.schema.remove_metadata() != SCORES_SCHEMA or not digest:
        raise IntegrityError("not a scores file", where=str(path), expected=", ".join(SCORES_SCHEMA.names))
    return [Score(**row) for row in table.to_pylist()], digest
