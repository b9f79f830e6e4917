"""`eyechart serve`: a real server on this machine's loopback, rebuilt when the index changes."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from board_site import made_site
from loopback import loopback_only

from harness.errors import IntegrityError, UsageError
from leaderboard.serve import serve_site, serving

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_site(tmp_path_factory.mktemp("serve"))


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """In place of conftest's guard: 127.0.0.1 and nothing else."""
    with loopback_only():
        yield


def get(address: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_it_serves_the_files_of_the_site(made):
    with serving(made.site, 0) as address:
        assert address.startswith("http://127.0.0.1:")
        for path, name in (
            ("/", "index.html"),
            ("/feed.atom", "feed.atom"),
            ("/static/runs.js?x=1", "static/runs.js"),
        ):
            status, headers, body = get(address, path)
            assert (status, body) == (200, (made.site / name).read_bytes())
            assert headers["cache-control"] == "no-store"
        assert get(address, "/feed.atom")[1]["content-type"] == "application/atom+xml"
        assert get(address, "/runs.html", "HEAD")[0] == 200


@pytest.mark.parametrize(
    "path", ["/no.html", "/encoders/", "/encoders", "/a/b/c", "/../harness/cli.py", "/%2e%2e/x"]
)
def test_what_is_missing_is_the_site_s_404(made, path):
    with serving(made.site, 0) as address:
        status, _, body = get(address, path)
        while status in {301, 302}:  # a folder's name without its slash
            status, _, body = get(address, f"{path}/")
        assert status == 404 and b"No such page" in body
        # However deep the address, its style is found.
        assert b'href="/static/site.css"' in body and b'href="/index.html"' in body
        assert get(address, path, "HEAD")[2] == b""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc to ask")
def test_only_this_machine_is_served(made):
    with serving(made.site, 0) as address:
        port = urlsplit(address).port or 0
        listening = Path("/proc/net/tcp").read_text()
        assert f"0100007F:{port:04X}" in listening and f"00000000:{port:04X}" not in listening


def test_a_taken_port_is_a_usage_error(made):
    with serving(made.site, 0) as address:
        taken = urlsplit(address).port or 0
        with pytest.raises(UsageError, match="cannot listen"), serving(made.site, taken):
            pass
    with pytest.raises(UsageError, match="cannot listen"), serving(made.site, 99999):
        pass


class Ended(Exception):
    """Ends the service in place of Ctrl-C."""


def test_it_builds_again_when_the_index_changes_and_only_then(tmp_path):
    index, told, builds = tmp_path / "i.duckdb", [], []
    index.write_text("1")

    def build() -> str:
        builds.append(index.read_text())
        if builds[-1] == "bad":
            raise IntegrityError("damaged")
        return f"built {builds[-1]}"

    steps = iter(["same", "2", "gone", "same", "bad", "3", None])

    def wait(_: float) -> None:
        step = next(steps)
        if step is None:
            raise Ended
        if step == "gone":
            index.unlink()
        elif step != "same":
            index.write_text(step)
            os.utime(index, ns=(len(builds) * 10**9, len(builds) * 10**9))

    (tmp_path / "site").mkdir()
    with pytest.raises(Ended):
        serve_site(tmp_path / "site", index, build, tell=told.append, port=0, wait=wait)
    assert builds == ["1", "2", "bad", "3"]
    assert told[0] == "built 1" and "Ctrl-C ends" in told[1]
    assert told[2:] == ["built 2", "not built: damaged.", "built 3"]


def test_a_site_replaced_meanwhile_is_served_anew(made, tmp_path):
    shutil.copytree(made.site, tmp_path / "site")
    with serving(tmp_path / "site", 0) as address:
        assert get(address, "/")[0] == 200
        shutil.rmtree(tmp_path / "site")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "index.html").write_text("second")
        (tmp_path / "new").rename(tmp_path / "site")
        assert get(address, "/")[2] == b"second"


def test_the_command_ends_cleanly_on_ctrl_c(made, tmp_path):
    """The whole of it: build, serve, a new index, a second build, Ctrl-C."""
    database = tmp_path / "db.duckdb"
    shutil.copy(made.db, database)
    words = ["serve", "--db", str(database), "--site", str(tmp_path / "site"), "--port", "0"]
    running = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words, "--pairs", str(made.home / "pairs.toml")],
        cwd=ROOT,
        env={**os.environ, "EYECHART_HOME": str(tmp_path / "home"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = threading.Timer(120, running.kill)
    killer.start()
    try:
        assert running.stdout is not None
        assert "the first build here" in running.stdout.readline()
        address = running.stdout.readline().split()[0]
        assert b"Eyechart" in get(address, "/")[2]
        later = time.time() + 5
        os.utime(database, (later, later))
        assert "since the last build 0 new, 0 changed, 0 removed" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        killer.cancel()
        running.kill()
        running.wait()
    assert running.returncode == 130, err
    assert out == "" and "Traceback" not in err and "interrupted" in err
