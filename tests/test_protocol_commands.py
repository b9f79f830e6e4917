"""`eyechart protocol …` against the tests' hub: pins, pinned copies, fetching, every refusal in one line."""

from __future__ import annotations

import json
import random
import re

import hub_fixtures
import pytest
from hub_fixtures import TOKEN, constants, file_requests, left_in

from harness import hub as talk, llm_files
from harness.cli import main
from harness.data import read_note
from harness.errors import UsageError
from harness.files import read_json
from harness.protocol import PROTOCOLS, find_protocol, read_protocol, replace_values, unpinned_fields

hub, online, impatient = hub_fixtures.hub, hub_fixtures.online, hub_fixtures.impatient
pytestmark = pytest.mark.usefixtures("online", "home")

REPO = "Qwen/Qwen2.5-0.5B-Instruct"
FOLDER = "llms/Qwen--Qwen2.5-0.5B-Instruct"
WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "model.safetensors": WEIGHTS,
}
OTHERS = {
    "README.md": b"# Qwen\n",
    "LICENSE": b"Apache",
    "vocab.json": b"{}",
    "merges.txt": b"",
    "pytorch_model.bin": b"\x80\x04pickle",
    "model.pth": b"\x80\x04pickle",
    "modeling.py": b"raise SystemExit",
}


@pytest.fixture
def run(hub, monkeypatch, capsys):
    """The command against the tests' hub; gives exit code, output, errors."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)

    def call(*words):
        code = main(["protocol", *words])
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("eyechart: ")]
        assert len(lines) == bool(code), said.err
        assert "Traceback" not in said.err
        return code, said.out, "".join(lines)

    return call


@pytest.fixture
def model(hub):
    """The commit of the language model's repository."""
    return hub.add_repo(REPO, FILES | OTHERS, library_name="transformers")


@pytest.fixture
def mixture(home):
    """A prepared mixture; its digest."""
    folder = home / "data" / "main" / "mixture"
    folder.mkdir(parents=True)
    note = {"digest": "b" * 64, "rows": {"train": 3}, "files": {}}
    (folder / "DATASET.json").write_text(json.dumps(note))
    return read_note(folder)["digest"]


# --- list and show


def test_the_list(run, home, model):
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in ("cheap 1", "main 1", "main-frozen 1", "mini 2", "ships with"))
    assert "UNPINNED: llm.revision, adapter.mixture_digest" in out
    run("pin", "cheap")
    run("fetch", "cheap")
    told = {row["name"]: row for row in json.loads(run("list", "--json")[1])}
    assert told["cheap"]["llm_here"] == "yes"
    assert told["cheap"]["unpinned"] == ["adapter.mixture_digest"]
    assert told["main"]["llm_here"] == "no"
    assert told["mini"]["unpinned"] == []
    (home / FOLDER / "FETCHED.json").write_text('{"revision": "%s", "files": {}}' % ("1" * 40))
    assert "another revision" in run("list")[1]
    (home / FOLDER / "FETCHED.json").write_text("{")
    assert "not valid JSON" in run("list")[1]
    (home / FOLDER / "FETCHED.json").unlink()
    assert "not from a hub" in run("list")[1]


def test_show_prints_the_file_and_what_is_derived(run):
    code, out, _ = run("show", "main")
    assert code == 0
    assert out.startswith((PROTOCOLS / "main.toml").read_text().rstrip())
    for name, digest in read_protocol("main").recipe_digests.items():
        assert re.search(rf"recipe {name} +{digest}", out)
    told = json.loads(run("show", "mini", "--json")[1])
    assert told["protocol"]["tokens"]["budget"] == 16
    code, _, err = run("show", "mian")
    assert (code, "main" in err) == (2, True)


# --- pin


def test_pin_writes_a_copy_that_the_name_finds(run, home, hub, model, mixture):
    code, out, _ = run("pin", "cheap")
    assert code == 0
    assert model in out and mixture in out and "--protocol cheap" in out
    path = home / "protocols" / "cheap.toml"
    assert find_protocol("cheap", home / "protocols") == path
    protocol = read_protocol("cheap", home / "protocols")
    assert (protocol.llm.revision, protocol.adapter.mixture_digest) == (model, mixture)
    assert unpinned_fields(protocol) == ()
    before, after = ((PROTOCOLS / "cheap.toml").read_text().splitlines(), path.read_text().splitlines())
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [b.split(" = ")[0] for _, b in changed] == ["revision", "mixture_digest"], "comments stay"
    assert file_requests(hub) == [], "asking once needs no file"
    asked = len(hub.requests)
    assert run("pin", "cheap")[0] == 0
    assert len(hub.requests) == asked, "what is pinned is not asked for again"
    assert read_protocol("cheap").llm.revision == "UNPINNED", "the shipped one stays as it is"


