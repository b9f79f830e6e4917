"""`eyechart run` as a process with workers and scorer: stopped by a terminal or a scheduler, and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_run
from staged_run import session_is_empty

# Workers run the main module's top level again, so they too find the miniature's language model.
COMMAND = """
import sys
from pathlib import Path
from harness.adapter import llm

llm.LOCAL_LLMS["mini-llm"] = Path({llm!r})
if __name__ == "__main__":
    from harness import cli, commands, plan

    make_plan = plan.make_plan
    plan.make_plan = lambda *arguments, **options: make_plan(*arguments, Path({tasks!r}), **options)
    commands.ensure_suite = lambda suite, home: None
    sys.exit(cli.main())
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = tiny_run.shared(tmp_path_factory)
        tiny_run.install(patch, made)
        yield made


@pytest.fixture
def start(tiny, tmp_path):
    """Starts the command in a session of its own, as a shell would."""
    script = tmp_path / "eyechart_tiny.py"
    script.write_text(COMMAND.format(llm=str(tiny.llm), tasks=str(tiny.tasks)))
    home = tiny.home(tmp_path.name)
    running = []

    def begin():
        words = ["run", str(tiny.manifest), "--protocol", str(tiny.protocol), "--home", str(home.root)]
        child = subprocess.Popen(
            [sys.executable, str(script), *words, "--workers", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(child)
        return child

    yield begin, home
    for child in running:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def wait_for(child, folder, pattern, count):
    deadline = time.monotonic() + 120
    while len(list(folder.rglob(pattern))) < count:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stop_by_ctrl_c(begin, home):
    """While features are extracted; the terminal sends Ctrl-C to the workers too."""
    child = begin()
    wait_for(child, home.features, "*.json", 3)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("eyechart: interrupted, state saved. Resume with: eyechart run ")
    assert session_is_empty(child.pid)


def stop_by_scheduler(begin, home):
    """Once the first answers rest on disk; a scheduler signals the one process it started."""
    child = begin()
    wait_for(child, home.answers, "*.parquet", 1)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143, err
    assert "Traceback" not in err
    assert session_is_empty(child.pid)


@pytest.mark.parametrize(
    "stops",
    [
        # Minutes each; the fast suite stops runs of tiny models at every moment (tests/test_run.py).
        pytest.param([stop_by_ctrl_c], marks=pytest.mark.slow),
        pytest.param([stop_by_ctrl_c, stop_by_scheduler], marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bundles(tiny, start, stops):
    begin, home = start
    for stop in stops:
        stop(begin, home)
        assert not home.results.exists()
    child = begin()
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert out.startswith("18 bundles in ")
    assert tiny_run.contents(home.results) == tiny_run.contents(tiny_run.uninterrupted(tiny).results)
    assert not list(home.root.rglob(".tmp-*"))
