"""Tasks on real data under plain lmms-eval, on miniatures: the same prompts, pictures, scores as ours."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lmms_rows
import numpy as np
import prepared
import pyarrow as pa
import pytest

from harness import lmms, prompts
from harness.data import open_split, read_note, read_rows
from harness.files import write_parquet
from harness.images import decode_clip
from harness.scoring import OFFLINE, ScoreJob, read_scores, score_in_process
from harness.task import TASKS, known_tasks, read_task

MAIN = tuple(name for name in known_tasks() if read_task(name).suite == "main")
ASKING = tuple(name for name in MAIN if read_task(name).kind != "probe")
FRAMES = 3
OCR_OPENING = "Reference OCR token"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of tasks/ beside a `.eyechart` that holds a miniature of every dataset."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(TASKS, folder / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    names = tuple(sorted({read_task(name).dataset for name in MAIN}))
    prepared.prepare_suite(folder / ".eyechart", names)
    return folder


@pytest.fixture(scope="module")
def splits(home):
    """Task name -> (its rows, the split as `eyechart run` opens it)."""
    root = home / ".eyechart" / "data" / "main"
    found = {}
    for name in ASKING:
        task = read_task(name)
        rows = read_rows(root / task.dataset / f"{task.split}.parquet")
        number = read_note(root / task.dataset)["rows"][task.split]
        found[name] = rows, open_split(replace(task, num_expected=number), root, FRAMES)
    return found


def make_answers(name, rows):
    """Right, near, wrong, odd and empty answers."""
    draw = random.Random(f"plain-{name}")
    kind = next((kind for kind in ("refcoco", "nextqa", "perceptiontest") if kind in name), "text")
    if kind == "perceptiontest":
        odd = ["", "D", " B\n", "(A)", "A man opens B", "b", "A", "C"]
        return [draw.choice(["ABC"[int(row["answer_id"])], draw.choice(odd)]) for row in rows]
    like = {"refcoco": "rec", "nextqa": "video", "text": "vqa"}[kind]
    return [lmms_rows.make_answer(like, row, draw) for row in rows]


@pytest.fixture(scope="module")
def answers(splits):
    return {name: make_answers(name, rows) for name, (rows, _) in splits.items()}


@pytest.fixture(scope="module")
def plain(home, splits, answers, tmp_path_factory):
    """What lmms-eval logs when its model answers from a table, and what that model was given."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("hf")
        patch.setenv("HF_HOME", str(cache))
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(cache / "datasets"))
        patch.delenv("EYECHART_HOME", raising=False)
        lmms.load_peer()
        from lmms_eval.api.model import lmms as Model
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.tasks import TaskManager

        given = {}

        class Lookup(Model):
            is_simple = True

            def generate_until(self, requests):
                for request in requests:
                    context, options, visual, doc_id, task, split = request.args
                    given[task, doc_id] = context, options, visual(self.task_dict[task][split][doc_id])
                return [answers[request.args[4]][request.args[3]] for request in requests]

            def loglikelihood(self, requests):
                raise NotImplementedError

            def generate_until_multi_round(self, requests):
                raise NotImplementedError

        manager = TaskManager(include_path=str(home / "tasks"), include_defaults=False)
        out = simple_evaluate(
            model=Lookup(), tasks=list(ASKING), task_manager=manager, batch_size=1, bootstrap_iters=0
        )
    return out, given


def quiet_mean(aggregate, values):
    with contextlib.redirect_stdout(io.StringIO()):
        return float(aggregate(values))


@pytest.fixture(scope="module")
def ours(home, splits, answers, tmp_path_factory):
    """Task name -> our scores of the same answers, by the scorer in its own process."""
    folder, jobs = tmp_path_factory.mktemp("ours"), {}
    for name, (rows, _) in splits.items():
        task = read_task(name)
        names = [prompts.sample_id(task, row) for row in rows]
        columns = [names, ["0" * 16] * len(rows), answers[name], ["scored"] * len(rows)]
        given = pa.table(columns, names=["sample_id", "prompt_hash", "answer", "status"])
        write_parquet(folder / f"{name}.parquet", given)
        dataset = home / ".eyechart/data/main" / task.dataset / f"{task.split}.parquet"
        jobs[name] = ScoreJob(
            task=name,
            dataset=dataset,
            answers=folder / f"{name}.parquet",
            out=folder / f"{name}-scores.parquet",
        )
    score_in_process(list(jobs.values()))
    return {name: read_scores(job.out)[0] for name, job in jobs.items()}


def test_the_main_suite_is_there():
    assert len(ASKING) == 11
    assert set(MAIN) - set(ASKING) == {"eyechart_imagenet_probe"}


@pytest.mark.parametrize("name", ASKING)
def test_scores_are_the_same_sample_by_sample(name, plain, ours, splits):
    task, out, rows = read_task(name), plain[0], splits[name][0]
    logged = sorted(out["samples"][name], key=lambda sample: sample["doc_id"])
    # A failed task or a lost answer leaves no trace in lmms-eval's exit code; the counts do.
    assert out["n-samples"][name]["effective"] == len(logged) == len(rows) == len(ours[name])
    from lmms_eval.utils import load_yaml_config

    config = load_yaml_config(str(TASKS / name / f"{name}.yaml"), mode="full")
    rule = next(m for m in config["metric_list"] if m["metric"] == task.metric)["aggregation"]
    aggregate = (lambda values: sum(values) / len(values)) if rule == "mean" else rule
    each = [quiet_mean(aggregate, [sample[task.metric]]) for sample in logged]
    assert each == [score.score for score in ours[name]]
    assert out["results"][name][f"{task.metric},none"] == pytest.approx(sum(each) / len(each), abs=1e-12)
    assert 0 < sum(each) < len(each)


