"""Reads a torch checkpoint through torch's weights-only reader, and says why where that refuses.

Runs in the locked process of `harness.convert_child`. Nothing here widens what the reader lets through, or
tries another one.
"""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from harness.errors import EyechartError, SubmissionError, UnsafeInputError
from harness.fields import show

TOP = "."
"""The key that means the checkpoint itself and not one of its entries."""
_SCAN_BYTES = 16 << 20
"""How much of a pickle is read to say what it asked for."""
_TAR_HEADER_BYTES = 512
_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""What zipfile raises for a damaged archive, and for a sound one of a kind it does not know."""
_ASKED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_CALLED = re.compile(r"(?:Trying to call reduce for|Can only (?:create|build)) [^\n]*")
_CODE_MODULES = frozenset("""
    asyncio bdb builtins code codecs commands ctypes functools gc http importlib inspect io marshal
    multiprocessing nt operator os pdb pickle pip posix pty runpy shutil signal smtplib socket
    subprocess sys tempfile threading timeit types urllib webbrowser
""".split())  # fmt: skip
"""Modules that no weights need and that can run, fetch or delete things."""
_PLAIN_BUILTINS = frozenset(
    f"builtins.{name}" for name in "bytearray bytes complex frozenset object range set slice".split()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the parent asks for."""

    source: str
    """The checkpoint as error lines name it."""
    target: str
    """The file to be written, likewise."""
    max_bytes: int
    """Most that may be written."""
    key: str = ""
    strip: str = ""
    drop: Sequence[str] = ()


def refuse_other_formats(source: BinaryIO, request: Request) -> None:
    """Refuse what torch.load would hand to other readers, before it is asked; the file is rewound.

    Raises:
        SubmissionError: TorchScript, or torch's tar archives of 2016.
        UnsafeInputError: a zip archive that unpacks to far more than its size.
    """
    save_again = "load it where you trust it and torch.save its state_dict()"
    head = source.read(_TAR_HEADER_BYTES)
    source.seek(0)
    if head[257:262] == b"ustar":
        raise SubmissionError(
            "a tar archive", where=request.source, expected="a checkpoint of torch.save", fix=save_again
        )
    if not head.startswith(b"PK\x03\x04"):
        return
    try:
        members = zipfile.ZipFile(source).infolist()
    except _ARCHIVE_ERRORS as error:
        raise _damaged(request, str(error)) from error
    finally:
        source.seek(0)
    if any(member.filename.rpartition("/")[2] == "constants.pkl" for member in members):
        raise SubmissionError(
            "TorchScript, a compiled program",
            where=request.source,
            expected="a checkpoint of torch.save",
            fix=save_again,
        )
    unpacked = sum(member.file_size for member in members)
    if unpacked > request.max_bytes:
        raise too_large(request, unpacked)


def load_weights_only(source: BinaryIO, request: Request) -> Any:
    """The checkpoint as torch's weights-only reader gives it.

    Raises:
        UnsafeInputError: the pickle asks for a class or function that weights do not need.
        SubmissionError: damaged, or no checkpoint.
        MemoryError: too little memory.
    """
    head = source.read(4)
    source.seek(0)
    try:
        with warnings.catch_warnings():
            # Deprecations of torch's own calls; whoever runs this can do nothing about them.
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise _refusal(str(error), head, source, request) from error
    except MemoryError:
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise MemoryError from error
        if not _is_known(head):
            raise _no_checkpoint(head, request) from error
        reason = str(error).strip().partition("\n")[0]
        raise _damaged(request, f"{type(error).__name__}: {reason}" if reason else "an early end") from error


def _is_known(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"\x80"))


def _no_checkpoint(head: bytes, request: Request) -> SubmissionError:
    return SubmissionError(
        "not a torch checkpoint",
        where=request.source,
        found=f"leading bytes {head!r}",
        expected="a file of torch.save",
    )


def _damaged(request: Request, reason: str) -> SubmissionError:
    return SubmissionError(
        "checkpoint is damaged or cut short",
        where=request.source,
        found=reason[:200],
        expected="a whole file of torch.save",
        fix="copy or download it again",
    )


