"""tasks/: every folder is a task for us, and a task that plain lmms-eval can list."""

from __future__ import annotations

import io
import re

import lmms_rows
import pyarrow as pa
import pytest
from PIL import Image

from harness.files import read_parquet, write_parquet
from harness.mini import schemas
from harness.prompts import PROBE_SCORER
from harness.task import TASKS, known_tasks, read_task

MINI = ("digits", "probe", "rec", "signs", "video", "vqa")
NAMES = tuple(f"eyechart_mini_{name}" for name in MINI)
MAIN = tuple(name for name in known_tasks() if name not in NAMES)
# Task -> dataset, split, rows, chance: issue 5's list, with the counts of the dataset cards and papers.
EXPECTED = {
    "eyechart_vqav2_val": ("vqav2", "validation", 214_354, 0),
    "eyechart_vqav2_16k": ("vqav2", "validation_16k", 16_384, 0),
    "eyechart_textvqa_val": ("textvqa", "validation", 5_000, 0),
    "eyechart_refcoco_testa": ("refcoco", "testA", 5_657, 0),
    "eyechart_refcoco_testb": ("refcoco", "testB", 5_095, 0),
    "eyechart_refcocoplus_val": ("refcocoplus", "val", 10_758, 0),
    "eyechart_refcocoplus_testa": ("refcocoplus", "testA", 5_726, 0),
    "eyechart_refcocoplus_testb": ("refcocoplus", "testB", 4_889, 0),
    "eyechart_refcocog_test": ("refcocog", "test", 9_602, 0),
    "eyechart_nextqa_mc": ("nextqa", "test", 8_564, 1 / 5),
    "eyechart_perceptiontest_mc": ("perceptiontest", "validation", 19_140, 1 / 3),
    "eyechart_imagenet_probe": ("imagenet", "validation", 50_000, 1 / 1000),
}


def test_the_mini_suite_has_six_tasks():
    assert set(NAMES) <= set(known_tasks())


def test_the_main_suite_is_the_issues():
    tasks = {name: read_task(name) for name in MAIN}
    assert {n: (t.dataset, t.split, t.num_expected, t.chance) for n, t in tasks.items()} == EXPECTED
    assert {task.suite for task in tasks.values()} == {"main"}
    assert {task.dataset_digest for task in tasks.values()} == {"UNPINNED"}


def test_tasks_of_one_kind_differ_only_in_their_data():
    """`include` is refused, so that a digest covers its whole task: what is repeated must not drift."""
    own = "task|test_split|title|description|dataset|num_expected|gating_margin|doc_to_visual"

    def shape(name: str) -> list[str]:
        lines = (TASKS / name / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        data = re.compile(rf" *({own}):| +\w+: \.\./\.\./|    [A-Z]")
        return [line for line in lines if not data.match(line)]

    for word in ("refcoco", "vqav2"):
        kinds = [name for name in MAIN if word in name]
        assert len(kinds) > 1
        assert all(shape(name) == shape(kinds[0]) for name in kinds), word


@pytest.mark.parametrize("name", [*NAMES, *MAIN])
def test_task_is_read_and_described(name):
    task = read_task(name)
    assert task.suite == "main" or task.dataset in schemas.SCHEMAS
    assert (task.kind == "probe") == (task.scorer == PROBE_SCORER)
    readme = (TASKS / name / "README.md").read_text(encoding="utf-8")
    for heading in ("## Input", "## Prompt", "## Output", "## Metric", "## Strict parse"):
        assert heading in readme, f"{name}/README.md has no section {heading}"


@pytest.mark.parametrize("name", NAMES)
def test_cluster_key_and_split_exist(name):
    task = read_task(name)
    assert task.cluster_key in schemas.SCHEMAS[task.dataset].names
    assert task.split in {"validation", "test"}


def test_lmms_eval_lists_all_and_runs_no_probe(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path / "datasets"))
    from harness.lmms import load_peer

    load_peer()
    from lmms_eval.tasks import TaskManager

    table = schemas.as_table([schemas.image_row(lmms_rows.png(), 1)], schemas.SCHEMAS["probe"])
    tasks = lmms_rows.write_suite(tmp_path, {})
    for split in ("train", "test"):
        write_parquet(tmp_path / f".eyechart/data/mini/probe/{split}.parquet", table)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    assert set(NAMES) <= set(manager.all_subtasks)
    with pytest.raises(RuntimeError, match="fitted on features, not asked"):
        manager.load_task_or_group("eyechart_mini_probe")


# ---- the schemas of the data ------------------------------------------------------------------------------

