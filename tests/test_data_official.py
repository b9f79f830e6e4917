"""VQAv2, TextVQA and ImageNet from what their authors give out mean what the hub's rows mean."""

from __future__ import annotations

import io
import random
import tarfile
from dataclasses import replace

import hub_datasets as given
import official_files as official
import pytest
from hub_datasets import SYNSETS, picture, write_repo

from harness.cli import main
from harness.data import open_split, read_rows
from harness.datasets.import_devkit import synsets_of
from harness.datasets.make import Given, import_dataset
from harness.datasets.specs import SPECS
from harness.errors import DatasetError, EyechartError, UnsafeInputError, UsageError
from harness.files import read_json
from harness.media import MediaReader
from harness.task import known_tasks, read_task

SOME = Given(partial=True)
MAKERS = {
    "vqav2": (given.vqa_rows, official.vqav2_files, "val2014"),
    "textvqa": (given.text_rows, official.textvqa_files, "train_images"),
}
ZIPS = {"vqav2": "val2014.zip", "textvqa": "train_val_images.zip"}


def release(folder, name, change=lambda files: None, *, packed=False):
    """An official release of the tests' rows below a folder."""
    make, files_of, images = MAKERS[name]
    rows = make()
    files = files_of(rows)
    change(files)
    official.write_json_files(folder, files)
    official.write_images(rows, folder / images, folder / ZIPS[name] if packed else None)
    return folder


def bring(name, place, root, given_=SOME):
    return import_dataset(SPECS[name], place, root, given_)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", list(MAKERS))
def test_official_files_are_the_hubs_rows(tmp_path, name, packed):
    hub = bring(name, write_repo(tmp_path / "hub", name), tmp_path / "one")
    made = bring(name, release(tmp_path / "official", name, packed=packed), tmp_path / "two")
    tasks = [read_task(t) for t in known_tasks()]
    tasks = [t for t in tasks if (t.suite, t.dataset) == ("main", name)]
    assert tasks
    for task in [replace(t, num_expected=made.rows[t.split]) for t in tasks]:
        left, right = (open_split(task, root, 1) for root in (tmp_path / "one", tmp_path / "two"))
        assert [s.sample_id for s in left.samples] == [s.sample_id for s in right.samples]
        assert [s.prompt for s in left.samples] == [s.prompt for s in right.samples]
        assert left.samples == right.samples
        for i in range(len(left.media.keys)):
            assert (left.media.load(i) == right.media.load(i)).all()
    # Rows and pictures are the same to the byte, so the digest is too.
    assert made.digest == hub.digest
    assert read_json(made.path / "DATASET.json")["source"]["kind"] == "official"
    row = read_rows(made.path / "validation.parquet")[0]
    assert row["image"].startswith("images/")


def test_images_elsewhere(tmp_path):
    place = release(tmp_path / "official", "vqav2")
    (place / "val2014").rename(tmp_path / "pictures")
    with pytest.raises(UsageError, match=r"images are needed.*val2014 or val2014\.zip.*--images"):
        bring("vqav2", place, tmp_path / "root")
    made = bring("vqav2", place, tmp_path / "root", replace(SOME, images=tmp_path / "pictures"))
    assert made.rows["validation"] == 18
    with pytest.raises(DatasetError, match="images are missing"):
        bring("vqav2", place, tmp_path / "root", replace(SOME, images=tmp_path / "none"))