def too_large(request: Request, num_bytes: int) -> UnsafeInputError:
    """The error for a checkpoint whose tensors would take `num_bytes`, beyond what its size explains."""
    return UnsafeInputError(
        "unpacks to far more than its own size",
        where=request.source,
        found=f"{num_bytes:,} bytes of tensors",
        expected=f"at most {request.max_bytes:,}",
        fix="save the weights alone, as tensors of their own",
    )


def _refusal(text: str, head: bytes, source: BinaryIO, request: Request) -> EyechartError:
    """The error for what the weights-only reader refused, naming the class or function asked for."""
    pickled = read_pickle(source)
    match = _ASKED.search(text)
    # Torch leaves `builtins.` out of its message.
    asked = (match[1] if "." in match[1] else f"builtins.{match[1]}") if match else foreign_global(pickled)
    called = _CALLED.search(text)
    if asked or called:
        code = asked.partition(".")[0] in _CODE_MODULES and asked not in _PLAIN_BUILTINS
        fix = "do not load this file anywhere" if code else _save_alone(pickled, request)
        return UnsafeInputError(
            f"refused, it asks for {'code' if code else 'more than weights'}, and none of it was executed",
            where=request.source,
            found=asked or show(called[0] if called else ""),
            expected="tensors and plain values only",
            fix=fix,
        )
    if not _is_known(head):
        return _no_checkpoint(head, request)
    reason = text.partition("Check the documentation")[0].strip().rpartition("\n")[2]
    return SubmissionError(
        "checkpoint cannot be read as weights alone",
        where=request.source,
        found=reason[:200],
        expected="what torch.save writes by itself",
        fix="load it where you trust it and torch.save its weights without options",
    )


def _save_alone(pickled: bytes, request: Request) -> str:
    """How a person who trusts a file with harmless classes in it gets at the weights: one line."""
    name = request.source.replace("\\", "/").rpartition("/")[2]
    plain = re.fullmatch(r"[\w.+-]+", name)
    old = name if plain else "checkpoint.pth"
    if b"_modules" in pickled and b"_parameters" in pickled:
        weights = "c.state_dict()"
    else:
        key = request.key or "state_dict"
        weights = "c" if key == TOP else f"c[{key!r}]"
    line = f"import torch; c = torch.load('{old}', map_location='cpu', weights_only=False); "
    line += f"torch.save({weights}, 'weights.pth')"
    return f'if you made this file yourself, save its weights alone and convert those: `python -c "{line}"`'


def read_pickle(source: BinaryIO) -> bytes:
    """The bytes that describe the objects of a checkpoint, at most `_SCAN_BYTES`, for reading as text."""
    source.seek(0)
    if source.read(4) != b"PK\x03\x04":
        source.seek(0)
        return source.read(_SCAN_BYTES)
    source.seek(0)
    try:
        archive = zipfile.ZipFile(source)
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        with archive.open(names[0]) as file:
            return file.read(_SCAN_BYTES)
    except (*_ARCHIVE_ERRORS, IndexError):
        # Only the wording of an error hangs on it.
        return b""


def foreign_global(pickled: bytes) -> str:
    """The first class or function a pickle names that is not torch's, "" where there is none.

    Nothing is executed: the instructions are read as text.
    """
    texts: deque[str] = deque(["", ""], maxlen=2)
    memo: dict[Any, Any] = {}
    top: Any = ""
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in {"GLOBAL", "INST", "STACK_GLOBAL"}:
                name = ".".join(texts) if argument is None else str(argument).replace(" ", ".")
                if name.partition(".")[0] not in {"torch", "collections"}:
                    return name
            if opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
                memo[len(memo) if argument is None else argument] = top
                continue
            top = memo.get(argument, "") if opcode.name.endswith("GET") else argument
            if isinstance(top, str):
                texts.append(top)
    except (ValueError, OverflowError):
        # Cut short or no pickle: what was named up to here was torch's.
        return ""
    return ""
