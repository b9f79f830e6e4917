"""Import: every dataset in the hub's schema, the other forms, and each fault of a source by row and field."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import hub_datasets as given
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_datasets import RAW, SYNSETS, clip, picture, write_raw, write_repo
from PIL import Image

from harness.data import check_dataset, read_note, read_rows
from harness.datasets import import_imagenet, prepare
from harness.datasets.conversations import exchanges_of, kind_of
from harness.datasets.make import Given, import_dataset
from harness.datasets.specs import SPECS
from harness.datasets.subset import subset_order
from harness.digest import digest_bytes
from harness.errors import (
    DatasetError,
    EyechartError,
    ResourceError,
    StoreBusyError,
    UnsafeInputError,
    UsageError,
)
from harness.files import read_json
from harness.media import MediaReader, read_media_list
from harness.mini import schemas

SOME = Given(partial=True)


def bring(name, place, root, given_=SOME, progress=lambda _done, _total: None):
    return import_dataset(SPECS[name], place, root, given_, progress)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "main"


def told(caught, *words):
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


# --- the hub's schema


@pytest.mark.parametrize("name", list(RAW))
def test_every_dataset(tmp_path, root, name):
    made = bring(name, write_repo(tmp_path / "raw", name), root)
    note = read_note(made.path)
    assert check_dataset(made.path, made.digest) == note["digest"]
    assert made.path == root / name
    assert set(note["files"]) == {f"{s}.parquet" for s in made.rows} | {"media.parquet"}
    listed, reader = read_media_list(made.path), MediaReader(made.path)
    for split, count in made.rows.items():
        rows = read_rows(made.path / f"{split}.parquet")
        assert len(rows) == count
        assert list(rows[0]) == [column for column, _ in SPECS[name].columns]
        for row in rows:
            reference = f"clips/{row['video']}.mp4" if "video" in row else row["image"]
            data = reader.read(reference)
            assert (digest_bytes(data), len(data)) == listed[reference]
    assert not list(made.path.glob(".*"))
    assert not list(root.glob(".*"))


@pytest.mark.parametrize(
    ("name", "mini"), [("vqav2", "vqa"), ("textvqa", "signs"), ("refcoco", "rec"), ("nextqa", "video")]
)
def test_columns_are_those_that_the_mini_suite_imitates(name, mini):
    theirs = [(f.name, pa.string() if f.name == "image" else f.type) for f in schemas.SCHEMAS[mini]]
    assert list(SPECS[name].columns) == theirs


def test_digest_does_not_depend_on_how_rows_are_cut_into_files(tmp_path, root):
    one = bring("vqav2", write_repo(tmp_path / "one", "vqav2", files=1), root)
    three = bring("vqav2", write_repo(tmp_path / "three", "vqav2", files=3), root)
    assert one.digest == three.digest


def test_an_image_of_several_questions_is_kept_once(tmp_path, root):
    made = bring("vqav2", write_repo(tmp_path / "raw", "vqav2"), root)
    files = [p for p in (made.path / "images").rglob("*") if p.is_file()]
    assert len(files) == len(read_media_list(made.path)) == 6
    assert sorted(p.read_bytes() for p in files) == sorted(picture(i) for i in range(6))


def test_images_beside_their_rows(tmp_path, root):
    rows, folder = given.vqa_rows(), tmp_path / "val2014"
    folder.mkdir()
    for row in rows:
        (folder / row["image"]["path"]).write_bytes(row["image"]["bytes"])
        row["image"]["bytes"] = None
    write_raw(tmp_path / "raw" / "validation.parquet", "vqav2", rows)
    made = bring("vqav2", tmp_path / "raw", root, Given(partial=True, images=folder))
    whole = bring("vqav2", write_repo(tmp_path / "whole", "vqav2"), tmp_path / "other")
    assert made.digest == whole.digest
    linked = made.path / "images" / rows[0]["image"]["path"]
    assert linked.samefile(folder / linked.name)
    with pytest.raises(DatasetError) as caught:
        bring("vqav2", tmp_path / "raw", root)
    told(caught, "row 0, field image", "--images")


def test_copies_are_no_links(tmp_path, root):
    write_repo(tmp_path / "raw", "mixture")
    made = bring("mixture", tmp_path / "raw", root, Given(partial=True, copy=True))
    shard = next((made.path / "shards").iterdir())
    assert not shard.samefile(tmp_path / "raw" / "data" / shard.name)


def test_another_device_gets_symbolic_links(tmp_path, root, monkeypatch):
    def cross(self, target):
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(Path, "hardlink_to", cross)
    made = bring("mixture", write_repo(tmp_path / "raw", "mixture"), root)
    assert all(p.is_symlink() for p in (made.path / "shards").iterdir())
    assert MediaReader(made.path).read("shards/train-00000-of-00002.parquet#0") == picture(300)


def test_refcoco_is_flattened(tmp_path, root):
    made = bring("refcoco", write_repo(tmp_path / "raw", "refcoco"), root)
    rows = read_rows(made.path / "testA.parquet")
    assert [r["question_id"] for r in rows][:5] == ["0-0", "0-1", "1-0", "1-1", "1-2"]
    assert [r["answer"] for r in rows][:5] == ["thing 0", "thing 1", "thing 0", "thing 1", "thing 2"]
    assert rows[0]["bbox"] == [0.1, 0.1, 0.6, 0.6]  # 4, 3, 20 x 15 of 40 x 30
    assert (rows[0]["image_width"], rows[0]["image_height"]) == (40, 30)
    assert len({r["image"] for r in rows}) == 3
    assert set(made.rows) == {"testA", "testB"}
    assert any("val of the hub was left out" in note for note in made.notes)


def test_refcoco_flattening_is_lmms_evals(tmp_path, root):
    """The same rows, boxes and expressions as lmms-eval's own function makes of the same images."""
    import harness.torchvision_shim  # noqa: F401  (lmms-eval imports torchvision)

    rec = pytest.importorskip("lmms_eval.tasks.refcoco.utils_rec")
    datasets = pytest.importorskip("datasets")
    raw = given.rec_rows(seed=100)
    made = bring("refcoco", write_repo(tmp_path / "raw", "refcoco"), root)
    features = {"image": datasets.Image(), "bbox": datasets.List(datasets.Value("float32"))}
    columns = {k: [r[k] for r in raw] for k in ("image", "bbox", "answer", "file_name")}
    plain = {"answer": datasets.List(datasets.Value("string")), "file_name": datasets.Value("string")}
    held = datasets.Dataset.from_dict(columns, features=datasets.Features(features | plain))
    theirs = rec.refcoco_bbox_rec_preprocess_dataset(held)
    ours = read_rows(made.path / "testA.parquet")
    assert [r["answer"] for r in ours] == theirs["answer"]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-6)
        assert (mine["image_width"], mine["image_height"]) == (other["image_width"], other["image_height"])


