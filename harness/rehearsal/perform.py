"""What a rehearsal runs, one after another as `eyechart run` would, and what it shows afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bundle import read_bundle
from harness.executors.local import LocalExecutor
from harness.mini.members import WEIGHTS
from harness.plan import make_plan
from harness.rehearsal.suite import STAND_INS, Rehearsal
from harness.run import run_plan

StageMaker = Callable[[str, str], Any]


@dataclass(frozen=True, slots=True)
class Act:
    """One encoder under one protocol with one engine."""

    protocol: str
    manifest: str
    engine: str

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.manifest.removeprefix('mini-')}, {self.protocol}, {self.engine}"


MAIN, FROZEN = STAND_INS.values()
ACTS = (
    Act(MAIN, "mini-pvt-words-s0", "hf"),
    Act(MAIN, "mini-pvt-siglip-s0", "hf"),
    Act(MAIN, "floor-blind", "hf"),
    Act(MAIN, "mini-pvt-words-s0", "vllm"),
    Act(FROZEN, "mini-pvt-words-s0", "vllm"),
    Act(FROZEN, "mini-pvt-siglip-s0", "vllm"),
)
"""A pair and its blind floor on the reference engine, one of them again on vLLM, the ablation on vLLM."""


@dataclass(frozen=True, slots=True)
class Performed:
    """What an act left."""

    act: Act
    bundles: tuple[Path, ...]
    losses: tuple[float, float]
    """Mean over seeds, of the first and the last step that was kept."""
    seconds: float


def results_of(rehearsal: Rehearsal, engine: str) -> Path:
    """Folder of bundles: one an engine, since a cell of the board holds one run a seed."""
    return rehearsal.home.root / "results" / rehearsal.key / engine


def perform(rehearsal: Rehearsal, act: Act, show: StageMaker, workers: int | None = None) -> Performed:
    """Carry out one act; finished units are found again.

    Args:
        rehearsal: from `set_up`.
        act: what to run.
        show: makes the progress of a stage of the run.
        workers: processes; one a core by default.

    Raises:
        EyechartError: as `run_plan`.
    """
    results = results_of(rehearsal, act.engine)
    plan = make_plan(
        WEIGHTS / f"{act.manifest}.toml",
        str(rehearsal.protocols[act.protocol]),
        rehearsal.home,
        [results],
        rehearsal.tasks,
        engine=act.engine,
    )
    with LocalExecutor(workers) as executor:
        report = run_plan(plan, results, executor, show)
    return Performed(act, tuple(report.bundles), _losses(report.bundles), sum(report.stages_s.values()))


def _losses(bundles: Sequence[Path]) -> tuple[float, float]:
    found = {}
    for path in bundles:
        bundle = read_bundle(path)
        if "adapter" in bundle.receipt:
            found[bundle.run.seed] = bundle.receipt["adapter"]["losses"]
    first, last = (sum(losses[at] for losses in found.values()) / len(found) for at in (0, -1))
    return first, last


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers of two engines to one task, all seeds together."""

    task: str
    num_answers: int
    num_equal: int


def agreements(one: Performed, other: Performed) -> list[Agreement]:
    """How many answers two acts of one encoder and protocol share, task by task; probes ask nobody."""
    tables = [
        {(b.run.task, b.run.seed): b.answer_table for b in map(read_bundle, act.bundles) if _is_asked(b)}
        for act in (one, other)
    ]
    found: dict[str, Agreement] = {}
    for (task, seed), table in sorted(tables[0].items()):
        said = [dict(zip(*(t[c].to_pylist() for c in ("sample_id", "answer")), strict=True))
                for t in (table, tables[1][task, seed])]  # fmt: skip
        before = found.get(task, Agreement(task, 0, 0))
        equal = sum(said[1][name] == text for name, text in said[0].items())
        found[task] = Agreement(task, before.num_answers + len(said[0]), before.num_equal + equal)
    return list(found.values())


def _is_asked(bundle: Any) -> bool:
    return bool(bundle.run.engine != "probe")