@pytest.mark.parametrize("name", ASKING)
def test_prompts_are_what_the_model_receives(name, plain, splits):
    task, given = read_task(name), plain[1]
    rows, split = splits[name]
    for i, (row, sample) in enumerate(zip(rows, split.samples, strict=True)):
        context, options, _ = given[name, i]
        assert context == sample.prompt == prompts.build_prompt(task, row)
        assert options["max_new_tokens"] in {task.max_new_tokens, 4}
        assert not options.get("do_sample", False)


@pytest.mark.parametrize("name", ASKING)
def test_pictures_are_the_same_pixels(name, plain, splits):
    given = plain[1]
    _, split = splits[name]
    keys = {key: i for i, key in enumerate(split.media.keys)}
    for i, sample in enumerate(split.samples):
        (visual,) = given[name, i][2]
        shown = [split.media.load(keys[key]) for key in sample.media]
        if isinstance(visual, str):
            seen = decode_clip(Path(visual), FRAMES)
        else:
            assert visual.mode == "RGB"
            seen = [np.asarray(visual)]
        assert len(seen) == len(shown)
        assert all(np.array_equal(a, b) for a, b in zip(seen, shown, strict=True))


def words(text):
    return set(re.findall(r"\w+", text.lower()))


def test_no_ocr_token_is_ever_in_a_prompt(plain, splits):
    from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text

    rows, _ = splits["eyechart_textvqa_val"]
    with_tokens = {"post_prompt": "\n", "ocr": True}
    for i, row in enumerate(rows):
        context = plain[1]["eyechart_textvqa_val", i][0]
        tokens = {token.lower() for token in row["ocr_tokens"]}
        assert tokens
        assert not tokens & words(context)
        assert OCR_OPENING not in context
        # The test would see them: this is lmms-eval's prompt with the switch on.
        shown = textvqa_doc_to_text(row, with_tokens)
        assert tokens <= words(shown)
        assert OCR_OPENING in shown


def test_embedded_pictures_are_read_too(home):
    from lmms_eval.utils import load_yaml_config
    from PIL import Image

    path = home / "tasks/eyechart_textvqa_val/eyechart_textvqa_val.yaml"
    read = load_yaml_config(str(path), mode="full")["doc_to_visual"]
    (picture,) = read({"image": Image.new("L", (5, 3))})
    assert (picture.mode, picture.size) == ("RGB", (5, 3))


def test_a_missing_clip_is_named(home):
    from lmms_eval.utils import load_yaml_config

    for name, row in (
        ("eyechart_nextqa_mc", {"video": 1}),
        ("eyechart_perceptiontest_mc", {"video": "video_x"}),
    ):
        find = load_yaml_config(str(home / "tasks" / name / f"{name}.yaml"), mode="full")["doc_to_visual"]
        with pytest.raises(FileNotFoundError, match=rf"{row['video']}\.mp4 is missing"):
            find(row)


def test_another_home_is_found(home, tmp_path, monkeypatch):
    from lmms_eval.utils import load_yaml_config

    shutil.copytree(home / ".eyechart" / "data", tmp_path / "data")
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path))
    name = "eyechart_vqav2_val"
    read = load_yaml_config(str(TASKS / name / f"{name}.yaml"), mode="full")["doc_to_visual"]
    (picture,) = read(read_rows(tmp_path / "data/main/vqav2/validation.parquet")[0])
    assert picture.size[0] != picture.size[1]


MODEL = """
from lmms_eval.api.model import lmms


class Silent(lmms):
    is_simple = True

    def __init__(self, batch_size=1, device=None, **_):
        super().__init__()

    def generate_until(self, requests):
        for request in requests:
            _, _, visual, doc_id, task, split = request.args
            assert len(visual(self.task_dict[task][split][doc_id])) == 1
        return ["A" for _ in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


def manifests():
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="silent", simple_class_path="silent_model.Silent", aliases=())]
"""


def test_the_command_line_runs_every_task(home, splits, tmp_path):
    """`lmms_eval --include_path tasks`; its exit code is 0 whatever happens, so its files are read."""
    (tmp_path / "silent_model.py").write_text(MODEL, encoding="utf-8")
    note = tmp_path / "silent_model-0.dist-info"
    note.mkdir()
    (note / "METADATA").write_text("Metadata-Version: 2.1\nName: silent_model\nVersion: 0\n")
    (note / "entry_points.txt").write_text("[lmms_eval.models]\nsilent = silent_model:manifests\n")
    # `python -m lmms_eval`, but with the shim that a CPU torch beside torchvision needs.
    start = "import runpy, harness.torchvision_shim; runpy.run_module('lmms_eval', run_name='__main__')"
    command = [sys.executable, "-c", start, "--model", "silent", "--tasks", ",".join(ASKING)]
    command += [
        "--include_path",
        str(home / "tasks"),
        "--batch_size",
        "1",
        "--output_path",
        str(tmp_path / "out"),
    ]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(tmp_path / "hf")}
    environment.pop("EYECHART_HOME", None)
    paths = [str(tmp_path), str(TASKS.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    reports = list((tmp_path / "out").rglob("*_results.json"))
    assert len(reports) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(reports[0].read_text(encoding="utf-8"))
    for name, (rows, _) in splits.items():
        metric = read_task(name).metric
        assert report["n-samples"][name]["effective"] == len(rows)
        assert 0 <= report["results"][name][f"{metric},none"] < 1
