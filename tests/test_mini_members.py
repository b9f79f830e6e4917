"""The mini zoo: which encoders there are, that arms are comparable, and that manifests are up to date."""

from collections import Counter
from dataclasses import replace

import pytest

from harness.errors import SubmissionError
from harness.mini import members
from harness.mini.members import ARCHS, ARMS, DEMO_BASE, FLOORS, MEMBERS, WEIGHTS, Member
from harness.submission import identity_digest, read_submission, write_manifest


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A weights folder whose files are placeholders, so that nothing depends on trained weights."""
    for member in MEMBERS:
        folder = tmp_path / member.name
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"arch": "{member.arch}"}}')
        (folder / "model.safetensors").write_bytes(member.name.encode())
    monkeypatch.setattr(members, "WEIGHTS", tmp_path)
    return tmp_path


def test_the_zoo_is_four_arms_for_each_architecture_and_seed():
    arms = Counter((m.arch, m.seed) for m in MEMBERS)
    assert set(arms.values()) == {len(ARMS)} and {m.arch for m in MEMBERS} == set(ARCHS)
    assert ("resnet", 0) in arms and ("resnet", 1) in arms and ("pvt", 0) in arms
    assert len({m.name for m in MEMBERS}) == len(MEMBERS) == 12


def test_every_arm_has_an_objective_of_its_own():
    assert len(set(ARMS.values())) == len(ARMS) == 4
    assert {m.objective for m in MEMBERS} == set(ARMS.values())
    assert {m.arm: m.objective for m in MEMBERS} == ARMS


def test_arms_differ_in_the_objective_only(stand_in):
    submissions = dict(members.submissions())
    for arch, seed in {(m.arch, m.seed) for m in MEMBERS}:
        arms = [submissions[f"mini-{m.name}"] for m in MEMBERS if (m.arch, m.seed) == (arch, seed)]
        for sub in arms:
            stage = replace(sub.pretraining[0], objective=arms[0].pretraining[0].objective)
            source = replace(sub.source, files=arms[0].source.files)
            same = replace(sub, id=arms[0].id, title=arms[0].title, pretraining=(stage,), source=source)
            assert same == arms[0]
        # What is left after the objective is taken away: the trained weights, never the configuration.
        configs = {f.sha256 for s in arms for f in s.source.files if f.path.endswith("config.json")}
        weights = {f.sha256 for s in arms for f in s.source.files if f.path.endswith("model.safetensors")}
        assert (len(configs), len(weights)) == (1, 4)


def test_two_seeds_of_one_architecture_are_two_encoders(stand_in):
    submissions = dict(members.submissions())
    first, second = (submissions[f"mini-{Member('resnet', 'siglip', s).name}"] for s in (0, 1))
    assert first.title != second.title and identity_digest(first) != identity_digest(second)
    assert first.pretraining[0].data != second.pretraining[0].data


def test_ids_are_unique_valid_and_those_of_the_files(stand_in):
    pairs = list(members.submissions())
    assert len(pairs) == len(MEMBERS) + len(FLOORS) + 1
    assert len({name for name, _ in pairs}) == len({sub.id for _, sub in pairs}) == len(pairs)
    assert len({sub.title for _, sub in pairs}) == len(pairs)
    assert all(name == sub.id for name, sub in pairs if name != "demo")


def test_every_manifest_reads_back_as_itself(stand_in):
    pairs = dict(members.submissions())
    for path in members.write_manifests():
        written = pairs[path.stem]
        assert read_submission(path) == replace(written, identity_digest=identity_digest(written))
    assert {p.stem for p in stand_in.glob("*.toml")} == set(pairs)


def test_floors_stand_on_members_and_were_never_trained(stand_in):
    pairs = dict(members.submissions())
    for id_, (kind, base) in FLOORS.items():
        floor = pairs[id_]
        assert floor.floor == kind and floor.pretraining == () and floor.source.kind == "floor"
        assert floor.base == (f"mini-{base}" if base else "") and (floor.base in pairs or not base)
        names = {f.path.rsplit("/")[-1] for f in floor.source.files}
        needed = {"random-init": {"config.json"}, "shuffled-image": {"config.json", "model.safetensors"}}
        assert names == needed.get(kind, set())
    assert {kind for kind, _ in FLOORS.values()} == {
        "blind",
        "pixel-patches",
        "random-init",
        "shuffled-image",
    }


def test_the_demo_is_its_base_under_another_name(stand_in):
    pairs = dict(members.submissions())
    demo, base = pairs["demo"], pairs[f"mini-{DEMO_BASE}"]
    assert demo.id == "demo-encoder" and demo.source == base.source and demo.floor is None


def test_writing_the_manifests_twice_changes_nothing(stand_in):
    first = {p: p.read_bytes() for p in members.write_manifests()}
    assert {p: p.read_bytes() for p in members.write_manifests()} == first and len(first) == 19


def test_missing_weights_are_an_error_and_not_an_empty_manifest(stand_in):
    (stand_in / "pvt-words-s0" / "model.safetensors").unlink()
    with pytest.raises(SubmissionError, match=r"pvt-words-s0/model.safetensors: .*missing.*mini train"):
        members.write_manifests()


def test_manifests_on_disk_are_those_of_the_code(tmp_path):
    missing = [m.name for m in MEMBERS if not (WEIGHTS / m.name / "model.safetensors").is_file()]
    if missing:
        pytest.skip(f"no weights yet for {', '.join(missing)}")
    pairs = dict(members.submissions())
    assert {p.stem for p in WEIGHTS.glob("*.toml")} >= set(pairs)
    for name, submission in pairs.items():
        write_manifest(submission, tmp_path / f"{name}.toml")
        assert (WEIGHTS / f"{name}.toml").read_bytes() == (tmp_path / f"{name}.toml").read_bytes(), name
        assert read_submission(WEIGHTS / f"{name}.toml").identity_digest == identity_digest(submission)
