"""Writing the mini datasets, and what reading them says when they are damaged."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness import prompts
from harness.data import NOTE, ClipFrames, check_dataset, open_split, read_note, read_rows
from harness.digest import digest_file
from harness.errors import DatasetError, ResourceError
from harness.files import write_json, write_parquet
from harness.images import decode_clip
from harness.mini import schemas, suite
from harness.mini.clips import MOVES, NUM_FRAMES, SHOWN_FRAMES, render_frame, sample_clips
from harness.mini.language import CELLS, DESCRIBE, STILL_KINDS, describe_clip
from harness.mini.world import SIDE, class_of, render, sample_scenes
from harness.records import Task
from harness.task import read_task

COUNTS = {
    "NUM_PROBE_TRAIN": 14,
    "NUM_PROBE_TEST": 8,
    "NUM_VQA": 11,
    "NUM_SIGNS": 6,
    "NUM_REC": 7,
    "NUM_VIDEO": 3,
    "NUM_MIXTURE": 6,
    "NUM_MIXTURE_CLIPS": 2,
}
SCORERS = {
    "probe": prompts.PROBE_SCORER,
    "vqa": "lmms_eval.tasks.vqav2.utils.vqav2_process_results_val",
    "signs": "lmms_eval.tasks.textvqa.utils.textvqa_process_results",
    "rec": "lmms_eval.tasks.refcoco.utils_rec.refcoco_bbox_rec_process_result",
    "video": "lmms_eval.tasks.nextqa.utils.nextqa_mc_process_results",
}
CLUSTERS = {"probe": "image", "vqa": "image_id", "signs": "image_id", "rec": "file_name", "video": "video"}
SPLITS = {"probe": "test", "vqa": "validation", "signs": "validation", "rec": "test", "video": "test"}
ROWS = {"probe": 8, "vqa": 11, "signs": 6, "rec": 7, "video": 3}
SMALL = ("probe", "vqa", "signs", "rec", "video", "mixture")


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    for name, count in COUNTS.items():
        monkeypatch.setattr(suite, name, count)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Root with all datasets, and their digests; only read by tests."""
    root = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in COUNTS.items():
            patch.setattr(suite, name, count)
        return root, dict(suite._write_one(name, root) for name in suite.DATASETS)


def task(name, digest="UNPINNED", num_expected=None, split=None):
    return Task(
        name=f"eyechart_mini_{name}",
        title=name,
        description=name,
        suite="mini",
        kind="probe" if name == "probe" else "choice" if name == "video" else "generate",
        version=1,
        split=split or SPLITS[name],
        metric="accuracy",
        scorer=SCORERS[name],
        chance=0.0,
        cluster_key=CLUSTERS[name],
        num_expected=ROWS[name] if num_expected is None else num_expected,
        dataset=name,
        dataset_digest=digest,
        max_new_tokens=16,
        gating_margin=0.02,
    )


def rows_of(root, name, split):
    return pq.read_table(root / name / f"{split}.parquet").to_pylist()


def png_pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


# ---- writing


@pytest.mark.parametrize(
    ("name", "split"), [("vqa", "validation"), ("signs", "validation"), ("rec", "test"), ("video", "test")]
)
def test_files_have_the_hub_s_schema_with_its_metadata(written, name, split):
    schema = pq.read_schema(written[0] / name / f"{split}.parquet")
    assert schema.equals(schemas.SCHEMAS[name])
    assert schema.metadata[b"huggingface"] == schemas.SCHEMAS[name].metadata[b"huggingface"]


@pytest.mark.parametrize(("name", "classes"), [("probe", 144), ("digits", 10)])
@pytest.mark.parametrize("split", ["train", "test"])
def test_probe_files_have_imagenet_s_schema_and_class_names(written, name, classes, split):
    schema = pq.read_schema(written[0] / name / f"{split}.parquet")
    assert schema.equals(schemas.SCHEMAS[name])
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert len(set(features["label"]["names"])) == classes
    assert features["image"] == {"_type": "Image"}


