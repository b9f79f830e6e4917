"""Jobs for tests/test_executor.py; a module of its own, since spawned workers import it by name."""

from __future__ import annotations

import os
import signal
import time

from harness.errors import DatasetError


def square(*, number, progress):
    progress(1, 1)
    time.sleep(0.01 * (3 - number))
    return number**2


def threads(*, progress):
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def fail(*, progress):
    raise DatasetError("image is broken", where="row 7", found="12 bytes", expected="a PNG", fix="restore it")


def die(*, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def tick(*, progress):
    for i in range(1000):
        progress(i, 1000)
        time.sleep(0.02)


def break_down(*, progress):
    raise KeyError("a column nobody wrote")


def exhaust(*, progress):
    raise MemoryError


class Unpicklable(Exception):
    """Comes out of its process as something else: its constructor takes two arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def raise_unpicklable(*, progress):
    raise Unpicklable("of", "two")


def announce(*, path, progress):
    path.write_text(str(os.getpid()))
    time.sleep(600)


def run_in_background(path):
    """What the orphan test starts: an executor whose only worker says its id and waits."""
    from harness.executors.local import LocalExecutor

    with LocalExecutor(1) as executor:
        executor.run([(announce, {"path": path})])
