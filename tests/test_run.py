"""A whole run in miniature: repeatable to the byte, resumable, frozen, accounted for."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_run

from harness import answers as answers_module, run as run_module, stages
from harness.adapter import train as train_module
from harness.bundle import find_bundles, read_bundle, write_bundle
from harness.digest import digest_file
from harness.errors import DatasetError, IntegrityError
from harness.features import FeatureSet
from harness.plan import make_plan

carry_out, contents = tiny_run.carry_out, tiny_run.contents

UNITS = 18
ASKED = ("vqa", "signs", "rec", "video")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = tiny_run.shared(tmp_path_factory)
        tiny_run.install(patch, made)
        yield made


@pytest.fixture(scope="module")
def first(tiny):
    """An uninterrupted run in batches of 64, scored by lmms-eval in its own process."""
    return tiny_run.uninterrupted(tiny)


@pytest.fixture
def known(tiny, monkeypatch):
    """Scores of answers that the first run gave too, without starting lmms-eval again."""
    monkeypatch.setattr("harness.unit_scores.score_in_process", tiny_run.known_scores(tiny))


@pytest.fixture
def new_home(tiny, request):
    return tiny.home(re.sub(r"\W+", "-", request.node.name))


def plan_in(tiny, home, manifest=None):
    return make_plan(manifest or tiny.manifest, str(tiny.protocol), home, [home.results], tiny.tasks)


def bundles_of(home):
    return {(b.run.task, b.run.seed): b for b in map(read_bundle, find_bundles(home.results))}


def test_every_unit_has_a_bundle_that_adds_up(tiny, first):
    bundles = bundles_of(first)
    assert len(bundles) == UNITS
    for (task, _), bundle in bundles.items():
        counts = bundle.run.counts
        assert counts.balanced()
        assert counts.num_error == counts.num_missing == 0
        assert counts.num_expected == len(bundle.answers) == len(bundle.scores)
        assert counts.num_expected == plan_in(tiny, first).tasks[task].num_expected
        weights = bundle.receipt["encoder_weights"]
        assert weights["before"] == weights["after"]
        assert bundle.receipt["frozen"] is True


def test_the_real_scorer_judged_the_answers(first):
    """Choices are letters and right as often as lmms-eval says; other tasks cannot be scored blindly."""
    bundles = bundles_of(first)
    for seed in range(3):
        video = bundles["eyechart_mini_video", seed]
        assert {a.answer for a in video.answers} <= set("ABCDE")
        assert video.run.counts.num_scored == video.run.counts.num_expected
        assert {s.score for s in video.scores} == {0.0, 1.0}
    empty = {
        (s.status, s.score)
        for b in bundles.values()
        for a, s in zip(b.answers, b.scores, strict=True)
        if a.answer == ""
    }
    assert empty == {("unparsed", 0.0)}


def test_seeds_differ(first):
    bundles = bundles_of(first)
    for task in ASKED[:3]:
        runs = [bundles[f"eyechart_mini_{task}", seed] for seed in range(3)]
        for a, b in itertools.combinations(runs, 2):
            assert a.receipt["adapter"]["losses"] != b.receipt["adapter"]["losses"]
            assert [x.answer for x in a.answers] != [x.answer for x in b.answers]


def test_another_home_and_batches_of_one_give_the_same_bytes(tiny, first, new_home):
    carry_out(tiny, new_home, batch=1)
    assert contents(new_home.results) == contents(first.results)


def test_a_second_run_does_nothing(tiny, first):
    before = {p: p.stat().st_mtime_ns for p in first.root.rglob("*")}
    assert plan_in(tiny, first).pending == []
    report = carry_out(tiny, first, tiny_run.InlineExecutor(interrupt_at=0))
    assert len(report.bundles) == UNITS
    assert {p: p.stat().st_mtime_ns for p in first.root.rglob("*")} == before


# 1-18 extraction, then for each seed six steps and four tasks, 70-77 probes.
@pytest.mark.parametrize("moment", [1, 22, 44, 71])
def test_interrupted_and_resumed_is_the_uninterrupted_run(tiny, first, known, new_home, moment):
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, new_home, tiny_run.InlineExecutor(interrupt_at=moment))
    assert not (new_home.results.exists() and find_bundles(new_home.results))
    carry_out(tiny, new_home)
    assert contents(new_home.results) == contents(first.results)


def share_cache(home, other):
    """Start where another home's stages ended."""
    shutil.copytree(other.root / "cache", home.root / "cache")