def test_the_note_counts_rows_and_hashes_files(written):
    root, digests = written
    assert suite.suite_digests(root) == digests and len(set(digests.values())) == len(suite.DATASETS)
    for name in suite.DATASETS:
        note = read_note(root / name)
        assert note["digest"] == digests[name]
        for split, count in note["rows"].items():
            assert pq.read_metadata(root / name / f"{split}.parquet").num_rows == count
        on_disk = [p for p in (root / name).rglob("*") if p.is_file() and p.name != NOTE]
        hashes = {p.relative_to(root / name).as_posix(): digest_file(p) for p in on_disk}
        assert note["files"] == hashes
    assert not list(root.glob(".*-draft"))


def test_there_are_ten_answers_with_ids_of_their_own(written):
    rows = rows_of(written[0], "vqa", "validation")
    assert len(rows) == COUNTS["NUM_VQA"]
    for row in rows:
        assert [a["answer_id"] for a in row["answers"]] == list(range(1, 11))
        assert {a["answer"] for a in row["answers"]} == {row["multiple_choice_answer"]}
    assert all(len(row["answers"]) == 10 for row in rows_of(written[0], "signs", "validation"))


@pytest.mark.parametrize(
    ("name", "key"),
    [("vqa", "question_id"), ("signs", "question_id"), ("rec", "question_id"), ("video", "qid")],
)
def test_questions_have_ids_of_their_own(written, name, key):
    ids = [row[key] for row in rows_of(written[0], name, SPLITS[name])]
    assert len(set(ids)) == len(ids) == ROWS[name]


def test_vqa_asks_its_kinds_in_turn(written):
    kinds = [row["question_type"] for row in rows_of(written[0], "vqa", "validation")]
    assert set(kinds) == set(suite.VQA_KINDS)
    assert max(map(kinds.count, kinds)) - min(map(kinds.count, kinds)) <= 1


def test_images_decode_to_the_scenes_that_the_labels_are_of(written):
    scenes = sample_scenes("test", COUNTS["NUM_PROBE_TEST"], seed=101)
    for row, scene in zip(rows_of(written[0], "probe", "test"), scenes, strict=True):
        assert row["label"] == class_of(scene)
        assert (png_pixels(row["image"]["bytes"]) == render(scene)).all()


def test_rec_boxes_lie_inside_and_name_their_scene(written):
    scenes = sample_scenes("test", COUNTS["NUM_REC"], seed=104)
    for row in rows_of(written[0], "rec", "test"):
        image_id, index = map(int, row["question_id"].split("-"))
        thing = scenes[image_id].things[index]
        assert row["answer"] == f"{thing.color} {thing.shape}"
        assert row["file_name"] == f"EYECHART_mini_{image_id:012d}_{index}.png"
        x1, y1, x2, y2 = row["bbox"]
        assert 0 <= x1 < thing.x / SIDE < x2 <= 1 and 0 <= y1 < thing.y / SIDE < y2 <= 1


def test_video_rows_and_files_belong_together(written):
    rows = rows_of(written[0], "video", "test")
    assert {f"{row['video']}.mp4" for row in rows} == {p.name for p in (written[0] / "video/clips").iterdir()}
    for row, clip in zip(rows, sample_clips("test", 3, seed=105), strict=True):
        options = [row[name] for name in schemas.OPTION_COLUMNS]
        asked = [m for m in clip.movers if row["question"].endswith(f"{m.thing.color} {m.thing.shape} move?")]
        assert [m.move for m in asked] == [options[row["answer"]]]
        assert row["frame_count"] == NUM_FRAMES


def test_digits_are_all_of_scikit_learn_s_each_once(written):
    counts = read_note(written[0] / "digits")["rows"]
    assert counts == {"train": 797, "test": 1000}
    rows = [*rows_of(written[0], "digits", "train"), *rows_of(written[0], "digits", "test")]
    assert {row["label"] for row in rows} == set(range(10))
    assert png_pixels(rows[0]["image"]["bytes"]).shape == (SIDE, SIDE)


