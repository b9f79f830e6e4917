"""The local executor: order, errors, dead workers, interruption, one thread a worker."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from harness.errors import DatasetError, ResourceError
from harness.executors.local import LocalExecutor

sys.path.insert(0, str(Path(__file__).parent))
from executor_jobs import die, fail, square, threads, tick


def test_order_progress_and_threads():
    seen = []
    with LocalExecutor(2) as executor:
        jobs = [(square, {"number": n}) for n in range(4)]
        assert executor.run(jobs, lambda done, total: seen.append((done, total)), 4) == [0, 1, 4, 9]
        assert executor.run([(threads, {})]) == [(1, "1")]
    assert seen[-1] == (4, 4)


def test_an_error_arrives_whole():
    with LocalExecutor(1) as executor, pytest.raises(DatasetError) as caught:
        executor.run([(fail, {})])
    assert caught.value.line() == "row 7: image is broken: found 12 bytes, expected a PNG. Restore it."


def test_a_killed_worker_is_a_resource_error():
    with LocalExecutor(1) as executor, pytest.raises(ResourceError, match="worker"):
        executor.run([(die, {})])


def test_interruption_stops_the_workers():
    def stop(done, total):
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), LocalExecutor(1) as executor:
        executor.run([(tick, {})], stop)
    assert time.monotonic() - began < 15
    assert executor._pool is None
