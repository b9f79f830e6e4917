"""The report of a check in every form a build system reads: JSON, JUnit, annotations, Markdown, badge."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.badge import AMBER, GREEN, GREY, RED, draw_badge
from harness.digest import plain_json
from harness.gate_records import CheckReport, TaskVerdict
from harness.tables import text_table

MAX_COMMENT_BYTES = 65_000
"""GitHub refuses comments of more than 65,536 characters."""
WORDS = {
    "pass": "pass",
    "regression": "REGRESSION",
    "inconclusive": "inconclusive",
    "not-comparable": "not comparable",
    "incomplete": "incomplete",
}
_COLOURS = {
    "pass": GREEN,
    "regression": RED,
    "inconclusive": AMBER,
    "not-comparable": GREY,
    "incomplete": GREY,
}


def points(fraction: float | None) -> str:
    """A difference in points with its sign, "–" where there is none.

    >>> points(-0.0123), points(None)
    ('−1.23', '–')
    """
    return "–" if fraction is None else f"{100 * fraction:+.2f}".replace("-", "−")


def span(verdict: TaskVerdict) -> str:
    """The interval of a difference in points, or "–"."""
    if verdict.ci_low is None or verdict.ci_high is None:
        return "–"
    return f"[{points(verdict.ci_low)}, {points(verdict.ci_high)}]"


def summary_line(report: CheckReport) -> str:
    """The verdict in one line."""
    gating = [v for v in report.tasks if v.importance == "gating"]
    head = f"{WORDS[report.verdict]}: {report.candidate.encoder} against {report.baseline.encoder}"
    mine = [v.task for v in gating if v.verdict == report.verdict]
    if report.verdict == "pass":
        return f"{head}, {len(gating)} tasks"
    return f"{head}: {', '.join(mine)}"


def as_text(report: CheckReport) -> str:
    """A table for people, one row a task, then what is to be said about each."""
    rows = [
        [
            v.task.removeprefix("eyechart_"),
            WORDS[v.verdict] + (" (advisory)" if v.importance == "advisory" else ""),
            points(v.difference),
            span(v),
            f"{100 * v.margin:.3g}",
            "–" if v.only_candidate is None else f"+{v.only_candidate} −{v.only_baseline}",
            "–" if v.detectable is None else f"{100 * v.detectable:.2f}",
        ]
        for v in report.tasks
    ]
    level = f"{100 * report.level:.3g} % interval"
    header = ["task", "verdict", "difference", level, "margin", "flips", "detectable"]
    lines = [text_table(header, rows, numbers=(2, 4, 5, 6)), ""]
    said = [v for v in report.tasks if v.verdict != "pass" or v.real_but_tolerated]
    lines += [f"{v.task}: {sentence(v)}." for v in said]
    lines += list(report.notes)
    return "\n".join([*lines, summary_line(report)])


def sentence(verdict: TaskVerdict) -> str:
    """Reason and need of one task."""
    text = verdict.reason
    if verdict.real_but_tolerated:
        text += "; the loss is real and within it"
    return f"{text}; {verdict.needs}" if verdict.needs else text


def as_json(report: CheckReport) -> str:
    """The report as JSON, per docs/schemas/check-report.schema.json."""
    return json.dumps(plain_json(report), sort_keys=True, indent=1, ensure_ascii=False)


def as_markdown(report: CheckReport) -> str:
    """A comment for a pull request, under `MAX_COMMENT_BYTES`."""
    sides = f"`{_cell(report.candidate.encoder)}` against the baseline `{_cell(report.baseline.encoder)}`"
    level = f"{100 * report.level:.3g} % intervals that include training noise"
    head = [
        f"### Eyechart: {WORDS[report.verdict]}",
        "",
        f"{sides}, protocol `{_cell(report.baseline.protocol)}`. Points, with {level}.",
        "",
        "| task | verdict | baseline | candidate | difference | interval | margin | flips |",
        "|---|---|--:|--:|--:|---|--:|--:|",
    ]
    rows = [_row(v) for v in report.tasks]
    notes = [f"- `{_cell(v.task)}`: {_cell(sentence(v))}." for v in report.tasks if v.verdict != "pass"]
    notes += [f"- {_cell(note)}" for note in report.notes]
    return _within([*head, *rows, "", *notes, ""])


def _row(v: TaskVerdict) -> str:
    scores = ["–" if x is None else f"{100 * x:.2f}" for x in (v.baseline, v.candidate)]
    flips = "–" if v.only_candidate is None else f"+{v.only_candidate} −{v.only_baseline}"
    word = f"**{WORDS[v.verdict]}**" if v.verdict == "regression" else WORDS[v.verdict]
    word += " (advisory)" if v.importance == "advisory" else ""
    cells = [
        f"`{_cell(v.task)}`",
        word,
        *scores,
        points(v.difference),
        span(v),
        f"{100 * v.margin:.3g}",
        flips,
    ]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Names come from strangers: no markup, no line break, no end of a cell."""
    kept = "".join(c for c in text if c.isprintable() and c not in "|`<>*@")
    return kept.replace("](", "] (")[:300]


