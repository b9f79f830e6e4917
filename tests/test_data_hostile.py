"""Folders made to harm, at the command line: no traceback, no waiting, nothing outside the home."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import tarfile
import zipfile
import zlib

import data_runs
import hub_datasets as given
import official_files as official
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_runs import bring, outside
from hub_datasets import RAW, picture, write_raw, write_repo
from PIL import Image

from harness.data import NOTE, read_note
from harness.datasets.sources import picture_size
from harness.datasets.specs import SPECS
from harness.errors import EyechartError
from harness.files import read_json

run, patience = data_runs.run, data_runs.patience


def pipe(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def loops(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "self").symlink_to(folder)
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    (folder / "validation.parquet").symlink_to(folder / "validation.parquet")
    (folder / "test.parquet").symlink_to(folder / "nothing")


PIPES = [
    "validation.parquet",
    "validation/0000.parquet",
    "train-00000-of-00001.parquet",
    "test.parquet",
    "x.mp4",
    "videos.zip",
    "instances.json",
    "refs.json",
    "TextVQA_0.5.1_val.json",
    "v2_OpenEnded_mscoco_val2014_questions.json",
    "train/n01440764/a.JPEG",
    "train/n01440764.tar",
    "ILSVRC2012_img_train.tar",
    "LOC_val_solution.csv",
]


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "refcoco", "nextqa", "imagenet", "mixture"])
def test_pipes_and_loops_are_passed_over(run, tmp_path, name):
    for path in PIPES:
        pipe(tmp_path / "pipes" / path)
    loops(tmp_path / "loops")
    for place in ("pipes", "loops"):
        code, _, error = bring(run, name, tmp_path / place)
        assert (code, "nothing to import" in error) == (5, True), error


def test_a_sound_source_among_pipes_and_loops(run, tmp_path):
    folder = write_repo(tmp_path / "raw", "nextqa")
    loops(folder / "MC" / "more")
    pipe(folder / "4010069381.mp4")
    pipe(folder / "other.zip")
    write_repo(folder / ".hidden", "nextqa")
    assert bring(run, "nextqa", folder)[0] == 0
    assert run("doctor", "nextqa")[0] == 0


@pytest.mark.parametrize("name", list(RAW))
def test_every_file_empty(run, tmp_path, name):
    folder = write_repo(tmp_path / "raw", name)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.write_bytes(b"")
    code, _, error = bring(run, name, folder)
    assert (code, "not a whole" in error) == (5, True)


@pytest.mark.parametrize("name", list(RAW))
def test_folders_named_as_files(run, tmp_path, name):
    folder = write_repo(tmp_path / "raw", name)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        path.unlink()
        path.mkdir()
    assert bring(run, name, folder)[0] == 5


def test_names_that_are_no_text(run, tmp_path):
    folder = write_repo(tmp_path / "raw", "nextqa")
    (folder / os.fsdecode(b"\xff.mp4")).write_bytes(b"x")
    (folder / os.fsdecode(b"new\nline.mp4")).write_bytes(b"x")
    (folder / os.fsdecode(b"\xff.parquet")).write_bytes(b"x")
    assert bring(run, "nextqa", folder)[0] == 0
    pictures = folder / "pictures" / "train" / "n01440764"
    pictures.mkdir(parents=True)
    (pictures / os.fsdecode(b"\xff.JPEG")).write_bytes(picture(1))
    code, _, error = bring(run, "imagenet", folder / "pictures")
    assert (code, "file name refused" in error) == (4, True)
    odd = folder.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    assert bring(run, "nextqa", odd)[0] == 5  # Arrow opens no such path
    rows = given.text_rows()
    official.write_json_files(odd / "json", official.textvqa_files(rows))
    official.write_images(rows, odd / "json" / "train_images")
    assert bring(run, "textvqa", (odd / "json").rename(odd / os.fsdecode(b"\xfe")))[0] == 0
    assert read_json(tmp_path / "home/data/main/textvqa" / NOTE)["source"]["folder"] == "\\udcfe"


def test_tars_that_lie(run, tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    path = folder / "ILSVRC2012_img_train.tar"

    def with_member(**about):
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("n01440764.tar")
            for key, value in about.items():
                setattr(member, key, value)
            tar.addfile(member)
        with path.open("ab") as file:
            file.truncate(path.stat().st_size + 2**20)

    for about in ({"size": 2**40}, {"size": 4096}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}):
        with_member(**about)
        assert bring(run, "imagenet", folder)[0] in {4, 5}
    # Names that lead elsewhere are names only: the pictures stay in the tar.
    target = folder / "train" / "n01440764.tar"
    target.parent.mkdir()
    path.unlink()
    with tarfile.open(target, "w") as tar:
        for i, name in enumerate(["../../../out.JPEG", "/out.JPEG", "a\nb.JPEG", "\x1b[2J.JPEG"]):
            given_ = tarfile.TarInfo(name)
            data = picture(i)
            given_.size = len(data)
            tar.addfile(given_, io.BytesIO(data))
    assert bring(run, "imagenet", folder, "--splits", "train")[0] == 0
    assert outside(tmp_path, "tars") == []
    # A member of a gigabyte in a sparse file is not read into memory.
    with tarfile.open(target, "w") as tar:
        member = tarfile.TarInfo("big.JPEG")
        member.size = 0
        tar.addfile(member)
    header = tarfile.TarInfo("big.JPEG")
    header.size = 2**32
    target.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with target.open("ab") as file:
        file.truncate(2**32 + 4096)
    code, _, error = bring(run, "imagenet", folder, "--splits", "train")
    assert (code, "too large" in error) == (4, True)


def test_files_larger_than_any_image(run, tmp_path):
    folder = tmp_path / "pictures" / "train" / "n01440764"
    folder.mkdir(parents=True)
    with (folder / "a.JPEG").open("wb") as file:
        file.truncate(2**34)
    code, _, error = bring(run, "imagenet", tmp_path / "pictures", "--splits", "train")
    assert (code, "too large" in error) == (4, True)
    write_repo(tmp_path / "raw", "nextqa")
    (tmp_path / "raw" / "videos.zip").unlink()
    with (tmp_path / "raw" / "4010069381.mp4").open("wb") as file:
        file.truncate(2**33)
    code, _, error = bring(run, "nextqa", tmp_path / "raw")
    assert (code, "clip too large" in error) == (4, True)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("textvqa", "TextVQA_0.5.1_val.json"),
        ("refcoco", "refs.json"),
        ("imagenet", "LOC_val_solution.csv"),
        ("imagenet", "meta.mat"),
    ],
)
def test_tables_larger_than_any(run, tmp_path, name, file):
    folder = tmp_path / "raw"
    for part in ("images", "train_images", "train/n01440764", "val/n01440764"):
        (folder / part).mkdir(parents=True)
    for split in ("train", "val"):
        (folder / split / "n01440764" / "n01440764_1.JPEG").write_bytes(picture(len(split)))
    for json_file in ("instances.json", "ILSVRC2012_validation_ground_truth.txt"):
        (folder / json_file).write_text("{}")
    with (folder / file).open("wb") as out:
        out.truncate(2**34)
    code, _, error = bring(run, name, folder)
    assert (code, f"{file}: " in error) == (4, True), error


def zip_of(path, names, data, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as out:
        for name in names:
            out.writestr(name, data)


def test_zip_bombs_and_zips_that_lie(run, tmp_path):
    folder = write_repo(tmp_path / "raw", "nextqa")
    path, clip = folder / "videos.zip", "4010069381.mp4"
    zip_of(path, [clip], bytes(64 * 2**20))
    code, _, error = bring(run, "nextqa", folder)
    assert (code, "clip too large" in error) == (4, True)
    whole = (folder / "videos.zip").read_bytes()
    zip_of(path, [f"../../{clip}", "/etc/2435100235.mp4"], b"no clip" * 9)
    assert bring(run, "nextqa", folder)[0] == 0  # no such folder is ever made; the doctor finds no clip in it
    assert run("doctor", "nextqa")[0] == 5
    assert outside(tmp_path, "raw") == []
    good = bytearray(path.read_bytes())
    for at in range(0, len(good), 7):
        data = bytearray(good)
        data[at] ^= 0xFF
        path.write_bytes(bytes(data))
        assert bring(run, "nextqa", folder)[0] in {0, 4, 5}
    path.write_bytes(whole[:100])
    assert bring(run, "nextqa", folder)[0] == 5


def test_a_zip_of_images_with_a_bomb(run, tmp_path, monkeypatch):
    rows = given.text_rows()
    official.write_json_files(tmp_path / "raw", official.textvqa_files(rows))
    monkeypatch.setattr("harness.datasets.sources.MAX_IMAGE_BYTES", 2**20)
    names = [f"train_images/{official.name_of(row)}" for row in rows]
    zip_of(tmp_path / "raw" / "train_val_images.zip", names, bytes(2**21))
    code, _, error = bring(run, "textvqa", tmp_path / "raw")
    assert (code, "image file is too large" in error) == (4, True)


WRONG = [-1.5, 10**30, True, None, "\ud800", [1], {"a": 1}]


@pytest.mark.parametrize("name", ["refcoco", "vqav2"])
def test_json_of_the_wrong_type(run, tmp_path, name):
    """Every value of REFER's and VQAv2's files replaced by one of another type, one at a time."""
    folder = tmp_path / "refcoco"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.jpg").write_bytes(picture(1))
    annotation = {"id": 3, "image_id": 2, "bbox": [4, 3, 20, 15], "segmentation": [[1.0, 2.0]], "iscrowd": 0}
    held = {
        "instances.json": {
            "images": [{"id": 2, "file_name": "a.jpg", "width": 40, "height": 30}],
            "annotations": [annotation],
        },
        "refs.json": [
            {"ref_id": 1, "ann_id": 3, "image_id": 2, "split": "testA", "sentences": [{"sent": "a thing"}]}
        ],
    }
    row = given.vqa_rows(1, 1)
    vqa = official.vqav2_files(row)
    official.write_images(row, tmp_path / "vqav2" / "val2014")
    files = {"refcoco": held, "vqav2": vqa}[name]
    more = ("--splits", "testA") if name == "refcoco" else ()
    official.write_json_files(tmp_path / name, files)
    assert bring(run, name, tmp_path / name, *more)[0] == 0
    for spoilt in spoilt_ones(files):
        official.write_json_files(tmp_path / name, spoilt)
        assert bring(run, name, tmp_path / name, *more)[0] in {0, 4, 5}, spoilt


def spoilt_ones(files):
    text = json.dumps(files)
    for at in places(files):
        for value in WRONG:
            other = json.loads(text)
            inner = other
            for key in at[:-1]:
                inner = inner[key]
            inner[at[-1]] = value
            yield other


def places(value, at=()):
    """Each place below the files' own names; of equal answers one."""
    if len(at) > 1 or (at and isinstance(value, list)):
        yield at
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, held in inner:
        if key not in {"info", "license"}:
            yield from places(held, (*at, key))


