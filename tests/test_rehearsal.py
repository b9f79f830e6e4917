"""Miniature repositories: the hub's layout, readable by lmms-eval's own functions, true to their scenes."""

from __future__ import annotations

import harness.torchvision_shim  # noqa: F401  (lmms-eval imports torchvision)

import io
import re
import zipfile
from dataclasses import replace

import numpy as np
import prepared
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.data import open_split
from harness.datasets.make import Given, import_dataset
from harness.datasets.specs import find_spec
from harness.digest import digest_file
from harness.errors import UsageError
from harness.files import read_json
from harness.images import decode_clip, decode_rgb
from harness.media import MediaReader
from harness.mini import schemas
from harness.mini.world import COLORS
from harness.prompts import LETTERS
from harness.rehearsal import hub_schemas
from harness.rehearsal.conversations import BOX_OF_PHRASE, PLACEHOLDER
from harness.rehearsal.raw import REC_SPLITS, WRITERS, write_raw
from harness.task import known_tasks, read_task

ROWS = 10
SHARDS = {
    "vqav2": ["data/validation-0000{}-of-00002.parquet"] * 2,
    "textvqa": ["data/validation-0000{}-of-00003.parquet"] * 3,
    "nextqa": ["MC/test-0000{}-of-00001.parquet", "videos.zip"],
    "perceptiontest": [
        "mc_question_val/validation-0000{}-of-00001.parquet",
        "videos_chunked_01.zip",
        "videos_chunked_02.zip",
    ],
    "mixture": ["data/train-0000{}-of-00002.parquet"] * 2,
    "imagenet": ["data/train-0000{}-of-00004.parquet"] * 4 + ["data/validation-00000-of-00001.parquet"],
    **{
        name: [f"data/{split}-00000-of-00001.parquet" for split in splits]
        for name, splits in REC_SPLITS.items()
    },
}
SCHEMAS = {
    "vqav2": schemas.VQA_SCHEMA,
    "textvqa": schemas.SIGNS_SCHEMA,
    "nextqa": schemas.VIDEO_SCHEMA,
    "perceptiontest": hub_schemas.PERCEPTION_SCHEMA,
    "mixture": hub_schemas.MIXTURE_SCHEMA,
    "imagenet": schemas.image_schema(),
    **dict.fromkeys(REC_SPLITS, hub_schemas.RAW_REC_SCHEMA),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for name in WRITERS:
        write_raw(root, name, rows=ROWS)
    return root


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def rows_of(folder, prefix):
    return [
        row for path in sorted(folder.glob(f"{prefix}-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def hub_dataset(folder, prefix):
    """As `datasets.load_dataset` gives it: images are pictures."""
    import datasets

    tables = [pq.read_table(path) for path in sorted(folder.glob(f"{prefix}-*.parquet"))]
    return datasets.Dataset(pa.concat_tables(tables))


@pytest.mark.parametrize("name", WRITERS)
def test_files_and_columns_are_the_hubs(raw, name):
    found = sorted(
        path.relative_to(raw / name).as_posix() for path in (raw / name).rglob("*") if path.is_file()
    )
    assert found == sorted(path.format(i) for i, path in enumerate(SHARDS[name]))
    for path in (raw / name).rglob("*.parquet"):
        file = pq.ParquetFile(path)
        assert file.schema_arrow.remove_metadata() == SCHEMAS[name].remove_metadata()
        assert b"huggingface" in file.schema_arrow.metadata
        assert file.metadata.num_rows > 0


@pytest.mark.parametrize("name", WRITERS)
def test_a_seed_says_everything(raw, name, tmp_path):
    again, other = (
        write_raw(tmp_path, name, rows=ROWS),
        write_raw(tmp_path / "other", name, rows=ROWS, seed=1),
    )
    for path in sorted(again.rglob("*.*")):
        if path.is_file():
            place = path.relative_to(again)
            assert digest_file(path) == digest_file(raw / name / place)
            assert digest_file(path) != digest_file(other / place)


@pytest.mark.parametrize("name", [name for name in WRITERS if "image" in SCHEMAS[name].names])
def test_pictures_are_jpeg_of_many_sizes_none_square(raw, name):
    sizes = set()
    for path in (raw / name).rglob("*.parquet"):
        for row in pq.read_table(path, columns=["image"]).to_pylist():
            if row["image"]:
                picture = Image.open(io.BytesIO(row["image"]["bytes"]))
                assert picture.format == "JPEG"
                assert picture.width != picture.height
                sizes.add(picture.size)
    assert len(sizes) >= 3


def test_vqav2_is_read_by_lmms_eval(raw):
    from lmms_eval.tasks.vqav2 import utils as peer

    data = hub_dataset(raw / "vqav2", "data/validation")
    assert len({row["question_id"] for row in data}) == len(data)
    assert len({row["image_id"] for row in data}) < len(data)
    for row in data:
        assert peer.vqav2_doc_to_visual(row)[0].mode == "RGB"
        assert row["question"] in peer.vqav2_doc_to_text(row)
        right = row["multiple_choice_answer"]
        assert peer.vqav2_process_results_val(row, [right])["exact_match"] == 1


def test_textvqa_is_read_by_lmms_eval(raw):
    from lmms_eval.tasks.textvqa import utils as peer

    for row in hub_dataset(raw / "textvqa", "data/validation"):
        assert peer.textvqa_doc_to_visual(row)[0].size == (row["image_width"], row["image_height"])
        assert row["ocr_tokens"][0] not in peer.textvqa_doc_to_text(row, {"post_prompt": "", "ocr": False})
        assert peer.textvqa_process_results(row, [row["ocr_tokens"][0]])["exact_match"] == 1


@pytest.mark.parametrize(("name", "split"), [(name, splits[-1]) for name, splits in REC_SPLITS.items()])
def test_boxes_hold_what_their_phrase_says(raw, name, split):
    from lmms_eval.tasks.refcoco import utils_rec as peer

    hub = hub_dataset(raw / name, f"data/{split}")
    assert len(set(hub["file_name"])) == len(hub)
    flat = peer.refcoco_bbox_rec_preprocess_dataset(hub)
    assert len(flat) == sum(len(row["answer"]) for row in hub) > len(hub)
    for row in flat:
        (picture,) = peer.refcoco_bbox_rec_doc_to_visual(row)
        assert peer.refcoco_bbox_rec_doc_to_text(row).endswith(row["answer"])
        x1, y1, x2, y2 = row["bbox"]
        assert 0 <= x1 < x2 <= 1
        assert 0 <= y1 < y2 <= 1
        color = next(color for color in COLORS if color in row["answer"].split())
        pixels = np.asarray(picture, int)
        near = np.abs(pixels - np.array(COLORS[color])).sum(2) < 90
        ys, xs = np.nonzero(near)
        inside = (xs >= x1 * picture.width - 1) & (xs <= x2 * picture.width)
        inside &= (ys >= y1 * picture.height - 1) & (ys <= y2 * picture.height)
        assert inside.sum() > 40, row["answer"]


def test_nextqa_is_read_by_lmms_eval(raw, tmp_path, monkeypatch):
    from harness.lmms import load_peer

    load_peer()
    import nltk

    monkeypatch.setattr(nltk, "download", lambda *a, **k: False)
    from lmms_eval.tasks._task_utils.video_loader import get_cache_dir, get_video
    from lmms_eval.tasks.nextqa import utils as peer

    rows = rows_of(raw / "nextqa", "MC/test")
    with zipfile.ZipFile(raw / "nextqa" / "videos.zip") as packed:
        packed.extractall(tmp_path / "hf" / "nextqa")
    cache = get_cache_dir(peer.config, "NExTVideo")
    assert len({(row["video"], row["qid"]) for row in rows}) == len(rows)
    for row in rows:
        path = get_video(cache, row["video"])
        frames = decode_clip(path, row["frame_count"])
        assert {frame.shape[:2] for frame in frames} == {(row["height"], row["width"])}
        assert row["video"] > 2**31
        assert peer.nextqa_doc_to_text_mc(row).startswith(row["question"])
        assert peer.nextqa_mc_process_results(row, [LETTERS[row["answer"]]])["exact_match"]


def test_perceptiontest_is_read_by_lmms_eval(raw, tmp_path, monkeypatch):
    from lmms_eval.tasks.perceptiontest.val import utils as peer

    for archive in (raw / "perceptiontest").glob("*.zip"):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(tmp_path)
    # lmms-eval reads HF_HOME once, when it is imported.
    monkeypatch.setattr(peer, "cache_dir", str(tmp_path / "videos"))
    rows = rows_of(raw / "perceptiontest", "mc_question_val/validation")
    assert len({(row["video_name"], row["question_id"]) for row in rows}) == len(rows)
    assert {row["answer_id"] for row in rows} == {"0", "1", "2"}
    for row in rows:
        (path,) = peer.perceptiontest_val_doc_to_visual(row)
        assert len(decode_clip(path, 4)) == 4
        assert peer.perceptiontest_val_doc_to_text(row).count("\n") == 4
        letter = LETTERS[int(row["answer_id"])]
        assert peer.perceptiontest_val_process_results_mc(row, [letter])["accuracy"]["correct"] == 1


def test_splits_share_no_picture(raw):
    for name, splits in {**REC_SPLITS, "imagenet": ("train", "validation")}.items():
        seen = [{row["image"]["bytes"] for row in rows_of(raw / name, f"data/{split}")} for split in splits]
        assert sum(map(len, seen)) == len(set().union(*seen))


def test_mixture_is_in_llavas_form(raw):
    rows = rows_of(raw / "mixture", "data/train")
    assert {"refcoco", "vqa", "sharegpt4v", "textvqa"} <= {row["data_source"] for row in rows}
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        turns = row["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(turn["value"].strip() for turn in turns)
        opened = [turn["value"].startswith(PLACEHOLDER) for turn in turns]
        assert opened == [row["image"] is not None, *[False] * (len(turns) - 1)]


def holds(data, box, color):
    """Whether a box of a picture, xyxy in 0-1, holds a thing of that colour."""
    pixels = decode_rgb(data, "").astype(int)
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = box
    part = pixels[round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)]
    return (np.abs(part - np.array(COLORS[color])).sum(2) < 90).sum() > 40


def numbers(text):
    return [float(value) for value in text.strip("[]").split(", ")]


def padded(data):
    """The picture on a square, as LLaVA's training pads it."""
    picture = Image.open(io.BytesIO(data))
    side = max(picture.size)
    square = Image.new("RGB", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    out = io.BytesIO()
    square.save(out, "PNG")
    return out.getvalue()


def test_boxes_of_the_mixture_are_of_the_padded_square(raw):
    asked = re.compile(re.escape(PLACEHOLDER + BOX_OF_PHRASE).replace(r"\{\}", "([a-z]+) [a-z]+"))
    boxes = [row for row in rows_of(raw / "mixture", "data/train") if row["data_source"] == "refcoco"]
    assert len(boxes) == ROWS
    for row in boxes:
        color = asked.fullmatch(row["conversations"][0]["value"]).group(1)
        assert holds(padded(row["image"]["bytes"]), numbers(row["conversations"][1]["value"]), color)


def test_boxes_of_the_imported_mixture_are_of_the_picture(raw, tmp_path):
    spec = find_spec("mixture")
    made = import_dataset(spec, raw / "mixture", tmp_path, Given(partial=True))
    reader, seen = MediaReader(made.path), 0
    asked = re.compile(re.escape(BOX_OF_PHRASE).replace(r"\{\}", "([a-z]+) [a-z]+"))
    told = re.compile(r"Please provide a short description for this region: (\[.*\])\.")
    for row in pq.read_table(made.path / "train.parquet").to_pylist():
        data = reader.read(row["image"])
        for exchange in row["exchanges"]:
            if match := asked.fullmatch(exchange["prompt"]):
                assert exchange["kind"] == "box"
                assert holds(data, numbers(exchange["answer"]), match[1])
                seen += 1
            elif match := told.fullmatch(exchange["prompt"]):
                assert holds(data, numbers(match[1]), exchange["answer"].split()[0].lower())
                seen += 1
    assert seen == 2 * ROWS
    counts = read_json(made.path / "DATASET.json")["boxes"]
    assert counts == {"refcoco": {"converted": seen, "cut": counts["refcoco"]["cut"], "in_padding": 0}}
    assert any(f"fractions of the picture: {seen}" in note for note in made.notes)


def test_there_are_rows_without_a_picture(tmp_path):
    rows = rows_of(write_raw(tmp_path, "mixture", rows=40), "data/train")
    assert 0 < sum(row["image"] is None for row in rows) < 15


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such dataset"):
        write_raw(tmp_path, "coco")
    with pytest.raises(UsageError, match="too few rows"):
        write_raw(tmp_path, "vqav2", rows=3)


def test_ids_stay_unique_in_larger_sets(tmp_path):
    rows = rows_of(write_raw(tmp_path, "vqav2", rows=300), "data/validation")
    assert len(rows) >= 300
    assert len({row["question_id"] for row in rows}) == len(rows)
    rows = rows_of(write_raw(tmp_path, "perceptiontest", rows=40), "mc_question_val/validation")
    assert len({(row["video_name"], row["question_id"]) for row in rows}) == len(rows) == 40


def test_the_preparer_of_the_tests_keeps_the_layout(raw, tmp_path):
    """The preparer of the tests keeps the promises of the layout that harness.data reads."""
    folder = prepared.prepare(raw / "refcocog", tmp_path / "refcocog")
    rows = pq.read_table(folder / "test.parquet").to_pylist()
    assert all((folder / row["image"]).is_file() for row in rows)
    assert len({row["question_id"] for row in rows}) == len(rows)
    assert pq.read_schema(folder / "test.parquet").names == schemas.REC_SCHEMA.names


@pytest.mark.parametrize("name", WRITERS)
def test_the_importer_takes_them_as_it_takes_the_hubs(raw, name, tmp_path):
    """And every task on the dataset opens: each row asked, each picture decoded."""
    make = pytest.importorskip("harness.datasets.make")
    spec = pytest.importorskip("harness.datasets.specs").find_spec(name)
    made = make.import_dataset(spec, raw / name, tmp_path, make.Given(partial=True))
    assert sum(made.rows.values()) > 0
    for task in [
        task for task in map(read_task, known_tasks()) if (task.suite, task.dataset) == ("main", name)
    ]:
        split = open_split(replace(task, num_expected=made.rows[task.split]), tmp_path, 2)
        for i in range(len(split.media.keys)):
            assert split.media.load(i).ndim == 3
