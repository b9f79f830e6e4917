"""The locked process that reads a checkpoint for `eyechart convert`; started by `harness.convert` alone.

It is given two open files (the checkpoint, the file to fill) and one JSON argument, and answers with one JSON
object on stdout. Before it looks at the checkpoint it gives up, as far as the system lets it: the network (a
network namespace of its own), new files and programs (Landlock), root's rights, memory and file sizes beyond
need, further threads and processes. Last comes an audit hook, which the interpreter asks before any socket,
program, library or written file, and which cannot be taken off. The hook binds Python code, not a memory
fault in a C library: against that only what the kernel holds is of use, and `guards` says which of it is in
force.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from harness.errors import EyechartError, InternalError, ResourceError, UnsafeInputError
from harness.safetensors_header import MAX_HEADER_BYTES

MIN_TORCH = (2, 10)
"""Below it the weights-only reader has known holes: CVE-2025-32434 (up to 2.5.1), CVE-2026-24747."""
MEMORY_FACTOR = 8
"""Times the checkpoint's size: itself, the largest tensor unfolded, and float8 widened to be checked."""
SPARE_MEMORY_BYTES = 1 << 30
MAX_OPEN_FILES = 64
NAMESPACE, LANDLOCK = "network namespace", "landlock"

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITY_VERSION_3 = 0x20080522
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
_LANDLOCK_READ = 0b1100
"""LANDLOCK_ACCESS_FS_READ_FILE and _READ_DIR: modules are still read after the lock."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED_EVENTS = tuple("""
    ctypes. ftplib. os. pickle. pty. shutil. smtplib. socket. signal. subprocess. syslog. tempfile. urllib.
    webbrowser.
""".split())  # fmt: skip
_HARMLESS_EVENTS = frozenset({"os.listdir", "os.scandir"})
"""Imports look into folders."""


class RefusedError(Exception):
    """The audit hook stopped something that reading weights does not need."""


def leave_network() -> bool:
    """Move into a network namespace with nothing in it; the process must have one thread.

    Returns:
        Whether the kernel did it.
    """
    unshare = getattr(ctypes.CDLL(None), "unshare", None)
    if unshare is None:
        return False
    # Root needs no user namespace, and without one keeps its rights to read the installed libraries.
    return any(unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


class _Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr of <linux/landlock.h>; older kernels take its first fields only."""

    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


def restrict_files() -> bool:
    """Landlock without a single rule: no file made, opened for writing or executed, no TCP from now on.

    It binds the calling thread, so with more than one thread it is not claimed. Files already open stay
    usable.

    Returns:
        Whether the kernel did it.
    """
    if not sys.platform.startswith("linux") or len(os.listdir("/proc/self/task")) != 1:
        return False
    libc = ctypes.CDLL(None)
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    # Access rights are bits in the order they came: 13 with version 1, one more each with 2 and 3.
    num_rights = 13 + min(version - 1, 2)
    rules = _Ruleset((1 << num_rights) - 1 & ~_LANDLOCK_READ, 0b11, 0b11)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return False
    done: bool = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    done = done and libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def drop_rights() -> bool:
    """Give up every capability, root's and those a new user namespace brings; end with the parent.

    Returns:
        Whether the kernel did it.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "capset"):
        return False
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    done: bool = libc.capset(ctypes.byref(header), ctypes.byref(none)) == 0
    # After capset: a change of rights clears it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return done


def limit_resources(max_bytes: int, source_bytes: int) -> None:
    """Bounds on core dumps, file sizes, open files, processes and threads, and memory, from here on.

    Args:
        max_bytes: most that the tensors may take on disk.
        source_bytes: the checkpoint's size, which memory goes by.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, max_bytes + 8 + MAX_HEADER_BYTES)
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _lower(resource.RLIMIT_NPROC, 0)
    with contextlib.suppress(FileNotFoundError):  # elsewhere than on Linux nothing tells what is in use
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + MEMORY_FACTOR * source_bytes + SPARE_MEMORY_BYTES)


