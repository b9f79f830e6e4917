"""Fetching from a hub when things go wrong: cut connections, killed processes, other bytes, full disks."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import hub_fixtures as given
import pytest
from hub_fixtures import (
    INDEX,
    NET,
    REPO,
    ROOT,
    SHARDS,
    WANTED,
    WEIGHTS,
    ask,
    constants,
    file_requests,
    left_in,
    nothing,
    one_line,
)

from harness import files
from harness.errors import IntegrityError, ResourceError, StoreBusyError, SubmissionError, UsageError
from harness.fetch import fetch, look_up
from harness.hub import PARTIAL_PREFIX, Place, partial_path

hub, net, online, impatient = given.hub, given.net, given.online, given.impatient
pytestmark = pytest.mark.usefixtures("online")


# --- bringing it


def test_fetch(hub, net, tmp_path, capfd):
    seen = []
    paths = fetch(ask(hub), tmp_path / "new", lambda done, total: seen.append((done, total)))
    assert [p.name for p in paths] == WANTED
    assert left_in(tmp_path / "new") == sorted(WANTED)
    assert all(p.read_bytes() == NET[p.name] for p in paths)
    total = sum(len(NET[name]) for name in WANTED)
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert len(seen) > 10
    # Each file once, nothing else, the smallest first.
    order = [Path(r.path).name for r in file_requests(hub) if r.server == "hub"]
    assert order == sorted(WANTED, key=lambda name: len(NET[name]))
    assert capfd.readouterr() == ("", "")


def test_what_is_there_is_not_asked_for_again(hub, net, tmp_path):
    remote = ask(hub)
    fetch(remote, tmp_path, nothing)
    (tmp_path / "config.json").unlink()
    before, seen = len(hub.requests), []
    fetch(remote, tmp_path, lambda *at: seen.append(at))
    assert [r.path.rpartition("/")[2] for r in hub.requests[before:]] == ["config.json"]
    assert seen[0][0] == seen[0][1] - len(NET["config.json"])


def test_a_cut_connection_goes_on_where_it_was(hub, net, tmp_path):
    hub.drop_after("model.safetensors", 500_000, times=2)
    fetch(ask(hub), tmp_path, nothing)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    sent = [r for r in hub.bodies("model.safetensors") if r.server == "store"]
    assert [r.range for r in sent] == ["", "bytes=500000-", "bytes=1000000-"]
    assert sum(r.body_bytes for r in sent) == len(WEIGHTS)


def test_a_killed_process_goes_on_where_it_was(hub, net, tmp_path):
    hub.slow("model.safetensors", 0.05)
    code = """
import sys
from pathlib import Path
from loopback import loopback_only
with loopback_only():
    from harness.fetch import fetch, look_up
    fetch(look_up("org/net"), Path(sys.argv[1]), lambda done, total: None)
