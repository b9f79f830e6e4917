"""Facts in, page records out: the board, the scatter, and the pages of encoders and tasks."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import EyechartError
from harness.floor_rows import beats, errors_away
from harness.prompts import PROBE_SCORER, build_prompt
from harness.records import Metric, Task
from harness.stats import Interval
from leaderboard.charts import SHAPE_OF_SIDE, Strip, score_scale, strip, ticks
from leaderboard.comparisons import REQUIRED_FLOORS, Comparisons
from leaderboard.facts import Facts
from leaderboard.task_samples import task_samples
from leaderboard.views import (
    Cell,
    EncoderName,
    Fact,
    FloorMargin,
    ForestRow,
    Span,
    TaskHead,
    TaskPage,
    TaskSection,
)
from leaderboard.wording import FLOOR_WORDS, count_of, floor_title, page_name, per_cent, range_of

FOREST_UP_TO = 500
"""Encoders in a task's forest plot; the board and the downloads have all."""
_KIND_ORDER = {"probe": 0, "generate": 1, "choice": 2, "": 3}


class _Row(dict[str, str]):
    """A row of a dataset that names its own columns, to show a prompt's form."""

    def __missing__(self, key: str) -> str:
        return f"⟨{key}⟩"


def encoder_name(facts: Facts, encoder: str) -> EncoderName:
    """How an encoder is named and marked."""
    submission = facts.submissions[encoder]
    return EncoderName(
        id=encoder,
        title=submission.title or encoder,
        href=f"encoders/{page_name(encoder)}",
        side=submission.side,
        family=submission.family,
        shape=SHAPE_OF_SIDE[submission.side],
        architecture=submission.architecture,
        floor=FLOOR_WORDS.get(submission.floor or "", ""),
        flags=(
            *(("under the token budget",) if encoder in facts.under_budget else ()),
            *((f"doctor: {', '.join(found)}",) if (found := facts.faults.get(encoder)) else ()),
            *(("their own code, never official",) if submission.source.kind == "python" else ()),
        ),
    )


def task_names(compared: Comparisons) -> tuple[str, ...]:
    """Tasks of a protocol: in the protocol's order where it is known, else by kind and name."""
    facts, protocol = compared.facts, compared.protocol
    measured = compared.tasks
    recipe = facts.protocols.get(protocol)
    stated = [t for t in recipe.tasks if t in measured] if recipe else []
    rest = sorted(measured - set(stated), key=lambda t: (_KIND_ORDER[task_kind(facts, t)], t))
    return (*stated, *rest)


def task_kind(facts: Facts, task: str) -> str:
    """probe, generate, choice, or empty where the definition is not installed."""
    return facts.tasks[task].kind if task in facts.tasks else ""


def task_title(facts: Facts, task: str) -> str:
    """The task's title, or its name where the definition is not installed."""
    return facts.tasks[task].title if task in facts.tasks else task


def task_head(compared: Comparisons, task: str) -> TaskHead:
    """A task with its best encoder and whether it is dead."""
    facts = compared.facts
    definition = facts.tasks.get(task)
    cells = [m for e in compared.encoders if (m := compared.metric(e, task)) is not None]
    runs = [r.num_expected for found in compared.runs.values() for r in found if r.task == task]
    best = compared.best(task)
    return TaskHead(
        name=task,
        title=task_title(facts, task),
        href=f"tasks/{page_name(task)}",
        kind=task_kind(facts, task),
        metric=cells[0].metric if cells else "",
        num_expected=max(runs, default=definition.num_expected if definition else 0),
        chance=facts.chances.get((compared.protocol, task), 0.0),
        best=facts.submissions[best.encoder].title if best else "",
        best_span=metric_span(best) if best else None,
        dead=compared.dead(task) is not None,
        dead_words=dead_words(compared, task),
    )


