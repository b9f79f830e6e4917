"""The page of a declared pair: both arms side by side, what is held equal, every task's difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.pair_facts import PairFact, network_of
from harness.pair_rows import difference_rows
from harness.pairs import Pair
from harness.records import Submission
from harness.variance import SeedPool
from leaderboard.charts import Scale, Strip, Tick, difference_scale, strip, ticks
from leaderboard.comparisons import Comparisons
from leaderboard.compose import encoder_name, task_names, task_title
from leaderboard.facts import Facts
from leaderboard.kit import Kit
from leaderboard.pair_names import flips_href, pair_href
from leaderboard.sentences import dead_tasks_words, held_words, weak_words
from leaderboard.views import EncoderName, Pretraining, Span
from leaderboard.wording import join_words, page_name

_FOUND_WORDS = {"equal": "equal", "differs": "differs", "unknown": "cannot tell"}
_LEAST_P = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class SideFact:
    """One line of the side by side."""

    label: str
    a: str
    b: str

    @property
    def same(self) -> bool:
        """Whether both arms state the same."""
        return self.a == self.b


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDifference:
    """One row of the index's view `pairs`: the first arm less the second on one task."""

    task_title: str
    task_href: str
    span: Span | None
    verdict: str
    strip: Strip | None = None
    p: str = ""
    only_a: int = 0
    only_b: int = 0
    num_samples: int = 0
    num_clusters: int = 0
    detectable: float | None = None
    flips: str = ""
    """Page of the flips; empty where there is none."""
    dead: bool = False
    held: str = ""
    """Which of the arms a floor holds, in words; empty for neither."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSection:
    """The pair under one protocol."""

    protocol: str
    suite: str
    rows: tuple[TaskDifference, ...]
    ticks: tuple[Tick, ...]
    one_seed: bool
    """Whether an arm was measured with a single seed on some task."""
    reported: str
    """Titles of self-reported arms; empty for none."""
    marks: tuple[str, ...]
    """What the marks of its rows rest on: a sentence a dead task and a cell that a floor holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairPage:
    """One page a declared pair."""

    href: str
    a: EncoderName
    b: EncoderName
    note: str
    facts: tuple[SideFact, ...]
    stages: tuple[tuple[Pretraining, ...], tuple[Pretraining, ...]]
    aspects: tuple[tuple[PairFact, str], ...]
    """Every declared aspect with what the records say of it, in words."""
    contradicted: str
    sections: tuple[PairSection, ...]


def pair_pages(kit: Kit) -> dict[str, bytes]:
    """The page of every declared pair whose arms are both in the index, by path."""
    views = (pair_page(kit.facts, kit.compared, pair) for pair in declared(kit.facts))
    return {view.href: kit.page("pair.html.j2", view.href, page=view) for view in views}


def declared(facts: Facts) -> list[Pair]:
    """Declared pairs whose two arms are in the index."""
    return [pair for pair in facts.pairs if {pair.a, pair.b} <= set(facts.submissions)]


def pair_page(facts: Facts, compared: Sequence[Comparisons], pair: Pair) -> PairPage:
    """Everything the records say of a pair."""
    a, b = (facts.submissions[e] for e in (pair.a, pair.b))
    aspects = facts.pair_facts.get((pair.a, pair.b), ())
    wrong = [f.aspect.replace("-", " ") for f in aspects if f.contradicted]
    return PairPage(
        href=pair_href(pair.a, pair.b),
        a=encoder_name(facts, pair.a),
        b=encoder_name(facts, pair.b),
        note=pair.note,
        facts=_side_by_side(facts, a, b),
        stages=(_stages(a), _stages(b)),
        aspects=tuple((f, _FOUND_WORDS[f.found]) for f in aspects),
        contradicted=join_words(wrong),
        sections=tuple(_section(c, pair) for c in compared if pair.a in c.encoders and pair.b in c.encoders),
    )


def _stages(submission: Submission) -> tuple[Pretraining, ...]:
    return tuple(Pretraining(**asdict(stage)) for stage in submission.pretraining)


def _side_by_side(facts: Facts, a: Submission, b: Submission) -> tuple[SideFact, ...]:
    columns = [_stated(facts, s) for s in (a, b)]
    return tuple(SideFact(label=label, a=columns[0][label], b=columns[1][label]) for label in columns[0])


