"""What the index says in words, computed from the comparisons and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.family import MIN_INDEPENDENT, family_effect, independent_groups
from harness.pairs import Pair
from harness.stats import Interval
from leaderboard.charts import Scale, strip
from leaderboard.comparisons import REQUIRED_FLOORS, Comparisons
from leaderboard.compose import cell, difference_span, encoder_name, task_names, task_title, two_tasks
from leaderboard.facts import Facts
from leaderboard.pair_names import pair_href
from leaderboard.views import Difference, FloorMargin, PairRow
from leaderboard.wording import (
    FLOOR_WORDS,
    errors_away,
    join_words,
    number_word,
    page_name,
    per_cent,
    points,
)

_LABELS = "label-classification"
REHEARSAL = "rehearsal"
"""The suite that runs the main suite's code on made-up data; see harness.rehearsal."""
NO_RESULT = (
    "Nothing is measured here: pictures are made up and the language model has random weights.",
    ("The tables below show that every stage ran, and how a board of these tasks will look.",),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arms:
    """A declared pair, its classification arm first where the sides differ."""

    pair: Pair
    first: str
    second: str
    crosses: bool
    """True for classification against contrastive: the pairs that the page's question is about."""
    aside: str = ""
    """Why such a pair is shown and does not count: contradicted by the records, or self-reported."""

    @property
    def counts(self) -> bool:
        """Whether the answer, the plots and the tallies rest on it."""
        return self.crosses and not self.aside


def pairs_here(compared: Comparisons) -> tuple[Arms, ...]:
    """Declared pairs whose two arms were both run under this protocol, those that cross the sides first."""
    found = []
    for pair in compared.facts.pairs:
        if not {pair.a, pair.b} <= set(compared.encoders):
            continue
        sides = [compared.facts.submissions[e].side for e in (pair.a, pair.b)]
        crosses = set(sides) == {"classification", "contrastive"}
        turn = crosses and sides[0] == "contrastive"
        first, second = (pair.b, pair.a) if turn else (pair.a, pair.b)
        aside = _aside(compared, pair)
        found.append(Arms(pair=pair, first=first, second=second, crosses=crosses, aside=aside))
    return tuple(sorted(found, key=lambda arms: not arms.crosses))


def _aside(compared: Comparisons, pair: Pair) -> str:
    wrong = compared.facts.contradictions.get((pair.a, pair.b), ())
    if wrong:
        return f"the records contradict the declared {_aspects(wrong)}: not counted and not pooled"
    if {pair.a, pair.b} & set(compared.reported):
        return "an arm is self-reported: not counted and not pooled"
    return ""


def pair_rows(
    compared: Comparisons,
    pairs: Sequence[Arms],
    found: Mapping[tuple[Arms, str], Interval | None],
    scale: Scale,
) -> tuple[PairRow, ...]:
    """Pairs one by one with all their tasks."""
    names = task_names(compared)
    return tuple(_pair_row(compared, p, {t: found[p, t] for t in names}, scale) for p in pairs)


def _pair_row(
    compared: Comparisons, arms: Arms, found: Mapping[str, Interval | None], scale: Scale
) -> PairRow:
    first, second = (encoder_name(compared.facts, e) for e in (arms.first, arms.second))
    return PairRow(
        label=f"{first.title} against {second.title}",
        note="; ".join(part for part in (arms.pair.note, arms.aside) if part),
        held_equal=_aspects(arms.pair.held_equal),
        differs=_aspects(arms.pair.differs),
        first=first,
        second=second,
        differences=tuple(difference_view(compared, arms, t, d, scale) for t, d in found.items()),
        href=pair_href(arms.pair.a, arms.pair.b),
    )


def _aspects(names: Sequence[str]) -> str:
    return join_words([name.replace("-", " ") for name in names])


def difference_view(
    compared: Comparisons, arms: Arms, task: str, found: Interval | None, scale: Scale
) -> Difference:
    """One pair on one task, as a number, in words and as a strip."""
    head = {"task_title": task_title(compared.facts, task), "task_href": f"tasks/{page_name(task)}"}
    if found is None:
        words = "no number: " + _why_absent(compared, arms, task)
        return Difference(**head, span=None, verdict=words, strip=None)
    span = difference_span(found)
    leader = arms.first if span.low > 0 else arms.second if span.high < 0 else ""
    side = compared.facts.submissions[leader].side if leader else "undecided"
    word = side if arms.crosses else compared.facts.submissions[leader].title if leader else ""
    return Difference(
        **head,
        span=span,
        verdict=f"{word} ahead" if leader else _undecided(compared, arms, task),
        strip=strip((span.low, span.value, span.high), side, scale, reference=0.0),
    )


def _undecided(compared: Comparisons, arms: Arms, task: str) -> str:
    held = [cell(compared, e, task, against="blind").not_beaten for e in (arms.first, arms.second)]
    return "undecided, both held by a floor" if all(held) else "undecided"


def _why_absent(compared: Comparisons, arms: Arms, task: str) -> str:
    states = []
    for encoder in (arms.first, arms.second):
        metric = compared.metric(encoder, task)
        title = compared.facts.submissions[encoder].title
        if metric is None:
            states.append(f"{title} not run")
        elif metric.value is None:
            states.append(f"{title} incomplete")
    return join_words(states) or "the arms were not scored on the same samples"


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


def headline(compared: Comparisons) -> tuple[str, tuple[str, ...]]:
    """The answer in one sentence, and what is to be said after it."""
    return NO_RESULT if compared.facts.suites[compared.protocol] == REHEARSAL else answer(compared)


def answer(compared: Comparisons) -> tuple[str, tuple[str, ...]]:
    """The headline sentence, and one more for each other kind of classification arm.

    All of it follows from the paired intervals: an arm is ahead where the interval excludes zero.
    """
    probe, answers = two_tasks(compared)
    groups: dict[tuple[str, bool], list[tuple[Arms, Interval, Interval]]] = {}
    for arms in pairs_here(compared) if probe else ():
        both = [compared.difference(arms.first, arms.second, t) for t in (probe, answers)]
        if arms.counts and both[0] is not None and both[1] is not None:
            key = compared.facts.submissions[arms.first].family, "information" in arms.pair.held_equal
            groups.setdefault(key, []).append((arms, both[0], both[1]))
    if not groups:
        return _open_question(compared), ()
    order = sorted(groups, key=lambda key: (key[0] != _LABELS, key))
    titles = [task_title(compared.facts, t) for t in (probe, answers)]
    sentences = [
        _group_sentence(compared.facts, key, groups[key], titles, first=i == 0) for i, key in enumerate(order)
    ]
    return sentences[0], (*sentences[1:], _caveat([found for key in order for found in groups[key]]))


def _caveat(found: Sequence[tuple[Arms, Interval, Interval]]) -> str:
    lead = "An arm counts as ahead or behind where the paired interval excludes zero. "
    unknown = sum(a.seeds_unknown or b.seeds_unknown for _, a, b in found)
    if not unknown:
        return (
            f"{lead}Intervals cover samples and the seeds of probe and adapter, not a repeated pretraining."
        )
    few = (
        "this pair has"
        if len(found) == 1
        else f"{number_word(unknown)} of {number_word(len(found))} pairs have"
    )
    return (
        f"{lead}They are too narrow: {few} too few seeds to tell how far another training of probe or "
        "adapter would move them, so they cover samples only."
    )


def _open_question(compared: Comparisons) -> str:
    measured = len(compared.encoders) - len(compared.floors)
    encoders = f"{number_word(measured)} {'encoder' if measured == 1 else 'encoders'}"
    return (
        f"The question is open here: {encoders} measured, and no declared pair of a classification "
        "and a contrastive encoder is complete on both the probe and the questions."
    )


def _group_sentence(
    facts: Facts,
    key: tuple[str, bool],
    found: Sequence[tuple[Arms, Interval, Interval]],
    titles: Sequence[str],
    *,
    first: bool,
) -> str:
    family, _ = key
    subject = {
        _LABELS: "the encoder trained to classify labels",
        "caption-word-classification": "the encoder trained to classify the captions' words",
    }.get(family, f"the {family} encoder")
    columns = [[item[1] for item in found], [item[2] for item in found]]
    verdicts = [_verdict(c) for c in columns]
    pairs = _pairs_words(facts, [arms for arms, _, _ in found], uniform=all(verdicts), first=first)
    if not all(verdicts):
        parts = [f"on {t} {_tally(c)}, {_size(c, '')}" for t, c in zip(titles, columns, strict=True)]
        return f"{pairs}, {subject} stands against its contrastive twin {parts[0]}, and {parts[1]}."
    link = "but" if {*verdicts} == {"ahead of", "behind"} else "and"
    left, right = (f"on {t} {_size(c, v)}" for t, c, v in zip(titles, columns, verdicts, strict=True))
    again = "" if verdicts[0] == verdicts[1] else f"{verdicts[1]} it "
    return f"{pairs}, {subject} is {verdicts[0]} its contrastive twin {left}, {link} {again}{right}."


def _pairs_words(facts: Facts, found: Sequence[Arms], *, uniform: bool, first: bool) -> str:
    count, kind = len(found), _equal_words(facts, found)
    if count == 1:
        return f"In {'the one' if first else 'one more'} pair{kind}"
    independent = len(independent_groups([(a.first, a.second) for a in found]))
    shared = "" if independent == count else f" ({number_word(independent)} independent)"
    number = "both" if count == 2 and uniform else f"{'all ' if uniform else ''}{number_word(count)}"
    return f"{'In' if uniform else 'Over'} {number} pairs{shared}{kind}"


def _equal_words(facts: Facts, found: Sequence[Arms]) -> str:
    """What all of them hold equal: as a fact where the records bear it out, else as what was declared."""
    words = []
    for aspect in ("architecture", "information"):
        if all(aspect in arms.pair.held_equal for arms in found):
            records = [
                fact.found
                for arms in found
                for fact in facts.pair_facts.get((arms.pair.a, arms.pair.b), ())
                if fact.aspect == aspect
            ]
            sure = len(records) == len(found) and set(records) == {"equal"}
            words.append(f"of equal {aspect}" if sure else f"of {aspect} declared equal")
    return f" {join_words(words)}" if words else ""


def _verdict(differences: Sequence[Interval]) -> str:
    """The one verdict that holds in all pairs, or the empty string."""
    if all(d.low > 0 for d in differences):
        return "ahead of"
    if all(d.high < 0 for d in differences):
        return "behind"
    return "not told apart from" if all(d.low <= 0 <= d.high for d in differences) else ""


def _tally(differences: Sequence[Interval]) -> str:
    ahead = sum(d.low > 0 for d in differences)
    behind = sum(d.high < 0 for d in differences)
    words = {"ahead": ahead, "behind": behind, "undecided": len(differences) - ahead - behind}
    return join_words([f"{word} in {number_word(n)}" for word, n in words.items() if n])


def _size(differences: Sequence[Interval], verdict: str) -> str:
    """How large: plain points where the direction is said in words, signed points where it is not."""
    spans = [difference_span(d) for d in differences]
    said = verdict in ("ahead of", "behind")
    sign = -1 if verdict == "behind" else 1
    show = per_cent if said else points
    values = sorted(sign * s.value for s in spans)
    edges = sorted(sign * edge for s in spans for edge in (s.low, s.high))
    ends = [values[0]] if show(values[0]) == show(values[-1]) else [values[0], values[-1]]
    size = " to ".join(show(v) for v in ends) + " points"
    interval = f"{show(edges[0])} to {show(edges[-1])}"
    brackets = f"[95 % interval {interval}]" if len(spans) == 1 else f"[95 % intervals within {interval}]"
    return f"{'by' if said else 'at'} {size} {brackets}"


def weak_words(compared: Comparisons) -> tuple[str, ...]:
    """One sentence per complete cell that does not pass a required floor by enough."""
    found = []
    for encoder in compared.encoders:
        if encoder in compared.floors:
            continue
        for task in task_names(compared):
            held = cell(compared, encoder, task, against="blind").not_beaten
            if held:
                title = compared.facts.submissions[encoder].title
                floors = join_words([_held_words(m) for m in held])
                found.append(f"{title} on {task_title(compared.facts, task)}: not above {floors}.")
    return tuple(found)


def _held_words(margin: FloorMargin) -> str:
    size = f"{points(margin.difference.value)} points, {errors_away(margin.errors_away)} standard errors"
    return f"{margin.floor} ({margin.kind}; {size})"


def floors_missing_words(compared: Comparisons) -> tuple[str, ...]:
    """One sentence per task on which a required kind of floor has no complete run."""
    found = []
    for task in task_names(compared):
        kinds = {
            compared.facts.submissions[f].floor
            for f in compared.floors
            if (m := compared.metric(f, task)) is not None and m.value is not None
        }
        lacking = [FLOOR_WORDS[k] for k in REQUIRED_FLOORS if k not in kinds]
        if lacking:
            words = f"{task_title(compared.facts, task)}: no complete {join_words(lacking)} floor"
            found.append(f"{words}, so nothing is compared with {'it' if len(lacking) == 1 else 'them'}.")
    return tuple(found)
