"""Prompts, ids and references are lmms-eval's, written without it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmms_rows
import pytest

from harness import prompts
from harness.errors import DatasetError, UsageError
from harness.task import known_tasks, read_task

REC_YAML = {
    "eyechart_refcoco_testa": "refcoco/refcoco_bbox_rec_testA.yaml",
    "eyechart_refcoco_testb": "refcoco/refcoco_bbox_rec_testB.yaml",
    "eyechart_refcocoplus_val": "refcoco+/refcoco+_bbox_rec_val.yaml",
    "eyechart_refcocoplus_testa": "refcoco+/refcoco+_bbox_rec_testA.yaml",
    "eyechart_refcocoplus_testb": "refcoco+/refcoco+_bbox_rec_testB.yaml",
    "eyechart_refcocog_test": "refcocog/refcocog_bbox_rec_test.yaml",
}
# Ours -> lmms-eval's own task, and what makes rows of its schema.
BUILT_IN = {
    "eyechart_mini_vqa": ("vqav2/vqav2_val.yaml", lmms_rows.vqa_rows),
    "eyechart_mini_signs": ("textvqa/textvqa_val.yaml", lmms_rows.signs_rows),
    "eyechart_mini_rec": ("refcoco/refcoco_bbox_rec_val.yaml", lmms_rows.rec_rows),
    "eyechart_mini_video": ("nextqa/nextqa_mc_test.yaml", lmms_rows.video_rows),
    "eyechart_vqav2_val": ("vqav2/vqav2_val.yaml", lmms_rows.vqa_rows),
    "eyechart_vqav2_16k": ("vqav2/vqav2_val.yaml", lmms_rows.vqa_rows),
    "eyechart_textvqa_val": ("textvqa/textvqa_val.yaml", lmms_rows.signs_rows),
    **{name: (path, lmms_rows.rec_rows) for name, path in REC_YAML.items()},
    "eyechart_nextqa_mc": ("nextqa/nextqa_mc_test.yaml", lmms_rows.video_rows),
    "eyechart_perceptiontest_mc": ("perceptiontest/val/perceptiontest_mc.yaml", lmms_rows.perception_rows),
}


def test_every_task_that_asks_is_compared():
    asking = {name for name in known_tasks() if read_task(name).kind != "probe"}
    assert asking == set(BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_prompt_is_lmms_evals_own(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    from harness.lmms import load_peer

    load_peer()
    import lmms_eval.tasks
    import nltk
    from lmms_eval.utils import load_yaml_config

    monkeypatch.setattr(nltk, "download", lambda *a, **k: False)
    path, make = BUILT_IN[name]
    config = load_yaml_config(str(Path(lmms_eval.tasks.__file__).parent / path), mode="full")
    ours = load_yaml_config(str(lmms_rows.TASKS / name / f"{name}.yaml"), mode="full")
    task = read_task(name)
    rows = make(20, random.Random(name))
    for row in [*rows, *lmms_rows.odd_variants(rows[0])]:
        expected = _prompt(config, row)
        assert prompts.build_prompt(task, row) == expected
        assert _prompt(ours, row) == expected


@pytest.mark.parametrize("name", BUILT_IN)
def test_generation_stops_where_lmms_evals_own_task_stops(name, monkeypatch, tmp_path):
    """The same stop texts, greedy; a limit of lmms-eval's is kept, and ours stands where it has none."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    from lmms_eval.utils import load_yaml_config

    from harness.lmms import load_peer

    load_peer()
    import lmms_eval.tasks

    path, _ = BUILT_IN[name]
    config = load_yaml_config(str(Path(lmms_eval.tasks.__file__).parent / path), mode="simple")
    ours = load_yaml_config(str(lmms_rows.TASKS / name / f"{name}.yaml"), mode="simple")
    theirs, own = config.get("generation_kwargs", {}), ours["generation_kwargs"]
    assert own.get("until") == theirs.get("until")
    assert own["max_new_tokens"] == theirs.get("max_new_tokens", own["max_new_tokens"])
    assert not own.get("do_sample", False)


def _prompt(config, row):
    special = config.get("lmms_eval_specific_kwargs")
    arguments = [row] if special is None else [row, special["default"]]
    return config["doc_to_text"](*arguments)