def _stated(facts: Facts, submission: Submission) -> dict[str, str]:
    network = network_of([r.receipt for r in facts.runs if r.encoder == submission.id])
    seen = sum(stage.images_seen for stage in submission.pretraining)
    return {
        "Id": submission.id,
        "Family": submission.family,
        "Side": submission.side,
        "Architecture": submission.architecture or "not stated",
        "Parameters": "not recorded" if network.num_params is None else f"{network.num_params:,}",
        "Patch tokens": " \N{MULTIPLICATION SIGN} ".join(map(str, network.grid or ())) or "not recorded",
        "Native resolution": f"{submission.input.resolution} px",
        "Images seen in pretraining": f"{seen:,}" if submission.pretraining else "not stated",
        "License": submission.license or "not stated",
        "Contamination pledge": submission.contamination or "not stated",
    }  # fmt: skip


def _section(compared: Comparisons, pair: Pair) -> PairSection:
    found = {t: difference_row(compared, pair, t) for t in task_names(compared)}
    spans = [span_of(row) for row in found.values() if row is not None]
    scale = difference_scale([edge for s in spans for edge in (s.low, s.high)])
    return PairSection(
        protocol=compared.protocol,
        suite=compared.facts.suites[compared.protocol],
        rows=tuple(_task_row(compared, pair, t, row, scale) for t, row in found.items()),
        ticks=ticks(scale, signed=True),
        marks=(*dead_tasks_words(compared), *weak_words(compared, (pair.a, pair.b))),
        one_seed=any(
            metric is not None and metric.num_seeds == 1
            for e in (pair.a, pair.b)
            for t in found
            for metric in (compared.metric(e, t),)
        ),
        reported=join_words(
            [compared.facts.submissions[e].title for e in (pair.a, pair.b) if e in compared.reported]
        ),
    )


def difference_row(compared: Comparisons, pair: Pair, task: str) -> dict[str, Any] | None:
    """A row as `harness.pair_rows` puts it into the index; None unless both arms are complete.

    It is made from the scores of the index, not read from its view: the pairs of the site may be others than
    those that the index was made with.
    """
    facts, protocol = compared.facts, compared.protocol
    tables = {e: t for e in (pair.a, pair.b) if (t := facts.scores.get((protocol, e, task))) is not None}
    if len(tables) < 2 or len({t.sample_ids for t in tables.values()}) > 1:
        return None
    rows = difference_rows(
        [pair],
        {e: t.scores for e, t in tables.items()},
        tables[pair.a].clusters,
        facts.seed_pools.get((protocol, task), SeedPool(0.0, 0.0, 0.0)),
        compared.floors,
    )
    return rows[0]


def span_of(row: Mapping[str, Any]) -> Span:
    """A row's difference as a page prints it, inside [-1, 1]."""
    return Span(value=row["difference"], low=max(row["ci_low"], -1.0), high=min(row["ci_high"], 1.0))


def _task_row(
    compared: Comparisons, pair: Pair, task: str, row: Mapping[str, Any] | None, scale: Scale
) -> TaskDifference:
    facts, protocol = compared.facts, compared.protocol
    title, href = task_title(facts, task), f"tasks/{page_name(task)}"
    if row is None:
        return TaskDifference(
            task_title=title,
            task_href=href,
            span=None,
            verdict=_why_absent(compared, pair, task),
            dead=compared.dead(task) is not None,
        )
    span = span_of(row)
    leader = pair.a if span.low > 0 else pair.b if span.high < 0 else ""
    flips = facts.flips.get((protocol, task, pair.a, pair.b))
    return TaskDifference(
        task_title=title,
        task_href=href,
        span=span,
        verdict=f"{facts.submissions[leader].title} ahead" if leader else "undecided",
        strip=strip(
            (span.low, span.value, span.high),
            facts.submissions[leader].side if leader else "undecided",
            scale,
            reference=0.0,
        ),
        p=p_words(row["p"]),
        only_a=row["only_a"],
        only_b=row["only_b"],
        num_samples=row["num_samples"],
        num_clusters=row["num_clusters"],
        detectable=row["detectable"],
        flips=flips_href(protocol, pair.a, pair.b, task) if flips and flips.shown else "",
        dead=compared.dead(task) is not None,
        held=held_words(compared, (pair.a, pair.b), task, ("A", "B")),
    )


def p_words(p: float | None) -> str:
    """A p value as printed: "0.031", "< 0.001", or that it is unknown."""
    if p is None:
        return "unknown"
    return "< 0.001" if p < _LEAST_P else f"{p:.3f}"


def _why_absent(compared: Comparisons, pair: Pair, task: str) -> str:
    states = []
    for encoder in (pair.a, pair.b):
        metric = compared.metric(encoder, task)
        if metric is None or metric.value is None:
            title = compared.facts.submissions[encoder].title
            states.append(f"{title} {'not run' if metric is None else 'incomplete'}")
    return "no number: " + (join_words(states) or "the arms were not scored on the same samples")