def test_boxes_are_those_of_the_upright_image(tmp_path, root):
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.open(io.BytesIO(picture(1))).save(out, "JPEG", exif=exif)
    rows = given.rec_rows(1)
    for row in rows:
        row["image"] = given.cell(out.getvalue())
        row["bbox"] = [3.0, 4.0, 15.0, 20.0]
    write_raw(tmp_path / "raw" / "test.parquet", "refcocog", rows)
    row = read_rows(bring("refcocog", tmp_path / "raw", root).path / "test.parquet")[0]
    assert (row["image_width"], row["image_height"], row["bbox"]) == (30, 40, [0.1, 0.1, 0.6, 0.6])


def test_perception_test_gets_the_column_video(tmp_path, root):
    made = bring("perceptiontest", write_repo(tmp_path / "raw", "perceptiontest"), root)
    rows = read_rows(made.path / "validation.parquet")
    assert [r["video"] for r in rows] == [r["video_name"] for r in rows]


def test_clips_from_a_folder_and_from_a_zip_are_the_same(tmp_path, root):
    packed = bring("nextqa", write_repo(tmp_path / "raw", "nextqa"), root)
    with zipfile.ZipFile(tmp_path / "raw" / "videos.zip") as archive:
        archive.extractall(tmp_path / "clips")
    (tmp_path / "raw" / "videos.zip").unlink()
    loose = bring(
        "nextqa", tmp_path / "raw", tmp_path / "other", Given(partial=True, clips=tmp_path / "clips")
    )
    assert packed.digest == loose.digest
    video = next((loose.path / "clips").iterdir())
    assert video.stat().st_nlink == 2


def test_the_16k_subset_follows_its_rule(tmp_path, root):
    import hashlib

    made = bring("vqav2", write_repo(tmp_path / "raw", "vqav2"), root)
    rows = read_rows(made.path / "validation_16k.parquet")
    key = lambda i: hashlib.sha256(f"eyechart-vqav2-16k:{i}".encode()).hexdigest()
    expected = sorted(given.vqa_rows(), key=lambda r: (key(r["image_id"]), r["question_id"]))
    assert [r["question_id"] for r in rows] == [r["question_id"] for r in expected]
    ids = [r["image_id"] for r in expected], [r["question_id"] for r in expected]
    assert subset_order(*ids, 7) == list(range(7))


