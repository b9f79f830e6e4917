"""Fetching datasets: pins, resumption, refusals, and never another repository than the named one."""

from __future__ import annotations

import hub_datasets as given
import hub_fixtures
import pytest
from hub_datasets import RAW, raw_schema, write_repo
from hub_fixtures import TOKEN, constants, file_requests, left_in

from harness import hub as talk
from harness.cli import main
from harness.data import check_dataset, read_note
from harness.datasets import pins
from harness.datasets.download import look_up_dataset, wanted_files
from harness.datasets.specs import SPECS
from harness.errors import DatasetError, UsageError
from harness.files import read_json

hub, online, impatient = hub_fixtures.hub, hub_fixtures.online, hub_fixtures.impatient
pytestmark = pytest.mark.usefixtures("online", "home")


@pytest.fixture
def run(hub, monkeypatch, capsys):
    """The command against the tests' hub; gives exit code, output, errors."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)

    def call(*words):
        code = main(["data", *words])
        said = capsys.readouterr()
        assert said.err.count("eyechart: ") <= 1
        return code, said.out, said.err

    return call


@pytest.fixture
def publish(hub, tmp_path):
    """A dataset's repository on the hub; returns its commit."""

    def add(name, extra=None, **options):
        folder = write_repo(tmp_path / "repos" / name, name)
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        return hub.add_repo(SPECS[name].repo, files | (extra or {}), "dataset", **options)

    return add


@pytest.mark.parametrize("name", list(RAW))
def test_every_dataset(run, publish, home, name):
    commit = publish(name, {"README.md": b"# card\n", "other/train-00000-of-00001.parquet": b"no"})
    code, out, _ = run("fetch", name, "--pin", "--partial")
    assert code == 0
    assert f"Pinned {SPECS[name].repo} at {commit}" in out
    folder = home / "data" / "main" / name
    about = read_json(folder / "DATASET.json")
    assert about["source"] == {"kind": "parquet", "repo": SPECS[name].repo, "revision": commit}
    assert check_dataset(folder, about["digest"])
    there = left_in(home / "downloads" / SPECS[name].repo / commit)
    assert not any("README" in p or "other" in p for p in there)
    assert pins.pinned(name, home) == commit


def test_unpinned_needs_a_word(run, publish, hub):
    publish("textvqa")
    code, _, err = run("fetch", "textvqa")
    assert code == 2
    assert "UNPINNED" in err and "--pin" in err
    assert hub.requests == []


def test_a_pin_stays_where_the_branch_moves_on(run, publish, hub, home):
    first = publish("textvqa")
    assert run("fetch", "textvqa", "--pin", "--partial")[0] == 0
    digest = read_note(home / "data" / "main" / "textvqa")["digest"]
    publish("textvqa", {"data/validation-00000-of-00002.parquet": b"another"})
    assert run("fetch", "textvqa", "--partial")[0] == 0
    about = read_json(home / "data" / "main" / "textvqa" / "DATASET.json")
    assert (about["source"]["revision"], about["digest"]) == (first, digest)


def test_a_revision_given(run, publish, home):
    commit = publish("textvqa")
    assert run("fetch", "textvqa", "--revision", commit, "--partial")[0] == 0
    assert pins.pinned("textvqa", home) == "UNPINNED"
    for wrong in ("main", commit[:12]):
        code, _, err = run("fetch", "textvqa", "--revision", wrong)
        assert (code, "40 hex digits" in err) == (2, True)
    code, _, err = run("fetch", "textvqa", "--revision", "0" * 40)
    assert (code, "no such revision" in err) == (5, True)


def test_what_is_there_is_not_fetched_again(run, publish, hub):
    publish("vqav2")
    assert run("fetch", "vqav2", "--pin", "--partial")[0] == 0
    sent = len(file_requests(hub))
    assert run("fetch", "vqav2", "--partial")[0] == 0
    assert len(file_requests(hub)) == sent


def test_a_cut_connection_is_continued(run, publish, hub, home):
    publish("vqav2")
    hub.drop_after("validation-00001", 5000)
    assert run("fetch", "vqav2", "--pin", "--partial")[0] == 0
    assert [r.range for r in hub.bodies("validation-00001-of-00002.parquet")][-1] == "bytes=5000-"


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_goes_away_leaves_what_came(run, publish, hub, home):
    publish("vqav2")
    hub.drop_after("validation-00001", 0, times=None)
    code, _, err = run("fetch", "vqav2", "--pin", "--partial")
    assert (code, "un the same command again" in err) == (6, True)
    hub.faults.clear()
    assert run("fetch", "vqav2", "--partial")[0] == 0
    assert len([r for r in hub.bodies("validation-00000-of-00002.parquet") if r.server == "store"]) == 1


def test_a_gated_repository(run, publish, monkeypatch):
    publish("imagenet", gated=True)
    code, _, err = run("fetch", "imagenet", "--pin", "--partial")
    assert code == 5
    for words in ("gated", "ccept its terms at", "hf auth login", "eyechart data import imagenet"):
        assert words in err
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run("fetch", "imagenet", "--pin", "--partial")[0] == 0


def test_a_missing_repository_and_a_renamed_one(run, publish, hub):
    code, _, err = run("fetch", "textvqa", "--pin")
    assert (code, "no such repository" in err) == (5, True)
    publish("textvqa")
    hub.rename(SPECS["textvqa"].repo, "lmms-lab/textvqa")
    code, _, err = run("fetch", "textvqa", "--pin")
    assert (code, "renamed" in err) == (5, True)
    assert file_requests(hub) == []


