"""The network is really blocked, here and in child processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request

import pytest

BLOCKED = "network is blocked in tests"


def test_connect_is_refused():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock,
        pytest.raises(RuntimeError, match=BLOCKED),
    ):
        sock.connect(("127.0.0.1", 9))


def test_names_are_not_looked_up():
    with pytest.raises(RuntimeError, match=BLOCKED):
        socket.getaddrinfo("example.org", 443)


def test_datagrams_are_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(RuntimeError, match=BLOCKED):
        sock.sendto(b"x", ("127.0.0.1", 9))


def test_urllib_is_refused():
    with pytest.raises(RuntimeError, match=BLOCKED):
        urllib.request.urlopen("http://example.org", timeout=1)


def test_unix_sockets_work(tmp_path):
    # AF_UNIX addresses are limited to about 108 bytes, so a relative name is bound inside the folder.
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("s")
            server.listen(1)
            client.connect("s")
    finally:
        os.chdir(before)


def test_child_processes_are_refused_too():
    code = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert BLOCKED in done.stderr


def test_hub_is_offline():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    constants = pytest.importorskip("huggingface_hub.constants")
    assert constants.HF_HUB_OFFLINE