def test_a_pin_stays_where_the_branch_moves_on(run, home, hub, model):
    assert run("pin", "cheap")[0] == 9
    hub.add_repo(REPO, FILES | {"config.json": b'{"model_type": "qwen3"}'})
    assert run("pin", "cheap")[0] == 9
    assert read_protocol("cheap", home / "protocols").llm.revision == model


def test_without_the_mixture_the_model_is_pinned_and_the_rest_is_told(run, home, model):
    code, _, err = run("pin", "cheap")
    assert code == 9
    assert "eyechart data fetch mixture" in err and "adapter.mixture_digest" in err
    protocol = read_protocol("cheap", home / "protocols")
    assert protocol.llm.revision == model
    assert unpinned_fields(protocol) == ("adapter.mixture_digest",)


def test_the_mixture_is_pinned_later(run, home, hub, model, mixture):
    (home / "data" / "main" / "mixture").rename(home / "aside")
    assert run("pin", "cheap")[0] == 9
    (home / "aside").rename(home / "data" / "main" / "mixture")
    asked = len(hub.requests)
    assert run("pin", "cheap")[0] == 0
    assert len(hub.requests) == asked
    assert unpinned_fields(read_protocol("cheap", home / "protocols")) == ()


def test_another_mixture_than_the_pinned_one(run, home, model, mixture):
    assert run("pin", "cheap")[0] == 0
    note = home / "data" / "main" / "mixture" / "DATASET.json"
    note.write_text(note.read_text().replace("b" * 64, "c" * 64))
    code, _, err = run("pin", "cheap")
    assert (code, "not the pinned one" in err) == (5, True)


def test_a_revision_given(run, home, hub, model, mixture):
    hub.add_repo(REPO, FILES | {"config.json": b"{}"})
    code, _, err = run("pin", "cheap", "--revision", "0" * 40)
    assert (code, "no such revision" in err) == (2, True)
    assert run("pin", "cheap", "--revision", model)[0] == 0
    assert read_protocol("cheap", home / "protocols").llm.revision == model


def test_a_copy_where_the_person_says(run, tmp_path, home, model, mixture):
    out = tmp_path / "mine" / "cheap.toml"
    code, said, _ = run("pin", "cheap", "--out", str(out))
    assert code == 0
    assert f"--protocol {out}" in said
    assert unpinned_fields(read_protocol(str(out))) == ()
    code, _, err = run("pin", "cheap", "--out", str(out))
    assert (code, "a file already" in err) == (2, True)


def test_rules_of_ones_own_have_a_name_of_their_own(run, home, model, mixture):
    text = replace_values((PROTOCOLS / "cheap.toml").read_text(), {"name": '"mine"', "tokens.budget": "25"})
    (home / "mine.toml").write_text(text)
    assert run("pin", str(home / "mine.toml"))[0] == 0
    assert read_protocol("mine", home / "protocols").tokens.budget == 25
    assert "mine 1" in run("list")[1]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("tokens.budget", "25", "tokens"), ("version", "2", "version"), ("llm.name", '"Qwen/other"', "llm")],
)
def test_other_rules_under_a_known_name_are_refused(run, home, key, value, named):
    text = replace_values((PROTOCOLS / "cheap.toml").read_text(), {key: value})
    (home / "protocols").mkdir()
    (home / "protocols" / "cheap.toml").write_text(text)
    code, _, err = run("show", "cheap")
    assert code == 2
    assert "no pinned copy" in err and f"other values in {named}" in err and "protocol pin cheap" in err


def test_a_pinned_protocol_has_no_other_pins(home):
    text = replace_values((PROTOCOLS / "mini.toml").read_text(), {"llm.revision": f'"{"1" * 64}"'})
    (home / "protocols").mkdir()
    (home / "protocols" / "mini.toml").write_text(text)
    with pytest.raises(UsageError, match="other values in llm"):
        read_protocol("mini", home / "protocols")


def test_the_pinned_mini(run):
    code, out, _ = run("pin", "mini")
    assert (code, "mini is pinned" in out) == (0, True)
    code, out, _ = run("fetch", "mini")
    assert (code, "ships with" in out) == (0, True)


