"""Data that turns out bad in the middle of a run: one line that names it, and what was finished is kept.

What a plan finds before any work (empty splits, other digests, another language model) is in test_plan.py.
"""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
import staged_run
import tiny_run

from harness import stages
from harness.adapter import llm as llm_module
from harness.digest import digest_file
from harness.errors import DatasetError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = staged_run.staged(tiny_run.shared(tmp_path_factory))
        patch.setitem(llm_module.LOCAL_LLMS, "mini-llm", made.llm)
        yield made


@pytest.fixture
def home(tiny, request):
    """A home whose data may be damaged."""
    made = tiny.home(re.sub(r"\W+", "-", request.node.name))
    data = made.root / "data"
    data.unlink()
    shutil.copytree(tiny.root / "data", data)
    return made


def seal(folder, name):
    """Let the note say of a damaged file that it is as it should be: only decoding finds the damage."""
    path = folder / "DATASET.json"
    note = json.loads(path.read_text())
    note["files"][name] = digest_file(folder / name)
    path.write_text(json.dumps(note))


def cut_clip(home):
    folder = home.data("mini") / "video"
    clip = sorted((folder / "clips").glob("*.mp4"))[7]
    clip.write_bytes(clip.read_bytes()[:700])
    seal(folder, f"clips/{clip.name}")
    return clip.name


def cut_image_of_the_mixture(home):
    folder = home.data("mini") / "mixture"
    path = folder / "train.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[400]["image"]["bytes"] = rows[400]["image"]["bytes"][:100]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    seal(folder, path.name)
    return f"mixture-{rows[400]['image_id']}"


def restore(tiny, home):
    shutil.rmtree(home.root / "data")
    (home.root / "data").symlink_to(tiny.root / "data")


def answers_of(home):
    return {path.name: path.read_bytes() for path in home.answers.glob("*.parquet")}


def no_scores(monkeypatch):
    """A run that ends at its answers: what is looked at here comes before scores."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.unit_scores.score_in_process", stop)


@pytest.mark.parametrize(
    ("damage", "share", "kept"),
    [
        # Sets are encoded one after another, the clips of the task last.
        (cut_clip, 0.25, "cache/features/*/*.json"),
        pytest.param(cut_image_of_the_mixture, 0.25, None, marks=pytest.mark.slow),
        # Encoded while it is trained on: the damage is met in a training step.
        (cut_image_of_the_mixture, staged_run.NO_MIXTURE_FITS, "cache/features/*/*.json"),
    ],
    ids=["a clip", "an image to train on", "an image to train on, streamed"],
)
def test_damage_behind_sound_hashes_is_named_and_costs_no_finished_work(
    tiny, home, monkeypatch, damage, share, kept
):
    monkeypatch.setattr(stages, "STREAM_SHARE", share)
    no_scores(monkeypatch)
    name = damage(home)
    with pytest.raises(DatasetError) as caught:
        tiny_run.carry_out(tiny, home)
    assert caught.value.exit_code == 5
    line = caught.value.line()
    assert name in line and "\n" not in line
    assert not home.results.exists()
    before = {p: p.stat().st_mtime_ns for p in home.root.glob(kept)} if kept else {}
    assert bool(before) == bool(kept)
    restore(tiny, home)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.carry_out(tiny, home)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(answers_of(home)) == staged_run.UNITS
