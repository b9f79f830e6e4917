"""The start page: the answer, the pairs it rests on, and the probe against everything else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.family import MIN_INDEPENDENT, family_effect, independent_groups
from harness.stats import Interval
from leaderboard.board import board_href
from leaderboard.charts import Scale, difference_scale, ticks
from leaderboard.comparisons import Comparisons
from leaderboard.compose import (
    cell,
    difference_span,
    encoder_name,
    metric_span,
    span_triple,
    task_names,
    task_title,
    two_tasks,
)
from leaderboard.facts import Agreement
from leaderboard.front_views import (
    AgreementView,
    AspectRow,
    Flipped,
    Home,
    PairFigure,
    PairKind,
    PairPoint,
    PairStrip,
    ScatterFigure,
    ScatterRow,
    TaskForest,
)
from leaderboard.pair_names import pair_href
from leaderboard.planes import PlaneInput, pair_plot, scatter
from leaderboard.sentences import (
    BOTH_HELD,
    Arms,
    difference_view,
    headline,
    pair_rows,
    pairs_here,
)
from leaderboard.views import Board, Difference
from leaderboard.wording import join_words, number_word, page_name, pair_label, points

_KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEYS_UP_TO = 100
"""Encoders in the scatter; with more of them it is a cloud, and the board's table serves better."""


def home_section(compared: Comparisons, table: Board) -> Home:
    """Everything the start page says of one protocol."""
    suite = compared.facts.suites[compared.protocol]
    said, more = headline(compared)
    arms = pairs_here(compared)
    crossing = [a for a in arms if a.counts]
    figure = pair_figure(compared, crossing)
    names = task_names(compared)
    found = {(a, t): compared.difference(a.first, a.second, t) for a in arms for t in names}
    scales = {t: _scale_of(found[a, t] for a in crossing) for t in names}
    drawn = {(a, t): difference_view(compared, a, t, found[a, t], scales[t]) for a in crossing for t in names}
    scale = _scale_of(found.values())
    return Home(
        name=compared.protocol,
        suite=suite,
        board_href=board_href(compared.protocol),
        answer=said,
        answer_more=more,
        num_pairs=sum(any(found[a, t] is not None for t in names) for a in crossing),
        pairs=figure,
        scatter=scatter_figure(compared),
        agreements=_agreements(compared),
        forests=tuple(_forest(compared, crossing, t, drawn, scales[t]) for t in names) if crossing else (),
        ticks=ticks(scale, signed=True),
        pooled_words=pooled_words(compared, crossing, found),
        aspects=_aspects(compared, crossing),
        unplotted=_unplotted(compared, arms, figure),
        others=pair_rows(compared, [a for a in arms if not a.counts], found, scale),
        board=table,
    )


def _scale_of(differences: Iterable[Interval | None]) -> Scale:
    spans = [difference_span(d) for d in differences if d is not None]
    return difference_scale([edge for s in spans for edge in (s.low, s.high)])


def _key(place: int) -> str:
    return _KEYS[place] if place < len(_KEYS) else str(place + 1)


def _label(compared: Comparisons, arms: Arms) -> str:
    return pair_label(*(encoder_name(compared.facts, e).title for e in (arms.first, arms.second)))


def pair_figure(compared: Comparisons, crossing: Sequence[Arms]) -> PairFigure | None:
    """Probe difference against answer difference, one point a pair; None without any."""
    probe, answers = two_tasks(compared)
    if not probe:
        return None
    rows: list[PairPoint] = []
    kinds, inputs = [], []
    for arms in crossing:
        both = [compared.difference(arms.first, arms.second, t) for t in (probe, answers)]
        if both[0] is None or both[1] is None:
            continue
        spans = [difference_span(d) for d in both if d is not None]
        kind = _kind(arms)
        row = PairPoint(
            key=_key(len(rows)),
            label=_label(compared, arms),
            href=pair_href(arms.pair.a, arms.pair.b),
            probe=spans[0],
            answers=spans[1],
        )
        rows.append(row)
        kinds.append(kind)
        inputs.append(
            PlaneInput(
                key=row.key,
                name=row.label,
                side=kind.side,
                shape=kind.shape,
                x=span_triple(spans[0]),
                y=span_triple(spans[1]),
            )
        )
    if not rows:
        return None
    chart = pair_plot(inputs, task_title(compared.facts, probe), task_title(compared.facts, answers))
    left_out = len(crossing) - len(rows)
    drawn = tuple(kind for kind in _KINDS if kind in kinds)
    return PairFigure(chart=chart, rows=tuple(rows), kinds=drawn, num_left_out=left_out)


