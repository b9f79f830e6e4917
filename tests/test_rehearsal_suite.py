"""The rehearsal is set up by the real importer, is bound to its data, and goes through both stages."""

from __future__ import annotations

import pytest
import tiny_run

from harness.bundle import read_bundle
from harness.data import read_note
from harness.digest import digest_tree
from harness.home import Home
from harness.mini.members import WEIGHTS
from harness.plan import make_plan
from harness.protocol import PROTOCOLS, read_protocol, unpinned_fields
from harness.rehearsal.perform import ACTS, Performed, agreements, perform
from harness.rehearsal.suite import STAND_INS, SUITE, set_up
from harness.run import run_plan
from harness.task import known_tasks, read_task


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    return set_up(Home(tmp_path_factory.mktemp("rehearsal")), lambda _done, _total: None)


def written(rehearsal):
    parts = [rehearsal.tasks, rehearsal.home.root / "protocols", rehearsal.home.data(SUITE)]
    files = [path for part in parts for path in part.rglob("*") if path.is_file()]
    return digest_tree({p.relative_to(rehearsal.home.root).as_posix(): p for p in files})


def test_a_second_call_leaves_every_byte(rehearsal):
    before = written(rehearsal)
    set_up(rehearsal.home, lambda _done, _total: None)
    assert written(rehearsal) == before


def test_tasks_of_the_main_suite_are_bound_to_the_data(rehearsal):
    bound = [read_task(name, rehearsal.tasks) for name in known_tasks() if read_task(name).suite == "main"]
    assert len(bound) == 12
    for task in bound:
        note = read_note(rehearsal.home.data(SUITE) / task.dataset)
        assert (task.suite, task.dataset_digest) == (SUITE, note["digest"])
        assert task.num_expected == note["rows"][task.split]
        assert task.scorer == read_task(task.name).scorer
    packs = [*rehearsal.home.data(SUITE).glob("*/packs/*.parquet")]
    assert len(packs) == len({task.dataset for task in bound})


def test_protocols_keep_what_they_rehearse(rehearsal):
    for main, name in STAND_INS.items():
        real, small = read_protocol(main), read_protocol(str(rehearsal.protocols[name]))
        assert not unpinned_fields(small)
        assert (small.tasks, small.seeds, small.image.resize) == (real.tasks, real.seeds, real.image.resize)
        assert small.llm.training == real.llm.training
        kept = ("kind", "depth", "order", "optimiser", "places", "questions_per_image")
        assert all(getattr(small.adapter, key) == getattr(real.adapter, key) for key in kept)
        assert len(small.adapter.stages) == len(real.adapter.stages)
    assert {act.protocol for act in ACTS} == set(STAND_INS.values())
    assert {act.engine for act in ACTS} == {"hf", "vllm"}
    assert all((PROTOCOLS / f"{main}.toml").is_file() for main in STAND_INS)


@pytest.fixture(scope="module")
def short(rehearsal):
    """The first protocol with fewer tasks and steps."""
    text = rehearsal.protocols["rehearsal"].read_text("utf-8")
    head, _, rest = text.partition("tasks = [")
    asked = ["eyechart_imagenet_probe", "eyechart_refcoco_testa", "eyechart_nextqa_mc"]
    listed = ", ".join(f'"{name}"' for name in asked)
    text = f"{head}tasks = [{listed}]{rest.partition(']')[2]}"
    for key, value in {"steps = 24": "steps = 3", "steps = 16": "steps = 3"}.items():
        text = text.replace(f"\n{key}", f"\n{value}")
    path = rehearsal.home.root / "short.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_run_goes_through_both_stages(rehearsal, short, tmp_path):
    plan = make_plan(
        WEIGHTS / "mini-pvt-words-s0.toml", str(short), rehearsal.home, [tmp_path], rehearsal.tasks
    )
    report = run_plan(plan, tmp_path, tiny_run.InlineExecutor(), tiny_run.Quiet)
    bundles = [read_bundle(path) for path in report.bundles]
    assert len(bundles) == 3 * 3
    for bundle in bundles:
        counts = bundle.run.counts
        assert counts.num_expected == counts.num_scored + counts.num_unparsed > 0
        assert bundle.run.suite == SUITE
        if bundle.run.engine == "hf":
            assert bundle.receipt["llm_training"] == "lora"
            first, *_, last = bundle.receipt["adapter"]["losses"]
            assert first != last
    one = Performed(ACTS[0], tuple(report.bundles), (0.0, 0.0), 0.0)
    found = {a.task: (a.num_answers, a.num_equal) for a in agreements(one, one)}
    expected = {task.name: 3 * task.num_expected for task in plan.tasks.values() if task.kind != "probe"}
    assert found == {name: (count, count) for name, count in expected.items()}


@pytest.mark.slow
def test_an_act_lowers_the_loss_and_is_found_again(rehearsal):
    done = perform(rehearsal, ACTS[0], tiny_run.Quiet)
    assert len(done.bundles) == 33
    assert done.losses[1] < done.losses[0]
    again = perform(rehearsal, ACTS[0], tiny_run.Quiet)
    assert again.bundles == done.bundles
    (same,) = {(a.num_answers == a.num_equal) for a in agreements(done, again)}
    assert same
