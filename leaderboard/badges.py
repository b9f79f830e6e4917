"""Badges of the board's cells, for a model card or a README: the score, its interval and its rank."""

from __future__ import annotations

from harness.badge import AMBER, BLUE, GREY, draw_badge
from harness.records import SELF_REPORTED, Metric
from leaderboard.comparisons import Comparisons
from leaderboard.compose import cell, task_names, task_title
from leaderboard.kit import Kit
from leaderboard.sentences import REHEARSAL
from leaderboard.wording import join_words, page_name, per_cent


def badge_files(kit: Kit) -> dict[str, bytes]:
    """One SVG a complete cell; none of the rehearsal, where nothing is measured."""
    files: dict[str, bytes] = {}
    for compared in kit.compared:
        if compared.facts.suites[compared.protocol] == REHEARSAL:
            continue
        for encoder in compared.encoders:
            for task in task_names(compared):
                metric = compared.metric(encoder, task)
                if metric is not None and metric.value is not None:
                    name = badge_name(compared.protocol, encoder, task)
                    files[name] = cell_badge(compared, metric).encode()
    return files


def badge_name(protocol: str, encoder: str, task: str) -> str:
    """Path of a badge below the site's top; with the protocol, so that no other one takes it over."""
    parts = (page_name(part).removesuffix(".html") for part in (protocol, encoder, task))
    return f"badges/{'/'.join(parts)}.svg"


def cell_badge(compared: Comparisons, metric: Metric) -> str:
    """The badge of a complete cell, as SVG."""
    facts = compared.facts
    suite = facts.suites[compared.protocol]
    rank = facts.places.get((metric.protocol, metric.encoder, metric.task))
    words = [score_words(metric)]
    # A toy is named as one; else the protocol, whose name a toy's may not be.
    words.insert(0, "mini demonstration" if suite == "mini" else compared.protocol)
    if metric.num_seeds == 1:
        words.append("1 seed only")
    shown = cell(compared, metric.encoder, metric.task, against="blind")
    if shown.not_beaten:
        words.append(f"not above {join_words(list(dict.fromkeys(m.kind for m in shown.not_beaten)))}")
    if compared.dead(metric.task) is not None:
        words.append("dead task")
    if rank is not None:
        places = str(rank.low) if rank.low == rank.high else f"{rank.low}–{rank.high}"
        words.append(f"rank {places} of {rank.num_ranked}")
    if facts.submissions[metric.encoder].floor is not None:
        words.append("floor")
    if metric.tier == SELF_REPORTED:
        words.append("self-reported")
    colour = AMBER if metric.tier == SELF_REPORTED else BLUE if suite == "main" else GREY
    return draw_badge(task_title(facts, metric.task), " · ".join(words), colour)


def score_words(metric: Metric) -> str:
    """Score and interval of a complete cell, in per cent: "71.2 ± 0.4", or "71.2 [70.1, 71.9]".

    The first where both sides agree as printed: what a reader adds up is what the pages print.
    """
    assert metric.value is not None
    assert metric.ci_low is not None
    assert metric.ci_high is not None
    value, low, high = (per_cent(x) for x in (metric.value, metric.ci_low, metric.ci_high))
    below, above = float(value) - float(low), float(high) - float(value)
    if f"{below:.1f}" == f"{above:.1f}" and round(below, 1) > 0:
        return f"{value} ± {below:.1f}"
    return f"{value} [{low}, {high}]"