def test_the_mixture_describes_and_asks_about_training_scenes_only(written):
    rows = rows_of(written[0], "mixture", "train")
    for row in rows:
        kinds = [e["kind"] for e in row["exchanges"]]
        asked = [e["prompt"] for e in row["exchanges"]]
        assert kinds[0] == "describe" and asked[0] == DESCRIBE
        assert set(kinds[1:]) <= set(STILL_KINDS) and len(set(asked)) == len(asked) > 4
    clips = rows_of(written[0], "mixture", "clips")
    assert len(clips) == COUNTS["NUM_MIXTURE_CLIPS"]
    movers = sample_clips("train", COUNTS["NUM_MIXTURE_CLIPS"], seed=107)
    for row, clip in zip(clips, movers, strict=True):
        said = row["exchanges"]
        assert [e["kind"] for e in said] == ["describe", "video", "video", "place", "place"]
        assert said[0]["answer"] == describe_clip(clip, SHOWN_FRAMES)
        letters = [prompts.LETTERS[list(MOVES).index(m.move)] for m in clip.movers]
        assert [e["answer"] for e in said[1:3]] == letters
        assert all(e["answer"] in CELLS for e in said[3:])
    scenes = sample_scenes("train", COUNTS["NUM_MIXTURE"], seed=106)
    assert all(
        (png_pixels(r["image"]["bytes"]) == render(s)).all() for r, s in zip(rows, scenes, strict=True)
    )


def test_test_images_are_not_in_the_training_data(written):
    def pixels(name, split):
        return {png_pixels(r["image"]["bytes"]).tobytes() for r in rows_of(written[0], name, split)}

    train = pixels("probe", "train") | pixels("mixture", "train")
    test = pixels("probe", "test") | pixels("vqa", "validation") | pixels("rec", "test")
    test |= pixels("signs", "validation")
    assert not train & test
    assert not pixels("digits", "train") & pixels("digits", "test")


def test_still_exchanges_are_reproducible():
    scene = sample_scenes("train", 1, seed=1)[0]
    first, second = (suite.still_exchanges(scene, random.Random(3)) for _ in range(2))
    assert first == second and len(first) > 4


# ---- digests


@pytest.mark.parametrize("name", SMALL)
def test_writing_again_gives_the_same_digest_and_the_same_files(written, tmp_path, name):
    root, digests = written
    for _ in range(2):  # the second time over what is there
        assert suite._write_one(name, tmp_path) == (name, digests[name])
    assert (tmp_path / name / NOTE).read_bytes() == (root / name / NOTE).read_bytes()


@pytest.mark.parametrize("name", ["probe", "vqa", "signs", "rec", "mixture"])
def test_digests_do_not_depend_on_how_png_is_compressed(written, tmp_path, monkeypatch, name):
    def differently(pixels):
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, "PNG", compress_level=9, optimize=True)
        return target.getvalue()

    monkeypatch.setattr(suite, "encode_png", differently)
    assert suite._write_one(name, tmp_path)[1] == written[1][name]
    assert read_note(tmp_path / name)["files"] != read_note(written[0] / name)["files"]


def test_digests_do_not_depend_on_how_clips_are_encoded(written, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "encode_mp4", lambda clip: b"another codec")
    assert suite._write_one("video", tmp_path)[1] == written[1]["video"]


@pytest.mark.parametrize("name", ["probe", "vqa", "rec"])
def test_one_other_pixel_is_another_digest(written, tmp_path, monkeypatch, name):
    def dirty(scene):
        picture = render(scene)
        picture[0, 0, 0] ^= 1
        return picture

    monkeypatch.setattr(suite, "render", dirty)
    assert suite._write_one(name, tmp_path)[1] != written[1][name]


def test_one_other_frame_is_another_digest(written, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "render_frame", lambda clip, i: render_frame(clip, 0))
    assert suite._write_one("video", tmp_path)[1] != written[1]["video"]


def test_the_version_is_part_of_the_digest(written, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "SUITE_VERSION", suite.SUITE_VERSION + 1)
    assert suite._write_one("signs", tmp_path)[1] != written[1]["signs"]


