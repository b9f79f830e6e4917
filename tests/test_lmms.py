"""Stored answers get lmms-eval's own scores, sample by sample and in the aggregate."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import lmms_rows
import pyarrow as pa
import pytest

from harness import lmms, prompts
from harness.errors import DatasetError, IntegrityError, InternalError, UsageError
from harness.files import write_parquet
from harness.protocol import read_protocol
from harness.scoring import ScoreJob, read_scores, score_in_process
from harness.task import TASKS, read_task

TASK_NAMES = lmms_rows.TASK_NAMES
VQA, SIGNS, REC, VIDEO = TASK_NAMES
PERCEPTION = "eyechart_perceptiontest_mc"
ORIGINAL = {
    VQA: ("vqav2.utils", "vqav2_process_results_val"),
    SIGNS: ("textvqa.utils", "textvqa_process_results"),
    REC: ("refcoco.utils_rec", "refcoco_bbox_rec_process_result"),
    VIDEO: ("nextqa.utils", "nextqa_mc_process_results"),
}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))


def make_answers(name, rows, seed=0):
    draw = random.Random(f"answers-{seed}")
    return [lmms_rows.make_answer(name, row, draw) for row in rows]


def make_scorer(name, rows):
    task = read_task(name)
    media = {"image"} & set(rows[0])
    table = pa.Table.from_pylist([{k: v for k, v in row.items() if k not in media} for row in rows])
    return lmms.Scorer(task, table, TASKS)


def write_answers(path, names, answers, statuses=None):
    statuses = statuses or ["scored"] * len(names)
    hashes = ["0" * 16] * len(names)
    columns = {"sample_id": names, "prompt_hash": hashes, "answer": answers, "status": statuses}
    write_parquet(path, pa.table(columns, schema=pa.schema([(c, pa.string()) for c in columns])))


def stored(name, rows, answers):
    scorer = make_scorer(name, rows)
    names = [prompts.sample_id(scorer.task, row) for row in rows]
    given = {n: (a, "scored") for n, a in zip(names, answers, strict=True)}
    return scorer, lmms.score_rows(scorer, rows, given)


def quiet_mean(aggregate, values):
    with contextlib.redirect_stdout(io.StringIO()):
        return float(aggregate(values))


@pytest.mark.parametrize("name", TASK_NAMES)
def test_aggregate_is_lmms_evals_aggregate(name):
    rows = lmms_rows.make_rows(name, 300)
    answers = make_answers(name, rows)
    scorer, scores = stored(name, rows, answers)
    values = [
        scorer.peer.process_results(r, [a])[scorer.task.metric] for r, a in zip(rows, answers, strict=True)
    ]
    ours = sum(s.score for s in scores) / len(scores)
    assert ours == pytest.approx(quiet_mean(scorer.aggregate, values), abs=1e-12)
    assert 0.1 < ours < 0.9
    assert 0 < sum(s.status == "unparsed" for s in scores) < 150


@pytest.mark.parametrize("name", TASK_NAMES)
def test_parsed_answers_score_as_without_our_wrapper(name):
    module, function = ORIGINAL[name]
    rows = lmms_rows.make_rows(name, 300, seed=1)
    answers = make_answers(name, rows, seed=1)
    scorer, scores = stored(name, rows, answers)
    original = getattr(importlib.import_module(f"lmms_eval.tasks.{module}"), function)
    compared = 0
    # Fresh rows: the original edits what it is given.
    for row, answer, score in zip(lmms_rows.make_rows(name, 300, seed=1), answers, scores, strict=True):
        if score.status != "scored":
            continue
        value = original(row, [answer.strip()])[scorer.task.metric]
        assert quiet_mean(scorer.aggregate, [value]) == score.score, (answer, row)
        compared += 1
    assert compared > 100


@pytest.mark.parametrize("name", TASK_NAMES)
def test_order_changes_nothing(name):
    rows = lmms_rows.make_rows(name, 60)
    answers = make_answers(name, rows)
    _, forward = stored(name, rows, answers)
    _, backward = stored(name, rows[::-1], answers[::-1])
    assert forward == backward[::-1]
    assert rows == lmms_rows.make_rows(name, 60), "scoring edited the rows"


def test_number_words_do_not_accumulate():
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    rows = lmms_rows.make_rows(VQA, 20)
    before = dict(EvalAIAnswerProcessor.NUMBER_MAP)
    stored(VQA, rows, make_answers(VQA, rows))
    assert before == EvalAIAnswerProcessor.NUMBER_MAP


BOXES = {
    "[0.00, 0.00, 0.50, 0.50]": ("scored", 1.0),
    "The box is [0, 0, 0.5, 0.5].": ("scored", 1.0),
    "[0.50, 0.50, 0.00, 0.00]": ("scored", 0.0),
    "[0.50, 0.00, 0.00, 0.50]": ("scored", 0.0),
    "[0.10, 0.10, 0.10, 0.10]": ("scored", 0.0),
    "[0.00, 0.00, 0.50, 0.50] [0.00, 0.00, 0.50, 0.50]": ("unparsed", 0.0),
    "[0, 0, 320, 240]": ("unparsed", 0.0),
    "[-0.1, 0, 0.5, 0.5]": ("unparsed", 0.0),
    "[.0, .0, .5, .5]": ("unparsed", 0.0),
    "[0, 0, 5e-1, 0.5]": ("unparsed", 0.0),
    "[0, 0, 0.5]": ("unparsed", 0.0),
    "(0, 0, 0.5, 0.5)": ("unparsed", 0.0),
    "[nan, 0, 0.5, 0.5]": ("unparsed", 0.0),
    "[0, 0, 0.5, 0.5": ("unparsed", 0.0),
    "": ("unparsed", 0.0),
    "zero": ("unparsed", 0.0),
}


def test_boxes_are_parsed_strictly():
    row = lmms_rows.make_rows(REC, 1)[0]
    assert row["bbox"] == [0.0, 0.0, 0.5, 0.5]
    scorer = make_scorer(REC, [row])
    for answer, (status, score) in BOXES.items():
        assert scorer.judge(row, answer) == (score, status), answer


def test_no_box_earns_no_point_on_any_metric():
    # lmms-eval reads silence as [0, 0, 0, 0], whose centre lies in a box that touches the corner.
    row = lmms_rows.make_rows(REC, 1)[0]
    scorer = make_scorer(REC, [row])
    result = scorer.peer.process_results(row, [""])
    aggregates = scorer.peer.aggregation()
    assert set(result) == set(aggregates)
    assert all(quiet_mean(aggregates[metric], [value]) == 0 for metric, value in result.items())


def test_choices_are_one_letter_and_never_guessed(monkeypatch):
    row = lmms_rows.make_rows(VIDEO, 1)[0]
    scorer = make_scorer(VIDEO, [row])

    def guess(_options):
        raise AssertionError("lmms-eval guessed")

    monkeypatch.setattr(random, "choice", guess)
    right = "ABCDE"[row["answer"]]
    assert scorer.judge(row, right) == (1.0, "scored")
    assert scorer.judge(row, f" {right}\n") == (1.0, "scored")
    assert [scorer.judge(row, letter)[0] for letter in "ABCDE"].count(1.0) == 1
    for answer in ("", "F", "a", f"({right})", f"{right}.", f"{right} or B", row[f"a{row['answer']}"], "AB"):
        assert scorer.judge(row, answer) == (0.0, "unparsed"), answer


def test_three_letters_are_parsed_strictly():
    row = lmms_rows.perception_rows(1, random.Random(1))[0]
    scorer = make_scorer(PERCEPTION, [row])
    right = "ABC"[int(row["answer_id"])]
    assert scorer.judge(row, f" {right}\n") == (1.0, "scored")
    assert [scorer.judge(row, letter)[0] for letter in "ABC"].count(1.0) == 1
    for answer in ("", "D", "a", f"({right})", f"{right}.", f"A man opens {right}", row["options"][0]):
        assert scorer.judge(row, answer) == (0.0, "unparsed"), answer
    # What lmms-eval would have said: the article is a letter.
    original = importlib.import_module("lmms_eval.tasks.perceptiontest.val.utils")
    guessed = original.perceptiontest_val_process_results_mc({**row, "answer_id": "0"}, ["A man opens B"])
    assert guessed["accuracy"]["correct"] == 1
    for wrong, message in (({"options": ["a", "b"]}, "2 options"), ({"answer_id": "3"}, "answer number 3")):
        with pytest.raises(DatasetError, match=message):
            scorer.check({**row, **wrong}, "s")


def test_reference_boxes_may_leave_the_picture_by_a_rounding_only():
    """COCO's floats do; the row is scored as it is, by the rules of the mini task."""
    row = lmms_rows.make_rows(REC, 1)[0]
    scorer = make_scorer("eyechart_refcoco_testa", [row])
    for box in ([-0.001, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0004, 1.0]):
        scorer.check({**row, "bbox": box}, "s")
        answer = prompts.format_box([min(1, max(0, value)) for value in box])
        assert scorer.judge({**row, "bbox": box}, answer) == (1.0, "scored")
    for box in ([-0.1, 0, 0.5, 0.5], [0.5, 0.5, 1.1, 1.0], [0.5, 0.5, 0.5, 0.6], [float("nan"), 0, 0.5, 0.5]):
        with pytest.raises(DatasetError, match="reference box"):
            scorer.check({**row, "bbox": box}, "s")
    for answer, expected in BOXES.items():
        assert scorer.judge(row, answer) == (expected[1], expected[0]), answer


