"""Pages of encoders, the methods page, and the frame around all pages."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from harness.records import Protocol, Submission
from harness.submission import manifest_text, read_submission
from leaderboard.board import board_href
from leaderboard.charts import score_scale, ticks
from leaderboard.comparisons import Comparisons
from leaderboard.compose import cell, encoder_name, task_head, task_names, task_title
from leaderboard.doctor_words import DOCTOR_CHECKS, finding_words
from leaderboard.facts import Facts, RunFacts
from leaderboard.kit import HERE
from leaderboard.pair_names import pair_href
from leaderboard.pair_page import declared
from leaderboard.sentences import dead_tasks_words, weak_words
from leaderboard.views import (
    DoctorWord,
    EncoderPage,
    EncoderSection,
    Fact,
    MethodsPage,
    Pretraining,
    SeedCell,
    Site,
    StageCost,
)
from leaderboard.wording import count_of, page_name, pair_label, web_link

_COMMIT = re.compile(r"[0-9a-f]{40}")
_PLAIN_ID = re.compile(r"[a-z0-9-]{1,60}")
_WEIGHTS = HERE.parent / "harness" / "mini" / "weights"
"""Manifests and files of the zoo."""
_MAX_DEPTH = 6
"""Nesting of a receipt that is unfolded into labels; anything deeper is printed as JSON."""


def site_frame(facts: Facts, compared: Sequence[Comparisons]) -> Site:
    """What header and footer need."""
    return Site(
        suites=tuple(sorted(set(facts.suites.values()))),
        tasks=tuple(task_head(c, t) for c in compared for t in task_names(c)),
        num_runs=len(facts.runs),
        num_encoders=len({r.encoder for r in facts.runs}),
        index_digest=facts.index_digest,
        board_href=board_href(compared[0].protocol) if compared else "",
        local_media=facts.local_media,
    )


def encoder_page(facts: Facts, compared: Sequence[Comparisons], encoder: str) -> EncoderPage:
    """Everything measured of one encoder or floor, seeds one by one, costs and receipts."""
    submission = facts.submissions[encoder]
    return EncoderPage(
        name=encoder_name(facts, encoder),
        facts=(*_about(submission), *_declared(facts, submission)),
        links=tuple(Fact(label="Link", value=link, href=web_link(link)) for link in submission.links),
        pretraining=tuple(Pretraining(**asdict(stage)) for stage in submission.pretraining),
        sections=tuple(_section(c, encoder) for c in compared if encoder in c.encoders),
        checks=tuple(Fact(label=code, value=words) for code, words in DOCTOR_CHECKS.items()),
        pairs=_pairs(facts, encoder),
        manifest=manifest_text(submission),
        fetched=bool(_COMMIT.fullmatch(submission.source.revision)),
        num_files=len(submission.source.files),
        shipped=_shipped(submission),
    )


def _pairs(facts: Facts, encoder: str) -> tuple[Fact, ...]:
    """The declared pairs that have a page, whichever arm it is."""
    return tuple(
        Fact(
            label=pair_label(*(encoder_name(facts, e).title for e in (pair.a, pair.b))),
            value=pair.note,
            href=pair_href(pair.a, pair.b),
        )
        for pair in declared(facts)
        if encoder in (pair.a, pair.b)
    )


def _shipped(submission: Submission) -> str:
    """The manifest in this repository of the same files and input: its weights came along."""
    if not _PLAIN_ID.fullmatch(submission.id):
        return ""
    path = _WEIGHTS / f"{submission.id}.toml"
    ours = read_submission(path) if path.is_file() else None
    same = ours is not None and (ours.source, ours.input) == (submission.source, submission.input)
    return f"harness/mini/weights/{path.name}" if same else ""


def _section(compared: Comparisons, encoder: str) -> EncoderSection:
    facts = compared.facts
    runs = sorted(
        compared.runs.get(encoder, ()),
        key=lambda r: (task_names(compared).index(r.task), r.seed, r.run_key),
    )
    return EncoderSection(
        protocol=compared.protocol,
        suite=facts.suites[compared.protocol],
        ticks=ticks(score_scale()),
        cells=tuple(cell(compared, encoder, t, against="highest") for t in task_names(compared)),
        seeds=tuple(_seed_cell(facts, r) for r in runs),
        costs=_costs(runs),
        receipts=_receipts(runs),
        machines=_machines(runs),
        doctor=() if facts.submissions[encoder].floor else _doctor(runs),
        command=_command(facts.submissions[encoder], compared.protocol, runs),
        marks=(
            *dead_tasks_words(compared, [t for t in task_names(compared) if compared.metric(encoder, t)]),
            *weak_words(compared, (encoder,)),
        ),
    )


def _doctor(runs: Sequence[RunFacts]) -> tuple[DoctorWord, ...]:
    """What `eyechart doctor` said: runs keep it in their receipt, older ones beside their environment."""
    said = Counter(run.doctor for run in runs)
    return tuple(_doctor_word(report, count) for report, count in sorted(said.items()))


def _doctor_word(report: tuple[str, ...], count: int) -> DoctorWord:
    runs = count_of(count, "run")
    if not report:
        return DoctorWord(text=f"No report was kept with {runs}.", is_fault=False)
    day, verdict, *codes = report
    when = f"on {day}, after {runs}" if day else f"before {runs}"
    if verdict == "sound":
        return DoctorWord(text=f"Sound: nothing wrong was found {when}.", is_fault=False)
    return DoctorWord(
        text=f"Found {when}: {finding_words(codes) or verdict}. Measured all the same.", is_fault=True
    )


def _command(submission: Submission, protocol: str, runs: Sequence[RunFacts]) -> str:
    """The command that makes these runs again; seeds are the protocol's."""
    engines = sorted({r.inputs.get("engine", "") for r in runs} & {"hf", "vllm"})
    words = ["eyechart", "run", _shipped(submission) or "submission.toml", "--protocol", protocol]
    words += ["--engine", engines[0]] if len(engines) == 1 else []
    words += ["--allow-local-code"] if submission.source.kind == "python" else []
    return shlex.join(words)


