"""The doctor of datasets, the leak audit and the packs: each seeded fault is found, by row and field."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import hub_datasets as given
import numpy as np
import pyarrow as pa
import pytest
from hub_datasets import RAW, clip, picture, write_raw, write_repo
from PIL import Image

from harness import prompts
from harness.cli import main
from harness.data import NOTE, check_dataset, open_split
from harness.datasets.checks import SHOWN, examine_dataset
from harness.datasets.leaks import FEW_BITS, LEAKS, NEAR, Leaks, difference_hash
from harness.datasets.make import Given, import_dataset
from harness.datasets.packs import PACK_SCHEMA, tasks_of, write_pack
from harness.datasets.specs import SPECS
from harness.digest import digest_bytes, digest_file
from harness.errors import DatasetError
from harness.files import read_json, read_parquet, write_json, write_parquet
from harness.media import MEDIA
from harness.task import read_task


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Every dataset, prepared once; tests change copies."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in RAW:
        write_repo(folder / "raw" / name, name)
        import_dataset(SPECS[name], folder / "raw" / name, folder / "main", Given(partial=True))
    return folder / "main"


@pytest.fixture
def copy(prepared, tmp_path):
    """A dataset that may be spoilt."""

    def make(name):
        return shutil.copytree(prepared / name, tmp_path / "home" / "data" / "main" / name)

    return make


def look(folder):
    return examine_dataset(SPECS[folder.name], folder)


def lines(folder):
    found = [finding.line() for finding in look(folder).findings]
    assert all("\n" not in line for line in found)
    return found


def rewrite(folder, split, change, *, note=True):
    """Change rows and let the note know the new file, so that only the fault itself is left to find."""
    path = folder / f"{split}.parquet"
    table = read_parquet(path)
    rows = table.to_pylist()
    rows = change(rows) or rows
    write_parquet(path, pa.Table.from_pylist(rows, schema=table.schema))
    if note:
        about = read_json(folder / NOTE)
        about["files"][path.name] = digest_file(path)
        about["rows"][split] = len(rows)
        write_json(folder / NOTE, about)


@pytest.mark.parametrize("name", list(RAW))
def test_sound_datasets(prepared, name):
    health = look(prepared / name)
    assert health.findings == []
    assert health.digest == read_json(prepared / name / NOTE)["digest"]
    assert health.num_media > 0


def put(row, field, value):
    return lambda rows: rows[row].update({field: value})


SPOILT = [
    ("vqav2", "validation", put(4, "question", ""), "row 4, field question"),
    (
        "vqav2",
        "validation",
        put(4, "question_id", 100_000),
        "row 4, field question_id: found 100000, as in row 0",
    ),
    ("vqav2", "validation", put(4, "question_id", None), "row 4, field question_id: found None"),
    ("vqav2", "validation", put(4, "answers", []), "row 4, field answers"),
    ("vqav2", "validation", put(4, "image", "images/none.jpg"), "row 4, field image: found images/none.jpg"),
    ("vqav2", "validation", put(4, "image", "../../x.jpg"), "row 4, field image"),
    ("vqav2", "validation", put(4, "image", None), "row 4, field image: found None"),
    ("textvqa", "validation", put(2, "answers", ["a"]), "row 2, field answers: found 1"),
    ("refcoco", "testB", put(3, "bbox", [0.5, 0.5, 0.4, 0.9]), "testB.parquet, row 3, field bbox"),
    ("refcoco", "testB", put(3, "bbox", [0.5, 0.5, 1.2, 0.9]), "row 3, field bbox"),
    ("refcoco", "testB", put(3, "answer", None), "row 3, field answer"),
    ("nextqa", "test", put(1, "answer", 9), "row 1, field answer: found 9, expected 0 to 4"),
    ("nextqa", "test", put(1, "video", 5), "clips/5.mp4"),
    ("perceptiontest", "validation", put(1, "options", []), "row 1, field options"),
    ("imagenet", "train", put(2, "label", 1000), "row 2, field label"),
    ("imagenet", "train", put(2, "image", "shards/train-00000-of-00002.parquet#99"), "row 2, field image"),
    ("mixture", "train", put(0, "exchanges", []), "row 0, field exchanges"),
    ("mixture", "train", put(1, "image_id", 0), "row 1, field image_id: found 0, as in row 0"),
]


@pytest.mark.parametrize(("name", "split", "change", "words"), SPOILT)
def test_faults_of_rows(copy, name, split, change, words):
    folder = copy(name)
    rewrite(folder, split, change)
    found = lines(folder)
    assert any(words in line for line in found), found
    # The digest is told as well: these are not the rows that were imported.
    assert any(f"{NOTE}, field digest" in line for line in found)
    assert all(line.startswith((f"{split}.parquet", NOTE)) for line in found)


def test_rows_that_were_lost(copy):
    folder = copy("vqav2")
    rewrite(folder, "validation", lambda rows: rows[:5], note=False)
    found = lines(folder)
    assert "validation.parquet: found 5 rows, expected 18, as was imported" in found
    about = read_json(folder / NOTE)
    del about["partial"]
    write_json(folder / NOTE, about)
    assert "validation.parquet: found 5 rows, expected 214,354, as was published" in lines(folder)


def test_a_renamed_column(copy):
    folder = copy("textvqa")
    table = read_parquet(folder / "validation.parquet")
    names = ["question_text" if n == "question" else n for n in table.column_names]
    write_parquet(folder / "validation.parquet", table.rename_columns(names))
    assert any(
        "validation.parquet, field question: found no such column (but question_text)" in x
        for x in lines(folder)
    )


@pytest.mark.parametrize("cut", [10, -30])
def test_a_truncated_file(copy, cut):
    folder = copy("vqav2")
    path = folder / "validation.parquet"
    path.write_bytes(path.read_bytes()[:cut])
    found = lines(folder)
    assert any(x.startswith("validation.parquet: found") and "a whole Parquet file" in x for x in found)
    assert any("as was written" in x for x in found)


def test_files_that_are_gone(copy):
    folder = copy("refcoco")
    (folder / "testA.parquet").unlink()
    (folder / MEDIA).unlink()
    found = lines(folder)
    assert "testA.parquet: found no such file, expected the file that was written" in found
    assert f"{MEDIA}: found no such file, expected the file that was written" in found


def test_media_that_changed_or_broke(copy):
    folder = copy("vqav2")
    files = sorted(p for p in (folder / "images").rglob("*") if p.is_file())
    for path in files:  # the copy's own, not the hard links of the fixture
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    files[0].write_bytes(picture(999))
    files[1].unlink()
    found = [x for x in lines(folder) if "field image" in x]
    assert len(found) == 2
    assert any("sha256" in x and files[0].name in x for x in found)
    assert any("No such file" in x and files[1].name in x for x in found)


def test_listed_bytes_that_do_not_decode(tmp_path):
    rows = given.vqa_rows()
    whole = rows[3]["image"]["bytes"]
    for row in rows[3:6]:
        row["image"] = given.cell(whole[: len(whole) // 2])
    write_raw(tmp_path / "raw" / "validation.parquet", "vqav2", rows)
    made = import_dataset(SPECS["vqav2"], tmp_path / "raw", tmp_path / "main", Given(partial=True))
    found = lines(made.path)
    assert len(found) == 1
    assert "validation.parquet, row 3, field image" in found[0]
    assert "a whole PNG, JPEG" in found[0]


def test_a_clip_cut_short(tmp_path):
    write_repo(tmp_path / "raw", "nextqa")
    (tmp_path / "raw" / "videos.zip").unlink()
    data = clip(1)
    for i, video in enumerate(dict.fromkeys(r["video"] for r in given.choice_rows())):
        (tmp_path / "raw" / f"{video}.mp4").write_bytes(data if i else data[: len(data) // 2])
    made = import_dataset(SPECS["nextqa"], tmp_path / "raw", tmp_path / "main", Given(partial=True))
    found = lines(made.path)
    assert len(found) == 1
    assert "test.parquet, row 0, field video: found clips/4010069381.mp4" in found[0]


def test_splits_that_share_an_image(tmp_path):
    rows = given.class_rows("train")
    write_raw(tmp_path / "raw" / "train.parquet", "imagenet", rows)
    write_raw(tmp_path / "raw" / "validation.parquet", "imagenet", rows[:4])
    made = import_dataset(SPECS["imagenet"], tmp_path / "raw", tmp_path / "main", Given(partial=True))
    found = lines(made.path)
    assert len(found) == 4
    assert "validation.parquet, row 0, field image: found the image of train, row 0" in found[0]


def test_a_changed_digest(copy):
    folder = copy("textvqa")
    about = read_json(folder / NOTE)
    write_json(folder / NOTE, {**about, "digest": "0" * 64})
    assert lines(folder) == [
        f"{NOTE}, field digest: found {about['digest'][:16]}, expected {'0' * 16}, as was imported"
    ]
    with pytest.raises(DatasetError, match="not the pinned one"):
        check_dataset(folder, about["digest"])


def test_many_alike_are_counted(copy):
    folder = copy("vqav2")
    rewrite(folder, "validation", lambda rows: [{**r, "question": ""} for r in rows])
    found = [x for x in lines(folder) if "field question:" in x]
    assert len(found) == SHOWN + 1
    assert "8 more like the last" in found[-1]


def test_the_command(copy, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "home"))
    folder = copy("refcoco")
    assert main(["data", "doctor", "refcoco"]) == 0
    assert "Verdict: sound" in capsys.readouterr().out
    rewrite(folder, "testB", put(3, "answer", ""))
    assert main(["data", "doctor", "refcoco"]) == 5
    out = capsys.readouterr().out
    assert "testB.parquet, row 3, field answer" in out
    assert "Verdict: 2 findings." in out
    assert main(["data", "doctor", "refcoco", "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert {f["field"] for f in told["findings"]} == {"answer", "digest"}
    assert main(["data", "doctor", "vqav2"]) == 5
    assert "Run `eyechart data fetch vqav2`" in capsys.readouterr().err
    assert main(["data", "doctor", "refcocoo"]) == 2


# --- leaks


def again(data, quality=60, size=(80, 60)):
    """The same picture at another size and compression."""
    import io

    out = io.BytesIO()
    Image.open(io.BytesIO(data)).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    return out.getvalue()


def test_the_look_survives_size_and_compression():
    for seed in range(20):
        data = picture(seed)
        one, other = difference_hash(data, "a"), difference_hash(again(data), "b")
        assert (one ^ other).bit_count() <= NEAR
        assert (one ^ difference_hash(picture(seed + 100), "c")).bit_count() > NEAR


def test_near_finds_what_all_pairs_find():
    rng = np.random.default_rng(0)
    hashes = [int(h) for h in rng.integers(0, 2**63, 300)]
    table = [("d", str(i), str(i), h) for i, h in enumerate(hashes)]
    leaks = Leaks(table)
    for i in range(100):
        flips = rng.choice(64, rng.integers(0, 7), replace=False)
        value = hashes[i]
        for bit in flips.tolist():
            value ^= 1 << bit
        expected = {j for j, h in enumerate(hashes) if (h ^ value).bit_count() <= NEAR}
        assert {row for row, _ in leaks.near(value)} == expected


def test_uniform_pictures_are_compared_by_bytes_only():
    import io

    out = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 9, 9)).save(out, "PNG")
    value = difference_hash(out.getvalue(), "a")
    assert value.bit_count() < FEW_BITS
    leaks = Leaks([("d", "r", digest_bytes(out.getvalue()), value)])
    assert list(leaks.near(value)) == []
    assert leaks.of(0, out.getvalue(), digest_bytes(out.getvalue()), "a")[0].same_bytes


def test_no_table_no_leak():
    assert Leaks([]).of(0, picture(1), "0" * 64, "a") == []


@pytest.fixture
def leaking(prepared, tmp_path):
    """A mixture with one image of VQAv2 by bytes, one of TextVQA by look and two of its own."""
    root = tmp_path / "home" / "data" / "main"
    for name in ("vqav2", "textvqa"):
        shutil.copytree(prepared / name, root / name)
    rows = [given.mixture_rows()[0] for _ in range(4)]
    for row, data in zip(rows, [picture(0), again(picture(51)), picture(400), picture(401)], strict=True):
        row["image"] = given.cell(data)
    write_raw(tmp_path / "raw" / "train.parquet", "mixture", rows)
    return tmp_path / "raw", root


def test_leaks_are_audited(leaking, monkeypatch, capsys):
    place, root = leaking
    import_dataset(SPECS["mixture"], place, root, Given(partial=True))
    monkeypatch.setenv("EYECHART_HOME", str(root.parent.parent))
    assert main(["data", "doctor", "mixture", "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert told["leaks"] == [
        {"dataset": "vqav2", "same_bytes": 1, "near": 0, "removed": 0},
        {"dataset": "textvqa", "same_bytes": 0, "near": 1, "removed": 0},
    ]
    assert len(told["findings"]) == 1
    rows = read_parquet(root / "mixture" / LEAKS).to_pylist()
    assert [(r["image_id"], r["dataset"], r["same_bytes"], r["removed"]) for r in rows] == [
        (0, "vqav2", True, False),
        (1, "textvqa", False, False),
    ]
    assert all((root / r["dataset"] / r["reference"]).is_file() for r in rows)


def test_leaks_are_left_out(leaking, monkeypatch, capsys):
    place, root = leaking
    made = import_dataset(SPECS["mixture"], place, root, Given(partial=True, against=("all",)))
    assert made.rows == {"train": 2}
    about = read_json(made.path / NOTE)
    assert about["left_out"] == {"an image of vqav2": 1, "an image of textvqa": 1}
    assert set(about["against"]) == {"vqav2", "textvqa"}
    assert [r["image_id"] for r in read_parquet(made.path / "train.parquet").to_pylist()] == [2, 3]
    monkeypatch.setenv("EYECHART_HOME", str(root.parent.parent))
    assert main(["data", "doctor", "mixture", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [x["removed"] for x in told["leaks"]] == [1, 1]
    assert len(read_parquet(made.path / LEAKS)) == 2
    # A dataset that is not there cannot be compared with.
    with pytest.raises(DatasetError, match="dataset is missing"):
        import_dataset(SPECS["mixture"], place, root, Given(partial=True, against=("refcoco",)))


def test_looks_are_kept_while_the_dataset_is_the_same(leaking, monkeypatch):
    place, root = leaking
    import_dataset(SPECS["mixture"], place, root, Given(partial=True, against=("vqav2",)))
    from harness.datasets import leaks

    seen = []
    kept = leaks.difference_hash
    monkeypatch.setattr(leaks, "difference_hash", lambda d, w: seen.append(w) or kept(d, w))
    leaks.evaluation_table(root, ["vqav2"], 1, lambda *_: None)
    assert seen == []
    about = read_json(root / "vqav2" / NOTE)
    write_json(root / "vqav2" / NOTE, {**about, "digest": "0" * 64})
    leaks.evaluation_table(root, ["vqav2"], 1, lambda *_: None)
    assert len(seen) == 6


# --- the harness reads what was prepared, and packs tell it


TASKS = {
    "vqav2": ("eyechart_mini_vqa", "validation_16k", "image_id"),
    "textvqa": ("eyechart_mini_signs", "validation", "image_id"),
    "refcoco": ("eyechart_mini_rec", "testA", "file_name"),
    "nextqa": ("eyechart_mini_video", "test", "video"),
    "imagenet": ("eyechart_mini_probe", "validation", "label"),
}


def real_task(name, folder):
    """The mini suite's task of the same scorer, on real data."""
    mini, split, key = TASKS[name]
    about = read_json(folder / NOTE)
    return replace(
        read_task(mini),
        suite="main",
        dataset=name,
        split=split,
        dataset_digest=about["digest"],
        num_expected=about["rows"][split],
        cluster_key=key,
    )