def test_the_mixture(tmp_path, root):
    made = bring("mixture", write_repo(tmp_path / "raw", "mixture"), root)
    rows = read_rows(made.path / "train.parquet")
    assert [r["image_id"] for r in rows] == [0, 2, 3]
    assert [[e["kind"] for e in r["exchanges"]] for r in rows] == [
        ["short", "box"],
        ["describe", "choice"],
        ["open"],
    ]
    assert rows[0]["exchanges"][0]["prompt"] == "What is it?"
    assert read_json(made.path / "DATASET.json")["left_out"] == {"no image": 1}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("[0, 0.5, 1, 1.0]", "box"),
        ("[0.1,0.2,.3,0.4].", "box"),
        ("[0.1, 0.2, 1.5, 0.4]", "open"),
        ("at [0.1, 0.2, 0.3, 0.4]", "open"),
        ("C", "choice"),
        ("C.", "choice"),
        ("I", "choice"),
        ("c", "short"),
        ("red", "short"),
        ("a red ball rolls", "open"),
        ("w " * 40, "open"),
        ("w " * 41, "describe"),
    ],
)
def test_kinds_of_exchanges(answer, kind):
    assert kind_of(answer) == kind


def test_turns_without_a_partner_are_counted():
    turns = [
        {"from": "gpt", "value": "Hi"},
        {"from": "human", "value": "A?<image>"},
        {"from": "gpt", "value": "B b b b"},
    ]
    turns += [{"from": "human", "value": "C?"}, {"from": "gpt", "value": " "}]
    exchanges, dropped = exchanges_of(turns)
    assert exchanges == [{"kind": "open", "prompt": "A?", "answer": "B b b b"}]
    assert dropped == 3


# --- what goes wrong with a source


def without(name):
    def change(rows):
        for row in rows:
            del row[name]

    return change


def put(index, field, value):
    def change(rows):
        rows[index][field] = value

    return change


def answers(index, edit):
    def change(rows):
        edit(rows[index]["answers"])

    return change


ROW_FAULTS = [
    ("vqav2", put(4, "question_id", 1000 * 100), ["row 4", "question_id", "100000"]),
    ("vqav2", put(4, "question", " "), ["row 4", "field question"]),
    ("vqav2", put(2, "image_id", None), ["row 2", "field image_id"]),
    ("vqav2", put(5, "answers", []), ["row 5", "field answers", "10"]),
    ("vqav2", put(5, "answers", None), ["row 5", "field answers"]),
    ("vqav2", answers(3, lambda a: a.pop()), ["row 3", "found 9"]),
    ("vqav2", answers(3, lambda a: a[1].update(answer_id=1)), ["row 3", "answer_id twice"]),
    ("vqav2", answers(3, lambda a: a[1].update(answer=None)), ["row 3", "field answers"]),
    ("vqav2", put(1, "image", None), ["row 1", "field image"]),
    ("vqav2", put(1, "image", {"bytes": b"", "path": None}), ["row 1", "field image", "0 bytes"]),
    ("textvqa", put(1, "answers", [""] * 10), ["row 1", "field answers"]),
    ("textvqa", put(1, "image_id", ""), ["row 1", "field image_id"]),
    ("refcocog", put(1, "bbox", [1.0, 2.0, 0.0, 5.0]), ["row 1", "field bbox", "x1 < x2"]),
    ("refcocog", put(1, "bbox", [30.0, 2.0, 20.0, 5.0]), ["row 1", "field bbox"]),
    ("refcocog", put(1, "bbox", [1.0, 2.0]), ["row 1", "field bbox", "4 numbers"]),
    ("refcocog", put(1, "bbox", [1.0, float("nan"), 3.0, 4.0]), ["row 1", "field bbox"]),
    ("refcocog", put(1, "answer", []), ["row 1", "field answer"]),
    ("refcocog", put(2, "answer", [""]), ["row 2", "field answer"]),
    ("refcocog", put(3, "question_id", "0"), ["row 3", "question_id", "0-0"]),
    ("refcocog", put(3, "image", given.cell(b"no picture")), ["row 3", "field image", "10 bytes"]),
    ("refcocog", put(3, "segmentation", [float("inf")]), ["row 3", "segmentation"]),
    ("nextqa", put(1, "answer", 5), ["row 1", "field answer", "0 to 4"]),
    ("nextqa", put(1, "answer", None), ["row 1", "field answer"]),
    ("nextqa", put(1, "a3", ""), ["row 1", "field a3"]),
    ("nextqa", put(1, "qid", 0), ["row 1", "video, qid"]),
    ("nextqa", put(1, "video", 77), ["row 1", "field video", "77.mp4"]),
    ("nextqa", put(1, "video", None), ["row 1", "field video"]),
    ("perceptiontest", put(1, "answer_id", "3"), ["row 1", "field answer_id"]),
    ("perceptiontest", put(1, "options", ["a", "b"]), ["row 1", "field options"]),
    ("perceptiontest", put(1, "video_name", "../x"), ["row 1", "refused"]),
    ("imagenet", put(1, "label", -1), ["row 1", "field label"]),
    ("imagenet", put(1, "label", 1000), ["row 1", "field label"]),
    ("imagenet", put(5, "label", 3), ["row 5", "field label", "n01491361"]),
    ("imagenet", put(1, "image", None), ["row 1", "field image"]),
    # Columns
    ("vqav2", without("question"), ["column question", "no such column"]),
    ("textvqa", without("answers"), ["column answers"]),
    ("mixture", without("conversations"), ["column conversations"]),
]