def test_what_another_version_wrote_is_written_again(tmp_path):
    root = tmp_path / "data"
    digest = suite.write_suite(root, names=["digits"], workers=1)
    note = json.loads((root / "digits" / NOTE).read_text())
    for version in ({"suite_version": suite.SUITE_VERSION - 1}, {}):
        facts = {k: note[k] for k in ("rows", "files")}
        (root / "digits" / NOTE).write_text(json.dumps({**version, **facts, "digest": "0" * 64}))
        assert suite.suite_digests(root) == {}
        assert suite.write_suite(root, names=["digits"], workers=1) == digest
    assert suite.suite_digests(root) == digest


@pytest.mark.parametrize(
    "note", ["", "{", "[]", '{"digest": "0"}', '{"digest": "0", "rows": 3, "files": {}}']
)
def test_a_damaged_note_is_named_and_nothing_is_written_over_it(tmp_path, note):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / NOTE).write_text(note)
    with pytest.raises(DatasetError, match="note is damaged"):
        suite.write_suite(tmp_path, names=["digits"])
    assert (tmp_path / "digits" / NOTE).read_text() == note


def test_an_interrupt_while_the_suite_is_written_leaves_no_trace_but_its_line(tmp_path):
    command = [sys.executable, "-m", "harness.cli", "mini", "data", "--home", str(tmp_path)]
    child = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.rglob("*-draft")) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130, errors
    assert "Traceback" not in errors and "mini data" in errors
    assert suite.suite_digests(tmp_path / "data" / "mini") == {}


def test_a_dataset_without_its_note_does_not_exist(written, tmp_path, monkeypatch):
    def stopped(writer):
        suite._write_signs(writer)
        raise KeyboardInterrupt

    monkeypatch.setitem(suite.DATASETS, "signs", stopped)
    with pytest.raises(KeyboardInterrupt):
        suite._write_one("signs", tmp_path)
    assert suite.suite_digests(tmp_path) == {} and not (tmp_path / "signs").exists()


def test_what_is_there_is_not_written_again(written):
    root, digests = written
    before = (root / "vqa" / NOTE).stat().st_mtime_ns
    assert suite.write_suite(root) == digests
    assert suite.write_suite(root, names=["vqa"]) == {"vqa": digests["vqa"]}
    assert (root / "vqa" / NOTE).stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["rec", "digits"])
def test_the_command_s_own_processes_write_the_pinned_datasets(tmp_path, name):
    """Spawned processes do not see this file's small counts: these are the datasets of record."""
    pinned = read_task(f"eyechart_mini_{name}")
    seen = []
    digests = suite.write_suite(tmp_path, names=[name], progress=lambda *counts: seen.append(counts))
    assert digests == {name: pinned.dataset_digest} and seen == [(1, 1)]
    assert len(open_split(pinned, tmp_path, frames=4).samples) == pinned.num_expected == 1000
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.files.free_bytes", lambda path: 1_000)
    with pytest.raises(ResourceError, match="mini suite"):
        suite.write_suite(tmp_path / "data", names=["vqa"])
    assert not list((tmp_path / "data").iterdir())


def test_a_draft_that_was_left_behind_is_written_over(written, tmp_path):
    (tmp_path / ".signs-draft").mkdir()
    (tmp_path / ".signs-draft" / "stray.parquet").write_bytes(b"half")
    assert suite._write_one("signs", tmp_path)[1] == written[1]["signs"]
    assert {p.name for p in tmp_path.rglob("*")} == {"signs", NOTE, "validation.parquet"}


def test_an_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError) as error:
        suite.write_suite(tmp_path, names=["vqa", "audio"])
    assert error.value.exit_code == 5 and "audio" in str(error.value) and "signs" in str(error.value)


# ---- reading what is whole


@pytest.mark.parametrize("name", list(SCORERS))
def test_every_split_opens_and_all_its_media_load(written, name):
    root, digests = written
    split = open_split(task(name, digests[name]), root, frames=4)
    assert len(split.samples) == ROWS[name] and split.digest == digests[name]
    assert len({s.sample_id for s in split.samples}) == ROWS[name]
    assert len(set(split.media.keys)) == len(split.media.keys)
    assert {m for s in split.samples for m in s.media} == set(split.media.keys)
    for i in range(len(split.media.keys)):
        assert split.media.load(i).shape == (SIDE, SIDE, 3)