@pytest.mark.parametrize("name", list(TASKS))
def test_prepared_datasets_are_opened_by_the_harness(prepared, name):
    task = real_task(name, prepared / name)
    split = open_split(task, prepared, 2)
    assert len(split.samples) == task.num_expected
    assert len({s.sample_id for s in split.samples}) == task.num_expected
    assert all(split.media.load(i).ndim == 3 for i in range(len(split.media.keys)))
    needed = {key for sample in split.samples for key in sample.media}
    assert needed == set(split.media.keys)


@pytest.mark.parametrize("name", list(TASKS))
def test_packs_tell_every_sample(copy, name):
    folder = copy(name)
    task = real_task(name, folder)
    path = write_pack(folder, [task], "CC-BY-4.0")
    assert path == folder / "packs" / f"{task.dataset_digest}.parquet"
    table = read_parquet(path)
    assert table.schema.equals(PACK_SCHEMA)
    rows, split = table.to_pylist(), open_split(task, folder.parent, 2)
    assert [r["sample_id"] for r in rows] == [s.sample_id for s in split.samples]
    assert [r["references"] for r in rows] == [list(s.references) for s in split.samples]
    assert [r["cluster"] for r in rows] == [s.cluster for s in split.samples]
    assert all((folder / r["media"].partition("#")[0]).is_file() for r in rows)
    if task.kind != "probe":
        assert all(
            r["question"].lower() in prompts.build_prompt(task, row).lower()
            for r, row in zip(rows, read_parquet(folder / f"{task.split}.parquet").to_pylist(), strict=True)
        )
    assert check_dataset(folder, task.dataset_digest) == task.dataset_digest