@pytest.mark.parametrize(("name", "change", "words"), ROW_FAULTS)
def test_faults_of_rows_are_named(tmp_path, root, name, change, words):
    split, make = next(iter(RAW[name].items()))
    write_repo(tmp_path / "raw", name)
    rows = make()
    change(rows)
    for path in (tmp_path / "raw").rglob(f"{split}-*.parquet"):
        path.unlink()
    missing = set(SPECS[name].raw_columns) - {c for c in SPECS[name].raw_columns if c[0] in rows[0]}
    schema = pa.schema([c for c in SPECS[name].raw_columns if c not in missing])
    write_raw(tmp_path / "raw" / f"{split}.parquet", name, rows, schema)
    with pytest.raises(EyechartError) as caught:
        bring(name, tmp_path / "raw", root)
    assert caught.value.exit_code in {4, 5}
    told(caught, *words)
    assert not (root / name).exists()


def test_a_renamed_column_is_told_with_its_new_name(tmp_path, root):
    rows = given.vqa_rows()
    for row in rows:
        row["question_text"] = row.pop("question")
    kinds = [("question_text" if n == "question" else n, k) for n, k in SPECS["vqav2"].raw_columns]
    write_raw(tmp_path / "raw" / "validation.parquet", "vqav2", rows, pa.schema(kinds))
    with pytest.raises(DatasetError) as caught:
        bring("vqav2", tmp_path / "raw", root)
    told(caught, "validation.parquet: column question", "question_text")


def test_a_column_of_another_type(tmp_path, root):
    rows = given.vqa_rows()
    for row in rows:
        row["question_id"] = str(row["question_id"])
    kinds = [(n, pa.string() if n == "question_id" else k) for n, k in SPECS["vqav2"].raw_columns]
    write_raw(tmp_path / "raw" / "validation.parquet", "vqav2", rows, pa.schema(kinds))
    with pytest.raises(DatasetError) as caught:
        bring("vqav2", tmp_path / "raw", root)
    told(caught, "column question_id", "string", "int64")


@pytest.mark.parametrize("cut", [3, 200, -60])
def test_a_truncated_parquet_file(tmp_path, root, cut):
    path = write_repo(tmp_path / "raw", "vqav2") / "data" / "validation-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DatasetError) as caught:
        bring("vqav2", tmp_path / "raw", root)
    told(caught, path.name, "not a whole Parquet file", "bytes")


def test_a_parquet_file_damaged_inside(tmp_path, root):
    path = write_repo(tmp_path / "raw", "vqav2") / "data" / "validation-00001-of-00002.parquet"
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(bytes(data))
    with pytest.raises(DatasetError) as caught:
        bring("vqav2", tmp_path / "raw", root)
    told(caught, path.name, "row")


def test_files_of_a_split_are_missing(tmp_path, root):
    write_repo(tmp_path / "raw", "vqav2", files=3)
    next((tmp_path / "raw" / "data").iterdir()).unlink()
    with pytest.raises(DatasetError, match=r"found 2 files, expected 3"):
        bring("vqav2", tmp_path / "raw", root)