def test_word_lists_are_not_fetched(monkeypatch):
    row = lmms_rows.make_rows(VIDEO, 1)[0]
    make_scorer(VIDEO, [row])
    import nltk

    def fetch(*_arguments, **_options):
        raise AssertionError("nltk fetched")

    monkeypatch.setattr(nltk, "download", fetch)
    monkeypatch.delitem(sys.modules, "lmms_eval.tasks.nextqa.utils")
    assert make_scorer(VIDEO, [row]).judge(row, "") == (0.0, "unparsed")
    assert nltk.download is fetch


def test_empty_answer_earns_nothing_where_lmms_eval_gives_points():
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results_val

    row = lmms_rows.make_rows(VQA, 1)[0]
    for answer in row["answers"]:
        answer["answer"] = "the"
    assert make_scorer(VQA, [row]).judge(row, "") == (0.0, "unparsed")
    assert vqav2_process_results_val(row, [""]) == {"exact_match": 1.0}


def test_a_guessing_scorer_is_stopped(monkeypatch):
    row = lmms_rows.make_rows(VQA, 1)[0]
    scorer = make_scorer(VQA, [row])
    monkeypatch.setattr(scorer.peer, "process_results", lambda *_: {"exact_match": random.random()})
    with pytest.raises(InternalError, match="guessed"):
        scorer.judge(row, "red")
    monkeypatch.setattr(scorer.peer, "process_results", lambda *_: {"exact_match": 1.5})
    with pytest.raises(InternalError, match="not in 0-1"):
        scorer.judge(row, "red")