def _seed_cell(facts: Facts, run: RunFacts) -> SeedCell:
    return SeedCell(
        task_title=task_title(facts, run.task),
        task_href=f"tasks/{page_name(run.task)}",
        seed=run.seed,
        state="incomplete" if run.value is None else "scored",
        value=run.value,
        num_expected=run.num_expected,
        num_done=run.num_scored + run.num_unparsed,
        num_unparsed=run.num_unparsed,
        run_key=run.run_key,
    )


def _costs(runs: Sequence[RunFacts]) -> tuple[StageCost, ...]:
    stages = sorted({stage for r in runs for stage in r.costs})
    return tuple(
        # No sum over runs: an adapter shared by several tasks is reported by each of them.
        StageCost(stage=s, median_s=median(found), longest_s=max(found), num_runs=len(found))
        for s in stages
        for found in ([r.costs[s] for r in runs if s in r.costs],)
    )


def _receipts(runs: Sequence[RunFacts]) -> tuple[tuple[Fact, ...], ...]:
    return tuple(
        (_carriers(found), *_inputs(found), *rows) for found, rows in _group(runs, lambda r: r.receipt)
    )


def _machines(runs: Sequence[RunFacts]) -> tuple[tuple[Fact, ...], ...]:
    groups = _group(runs, lambda r: _machine(r.environment))
    return tuple((_carriers(found), *rows) for found, rows in groups if rows)


def _group(
    runs: Sequence[RunFacts], read: Callable[[RunFacts], Mapping[str, Any]]
) -> list[tuple[list[RunFacts], tuple[Fact, ...]]]:
    """Runs by equal contents of a JSON object, in order of first appearance."""
    groups: dict[tuple[Fact, ...], list[RunFacts]] = {}
    for run in runs:
        groups.setdefault(_flatten(read(run)), []).append(run)
    return [(found, rows) for rows, found in groups.items()]


def _carriers(runs: Sequence[RunFacts]) -> Fact:
    words = ", ".join(f"{r.task} seed {r.seed} ({r.run_key[:16]})" for r in runs)
    return Fact(label="Runs", value=words)