def test_pictures_of_a_trillion_pixels(run, tmp_path):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**20, 2**20, 8, 2, 0, 0, 0))
    huge = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    empty = b"GIF89a" + bytes(7) + b";"
    for data in (huge, empty, b"\x89PNG\r\n\x1a\n"):
        rows = given.rec_rows(1)
        for row in rows:
            row["image"] = given.cell(data)
        write_raw(tmp_path / "raw" / "test.parquet", "refcocog", rows)
        assert bring(run, "refcocog", tmp_path / "raw")[0] in {4, 5}
    rows = given.mixture_rows()[:1]
    rows[0]["image"] = given.cell(huge)
    write_raw(tmp_path / "mixed" / "train.parquet", "mixture", rows)
    assert bring(run, "mixture", tmp_path / "mixed")[0] in {4, 5}
    rows = given.vqa_rows(1, 1)
    rows[0]["image"] = given.cell(huge)
    write_raw(tmp_path / "vqa" / "validation.parquet", "vqav2", rows)
    assert bring(run, "vqav2", tmp_path / "vqa")[0] == 0
    assert run("doctor", "vqav2")[0] == 5


def test_headers_of_pictures_with_any_damage():
    out, exif, rng = io.BytesIO(), Image.Exif(), random.Random(3)
    exif[0x0112], exif[0x010E] = 6, "words"
    Image.new("RGB", (40, 30)).save(out, "JPEG", exif=exif)
    for whole in (out.getvalue(), picture(1, kind="PNG"), picture(1, kind="TIFF"), picture(1, kind="WEBP")):
        for _ in range(400):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 5)):
                data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
            try:
                assert min(picture_size(bytes(data), "x")[:2]) > 0
            except EyechartError:
                continue