def test_bad_rows_stop_the_scoring():
    rows = lmms_rows.make_rows(VQA, 3)
    for answer in rows[1]["answers"]:
        answer["answer_id"] = 1
    with pytest.raises(DatasetError, match="share an answer_id"):
        stored(VQA, rows, ["red"] * 3)
    rows = lmms_rows.make_rows(REC, 3)
    rows[2]["bbox"] = [0.1, 0.1, 0.1, 0.4]
    with pytest.raises(DatasetError, match="sample q2"):
        stored(REC, rows, [""] * 3)
    rows = lmms_rows.make_rows(VIDEO, 3)
    rows[0]["answer"] = 5
    with pytest.raises(DatasetError, match="right answer number 5"):
        stored(VIDEO, rows, [""] * 3)


# ---- files ------------------------------------------------------------------------------------------------


def write_job(folder, name, rows, **answers):
    """Dataset and answers on disk; `answers` are columns of the answers file."""
    if not (folder / "tasks").exists():
        lmms_rows.write_suite(folder, {})
    task = read_task(name)
    path = lmms_rows.dataset_path(folder, name)
    schema = lmms_rows.schemas.SCHEMAS[task.dataset]
    write_parquet(path, lmms_rows.schemas.as_table(rows, schema))
    write_answers(folder / f"{name}.answers", **answers)
    return ScoreJob(
        task=name, dataset=path, answers=folder / f"{name}.answers", out=folder / f"{name}.scores.parquet"
    )


def ids_of(name, rows):
    return [prompts.sample_id(read_task(name), row) for row in rows]


def test_every_sample_has_one_status(tmp_path):
    rows = lmms_rows.make_rows(VQA, 5)
    names = ids_of(VQA, rows)
    right = [row["answers"][0]["answer"] for row in rows]
    answers, statuses = [right[3], None, None, ""], ["scored", "error", "missing", "scored"]
    given = [names[3], names[0], names[1], names[2]]
    job = write_job(tmp_path, VQA, rows, names=given, answers=answers, statuses=statuses)
    lmms.score_answers([job])
    scores, digest = read_scores(job.out)
    assert [s.sample_id for s in scores] == names
    assert [s.status for s in scores] == ["error", "missing", "unparsed", "scored", "missing"]
    assert [s.score is None for s in scores] == [True, True, False, False, True]
    assert [s.cluster for s in scores] == ["0", "0", "0", "1", "1"]
    assert digest == lmms.scorer_digest(read_task(VQA))