def dead_words(compared: Comparisons, task: str) -> str:
    """Whether a task tells its best encoder from the floors, in one sentence."""
    best, floor, dead = compared.best(task), compared.highest_floor(task), compared.dead(task)
    if best is None:
        return "No encoder is complete on this task yet."
    if floor is None:
        return "No floor is complete on this task, so nothing here can be called seeing."
    best_words, floor_words = _named(compared, best), _named(compared, dead or floor)
    if dead is not None:
        below = (dead.ci_low or 0.0) > (best.ci_high or 0.0)
        how = "is below" if below else "overlaps"
        return (
            f"The best encoder, {best_words}, {how} the floor {floor_words}: no encoder is shown to see here."
        )
    return f"Best encoder: {best_words}. Highest floor: {floor_words}."


def _named(compared: Comparisons, metric: Metric) -> str:
    span = metric_span(metric)
    title = floor_title(compared.facts.submissions[metric.encoder].title)
    return title if span is None else f"{title}, {per_cent(span.value)} [{range_of(span.low, span.high)}]"


def two_tasks(compared: Comparisons) -> tuple[str, str]:
    """The probe and the question answering task of a protocol; empty unless it has both."""
    probe = next((t for t in task_names(compared) if task_kind(compared.facts, t) == "probe"), "")
    answers = sort_task(compared)
    return (probe, answers) if probe and answers and probe != answers else ("", "")


def metric_span(metric: Metric) -> Span | None:
    """The cell's number with its interval, or None."""
    if metric.value is None or metric.ci_low is None or metric.ci_high is None:
        return None
    return Span(value=metric.value, low=metric.ci_low, high=metric.ci_high)


def difference_span(difference: Interval) -> Span:
    """A paired difference as the page prints it, inside [-1, 1]."""
    return Span(value=difference.value, low=max(difference.low, -1.0), high=min(difference.high, 1.0))


def cell(compared: Comparisons, encoder: str, task: str, *, against: str) -> Cell:
    """One encoder on one task.

    Args:
        compared: the protocol's comparisons.
        encoder: id of an encoder or floor.
        task: name of the task.
        against: what its chart is read against: "blind" or "highest" floor.
    """
    facts = compared.facts
    title, href = task_title(facts, task), f"tasks/{page_name(task)}"
    metric = compared.metric(encoder, task)
    if metric is None:
        return Cell(task=task, task_title=title, task_href=href, state="not-run")
    span = metric_span(metric)
    margins = () if encoder in compared.floors or span is None else _margins(compared, encoder, task)
    blind = [m.difference for m in margins if m.kind == FLOOR_WORDS["blind"]]
    return Cell(
        task=task,
        task_title=title,
        task_href=href,
        state="incomplete" if span is None else "scored",
        num_seeds=metric.num_seeds,
        num_expected=metric.num_expected,
        num_scored=metric.num_scored,
        num_unparsed=metric.num_unparsed,
        num_error=metric.num_error,
        num_missing=metric.num_missing,
        tier=metric.tier,
        span=span,
        # Several blind floors are possible; the lift printed is over the one that leaves least of it.
        lift=min(blind, key=lambda d: d.value, default=None),
        strip=_cell_strip(compared, metric, span, against) if span else None,
        margins=margins,
        dead=compared.dead(task) is not None,
        place=facts.places.get((compared.protocol, encoder, task)) if span else None,
    )


def _cell_strip(compared: Comparisons, metric: Metric, span: Span, against: str) -> Strip:
    blind = [f for f in compared.floors if compared.facts.submissions[f].floor == "blind"]
    cells = [m for f in blind if (m := compared.metric(f, metric.task)) is not None and m.value is not None]
    highest = against == "highest"
    floor = compared.highest_floor(metric.task) if highest else next(iter(cells), None)
    floor_span = metric_span(floor) if floor else None
    return strip(
        span_triple(span),
        compared.facts.submissions[metric.encoder].side,
        score_scale(),
        reference=floor_span.value if floor_span else None,
        band=(floor_span.low, floor_span.high) if floor_span and highest else None,
    )


def _margins(compared: Comparisons, encoder: str, task: str) -> tuple[FloorMargin, ...]:
    found = []
    for kind in (*REQUIRED_FLOORS, "pixel-patches"):
        for floor in compared.own_floors(encoder, kind, task):
            difference = compared.difference(encoder, floor, task)
            if difference is None:
                continue
            name = encoder_name(compared.facts, floor)
            found.append(
                FloorMargin(
                    kind=FLOOR_WORDS[kind],
                    floor=name.title,
                    floor_href=name.href,
                    required=kind in REQUIRED_FLOORS,
                    difference=difference_span(difference),
                    errors_away=errors_away(difference),
                    beaten=beats(difference),
                )
            )
    return tuple(found)