def _inputs(runs: Sequence[RunFacts], label: str = "input") -> tuple[Fact, ...]:
    """Inputs, one line where all runs have the same, else a line a task; none for what a run does not use."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, value in run.inputs.items():
            tasks = found.setdefault(name, {}).setdefault(value, [])
            tasks += [run.task] if run.task not in tasks else []
    return tuple(
        Fact(
            label=f"{label}: {name}" if len(values) == 1 else f"{label}: {name} of {', '.join(tasks)}",
            value=value,
            code=True,
        )
        for name, values in sorted(found.items())
        for value, tasks in sorted(values.items(), key=lambda item: item[1])
        if value
    )


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware and versions; times and the doctor have places of their own."""
    apart = {"costs", "doctor"}
    return {k: v for k, v in environment.items() if not k.endswith("_s") and k not in apart}


def _flatten(value: object, label: str = "", depth: int = 0) -> tuple[Fact, ...]:
    """Nested JSON as labelled lines, in sorted order."""
    if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
        return tuple(
            fact
            for k in sorted(value)
            for fact in _flatten(value[k], f"{label} / {k}" if label else str(k), depth + 1)
        )
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return (Fact(label=label, value=text, code=True),) if label else ()


def _about(submission: Submission) -> tuple[Fact, ...]:
    source = submission.source
    rows = [
        Fact(label="Id", value=submission.id, code=True),
        Fact(label="Authors", value=", ".join(submission.authors) or "not stated"),
        Fact(label="License", value=submission.license or "not stated"),
        Fact(label="Contamination pledge", value=submission.contamination or "not stated"),
        Fact(label="Source", value=_source(source.kind, source.name)),
        Fact(label="Revision", value=source.revision, code=True),
        Fact(label="Native resolution", value=f"{submission.input.resolution} px"),
        Fact(label="Identity", value=submission.identity_digest, code=True),
    ]
    if submission.base:
        rows.insert(1, Fact(label="Made from", value=submission.base, code=True))
    rows += [Fact(label=f"sha256 of {f.path}", value=f.sha256, code=True) for f in source.files]
    return tuple(rows)


def _declared(facts: Facts, submission: Submission) -> tuple[Fact, ...]:
    """How much was tried before; floors are nobody's entry."""
    attempt = facts.attempts.get(submission.id)
    if attempt is None:
        return () if submission.floor else (Fact(label="Tried before", value="not declared"),)
    counts = (
        (attempt.checkpoints, "checkpoint"),
        (attempt.adapter_seeds, "adapter seed"),
        (attempt.runs, "run"),
    )
    words = ", ".join(count_of(number, what) for number, what in counts)
    said = f"{words}, these included; declared by {attempt.declared_by}, {attempt.date}"
    return (Fact(label="Tried before", value=f"{said}. {attempt.note}".removesuffix(". ")),)


def _source(kind: str, name: str) -> str:
    if kind == "python":
        return f"{name}, their own code (python): run on their machine, never an official row"
    return f"{kind}: {name}"


def methods_page(facts: Facts) -> MethodsPage:
    """The recipes behind each protocol in the index."""
    return MethodsPage(
        protocols=tuple((p, _recipe(facts, p)) for p in sorted(facts.suites)), set_aside=facts.set_aside
    )


def _recipe(facts: Facts, name: str) -> tuple[Fact, ...]:
    runs = [r for r in facts.runs if r.protocol == name]
    digests = _inputs(runs, "as run")
    protocol = facts.protocols.get(name)
    if protocol is None:
        return (Fact(label="Recipe", value="not installed here; the digests below name it"), *digests)
    return (*_stated(protocol), *digests)


def _stated(protocol: Protocol) -> tuple[Fact, ...]:
    training = {
        "frozen": "frozen: only the adapter is trained",
        "full": "trained along with the adapter, the same way for every encoder and every floor",
        "lora": "LoRA trained along with the adapter, the same way for every encoder and every floor",
    }[protocol.llm.training]
    sections = {k: v for k, v in asdict(protocol).items() if isinstance(v, dict) and k != "recipe_digests"}
    return (
        Fact(label="Description", value=protocol.description),
        Fact(label="Language model", value=f"{protocol.llm.name}; {training}"),
        Fact(label="Seeds", value=", ".join(map(str, protocol.seeds))),
        *_flatten(sections),
        *(
            Fact(label=f"recipe digest: {k}", value=v, code=True)
            for k, v in sorted(protocol.recipe_digests.items())
        ),
    )