def test_ocr_tokens_are_not_needed(tmp_path):
    place = release(tmp_path / "official", "textvqa")
    (place / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    made = bring("textvqa", place, tmp_path / "root")
    assert {tuple(r["ocr_tokens"]) for r in read_rows(made.path / "validation.parquet")} == {()}
    assert any("ocr_tokens are empty" in note for note in made.notes)


def test_a_whole_count_is_asked_for(tmp_path):
    with pytest.raises(DatasetError, match=r"found 18, expected 214,354.*--partial"):
        bring("vqav2", release(tmp_path / "official", "vqav2"), tmp_path / "root", Given())


Q, A, T = (
    "v2_OpenEnded_mscoco_val2014_questions.json",
    "v2_mscoco_val2014_annotations.json",
    "TextVQA_0.5.1_val.json",
)
FAULTS = [
    ("vqav2", lambda f: f.pop(A), ["file is missing", A]),
    ("vqav2", lambda f: f.pop(Q), ["file is missing", Q]),
    ("vqav2", lambda f: f[Q].update(data_subtype="train2014"), [Q, "data_subtype", "train2014"]),
    ("vqav2", lambda f: f[A].update(annotations={}), [A, "no list of annotations", "dict"]),
    ("vqav2", lambda f: f[A].pop("annotations"), [A, "no list of annotations"]),
    ("vqav2", lambda f: f[Q]["questions"].clear(), ["annotations without a question", "18"]),
    ("vqav2", lambda f: f[Q]["questions"].pop(3), ["annotations without a question", "18", "17"]),
    ("vqav2", lambda f: f[A]["annotations"].pop(0), ["row 17", "question_id", "without annotations"]),
    ("vqav2", lambda f: f[A]["annotations"].append(f[A]["annotations"][0]), ["row 18", "two annotations"]),
    ("vqav2", lambda f: f[Q]["questions"][2].update(image_id=5), ["row 2", "image_id", "found 5"]),
    ("vqav2", lambda f: f[Q]["questions"][2].update(image_id="5"), ["row 2", "image_id", "int"]),
    ("vqav2", lambda f: f[Q]["questions"][2].update(question=None), ["row 2", "field question"]),
    ("vqav2", lambda f: f[Q]["questions"].__setitem__(2, "x"), ["row 2", "question_id"]),
    ("vqav2", lambda f: f[A]["annotations"][2].update(answers="yes"), ["row 2", "field answers", "list"]),
    ("vqav2", lambda f: f[A]["annotations"][2].update(answers=[1]), ["row 2", "answers"]),
    ("vqav2", lambda f: f[A]["annotations"][2]["answers"].pop(), ["field answers", "10 answers"]),
    ("vqav2", lambda f: f[A]["annotations"][2].update(question_id=True), ["row 2", "question_id"]),
    ("textvqa", lambda f: f[T].update(dataset_type="train"), [T, "dataset_type", "train"]),
    ("textvqa", lambda f: f[T].update(data=None), [T, "no list of data"]),
    ("textvqa", lambda f: f[T]["data"].clear(), ["split is empty"]),
    ("textvqa", lambda f: f[T]["data"][1].update(image_id="../../x"), ["row 1", "x.jpg", "missing"]),
    ("textvqa", lambda f: f[T]["data"][1].update(image_id="a#b"), ["row 1", "file name refused"]),
    ("textvqa", lambda f: f[T]["data"][1].update(answers=["a"]), ["row 1", "field answers"]),
    ("textvqa", lambda f: f[T]["data"][1].update(answers=[None] * 10), ["row 1", "field answers"]),
    ("textvqa", lambda f: f[T]["data"][1].update(question_id=2**40), ["does not fit its column"]),
    ("textvqa", lambda f: f[T]["data"][1].update(question_id=34602), ["row 1", "two rows have one name"]),
    ("textvqa", lambda f: f.update({T: []}), [T, "expected a table"]),
]


@pytest.mark.parametrize(("name", "change", "words"), FAULTS)
def test_faults_of_official_files(tmp_path, name, change, words):
    place = release(tmp_path / "official", name, change)
    with pytest.raises(EyechartError) as caught:
        bring(name, place, tmp_path / "root")
    text = str(caught.value)
    assert caught.value.exit_code in {4, 5}
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"data": [NaN]}'])
def test_json_that_is_none(tmp_path, capsys, monkeypatch, data):
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "home"))
    place = release(tmp_path / "official", "textvqa")
    (place / T).write_bytes(data)
    assert main(["data", "import", "textvqa", str(place), "--partial"]) == 5
    error = capsys.readouterr().err
    assert "not valid JSON" in error and error.count("\n") == 1


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "home"))
    place = release(tmp_path / "official", "vqav2", packed=True)
    (place / "val2014.zip").rename(tmp_path / "pictures.zip")
    words = ["vqav2", str(place), "--images", str(tmp_path / "pictures.zip"), "--partial"]
    assert main(["data", "import", *words]) == 0
    assert "packed for the site: eyechart_vqav2" in capsys.readouterr().out
    assert main(["data", "doctor", "vqav2"]) == 0
    (tmp_path / "pictures.zip").write_bytes(b"PK\x03\x04 no")
    assert main(["data", "import", *words]) == 5
    assert "not a whole zip file" in capsys.readouterr().err


# --- ImageNet: the devkit tells what validation images are

TRUTH = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
META = "ILSVRC2012_devkit_t12/data/meta.mat"
ORDER = [SYNSETS[2], SYNSETS[0], SYNSETS[3], SYNSETS[1]]
"""Of the devkit's numbers: another than the labels'."""