@pytest.mark.parametrize(
    ("names", "answers", "statuses", "message"),
    [
        (["100", "100"], ["a", "b"], ["scored"] * 2, "answered twice"),
        (["100", "999"], ["a", "b"], ["scored"] * 2, "does not have: found 999"),
        (["100"], [None], ["scored"], "without text"),
        (["100"], ["a"], ["fine"], "unknown status"),
    ],
)
def test_answers_that_do_not_fit_are_refused(tmp_path, names, answers, statuses, message):
    rows = lmms_rows.make_rows(VQA, 2)
    job = write_job(tmp_path, VQA, rows, names=names, answers=answers, statuses=statuses)
    with pytest.raises(IntegrityError, match=message):
        lmms.score_answers([job])
    assert not job.out.exists()


def test_datasets_that_do_not_fit_are_refused(tmp_path):
    rows = lmms_rows.make_rows(VQA, 1)
    job = write_job(tmp_path, VQA, [*rows, *rows], names=["100"], answers=["a"])
    with pytest.raises(DatasetError, match="one sample id: found 100"):
        lmms.score_answers([job])
    with pytest.raises(DatasetError, match="split is empty"):
        lmms.score_answers([write_job(tmp_path, VQA, [], names=[], answers=[])])
    job.dataset.write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError, match="not a sound Parquet file"):
        lmms.score_answers([job])
    job.dataset.unlink()
    with pytest.raises(DatasetError, match="dataset is missing"):
        lmms.score_answers([job])


def test_probes_and_foreign_files_are_refused(tmp_path):
    job = ScoreJob(task="eyechart_mini_probe", dataset=tmp_path, answers=tmp_path, out=tmp_path)
    with pytest.raises(UsageError, match="not by lmms-eval"):
        lmms.score_answers([job])
    write_answers(tmp_path / "x.parquet", ["1"], ["a"])
    with pytest.raises(IntegrityError, match="not a scores file"):
        read_scores(tmp_path / "x.parquet")


