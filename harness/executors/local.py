"""Jobs on this machine, in processes of one thread each.

One thread a process: sums then come out the same however many cores there are, and two processes of one
thread are faster than one of two at these sizes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Self

from harness.errors import EyechartError, ResourceError

Progress = Callable[[int, int], None]
Job = tuple[Callable[..., Any], dict[str, Any]]
"""A module-level function and its picklable arguments; it is called with `progress=` too."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_channel: Any = None


def _begin(channel: Any) -> None:
    """Set up a worker: one thread, Ctrl-C left to the parent."""
    global _channel  # noqa: PLW0603  (a worker serves one executor for its whole life)
    _channel = channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


def _call(number: int, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    def report(done: int, total: int) -> None:
        _channel.put((number, done, total))

    try:
        return function(**arguments, progress=report)
    except EyechartError as error:
        # Errors with keyword arguments do not survive pickling, so their parts travel.
        return _Failure(type(error), error.what, error.where, error.found, error.expected, error.fix)
    except BaseException:
        # A traceback does not survive the process, so it travels as a note.
        traceback.print_exc()
        raise


class _Failure:
    """An EyechartError on its way to the parent."""

    def __init__(self, kind: type[EyechartError], *parts: str) -> None:
        self._kind, self._parts = kind, parts

    def error(self) -> EyechartError:
        what, where, found, expected, fix = self._parts
        return self._kind(what, where=where, found=found, expected=expected, fix=fix)


class LocalExecutor:
    """A pool of worker processes that lives as long as the `with` block.

    Args:
        workers: number of processes; None takes one a core, at most four.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or min(4, len(os.sched_getaffinity(0)))
        self._pool: ProcessPoolExecutor | None = None
        self._channel: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._pool is not None:
            self._pool.shutdown(wait=True)
            self._close_channel()
            self._pool = None
        self.stop()

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = get_context("spawn")
            self._channel = context.Queue()
            saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
            os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
            self._pool = ProcessPoolExecutor(self.workers, context, _begin, (self._channel,))
            # Workers start at the first submit and inherit the environment of that moment.
            for future in [self._pool.submit(os.getpid) for _ in range(self.workers)]:
                future.result()
            for name, value in saved.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        return self._pool

    def run(
        self, jobs: Sequence[Job], progress: Progress | None = None, total: int | None = None
    ) -> list[Any]:
        """Results in the order of the jobs.

        Args:
            jobs: what to do.
            progress: called with (done, total) summed over the jobs.
            total: sum of the jobs' totals where it is known; otherwise that of the jobs begun.

        Raises:
            EyechartError: the first error of a job; the other jobs are stopped.
            ResourceError: a worker was killed, as a rule for want of memory.
            KeyboardInterrupt: after the workers were stopped.
        """
        pool = self._start()
        counts: dict[int, tuple[int, int]] = {}
        futures = {pool.submit(_call, i, *job): i for i, job in enumerate(jobs)}
        results: dict[int, Any] = {}
        try:
            pending: set[Future[Any]] = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                self._drain(counts, progress, total)
                for future in finished:
                    outcome = future.result()
                    if isinstance(outcome, _Failure):
                        raise outcome.error()
                    results[futures[future]] = outcome
        except BrokenProcessPool as error:
            self.stop()
            raise ResourceError(
                "a worker process died", expected="enough memory", fix="run the same command again to resume"
            ) from error
        except BaseException:
            self.stop()
            raise
        self._drain(counts, progress, total)
        return [results[i] for i in range(len(jobs))]

    def _drain(
        self, counts: dict[int, tuple[int, int]], progress: Progress | None, total: int | None
    ) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number, done, of = self._channel.get_nowait()
                counts[number] = done, of
        if progress and counts:
            begun = sum(of for _, of in counts.values())
            progress(sum(done for done, _ in counts.values()), max(begun, total or 0))

    def _close_channel(self) -> None:
        self._channel.close()
        self._channel.join_thread()

    def stop(self) -> None:
        """End the workers at once; what they had saved is kept."""
        if self._pool is not None:
            processes = list(getattr(self._pool, "_processes", {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
            self._close_channel()
            self._pool = None