def test_a_pack_of_a_split_that_is_not_there(copy):
    folder = copy("refcoco")
    with pytest.raises(DatasetError, match="split is missing"):
        write_pack(folder, [replace(real_task("refcoco", folder), split="val")], "")


def test_tasks_are_found_by_suite_and_dataset():
    assert [t.name for t in tasks_of("mini", "vqa")] == ["eyechart_mini_vqa"]
    assert tasks_of("nowhere", "vqa") == []


def test_packing_what_no_task_reads(copy, monkeypatch, tmp_path, capsys):
    folder = copy("textvqa")
    folder.parent.rename(tmp_path / "home" / "data" / "nowhere")
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "home"))
    assert main(["data", "pack", "textvqa", "--suite", "nowhere"]) == 2
    assert "no task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("mini", "`eyechart mini data`"),
        ("main", "`eyechart data fetch vqav2`"),
        ("rehearsal", "`eyechart data import vqav2 FOLDER --suite rehearsal`"),
    ],
)
def test_a_missing_dataset_is_told_with_the_command_of_its_suite(tmp_path, monkeypatch, suite, words):
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        check_dataset(tmp_path / "data" / suite / "vqav2", "UNPINNED")
    assert f"Run {words} to write it" in str(caught.value)
    monkeypatch.setenv("EYECHART_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(DatasetError) as caught:
        check_dataset(tmp_path / "data" / suite / "vqav2", "UNPINNED")
    assert f"Run {words.removesuffix('`')} --home {tmp_path}` to write it" in str(caught.value)