def test_prompts_by_hand():
    row = {"question": " Which way? ", **{f"a{i}": f" o{i} " for i in range(5)}}
    video = read_task("eyechart_mini_video")
    assert prompts.build_prompt(video, row) == "Which way?\nA. o0\nB. o1\nC. o2\nD. o3\nE. o4"
    vqa = read_task("eyechart_mini_vqa")
    suffix = "\nAnswer the question using a single word or phrase."
    assert prompts.build_prompt(vqa, {"question": "What IS it?"}) == "What IS it?" + suffix
    signs = read_task("eyechart_mini_signs")
    assert prompts.build_prompt(signs, {"question": "what Does it SAY?"}) == "What does it say?" + suffix


@pytest.mark.parametrize("name", lmms_rows.TASK_NAMES)
def test_sample_ids_are_unique_and_clusters_are_shared(name):
    task = read_task(name)
    rows = lmms_rows.make_rows(name, 30)
    assert len({prompts.sample_id(task, row) for row in rows}) == len(rows)
    clusters = [prompts.cluster(task, row) for row in rows]
    assert 1 < len(set(clusters)) < len(rows)
    assert all(isinstance(c, str) for c in clusters)


def test_cluster_of_a_box_is_its_image():
    task = read_task("eyechart_mini_rec")
    one = {"file_name": "COCO_train2014_000000581857_16.jpg"}
    other = {"file_name": "COCO_train2014_000000581857_3.jpg"}
    assert prompts.cluster(task, one) == prompts.cluster(task, other) == "COCO_train2014_000000581857"


def test_references_are_answers_that_score():
    rows = {name: lmms_rows.make_rows(name, 1)[0] for name in lmms_rows.TASK_NAMES}
    assert len(prompts.references(read_task("eyechart_mini_vqa"), rows["eyechart_mini_vqa"])) == 10
    assert len(prompts.references(read_task("eyechart_mini_signs"), rows["eyechart_mini_signs"])) == 10
    assert prompts.references(read_task("eyechart_mini_rec"), rows["eyechart_mini_rec"]) == (
        "[0.00, 0.00, 0.50, 0.50]",
    )
    video = rows["eyechart_mini_video"]
    assert prompts.references(read_task("eyechart_mini_video"), video) == ("ABCDE"[video["answer"]],)


def test_options_only_for_choices():
    assert prompts.options(read_task("eyechart_mini_video"), {}) == ("A", "B", "C", "D", "E")
    assert prompts.options(read_task("eyechart_perceptiontest_mc"), {}) == ("A", "B", "C")
    assert prompts.options(read_task("eyechart_mini_vqa"), {}) == ()
    assert prompts.options(read_task("eyechart_mini_probe"), {}) == ()


def test_questions_of_a_video_are_told_apart():
    task = read_task("eyechart_perceptiontest_mc")
    rows = lmms_rows.perception_rows(10, random.Random(0))
    names = [prompts.sample_id(task, row) for row in rows]
    assert names[:3] == ["video_0-0", "video_0-1", "video_1-0"]
    assert len(set(names)) == 10
    assert [prompts.cluster(task, row) for row in rows[:3]] == ["video_0", "video_0", "video_1"]
    assert prompts.references(task, {"answer_id": "2"}) == ("C",)
    for wrong in ("3", "x"):
        with pytest.raises(DatasetError, match="does not fit"):
            prompts.references(task, {"answer_id": wrong})


def test_probe_samples_are_named_by_row():
    task = read_task("eyechart_mini_probe")
    assert prompts.sample_id(task, {"label": 3}, 7) == prompts.cluster(task, {"label": 3}, 7) == "test-7"
    assert prompts.references(task, {"label": 3}) == ("3",)
    with pytest.raises(ValueError, match="row index"):
        prompts.sample_id(task, {"label": 3})
    with pytest.raises(UsageError, match="no prompt is known"):
        prompts.build_prompt(task, {"label": 3})


def test_missing_column_and_unknown_scorer_are_told():
    task = read_task("eyechart_mini_vqa")
    with pytest.raises(DatasetError, match="expected question"):
        prompts.build_prompt(task, {"answers": []})
    with pytest.raises(UsageError, match=r"found nowhere\.f"):
        prompts.build_prompt(replace(task, scorer="nowhere.f"), {"question": "?"})


def test_prompts_import_without_heavy_libraries():
    code = "import sys, json, harness.prompts, harness.scoring; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "transformers", "lmms_eval", "datasets"}