def test_interrupted_while_bundles_are_written(tiny, first, known, new_home, monkeypatch):
    share_cache(new_home, first)
    written = itertools.count()

    def stop_at_the_sixth(*arguments, **named):
        if next(written) == 5:
            raise KeyboardInterrupt
        return write_bundle(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("harness.unit_scores.write_bundle", stop_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            carry_out(tiny, new_home)
    assert len(find_bundles(new_home.results)) == 5
    assert len(plan_in(tiny, new_home).pending) == UNITS - 5
    carry_out(tiny, new_home)
    assert contents(new_home.results) == contents(first.results)


def test_interrupted_while_scoring(tiny, first, known, new_home, monkeypatch):
    share_cache(new_home, first)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("harness.unit_scores.score_in_process", stop)
        with pytest.raises(KeyboardInterrupt):
            carry_out(tiny, new_home)
    assert not new_home.results.exists()
    carry_out(tiny, new_home)
    assert contents(new_home.results) == contents(first.results)


def test_training_resumes_in_the_middle(tiny, first, new_home, monkeypatch):
    """A state saved after two of six steps, taken up in step five, ends in the same adapter."""
    monkeypatch.setattr(train_module, "SAVE_EVERY", 2)
    plan = plan_in(tiny, new_home)
    known = {"subject": plan.subject, "tasks": plan.tasks, "seed": 0}

    def stop(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.adapter_job(**known, progress=stop)
    assert len(list(new_home.unfinished.glob("*.safetensors"))) == 1
    seen = []
    resumed = stages.adapter_job(**known, progress=lambda done, total: seen.append(done))
    assert seen[0] == 5
    assert not list(new_home.unfinished.glob("*.safetensors"))
    whole = tiny.home("whole-training")
    plan = plan_in(tiny, whole)
    same = stages.adapter_job(subject=plan.subject, tasks=plan.tasks, seed=0, progress=lambda *_: None)
    assert resumed["losses"] == same["losses"]
    digests = [
        json.loads(next((home.adapters).rglob("*.json")).read_text())["sha256"] for home in (new_home, whole)
    ]
    assert digests[0] == digests[1]


def test_a_damaged_feature_cache_is_one_error_and_then_recomputed(tiny, first, known, new_home):
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, new_home, tiny_run.InlineExecutor(interrupt_at=18))
    entry = min(new_home.features.rglob("*.safetensors"))
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        carry_out(tiny, new_home)
    assert caught.value.exit_code == 8
    assert entry.name in caught.value.line()
    assert "run the same command again" in caught.value.line().lower()
    carry_out(tiny, new_home)
    assert contents(new_home.results) == contents(first.results)


def test_an_encoder_that_moves_is_refused(tiny, new_home, monkeypatch):
    """Also through the whole run: no bundle may come of it."""
    opened = stages.open_subject(plan_in(tiny, new_home).subject)
    encode = opened.encode

    def encode_and_learn(pixels):
        next(opened.module.parameters()).data.add_(1e-3)
        return encode(pixels)

    monkeypatch.setattr(opened, "encode", encode_and_learn)
    monkeypatch.setattr(stages, "open_subject", lambda subject: opened)
    with pytest.raises(IntegrityError, match="changed") as caught:
        carry_out(tiny, new_home)
    assert caught.value.exit_code == 8
    assert not new_home.results.exists()


def test_an_encoder_that_moves_between_stages_is_refused(tiny, first, known, new_home, monkeypatch):
    share_cache(new_home, first)
    extract_job = stages.extract_job

    def other_weights_last(**arguments):
        made = extract_job(**arguments)
        if arguments["name"] == "eyechart_mini_video:test":
            made |= {"weights_before": "0" * 64, "weights_after": "0" * 64}
        return made

    monkeypatch.setattr("harness.run.extract_job", other_weights_last)
    with pytest.raises(IntegrityError, match="not frozen") as caught:
        carry_out(tiny, new_home)
    assert caught.value.exit_code == 8
    assert not new_home.results.exists()


@pytest.mark.parametrize("kind", ["seed", "probe"])
def test_weights_that_change_after_extraction_are_refused(tiny, first, known, new_home, monkeypatch, kind):
    """A checkpoint replaced on disk while adapters are trained and probes are fitted."""
    share_cache(new_home, first)
    job = getattr(run_module, f"{kind}_job")

    def with_other_weights(**arguments):
        return {**job(**arguments), "encoder_weights": "0" * 64}

    monkeypatch.setattr(run_module, f"{kind}_job", with_other_weights)
    with pytest.raises(IntegrityError, match="not frozen") as caught:
        carry_out(tiny, new_home)
    assert caught.value.exit_code == 8
    assert not new_home.results.exists()


def test_jobs_say_which_weights_they_ended_with(tiny, first):
    plan = plan_in(tiny, first)
    known = {"subject": plan.subject, "tasks": plan.tasks, "progress": lambda *_: None}
    weights = stages.open_subject(plan.subject).weight_digest()
    assert answers_module.seed_job(**known, seed=0, batch=64)["encoder_weights"] == weights
    assert answers_module.probe_job(**known, name="eyechart_mini_probe")["encoder_weights"] == weights


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "other columns"])
def test_damaged_answers_are_one_error_and_then_given_again(tiny, first, known, new_home, damage):
    shutil.copytree(first.root / "cache", new_home.root / "cache")
    kept = bundles_of(first)["eyechart_mini_vqa", 0].answers
    path = next(p for p in new_home.answers.glob("*.parquet") if answers_module.read_answers(p) == kept)
    data = path.read_bytes()
    if damage == "other columns":
        table = pq.read_table(path)
        pq.write_table(table.rename_columns(["id", *table.column_names[1:]]), path)
    else:
        middle = data.index(kept[0].prompt_hash.encode()) if kept[0].prompt_hash.encode() in data else 60
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:-20] if damage == "cut short" else flipped)
    with pytest.raises(IntegrityError) as caught:
        carry_out(tiny, new_home)
    assert path.name in caught.value.line()
    assert "run the same command again" in caught.value.line().lower()
    assert path.with_name(path.name + ".corrupt").exists()
    carry_out(tiny, new_home)
    assert contents(new_home.results) == contents(first.results)