def test_scores_in_their_own_process(tmp_path):
    jobs = []
    for name in TASK_NAMES:
        rows = lmms_rows.make_rows(name, 6)
        answers = make_answers(name, rows)
        jobs.append(write_job(tmp_path, name, rows, names=ids_of(name, rows), answers=answers))
    seen = []
    score_in_process(jobs, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    first = [job.out.read_bytes() for job in jobs]
    lmms.score_answers(jobs[::-1])
    assert [job.out.read_bytes() for job in jobs] == first
    # The class and exit code of what goes wrong there arrive here.
    jobs[1].answers.unlink()
    with pytest.raises(IntegrityError, match="file is missing"):
        score_in_process(jobs)


# ---- the digest -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASK_NAMES)
def test_digest_reaches_all_code_that_scores(name):
    task = read_task(name)
    scorer = make_scorer(name, lmms_rows.make_rows(name, 2))
    rules = scorer.peer.config.process_results.__globals__["score"]
    sources = lmms.reachable_sources([rules, scorer.aggregate])
    short = {source.removeprefix("lmms_eval.tasks.").removeprefix("lmms_eval.") for source in sources}
    expected = {
        VQA: {"vqav2.utils.vqav2_process_results", "_task_utils.vqa_eval_metric.EvalAIAnswerProcessor"},
        SIGNS: {"textvqa.utils.textvqa_process_results", "api.metrics.mean"},
        REC: {"refcoco.utils_rec.parse_float_sequence_within", "refcoco.utils_rec.compute_iou"},
        VIDEO: {"nextqa.utils.parse_multi_choice_response", "nextqa.utils.OPTIONS"},
    }[name]
    assert expected <= short, short
    assert lmms.scorer_digest(task) == lmms.scorer_digest(task)


def test_digests_differ_and_follow_the_code(tmp_path):
    digests = {name: lmms.scorer_digest(read_task(name)) for name in [*TASK_NAMES, "eyechart_mini_probe"]}
    assert len(set(digests.values())) == 5
    tasks = lmms_rows.write_suite(tmp_path, {})
    assert lmms.scorer_digest(read_task(REC, tasks), tasks) == digests[REC]
    rules = tasks / REC / "utils.py"
    rules.write_text(rules.read_text(encoding="utf-8").replace("0 <= value <= 1", "-1 <= value <= 2"))
    assert lmms.scorer_digest(read_task(REC, tasks), tasks) != digests[REC]


def test_borrowed_rules_are_part_of_the_digest(tmp_path):
    """The real RefCOCO sets take parser and score from the mini task's file."""
    name = "eyechart_refcocog_test"
    tasks = lmms_rows.write_suite(tmp_path, {})
    before = lmms.scorer_digest(read_task(name, tasks), tasks)
    assert before == lmms.scorer_digest(read_task(name))
    other = "eyechart_refcoco_testb"
    assert lmms.scorer_digest(read_task(other, tasks), tasks) == before
    rules = tasks / REC / "utils.py"
    rules.write_text(rules.read_text(encoding="utf-8").replace("0 <= value <= 1", "-1 <= value <= 2"))
    assert lmms.scorer_digest(read_task(name, tasks), tasks) != before
    # All of lmms-eval that scores is found through the borrowed functions.
    scorer = make_scorer(name, lmms_rows.make_rows(REC, 1))
    sources = lmms.reachable_sources([scorer.rules["mini_score"], scorer.aggregate])
    assert any(source.endswith("utils_rec.parse_float_sequence_within") for source in sources)


def test_the_scorers_are_those_of_the_results_of_record():
    files = (TASKS.parent / "results" / "mini").rglob("scores-*.parquet")
    of_record = {path.stem.removeprefix("scores-") for path in files}
    tasks = read_protocol("mini").tasks
    assert of_record == {lmms.scorer_digest(read_task(name))[:12] for name in tasks}


# ---- plain lmms-eval --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(VQA, SIGNS, REC, VIDEO)], ids=["four-tasks"])
def test_plain_lmms_eval_gives_the_same_scores(names, tmp_path, monkeypatch):
    lmms.load_peer()
    from lmms_eval.api.model import lmms as Model
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    rows = {name: lmms_rows.make_rows(name, 24, seed=2) for name in names}
    answers = {name: make_answers(name, given, seed=2) for name, given in rows.items()}
    tasks = lmms_rows.write_suite(tmp_path, rows)
    clips = tmp_path / ".eyechart/data/mini/video/clips"
    clips.mkdir()
    for row in rows[VIDEO]:
        (clips / f"{row['video']}.mp4").touch()
    monkeypatch.delenv("EYECHART_HOME", raising=False)

    class Lookup(Model):
        is_simple = True

        def generate_until(self, requests):
            for request in requests:
                context, _, visual, doc_id, task, split = request.args
                doc = self.task_dict[task][split][doc_id]
                assert context == prompts.build_prompt(read_task(task), rows[task][doc_id])
                assert len(visual(doc)) == 1
            return [answers[request.args[4]][request.args[3]] for request in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        def generate_until_multi_round(self, requests):
            raise NotImplementedError

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    out = simple_evaluate(
        model=Lookup(), tasks=list(names), task_manager=manager, batch_size=1, bootstrap_iters=0
    )
    for name in names:
        task = read_task(name)
        _, scores = stored(name, rows[name], answers[name])
        logged = sorted(out["samples"][name], key=lambda sample: sample["doc_id"])
        scorer = make_scorer(name, rows[name])
        plain = [quiet_mean(scorer.aggregate, [sample[task.metric]]) for sample in logged]
        assert plain == [s.score for s in scores]
        mean = sum(plain) / len(plain)
        assert out["results"][name][f"{task.metric},none"] == pytest.approx(mean, abs=1e-12)


def test_a_scorer_ends_when_the_run_that_started_it_is_killed():
    """The middle process stands for the run. Its output stays open for as long as its child lives."""
    child = "import os, sys, time; from harness.scoring import end_with_parent; "
    child += "end_with_parent(int(sys.argv[1]), 0.05); print(os.getpid(), flush=True); time.sleep(600)"
    middle = "import os, subprocess, sys, time; "
    middle += f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())]); time.sleep(600)"
    command = [sys.executable, "-c", middle]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    watching = int(run.stdout.readline())
    time.sleep(0.5)
    os.kill(watching, 0)  # it does not end by itself
    run.kill()
    try:
        assert run.communicate(timeout=30) == ("", None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(watching, 9)