def test_empty_missing_and_wrong_places(tmp_path, root):
    write_raw(tmp_path / "raw" / "validation.parquet", "vqav2", [])
    with pytest.raises(DatasetError, match="split is empty"):
        bring("vqav2", tmp_path / "raw", root)
    with pytest.raises(DatasetError, match="nothing to import"):
        bring("nextqa", tmp_path, root)
    with pytest.raises(DatasetError, match="folder is missing"):
        bring("vqav2", tmp_path / "none", root)
    with pytest.raises(UsageError, match="not a folder"):
        bring("vqav2", tmp_path / "raw" / "validation.parquet", root)
    write_repo(tmp_path / "plus", "refcocoplus")
    for path in (tmp_path / "plus").rglob("testB-*"):
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        bring("refcocoplus", tmp_path / "plus", root)
    told(caught, "testB", "--splits", "val, testA")
    made = bring("refcocoplus", tmp_path / "plus", root, Given(partial=True, splits=("val", "testA")))
    assert set(made.rows) == {"val", "testA"}


def test_other_numbers_of_rows_need_a_word(tmp_path, root):
    write_repo(tmp_path / "raw", "vqav2")
    with pytest.raises(DatasetError) as caught:
        bring("vqav2", tmp_path / "raw", root, Given())
    told(caught, "found 18", "214,354", "--partial")
    bring("vqav2", tmp_path / "raw", root)
    assert read_json(root / "vqav2" / "DATASET.json")["partial"] is True


@pytest.mark.parametrize(("name", "split"), [("refcoco", "val"), ("refcoco", "test"), ("refcocog", "val")])
def test_mixed_splits_of_the_hub_are_refused(tmp_path, root, name, split):
    write_repo(tmp_path / "raw", name)
    for path in (tmp_path / "raw").rglob(f"{split}-*"):
        path.unlink()
    write_raw(tmp_path / "raw" / "data" / f"{split}.parquet", name, given.rec_rows())
    with pytest.raises(DatasetError, match="google"):
        bring(name, tmp_path / "raw", root, Given(partial=True, splits=(split,)))


def test_unknown_splits(tmp_path, root):
    write_repo(tmp_path / "raw", "vqav2")
    for split, words in (("valdation", "validation"), ("validation_16k", "drawn")):
        with pytest.raises(UsageError, match=words):
            bring("vqav2", tmp_path / "raw", root, Given(splits=(split,)))


def test_zips_that_are_none_or_hold_damaged_clips(tmp_path, root):
    path = write_repo(tmp_path / "raw", "nextqa") / "videos.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    with pytest.raises(DatasetError, match="not a whole zip"):
        bring("nextqa", tmp_path / "raw", root)
    path.write_bytes(whole[:60] + b"\0" * 400 + whole[460:])
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        bring("nextqa", tmp_path / "raw", root)


# --- interrupted


def test_finished_splits_are_not_read_again(tmp_path, root, monkeypatch):
    write_repo(tmp_path / "raw", "refcocoplus")
    whole = bring("refcocoplus", tmp_path / "raw", tmp_path / "whole")
    last = max((tmp_path / "raw" / "data").glob("testB-*"))
    data = last.read_bytes()
    last.write_bytes(data[:4] + bytes(3000) + data[3004:])
    with pytest.raises(DatasetError, match="testB"):
        bring("refcocoplus", tmp_path / "raw", root)
    assert not (root / "refcocoplus").exists()
    last.write_bytes(data)
    read = []
    kept = prepare.Draft.store
    monkeypatch.setattr(prepare.Draft, "store", lambda self, d: read.append(d) or kept(self, d))
    made = bring("refcocoplus", tmp_path / "raw", root)
    assert made.digest == whole.digest
    assert len(read) == 6  # testB's rows only
    assert (root / "refcocoplus" / "media.parquet").read_bytes() == (
        tmp_path / "whole" / "refcocoplus" / "media.parquet"
    ).read_bytes()


def test_a_draft_of_another_source_leaves_nothing(tmp_path, root):
    write_repo(tmp_path / "raw", "refcocoplus")
    last = max((tmp_path / "raw" / "data").glob("testB-*"))
    last.write_bytes(b"PAR1")
    rows = given.rec_rows(seed=900)
    for split in ("val", "testA", "testB"):
        write_raw(tmp_path / "other" / f"{split}.parquet", "refcocoplus", rows)
    with pytest.raises(DatasetError):
        bring("refcocoplus", tmp_path / "raw", root)
    made = bring("refcocoplus", tmp_path / "other", root)
    files = {p.relative_to(made.path).as_posix() for p in (made.path / "images").rglob("*") if p.is_file()}
    assert files == set(read_media_list(made.path))