def _unplotted(
    compared: Comparisons, arms: Sequence[Arms], figure: PairFigure | None
) -> tuple[tuple[str, str], ...]:
    """(label, page) of every pair that the table beside the plot does not list."""
    listed = {row.href for row in figure.rows} if figure else set()
    found = ((_label(compared, a), pair_href(a.pair.a, a.pair.b)) for a in arms)
    return tuple((label, href) for label, href in found if href not in listed)


_KINDS = (
    PairKind(words="information differs, as declared", side="classification", shape="square"),
    PairKind(words="information held equal, as declared", side="other", shape="triangle"),
    PairKind(words="nothing declared about information", side="floor", shape="open"),
)


def _kind(arms: Arms) -> PairKind:
    if "information" in arms.pair.held_equal:
        return _KINDS[1]
    return _KINDS[0] if "information" in arms.pair.differs else _KINDS[2]


def scatter_figure(compared: Comparisons) -> ScatterFigure | None:
    """Probe against question answering; None unless the protocol has both kinds of task."""
    probe, answers = two_tasks(compared)
    if not probe:
        return None
    found, left_out = [], []
    order = sorted(set(compared.encoders) - set(compared.reported), key=lambda e: (e in compared.floors, e))
    for encoder in order:
        name = encoder_name(compared.facts, encoder)
        spans = [metric_span(m) if (m := compared.metric(encoder, t)) else None for t in (probe, answers)]
        if spans[0] is None or spans[1] is None:
            left_out.append(name.title)
        else:
            found.append((name, spans[0], spans[1]))
    if not found or len(found) > KEYS_UP_TO:
        return None
    found.sort(key=lambda item: (item[0].side == "floor", -item[2].value, item[0].id))
    rows = tuple(ScatterRow(key=_key(i), name=n, probe=x, answers=y) for i, (n, x, y) in enumerate(found))
    inputs = [
        PlaneInput(
            key=r.key, name=r.name.title, side=r.name.side, x=span_triple(r.probe), y=span_triple(r.answers)
        )
        for r in rows
    ]
    chart = scatter(inputs, task_title(compared.facts, probe), task_title(compared.facts, answers))
    return ScatterFigure(chart=chart, rows=rows, left_out=tuple(left_out))


def _agreements(compared: Comparisons) -> tuple[AgreementView, ...]:
    """Every probe's order against every answering task's, as the index has it; the first probe's first."""
    order = task_names(compared)
    found = [a for a in compared.facts.agreements if a.protocol == compared.protocol]
    return tuple(
        _agreement(compared, a)
        for a in sorted(found, key=lambda a: (order.index(a.probe), order.index(a.task)))
    )