def test_each_image_is_there_once_and_questions_share_it(written):
    split = open_split(task("vqa"), written[0], frames=4)
    assert len(split.media.keys) < len(split.samples)
    rows = rows_of(written[0], "vqa", "validation")
    by_image = {str(r["image_id"]): png_pixels(r["image"]["bytes"]) for r in rows}
    for i, key in enumerate(split.media.keys):
        assert (split.media.load(i) == by_image[key]).all()


def test_a_probe_opens_its_training_split_too(written):
    split = open_split(task("probe"), written[0], frames=4, split="train")
    assert split.labels.dtype == np.int64 and len(split.labels) == COUNTS["NUM_PROBE_TRAIN"]
    assert split.samples[3].sample_id == "train-3"


def test_clip_frames_are_in_order_from_any_entry(written):
    media = open_split(task("video"), written[0], frames=NUM_FRAMES).media
    assert media.keys[:2] == ["0/0", "0/1"] and len(media.keys) == 3 * NUM_FRAMES
    forwards = [media.load(i) for i in range(len(media.keys))]
    backwards = [media.load(i) for i in reversed(range(len(media.keys)))]
    assert all((a == b).all() for a, b in zip(forwards, reversed(backwards), strict=True))


# ---- reading what is damaged


@pytest.fixture
def own(tmp_path):
    """Writes one dataset that the test may damage; returns its folder."""

    def write(name):
        suite._write_one(name, tmp_path)
        return tmp_path / name

    return write


def refuse(folder, **changes):
    """The DatasetError of opening a damaged dataset."""
    with pytest.raises(DatasetError) as error:
        open_split(task(folder.name, **changes), folder.parent, frames=4)
    assert error.value.exit_code == 5 and "\n" not in str(error.value)
    return str(error.value)


def rewrite(path, edit, *, note=False):
    """Edit the rows of a Parquet file; with `note` the file's hash is made to fit again."""
    schema = pq.read_schema(path)
    rows = pq.read_table(path).to_pylist()
    write_parquet(path, pa.Table.from_pylist(edit(rows), schema=schema))
    if note:
        content = read_note(path.parent)
        content["files"][path.name] = digest_file(path)
        write_json(path.parent / NOTE, content)


