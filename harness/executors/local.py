"""Jobs on this machine, in processes of one thread each.

One thread a process: sums then come out the same however many cores there are, and two processes of one
thread are faster than one of two at these sizes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process, resource_tracker
from typing import Any, Self

from harness.errors import EyechartError, InternalError, ResourceError

Progress = Callable[[int, int], None]
Job = tuple[Callable[..., Any], dict[str, Any]]
"""A module-level function and its picklable arguments; it is called with `progress=` too."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_channel: Any = None


def _begin(channel: Any) -> None:
    """Set up a worker: one thread, Ctrl-C left to the parent, no life after it."""
    global _channel  # noqa: PLW0603  (a worker serves one executor for its whole life)
    _channel = channel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, and the resumed run would race them."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(number: int, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    last: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        last[:] = [(done, total)]
        _channel.put((number, done, total))

    try:
        # The channel has a thread of its own and may be late, so the result brings the last count.
        return _Outcome(function(**arguments, progress=report), *last)
    except EyechartError as error:
        return _Failure(error)
    except Exception as error:  # noqa: BLE001  (told by the parent, whatever it is)
        # PyTorch has no class of its own for this on CPUs; here it is not imported by name.
        short = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
        if short or isinstance(error, MemoryError):
            return _Failure(ResourceError("memory is too small", fix="use fewer --workers or close programs"))
        return _Failure(InternalError(f"a job failed ({type(error).__name__})", found=str(error)))


@dataclass(frozen=True)
class _Outcome:
    """What a job returned, and the last (done, total) that it reported."""

    value: Any
    last: tuple[int, int] | None = None


class _Failure:
    """An error on its way to the parent.

    Errors with keyword arguments do not survive pickling, so the parts travel, with the traceback as text.
    """

    def __init__(self, error: EyechartError) -> None:
        self._kind = type(error)
        self._parts = {name: getattr(error, name) for name in ("where", "found", "expected", "fix")}
        self._what, self._notes = error.what, [*getattr(error, "__notes__", ()), traceback.format_exc()]

    def error(self) -> EyechartError:
        """The error as the worker raised it; notes hold its traceback."""
        error = self._kind(self._what, **self._parts)
        for note in self._notes:
            error.add_note(note)
        return error


@contextlib.contextmanager
def _as_workers_are_born() -> Iterator[None]:
    """What a process inherits at its start: one thread a library, and a deaf ear for Ctrl-C.

    A terminal sends Ctrl-C to the workers too, and one that is still importing could not ignore it yet.
    """
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in saved.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_tracker() -> None:
    """Python's tracker of shared memory, deaf to what it says of stopped workers: it clears up after them.

    The first queue would start it, with warnings to a user who can do nothing about them.
    """
    saved = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (saved, quiet)))
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS") if saved is None else os.environ.update(PYTHONWARNINGS=saved)


class LocalExecutor:
    """A pool of worker processes that lives as long as the `with` block.

    Args:
        workers: number of processes; None takes one a core, at most four.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or min(4, len(os.sched_getaffinity(0)))
        self._pool: ProcessPoolExecutor | None = None
        self._channel: Any = None
        self._given = 0  # jobs of earlier calls; a late count of theirs must not pass for one of this call's

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
            _start_tracker()
            self._channel = context.Queue()
            self._pool = ProcessPoolExecutor(self.workers, context, _begin, (self._channel,))
            with _as_workers_are_born():
                futures = [self._pool.submit(os.getpid) for _ in range(self.workers)]
            for future in futures:
                future.result()
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
            EyechartError: the first error of a job; the other jobs are stopped. A fault that is none of ours
                arrives as InternalError with its traceback as a note.
            ResourceError: a worker was killed, as a rule for want of memory.
            KeyboardInterrupt: after the workers were stopped.
        """
        counts: dict[int, tuple[int, int]] = {}
        results: dict[int, Any] = {}
        first, self._given = self._given, self._given + len(jobs)
        try:
            pool = self._start()
            futures = {pool.submit(_call, i, *job): i for i, job in enumerate(jobs, first)}
            pending: set[Future[Any]] = set(futures)
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    outcome = future.result()
                    if isinstance(outcome, _Failure):
                        raise outcome.error()
                    number = futures[future]
                    results[number] = outcome.value
                    if outcome.last is not None:
                        counts[number] = outcome.last
                self._drain(counts, set(futures.values()) - set(results), progress, total)
        except BrokenProcessPool as error:
            self.stop()
            raise ResourceError(
                "a worker process died", expected="enough memory", fix="run the same command again to resume"
            ) from error
        except BaseException:
            self.stop()
            raise
        return [results[first + i] for i in range(len(jobs))]

    def _drain(
        self,
        counts: dict[int, tuple[int, int]],
        running: set[int],
        progress: Progress | None,
        total: int | None,
    ) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number, done, of = self._channel.get_nowait()
                if number in running:
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
            manager = getattr(self._pool, "_executor_manager_thread", None)
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join()
            if manager is not None:
                # Python's own end of the pool races this thread for a pipe, and would print a traceback.
                # Not for ever: where the thread itself hangs (gh-94777), the message is the lesser evil.
                manager.join(timeout=10)
            self._close_channel()
            self._pool = None
