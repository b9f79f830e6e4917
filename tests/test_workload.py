"""What `eyechart plan` predicts and refuses, counted on the miniature's own data."""

from __future__ import annotations

import json

import pytest
import tiny_run

from harness import workload
from harness.cli import main
from harness.forecast import GPUS, cpu_device
from harness.plan import require_room


@pytest.fixture(scope="module")
def made(tiny):
    with pytest.MonkeyPatch.context() as patch:
        tiny_run.install(patch, tiny)
        home = tiny.home("workload")
        yield tiny_run.make_plan(tiny.manifest, str(tiny.protocol), home, [], tiny.tasks)


def call(tiny, capsys, home, command, *more):
    code = main([command, str(tiny.manifest), "--protocol", str(tiny.protocol), "--home", str(home), *more])
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("eyechart: ")]
    assert len(lines) == bool(code), said.err
    return code, said.out, "".join(lines)


@pytest.fixture
def place(tiny, home):
    (home / "data").symlink_to(tiny.root / "data")
    return home


def test_the_work_is_counted_once_for_each_image(made):
    counts, load = tiny_run.COUNTS, made.load
    questions = sum(counts[f"NUM_{name}"] for name in ("VQA", "SIGNS", "REC", "VIDEO"))
    assert load.questions == questions
    assert load.streamed_images == 0
    assert load.tokens == 16
    sets = workload.kept_images(made.subject, made.tasks, workload_encoder(made))
    assert sets["eyechart_mini_probe"] == 400
    assert sets["mixture:stills"] == 520
    assert sets["mixture:clips"] == 12 * 4
    assert sets["eyechart_mini_video"] <= 40 * 4
    assert sets["eyechart_mini_vqa"] < 60, "several questions share an image"
    assert load.images == sum(sets.values())
    assert load.row_tokens > 20, "texts of the mixture, counted by its own tokenizer"
    assert load.opening_tokens == 2
    assert load.gmacs > 0


def workload_encoder(made):
    from harness.stages import open_subject

    return open_subject(made.subject)


def test_counted_images_are_those_that_a_run_encodes(tiny, made):
    """The bundles of the uninterrupted run say how many images were encoded."""
    from harness.bundle import find_bundles, read_bundle

    home = tiny_run.uninterrupted(tiny)
    bundle = read_bundle(next(iter(find_bundles(home.results))))
    assert bundle.environment["costs"]["images"] == made.load.images
    kept = sum(p.stat().st_size for p in home.features.rglob("*.safetensors"))
    kept += sum(p.stat().st_size for p in home.adapters.rglob("*.safetensors"))
    assert 0.5 * kept < made.forecast.disk_bytes < 4 * kept


def test_the_table_and_the_json_say_the_same(tiny, place, capsys):
    code, out, _ = call(tiny, capsys, place, "plan", "--device", "cpu")
    assert code == 0
    for word in ("train", "tokens", "operations", "memory", "disk", "time", "this CPU", "predicted"):
        assert word in out
    told = json.loads(call(tiny, capsys, place, "plan", "--device", "cpu", "--json")[1])
    assert told["on"] == "cpu"
    assert told["train_tokens"] > 0 and 0 < told["hours"] < 1
    assert f"{told['train_tokens']:,}" in out
    assert 0 < told["memory_bytes"] < told["memory_free_bytes"]


def test_another_device(tiny, place, capsys):
    here = json.loads(call(tiny, capsys, place, "plan", "--json")[1])
    there = json.loads(call(tiny, capsys, place, "plan", "--json", "--on", "H100")[1])
    assert there["on"] == "H100"
    assert there["hours"] < here["hours"]
    assert there["memory_free_bytes"] == GPUS["H100"].memory_bytes
    assert "one H100" in call(tiny, capsys, place, "plan", "--on", "H100")[1]
    assert call(tiny, capsys, place, "plan", "--on", "abacus")[0] == 2


def test_the_command_line_knows_the_gpus_of_the_table():
    from harness.cli import build_parser

    for name in GPUS:
        assert build_parser().parse_args(["plan", "x", "--on", name]).on == name


@pytest.mark.parametrize("command", ["plan", "run"])
def test_too_little_memory_is_refused_before_anything_begins(tiny, place, capsys, monkeypatch, command):
    monkeypatch.setattr(workload, "free_memory", lambda: 300_000_000)
    code, _, err = call(tiny, capsys, place, command, "--device", "cpu")
    assert (code, "memory is too small" in err) == (6, True)
    assert "GiB" in err and "smaller language model" in err
    assert not (place / "cache").exists()


@pytest.mark.parametrize("command", ["plan", "run"])
def test_too_little_disk_is_refused_before_anything_begins(tiny, place, capsys, monkeypatch, command):
    import harness.files

    monkeypatch.setattr(harness.files, "free_bytes", lambda _: 10)
    code, _, err = call(tiny, capsys, place, command, "--device", "cpu")
    assert (code, "not enough disk space for the run of tiny-encoder" in err) == (6, True)
    assert not (place / "cache").exists()


def test_fewer_workers_are_the_way_out_where_they_are(made):
    from harness.errors import ResourceError

    one = made.forecast.needed_bytes(cpu_device(1, 0))
    require_room(made, cpu_device(1, one))
    with pytest.raises(ResourceError, match="--workers 1"):
        require_room(made, cpu_device(2, one))


def test_what_this_machine_has():
    assert 10**8 < workload.free_memory() < 10**14
    device = workload.device_here("cpu")
    assert device.is_cpu and device.workers >= 1
    assert workload.device_here("cpu", 3).workers == 3


def test_a_mixture_that_is_streamed_is_not_kept(made, monkeypatch):
    monkeypatch.setattr(workload, "streams_mixture", lambda subject, encoder: True)
    load, wanted = workload.predict(made.subject, made.tasks, workload_encoder(made))
    assert load.images == made.load.images - 520
    recipe = made.subject.protocol.adapter
    assert load.streamed_images == 3 * (recipe.steps * recipe.batch + recipe.standardise_images)
    assert wanted.disk_bytes < made.forecast.disk_bytes
    assert wanted.encode_ops > 0
