"""Where encoder and language model compute: the CPU, or a graphics card that torch sees.

A card rounds otherwise than a CPU, so what it made has cache keys and receipts of its own; those of CPU
runs say nothing about a device and stay as they were. torch is imported where it is asked.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from harness.errors import ResourceError, UsageError

T = TypeVar("T")
R = TypeVar("R")

CPU = "cpu"
AUTO = "auto"
DEVICES = (AUTO, CPU, "cuda")
SMALLER = "use fewer --workers, end other programs on the card, or use --device cpu or a larger card"
# cuBLAS reads it once, at its first product; without it torch refuses to train with steady sums.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def resolve_device(name: str) -> str:
    """The device that `name` means on this machine: `auto` is a graphics card where torch sees one.

    Raises:
        UsageError: unknown name, or no such device here.
    """
    if name not in DEVICES:
        raise UsageError("unknown device", found=name, expected=", ".join(DEVICES))
    if name == CPU:
        return CPU
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == AUTO:
        return CPU
    raise UsageError(
        "no graphics card that torch can use",
        where=f"--device {name}",
        found=f"torch {torch.__version__} sees {torch.cuda.device_count()}",
        fix="use --device cpu, or install a torch built for the card",
    )


def device_facts(device: str) -> dict[str, Any]:
    """What a receipt says of the device: name, driver and libraries; nothing for a CPU."""
    if device == CPU:
        return {}
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "tf32": False,  # see `encoders.base.exact_float32`, under which everything is computed
    }


def _driver() -> str:
    """The driver's version as its own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.split("\n", 1)[0].strip() or "unknown"


@contextlib.contextmanager
def steady_sums(device: str) -> Iterator[None]:
    """Let the card add in a fixed order, so that training twice gives the same bytes; a CPU always does.

    Args:
        device: its type, "cpu" or "cuda".
    """
    if device == CPU:
        yield
        return
    import torch

    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it costs time and moves nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


def in_halves(work: Callable[[list[T]], list[R]], items: list[T]) -> list[R]:
    """`work(items)`, done in halves where the device's memory does not suffice for all at once.

    Only for work in which no item's result depends on the others beside it. For a single item torch's own
    error is passed on.

    Args:
        work: gives one result an item; it may be asked for some of them again.
        items: at least one.
    """
    import torch

    try:
        return work(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # Here and not in the handler, whose error still holds what the attempt had allocated.
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return in_halves(work, items[:middle]) + in_halves(work, items[middle:])


@contextlib.contextmanager
def memory_told(what: str, fix: str = SMALLER) -> Iterator[None]:
    """One line, instead of torch's many, where the device's memory is too small.

    Args:
        what: what is being done.
        fix: what would do.

    Raises:
        ResourceError: in place of torch's error.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        found = " ".join(str(error).split(" GPU ", 1)[0].split())[:120]
        raise ResourceError("the device's memory is too small", where=what, found=found, fix=fix) from error


def peak_bytes(device: str) -> int:
    """Most memory that this process has held on the card; 0 on a CPU."""
    if device == CPU:
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated(device))