def _within(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    if len(text.encode()) <= MAX_COMMENT_BYTES:
        return text
    kept, size = [], 0
    for line in lines:
        size += len(line.encode()) + 1
        if size > MAX_COMMENT_BYTES - 100:
            break
        kept.append(line)
    return "\n".join([*kept, "", "Cut: the whole report is in the JSON."])


def as_junit(report: CheckReport) -> bytes:
    """JUnit XML, a test case a task.

    A regression is a failure, what cannot be compared an error, what is inconclusive skipped, or a failure
    under --strict; advisory tasks are never more than skipped.
    """
    from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

    suite = TestSuite("eyechart check")
    suite.add_property("baseline", report.baseline.encoder)
    suite.add_property("candidate", report.candidate.encoder)
    suite.add_property("policy", report.policy_digest)
    kinds = {"regression": Failure, "inconclusive": Skipped, "not-comparable": Error, "incomplete": Error}
    if report.strict:
        kinds["inconclusive"] = Failure
    for verdict in report.tasks:
        case = TestCase(verdict.task, classname=f"eyechart.{report.baseline.protocol}", time=0)
        if verdict.verdict in kinds:
            kind = Skipped if verdict.importance == "advisory" else kinds[verdict.verdict]
            case.result = [kind(f"{WORDS[verdict.verdict]}: {sentence(verdict)}", verdict.verdict)]
        else:
            case.system_out = sentence(verdict)
        suite.add_testcase(case)
    xml = JUnitXml("eyechart")
    xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]  # junitparser's annotations are partial
    data: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return data


def as_annotations(report: CheckReport) -> list[str]:
    """Workflow commands of GitHub Actions, one a task that did not pass."""
    lines = []
    for v in report.tasks:
        if v.verdict == "pass" and not v.real_but_tolerated:
            continue
        bad = v.importance == "gating" and (
            v.verdict in {"regression", "not-comparable", "incomplete"}
            or (v.verdict == "inconclusive" and report.strict)
        )
        level = "error" if bad else "notice" if v.verdict == "pass" else "warning"
        title = _property(f"Eyechart: {WORDS[v.verdict]}, {v.task}")
        lines.append(f"::{level} title={title}::{_data(sentence(v))}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_badge(report: CheckReport) -> str:
    """A self-contained SVG: the name, the verdict, and the widest loss of a gating task."""
    left = "eyechart"
    right = WORDS[report.verdict].lower()
    known = [v for v in report.tasks if v.importance == "gating" and v.difference is not None]
    if known:
        worst = min(known, key=lambda v: v.difference if v.difference is not None else 0.0)
        right += f" · {worst.task.removeprefix('eyechart_')} {points(worst.difference)} {span(worst)}"
    return draw_badge(left, right, _COLOURS[report.verdict])