HUB = {
    "vqa": "question_type multiple_choice_answer answers image_id answer_type question_id question image",
    "signs": "image_id question_id question question_tokens image image_width image_height "
    "flickr_original_url flickr_300k_url answers image_classes set_name ocr_tokens",
    "rec": "answer question_id image question segmentation bbox iscrowd file_name image_width image_height",
    "video": "video frame_count width height question answer qid type a0 a1 a2 a3 a4",
    "probe": "image label",
    "digits": "image label",
}


@pytest.mark.parametrize("dataset", MINI)
def test_columns_are_the_hubs(dataset):
    assert schemas.SCHEMAS[dataset].names == HUB[dataset].split()


def test_flattened_boxes_are_what_lmms_eval_makes_of_refcoco(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    from harness.lmms import load_peer

    load_peer()
    import datasets
    from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_preprocess_dataset

    value, many = datasets.Value, datasets.List
    columns = {"question_id": value("string"), "image": datasets.Image(), "question": value("string")}
    columns |= {"answer": many(value("string")), "segmentation": many(value("float32"))}
    columns |= {"bbox": many(value("float32")), "iscrowd": value("int8"), "file_name": value("string")}
    row = dict(question_id="1", image=Image.new("RGB", (64, 32)), question="?", answer=["a", "b"])
    row |= dict(segmentation=[1.0], bbox=[16.0, 8.0, 16.0, 8.0], iscrowd=0, file_name="COCO_1_2.jpg")
    hub = datasets.Dataset.from_list([row], features=datasets.Features(columns))
    flat = refcoco_bbox_rec_preprocess_dataset(hub)
    assert flat.data.schema.remove_metadata() == schemas.REC_SCHEMA.remove_metadata()
    assert flat[0]["bbox"] == [0.25, 0.25, 0.5, 0.5]


@pytest.mark.parametrize("name", lmms_rows.TASK_NAMES)
def test_datasets_reads_images_as_images(name, tmp_path):
    import datasets

    task = read_task(name)
    rows = lmms_rows.make_rows(name, 3)
    path = tmp_path / "x.parquet"
    write_parquet(path, schemas.as_table(rows, schemas.SCHEMAS[task.dataset]))
    schema, expected = read_parquet(path).schema, schemas.SCHEMAS[task.dataset]
    assert schema.equals(expected)
    assert schema.metadata == expected.metadata
    loaded = datasets.Dataset(read_parquet(path))
    if "image" in rows[0]:
        assert isinstance(loaded.features["image"], datasets.Image)
        assert loaded[0]["image"].convert("RGB").size == (8, 8)
    assert loaded[0].get("question_id", loaded[0].get("qid")) == rows[0].get(
        "question_id", rows[0].get("qid")
    )


def test_labels_are_named_in_the_metadata_only():
    plain, named = schemas.image_schema(), schemas.image_schema(["cat", "dog"])
    assert plain.remove_metadata() == named.remove_metadata()
    assert named.field("label").type == pa.int64()
    import datasets

    table = schemas.as_table([schemas.image_row(lmms_rows.png(), 1)], named)
    assert datasets.Dataset(table).features["label"].names == ["cat", "dog"]


def test_builders_refuse_what_could_not_be_scored():
    image = lmms_rows.png()
    vqa = dict(image=image, image_id=1, question_id=1, question="?", answer="a")
    with pytest.raises(ValueError, match="9 answers"):
        schemas.vqa_row(**vqa, answers=["a"] * 9)
    ids = [a["answer_id"] for a in schemas.vqa_row(**vqa)["answers"]]
    assert ids == list(range(1, 11))
    rec = dict(image=image, width=8, height=8, image_id=1, object_index=0, question_id="1", expression="x")
    for box in [
        (0.5, 0.1, 0.5, 0.2),
        (0.1, 0.5, 0.2, 0.4),
        (0.1, 0.1, 1.2, 0.4),
        (0.1, 0.1, float("nan"), 0.4),
    ]:
        with pytest.raises(ValueError, match="box"):
            schemas.rec_row(**rec, box=box)
    clip = dict(video=1, frame_count=8, width=8, height=8, question="?", qid=1)
    with pytest.raises(ValueError, match="five different"):
        schemas.video_row(**clip, options=["a", "b", "c", "d", "a "], answer=0)
    with pytest.raises(ValueError, match="not an index"):
        schemas.video_row(**clip, options=["a", "b", "c", "d", "e"], answer=5)
    with pytest.raises(ValueError, match="row has columns"):
        schemas.as_table([{"image": None}], schemas.image_schema())


def test_png_of_the_tests_is_a_png():
    assert Image.open(io.BytesIO(lmms_rows.png())).format == "PNG"