def test_a_full_disk_keeps_what_is_written(tmp_path, root, monkeypatch):
    write_repo(tmp_path / "raw", "vqav2")
    kept, count = Path.write_bytes, []

    def full(self, data):
        count.append(self)
        if len(count) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return kept(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError) as caught:
        bring("vqav2", tmp_path / "raw", root)
    told(caught, "No space left", "run the same command again")
    monkeypatch.undo()
    assert len(list((root / ".vqav2-draft" / "images").rglob("*.jpg"))) == 3
    assert bring("vqav2", tmp_path / "raw", root).rows["validation"] == 18


def test_interrupted_at_any_row_and_resumed(tmp_path, root):
    write_repo(tmp_path / "raw", "refcocoplus")
    whole = bring("refcocoplus", tmp_path / "raw", tmp_path / "whole")

    def stop_at(row):
        def progress(done, _total):
            if done == row:
                raise KeyboardInterrupt

        return progress

    for row in (1, 5, 9, 16):
        with pytest.raises(KeyboardInterrupt):
            bring("refcocoplus", tmp_path / "raw", root, progress=stop_at(min(row, 6)))
        assert not (root / "refcocoplus").exists()
        assert not list((root / ".refcocoplus-draft").glob(".tmp-*"))
    assert bring("refcocoplus", tmp_path / "raw", root).digest == whole.digest


def test_counts_survive_a_kill_before_the_note(tmp_path, root, monkeypatch):
    write_repo(tmp_path / "raw", "mixture")
    with monkeypatch.context() as patch:
        patch.setattr(prepare.Draft, "close", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            bring("mixture", tmp_path / "raw", root)
    made = bring("mixture", tmp_path / "raw", root)
    assert read_json(made.path / "DATASET.json")["left_out"] == {"no image": 1}
    assert made.notes[0] == "left out, no image: 1"
    assert "fractions of the picture: 1, cut at an edge: 0" in made.notes[1]


def test_two_at_once(tmp_path, root):
    write_repo(tmp_path / "raw", "textvqa")
    first = prepare.Draft(SPECS["textvqa"], root)
    with pytest.raises(StoreBusyError, match="another process"):
        bring("textvqa", tmp_path / "raw", root)
    first.release()
    bring("textvqa", tmp_path / "raw", root)
    assert [p.name for p in root.iterdir()] == ["textvqa"]


def test_the_old_dataset_stays_until_the_new_one_is_whole(tmp_path, root):
    write_repo(tmp_path / "raw", "textvqa")
    old = bring("textvqa", tmp_path / "raw", root)
    (tmp_path / "raw" / "data" / "validation-00001-of-00002.parquet").write_bytes(b"")
    with pytest.raises(DatasetError):
        bring("textvqa", tmp_path / "raw", root)
    assert check_dataset(old.path, old.digest) == old.digest


# --- COCO and REFER


@pytest.fixture
def refer(tmp_path):
    """Two images, two objects each, as the REFER files have them."""
    folder = tmp_path / "refcoco"
    (folder / "images").mkdir(parents=True)
    images, annotations, refs = [], [], []
    for i in range(2):
        name = f"COCO_train2014_{i:012d}.jpg"
        (folder / "images" / name).write_bytes(picture(i))
        images.append({"id": i, "file_name": name, "width": 40, "height": 30})
        for k in range(2):
            a = 10 * i + k
            segmentation = [[1.0, 2.0, 3.0, 4.0]] if k else {"counts": [1], "size": [30, 40]}
            annotations.append(
                {"id": a, "image_id": i, "bbox": [4, 3, 20, 15], "segmentation": segmentation, "iscrowd": 0}
            )
            said = [{"sent": f"thing {n}", "raw": f"Thing {n}", "sent_id": n, "tokens": []} for n in range(2)]
            split = ["val", "testA", "testB", "train"][2 * i + k]
            refs.append(
                {
                    "ref_id": a,
                    "ann_id": a,
                    "image_id": i,
                    "split": split,
                    "sentences": said,
                    "file_name": name,
                }
            )
    write_refer(folder, refs, {"images": images, "annotations": annotations})
    return folder, refs, {"images": images, "annotations": annotations}


def write_refer(folder, refs, instances):
    (folder / "refs(unc).json").write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps(instances))