def break_image(rows, number=2):
    data = rows[number]["image"]["bytes"]
    rows[number]["image"]["bytes"] = data[: len(data) // 2]
    return rows


@pytest.mark.parametrize("name", ["probe", "vqa", "signs", "rec"])
def test_a_corrupt_image_is_named_by_its_row(own, name):
    folder = own(name)
    rewrite(folder / f"{SPLITS[name]}.parquet", break_image)
    message = refuse(folder)
    assert "row 2" in message and f"{SPLITS[name]}.parquet" in message and "cannot be decoded" in message


@pytest.mark.parametrize("data", [None, b"", b"not an image"])
def test_an_image_that_is_none_is_named_too(own, data):
    folder = own("vqa")

    def edit(rows):
        rows[4]["image"]["bytes"] = data
        return rows

    rewrite(folder / "validation.parquet", edit)
    assert "row 4" in refuse(folder)


def test_a_corrupt_image_under_a_fitting_hash_fails_when_it_is_loaded(own):
    folder = own("probe")
    rewrite(folder / "test.parquet", break_image, note=True)
    split = open_split(task("probe"), folder.parent, frames=4)
    with pytest.raises(DatasetError) as error:
        split.media.load(2)
    assert "test-2" in str(error.value) and error.value.exit_code == 5
    assert split.media.load(3).shape == (SIDE, SIDE, 3)


def test_a_changed_label_is_a_changed_file(own):
    folder = own("probe")

    def edit(rows):
        rows[0]["label"] = (rows[0]["label"] + 1) % 144
        return rows

    rewrite(folder / "test.parquet", edit)
    message = refuse(folder)
    assert "has changed" in message and "test.parquet" in message and "eyechart mini data" in message


def test_a_flipped_byte_of_parquet_is_refused(own):
    folder = own("signs")
    data = bytearray((folder / "validation.parquet").read_bytes())
    data[len(data) // 3] ^= 0xFF
    (folder / "validation.parquet").write_bytes(bytes(data))
    assert "validation.parquet" in refuse(folder)


def test_a_file_cut_short_is_refused(own):
    folder = own("signs")
    data = (folder / "validation.parquet").read_bytes()
    (folder / "validation.parquet").write_bytes(data[: len(data) // 2])
    assert "validation.parquet" in refuse(folder)


def test_a_missing_parquet_file_is_refused(own):
    folder = own("rec")
    (folder / "test.parquet").unlink()
    assert "is missing" in refuse(folder)


def test_an_empty_split_is_refused(own):
    folder = own("rec")
    rewrite(folder / "test.parquet", lambda rows: [], note=True)
    assert "empty" in refuse(folder)
    with pytest.raises(DatasetError, match="0 rows"):
        read_rows(folder / "test.parquet")


def test_a_split_that_the_dataset_lacks_is_refused(own):
    folder = own("rec")
    assert "split is missing" in refuse(folder, split="validation")


def test_other_rows_than_the_task_expects_are_refused(own):
    folder = own("rec")
    message = refuse(folder, num_expected=8)
    assert "found 7" in message and "expected 8" in message
    rewrite(folder / "test.parquet", lambda rows: rows[:-1], note=True)
    assert "found 6" in refuse(folder)


def test_a_missing_column_is_named(own):
    folder = own("rec")
    path = folder / "test.parquet"
    write_parquet(path, pq.read_table(path).drop_columns(["answer"]))
    content = read_note(folder)
    content["files"][path.name] = digest_file(path)
    write_json(folder / NOTE, content)
    assert "answer" in refuse(folder)


def test_a_missing_dataset_says_how_to_get_it(tmp_path):
    assert "eyechart mini data" in refuse(tmp_path / "vqa")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        '{"digest": "aa"}',
        '{"digest": "aa", "rows": 3, "files": {}}',
        "\x00\xff",
    ],
    ids=["empty", "cut", "list", "null", "text", "keys", "types", "binary"],
)
def test_a_damaged_note_is_a_dataset_error(own, text):
    folder = own("signs")
    (folder / NOTE).write_bytes(text.encode("latin-1"))
    assert NOTE in refuse(folder)


def test_another_digest_than_the_pinned_one_is_refused(own):
    folder = own("signs")
    message = refuse(folder, digest="ab" * 32)
    assert "not the pinned one" in message and "ab" * 8 in message
    digest = read_note(folder)["digest"]
    assert check_dataset(folder, digest) == check_dataset(folder, "UNPINNED") == digest


def test_a_missing_clip_is_refused(own):
    folder = own("video")
    (folder / "clips/1.mp4").unlink()
    message = refuse(folder)
    assert "1.mp4" in message and "missing" in message


def test_a_clip_that_goes_missing_later_fails_when_it_is_loaded(own):
    folder = own("video")
    split = open_split(task("video"), folder.parent, frames=4)
    (folder / "clips/1.mp4").unlink()
    assert split.media.load(0).shape == (SIDE, SIDE, 3)
    with pytest.raises(DatasetError) as error:
        split.media.load(4)
    assert "1.mp4" in str(error.value) and error.value.exit_code == 5


@pytest.mark.parametrize("name", ["video", "mixture"])
def test_a_damaged_clip_that_still_decodes_is_refused(own, name):
    folder = own(name)
    path = folder / "clips/1.mp4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    assert len(decode_clip(bytes(data), NUM_FRAMES)) == NUM_FRAMES  # which is why a hash is kept
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError) as error:
        check_dataset(folder, "UNPINNED")
    assert "1.mp4" in str(error.value) and "has changed" in str(error.value) and error.value.exit_code == 5


@pytest.mark.parametrize("keep", [0, 100, 0.6])
def test_a_clip_cut_short_fails_when_it_is_loaded(own, keep):
    folder = own("video")
    path = folder / "clips/0.mp4"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(DatasetError) as error:
        ClipFrames(["0"], folder / "clips", 4).load(0)
    assert "0.mp4" in str(error.value)
