"""Prompts, ids and references are lmms-eval's, written without it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmms_rows
import pytest

from harness import prompts
from harness.errors import DatasetError, UsageError
from harness.task import read_task

BUILT_IN = {
    "eyechart_mini_vqa": ("vqav2/vqav2_val.yaml", 40),
    "eyechart_mini_signs": ("textvqa/textvqa_val.yaml", 40),
    "eyechart_mini_rec": ("refcoco/refcoco_bbox_rec_val.yaml", 20),
    "eyechart_mini_video": ("nextqa/nextqa_mc_test.yaml", 40),
}


@pytest.mark.parametrize("name", lmms_rows.TASK_NAMES)
def test_prompt_is_lmms_evals_own(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    from harness.lmms import load_peer

    load_peer()
    import lmms_eval.tasks
    import nltk
    from lmms_eval.utils import load_yaml_config

    monkeypatch.setattr(nltk, "download", lambda *a, **k: False)
    path, number = BUILT_IN[name]
    config = load_yaml_config(str(Path(lmms_eval.tasks.__file__).parent / path), mode="full")
    ours = load_yaml_config(str(lmms_rows.TASKS / name / f"{name}.yaml"), mode="full")
    task = read_task(name)
    for row in lmms_rows.make_rows(name, number):
        expected = _prompt(config, row)
        assert prompts.build_prompt(task, row) == expected
        assert _prompt(ours, row) == expected


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
    assert prompts.options(read_task("eyechart_mini_vqa"), {}) == ()
    assert prompts.options(read_task("eyechart_mini_probe"), {}) == ()


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