def sort_task(compared: Comparisons) -> str:
    """The task that orders the board as served: the first open question answering task, else the first."""
    names = task_names(compared)
    return next((t for t in names if task_kind(compared.facts, t) == "generate"), names[0] if names else "")


def span_triple(span: Span) -> tuple[float, float, float]:
    """Low end, value, high end: the form the charts take."""
    return span.low, span.value, span.high


def task_page(facts: Facts, compared: Sequence[Comparisons], task: str) -> TaskPage:
    """Definition of a task and its forest plot under each protocol that has it."""
    here = [c for c in compared if task in task_names(c)]
    return TaskPage(
        head=task_head(here[0], task),
        suite=facts.suites[here[0].protocol],
        description=facts.tasks[task].description if task in facts.tasks else "",
        facts=_definition(facts, task),
        sections=tuple(_task_section(c, task) for c in here),
    )


def _task_section(compared: Comparisons, task: str) -> TaskSection:
    rows = [
        ForestRow(name=encoder_name(compared.facts, e), cell=cell(compared, e, task, against="highest"))
        for e in compared.encoders
    ]
    reported = set(compared.reported)
    rows.sort(key=lambda r: (r.name.id in reported, -r.cell.span.value if r.cell.span else 1.0, r.name.id))
    encoders = [r for r in rows if r.name.side != "floor"]
    return TaskSection(
        protocol=compared.protocol,
        ticks=ticks(score_scale()),
        encoders=tuple(encoders[:FOREST_UP_TO]),
        left_out=max(len(encoders) - FOREST_UP_TO, 0),
        floors=tuple(r for r in rows if r.name.side == "floor"),
        dead=compared.dead(task) is not None,
        dead_words=dead_words(compared, task),
        samples=task_samples(compared, task),
    )


def _definition(facts: Facts, task: str) -> tuple[Fact, ...]:
    measured = sorted(
        {(k, v) for r in facts.runs if r.task == task for k, v in r.inputs.items() if k in _TASK_INPUTS}
    )
    digests = [Fact(label=f"{_TASK_INPUTS[k]}, as run", value=v, code=True) for k, v in measured]
    definition = facts.tasks.get(task)
    if definition is None:
        return (Fact(label="Definition", value="not installed here; the digests name it"), *digests)
    return (
        Fact(label="Name", value=task, code=True),
        Fact(label="Kind", value=_KIND_WORDS[definition.kind]),
        Fact(label="Prompt", value=prompt_form(definition)),
        Fact(label="Scorer", value=definition.scorer, code=True),
        Fact(label="Primary metric", value=definition.metric, code=True),
        Fact(
            label="Split",
            value=f"{definition.dataset}, {definition.split}: {definition.num_expected:,} samples",
        ),
        Fact(label="Cluster", value=f"{definition.cluster_key}: samples that share one count together"),
        Fact(
            label="Chance", value=f"{per_cent(definition.chance)} %" if definition.chance else "none stated"
        ),
        Fact(label="Longest answer", value=count_of(definition.max_new_tokens, "token")),
        Fact(label="Margin of the regression check", value=f"{per_cent(definition.gating_margin)} points"),
        Fact(label="Suite", value=definition.suite),
        Fact(label="Version", value=str(definition.version)),
        *digests,
    )


_TASK_INPUTS = {"task": "Task digest", "dataset": "Dataset digest", "scorer": "Scorer digest"}
_KIND_WORDS = {
    "probe": "linear probe on pooled features, no language model",
    "generate": "open answer, greedy decoding",
    "choice": "multiple choice, decoded over the option letters only",
}


def prompt_form(task: Task) -> str:
    """The prompt with the dataset's columns in place of a question."""
    if task.scorer == PROBE_SCORER:
        return "none: a probe is not asked"
    try:
        return build_prompt(task, _Row())
    except EyechartError as error:
        return error.line()
