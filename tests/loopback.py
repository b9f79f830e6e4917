"""Opens the tests' network guard (tests/conftest.py) for servers of the tests' own on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

HOST = "127.0.0.1"
ALLOW = "EYECHART_TEST_NETWORK"


class OutsideError(RuntimeError):
    """A test tried to reach more than this machine."""


_guard = {"installed": False, "open": 0}


def _refuse_outside(event: str, args: tuple[Any, ...]) -> None:
    if not _guard["open"]:
        return
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        family, address = getattr(args[0], "family", None), args[1]
        if family != socket.AF_UNIX and (not isinstance(address, tuple) or address[0] != HOST):
            raise OutsideError(f"only {HOST} may be reached here, not {address!r}")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"} and args[0] not in {HOST, HOST.encode()}:
        raise OutsideError(f"only {HOST} may be looked up here, not {args[0]!r}")


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Opens the tests' network guard for 127.0.0.1 and nothing else, in this process.

    A child process inherits the opened guard: it must call this too, before its first connection.
    """
    if not _guard["installed"]:
        sys.addaudithook(_refuse_outside)  # cannot be taken off, so it looks at the count
        _guard["installed"] = True
    before = os.environ.get(ALLOW)
    _guard["open"] += 1
    os.environ[ALLOW] = "1"
    try:
        yield
    finally:
        _guard["open"] -= 1
        if before is None:
            os.environ.pop(ALLOW, None)
        else:
            os.environ[ALLOW] = before
