"""A whole run in miniature: repeatable to the byte, resumable, frozen, accounted for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import answers as answers_module, stages
from harness.bundle import find_bundles, read_bundle
from harness.errors import IntegrityError
from harness.plan import make_plan
from harness.run import run_plan

_spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
tiny_run = importlib.util.module_from_spec(_spec)
sys.modules["tiny_run"] = tiny_run
_spec.loader.exec_module(tiny_run)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    made = tiny_run.build(tmp_path_factory.mktemp("tiny"), patch)
    patch.setitem(stages.load_llm.__globals__["LOCAL_LLMS"], "mini-llm", made.llm)
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def offline_scores():
    """Scores without lmms-eval: these tests are about bytes and order; one test below uses the real one."""

    def fake(jobs, *, tasks_dir=None, progress=None):
        from harness.data import open_split
        from harness.files import write_parquet
        from harness.records import Score
        from harness.sample_tables import table_of_scores
        from harness.task import read_task

        for job in jobs:
            task = read_task(job.task, tasks_dir)
            split = open_split(task, job.dataset.parents[1], 4)
            rows = [
                Score(sample_id=s.sample_id, cluster=s.cluster, score=0.0, status="scored")
                for s in split.samples
            ]
            table = table_of_scores(rows).replace_schema_metadata({"scorer_digest": "0" * 64})
            write_parquet(job.out, table)

    patch = pytest.MonkeyPatch()
    patch.setattr("harness.run.score_in_process", fake)
    yield
    patch.undo()


def plan_in(tiny, home, manifest=None):
    return make_plan(manifest or tiny.manifest, str(tiny.protocol), home, [home.results], tiny.tasks)


def carry_out(tiny, home, executor=None, manifest=None, batch=128):
    plan = plan_in(tiny, home, manifest)
    return run_plan(plan, home.results, executor or tiny_run.InlineExecutor(), tiny_run.Quiet, batch)


def contents(root):
    """Everything under a bundle's hash, by task and seed."""
    found = {}
    for path in find_bundles(root):
        bundle = read_bundle(path)
        found[bundle.run.task, bundle.run.seed] = (
            bundle.digest,
            (path / "answers.parquet").read_bytes(),
        )
    return found


@pytest.fixture(scope="module")
def first(tiny, offline_scores):
    """An uninterrupted run."""
    home = tiny.home("first")
    carry_out(tiny, home)
    return home


def test_every_unit_has_a_bundle_that_adds_up(first):
    bundles = [read_bundle(path) for path in find_bundles(first.results)]
    assert len(bundles) == 18
    assert all(b.run.counts.balanced() for b in bundles)
    assert {b.run.seed for b in bundles} == {0, 1, 2}
    assert all(
        b.receipt["encoder_weights"]["before"] == b.receipt["encoder_weights"]["after"] for b in bundles
    )


def test_seeds_differ_and_are_repeatable(tiny, first, offline_scores):
    losses = {
        read_bundle(p).run.seed: read_bundle(p).receipt["adapter"]["losses"]
        for p in find_bundles(first.results)
        if read_bundle(p).run.task.endswith("vqa")
    }
    assert losses[0] != losses[1] != losses[2]
    again = tiny.home("again")
    carry_out(tiny, again, batch=1)
    assert contents(again.results) == contents(first.results)


def test_a_second_run_does_nothing(tiny, first, offline_scores):
    before = contents(first.results)
    assert plan_in(tiny, first).pending == []
    carry_out(tiny, first, tiny_run.InlineExecutor(interrupt_at=0))
    assert contents(first.results) == before


@pytest.mark.parametrize("moment", [1, 9, 14, 40, 60])
def test_interrupted_and_resumed_is_the_uninterrupted_run(tiny, first, offline_scores, moment):
    home = tiny.home(f"cut-{moment}")
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, home, tiny_run.InlineExecutor(interrupt_at=moment))
    assert not (home.results.exists() and find_bundles(home.results))
    carry_out(tiny, home)
    assert contents(home.results) == contents(first.results)


def test_a_damaged_feature_cache_is_one_error_and_then_recomputed(tiny, first, offline_scores):
    home = tiny.home("damaged")
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, home, tiny_run.InlineExecutor(interrupt_at=14))
    entry = min(home.features.rglob("*.safetensors"))
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    with pytest.raises(IntegrityError) as caught:
        carry_out(tiny, home)
    assert caught.value.exit_code == 8
    assert entry.name in caught.value.line()
    carry_out(tiny, home)
    assert contents(home.results) == contents(first.results)


def test_an_encoder_that_moves_is_refused(tiny, monkeypatch):
    plan = plan_in(tiny, tiny.home("moving"))
    opened = stages.open_subject(plan.subject)
    encode = opened.encode

    def encode_and_learn(pixels):
        next(opened.module.parameters()).data.add_(1e-3)
        return encode(pixels)

    monkeypatch.setattr(opened, "encode", encode_and_learn)
    with pytest.raises(IntegrityError, match="changed"):
        stages.extract_job(
            subject=plan.subject,
            tasks=plan.tasks,
            name="eyechart_mini_rec:test",
            encoder=opened,
            progress=lambda done, total: None,
        )


def test_an_unfrozen_tensor_is_refused(tiny):
    plan = plan_in(tiny, tiny.home("unfrozen"))
    opened = stages.open_subject(plan.subject)
    next(opened.module.parameters()).requires_grad_(True)
    from harness.errors import SubmissionError

    with pytest.raises(SubmissionError):
        opened.weight_digest()


def test_shuffled_rows_have_no_fixed_point():
    for count in (2, 3, 10, 501):
        rows = answers_module.shuffled_rows(count, "task", 0)
        assert sorted(rows) == list(range(count))
        assert not np.any(rows == np.arange(count))


def test_real_scorer_end_to_end(tiny, first):
    home = tiny.home("scored")
    (home.root / "cache").symlink_to(first.root / "cache")
    carry_out(tiny, home)
    bundles = {(b.run.task, b.run.seed): b for b in map(read_bundle, find_bundles(home.results))}
    assert len(bundles) == 18
    video = bundles["eyechart_mini_video", 0]
    assert {a.answer for a in video.answers} <= set("ABCDE")
    assert video.run.counts.num_scored == 12
    plain = contents(first.results)
    assert {k: v[1] for k, v in contents(home.results).items()} == {k: v[1] for k, v in plain.items()}


# Sums round differently on other CPUs and the adapter carries that on; a change of recipe, data or seed
# moves these numbers by far more.
TOLERANCE = 0.05


@pytest.mark.golden
def test_golden_run(first, golden, request):
    """Losses and probe accuracies of the miniature run: a change must not move them silently."""
    bundles = {(b.run.task, b.run.seed): b for b in map(read_bundle, find_bundles(first.results))}
    found = {
        f"loss of seed {seed}": bundles["eyechart_mini_vqa", seed].receipt["adapter"]["losses"][-1]
        for seed in (0, 1, 2)
    }
    for name in ("digits", "probe"):
        scores = bundles[f"eyechart_mini_{name}", 0].scores
        found[name] = float(np.mean([s.score for s in scores]))
    if request.config.getoption("--write-golden"):
        golden("run.json", found)
        return
    expected = json.loads((Path(__file__).parent / "golden" / "run.json").read_text())
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_golden_run_exists():
    assert set(json.loads((Path(__file__).parent / "golden" / "run.json").read_text())) >= {"digits", "probe"}