def test_refer_json(refer, root):
    made = bring("refcoco", refer[0], root)
    assert made.rows == {"val": 2, "testA": 2, "testB": 2}
    row = read_rows(made.path / "testA.parquet")[1]
    assert row["question_id"] == "1-1"
    assert row["answer"] == "thing 1"
    assert row["bbox"] == [0.1, 0.1, 0.6, 0.6]
    assert row["segmentation"] == [1.0, 2.0, 3.0, 4.0]
    assert row["file_name"] == "COCO_train2014_000000000000_1.jpg"
    assert row["image"] == "images/COCO_train2014_000000000000.jpg"
    assert (made.path / row["image"]).samefile(refer[0] / row["image"])


def test_references_as_a_pickle_are_refused(refer, root):
    (refer[0] / "refs(unc).json").rename(refer[0] / "refs(unc).p")
    with pytest.raises(UnsafeInputError) as caught:
        bring("refcoco", refer[0], root)
    told(caught, "refs(unc).p", "json.dump")
    with pytest.raises(UnsafeInputError):
        bring("refcoco", refer[0] / "refs(unc).p", root)


REFER_FAULTS = [
    (lambda r, i: r[1].pop("sentences"), ["row 1", "field sentences"]),
    (lambda r, i: r[1].update(ann_id=99), ["row 1", "field ann_id", "99"]),
    (lambda r, i: r[1].update(ann_id=10), ["row 1", "ann_id", "image 1"]),
    (lambda r, i: r[1].update(image_id="0"), ["row 1", "image_id", "int"]),
    (lambda r, i: r[2].update(ref_id=None), ["row 2", "ref_id"]),
    (lambda r, i: i["images"][0].update(width=41), ["row 0", "40 x 30", "41 x 30"]),
    (lambda r, i: i["images"][0].update(file_name="x.jpg"), ["x.jpg", "image is missing"]),
    (lambda r, i: i["images"][0].update(file_name="../../x.jpg"), ["image is missing"]),
    (lambda r, i: i["annotations"][1].update(bbox=[1, 2, 3]), ["row 1", "bbox"]),
    (lambda r, i: i.pop("annotations"), ["annotations"]),
]


@pytest.mark.parametrize(("change", "words"), REFER_FAULTS)
def test_faults_of_refer_files(refer, root, change, words):
    folder, refs, instances = refer
    change(refs, instances)
    write_refer(folder, refs, instances)
    with pytest.raises(DatasetError) as caught:
        bring("refcoco", folder, root)
    told(caught, *words)


