"""A run with LoRA stages, killed, interrupted or out of disk inside any stage, ends in the same bytes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import staged_run
import tiny_run
from staged_run import (
    MOMENTS,
    NO_MIXTURE_FITS,
    STEPS,
    bundle_bytes,
    fill_disk,
    finished,
    new_command,
    session_is_empty,
    stop,
    wait_until,
)

from harness import answers as answers_module, stages
from harness.adapter import llm as llm_module, train as train_module
from harness.plan import make_plan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return staged_run.staged(tiny_run.shared(tmp_path_factory))


# --- one seed in a process that kills itself at an exact step: seconds ---


@pytest.fixture
def often(tiny, monkeypatch):
    """States and parts are saved often, in this process and in those forked from it."""
    monkeypatch.setitem(llm_module.LOCAL_LLMS, "mini-llm", tiny.llm)
    monkeypatch.setattr(train_module, "SAVE_EVERY", staged_run.SAVE_EVERY)
    monkeypatch.setattr(answers_module, "PART_IMAGES", 16)


def seed_of(tiny, home, progress=lambda *_: None):
    """Adapter and answers of the first seed: their bytes by name."""
    plan = make_plan(tiny.manifest, str(tiny.protocol), home, [], tiny.tasks)
    made = answers_module.seed_job(
        subject=plan.subject, tasks=plan.tasks, seed=0, batch=64, progress=progress
    )
    adapters = home.adapters.rglob("*.safetensors")
    files = [*adapters, *(Path(path) for path in made["answers"].values())]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def one_seed(tiny):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(llm_module.LOCAL_LLMS, "mini-llm", tiny.llm)
        patch.setattr(train_module, "SAVE_EVERY", staged_run.SAVE_EVERY)
        return seed_of(tiny, tiny.home("staged-seed"))


def die_at(tiny, home, step, calls):
    """Carry out the seed in a fork that is killed at its `calls`-th report of `step`."""
    child = os.fork()
    if not child:
        seen = []

        def report(done, _):
            seen.extend([done] if done == step else [])
            if len(seen) == calls:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            seed_of(tiny, home, report)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


FAST = {
    "stage 1": (7, 1, "*[0-9a-f].safetensors"),
    "stage 2": (STEPS + 7, 1, "*-stage2.safetensors"),
    # The last step and the finished adapter are told first; then the answers, batch by batch.
    "answers": (2 * STEPS, 6, "answers-*/*.parquet"),
}


@pytest.mark.parametrize(
    ("stage", "streamed"),
    [
        ("stage 1", False),
        ("stage 2", True),
        ("answers", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("stage 1", True), ("stage 2", False)]),
    ],
)
def test_a_killed_seed_resumes_to_the_same_bytes(
    tiny, one_seed, often, request, monkeypatch, stage, streamed
):
    if streamed:
        monkeypatch.setattr(stages, "STREAM_SHARE", NO_MIXTURE_FITS)
    home = tiny.home(re.sub(r"\W+", "-", request.node.name))
    step, calls, left = FAST[stage]
    die_at(tiny, home, step, calls)
    assert list(home.unfinished.glob(left))
    again = []
    assert seed_of(tiny, home, lambda done, _: again.append(done)) == one_seed
    # It went on where it had saved, and not from the start.
    assert again[0] in {step, 2 * STEPS}
    assert not list(home.unfinished.iterdir())


# --- the command itself, with its workers and its scorer: minutes ---


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Bundles of a run that nobody disturbed."""
    command = new_command(tiny, tmp_path_factory.mktemp("whole"), "staged-whole")
    command.finish()
    return bundle_bytes(command.home)


@pytest.fixture
def command(tiny, tmp_path, request):
    share = getattr(request, "param", 0.25)
    made = new_command(tiny, tmp_path, re.sub(r"\W+", "-", request.node.name), share=share)
    running = []
    start = made.start
    made.start = lambda *words, **more: (running.append(start(*words, **more)), running[-1])[1]
    yield made
    for child in running:
        if child.poll() is None:
            stop(child, "kill")


def interrupt(command, stage, how):
    """Stop the run inside a stage, provably: its begin is on disk and its end is not."""
    child = command.start()
    wait_until(child, command.home, MOMENTS[stage])
    stop(child, how)
    assert not MOMENTS[stage].over(command.home), f"the run was past {stage}"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "ctrl-c"])
@pytest.mark.parametrize("stage", MOMENTS)
def test_stopped_in_any_stage_the_same_command_ends_in_the_same_bytes(command, whole, stage, how):
    interrupt(command, stage, how)
    command.finish()
    assert bundle_bytes(command.home) == whole


@pytest.mark.slow
@pytest.mark.parametrize("command", [NO_MIXTURE_FITS], indirect=True)
@pytest.mark.parametrize("stage", ["stage 1", "stage 2"])
def test_so_does_a_run_that_encodes_its_mixture_while_it_trains(command, whole, stage):
    interrupt(command, stage, "kill")
    command.finish()
    assert bundle_bytes(command.home) == whole


@pytest.mark.slow
def test_stopped_again_and_again_it_still_ends_in_the_same_bytes(command, whole):
    for stage, how in zip(MOMENTS, ["kill", "ctrl-c"] * 3, strict=True):
        interrupt(command, stage, how)
    command.finish()
    assert bundle_bytes(command.home) == whole


@pytest.mark.slow
def test_one_worker_or_two_the_bundles_are_the_same(tiny, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # of the main process; a worker always has one
    command = new_command(tiny, tmp_path, "staged-alone", workers=1)
    command.finish()
    assert bundle_bytes(command.home) == whole


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOMENTS)
def test_a_disk_that_fills_up_is_one_line_and_then_the_same_bytes(command, whole, stage):
    child = command.start()
    wait_until(child, command.home, MOMENTS[stage])
    fill_disk(child)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (6, ""), err
    said = [line for line in err.splitlines() if line.startswith("eyechart: ")]
    assert "Traceback" not in err and len(said) == 1 and said[0] == err.splitlines()[-1], err
    assert "cannot write" in said[0] and "run the same command again" in said[0].lower(), said
    assert session_is_empty(child.pid)
    assert not MOMENTS[stage].over(command.home)
    kept = finished(command.home)
    command.finish()
    assert kept.items() <= finished(command.home).items()
    assert bundle_bytes(command.home) == whole