def test_text_in_parquet_that_is_none(run, tmp_path):
    rows = given.vqa_rows(1, 1)
    rows[0]["question"] = "Q" * 40
    write_raw(tmp_path / "raw" / "validation.parquet", "vqav2", rows)
    path = tmp_path / "raw" / "validation.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"Q" * 40, b"\xff" * 40))
    code, _, error = bring(run, "vqav2", tmp_path / "raw")
    assert (code, "damaged" in error or "whole Parquet" in error) == (5, True)


def test_nulls_everywhere(run, tmp_path):
    """Each cell of each dataset null, and each cell of a list."""
    for name in RAW:
        split, make = next(iter(RAW[name].items()))
        folder = write_repo(tmp_path / name, name)
        for path in folder.rglob(f"{split}-*.parquet"):
            path.unlink()
        for column, kind in SPECS[name].raw_columns:
            for value in (None, [None]) if pa.types.is_list(kind) else (None,):
                rows = make()
                rows[0][column] = value
                write_raw(folder / f"{split}.parquet", name, rows)
                code, _, error = bring(run, name, folder, "--splits", split)
                assert code in {0, 5}, (name, column, error)


def test_the_home_beside_the_source(run, tmp_path, monkeypatch):
    write_repo(tmp_path / "raw", "textvqa")
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "raw" / ".eyechart"))
    for _ in range(2):
        assert bring(run, "textvqa", tmp_path / "raw")[0] == 0
    assert read_note(tmp_path / "raw" / ".eyechart" / "data" / "main" / "textvqa")["rows"] == {
        "validation": 5
    }


def test_pipes_and_lies_in_a_prepared_dataset(run, tmp_path):
    """The doctor of a folder that somebody else prepared."""
    assert bring(run, "textvqa", write_repo(tmp_path / "raw", "textvqa"))[0] == 0
    folder = tmp_path / "home" / "data" / "main" / "textvqa"
    table = pq.read_table(folder / "validation.parquet")
    image = next(p for p in (folder / "images").rglob("*") if p.is_file())
    image.unlink()
    pipe(image)
    assert run("doctor", "textvqa")[0] == 5
    at = table.schema.names.index("image")
    for reference in [
        "images/\0",
        "images/x#" + "9" * 6000,
        "images/x#1+" + "9" * 30,
        "x" * 5000,
        "/dev/zero",
        ".",
        "#3",
    ]:
        column = pa.array([reference] * len(table))
        pq.write_table(table.set_column(at, "image", column), folder / "validation.parquet")
        code, out, _ = run("doctor", "textvqa")
        assert code == 5
        assert "field image" in out
