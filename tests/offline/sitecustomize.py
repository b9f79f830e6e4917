"""Refuses every socket that leaves the machine's own kernel, in this process and in its children.

`tests/conftest.py` installs the guard in the test process and puts this folder on PYTHONPATH, so that
each Python started by a test imports it before anything else. An audit hook is used because it
cannot be taken off again, and because it sees calls of code that kept a reference from before.
"""

from __future__ import annotations

import os
import socket
import sys

ALLOW = "EYECHART_TEST_NETWORK"
REFUSED = "network is blocked in tests"


class NetworkBlockedError(RuntimeError):
    """A test, or code under test, tried to reach the network."""


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if not event.startswith("socket.") or os.environ.get(ALLOW) == "1":
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        sock = args[0]
        if getattr(sock, "family", None) != socket.AF_UNIX:
            message = f"{REFUSED}: {event} to {args[1]!r}"
            raise NetworkBlockedError(message)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        message = f"{REFUSED}: {event} of {args[0]!r}"
        raise NetworkBlockedError(message)


def install() -> None:
    """Adds the hook once a process."""
    if not getattr(sys, "_eyechart_offline", False):
        sys._eyechart_offline = True  # type: ignore[attr-defined]
        sys.addaudithook(_refuse)


install()