def _lower(kind: int, bound: int) -> None:
    """Set a limit, but never above the one inherited."""
    inherited = [value for value in resource.getrlimit(kind) if value != resource.RLIM_INFINITY]
    lowest = min([bound, *inherited])
    resource.setrlimit(kind, (lowest, lowest))


def install_hook() -> list[str]:
    """Refuse, for the rest of the process, what reading weights does not need.

    Returns:
        The list that each refused event is added to, so that code which swallows the refusal is seen too.
    """
    refused: list[str] = []

    def refuse(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            bad = bool(flags & _WRITING) or not set(mode or "").isdisjoint("wax+")
            event = f"writing {path!r}" if bad else event
        else:
            bad = event.startswith(_REFUSED_EVENTS) and event not in _HARMLESS_EVENTS
        if bad:
            refused.append(event)
            raise RefusedError(event)

    sys.addaudithook(refuse)
    return refused


def convert_locked(request: dict[str, Any], guards: list[str]) -> dict[str, Any]:
    """Lock the process and rewrite the checkpoint.

    Args:
        request: `source_fd`, `target_fd`, and the fields of `convert_read.Request`.
        guards: names of what the kernel holds; added to.

    Raises:
        EyechartError: whatever is wrong with the checkpoint, the disk, or the installed torch.
    """
    # Before torch, which may start threads. The checkpoint is not looked at until all locks are in place.
    guards += [NAMESPACE] if leave_network() else []
    source = os.fdopen(request.pop("source_fd"), "rb")
    target = os.fdopen(request.pop("target_fd"), "wb")
    tensors, read = _import_torch_side()
    # After torch: some of what it imports writes to /dev/null.
    guards += [LANDLOCK] if restrict_files() else []
    guards += ["no capabilities"] if drop_rights() else []
    limit_resources(request["max_bytes"], os.fstat(source.fileno()).st_size)
    refused = install_hook()
    guards += ["resource limits", "audit hook"]
    try:
        done = tensors.rewrite(source, target, read.Request(**request))
    finally:
        if refused:
            raise UnsafeInputError(
                "refused, reading it led to a forbidden act, which was stopped",
                where=request["source"],
                found=", ".join(refused[:5]),
                fix="do not load this file anywhere",
            )
    return dataclasses.asdict(done)


def _import_torch_side() -> tuple[Any, Any]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ResourceError(
            "torch is not installed", expected="torch", fix="pip install 'eyechart[run]'"
        ) from error
    numbers = torch.__version__.split("+")[0].split(".")
    if tuple(int(number) for number in numbers[:2]) < MIN_TORCH:
        raise ResourceError(
            "torch is too old to read a checkpoint safely",
            found=torch.__version__,
            expected=".".join(map(str, MIN_TORCH)) + " or later",
            fix="pip install --upgrade torch",
        )
    torch.set_num_threads(1)
    from harness import convert_read, convert_tensors

    return convert_tensors, convert_read


def spell_error(error: EyechartError) -> dict[str, str]:
    """An error as the parent builds it again."""
    parts = {name: getattr(error, name) for name in ("what", "where", "found", "expected", "fix")}
    return {"kind": type(error).__name__, **parts}


def main() -> int:
    """Read the argument, work, answer in JSON; returns 0 whenever it could answer."""
    # Whatever a library prints must not stand in the answer.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    where = request["source"]
    guards: list[str] = []
    report: dict[str, Any] = {"guards": guards}
    try:
        report["done"] = convert_locked(request, guards)
    except EyechartError as error:
        report["error"] = spell_error(error)
    except MemoryError:
        fix = "close programs, use a larger machine, or save the weights alone"
        report["error"] = spell_error(ResourceError("memory is too small", where=where, fix=fix))
    except Exception as error:  # noqa: BLE001  (the parent tells it, with what stderr says)
        traceback.print_exc()
        report["error"] = spell_error(InternalError(f"internal bug ({type(error).__name__})", where=where))
    json.dump(report, answer)
    answer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
