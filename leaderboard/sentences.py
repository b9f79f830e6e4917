"""What the index says in words, computed from the comparisons and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.family import independent_groups
from harness.pairs import Pair
from harness.stats import Interval
from leaderboard.charts import Scale, strip
from leaderboard.comparisons import REQUIRED_FLOORS, Comparisons
from leaderboard.compose import (
    cell,
    dead_words,
    difference_span,
    encoder_name,
    task_names,
    task_title,
    two_tasks,
)
from leaderboard.facts import Facts
from leaderboard.pair_names import pair_href
from leaderboard.views import Difference, FloorMargin, PairRow
from leaderboard.wording import (
    FLOOR_WORDS,
    errors_away,
    floor_title,
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
BOTH_HELD = "both held by a floor"


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
    names = ("classification arm", "contrastive arm") if arms.crosses else ()
    word = side if arms.crosses else compared.facts.submissions[leader].title if leader else ""
    return Difference(
        **head,
        span=span,
        verdict=f"{word} ahead" if leader else "undecided",
        strip=strip((span.low, span.value, span.high), side, scale, reference=0.0),
        held=held_words(compared, (arms.first, arms.second), task, names),
    )


def held_words(compared: Comparisons, encoders: Sequence[str], task: str, names: Sequence[str] = ()) -> str:
    """Which arms of a pair a floor holds on a task: a difference of such arms may be of no seeing at all.

    Args:
        compared: the protocol's comparisons.
        encoders: the two arms.
        task: name of the task.
        names: what the arms are called; their titles by default.
    """
    called = names or [compared.facts.submissions[e].title for e in encoders]
    arms = zip(encoders, called, strict=True)
    held = [name for e, name in arms if cell(compared, e, task, against="blind").not_beaten]
    if len(held) == len(encoders):
        return BOTH_HELD
    return f"{held[0]} held by a floor" if held else ""


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


def headline(compared: Comparisons) -> tuple[str, tuple[str, ...]]:
    """The answer in one sentence, and what is to be said after it."""
    return NO_RESULT if compared.facts.suites[compared.protocol] == REHEARSAL else answer(compared)


def answer(compared: Comparisons) -> tuple[str, tuple[str, ...]]:
    """The headline sentence, and one more for each other kind of classification arm.

    All of it follows from the paired intervals: an arm is ahead where the interval excludes zero.
    """
    probe, answers = two_tasks(compared)
    groups: dict[tuple[str, str], list[tuple[Arms, Interval, Interval]]] = {}
    for arms in pairs_here(compared) if probe else ():
        both = [compared.difference(arms.first, arms.second, t) for t in (probe, answers)]
        if arms.counts and both[0] is not None and both[1] is not None:
            key = compared.facts.submissions[arms.first].family, _information(arms)
            groups.setdefault(key, []).append((arms, both[0], both[1]))
    if not groups:
        return _open_question(compared), ()
    order = sorted(groups, key=lambda key: (key[0] != _LABELS, key))
    titles = [task_title(compared.facts, t) for t in (probe, answers)]
    sentences = [_group_sentence(compared.facts, key, groups[key], titles) for key in order]
    return sentences[0], (*sentences[1:], _caveat([found for key in order for found in groups[key]]))


def _information(arms: Arms) -> str:
    """Whether both arms are declared to learn from the same information: "equal", "differs" or neither."""
    sides = {"equal": arms.pair.held_equal, "differs": arms.pair.differs}
    return next((word for word, aspects in sides.items() if "information" in aspects), "")


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
    key: tuple[str, str],
    found: Sequence[tuple[Arms, Interval, Interval]],
    titles: Sequence[str],
) -> str:
    """The verdicts of pairs of one kind; what else differs between their arms comes first."""
    family, information = key
    subject = {
        _LABELS: "the encoder trained to classify labels",
        "caption-word-classification": "the encoder trained to classify the captions' words",
    }.get(family, f"the {family} encoder")
    pairs = [arms for arms, _, _ in found]
    where = {
        "differs": "Where the supervision also differs in information, ",
        "equal": "Where the supervision holds equal information, "
        if _sure(facts, pairs, "information")
        else "Where the supervision is declared to hold equal information, ",
    }.get(information, "")
    columns = [[item[1] for item in found], [item[2] for item in found]]
    verdicts = [_verdict(c) for c in columns]
    sizes = [_size(c, v) for c, v in zip(columns, verdicts, strict=True)]
    if all(verdicts):
        link = "but" if {*verdicts} == {"ahead of", "behind"} else "and"
        again = "" if verdicts[0] == verdicts[1] else f"{verdicts[1]} it "
        left, right = (f"on {title} {size}" for title, size in zip(titles, sizes, strict=True))
        said = f"is {verdicts[0]} its contrastive twin {left}, {link} {again}{right}"
    else:
        first, second = ([v, _tally(c)] for v, c in zip(verdicts, columns, strict=True))
        said = f"is {first[0] or first[1] + ' against'} its contrastive twin on {titles[0]} {sizes[0]}; "
        said += f"on {titles[1]} it is {f'{second[0]} it' if second[0] else second[1]} {sizes[1]}"
    sentence = f"{where}{subject} {said} ({_pairs_words(facts, pairs)})."
    return sentence[0].upper() + sentence[1:]


def _pairs_words(facts: Facts, found: Sequence[Arms]) -> str:
    """How many pairs a sentence rests on, what is equal in all of them, and what its ranges are."""
    count, kind = len(found), _architecture_words(facts, found)
    if count == 1:
        return f"one pair{kind}; 95 % intervals"
    independent = len(independent_groups([(a.first, a.second) for a in found]))
    shared = "" if independent == count else f", {number_word(independent)} independent"
    return f"{number_word(count)} pairs{kind}{shared}; all 95 % intervals"


def _sure(facts: Facts, found: Sequence[Arms], aspect: str) -> bool:
    """Whether the records of every pair bear out that an aspect is equal."""
    records = [
        fact.found
        for arms in found
        for fact in facts.pair_facts.get((arms.pair.a, arms.pair.b), ())
        if fact.aspect == aspect
    ]
    return len(records) == len(found) and set(records) == {"equal"}


def _architecture_words(facts: Facts, found: Sequence[Arms]) -> str:
    """Equal architecture: as a fact where the records bear it out, else as what was declared."""
    if not all("architecture" in arms.pair.held_equal for arms in found):
        return ""
    return (
        " of equal architecture" if _sure(facts, found, "architecture") else " of architecture declared equal"
    )


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
    """The range that the intervals cover: plain points where the direction is said, signed ones elsewhere.

    One range, and not values with a range of their own: a headline with two ranges a task is not read.
    """
    spans = [difference_span(d) for d in differences]
    said = verdict in ("ahead of", "behind")
    sign = -1 if verdict == "behind" else 1
    edges = sorted(sign * edge for s in spans for edge in (s.low, s.high))
    low, high = ((per_cent if said else points)(edge) for edge in (edges[0], edges[-1]))
    return f"by {low} to {high} points" if said else f"at {low} to {high} points"


def weak_words(
    compared: Comparisons, encoders: Sequence[str] = (), tasks: Sequence[str] = ()
) -> tuple[str, ...]:
    """One sentence per complete cell that does not pass a required floor by enough.

    Args:
        compared: the protocol's comparisons.
        encoders: to look at; all of them by default.
        tasks: likewise.
    """
    found = []
    for encoder in encoders or compared.encoders:
        if encoder in compared.floors:
            continue
        for task in tasks or task_names(compared):
            held = cell(compared, encoder, task, against="blind").not_beaten
            if held:
                title = compared.facts.submissions[encoder].title
                floors = join_words([_held_words(m) for m in held])
                found.append(f"{title} on {task_title(compared.facts, task)}: not above {floors}.")
    return tuple(found)


def _held_words(margin: FloorMargin) -> str:
    size = f"{points(margin.difference.value)} points, {errors_away(margin.errors_away)} standard errors"
    # A floor whose title says what kind it is needs no second word for it.
    named = f"the {floor_title(margin.floor)} floor"
    kind = "" if margin.kind in floor_title(margin.floor).replace("-", " ").lower() else f"{margin.kind}; "
    return f"{named} ({kind}{size})"


def dead_tasks_words(compared: Comparisons, tasks: Sequence[str] = ()) -> tuple[str, ...]:
    """One sentence per dead task, of all tasks or of those named."""
    dead = (t for t in tasks or task_names(compared) if compared.dead(t) is not None)
    return tuple(f"{task_title(compared.facts, t)} is a dead task. {dead_words(compared, t)}" for t in dead)


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
