"""`eyechart convert`: a person's own `.pth` in, a folder with safetensors out, by way of a locked process.

Evaluation reads safetensors only. This is the one place where a pickle is opened, on the machine of the
person who has it, by torch's weights-only reader, in `harness.convert_child`. This side never looks into the
checkpoint; it checks what came out, and every figure it reports is read from the file that was written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from harness.convert_child import NAMESPACE
from harness.digest import digest_file
from harness.errors import (
    EyechartError,
    InternalError,
    ResourceError,
    SubmissionError,
    UnsafeInputError,
    UsageError,
)
from harness.files import atomic_file, sync_folder, temporary_name, write_atomic
from harness.safetensors_header import read_safetensors_header
from harness.submission import MAX_CONFIG_BYTES

COMMAND = (sys.executable, "-P", "-s", "-B", "-W", "ignore", "-m", "harness.convert_child")
SANDBOX = {"A": "no network by the kernel", "B": "network refused in the process only"}
GROWTH = 4
"""Times the checkpoint's size that its tensors may take once tied ones and views are written out."""
SPARE_BYTES = 1 << 20
MAX_REPORT_BYTES = 16 << 20
START_S = 120
"""Seconds for starting a process and importing torch on a busy machine."""
SLOWEST_BYTES_S = 2 << 20
"""Bytes of checkpoint a second below which something is wrong."""
_POLL_S = 0.1
_KEPT_VARIABLES = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME")
_KINDS: dict[str, type[EyechartError]] = {
    kind.__name__: kind
    for kind in (UsageError, SubmissionError, UnsafeInputError, ResourceError, InternalError)
}
_LFS_POINTER = b"version https://git-lfs"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the person says about the checkpoint."""

    key: str = ""
    """Entry that holds the weights, inner ones joined by dots, `.` for the checkpoint itself; empty: the only
    table of tensors there is."""
    strip: str = ""
    """Leading name to remove from every tensor."""
    drop: tuple[str, ...] = ()
    """Leading names of tensors to leave out, taken as whole parts: `head` drops `head.bias`, not `heads`."""
    config: Path | None = None
    """config.json or open_clip_config.json to copy beside the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """What was written and how."""

    path: Path
    """The safetensors file."""
    sha256: str
    num_tensors: int
    num_params: int
    """Values in all floating-point tensors, running means of batch norms among them."""
    dtypes: tuple[tuple[str, int], ...]
    """(name in the safetensors format, number of tensors), sorted."""
    key: str
    """The entry the weights came from, `.` for the checkpoint itself."""
    stripped: tuple[str, ...]
    """Leading names removed from every tensor, in the order they went."""
    dropped: tuple[str, ...]
    """Tensors left out on demand, by their names in the checkpoint."""
    ignored: tuple[str, ...]
    """Entries that are no tensors of the table, with their kind."""
    tied: tuple[str, ...]
    """Tensors that were one in memory and are written once each, as `a = b`."""
    sandbox: Literal["A", "B"]
    """Level reached, a key of `SANDBOX`."""
    guards: tuple[str, ...]
    """Every lock that was in force."""


