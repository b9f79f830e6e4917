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
    if not report.tasks:
        return f"{head}: {' '.join(report.notes)}"
    if report.verdict == "pass":
        return f"{head}, {len(gating)} tasks"
    return f"{head}: {', '.join(mine)}"


def seeds_of(verdict: TaskVerdict) -> str:
    """Seeds of the candidate and of the baseline, or "–"."""
    if verdict.seeds_candidate is None or verdict.seeds_baseline is None:
        return "–"
    return f"{verdict.seeds_candidate}/{verdict.seeds_baseline}"


def as_text(report: CheckReport) -> str:
    """A table for people, one row a task, then what is to be said about each."""
    if not report.tasks:
        return summary_line(report)
    rows = [
        [
            v.task.removeprefix("eyechart_"),
            WORDS[v.verdict] + (" (advisory)" if v.importance == "advisory" else ""),
            points(v.difference),
            span(v),
            f"{100 * v.margin:.3g}",
            seeds_of(v),
            "–" if v.only_candidate is None else f"+{v.only_candidate} −{v.only_baseline}",
            "–" if v.detectable is None else f"{100 * v.detectable:.2f}",
        ]
        for v in report.tasks
    ]
    level = f"{100 * report.level:.3g} % interval"
    header = ["task", "verdict", "difference", level, "margin", "seeds c/b", "flips", "detectable"]
    lines = [text_table(header, rows, numbers=(2, 4, 5, 6, 7)), ""]
    said = [v for v in report.tasks if v.verdict != "pass" or v.real_but_tolerated]
    lines += [f"{', '.join(tasks)}: {text}." for text, tasks in _by_sentence(said).items()]
    lines += [*report.notes, *([report.seed_noise] if report.seed_noise else [])]
    return "\n".join([*lines, summary_line(report)])


def _by_sentence(verdicts: Sequence[TaskVerdict]) -> dict[str, list[str]]:
    """What is to be said -> of which tasks: one cause that stops all is said once."""
    said: dict[str, list[str]] = {}
    for verdict in verdicts:
        said.setdefault(sentence(verdict), []).append(verdict.task)
    return said


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
    head = [
        f"### Eyechart: {WORDS[report.verdict]}",
        "",
        f"{sides}, protocol `{_cell(report.baseline.protocol) or '–'}`. {_intervals(report)}",
        "",
    ]
    if report.tasks:
        head += [
            "| task | verdict | baseline | candidate | difference | interval | margin | seeds c/b | flips |",
            "|---|---|--:|--:|--:|---|--:|--:|--:|",
        ]
    rows = [_row(v) for v in report.tasks]
    said = _by_sentence([v for v in report.tasks if v.verdict != "pass"])
    notes = [f"- {', '.join(f'`{_cell(t)}`' for t in tasks)}: {_cell(text)}." for text, tasks in said.items()]
    notes += [f"- {_cell(note)}" for note in (*report.notes, report.seed_noise) if note]
    return _within([*head, *rows, "", *notes, ""])


def _intervals(report: CheckReport) -> str:
    """What the numbers of the table are; that they hold training noise is said only where they do."""
    compared = [v for v in report.tasks if v.ci_low is not None]
    without = [f"`{_cell(v.task)}`" for v in compared if v.seeds_unknown]
    if not compared:
        return "Nothing could be compared."
    level = f"Points, with {100 * report.level:.3g} % intervals"
    if len(without) == len(compared):
        return f"{level} of the samples alone: one seed a side says nothing about training noise."
    but = f", but for {', '.join(without)}: one seed a side says nothing about it" if without else ""
    return f"{level} that include training noise{but}."


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
        seeds_of(v),
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
            case.result = [kind(f"{WORDS[verdict.verdict]}: {_with_seeds(verdict)}", verdict.verdict)]
        else:
            case.system_out = _with_seeds(verdict)
        suite.add_testcase(case)
    if not report.tasks:
        case = TestCase("all tasks", classname="eyechart", time=0)
        case.result = [Error(summary_line(report), report.verdict)]
        suite.add_testcase(case)
    xml = JUnitXml("eyechart")
    xml.add_testsuite(suite)
    xml.update_statistics()  # type: ignore[no-untyped-call]  # junitparser's annotations are partial
    data: bytes = xml.tostring()  # type: ignore[no-untyped-call]
    return data


def _with_seeds(verdict: TaskVerdict) -> str:
    if verdict.seeds_candidate is None:
        return sentence(verdict)
    seeds = f"seeds: {verdict.seeds_candidate} of the candidate, {verdict.seeds_baseline} of the baseline"
    return f"{sentence(verdict)}; {seeds}"


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
    if not report.tasks:
        title = _property(f"Eyechart: {WORDS[report.verdict]}")
        lines.append(f"::error title={title}::{_data(summary_line(report))}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_badge(report: CheckReport) -> str:
    """A self-contained SVG: the name, the verdict, and the gating task that decides it.

    That is, of those whose verdict is the whole one, the one nearest to a regression: its interval's lower
    end is the furthest below, or the least above, minus its margin.
    """
    right = WORDS[report.verdict].lower()
    deciding = [v for v in report.tasks if v.importance == "gating" and v.verdict == report.verdict]
    if deciding:
        worst = min(deciding, key=_room)
        right += f" · {worst.task.removeprefix('eyechart_')}"
        if worst.difference is not None:
            right += f" {points(worst.difference)} {span(worst)}"
    return draw_badge("eyechart", right, _COLOURS[report.verdict])


def _room(verdict: TaskVerdict) -> float:
    return verdict.margin + verdict.ci_low if verdict.ci_low is not None else -1.0