def test_a_damaged_note_of_the_mixture(run, home, model, mixture):
    (home / "data" / "main" / "mixture" / "DATASET.json").write_text("{")
    code, _, err = run("pin", "cheap")
    assert (code, "damaged" in err) == (5, True)
    assert not (home / "protocols").exists()


def test_values_are_replaced_and_comments_stay():
    text = 'a = "x"  # why\n[b]\na = "y # no" # yes\nc = 3\n[[b.d]] # here\na = 1\n'
    swaps = {"a": '"z"', "b.a": "1", "b.c": "4", "b.d.a": "2"}
    assert replace_values(text, swaps) == 'a = "z"  # why\n[b]\na = 1 # yes\nc = 4\n[[b.d]] # here\na = 2\n'


# --- fetch


@pytest.fixture
def pinned(run, model):
    run("pin", "cheap")
    return model


def test_fetch_brings_what_is_needed_and_nothing_else(run, home, hub, pinned):
    code, out, _ = run("fetch", "cheap")
    assert code == 0
    assert pinned in out and "Still UNPINNED: adapter.mixture_digest" in out
    assert left_in(home / FOLDER) == sorted([*FILES, "FETCHED.json"])
    note = read_json(home / FOLDER / "FETCHED.json")
    assert (note["repo"], note["revision"], set(note["files"])) == (REPO, pinned, set(FILES))
    assert llm_files.llm_revision(home / FOLDER) == pinned
    asked = {r.path.rsplit("/", 1)[1] for r in file_requests(hub)}
    assert asked == set(FILES)
    assert left_in(home / "llms")[0] == FOLDER.split("/")[1], "nothing half-way is left beside it"


def test_what_is_there_is_not_fetched_again(run, hub, pinned):
    run("fetch", "cheap")
    asked = len(hub.requests)
    code, out, _ = run("fetch", "cheap")
    assert (code, "was there already" in out) == (0, True)
    assert len(hub.requests) == asked