def convert(source: Path, out: Path, options: Options, progress: Progress | None = None) -> Converted:
    """Write the weights of a torch checkpoint as safetensors into a new folder.

    Args:
        source: the `.pth`, `.pt`, `.bin` or `.ckpt`.
        out: folder to make; it may exist if it is empty.
        options: what the person says about it.
        progress: called with (bytes written, bytes of the checkpoint) while the process works.

    Raises:
        UsageError: no such file, `out` is taken, safetensors already, or an option that does not fit.
        UnsafeInputError: the checkpoint asks for code, or for far more room than its size; none was executed.
        SubmissionError: damaged, no torch checkpoint, or tensors that cannot be written or used.
        ResourceError: disk, memory or time is too small, the process was killed, or torch is missing or old.
    """
    kind, config = _read_config(options.config)
    _refuse_taken(out)
    name = "open_clip_model.safetensors" if kind == "open_clip_config.json" else "model.safetensors"
    with _open_source(source) as file, _staging(out) as stage:
        size = _refuse_known(file, source)
        request = {
            "source": str(source),
            "target": str(out / name),
            "max_bytes": GROWTH * size + SPARE_BYTES,
            "key": options.key,
            "strip": options.strip,
            "drop": options.drop,
        }
        with atomic_file(stage / name) as target:
            told = _run_child(file, target, request, START_S + size / SLOWEST_BYTES_S, progress)
        header = read_safetensors_header(stage / name, str(out / name))
        digest = digest_file(stage / name)
        if config:
            write_atomic(stage / kind, config)
        _place(stage, out)
    words = {part: tuple(told["done"][part]) for part in ("stripped", "dropped", "ignored", "tied")}
    floating = [t for t in header.values() if t.dtype.startswith(("F", "BF"))]
    return Converted(
        path=out / name,
        sha256=digest,
        num_tensors=len(header),
        num_params=sum(math.prod(tensor.shape) for tensor in floating),
        dtypes=tuple(sorted(Counter(tensor.dtype for tensor in header.values()).items())),
        key=told["done"]["key"],
        sandbox="A" if NAMESPACE in told["guards"] else "B",
        guards=tuple(told["guards"]),
        **words,
    )


def _read_config(path: Path | None) -> tuple[str, bytes]:
    """The configuration's proper name and its bytes, unchanged; empty where none is given."""
    if path is None:
        return "", b""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        table = json.loads(data) if len(data) <= MAX_CONFIG_BYTES else None
    except OSError as error:
        raise UsageError("cannot read", where=str(path), found=os.strerror(error.errno or 0)) from error
    except (ValueError, RecursionError) as error:
        raise SubmissionError("configuration is not JSON", where=str(path), found=str(error)) from error
    if not isinstance(table, dict):
        expected = f"a JSON object of at most {MAX_CONFIG_BYTES:,} bytes"
        raise SubmissionError("not a configuration", where=str(path), expected=expected)
    return "open_clip_config.json" if "model_cfg" in table else "config.json", data


def _refuse_taken(out: Path) -> None:
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if os.path.lexists(out) and not empty:
        raise _taken(out)


def _taken(out: Path) -> UsageError:
    fix = "name a new folder; nothing was overwritten"
    return UsageError("there is something already", where=str(out), expected="a new or empty folder", fix=fix)