"""
    env = {k: v for k, v in os.environ.items() if k not in {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}}
    env["HF_ENDPOINT"], env["HF_HOME"] = hub.endpoint, str(tmp_path / "hf")
    env["PYTHONPATH"] = os.pathsep.join([env["PYTHONPATH"], str(ROOT), str(ROOT / "tests")])
    folder = tmp_path / "new"
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=env)
    deadline = time.monotonic() + 15
    while sum(p.stat().st_size for p in folder.glob(f"{PARTIAL_PREFIX}*")) < 300_000:
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (partial,) = folder.glob(f"{PARTIAL_PREFIX}*")
    have = partial.stat().st_size
    assert 300_000 <= have < len(WEIGHTS)
    assert not (folder / "model.safetensors").exists()
    hub.faults.clear()
    before, seen = len(hub.requests), []
    fetch(ask(hub), folder, lambda *at: seen.append(at))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert left_in(folder) == sorted(WANTED)
    (sent,) = [r for r in hub.requests[before:] if r.server == "store"]
    assert (sent.range, sent.status, sent.body_bytes) == (f"bytes={have}-", 206, len(WEIGHTS) - have)
    assert seen[1][0] == sum(len(NET[n]) for n in WANTED) - len(WEIGHTS) + have


@pytest.fixture
def partial(hub, net, tmp_path):
    """Writes the beginning of the weights, as an earlier process left it."""
    remote = ask(hub)
    (weights,) = [file for file in remote.files if file.path == "model.safetensors"]
    place = Place(remote.endpoint, remote.repo, remote.revision)
    path = partial_path(place, weights, tmp_path / weights.path)

    def write(data):
        path.write_bytes(data)
        return remote, path

    return write


def test_a_beginning_that_is_wrong_is_begun_anew(hub, partial, tmp_path):
    remote, _ = partial(b"\0" * 1000)
    seen = []
    fetch(remote, tmp_path, lambda *at: seen.append(at[0]))
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [r.range for r in hub.bodies("model.safetensors")]
    assert ranges == ["bytes=1000-", ""]
    assert seen[-1] == sum(len(NET[name]) for name in WANTED)


@pytest.mark.parametrize("extra", [0, 5])
def test_a_beginning_that_is_all_or_more(hub, partial, tmp_path, extra):
    remote, path = partial(WEIGHTS + b"x" * extra)
    fetch(remote, tmp_path, nothing)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.bodies("model.safetensors")) == (1 if extra else 0)
    assert not path.exists()


def test_a_hub_without_ranges(hub, partial, tmp_path):
    hub.ranges = False
    remote, _ = partial(WEIGHTS[:1000])
    seen = []
    fetch(remote, tmp_path, lambda *at: seen.append(at[0]))
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert seen[-1] == sum(len(NET[name]) for name in WANTED)


def test_a_hub_that_sends_another_range(hub, partial, tmp_path, impatient):
    hub.shift = 1
    remote, path = partial(WEIGHTS[:1000])
    with pytest.raises(ResourceError, match="found connection cut"):
        fetch(remote, tmp_path, nothing)
    assert path.read_bytes() == WEIGHTS[:1000]


def test_two_processes(hub, partial, tmp_path):
    remote, path = partial(b"")
    with path.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreBusyError, match="another process is fetching"):
            fetch(remote, tmp_path, nothing)
    fetch(remote, tmp_path, nothing)


def test_older_files_do_not_stay_beside_newer_ones(hub, net, tmp_path, impatient):
    fetch(ask(hub), tmp_path, nothing)
    hub.add_repo(REPO, {**NET, "config.json": b'{"model_type": "dinov2"}', "model.safetensors": WEIGHTS[1:]})
    hub.fail("model.safetensors", 500, times=None)
    with pytest.raises(ResourceError):
        fetch(ask(hub), tmp_path, nothing)
    assert (tmp_path / "config.json").read_bytes() == b'{"model_type": "dinov2"}'
    assert not (tmp_path / "model.safetensors").exists()


# --- bytes that are not the ones


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_changed_bytes(hub, net, tmp_path, name):
    remote = ask(hub)
    hub.change_bytes(REPO, name, b"x" * len(NET[name]))
    with pytest.raises(IntegrityError) as caught:
        fetch(remote, tmp_path, nothing)
    one_line(caught, f"{REPO}: {name}: bytes changed under the same name")
    assert name not in left_in(tmp_path)
    assert not list(tmp_path.glob(f"{PARTIAL_PREFIX}*"))


@pytest.mark.parametrize("data", [WEIGHTS[:-1], WEIGHTS + b"x", b""])
def test_another_size_than_listed(hub, net, tmp_path, data):
    remote = ask(hub)
    hub.change_bytes(REPO, "model.safetensors", data)
    with pytest.raises(IntegrityError, match="another size than it lists"):
        fetch(remote, tmp_path, nothing)
    assert left_in(tmp_path) == sorted(set(WANTED) - {"model.safetensors"})


def test_a_listed_file_that_is_not_there(hub, net, tmp_path):
    hub.fail(f"/resolve/{net}/config.json", 404)
    with pytest.raises(IntegrityError, match=r"config\.json: hub lists a file that it does not have"):
        fetch(ask(hub), tmp_path, nothing)


def test_an_index_that_names_a_file_outside(hub, tmp_path):
    # A fetch reads no index; `eyechart submit` refuses this one (test_submit.py).
    index = {"weight_map": {"a": "../../outside.safetensors", "b": SHARDS[0]}}
    shards = dict.fromkeys(SHARDS, b"shard")
    hub.add_repo(REPO, {"config.json": b"{}", INDEX: json.dumps(index).encode(), **shards})
    folder = tmp_path / "a" / "b"
    fetch(ask(hub), folder, nothing)
    assert left_in(tmp_path / "a") == sorted(["b", *(f"b/{n}" for n in ["config.json", INDEX, *SHARDS])])
    assert not [r for r in hub.requests if "outside" in r.path]


# --- a hub that is busy or away


def test_a_busy_hub_is_waited_for_as_long_as_it_asks(hub, net, tmp_path):
    hub.fail("/api/models/", 429, retry_after=0.3)
    began = time.monotonic()
    remote = ask(hub)
    assert time.monotonic() - began >= 0.3
    hub.fail("config.json", 503)
    hub.fail("model.safetensors", 502)
    fetch(remote, tmp_path, nothing)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_hub_that_asks_for_too_much(hub, net, capfd):
    hub.fail("/api/models/", 429, retry_after=3600)
    began = time.monotonic()
    with pytest.raises(ResourceError) as caught:
        ask(hub)
    one_line(caught, "does not answer: found status 429, and to wait 3600 s")
    assert time.monotonic() - began < 5
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_stays_away(hub, net, tmp_path, impatient, capfd):
    remote = ask(hub)
    hub.fail("/", 503, times=None)
    for call in (lambda: ask(hub), lambda: fetch(remote, tmp_path, nothing)):
        with pytest.raises(ResourceError) as caught:
            call()
        assert caught.value.exit_code == 6
        one_line(caught, f"{hub.endpoint}/{REPO}", "does not answer: found status 503", "again later")
    assert len(hub.requests) > 4
    assert not [name for name in left_in(tmp_path) if not name.startswith(PARTIAL_PREFIX)]
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_cuts_every_time(hub, net, tmp_path, impatient):
    hub.drop_after("model.safetensors", 0, times=None)
    with pytest.raises(ResourceError, match=r"model\.safetensors: hub does not answer: found connection cut"):
        fetch(ask(hub), tmp_path, nothing)


def test_a_hub_without_ranges_that_cuts_at_the_same_place(hub, net, tmp_path, impatient):
    hub.ranges = False
    hub.drop_after("model.safetensors", 1000, times=None)
    with pytest.raises(ResourceError, match="found connection cut"):
        fetch(ask(hub), tmp_path, nothing)


def test_nobody_is_there(impatient):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ResourceError) as caught:
        look_up(REPO, endpoint=f"http://127.0.0.1:{port}")
    one_line(caught, "does not answer: found no connection")


@pytest.mark.parametrize("endpoint", ["ftp://hub", "hub.example", "http://", "http://a b"])
def test_an_address_that_is_none(endpoint):
    with pytest.raises(UsageError, match="HF_ENDPOINT: not the address of a hub"):
        look_up(REPO, endpoint=endpoint)


@pytest.mark.parametrize(
    ("status", "error"), [(403, SubmissionError), (418, ResourceError), (301, ResourceError)]
)
def test_other_refusals(hub, net, status, error):
    hub.fail("/api/models/", status, times=None)
    with pytest.raises(error) as caught:
        ask(hub)
    one_line(caught, REPO)


def test_offline_mode(hub, net, tmp_path, monkeypatch):
    remote = ask(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    hub.requests.clear()
    for call in (lambda: ask(hub), lambda: fetch(remote, tmp_path, nothing)):
        with pytest.raises(ResourceError, match=r"offline mode is on\. Unset HF_HUB_OFFLINE"):
            call()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    with pytest.raises(ResourceError, match="Unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"):
        ask(hub)
    assert not hub.requests


def test_the_client_is_silent(hub):
    from huggingface_hub import HfApi

    hub.add_repo(REPO, NET, cardData={"model-index": [{"name": "x", "results": "none"}]})
    log, said = logging.getLogger("huggingface_hub"), []
    handler = logging.Handler()
    handler.emit = said.append
    log.addHandler(handler)
    try:
        ask(hub)
        assert not said
        HfApi(endpoint=hub.endpoint).model_info(REPO)
        assert said, "the client has nothing to say any more: another way to make it speak is needed"
    finally:
        log.removeHandler(handler)


# --- the disk


def test_a_disk_that_is_too_small(hub, net, tmp_path, monkeypatch):
    remote = ask(hub)
    monkeypatch.setattr(files, "free_bytes", lambda path: 1_000_000)
    with pytest.raises(ResourceError) as caught:
        fetch(remote, tmp_path / "new", nothing)
    total = sum(len(NET[name]) for name in WANTED)
    one_line(caught, "not enough disk space for org/net: found 1,000,000 bytes free", f"{total:,} bytes")
    assert not file_requests(hub)
    assert not (tmp_path / "new").exists()


def test_only_what_is_missing_needs_room(hub, partial, tmp_path, monkeypatch):
    remote, _ = partial(WEIGHTS[:1_000_000])
    monkeypatch.setattr(files, "free_bytes", lambda path: 600_000)
    fetch(remote, tmp_path, nothing)
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


def test_a_disk_that_fills_up(hub, net, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    remote = ask(hub)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="cannot fetch, No space left on device"):
        fetch(remote, tmp_path, nothing)
    assert [n for n in left_in(tmp_path) if not n.startswith(PARTIAL_PREFIX)] == []


def test_a_folder_that_is_a_file(hub, net, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot fetch"):
        fetch(ask(hub), tmp_path / "file", nothing)
