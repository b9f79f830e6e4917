"""What the tests that fetch share: a hub with one checkpoint, and the client as a user has it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hub_server import HubServer
from loopback import loopback_only

from harness import hub as talk
from harness.fetch import look_up

ROOT = Path(__file__).resolve().parent.parent
REPO = "org/net"
WEIGHTS = random.Random(0).randbytes(1_500_000)
NET = {
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": b"{}",
    "README.md": b"# A net\n",
    "model.safetensors": WEIGHTS,
    # What must never be asked for.
    "pytorch_model.bin": b"\x80\x04pickle",
    "modeling_net.py": b"raise SystemExit",
    "tokenizer.json": b"{}",
    "onnx/model.onnx": b"graph",
    "sub/model.safetensors": b"another",
}
INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
WANTED = ["config.json", "preprocessor_config.json", "README.md", "model.safetensors"]
TOKEN = "hf_canaryCANARYcanary"

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def online(monkeypatch, tmp_path):
    """The client as it is for a user who is not offline and not logged in, kept on this machine."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(talk, "FIRST_WAIT_S", 0.01)
    with loopback_only():
        yield


@pytest.fixture
def hub():
    with HubServer(tokens=(TOKEN,)) as server:
        yield server


@pytest.fixture
def net(hub):
    """The commit of a repository with everything a checkpoint's has."""
    extra = {"library_name": "transformers", "tags": ["vision", "license:apache-2.0"]}
    return hub.add_repo(REPO, NET, **extra)


@pytest.fixture
def impatient(monkeypatch):
    for name in ("LOOK_UP_PATIENCE_S", "DOWNLOAD_PATIENCE_S", "ASKED_PATIENCE_S", "FIRST_PATIENCE_S"):
        monkeypatch.setattr(talk, name, 0.2)


def ask(hub, revision=None, repo=REPO):
    return look_up(repo, revision, endpoint=hub.endpoint)


def nothing(done, total):
    """Progress that nobody watches."""


def left_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []


def file_requests(hub):
    return [r for r in hub.requests if "/resolve/" in r.path or r.server == "store"]


def one_line(caught, *words):
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text