def _open_source(source: Path) -> BinaryIO:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise UsageError("no such file", where=str(source), expected="a torch checkpoint") from error
    except OSError as error:
        raise UsageError("cannot read", where=str(source), found=os.strerror(error.errno or 0)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError("not a plain file", where=str(source), expected="a torch checkpoint")
    return os.fdopen(descriptor, "rb")


def _refuse_known(file: BinaryIO, source: Path) -> int:
    """Refuse what its first bytes show to need no conversion or to allow none.

    Returns:
        The checkpoint's size in bytes; the file is rewound.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(len(_LFS_POINTER))
    file.seek(0)
    if not head:
        raise SubmissionError("empty file", where=str(source), expected="a torch checkpoint")
    if head == _LFS_POINTER:
        raise SubmissionError("a git-lfs pointer, not the weights", where=str(source), fix="run git lfs pull")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        fix = "use it as it is: call it model.safetensors and put it beside its config.json"
        raise UsageError("safetensors already, nothing to convert", where=str(source), fix=fix)
    return size


@contextlib.contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`; whatever is left of it in the end is removed."""
    parent = out.absolute().parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    stage = parent / temporary_name()
    try:
        stage.mkdir(parents=True)
    except OSError as error:
        reason, fix = os.strerror(error.errno or 0), "choose a folder you can write to"
        raise ResourceError(f"cannot make a folder, {reason}", where=str(out), fix=fix) from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not out.exists():
            with contextlib.suppress(OSError):  # another program has put something there meanwhile
                for folder in made:
                    folder.rmdir()


def _place(stage: Path, out: Path) -> None:
    """Rename the finished folder; the kernel refuses where anything but an empty folder stands."""
    try:
        os.rename(stage, out)
        sync_folder(out.absolute().parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise _taken(out) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise _taken(out) from error
        reason = os.strerror(error.errno or 0)
        raise ResourceError(f"cannot place the folder, {reason}", where=str(out)) from error


def child_environment(private: Path) -> dict[str, str]:
    """What the process is told: where programs and modules are, and the language; no token, no home."""
    ours = Path(__file__).resolve().parent.parent
    # Where this process found torch; never the current folder, which may hold anything.
    places = [p for p in sys.path if os.path.isabs(p) and os.path.isdir(p) and p != os.getcwd()]
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **kept,
        **one_thread,
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": str(private),
        "TMPDIR": str(private),
        "PYTHONPATH": os.pathsep.join([str(ours), *places]),
    }


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ResourceError(f"cannot start the converting process, {reason}") from error


def _run_child(
    source: BinaryIO, target: BinaryIO, request: dict[str, Any], deadline_s: float, progress: Progress | None
) -> dict[str, Any]:
    """Start the locked process, wait for it, read its answer.

    Raises:
        EyechartError: the one it answers with; or ResourceError when it was killed or took too long.
    """
    fds = {"source_fd": source.fileno(), "target_fd": target.fileno()}
    total = os.fstat(source.fileno()).st_size

    def show() -> None:
        if progress:
            progress(min(total, os.fstat(target.fileno()).st_size), total)

    with tempfile.TemporaryDirectory(prefix="eyechart-convert-") as folder:
        private = Path(folder)
        answer, noise = private / "answer", private / "noise"
        with open(answer, "wb") as stdout, open(noise, "wb") as stderr, _starting():
            process = subprocess.Popen(
                [*COMMAND, json.dumps({**request, **fds})],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=child_environment(private),
                cwd=private,
                pass_fds=tuple(fds.values()),
                start_new_session=True,
            )
        try:
            _wait(process, request["source"], deadline_s, show)
        finally:
            # Also on Ctrl-C; a process group of its own never hears the terminal.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return _read_answer(process.returncode, answer, noise, request["source"])


def _wait(process: subprocess.Popen[bytes], where: str, deadline_s: float, show: Callable[[], None]) -> None:
    """Wait for the process, calling `show` now and then.

    Raises:
        ResourceError: it is still running after `deadline_s`.
    """
    began = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - began > deadline_s:
            raise ResourceError(
                "converting took too long and was stopped",
                where=where,
                expected=f"at most {deadline_s:,.0f} s",
                fix="free the machine, or save the weights alone and convert those",
            )
        show()
        with contextlib.suppress(subprocess.TimeoutExpired):  # the loop asks again
            process.wait(_POLL_S)


def _read_answer(code: int, answer: Path, noise: Path, source: str) -> dict[str, Any]:
    if code < 0:
        killed = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise ResourceError(
            "the converting process was killed",
            where=source,
            found=killed,
            expected="memory for twice the checkpoint",
            fix="close programs, use a larger machine, or save the weights alone and convert those",
        )
    with open(answer, "rb") as file:
        text = file.read(MAX_REPORT_BYTES + 1)
    try:
        told = json.loads(text) if len(text) <= MAX_REPORT_BYTES else {}
        if "error" in told:
            error = _KINDS[told["error"].pop("kind")](**told["error"])
        elif isinstance(told["done"], dict) and isinstance(told["guards"], list):
            return dict(told)
        else:
            raise TypeError(told)
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        error = InternalError(
            "the converting process gave no answer", where=source, found=f"exit code {code}"
        )
        error.__cause__ = wrong
    with open(noise, errors="replace") as file:
        error.add_note(file.read(MAX_CONFIG_BYTES))
    raise error
