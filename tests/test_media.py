"""References: a file, a row of a Parquet file, a member of a tar; each checked, none leaves its folder."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_datasets import picture
from hypothesis import given, strategies as st

from harness.digest import digest_bytes
from harness.errors import DatasetError, EyechartError, IntegrityError, UnsafeInputError
from harness.files import write_parquet
from harness.media import (
    MEDIA,
    MEDIA_SCHEMA,
    MediaReader,
    ReferencedImages,
    check_media,
    read_media_list,
)

CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def folder(tmp_path):
    """Three pictures in each form; row 2 of the shard is null."""
    pictures = [picture(i, kind="PNG") for i in range(3)]
    (tmp_path / "images").mkdir()
    (tmp_path / "shards").mkdir()
    for i, data in enumerate(pictures):
        (tmp_path / "images" / f"{i}.png").write_bytes(data)
    cells = [{"bytes": d, "path": None} for d in pictures[:2]] + [{"bytes": None, "path": "x"}]
    table = pa.table({"image": pa.array(cells * 3, CELL), "label": [0] * 9})
    pq.write_table(table, tmp_path / "shards" / "s.parquet", row_group_size=2)
    with tarfile.open(tmp_path / "shards" / "s.tar", "w") as tar:
        for i, data in enumerate(pictures):
            member = tarfile.TarInfo(f"{i}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    with tarfile.open(tmp_path / "shards" / "s.tar") as tar:
        members = [(m.offset_data, m.size) for m in tar]
    return tmp_path, pictures, members


def test_every_form_gives_the_same_bytes(folder):
    path, pictures, members = folder
    reader = MediaReader(path)
    for i, data in enumerate(pictures):
        begin, size = members[i]
        assert reader.read(f"images/{i}.png") == data
        assert reader.read(f"shards/s.tar#{begin}+{size}") == data
    # Backwards too, over the borders of row groups and from another file in between.
    for row in (7, 0, 4, 3, 1, 6):
        assert reader.read(f"shards/s.parquet#{row}") == pictures[row % 3]
        assert reader.read("images/0.png") == pictures[0]


@pytest.mark.parametrize(
    "reference",
    [
        "images/9.png",
        "shards/none.parquet#0",
        "shards/s.parquet#9",
        "shards/s.parquet#2",
        "shards/s.parquet#-1",
        "shards/s.parquet#x",
        "shards/s.parquet#1+",
        "shards/s.tar#0+99999999",
        "shards/s.tar#99999999+1",
        "images",
        "images/0.png#0",
    ],
)
def test_what_is_not_there(folder, reference):
    with pytest.raises(DatasetError) as caught:
        MediaReader(folder[0]).read(reference)
    assert reference.split("#")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reference",
    ["../x", "/etc/passwd", "images/../../x", "", "a\\b", "a\0b", "#1", "shards/s.tar#0+5000000000"],
)
def test_what_leads_out_or_is_too_large(folder, reference):
    with pytest.raises(UnsafeInputError):
        MediaReader(folder[0]).read(reference)


@given(st.text(max_size=40))
def test_any_text_gives_a_clear_error(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    with pytest.raises(EyechartError) as caught:
        MediaReader(folder).read(f"none{text}")
    assert "\n" not in str(caught.value)


def test_a_shard_cut_short(folder):
    shard = folder[0] / "shards" / "s.parquet"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="cannot be read"):
        MediaReader(folder[0]).read("shards/s.parquet#0")


def write_list(folder, rows):
    write_parquet(
        folder / MEDIA,
        pa.Table.from_pylist([dict(zip(MEDIA_SCHEMA.names, row, strict=True)) for row in rows], MEDIA_SCHEMA),
    )


def test_the_list(folder):
    path, pictures, _ = folder
    assert read_media_list(path) == {}
    write_list(path, [(f"images/{i}.png", digest_bytes(d), len(d)) for i, d in enumerate(pictures)])
    listed = read_media_list(path)
    assert listed["images/1.png"] == (digest_bytes(pictures[1]), len(pictures[1]))
    images = ReferencedImages(["a", "b"], ["images/1.png", "images/2.png"], path, listed)
    assert images.load(0).shape == (30, 40, 3)
    assert images.load(0).dtype == np.uint8
    (path / "images" / "2.png").write_bytes(pictures[0])
    with pytest.raises(DatasetError, match=r"images/2\.png.*differs"):
        images.load(1)


def test_a_list_with_a_reference_twice(folder):
    write_list(folder[0], [("images/0.png", "0" * 64, 1), ("images/0.png", "1" * 64, 1)])
    with pytest.raises(DatasetError, match="listed twice"):
        read_media_list(folder[0])


def test_a_damaged_list(folder):
    (folder[0] / MEDIA).write_bytes(b"PAR1 no")
    with pytest.raises(IntegrityError):
        read_media_list(folder[0])


def test_bytes_that_no_list_names():
    with pytest.raises(DatasetError, match=f"an entry in {MEDIA}"):
        check_media(b"x", None, "images/x.jpg")
    check_media(b"x", (digest_bytes(b"x"), 1), "images/x.jpg")


def test_listed_bytes_that_are_no_picture(folder):
    path = folder[0]
    (path / "images" / "0.png").write_bytes(b"text")
    images = ReferencedImages(["a"], ["images/0.png"], path, {"images/0.png": (digest_bytes(b"text"), 4)})
    with pytest.raises(DatasetError, match="cannot be decoded"):
        images.load(0)
