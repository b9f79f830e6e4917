"""The commands as a person meets them: exit codes, one line on stderr, JSON, interruption, bad states."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tiny_run

from harness import commands
from harness.bundle import find_bundles
from harness.cli import main
from harness.errors import InternalError


@pytest.fixture(autouse=True)
def signals():
    """`main` installs a handler for SIGTERM; other tests must not inherit it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def started(tiny, tmp_path):
    """A home whose stages are all in the cache, without bundles."""
    first = tiny_run.uninterrupted(tiny)
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(tiny.root / "data")
    shutil.copytree(first.root / "cache", home / "cache")
    return home


@pytest.fixture
def finished(tiny, tmp_path):
    """A home with bundles."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(tiny.root / "data")
    shutil.copytree(tiny_run.uninterrupted(tiny).results, home / "results")
    return home


@pytest.fixture
def known(tiny, monkeypatch):
    monkeypatch.setattr("harness.unit_scores.score_in_process", tiny_run.known_scores(tiny))


def words(tiny, command, home, *more):
    places = ["--protocol", str(tiny.protocol), "--home", str(home)]
    return [command, str(tiny.manifest), *places, *more]


def complaint(capsys):
    """The one line that starts with our name; stages that ended before it may have told so."""
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("eyechart:")]
    assert "Traceback" not in err
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["plam"],
        ["plan"],
        ["plan", "absent.toml"],
        ["run", "absent.toml", "--bach", "3"],
        ["run", "absent.toml", "--batch", "many"],
        ["mini"],
        ["mini", "bake"],
        ["mini", "train-llm"],
        ["ingest", "absent-folder", "--db", "absent.duckdb"],
        ["publish", "--db", "absent.duckdb"],
    ],
)
def test_usage_errors(given, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("more", [("--batch", "0"), ("--workers", "0")])
def test_numbers_that_make_no_sense(tiny, started, capsys, more):
    assert main(words(tiny, "run", started, *more)) == 2
    assert "at least 1" in complaint(capsys)


def test_unknown_protocol(tiny, started, capsys):
    assert main(["plan", str(tiny.manifest), "--protocol", "minni", "--home", str(started)]) == 2
    assert "mini" in complaint(capsys)


def test_help_is_no_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "ingest" in capsys.readouterr().out


# Interruption


def stop_with(monkeypatch, act):
    class Stopped(tiny_run.InlineExecutor):
        def run(self, jobs, progress=None, total=None):
            act()
            return super().run(jobs, progress, total)

    monkeypatch.setattr("harness.executors.local.LocalExecutor", lambda workers: Stopped())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_tells_how_to_resume(tiny, started, known, capsys, monkeypatch, number, code):
    command = words(tiny, "run", started)
    with monkeypatch.context() as patch:
        stop_with(patch, lambda: os.kill(os.getpid(), number))
        assert main(command) == code
    line = complaint(capsys)
    assert line.endswith("Resume with: eyechart " + " ".join(command))
    assert not (started / "results").exists()
    assert main(command) == 0
    assert "18 bundles" in capsys.readouterr().out
    assert tiny_run.contents(started / "results") == tiny_run.contents(tiny_run.uninterrupted(tiny).results)


def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    """Real signals to a process whose command takes its time."""
    script = (
        "import sys; from harness import cli, commands\n"
        "def wait(*_):\n"
        "    print('ready', flush=True)\n"
        "    import time; time.sleep(30)\n"
        "commands.plan = wait\n"
        "sys.exit(cli.main(['plan', 'a b.toml']))"
    )
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(number)
            _, err = child.communicate(timeout=20)
        assert child.returncode == code
        assert err.strip() == "eyechart: interrupted, state saved. Resume with: eyechart plan 'a b.toml'"


# Faults


def test_a_fault_of_ours_is_one_line_and_a_file(tiny, started, capsys, monkeypatch, tmp_path):
    def broken(arguments):
        raise ValueError("two\nlines")

    monkeypatch.setattr(commands, "plan", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(words(tiny, "plan", started)) == 10
    line = complaint(capsys)
    (report,) = tmp_path.glob("eyechart-bug-*.txt")
    assert str(report) in line
    assert "ValueError: two" in report.read_text()


def test_a_fault_in_a_worker_or_the_scorer_keeps_its_traceback(capsys, monkeypatch, tmp_path):
    def broken(arguments):
        error = InternalError("a job failed (KeyError)", found="'label'")
        error.add_note("Traceback of the worker: line 7")
        raise error

    monkeypatch.setattr(commands, "plan", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["plan", "a.toml"]) == 10
    (report,) = tmp_path.glob("eyechart-bug-*.txt")
    assert complaint(capsys) == (
        f"eyechart: a job failed (KeyError): found 'label'. The traceback is in {report}."
    )
    assert "Traceback of the worker: line 7" in report.read_text()


def test_a_traceback_that_finds_no_place_is_still_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "plan", lambda arguments: 1 // 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert main(["plan", "a.toml"]) == 10
    assert "ZeroDivisionError" in complaint(capsys)


def test_memory_that_is_too_small(capsys, monkeypatch):
    def exhaust(arguments):
        raise MemoryError

    monkeypatch.setattr(commands, "plan", exhaust)
    assert main(["plan", "a.toml"]) == 6
    assert "memory" in complaint(capsys)


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """`eyechart status … | head -1` ends quietly."""
    script = (
        "import sys; from harness import cli, commands\n"
        "def talk(*_):\n"
        "    for i in range(100_000):\n"
        "        print('a line of a long table', i)\n"
        "commands.plan = talk\n"
        "sys.exit(cli.main(['plan', 'a.toml']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "a line of a long table 0\n"
        child.stdout.close()
        err = child.stderr.read()
    assert (child.returncode, err) == (0, "")


def test_an_error_does_not_hang_on_to_a_progress_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["plan", "absent.toml"]) == 2
    assert terminal.getvalue().startswith("\r\x1b[2Keyechart: ")


def test_one_flipped_bit_stops_the_ingest(finished, capsys):
    path = sorted(find_bundles(finished / "results"))[3] / "answers.parquet"
    database = finished / "eyechart.duckdb"
    command = ["ingest", str(finished / "results"), "--db", str(database)]
    assert main(command) == 0
    before = database.read_bytes()
    capsys.readouterr()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert main(command) == 8
    line = complaint(capsys)
    assert "answers.parquet" in line
    assert path.parent.name in line
    assert database.read_bytes() == before


def test_one_flipped_bit_is_not_taken_for_done(tiny, finished, capsys):
    path = min(find_bundles(finished / "results")) / "run.json"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert main(words(tiny, "plan", finished)) == 8
    assert "run.json" in complaint(capsys)


def test_a_second_writer_is_told_who_writes(finished, capsys):
    database = finished / "eyechart.duckdb"
    script = (
        "import fcntl, os, sys\n"
        "file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "file.write(f'{os.getpid()}\\n'); file.flush()\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = ["ingest", str(finished / "results"), "--db", str(database)]
    with subprocess.Popen(
        [sys.executable, "-c", script, f"{database}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert main(command) == 7
        assert str(holder.pid) in complaint(capsys)
        assert not database.exists()
        holder.communicate()
    assert main(command) == 0


@pytest.mark.parametrize("command", ["plan", "run"])
def test_no_disk_space_before_a_run(tiny, started, capsys, monkeypatch, command):
    monkeypatch.setattr("harness.files.free_bytes", lambda path: 1000)
    assert main(words(tiny, command, started)) == 6
    assert "1,000 bytes free" in complaint(capsys)
    assert not (started / "results").exists()


def test_on_a_full_disk_one_may_ask_where_a_run_stands(tiny, started, capsys, monkeypatch):
    monkeypatch.setattr("harness.files.free_bytes", lambda path: 1000)
    assert main(words(tiny, "status", started)) == 0
    assert "pending" in capsys.readouterr().out


def test_no_disk_space_during_a_run(tiny, started, known, capsys, monkeypatch):
    """The disk fills up while bundles are written; nothing half-written counts and the next run ends it."""
    command = words(tiny, "run", started)
    fsync, left = os.fsync, [20]

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(command) == 6
    line = complaint(capsys)
    assert "No space left" in line
    assert main(command) == 0
    assert tiny_run.contents(started / "results") == tiny_run.contents(tiny_run.uninterrupted(tiny).results)
    assert not list((started / "results").rglob(".tmp-*"))


def test_a_damaged_cache_is_told_and_then_made_anew(tiny, started, known, capsys):
    shutil.rmtree(started / "cache" / "answers")
    entry = min((started / "cache" / "features").rglob("*.safetensors"))
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    command = words(tiny, "run", started)
    assert main(command) == 8
    line = complaint(capsys)
    assert entry.name in line
    assert "Run the same command again" in line
    assert main(command) == 0
    assert tiny_run.contents(started / "results") == tiny_run.contents(tiny_run.uninterrupted(tiny).results)


# JSON for scripts


def test_json_of_plan_and_status(tiny, finished, capsys):
    for command, key in (("plan", "list"), ("status", "units")):
        assert main(words(tiny, command, finished, "--json")) == 0
        units = json.loads(capsys.readouterr().out)[key]
        assert len(units) == 18
        assert {u["state"] for u in units} == {"done"}
        assert all(Path(u["bundle"]).is_dir() for u in units)


def test_json_of_run(tiny, finished, capsys):
    assert main(words(tiny, "run", finished, "--json")) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(made["bundles"]) == 18
    assert all(Path(p).is_dir() for p in made["bundles"])


def test_json_of_ingest_and_publish(finished, capsys, tmp_path):
    database = tmp_path / "index.duckdb"
    # An uncommitted folder must not spoil the JSON.
    stray = finished / "results" / "mini" / "tiny-encoder" / ("0" * 16)
    stray.mkdir()
    (stray / "run.json").write_text("{}")
    assert main(["ingest", str(finished / "results"), "--db", str(database), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["bundles"], told["cells"]) == (18, 6)
    assert told["db"] == str(database)
    assert told["uncommitted"] == [str(stray)]
    assert main(["publish", "--db", str(database), "--site", str(tmp_path / "site"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pages"] >= 8
    assert Path(told["index"]).is_file()


def test_tables_for_people(tiny, finished, capsys):
    for command in ("plan", "status"):
        assert main(words(tiny, command, finished)) == 0
        assert capsys.readouterr().out.strip()
