"""Fetching from a hub, real client and real server: what is asked, what is taken, what a manifest brings.

What goes wrong on the way is in test_fetch_faults.py.
"""

from __future__ import annotations

import subprocess
import sys
import traceback

import hub_fixtures as given
import pytest
from hub_fixtures import (
    INDEX,
    NET,
    REPO,
    ROOT,
    SHARDS,
    TOKEN,
    WANTED,
    WEIGHTS,
    ask,
    constants,
    file_requests,
    left_in,
    nothing,
    one_line,
)

from harness.digest import digest_bytes
from harness.errors import IntegrityError, ResourceError, SubmissionError, UnsafeInputError, UsageError
from harness.fetch import (
    MAX_CHECKPOINT_BYTES,
    MAX_FILE_BYTES,
    Remote,
    RemoteFile,
    fetch,
    fetch_manifest,
    look_up,
    wanted,
)
from harness.records import InputSpec, PretrainStage, Source, Submission, WeightFile

hub, net, online = given.hub, given.net, given.online
pytestmark = pytest.mark.usefixtures("online")


# --- looking up


def test_look_up(hub, net):
    remote = ask(hub)
    there = {file.path: file for file in remote.files}
    assert (remote.repo, remote.revision, remote.library) == (REPO, net, "transformers")
    assert (remote.license, remote.gated, remote.endpoint) == ("apache-2.0", False, hub.endpoint)
    assert set(there) == set(NET)
    weights = there["model.safetensors"]
    assert (weights.size_bytes, weights.sha256) == (len(WEIGHTS), digest_bytes(WEIGHTS))
    git = subprocess.run(["git", "hash-object", "--stdin"], input=NET["config.json"], capture_output=True)
    assert (there["config.json"].sha256, there["config.json"].git_sha1) == ("", git.stdout.decode().strip())
    assert len(hub.requests) == 1


def test_licence_of_the_card_goes_before_the_tag(hub):
    hub.add_repo(REPO, NET, cardData={"license": "mit"}, tags=["license:other"])
    assert ask(hub).license == "mit"


@pytest.mark.parametrize(
    "name",
    ["net", "org/net/x", "../net", "org/..", "org/a..b", "-org/net", "org/net ", "https://h/org/net", ""],
)
def test_ids_that_are_none(hub, name):
    with pytest.raises(UsageError, match="not the id of a repository"):
        ask(hub, repo=name)
    assert not hub.requests


def test_an_id_only_the_client_refuses(hub):
    with pytest.raises(UsageError, match="not the id of a repository"):
        ask(hub, repo="org/a--b")


@pytest.mark.parametrize("revision", ["", "../x", "a b", "-x", "x?y"])
def test_revisions_that_are_none(hub, revision):
    with pytest.raises(UsageError, match="not a revision"):
        ask(hub, revision)
    assert not hub.requests


def test_a_branch_is_resolved_once_and_kept(hub, net, tmp_path):
    remote = ask(hub, "main")
    newer = hub.add_repo(REPO, {**NET, "config.json": b'{"model_type": "swin"}'})
    assert remote.revision == net != newer
    fetch(remote, tmp_path, nothing)
    assert (tmp_path / "config.json").read_bytes() == NET["config.json"]
    asked = {r.path.split("/resolve/")[1].split("/")[0] for r in file_requests(hub) if r.server == "hub"}
    assert asked == {net}
    assert ask(hub).revision == newer


def test_short_commits(hub, net):
    assert ask(hub, net[:9]).revision == net
    assert ask(hub, net.upper()).revision == net
    hub.add_repo("org/twins", NET, commit="abcdef1" + "0" * 33)
    hub.add_repo("org/twins", NET, commit="abcdef1" + "1" * 33)
    with pytest.raises(SubmissionError, match="no such revision: found abcdef1"):
        ask(hub, "abcdef1", "org/twins")


def test_a_branch_that_looks_like_a_commit(hub, net):
    hub.add_repo(REPO, NET, branch="abcdef1")
    with pytest.raises(SubmissionError) as caught:
        ask(hub, "abcdef1")
    one_line(caught, "revision is ambiguous", net, "all 40 digits")


@pytest.mark.parametrize("revision", ["nope", "0" * 40])
def test_no_such_revision(hub, net, revision):
    with pytest.raises(SubmissionError) as caught:
        ask(hub, revision)
    one_line(caught, f"{hub.endpoint}/{REPO}: no such revision: found {revision}", "40 digits")


def test_the_hub_answers_with_another_commit(hub, net, tmp_path):
    remote, other = ask(hub, net), "f" * 40
    hub.misreport(REPO, other)
    with pytest.raises(IntegrityError) as caught:
        ask(hub, net)
    one_line(caught, "another commit", f"found {other}", f"expected {net}")
    with pytest.raises(IntegrityError, match="another commit"):
        fetch(remote, tmp_path, nothing)
    assert left_in(tmp_path) == []


def test_a_path_that_leads_out(hub, tmp_path):
    hub.add_repo(REPO, {**NET, "../evil.safetensors": b"x"})
    with pytest.raises(UnsafeInputError, match=r"path that git cannot hold: found '\.\./evil"):
        ask(hub)