def test_an_unfrozen_tensor_is_refused(tiny, new_home, monkeypatch):
    opened = stages.open_subject(plan_in(tiny, new_home).subject)
    next(opened.module.parameters()).requires_grad_(True)
    monkeypatch.setattr(stages, "open_subject", lambda subject: opened)
    with pytest.raises(IntegrityError, match="not frozen: found 1 trainable") as caught:
        carry_out(tiny, new_home)
    assert caught.value.exit_code == 8
    assert not new_home.results.exists()


def test_a_corrupt_image_behind_sound_hashes_is_a_dataset_error(tiny, new_home):
    """A plan cannot decode every image; the run must, and names the row."""
    data = new_home.root / "data"
    data.unlink()
    shutil.copytree(tiny.root / "data", data)
    path = data / "mini" / "rec" / "test.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows[:3]:
        row["image"]["bytes"] = row["image"]["bytes"][:200]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    note = json.loads((path.parent / "DATASET.json").read_text())
    note["files"][path.name] = digest_file(path)
    (path.parent / "DATASET.json").write_text(json.dumps(note))
    with pytest.raises(DatasetError, match="image") as caught:
        carry_out(tiny, new_home)
    assert caught.value.exit_code == 5
    assert "test.parquet" in caught.value.line()
    assert not new_home.results.exists()


# Floors


