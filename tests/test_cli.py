"""The command line: exit codes, one line of error, machine-readable output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import commands
from harness.cli import main
from harness.errors import SubmissionError
from harness.files import write_parquet
from harness.tables import spell_bytes, text_table

ROOT = Path(__file__).resolve().parents[1]


def errors(capsys):
    return capsys.readouterr().err.strip().splitlines()


@pytest.mark.parametrize(
    "words", [["nonsense"], ["run"], ["plan", "x.toml", "--bogus"], ["mini"], ["mini", "nonsense"], []]
)
def test_wrong_arguments(words, capsys):
    assert main(words) == 2
    assert len(errors(capsys)) == 1


def test_a_manifest_that_is_not_there(tmp_path, capsys):
    assert main(["plan", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in errors(capsys)[0]


def test_an_unknown_protocol(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("schema = 1\n")
    assert main(["plan", str(tmp_path / "a.toml"), "--protocol", "minni"]) == 2
    assert "mini" in errors(capsys)[0]


def fake(monkeypatch, action):
    monkeypatch.setattr(commands, "status", action)


def test_ctrl_c_says_how_to_resume(monkeypatch, capsys):
    def stop(arguments):
        raise KeyboardInterrupt

    fake(monkeypatch, stop)
    assert main(["status", "my file.toml"]) == 130
    assert "eyechart status 'my file.toml'" in errors(capsys)[-1]


def test_termination(monkeypatch, capsys):
    fake(monkeypatch, lambda arguments: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["status", "a.toml"]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_our_own_bug_leaves_its_traceback_in_a_file(monkeypatch, capsys):
    def break_down(arguments):
        raise RuntimeError("tensor of shape (3,)")

    fake(monkeypatch, break_down)
    assert main(["status", "a.toml"]) == 10
    (line,) = errors(capsys)
    report = Path(line.rsplit(" ", 1)[1].rstrip("."))
    assert "tensor of shape (3,)" in report.read_text()
    report.unlink()


def test_an_error_of_ours_is_one_line(monkeypatch, capsys):
    def refuse(arguments):
        raise SubmissionError("id is no slug", where="a.toml: id", found="A\nB")

    fake(monkeypatch, refuse)
    assert main(["status", "a.toml"]) == 3
    assert errors(capsys) == ["eyechart: a.toml: id: id is no slug: found A\\nB."]


def record(root):
    """One committed bundle below `root`, copied from the results of record."""
    source = min((ROOT / "results" / "mini").glob("*/*/COMMIT")).parent
    target = root / source.relative_to(ROOT / "results")
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_ingest_and_publish_speak_json(tmp_path, capsys):
    record(tmp_path / "results")
    home = ["--home", str(tmp_path / "home")]
    (tmp_path / "home").mkdir()
    assert main(["ingest", str(tmp_path / "results"), "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["bundles"] == 1
    assert main(["publish", "--site", str(tmp_path / "site"), "--json", *home]) == 0
    assert Path(json.loads(capsys.readouterr().out)["index"]).is_file()


def test_a_bundle_with_one_bit_flipped(tmp_path, capsys):
    bundle = record(tmp_path / "results")
    path = bundle / "answers.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert main(["ingest", str(tmp_path / "results"), "--db", str(tmp_path / "a.duckdb")]) == 8
    (line,) = errors(capsys)
    assert "answers.parquet" in line
    assert not (tmp_path / "a.duckdb").exists()


def test_a_second_writer(tmp_path, capsys):
    record(tmp_path / "results")
    database = tmp_path / "a.duckdb"
    hold = (
        "import fcntl, os, sys\n"
        f"f = open({str(database) + '.lock'!r}, 'w')\n"
        "fcntl.flock(f, fcntl.LOCK_EX)\n"
        "f.write(str(os.getpid())); f.flush()\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        assert main(["ingest", str(tmp_path / "results"), "--db", str(database)]) == 7
        (line,) = errors(capsys)
        assert str(other.pid) in line
        other.stdin.close()
    assert main(["ingest", str(tmp_path / "results"), "--db", str(database)]) == 0


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    import errno

    import pyarrow as pa

    from harness.errors import ResourceError

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        write_parquet(tmp_path / "a.parquet", pa.table({"a": [1]}))
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_tables():
    assert text_table(["a", "n"], [["x", "10"]], numbers=(1,)) == "a   n\nx  10"
    assert spell_bytes(1_500) == "1.5 kB"
