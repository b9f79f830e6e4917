"""Bundles: what goes in comes out, and nothing that was changed on the way does."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from harness import bundle as bundles
from harness.bundle import (
    add_scores,
    check_place,
    count_scores,
    find_bundles,
    find_uncommitted,
    read_bundle,
    run_key,
    write_bundle,
)
from harness.digest import digest_bytes
from harness.errors import IntegrityError, ResourceError
from harness.files import write_json, write_parquet
from harness.records import (
    Answer,
    Counts,
    InputSpec,
    PretrainStage,
    Run,
    Score,
    Source,
    Submission,
    WeightFile,
)

HEX = "0123456789abcdef" * 4
RECEIPT = {"weights_before": HEX, "weights_after": HEX}
ENVIRONMENT = {"device": "cpu", "stages_s": {"adapter": 12.5}}


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests ask what is written, not whether a power cut spares it; syncing costs seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def samples(n: int = 6) -> tuple[list[Answer], list[Score]]:
    answers = [
        Answer(sample_id=str(i), prompt_hash="ab" * 8, answer=f"süß {i}", status="scored") for i in range(n)
    ]
    scores = [
        Score(sample_id=str(i), cluster=f"img-{i // 2}", score=i % 3 / 3, status="scored") for i in range(n)
    ]
    return answers, scores


def make_run(scores: list[Score], **changes: object) -> Run:
    submission = Submission(
        id="tiny-vit",
        title="Tiny ViT",
        authors=("A. Nother",),
        links=(),
        license="Apache-2.0",
        contamination="none known",
        source=Source(
            kind="local",
            name="vit",
            revision="local",
            files=(WeightFile(path="model.safetensors", sha256=HEX),),
        ),
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=(PretrainStage(objective="sigmoid-contrastive", data="world", images_seen=100),),
        identity_digest=HEX,
    )
    run = Run(
        submission=submission,
        protocol="mini",
        protocol_version=1,
        suite="mini",
        recipes={"feature": HEX, "adapter": HEX},
        task="eyechart_mini_vqa",
        task_digest=HEX,
        dataset_digest=HEX,
        split="validation",
        metric="exact_match",
        chance=0.0,
        seed=0,
        engine="hf",
        dtype="float32",
        llm_revision=HEX,
        counts=count_scores(scores),
    )
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]


def write(root: Path, **changes: object) -> Path:
    answers, scores = samples()
    run = make_run(scores, **changes)
    return write_bundle(root, run, answers, RECEIPT, ENVIRONMENT, scores=scores, scorer_digest=HEX)


def reseal(path: Path) -> None:
    """What a forger, or a buggy writer, would do: fresh hashes over whatever lies there."""
    (path / bundles.MANIFEST).unlink()
    (path / bundles.COMMIT).unlink()
    bundles._seal(path)


def test_round_trip(tmp_path: Path) -> None:
    answers, scores = samples(12)
    run = make_run(scores)
    path = write_bundle(
        tmp_path, run, answers[::-1], RECEIPT, ENVIRONMENT, scores=scores[::-1], scorer_digest=HEX
    )
    got = read_bundle(path)
    assert path == tmp_path / "mini" / "tiny-vit" / run_key(run)[:16]
    assert (got.run, got.receipt, got.environment) == (run, RECEIPT, ENVIRONMENT)
    assert sorted(got.answers, key=lambda a: int(a.sample_id)) == answers
    assert sorted(got.scores, key=lambda s: int(s.sample_id)) == scores
    assert got.scorer_digest == HEX[:12]
    assert got.digest == digest_bytes((path / "MANIFEST.sha256").read_bytes())
    check_place(got)
    assert find_bundles(tmp_path) == [path] and find_uncommitted(tmp_path) == []
    assert not list(tmp_path.rglob(".tmp-*"))


def test_the_manifest_is_what_sha256sum_checks(tmp_path: Path) -> None:
    path = write(tmp_path)
    lines = (path / "MANIFEST.sha256").read_text().splitlines()
    names = [line.split("  ")[1] for line in lines]
    assert names == ["answers.parquet", "receipt.json", "run.json", f"scores-{HEX[:12]}.parquet"]
    assert lines[0].split("  ")[0] == digest_bytes((path / "answers.parquet").read_bytes())
    assert re.fullmatch(r"[0-9a-f]{64}\n", (path / "COMMIT").read_text())


def test_same_contents_are_left_alone_and_others_stand_beside(tmp_path: Path) -> None:
    first = write(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in first.iterdir()}
    assert write(tmp_path) == first
    assert {p.name: p.stat().st_mtime_ns for p in first.iterdir()} == before

    def other(text: str) -> Path:
        answers, scores = samples()
        answers[0] = dataclasses.replace(answers[0], answer=text)
        return write_bundle(
            tmp_path, make_run(scores), answers, RECEIPT, {}, scores=scores, scorer_digest=HEX
        )

    second, third = other("b"), other("c")
    assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
    assert other("b") == second and find_bundles(tmp_path) == [first, second, third]
    check_place(read_bundle(third))


def test_a_damaged_bundle_is_not_taken_for_its_equal(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "receipt.json").write_text("{}")
    with pytest.raises(IntegrityError, match="receipt"):
        write(tmp_path)


def test_the_run_key_hashes_inputs_only() -> None:
    run = make_run(samples()[1])
    submission = run.submission
    outside = {"counts": Counts(num_expected=1, num_scored=1, num_unparsed=0, num_error=0, num_missing=0)}
    outside |= {"tier": "self-reported", "chance": 0.5, "schema_version": 9}
    outside["submission"] = dataclasses.replace(submission, title="Other", authors=(), pretraining=())
    for name, value in outside.items():
        assert run_key(dataclasses.replace(run, **{name: value})) == run_key(run), name
    assert {f.name for f in dataclasses.fields(Run)} == set(bundles.KEY_FIELDS) | set(outside)
    keys = {run_key(dataclasses.replace(run, **{name: "another"})) for name in bundles.KEY_FIELDS}
    for change in ({"identity_digest": "f" * 64}, {"floor": "blind"}, {"base": "other"}):
        keys.add(run_key(dataclasses.replace(run, submission=dataclasses.replace(submission, **change))))
    assert len(keys - {run_key(run)}) == len(bundles.KEY_FIELDS) + 3


def test_flipped_bits_are_found_all_over(tmp_path: Path) -> None:
    path = write(tmp_path)
    tried = 0
    for file in sorted(path.iterdir()):
        if file.name == "environment.json":
            continue
        whole = file.read_bytes()
        # An odd step meets every position inside a byte; the last byte is always tried.
        step = len(whole) * 8 // 200 | 1
        for position in [*range(0, len(whole) * 8, step), len(whole) * 8 - 1]:
            flipped = bytearray(whole)
            flipped[position // 8] ^= 1 << position % 8
            file.write_bytes(flipped)
            with pytest.raises(IntegrityError) as caught:
                read_bundle(path)
            assert file.name in str(caught.value)
            assert "\n" not in str(caught.value)
            assert caught.value.exit_code == 8
            tried += 1
        file.write_bytes(whole)
    assert tried > 1000
    read_bundle(path)


@pytest.mark.parametrize("name", ["run.json", "answers.parquet", "receipt.json", "COMMIT", "MANIFEST.sha256"])
def test_missing_and_empty_files_are_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path)
    (path / name).write_bytes(b"")
    with pytest.raises(IntegrityError, match=name):
        read_bundle(path)
    (path / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        read_bundle(path)


@pytest.mark.parametrize("name", ["notes.txt", f"scores-{'9' * 12}.parquet", ".hidden", "folder/x"])
def test_extra_files_are_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=re.escape(name.split("/", maxsplit=1)[0])):
        read_bundle(path)


def test_links_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "results")
    os.rename(path / "run.json", tmp_path / "elsewhere")
    (path / "run.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="plain file"):
        read_bundle(path)


def test_two_files_of_scores_are_refused_even_resealed(tmp_path: Path) -> None:
    path = write(tmp_path)
    shutil.copy(path / f"scores-{HEX[:12]}.parquet", path / f"scores-{'9' * 12}.parquet")
    reseal(path)
    with pytest.raises(IntegrityError, match="one of each"):
        read_bundle(path)


def test_the_environment_is_outside_the_hashes(tmp_path: Path) -> None:
    path = write(tmp_path)
    digest = read_bundle(path).digest
    write_json(path / "environment.json", {"device": "gpu"})
    assert read_bundle(path).digest == digest
    (path / "environment.json").unlink()
    assert read_bundle(path).environment == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(colour="red"), "colour"),
        (lambda d: d.pop("tier"), "tier"),
        (lambda d: d["submission"].pop("base"), "submission.base"),
        (lambda d: d["submission"]["source"].update(kind="pickle"), "submission.source.kind"),
        (lambda d: d["submission"]["source"]["files"][0].update(sha256=1), r"files\[0\].sha256"),
        (lambda d: d["submission"]["input"]["mean"].pop(), "submission.input.mean"),
        (lambda d: d["submission"].update(floor="dark"), "submission.floor"),
        (lambda d: d.update(seed=True), "seed"),
        (lambda d: d.update(recipes=[]), "recipes"),
        (lambda d: d["recipes"].update(probe=1), "recipes.probe"),
        (lambda d: d.update(schema_version=2), "schema version"),
        (lambda d: d["counts"].update(num_missing=1), "add up"),
        (lambda d: d["counts"].update(num_scored=5, num_error=1), "counts"),
    ],
)
def test_resealed_changes_of_the_record_are_found(tmp_path: Path, change: object, message: str) -> None:
    path = write(tmp_path)
    data = json.loads((path / "run.json").read_text())
    change(data)  # type: ignore[operator]
    write_json(path / "run.json", data)
    reseal(path)
    with pytest.raises(IntegrityError, match=message) as caught:
        read_bundle(path)
    assert "run.json" in str(caught.value)


def test_reordered_samples_and_other_columns_are_found(tmp_path: Path) -> None:
    path = write(tmp_path)
    table = read_bundle(path).answer_table
    for damaged, message in [
        (table.take([1, 0, 2, 3, 4, 5]), "sorted"),
        (table.take([0, 0, 2, 3, 4, 5]), "duplicate"),
        (table.slice(1), "samples"),
        (table.drop_columns(["answer"]), "columns"),
        (table.set_column(2, "answer", pa.nulls(6, pa.string())), "null"),
    ]:
        write_parquet(path / "answers.parquet", damaged)
        reseal(path)
        with pytest.raises(IntegrityError, match=message) as caught:
            read_bundle(path)
        assert ".parquet" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": "0"}, "duplicate sample id"),
        ({"sample_id": "99"}, "not the samples"),
        ({"score": 1.5}, "between 0 and 1"),
        ({"score": float("nan")}, "between 0 and 1"),
        ({"score": None}, "between 0 and 1"),
        ({"score": 0.5, "status": "unparsed"}, "unparsed answer with a score"),
        ({"score": 0.0, "status": "error"}, "beside the status"),
        ({"score": 0.0, "status": "fine"}, "unknown status"),
    ],
)
def test_scores_that_do_not_fit_are_not_written(tmp_path: Path, change: dict, message: str) -> None:
    answers, scores = samples()
    scores[3] = dataclasses.replace(scores[3], **change)
    with pytest.raises(IntegrityError, match=message):
        write_bundle(tmp_path, make_run(scores), answers, RECEIPT, {}, scores=scores, scorer_digest=HEX)
    assert find_bundles(tmp_path) == [] and not list(tmp_path.rglob("*.json"))


def test_an_error_cannot_become_a_score(tmp_path: Path) -> None:
    answers, scores = samples()
    answers[2] = dataclasses.replace(answers[2], status="error")
    with pytest.raises(IntegrityError, match="not that of the answer"):
        write_bundle(tmp_path, make_run(scores), answers, {}, {}, scores=scores, scorer_digest=HEX)
    scores[2] = dataclasses.replace(scores[2], status="error", score=None)
    with pytest.raises(IntegrityError, match="counts"):
        write_bundle(tmp_path, make_run(samples()[1]), answers, {}, {}, scores=scores, scorer_digest=HEX)
    path = write_bundle(tmp_path, make_run(scores), answers, {}, {}, scores=scores, scorer_digest=HEX)
    assert read_bundle(path).run.counts.num_error == 1


def test_scores_may_come_later(tmp_path: Path) -> None:
    answers, scores = samples()
    waiting = write_bundle(tmp_path, make_run(scores), answers, RECEIPT, ENVIRONMENT)
    assert find_bundles(tmp_path) == [] and find_uncommitted(tmp_path) == [waiting]
    with pytest.raises(IntegrityError, match="COMMIT"):
        read_bundle(waiting)
    done = add_scores(waiting, scores, HEX)
    at_once = write(tmp_path / "other")
    assert done == waiting
    assert read_bundle(done).digest == read_bundle(at_once).digest
    assert (done / "COMMIT").read_bytes() == (at_once / "COMMIT").read_bytes()


def test_rescoring_leaves_the_first_bundle_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert add_scores(path, samples()[1], HEX) == path
    scores = samples()[1]
    scores[0] = dataclasses.replace(scores[0], status="unparsed", score=0.0)
    again = add_scores(path, scores, "f" * 64)
    assert again.name == f"{path.name}-2"
    assert read_bundle(again).run.counts.num_unparsed == 1
    assert read_bundle(again).answers == read_bundle(path).answers


def test_no_disk_space_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise ResourceError("cannot write", found="0 bytes free")

    for name in ("write_json", "write_parquet", "write_atomic"):
        with monkeypatch.context() as patch:
            patch.setattr(bundles, name, full)
            with pytest.raises(ResourceError):
                write(tmp_path)
        assert find_bundles(tmp_path) == find_uncommitted(tmp_path) == []
        assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_bundle_in_another_place_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    for name in (path.name + "x", path.name + "-0", "0" * 16):
        moved = path.with_name(name)
        os.rename(path, moved)
        with pytest.raises(IntegrityError, match="wrong folder"):
            check_place(read_bundle(moved))
        os.rename(moved, path)


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    for name in ("..", "../x", "a/b", ""):
        with pytest.raises(IntegrityError, match="folder name"):
            write(tmp_path, protocol=name)
