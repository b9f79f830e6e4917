"""The local executor: order, errors, dead workers, interruption, one thread a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import DatasetError, InternalError, ResourceError
from harness.executors.local import LocalExecutor

sys.path.insert(0, str(Path(__file__).parent))
from executor_jobs import break_down, die, exhaust, fail, raise_unpicklable, square, threads, tick


def test_order_progress_and_threads():
    seen = []
    with LocalExecutor(2) as executor:
        jobs = [(square, {"number": n}) for n in range(4)]
        assert executor.run(jobs, lambda done, total: seen.append((done, total)), 4) == [0, 1, 4, 9]
        assert executor.run([(threads, {})]) == [(1, "1")]
    assert seen[-1] == (4, 4)


def test_late_counts_are_not_those_of_the_next_call():
    with LocalExecutor(1) as executor:
        for _ in range(30):  # counts come by another way than results, and may be later
            seen = []
            told = lambda done, total, seen=seen: seen.append((done, total))
            executor.run([(square, {"number": 3})] * 3, told, 3)
            assert seen[-1] == (3, 3)
            assert all(done <= total == 3 for done, total in seen)


def test_an_error_arrives_whole():
    with LocalExecutor(1) as executor, pytest.raises(DatasetError) as caught:
        executor.run([(fail, {})])
    error = caught.value
    assert error.line() == "row 7: image is broken: found 12 bytes, expected a PNG. Restore it."
    assert (error.what, error.where, error.found) == ("image is broken", "row 7", "12 bytes")
    assert (error.expected, error.fix, error.exit_code) == ("a PNG", "restore it", 5)


def test_a_killed_worker_is_a_resource_error():
    with LocalExecutor(1) as executor:
        with pytest.raises(ResourceError, match="worker") as caught:
            executor.run([(die, {})])
        assert caught.value.exit_code == 6
        # The executor starts afresh: a caller may go on.
        assert executor.run([(square, {"number": 2})]) == [4]


def test_interruption_stops_the_workers():
    workers = []

    def stop(done, total):
        workers.extend(executor._pool._processes)
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), LocalExecutor(1) as executor:
        executor.run([(tick, {})], stop)
    assert time.monotonic() - began < 15
    assert executor._pool is None
    assert len(workers) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(workers[0], 0)


@pytest.mark.parametrize(
    ("job", "kind", "says"),
    [
        (break_down, InternalError, "KeyError"),
        (raise_unpicklable, InternalError, "of two"),
        (exhaust, ResourceError, "memory"),
    ],
)
def test_a_fault_that_is_none_of_ours_arrives_with_its_traceback(job, kind, says, capfd):
    with LocalExecutor(1) as executor, pytest.raises(kind, match=says) as caught:
        executor.run([(job, {})])
    assert job.__name__ in "".join(caught.value.__notes__)
    assert capfd.readouterr().err == ""  # one line is told by the command, nothing by the worker


def test_the_environment_is_as_before():
    before = dict(os.environ)
    with LocalExecutor(1) as executor:
        executor.run([(square, {"number": 1})])
    assert dict(os.environ) == before


def is_running(process):
    try:
        # A zombie nobody waited for has ended too.
        return Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_of_a_killed_run_end(tmp_path):
    """Else the run that resumes would share its cores with them."""
    note = tmp_path / "worker"
    code = f"""
import sys, pathlib
sys.path.insert(0, {str(Path(__file__).parent)!r})
from executor_jobs import run_in_background
run_in_background(pathlib.Path({str(note)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        deadline = time.monotonic() + 60
        while not (note.exists() and note.read_text()):
            assert time.monotonic() < deadline
            assert parent.poll() is None
            time.sleep(0.05)
        worker = int(note.read_text())
        assert is_running(worker)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)
