"""The rehearsal's inputs: miniature datasets by the real importer, tasks, language model and protocols.

Tasks and protocols are the repository's own files with a few values replaced: what is exercised is what the
main suite will run. Replaced are the suite's name, what is UNPINNED, and whatever only makes things small.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.data import NOTE, read_note
from harness.datasets.checks import examine_dataset
from harness.datasets.leak_audit import audit_mixture
from harness.datasets.make import Given, import_dataset
from harness.datasets.packs import tasks_of, write_pack
from harness.datasets.specs import SPECS
from harness.digest import digest_tree
from harness.errors import DatasetError, InternalError
from harness.files import write_atomic
from harness.home import Home
from harness.protocol import PROTOCOLS
from harness.rehearsal.llm import NAME, WIDTH, pinned_protocol, write_llm
from harness.rehearsal.raw import WRITERS, write_raw
from harness.stages import MIXTURE
from harness.task import TASKS, known_tasks, read_task

Progress = Callable[[int, int], None]
SUITE = "rehearsal"
ROWS: Mapping[str, int] = {"imagenet": 40, "mixture": 60}
"""Rows a split, about; other datasets have OTHER_ROWS."""
OTHER_ROWS = 16
SMALL: Mapping[str, str] = {
    "image.resolution": "64",
    "tokens.budget": "16",
    "video.frames": "4",
    "video.tokens_per_frame": "4",
    "adapter.width": str(WIDTH),
    "adapter.steps": "24",
    "adapter.batch": "16",
    "adapter.warmup_steps": "2",
    "adapter.pack_tokens": "512",
    "adapter.standardise_images": "64",
    # Not main's bfloat16: CPUs without such units need thirty times as long, and rounding would hide a
    # difference between the engines.
    "adapter.dtype": '"float32"',
    "decoding.dtype": '"float32"',
    "probe.max_iter": "40",
    "decoding.max_new_tokens": "12",
}
STAGE: Mapping[str, str] = {
    "adapter.stages.steps": "16",
    "adapter.stages.batch": "16",
    "adapter.stages.lr": "0.0005",
    "adapter.stages.warmup_steps": "2",
    "adapter.stages.lora_rank": "4",
    "adapter.stages.lora_alpha": "8",
}
STAND_INS: Mapping[str, str] = {"main": "rehearsal", "main-frozen": "rehearsal-frozen"}
"""Protocol of the main suite -> the one that rehearses it."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rehearsal is performed with."""

    home: Home
    tasks: Path
    protocols: Mapping[str, Path]
    """Name -> file."""
    notes: tuple[str, ...]
    """What importing and the search for leaks found worth telling."""

    @property
    def key(self) -> str:
        """Short hash of tasks and protocols: bundles of other ones must not meet those of these."""
        files = {p.relative_to(self.tasks).as_posix(): p for p in sorted(self.tasks.rglob("*.yaml"))}
        return digest_tree({**files, **self.protocols})[:12]


def set_up(home: Home, progress: Progress) -> Rehearsal:
    """Write everything; the same bytes at every call, so that a run that was stopped goes on.

    Args:
        home: of the rehearsal alone.
        progress: called with (datasets done, datasets in all).

    Raises:
        DatasetError: the doctor finds a fault in a dataset that was made and imported here: a bug.
        ResourceError: the disk cannot take it.
    """
    root, notes = home.data(SUITE), list[str]()
    names = [name for name in WRITERS if name != MIXTURE] + [MIXTURE]
    for done, name in enumerate(names, 1):
        notes += _dataset(home, name)
        progress(done, len(names))
    tasks = _write_tasks(home.root / "tasks", root)
    for name in names:
        spec = SPECS[name]
        if mine := tasks_of(SUITE, name, tasks):
            write_pack(root / name, mine, spec.license)
    return Rehearsal(home, tasks, _write_protocols(home), tuple(notes))


def _dataset(home: Home, name: str) -> list[str]:
    """Make, import and examine one dataset; the mixture without any image of the others."""
    root, spec = home.data(SUITE), SPECS[name]
    raw = write_raw(home.root / "raw", name, rows=ROWS.get(name, OTHER_ROWS))
    against = ("all",) if name == MIXTURE else ()
    made = import_dataset(spec, raw, root, Given(partial=True, against=against))
    health = examine_dataset(spec, made.path, workers=1)
    if health.findings:
        raise DatasetError("the rehearsal's own data are faulty", found=health.findings[0].line())
    if name != MIXTURE:
        return []
    leaks = audit_mixture(root, health, 1, lambda _done, _total: None)
    shared = sum(leak["same_bytes"] + leak["near"] for leak in leaks)
    return [f"the mixture shares {shared} images with the {len(leaks)} image datasets", *made.notes]


def _write_tasks(folder: Path, data: Path) -> Path:
    """The repository's tasks; those of the main suite bound to the data that are here."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(TASKS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in known_tasks():
        task = read_task(name)
        if task.suite != "main" or not (data / task.dataset / NOTE).is_file():
            continue
        note, path = read_note(data / task.dataset), folder / name / f"{name}.yaml"
        swaps = {
            "suite": SUITE,
            "num_expected": str(note["rows"][task.split]),
            "dataset_digest": note["digest"],
        }
        text = path.read_text(encoding="utf-8").replace("/.eyechart/data/main/", f"/data/{SUITE}/")
        for key, value in swaps.items():
            text, count = re.subn(rf"^(  {key}): .*$", rf"\1: {value}", text, flags=re.MULTILINE)
            if count != 1:
                raise InternalError("a task has no such line", where=path.name, found=key)
        write_atomic(path, text.encode())
    return folder


def _write_protocols(home: Home) -> dict[str, Path]:
    """The main suite's protocols, small and pinned to what is here."""
    pins = {
        "suite": f'"{SUITE}"',
        "llm.name": f'"{NAME}"',
        "llm.revision": f'"{write_llm(home.llms / NAME.replace("/", "--"))}"',
        "adapter.mixture": '"rehearsal-mixture"',
        "adapter.mixture_digest": f'"{read_note(home.data(SUITE) / MIXTURE)["digest"]}"',
    }
    written = {}
    for main, name in STAND_INS.items():
        text = (PROTOCOLS / f"{main}.toml").read_text(encoding="utf-8")
        own = {"name": f'"{name}"', "description": f'"The code of {main} on made-up data: no result."'}
        stages = STAGE if "[[adapter.stages]]" in text else {}
        written[name] = home.root / "protocols" / f"{name}.toml"
        write_atomic(written[name], pinned_protocol(text, {**pins, **own, **SMALL, **stages}).encode())
    return written