def test_a_changed_file_is_found(run, home, pinned):
    run("fetch", "cheap")
    (home / FOLDER / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    code, _, err = run("fetch", "cheap")
    assert (code, "has changed" in err) == (8, True)
    (home / FOLDER / "model.safetensors").unlink()
    code, _, err = run("fetch", "cheap")
    assert (code, "is missing" in err) == (8, True)


def test_another_revision_is_not_overwritten(run, home, hub, pinned):
    run("fetch", "cheap")
    other = hub.add_repo(REPO, FILES | {"config.json": b"{}"})
    path = home / "protocols" / "cheap.toml"
    path.write_text(path.read_text().replace(pinned, other))
    code, _, err = run("fetch", "cheap")
    assert (code, "another revision" in err) == (2, True)
    assert llm_files.llm_revision(home / FOLDER) == pinned


def test_unpinned_is_refused_with_the_way_out(run, hub, model):
    code, _, err = run("fetch", "main")
    assert code == 2
    assert "UNPINNED" in err and "un `eyechart protocol pin main`" in err
    assert hub.requests == []


def test_a_cut_connection_is_continued(run, home, hub, pinned):
    hub.drop_after("model.safetensors", 100_000)
    assert run("fetch", "cheap")[0] == 0
    assert [r.range for r in hub.bodies("model.safetensors")][-1] == "bytes=100000-"


@pytest.mark.usefixtures("impatient")
def test_a_partial_download_is_no_model_and_goes_on(run, home, hub, pinned):
    hub.drop_after("model.safetensors", 100_000)
    hub.drop_after("model.safetensors", 0, times=None)
    code, _, err = run("fetch", "cheap")
    assert (code, "un the same command again" in err) == (6, True)
    assert not (home / FOLDER).exists()
    with pytest.raises(UsageError, match="not here"):
        llm_files.locate_llm(REPO, home / "llms")
    hub.faults.clear()
    before = len(hub.bodies("tokenizer.json"))
    assert run("fetch", "cheap")[0] == 0
    assert len(hub.bodies("tokenizer.json")) == before
    assert [r.range for r in hub.bodies("model.safetensors")][-1] == "bytes=100000-"


def test_other_bytes_than_listed(run, home, hub, pinned):
    hub.change_bytes(REPO, "model.safetensors", bytes(len(WEIGHTS)))
    code, _, err = run("fetch", "cheap")
    assert (code, "bytes changed under the same name" in err) == (8, True)
    assert not (home / FOLDER).exists()


def test_a_gated_model(run, home, hub, monkeypatch):
    commit = hub.add_repo(REPO, FILES, gated=True)
    run("pin", "cheap")
    assert read_protocol("cheap", home / "protocols").llm.revision == commit, "the listing is open"
    code, _, err = run("fetch", "cheap")
    assert code == 2
    for words in ("gated", "ccept its terms at", "hf auth login"):
        assert words in err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("fetch", "cheap")[0] == 0


def test_no_such_repository_and_a_renamed_one(run, hub, home):
    code, _, err = run("pin", "cheap")
    assert (code, "no such repository" in err) == (2, True)
    hub.add_repo(REPO, FILES)
    hub.rename(REPO, "Qwen/other")
    code, _, err = run("pin", "cheap")
    assert (code, "renamed" in err) == (2, True)
    assert not (home / "protocols").exists()
    assert file_requests(hub) == []


def test_a_hub_that_answers_about_another_commit(run, hub, pinned):
    hub.misreport(REPO, "1" * 40)
    code, _, err = run("fetch", "cheap")
    assert (code, "another commit" in err) == (8, True)


@pytest.mark.parametrize("absent", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_repository_that_is_no_language_model(run, hub, home, absent):
    hub.add_repo(REPO, {name: data for name, data in FILES.items() if name != absent})
    code, _, err = run("pin", "cheap")
    assert (code, f"no {absent} in the repository" in err) == (2, True)
    assert not (home / "protocols").exists()


def test_pickled_weights_are_never_taken(run, hub):
    files = {name: data for name, data in FILES.items() if "safetensors" not in name}
    hub.add_repo(REPO, files | {"pytorch_model.bin": b"\x80\x04pickle"})
    code, _, err = run("pin", "cheap")
    assert (code, "not safetensors" in err) == (4, True)


def test_a_file_beyond_every_limit(run, hub, pinned, monkeypatch):
    monkeypatch.setattr(llm_files, "MAX_TEXT_BYTES", 10)
    code, _, err = run("fetch", "cheap")
    assert (code, "file too large" in err) == (4, True)


def test_weights_in_shards(run, home, hub):
    shards = {f"model-0000{i}-of-00002.safetensors": WEIGHTS[i:] for i in (1, 2)}
    index = {"model.safetensors.index.json": b"{}"}
    files = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    commit = hub.add_repo(REPO, files | shards | index)
    run("pin", "cheap")
    assert run("fetch", "cheap")[0] == 0
    assert left_in(home / FOLDER) == sorted([*files, *shards, *index, "FETCHED.json"])
    assert llm_files.llm_revision(home / FOLDER) == commit


def test_offline(run, pinned, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for part, name in (("fetch", "cheap"), ("pin", "main")):
        code, _, err = run(part, name)
        assert (code, "offline mode" in err) == (6, True)


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_is_away(run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(talk, "FIRST_PATIENCE_S", 0.05)
    code, _, err = run("pin", "cheap")
    assert (code, "does not answer" in err) == (6, True)


def test_no_space_for_it(run, pinned, home, monkeypatch):
    import harness.files

    monkeypatch.setattr(harness.files, "free_bytes", lambda _: 10)
    code, _, err = run("fetch", "cheap")
    assert (code, "not enough disk space" in err) == (6, True)
    assert not (home / FOLDER).exists()


def test_a_folder_that_cannot_be_written(run, home, model):
    (home / "protocols").write_text("a file in its place")
    code, _, err = run("pin", "cheap")
    assert (code, "cannot write" in err) == (6, True)


# --- runs under what is UNPINNED


@pytest.mark.parametrize("command", ["plan", "run", "status"])
def test_no_run_under_an_unpinned_protocol(tiny, home, capsys, command):
    code = main([command, str(tiny.manifest), "--protocol", "cheap"])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1)
    assert "llm.revision and adapter.mixture_digest" in lines[0]
    assert "un `eyechart protocol pin cheap`" in lines[0]


def test_a_pinned_protocol_without_its_model(tiny, home, capsys):
    text = replace_values(
        tiny.protocol.read_text(), {"llm.name": f'"{REPO}"', "llm.revision": f'"{"1" * 40}"'}
    )
    (home / "other.toml").write_text(text)
    (home / "data").symlink_to(tiny.root / "data")
    code = main(["plan", str(tiny.manifest), "--protocol", str(home / "other.toml")])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1)
    assert "not here" in lines[0] and "eyechart protocol fetch" in lines[0]