@pytest.fixture
def ilsvrc(tmp_path):
    """ILSVRC's tars, whose validation images are numbered; returns its folder and the devkit's files."""
    folder = tmp_path / "ilsvrc"
    folder.mkdir()
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for i, synset in enumerate(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for k in range(2):
                    add(tar, f"{synset}_{k}.JPEG", picture(10 * i + k))
            add(outer, f"{synset}.tar", inner.getvalue())
    truth = [1, 3, 2, 4, 1, 1]
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for i in range(len(truth)):
            add(tar, f"ILSVRC2012_val_{i + 1:08d}.JPEG", picture(100 + i))
    return folder, official.devkit_files(ORDER, truth)


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("target", ["ILSVRC2012_devkit_t12.tar.gz", "."])
def test_the_devkit_tells_the_classes_of_validation(tmp_path, ilsvrc, target):
    folder, files = ilsvrc
    official.write_devkit(folder / target, files)
    made = bring("imagenet", folder, tmp_path / "root")
    reader = MediaReader(made.path)
    rows = read_rows(made.path / "validation.parquet")
    found = {reader.read(row["image"]): row["label"] for row in rows}
    # 1 is SYNSETS[2], and the label is the index among the sorted names.
    assert found == {picture(100 + i): label for i, label in enumerate([2, 3, 0, 1, 2, 2])}
    lines = [f"ILSVRC2012_val_{i + 1:08d},{SYNSETS[n]} 0 0 1 1" for i, n in enumerate([2, 3, 0, 1, 2, 2])]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]) + "\n")
    assert bring("imagenet", folder, tmp_path / "other").digest == made.digest


def test_without_a_devkit_the_fix_names_it(tmp_path, ilsvrc):
    with pytest.raises(DatasetError, match=r"image without a class.*ILSVRC2012_devkit_t12\.tar\.gz"):
        bring("imagenet", ilsvrc[0], tmp_path / "root")


BOMB = official.bomb_mat(200 * 2**20)
DEVKITS = [
    (lambda f: f.pop(TRUTH), 5, "not whole"),
    (lambda f: f.pop(META), 5, "not whole"),
    (lambda f: f.update({TRUTH: b"1\n3\nx\n"}), 5, "line 3"),
    (lambda f: f.update({TRUTH: b"1\n1001\n"}), 5, "line 2"),
    (lambda f: f.update({TRUTH: b"1\n5\n"}), 5, "line 2"),
    (lambda f: f.update({TRUTH: b"1" * 10_000}), 5, "line 1"),
    (lambda f: f.update({TRUTH: b"1\n2\n"}), 5, "image without a class"),
    (lambda f: f.update({META: b""}), 5, "meta.mat"),
    (lambda f: f.update({META: f[META][:200]}), 5, "meta.mat"),
    (lambda f: f.update({META: f[META][:128] + bytes(500)}), 5, "meta.mat"),
    (lambda f: f.update({META: official.meta_mat([SYNSETS[0]] * 4)}), 5, "meta.mat"),
    (lambda f: f.update({META: official.meta_mat(["dog"] * 4)}), 5, "0 classes"),
    (lambda f: f.update({META: BOMB}), 4, "unpacks to far more"),
    (lambda f: f.update({"big": bytes(65 * 2**20)}), 4, "unpacks to far more"),
]


@pytest.mark.parametrize(("change", "code", "word"), DEVKITS)
def test_faults_of_the_devkit(tmp_path, ilsvrc, change, code, word):
    folder, files = ilsvrc
    change(files)
    official.write_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz", files)
    with pytest.raises(EyechartError) as caught:
        bring("imagenet", folder, tmp_path / "root")
    assert caught.value.exit_code == code
    assert word in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"no", lambda b: b""])
def test_a_damaged_devkit(tmp_path, ilsvrc, damage):
    folder, files = ilsvrc
    path = folder / "ILSVRC2012_devkit_t12.tar.gz"
    official.write_devkit(path, files)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match="not a whole devkit"):
        bring("imagenet", folder, tmp_path / "root")


def test_any_damage_of_meta_mat_is_one_line():
    whole, rng, refused = official.meta_mat(ORDER), random.Random(5), list[str]()
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            synsets_of(bytes(data), "meta.mat")
        except (DatasetError, UnsafeInputError) as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all("meta.mat" in line and "\n" not in line for line in refused)
