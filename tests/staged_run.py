"""The miniature under a protocol like main's, stage 1 then LoRA, and the command on it as a process.

Loaded by path from the tests that stop a run by force. The script's changes of constants are what a test may
do and a person may not: states and parts are saved often, so that every stage has a middle to stop in.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny_run import Tiny

from harness.bundle import find_bundles
from harness.home import Home
from harness.protocol import replace_values

TASKS = ("eyechart_mini_probe", "eyechart_mini_vqa", "eyechart_mini_video")
UNITS = 3 * len(TASKS)
STEPS = 20
"""Of each stage."""
SAVE_EVERY = 2
FULL_BYTES = 256
"""What a file can take on a "full" disk: less than any file of the run needs."""
STAGE = f"""
[[adapter.stages]]
steps = {STEPS}
batch = 8
lr = 0.002
warmup_steps = 2
lora_rank = 2
lora_alpha = 4
"""
SWAPS = {
    "llm.training": '"lora"',
    "llm.lr": "0.01",
    "adapter.steps": str(STEPS),
    "adapter.optimiser": '"adamw"',
    "adapter.order": '"epochs"',
    "adapter.places": '"none"',
    "adapter.frame_words": "[]",
    # As in the rehearsal: CPUs without units for bfloat16 need thirty times as long.
    "adapter.dtype": '"float32"',
    "adapter.pack_tokens": "512",
    "adapter.standardise_images": "64",
    "adapter.lr": "0.002",
}
# Workers run the main module's top level again, so they too find the language model and save as often.
SCRIPT = """
import sys
from pathlib import Path
from harness import answers, stages
from harness.adapter import llm, train

llm.LOCAL_LLMS["mini-llm"] = Path({llm!r})
train.SAVE_EVERY, answers.PART_IMAGES, stages.STREAM_SHARE = {save}, 16, {share}
{more}
if __name__ == "__main__":
    from harness import cli, commands, plan

    make_plan = plan.make_plan
    plan.make_plan = lambda *arguments, **options: make_plan(*arguments, Path({tasks!r}), **options)
    commands.ensure_suite = lambda suite, home: None
    sys.exit(cli.main())