def test_an_answer_that_is_not_a_hubs(hub, net):
    hub.fail("/api/models/", 200)
    with pytest.raises(ResourceError, match=r"not a model hub's\. Check the address in HF_ENDPOINT"):
        ask(hub)


# --- who may


def test_gated(hub, net, tmp_path, monkeypatch):
    hub.repos["model", REPO].gated = True
    remote = ask(hub)
    assert remote.gated
    with pytest.raises(SubmissionError) as caught:
        fetch(remote, tmp_path, nothing)
    one_line(caught, f"gated. Accept its terms at {hub.endpoint}/{REPO}, then log in")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(SubmissionError) as caught:
        fetch(remote, tmp_path, nothing)
    assert "somebody" not in one_line(caught, "gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert len(fetch(remote, tmp_path, nothing)) == 4


def test_the_token_stays_with_the_hub(hub, net, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    fetch(ask(hub), tmp_path, nothing)
    sent = {(r.server, r.authorization) for r in hub.requests}
    assert sent == {("hub", f"Bearer {TOKEN}"), ("store", "")}


@pytest.mark.parametrize("repo", ["org/private", "org/missing"])
@pytest.mark.parametrize("token", ["", "hf_of_somebody_else"])
def test_private_or_missing(hub, repo, token, monkeypatch):
    hub.add_repo("org/private", NET, private=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(SubmissionError) as caught:
        ask(hub, repo=repo)
    text = one_line(caught, f"{repo}: no such repository, or a private one", "log in")
    assert "somebody" not in text


def test_renamed(hub, net):
    hub.rename(REPO, "elsewhere/web")
    with pytest.raises(SubmissionError) as caught:
        ask(hub)
    one_line(caught, f"{REPO}: repository was renamed: found elsewhere/web")
    assert ask(hub, repo="elsewhere/web").revision == net


@pytest.mark.parametrize("token", [f"{TOKEN}\x0bx", f"{TOKEN}é", f"{TOKEN} x"])
def test_a_malformed_token_is_not_quoted(hub, net, token, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UsageError, match="hub token is not well formed") as caught:
        ask(hub)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert TOKEN not in "".join(capfd.readouterr())
    assert not hub.requests


def test_a_password_in_the_address_is_not_shown(hub, net):
    with pytest.raises(SubmissionError) as caught:
        look_up("org/missing", endpoint=hub.endpoint.replace("//", "//user:secret@"))
    assert "secret" not in one_line(caught, hub.endpoint)


# --- what is wanted


def remote_of(*names, library="transformers", sizes=None):
    sizes = sizes or {}
    listed = tuple(RemoteFile(name, sizes.get(name, 10), "a" * 64) for name in names)
    return Remote(REPO, "1" * 40, listed, library, "", gated=False, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("there", "library", "expected"),
    [
        (list(NET), "transformers", WANTED),
        (["model.safetensors", "config.json"], "timm", ["config.json", "model.safetensors"]),
        (
            ["config.json", INDEX, *SHARDS, "fp16.safetensors"],
            "transformers",
            ["config.json", INDEX, *SHARDS],
        ),
        (["config.json", INDEX, "model.safetensors"], "transformers", ["config.json", "model.safetensors"]),
        (["config.json", "weights.safetensors"], "transformers", ["config.json", "weights.safetensors"]),
        (
            ["config.json", "model.safetensors", "open_clip_config.json", "open_clip_model.safetensors"],
            "open_clip",
            ["open_clip_config.json", "open_clip_model.safetensors"],
        ),
        (
            ["open_clip_config.json", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"],
            "open_clip",
            ["open_clip_config.json", "open_clip_pytorch_model.safetensors"],
        ),
    ],
)
def test_wanted(there, library, expected):
    assert [file.path for file in wanted(remote_of(*there, library=library))] == expected


@pytest.mark.parametrize(
    ("there", "error", "text"),
    [
        (["config.json", "pytorch_model.bin"], UnsafeInputError, "found pytorch_model.bin.*eyechart convert"),
        (["config.json", "tf_model.h5"], UnsafeInputError, "not safetensors"),
        (["config.json"], SubmissionError, "no weights"),
        (["model.safetensors"], SubmissionError, "no config.json"),
        (["config.json", INDEX, *SHARDS[:2]], SubmissionError, "shard.*found 2 files, expected 3"),
        (["config.json", "a.safetensors", "b.safetensors"], SubmissionError, "several weight files"),
    ],
)
def test_not_a_checkpoint(there, error, text):
    with pytest.raises(error, match=text):
        wanted(remote_of(*there))


def test_a_long_model_card_is_left(hub):
    there = remote_of("config.json", "README.md", "model.safetensors", sizes={"README.md": 2 << 20})
    assert [file.path for file in wanted(there)] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("names", "extra", "library"),
    [
        (["config.json", "model.safetensors"], {"library_name": "timm"}, "timm"),
        (["config.json", "model.safetensors"], {"tags": ["timm", "x"]}, "timm"),
        (["config.json", "model.safetensors"], {"library_name": "sentence-transformers"}, "transformers"),
        (["open_clip_config.json", "open_clip_model.safetensors"], {}, "open_clip"),
        # Named by its card after the library whose weights are only there as a pickle.
        (
            ["config.json", "model.safetensors", "open_clip_config.json", "open_clip_pytorch_model.bin"],
            {"library_name": "open_clip"},
            "transformers",
        ),
        (["config.json", "pytorch_model.bin"], {}, "transformers"),
        (["open_clip_config.json", "open_clip_pytorch_model.bin"], {}, "open_clip"),
    ],
)
def test_library(hub, names, extra, library):
    hub.add_repo(REPO, dict.fromkeys(names, b"{}"), **extra)
    assert ask(hub).library == library


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [("model.safetensors", MAX_FILE_BYTES + 1), ("config.json", (1 << 20) + 1), ("model.safetensors", -1)],
)
def test_a_file_beyond_our_limits(tmp_path, name, num_bytes):
    there = remote_of("config.json", "model.safetensors", sizes={name: num_bytes})
    with pytest.raises(UnsafeInputError, match=f"{name}: file too large: found {num_bytes:,} bytes"):
        fetch(there, tmp_path / "new", nothing)
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_beyond_our_limits(tmp_path):
    shards = [f"model-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    there = remote_of("config.json", INDEX, *shards, sizes=dict.fromkeys(shards, MAX_FILE_BYTES))
    with pytest.raises(UnsafeInputError, match=f"checkpoint too large.*at most {MAX_CHECKPOINT_BYTES:,}"):
        fetch(there, tmp_path, nothing)


def test_limits_are_the_readers():
    from harness.encoders.safetensors_load import MAX_WEIGHT_BYTES

    assert MAX_FILE_BYTES == MAX_WEIGHT_BYTES


# --- manifests


def manifest(revision, kind="transformers", name=REPO, **sha256):
    digests = {"config.json": digest_bytes(NET["config.json"]), "model.safetensors": digest_bytes(WEIGHTS)}
    digests |= {key.replace("_", "."): value for key, value in sha256.items()}
    listed = tuple(WeightFile(path=path, sha256=value) for path, value in digests.items())
    return Submission(
        id="net",
        title="Net",
        authors=("A",),
        links=(),
        license="mit",
        contamination="none known",
        source=Source(kind=kind, name=name, revision=revision, files=listed),
        input=InputSpec(resolution=32, mean=(0.5,) * 3, std=(0.5,) * 3),
        pretraining=(PretrainStage(objective="self-supervised", data="d", images_seen=1),),
    )


def bring(hub, sub, folder):
    return fetch_manifest(sub, folder, nothing, endpoint=hub.endpoint)


def test_fetch_manifest(hub, net, tmp_path, monkeypatch):
    hub.add_repo(REPO, {**NET, "config.json": b"{}"})
    paths = bring(hub, manifest(net), tmp_path)
    assert [p.name for p in paths] == ["config.json", "model.safetensors"]
    assert left_in(tmp_path) == ["config.json", "model.safetensors"]
    assert paths[0].read_bytes() == NET["config.json"]
    # All there: not even a hub is needed.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bring(hub, manifest(net), tmp_path) == paths


def test_a_manifest_sees_that_the_hub_lists_other_bytes(hub, net, tmp_path):
    hub.change_bytes(REPO, "model.safetensors", b"x" * len(WEIGHTS), listed=True)
    with pytest.raises(IntegrityError) as caught:
        bring(hub, manifest(net), tmp_path)
    one_line(caught, "bytes changed under the same name", f"expected {digest_bytes(WEIGHTS)}")
    assert not file_requests(hub)


def test_a_manifest_sees_other_bytes_of_a_small_file(hub, net, tmp_path):
    hub.change_bytes(REPO, "config.json", b"{}", listed=True)
    with pytest.raises(IntegrityError, match=r"config\.json: bytes changed"):
        bring(hub, manifest(net), tmp_path)
    assert left_in(tmp_path) == []


def test_a_manifest_sees_another_commit(hub, net, tmp_path):
    hub.misreport(REPO, "f" * 40)
    with pytest.raises(IntegrityError, match="another commit"):
        bring(hub, manifest(net), tmp_path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "local", "revision": "local"}, "nothing to fetch"),
        ({"revision": "local"}, "nothing to fetch"),
        ({"name": "vit"}, "not the id of a repository"),
        ({"extra_json": "0" * 64}, r"no such file: found extra\.json"),
    ],
)
def test_manifests_that_cannot_be_fetched(hub, net, tmp_path, changes, text):
    with pytest.raises(SubmissionError, match=text):
        bring(hub, manifest(**{"revision": net, **changes}), tmp_path)
    assert left_in(tmp_path) == []


def test_a_manifest_cannot_write_outside(hub, net, tmp_path):
    sub = manifest(net, **{"../evil_json": "0" * 64})
    with pytest.raises(UnsafeInputError, match="path refused"):
        bring(hub, sub, tmp_path / "in")
    assert not hub.requests


def test_fetch_is_light_to_import():
    code = (
        "import harness.fetch, sys; print(sorted({'torch', 'huggingface_hub', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