def test_refer_files_that_are_no_json(refer, root):
    (refer[0] / "instances.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        bring("refcoco", refer[0], root)


# --- ImageNet


@pytest.fixture
def pictures(tmp_path):
    """ImageNet as folders of classes."""
    folder = tmp_path / "imagenet"
    for split, each in (("train", 2), ("val", 1)):
        for i, synset in enumerate(SYNSETS):
            for k in range(each):
                path = folder / split / synset / f"{synset}_{k}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(1000 * each + 10 * i + k))
    return folder


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def as_tars(source, target):
    """ILSVRC's tars: a tar of tars for train, a flat one for val."""
    target.mkdir()
    with tarfile.open(target / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in SYNSETS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for path in sorted((source / "train" / synset).iterdir()):
                    add(tar, path.name, path.read_bytes())
            add(outer, f"{synset}.tar", inner.getvalue())
    with tarfile.open(target / "ILSVRC2012_img_val.tar", "w") as tar:
        for path in sorted((source / "val").rglob("*.JPEG")):
            add(tar, path.name, path.read_bytes())
    stems = {p.stem: p.parent.name for p in (source / "val").rglob("*.JPEG")}
    lines = ["ImageId,PredictionString", *(f"{stem},{synset} 1 2 3 4" for stem, synset in stems.items())]
    (target / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")


def test_folders_tars_and_flat_validation_are_one_dataset(pictures, tmp_path, root):
    folders = bring("imagenet", pictures, root)
    assert folders.rows == {"train": 8, "validation": 4}
    rows = read_rows(folders.path / "train.parquet")
    assert [r["label"] for r in rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    as_tars(pictures, tmp_path / "tars")
    packed = bring("imagenet", tmp_path / "tars", tmp_path / "packed")
    row = read_rows(packed.path / "train.parquet")[3]
    assert "ILSVRC2012_img_train.tar#" in row["image"]
    assert (
        MediaReader(packed.path).read(row["image"])
        == (pictures / "train" / SYNSETS[1] / f"{SYNSETS[1]}_1.JPEG").read_bytes()
    )
    flat = tmp_path / "flat" / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(pictures / "train", flat / "train")
    (flat / "val").mkdir()
    for path in (pictures / "val").rglob("*.JPEG"):
        shutil.copy(path, flat / "val" / path.name)
    shutil.copy(tmp_path / "tars" / "LOC_val_solution.csv", tmp_path / "flat")
    given_out = bring("imagenet", tmp_path / "flat", tmp_path / "third")
    assert folders.digest == packed.digest == given_out.digest


def test_images_whose_class_nothing_tells(pictures, tmp_path, root):
    as_tars(pictures, tmp_path / "tars")
    solution = tmp_path / "tars" / "LOC_val_solution.csv"
    for path in (pictures / "val").rglob("*.JPEG"):
        path.rename(path.with_name(f"ILSVRC2012_val_{path.stem[-1]}{path.parent.name[-3:]}.JPEG"))
    for path in sorted((pictures / "val").rglob("*.JPEG")):
        path.rename(pictures / "val" / path.name)
    with pytest.raises(DatasetError, match="image without a class"):
        bring("imagenet", pictures, root)
    solution.write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="not ILSVRC's solution"):
        bring("imagenet", tmp_path / "tars", root)


def test_a_class_that_was_never_trained_on(pictures, root):
    shutil.rmtree(pictures / "train" / SYNSETS[1])
    with pytest.raises(DatasetError, match=f"class without training images.*{SYNSETS[1]}"):
        bring("imagenet", pictures, root)


@pytest.mark.parametrize("damage", [lambda b: b[:1400], lambda b: b"\x1f\x8b" + b[2:]])
def test_tars_cut_short_or_compressed(pictures, tmp_path, root, damage):
    as_tars(pictures, tmp_path / "tars")
    path = tmp_path / "tars" / "ILSVRC2012_img_train.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"ILSVRC2012_img_train\.tar.*tar"):
        bring("imagenet", tmp_path / "tars", root)


def test_the_label_order_is_pinned():
    order = [f"n{i:08d}" for i in range(1000)]
    with pytest.raises(DatasetError, match="another order"):
        import_imagenet.check_label_order(order, "x")
    assert len(import_imagenet.check_label_order(order[:3], "x")) == 64
    timm = importlib.util.find_spec("timm")
    if timm is None or timm.origin is None:
        pytest.skip("timm, which ships the list, is not installed")
    names = (Path(timm.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    assert import_imagenet.check_label_order(names, "x") == import_imagenet.LABEL_ORDER


def test_labels_in_another_order_than_the_synsets(tmp_path, root):
    rows = given.class_rows("train")
    for row in rows:
        row["label"] = 3 - row["label"]
    write_raw(tmp_path / "raw" / "train.parquet", "imagenet", rows)
    write_raw(tmp_path / "raw" / "validation.parquet", "imagenet", given.class_rows("validation", 1))
    with pytest.raises(DatasetError, match="not in the order of the synsets"):
        bring("imagenet", tmp_path / "raw", root)


# --- memory


def test_large_sources_are_read_in_small_pieces(tmp_path, root, monkeypatch):
    """One row group of 400 rows with 200 kB each: 80 MB; what is held stays far below."""
    import tracemalloc

    rows = given.mixture_rows()[:1] * 400
    data = [given.cell(picture(i) + bytes(200_000)) for i in range(400)]
    rows = [{**row, "image": image} for row, image in zip(rows, data, strict=True)]
    (tmp_path / "raw").mkdir()
    table = pa.Table.from_pylist(rows, schema=given.raw_schema("mixture"))
    pq.write_table(table, tmp_path / "raw" / "train.parquet", row_group_size=100, compression="none")
    del rows, data, table
    before = pa.total_allocated_bytes()
    most = []
    tracemalloc.start()
    bring("mixture", tmp_path / "raw", root, progress=lambda *_: most.append(pa.total_allocated_bytes()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert max(most) - before < 60_000_000


def test_clips_are_taken_by_id_wherever_a_zip_says_they_go(tmp_path, root):
    write_repo(tmp_path / "raw", "nextqa")
    ids = [str(r["video"]) for r in given.choice_rows()]
    with zipfile.ZipFile(tmp_path / "raw" / "videos.zip", "w") as out:
        for video in dict.fromkeys(ids):
            out.writestr(f"../../../{video}.mp4", clip(1))
    made = bring("nextqa", tmp_path / "raw", root)
    assert {p.name for p in (made.path / "clips").iterdir()} == {f"{i}.mp4" for i in ids}
    assert not list(tmp_path.glob("*.mp4"))
