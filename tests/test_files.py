"""Files: whole or not at all, refused when damaged, never outside their folder."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import EyechartError, IntegrityError, ResourceError, UnsafeInputError
from harness.files import (
    atomic_file,
    confine,
    free_bytes,
    read_json,
    read_parquet,
    require_free,
    sweep,
    temporary_name,
    write_atomic,
    write_json,
    write_parquet,
)

TABLE = pa.table(
    {"id": [f"q{i}" for i in range(300)], "x": [i / 7 for i in range(300)], "r": [["a", "b"]] * 300}
)


def refused(kind: type[EyechartError], call, *args) -> EyechartError:
    with pytest.raises(kind) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return caught.value


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["b.txt"]


def test_write_respects_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "f", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, step, number):
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def fail(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"harness.files.os.{step}", fail)
    error = refused(ResourceError, write_atomic, path, b"new")
    assert os.strerror(number) in str(error)
    assert error.exit_code == 6
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


# A limit on file size is the one full disk that a test can have without being root.
LIMITED = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from harness.errors import EyechartError
from harness.files import write_atomic, write_parquet
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
path = Path(sys.argv[1])
table = pa.table({"x": [str(i * 7919 % 10007) for i in range(20000)]})
try:
    write_parquet(path, table) if path.suffix == ".parquet" else write_atomic(path, b"x" * 9000)
except EyechartError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("name", ["f.bin", "f.parquet"])
def test_a_really_failing_disk(tmp_path, name):
    path = tmp_path / name
    write_atomic(path, b"old")
    run = subprocess.run([sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True)
    assert run.returncode == 6, run.stderr
    assert run.stdout.count("\n") == 1
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [name]


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    def interrupted():
        with atomic_file(tmp_path / "f") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way_is_one_clear_line(tmp_path):
    (tmp_path / "f").mkdir()
    assert "Is a directory" in str(refused(ResourceError, write_atomic, tmp_path / "f", b""))
    (tmp_path / "g").write_bytes(b"")
    refused(ResourceError, write_atomic, tmp_path / "g" / "h", b"")


def test_json_round_trip(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"b": (1, 2.5), "a": "é"})
    assert path.read_bytes() == '{\n "a": "é",\n "b": [\n  1,\n  2.5\n ]\n}\n'.encode()
    assert read_json(path) == {"a": "é", "b": [1, 2.5]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "number NaN"),
        (b"\xff", "utf-8"),
        (b"[" * 100000, "recursion"),
    ],
)
def test_json_garbage(tmp_path, data, says):
    path = tmp_path / "f.json"
    path.write_bytes(data)
    error = refused(IntegrityError, read_json, path)
    assert says in str(error)
    assert "f.json" in str(error)


def test_json_missing(tmp_path):
    refused(IntegrityError, read_json, tmp_path / "no.json")


def test_parquet_round_trip_and_same_bytes(tmp_path):
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_parquet(a, TABLE)
    cut = pa.concat_tables([TABLE.slice(0, 77), TABLE.slice(77)])
    write_parquet(b, cut.replace_schema_metadata({"pandas": "{}"}))
    assert a.read_bytes() == b.read_bytes()
    assert read_parquet(a).equals(TABLE)
    assert read_parquet(a, ["x"]).column_names == ["x"]
    column = pq.ParquetFile(a).metadata.row_group(0).column(0)
    assert column.compression == "ZSTD"


def test_parquet_keeps_other_metadata_and_no_rows(tmp_path):
    path = tmp_path / "f.parquet"
    write_parquet(path, TABLE.slice(0, 0).replace_schema_metadata({"eyechart": "1"}))
    back = read_parquet(path)
    assert back.num_rows == 0
    assert back.schema.metadata == {b"eyechart": b"1"}


def test_parquet_flipped_bits_in_pages_are_found(tmp_path):
    path = tmp_path / "f.parquet"
    write_parquet(path, TABLE)
    data = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    begin = column.dictionary_page_offset or column.data_page_offset
    rng, found = random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(data)
        # The last bytes of a column chunk are page data for certain, not a page's own header.
        position = begin + column.total_compressed_size - 1 - rng.randrange(200)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        refused(IntegrityError, read_parquet, path)
        found += 1
    assert found == 100


def test_parquet_truncated_anywhere(tmp_path):
    path = tmp_path / "f.parquet"
    write_parquet(path, TABLE)
    data = path.read_bytes()
    for end in range(0, len(data), 97):
        path.write_bytes(data[:end])
        refused(IntegrityError, read_parquet, path)


def test_parquet_missing_file_and_column(tmp_path):
    refused(IntegrityError, read_parquet, tmp_path / "no.parquet")
    write_parquet(tmp_path / "f.parquet", TABLE)
    error = refused(IntegrityError, read_parquet, tmp_path / "f.parquet", ["x", "score"])
    assert "expected score" in str(error)


def test_confine_inside(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert confine(tmp_path, "a/b.json") == tmp_path.resolve() / "a" / "b.json"
    assert confine(tmp_path, "link/x") == tmp_path.resolve() / "real" / "x"
    assert confine(tmp_path, "a..b/..c") == tmp_path.resolve() / "a..b" / "..c"


@pytest.mark.parametrize(
    "rel",
    ["", ".", "..", "../x", "a/../../x", "a/../b", "/etc/passwd", "~/x", "a\\b", "a\0b", "a\nb", "//x"],
)
def test_confine_outside(tmp_path, rel):
    assert refused(UnsafeInputError, confine, tmp_path, rel).exit_code == 4


def test_confine_links(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")
    (root / "file").symlink_to("/etc/passwd")
    for rel in ("out/x", "loop/x", "file"):
        refused(UnsafeInputError, confine, root, rel)


def test_confine_below_a_linked_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    assert confine(tmp_path / "root", "x") == tmp_path.resolve() / "real" / "x"


def test_free_space(tmp_path):
    missing = tmp_path / "not" / "yet"
    assert free_bytes(missing) > 0
    require_free(missing, 1, "a test")
    error = refused(ResourceError, require_free, missing, 2**62, "the feature cache")
    assert "the feature cache" in str(error)
    assert not Path(missing).exists()


def write_without_end(path):
    """A process that is killed inside of `atomic_file`."""
    code = (
        "import os, signal, sys, pathlib\nfrom harness.files import atomic_file\n"
        "with atomic_file(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL


def test_what_a_killed_process_was_writing_is_swept(tmp_path):
    write_without_end(tmp_path / "deep" / "down" / "file")
    assert len(list(tmp_path.rglob(".tmp-*"))) == 1
    (tmp_path / "kept").write_text("whole")
    sweep(tmp_path, tmp_path / "missing")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["kept"]


def test_what_may_still_be_written_is_not_swept(tmp_path):
    own, child = tmp_path / temporary_name(), subprocess.Popen(["sleep", "60"])
    place = own.name.split("-")[1]
    other = tmp_path / f".tmp-{place}-{child.pid}-0011223344556677"
    elsewhere = tmp_path / f".tmp-{'0' * 12}-{2**22 + 1}-0011223344556677"
    folder = tmp_path / f".tmp-{place}-{2**22 + 1}-0011223344556677"
    try:
        for path in (own, other, elsewhere):
            path.write_text("half")
        (folder / "inside").mkdir(parents=True)
        sweep(tmp_path)
        assert {*tmp_path.iterdir()} == {own, other, elsewhere}
        week = time.time() - 8 * 24 * 3600
        for path in (other, elsewhere):
            os.utime(path, (week, week))
        sweep(tmp_path)
        assert {*tmp_path.iterdir()} == {own, other}
    finally:
        child.kill()
        child.wait()