def test_a_hub_that_answers_about_another_commit(run, publish, hub):
    commit = publish("textvqa")
    hub.misreport(SPECS["textvqa"].repo, "1" * 40)
    code, _, err = run("fetch", "textvqa", "--revision", commit)
    assert (code, "another commit" in err) == (8, True)


def hub_commit(hub):
    return hub.repos["dataset", SPECS["textvqa"].repo].refs["main"]


def test_other_bytes_than_listed(run, publish, hub, home):
    publish("textvqa")
    path = "data/validation-00001-of-00002.parquet"
    size = hub.repos["dataset", SPECS["textvqa"].repo].tree(hub_commit(hub))[-1]["size"]
    hub.change_bytes(SPECS["textvqa"].repo, path, b"x" * size)
    code, _, err = run("fetch", "textvqa", "--pin", "--partial")
    assert (code, "bytes changed under the same name" in err) == (8, True)
    assert not (home / "data" / "main" / "textvqa").exists()


def test_a_truncated_file_on_the_hub_itself(run, publish, hub, home):
    folder = write_repo(home / "x", "textvqa")
    data = (folder / "data" / "validation-00001-of-00002.parquet").read_bytes()
    publish("textvqa", {"data/validation-00001-of-00002.parquet": data[:-50]})
    code, _, err = run("fetch", "textvqa", "--pin", "--partial")
    assert (code, "not a whole Parquet file" in err) == (5, True)


def test_a_renamed_column_on_the_hub(run, publish, hub, tmp_path):
    rows = [{**r, "quest": r.pop("question")} for r in given.text_rows()]
    schema = raw_schema("textvqa")
    schema = schema.set(schema.get_field_index("question"), schema.field("question").with_name("quest"))
    given.write_raw(tmp_path / "v.parquet", "textvqa", rows, schema)
    hub.add_repo(
        SPECS["textvqa"].repo, {"data/validation-00000-of-00001.parquet": tmp_path / "v.parquet"}, "dataset"
    )
    code, _, err = run("fetch", "textvqa", "--pin", "--partial")
    assert code == 5
    assert "column question" in err and "but quest" in err


def test_a_split_that_the_repository_lacks(run, publish, hub, tmp_path):
    hub.add_repo(SPECS["refcoco"].repo, {"data/testA-00000-of-00001.parquet": b"x"}, "dataset")
    code, _, err = run("fetch", "refcoco", "--pin")
    assert code == 5
    assert "no such split" in err and "testB" in err and "found testA" in err


def test_a_repository_without_clips(run, hub):
    hub.add_repo(SPECS["nextqa"].repo, {"MC/test-00000-of-00001.parquet": b"x"}, "dataset")
    code, _, err = run("fetch", "nextqa", "--pin")
    assert (code, "no clips" in err) == (5, True)


def test_mixed_splits_are_not_taken(run, publish, hub):
    publish("refcoco")
    code, _, err = run("fetch", "refcoco", "--pin", "--splits", "val")
    assert (code, "google" in err) == (5, True)
    assert hub.requests == []


def test_only_what_is_needed_is_asked_for(publish, hub):
    publish("refcoco")
    remote = look_up_dataset(SPECS["refcoco"], None, endpoint=hub.endpoint)
    names = {file.path.split("/")[1].split("-")[0] for file in wanted_files(SPECS["refcoco"], remote, ())}
    assert names == {"testA", "testB"}
    with pytest.raises(DatasetError, match="no such split"):
        wanted_files(SPECS["textvqa"], remote, ())


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_is_away(run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(talk, "FIRST_PATIENCE_S", 0.05)
    code, _, err = run("fetch", "textvqa", "--pin")
    assert (code, "does not answer" in err) == (6, True)


def test_offline(run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = run("fetch", "textvqa", "--pin")
    assert (code, "offline mode" in err) == (6, True)


def test_no_space_for_it(run, publish, monkeypatch, home):
    publish("textvqa")
    import harness.files

    monkeypatch.setattr(harness.files, "free_bytes", lambda _: 10)
    code, _, err = run("fetch", "textvqa", "--pin")
    assert (code, "not enough disk space" in err) == (6, True)


# --- pins and the list


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "TOML"),
        ('vqa = "1"', "unknown dataset"),
        ('vqav2 = "main"', "40 hex digits"),
        ("vqav2 = 1", "not a rev"),
    ],
)
def test_pins_that_are_none(home, text, words):
    (home / "pins.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        pins.pinned("textvqa", home)


def test_pins_are_text_that_can_be_reviewed(home):
    pins.write_pin("vqav2", "1" * 40, home)
    pins.write_pin("textvqa", "2" * 40, home)
    text = (home / "pins.toml").read_text()
    assert text.splitlines()[1:] == [f'textvqa = "{"2" * 40}"', f'vqav2 = "{"1" * 40}"']


def test_the_shipped_pins_can_be_read():
    assert set(pins.read_pins(pins.SHIPPED)) <= set(SPECS)


def test_a_pin_is_not_overwritten(run, publish, home):
    commit = publish("textvqa")
    pins.write_pin("textvqa", "1" * 40, home)
    code, _, err = run("fetch", "textvqa", "--revision", commit, "--pin")
    assert (code, "pinned to another" in err) == (2, True)


def test_the_list(run, publish, home):
    import json

    publish("textvqa")
    run("fetch", "textvqa", "--pin", "--partial")
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in SPECS)
    assert "UNPINNED" in out and "validation 5 (" in out
    told = {row["name"]: row for row in json.loads(run("list", "--json")[1])}
    assert told["textvqa"]["rows"] == {"validation": 5}
    assert told["vqav2"]["digest"] == ""
    (home / "data" / "main" / "textvqa" / "DATASET.json").write_text("{")
    assert "damaged" in run("list")[1]