"""
NO_MIXTURE_FITS = 0.0
"""A STREAM_SHARE under which every mixture is encoded while it is trained on."""


def staged(tiny: Tiny) -> Tiny:
    """The miniature with two stages and fewer tasks."""
    path = tiny.root / "staged.toml"
    text = tiny.protocol.read_text()
    listed = "".join(f'    "{name}",\n' for name in TASKS)
    text = re.sub(r"^tasks = \[.*?^\]", f"tasks = [\n{listed}]", text, flags=re.MULTILINE | re.DOTALL)
    known = {k: v for k, v in SWAPS.items() if re.search(rf"^{k.split('.')[1]}\s*=", text, re.MULTILINE)}
    text = replace_values(text, known)
    missing = "".join(f"{k.split('.')[1]} = {v}\n" for k, v in SWAPS.items() if k not in known)
    path.write_text(text.replace("[adapter]\n", f"[adapter]\n{missing}", 1) + STAGE)
    return replace(tiny, protocol=path)


@dataclass
class Command:
    """`eyechart run` on the miniature, as a process in a session of its own."""

    tiny: Tiny
    home: Home
    script: Path
    workers: int = 2
    engine: str = "hf"

    def start(self, *before: str, **options: Any) -> subprocess.Popen[str]:
        """Begin it; `before` are words before the Python's own."""
        words = ["run", str(self.tiny.manifest), "--protocol", str(self.tiny.protocol)]
        words += ["--home", str(self.home.root), "--workers", str(self.workers), "--engine", self.engine]
        return subprocess.Popen(
            [*before, sys.executable, str(self.script), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def finish(self) -> str:
        """Carry it out to the end; returns what it said on stderr."""
        child = self.start()
        out, err = child.communicate(timeout=900)
        assert child.returncode == 0, err
        assert out.startswith(f"{UNITS} bundles in "), out
        assert not list(self.home.root.rglob(".tmp-*")), "a half-written file was left"
        assert not list(self.home.unfinished.glob("*")) if self.home.unfinished.exists() else True
        return err


def new_command(
    tiny: Tiny, folder: Path, name: str, *, share: float = 0.25, workers: int = 2, more: str = ""
) -> Command:
    """The command on a fresh home.

    Args:
        tiny: from `staged`.
        folder: for the script.
        name: of the home.
        share: see `NO_MIXTURE_FITS`.
        workers: of the run.
        more: statements of the script, carried out in its workers too.
    """
    script = folder / f"eyechart_{re.sub(r'[^a-z0-9]', '_', name)}.py"
    script.write_text(
        SCRIPT.format(llm=str(tiny.llm), tasks=str(tiny.tasks), save=SAVE_EVERY, share=share, more=more)
    )
    return Command(tiny, tiny.home(name), script, workers)


def has(folder: Path, pattern: str, count: int = 1) -> bool:
    """Whether a folder holds so many files of a name; files still being written do not count."""
    return len([p for p in folder.rglob(pattern) if ".tmp-" not in p.name]) >= count


@dataclass(frozen=True)
class Moment:
    """A point inside a stage, told from the files alone."""

    begun: Callable[[Home], bool]
    over: Callable[[Home], bool]


MOMENTS = {
    "features": Moment(lambda h: has(h.features, "*.json", 2), lambda h: h.unfinished.exists()),
    "stage 1": Moment(
        lambda h: has(h.unfinished, "*.safetensors"), lambda h: has(h.unfinished, "*-stage2.safetensors", 3)
    ),
    "stage 2": Moment(
        lambda h: has(h.unfinished, "*-stage2.safetensors"), lambda h: has(h.adapters, "*.json", 3)
    ),
    "answers": Moment(
        lambda h: has(h.unfinished, "answers-*/*.parquet"), lambda h: has(h.answers, "*.parquet", UNITS)
    ),
    "scores": Moment(lambda h: has(h.answers, "*.scores"), lambda h: h.results.exists()),
    "bundles": Moment(lambda h: has(h.results, "COMMIT"), lambda h: len(find_bundles(h.results)) == UNITS),
}


def wait_until(child: subprocess.Popen[str], home: Home, moment: Moment) -> None:
    """Wait until the run is inside a stage."""
    deadline = time.monotonic() + 180
    while not moment.begun(home):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "the stage was never seen"
        time.sleep(0.002)


def session_is_empty(session: int, within: float = 10) -> bool:
    """Whether every process of a session ends in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not processes(session):
            return True
        time.sleep(0.05)
    return False


def stop(child: subprocess.Popen[str], how: str) -> None:
    """Kill outright, or Ctrl-C as a terminal sends it; nothing of the run may outlive it."""
    if how == "kill":
        child.send_signal(signal.SIGKILL)
    else:
        os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == {"kill": -signal.SIGKILL, "ctrl-c": 130}[how], err
    assert "Traceback" not in err
    assert session_is_empty(child.pid), "a process outlived the run"


def processes(session: int) -> list[int]:
    """Every process of a session: the scorer too, and vLLM's, which are of groups of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == session:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found


def fill_disk(child: subprocess.Popen[str]) -> None:
    """From now on no process of the run can write more than some bytes to a file, as on a full disk."""
    for process in processes(child.pid):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process, resource.RLIMIT_FSIZE, (FULL_BYTES, FULL_BYTES))


def finished(home: Home) -> dict[str, int]:
    """When each finished piece of work was written: features, adapters, answers, bundles."""
    names = ("cache/features/**/*.json", "cache/adapters/**/*.json", "cache/answers/*.parquet", "**/COMMIT")
    found = [p for name in names for p in home.root.glob(name)]
    return {p.relative_to(home.root).as_posix(): p.stat().st_mtime_ns for p in found}


def bundle_bytes(home: Home) -> dict[str, bytes]:
    """Every file of every bundle but environment.json, whose times differ."""
    files = (p for p in home.results.rglob("*") if p.is_file() and p.name != "environment.json")
    return {p.relative_to(home.results).as_posix(): p.read_bytes() for p in files}