def _agreement(compared: Comparisons, found: Agreement) -> AgreementView:
    facts = compared.facts
    by_probe: dict[str, list[str]] = {}
    for ahead, behind in found.flips:
        by_probe.setdefault(ahead, []).append(behind)
    if found.correlation is None or found.low is None or found.high is None:
        words = (
            f"no rank correlation: {found.num_encoders} encoders with both numbers are too few or all alike"
        )
    else:
        words = (
            f"rank correlation {_signed(found.correlation)} [{_signed(found.low)}, {_signed(found.high)}] "
            f"over {found.num_encoders} encoders"
        )
    held = [
        e
        for e in compared.encoders
        if e not in compared.reported and cell(compared, e, found.probe, against="blind").not_beaten
    ]
    return AgreementView(
        probe_title=task_title(facts, found.probe),
        probe_href=f"tasks/{page_name(found.probe)}",
        num_held=len(held),
        task_title=task_title(facts, found.task),
        task_href=f"tasks/{page_name(found.task)}",
        dead=compared.dead(found.task) is not None,
        words=words,
        num_flips=len(found.flips),
        flipped=tuple(
            Flipped(name=encoder_name(facts, e), ahead_on_task=tuple(encoder_name(facts, o) for o in others))
            for e, others in sorted(by_probe.items())
        ),
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _forest(
    compared: Comparisons,
    crossing: Sequence[Arms],
    task: str,
    drawn: Mapping[tuple[Arms, str], Difference],
    scale: Scale,
) -> TaskForest:
    verdicts = [drawn[a, task] for a in crossing]
    counts = {
        "classification ahead": sum(d.verdict == "classification ahead" for d in verdicts),
        "contrastive ahead": sum(d.verdict == "contrastive ahead" for d in verdicts),
        "undecided": sum(d.verdict == "undecided" for d in verdicts),
        "without a number": sum(d.span is None for d in verdicts),
    }
    return TaskForest(
        task_title=task_title(compared.facts, task),
        task_href=f"tasks/{page_name(task)}",
        dead=compared.dead(task) is not None,
        tally=join_words([f"{word} in {number_word(n)}" for word, n in counts.items() if n]),
        held=_held_tally(verdicts),
        rows=tuple(
            PairStrip(
                label=_label(compared, a), href=pair_href(a.pair.a, a.pair.b), difference=drawn[a, task]
            )
            for a in crossing
        ),
        ticks=ticks(scale, signed=True),
    )


def pooled_words(
    compared: Comparisons, crossing: Sequence[Arms], found: Mapping[tuple[Arms, str], Interval | None]
) -> str:
    """The pairs that cross the sides taken together, task by task, or why they are not."""
    pooled = [p for p in crossing if p.counts]
    if not pooled:
        return ""
    independent = len(independent_groups([(p.first, p.second) for p in pooled]))
    shared = f", {number_word(independent)} of them independent (no encoder in common)"
    shared = "" if independent == len(pooled) else shared
    lead = f"{number_word(len(pooled)).capitalize()} {'pair' if len(pooled) == 1 else 'pairs'}{shared}"
    if independent < MIN_INDEPENDENT:
        least = number_word(MIN_INDEPENDENT)
        return f"{lead}: fewer than {least} independent pairs, so no pooled effect is given."
    effects = []
    for task in dict.fromkeys(task for _, task in found):
        here = {(p.first, p.second): d.value for p in pooled if (d := found[p, task]) is not None}
        effect = family_effect(here)
        if effect.pooled is not None:
            span = difference_span(effect.pooled)
            firm = "" if effect.holds_without_any else ", not whichever pair is left out"
            effects.append(
                f"{task_title(compared.facts, task)} {points(span.value)} "
                f"[{points(span.low)}, {points(span.high)}]{firm}"
            )
    return f"{lead}. Classification less contrastive, the pair as the unit: {'; '.join(effects)}."


def _held_tally(verdicts: Sequence[Difference]) -> str:
    """In how many pairs both arms are held by a floor, and in how many one is; empty for none."""
    both = sum(d.held == BOTH_HELD for d in verdicts)
    one = sum(bool(d.held) for d in verdicts) - both
    counts = {"both arms": both, "one arm": one}
    words = join_words([f"{word} in {number_word(n)}" for word, n in counts.items() if n])
    return f"held by a floor: {words}" if words else ""


def _aspects(compared: Comparisons, crossing: Sequence[Arms]) -> tuple[AspectRow, ...]:
    """What the pairs hold equal, aspect by aspect, and how far the records bear it out."""
    counts: dict[str, list[int]] = {}
    for arms in crossing:
        for fact in compared.facts.pair_facts.get((arms.pair.a, arms.pair.b), ()):
            row = counts.setdefault(fact.aspect, [0] * 5)
            row[0 if fact.declared == "equal" else 1] += 1
            row[3 if fact.contradicted else 4 if fact.found == "unknown" else 2] += 1
    return tuple(
        AspectRow(
            aspect=aspect.replace("-", " "),
            num_equal=row[0],
            num_differs=row[1],
            num_confirmed=row[2],
            num_contradicted=row[3],
            num_unknown=row[4],
        )
        for aspect, row in sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))
    )