def shuffled_manifest(tiny, folder):
    """The shuffled-image floor of the tiny encoder, beside its files."""
    shutil.copytree(tiny.root / "encoder", folder)
    path = tiny_run.write_manifest(folder, "floor-shuffled-tiny")
    text = path.read_text().replace('kind = "local"', 'kind = "floor"')
    text = text.replace('name = "resnet"', 'name = "shuffled-image"')
    text = text[: text.index("[[pretraining]]")]
    path.write_text(text + '[floor]\nkind = "shuffled-image"\nbase = "tiny-encoder"\n')
    return path


def test_the_shuffled_floor_shares_the_adapter_and_moves_every_image(
    tiny, first, new_home, tmp_path, monkeypatch
):
    share_cache(new_home, first)
    plan = plan_in(tiny, new_home, shuffled_manifest(tiny, tmp_path / "floor"))
    assert plan.subject.submission.floor == "shuffled-image"
    monkeypatch.setattr(stages, "train_adapter", None)  # a second training would fail
    shown = []
    answer_with = answers_module.answer_with

    def watch(engine, adapter, features, task, split, protocol, order, *rest):
        shown.append((task.name, order, len(split.media.keys)))
        return answer_with(engine, adapter, features, task, split, protocol, order, *rest)

    monkeypatch.setattr(answers_module, "answer_with", watch)
    arguments = {"subject": plan.subject, "tasks": plan.tasks, "seed": 0, "batch": 64}
    made = answers_module.seed_job(**arguments, progress=lambda *_: None)
    assert made["found"]
    own = bundles_of(first)["eyechart_mini_rec", 0].receipt["adapter"]
    assert (made["key"], made["losses"]) == (own["key"], own["losses"])
    assert {name for name, _, _ in shown} == {f"eyechart_mini_{t}" for t in ASKED}
    for name, order, count in shown:
        frames = plan.subject.protocol.video.frames if name.endswith("video") else 1
        assert sorted(order) == list(range(count // frames))
        assert not np.any(order == np.arange(len(order)))
    floor = {name: answers_module.read_answers(Path(path)) for name, path in made["answers"].items()}
    kept = {name: bundles_of(first)[name, 0].answers for name in floor}
    assert all([a.sample_id for a in floor[n]] == [a.sample_id for a in kept[n]] for n in floor)
    assert any([a.answer for a in floor[n]] != [a.answer for a in kept[n]] for n in floor)


@pytest.mark.parametrize("kind", ["still", "clip"])
def test_no_question_of_the_shuffled_floor_sees_its_own_image(tiny, first, kind):
    """Tokens that are their image's number: what reaches the adapter is looked at."""
    import torch

    plan = plan_in(tiny, first)
    task = plan.tasks["eyechart_mini_vqa" if kind == "still" else "eyechart_mini_video"]
    frames = plan.subject.protocol.video.frames
    split = answers_module.open_split(task, plan.subject.data, frames)
    per = frames if kind == "clip" else 1
    keys = split.media.keys
    numbers = np.repeat(np.arange(len(keys) // per), per).astype(np.float32)
    tokens = np.tile(numbers[:, None, None], (1, 2, 3))
    features = FeatureSet(tokens, tokens[:, 0], keys, (1, 2), under_budget=False)
    seen = {}

    class Engine:
        def answer(self, requests, visual, progress):
            for request, sample in zip(requests, split.samples, strict=True):
                seen[sample.sample_id] = (request.media, visual([request.media]))
            return ["" for _ in requests]

    order = answers_module.shuffled_rows(len(keys) // per, task.name, 0)
    arguments = (Engine(), lambda x: x, features, task, split, plan.subject.protocol)
    for moved in (order, None):
        answers_module.answer_with(*arguments, moved)
        assert len(seen) == task.num_expected
        for image, given in seen.values():
            assert len(torch.unique(given)) == 1
            assert (int(given.flatten()[0]) != image) == (moved is not None)


def test_shuffled_rows_have_no_fixed_point():
    for count, seed in itertools.product((2, 3, 4, 10, 501), range(5)):
        rows = answers_module.shuffled_rows(count, "task", seed)
        assert sorted(rows) == list(range(count))
        assert not np.any(rows == np.arange(count))


def test_one_image_alone_cannot_be_shuffled():
    with pytest.raises(DatasetError, match="shuffle"):
        answers_module.shuffled_rows(1, "task", 0)
