"""The board: every encoder on every task, with what a reader may sort and filter by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from harness.records import TIERS, Submission
from leaderboard.comparisons import Comparisons
from leaderboard.compose import cell, encoder_name, sort_task, task_head, task_names, task_title
from leaderboard.facts import RunFacts
from leaderboard.front_views import BoardPage, TradeFigure, TradeRow
from leaderboard.pair_codes import compared_tables, pair_file
from leaderboard.planes import TradeInput, trade_off
from leaderboard.sentences import floors_missing_words, weak_words
from leaderboard.views import Board, BoardRow, Cell
from leaderboard.wording import page_name

STRIPS_UP_TO = 300
"""Rows with small bars and the lift's interval in their cells; a longer board has neither, to stay light."""
ROWS_UP_TO = 2000
"""Ranked rows that the page holds; it weighs 0.2 kB a row and a task. The downloads have all of them."""
POINTS_UP_TO = 60
"""Points in the chart of costs; beyond that only those that nothing beats are drawn."""


def board_href(protocol: str) -> str:
    """Page of a protocol's board."""
    return f"boards/{page_name(protocol)}"


def board(compared: Comparisons) -> Board:
    """The sortable table, highest first on `sort_task`; cells without a number last."""
    first = sort_task(compared)
    # A phone shows one column beside the names: that by which they are sorted.
    names = sorted(task_names(compared), key=lambda task: task != first)

    def rank(encoder: str) -> tuple[float, str]:
        metric = compared.metric(encoder, first)
        value = metric.value if metric is not None and metric.value is not None else -1.0
        return (-value, encoder)

    def rows(encoders: Sequence[str]) -> tuple[BoardRow, ...]:
        return tuple(_row(compared, e, names, compared.runs.get(e, ())) for e in sorted(encoders, key=rank))

    ranked = rows([e for e in compared.encoders if e not in {*compared.floors, *compared.reported}])
    reported = rows(compared.reported)
    shown = (*ranked, *reported)
    return Board(
        tasks=tuple(task_head(compared, t) for t in names),
        encoders=ranked,
        reported=reported,
        floors=rows(compared.floors),
        sorted_by=first,
        sorted_title=task_title(compared.facts, first),
        families=tuple(sorted({r.name.family for r in shown})),
        sources=tuple(sorted({r.source for r in shown})),
        tiers=tuple(t for t in TIERS if any(r.tier == t for r in shown)),
    )


def _row(compared: Comparisons, encoder: str, names: Sequence[str], runs: Sequence[RunFacts]) -> BoardRow:
    facts = compared.facts
    name, submission = encoder_name(facts, encoder), facts.submissions[encoder]
    cells = tuple(cell(compared, encoder, t, against="blind") for t in names)
    network = facts.networks.get(encoder)
    return BoardRow(
        name=name,
        cells=cells,
        tier=_tier(cells),
        source=submission.source.kind,
        num_params=network.num_params if network else None,
        cost_s=_cost(runs),
        search=_search_text(submission),
    )


def _search_text(submission: Submission) -> str:
    # Title, architecture and family stand in the row already.
    words = (submission.id, *submission.authors)
    return " ".join(" ".join(words).lower().split())


def _tier(cells: Sequence[Cell]) -> str:
    return max((c.tier for c in cells if c.tier), key=TIERS.index, default="")


def _cost(runs: Sequence[RunFacts]) -> float | None:
    """Seconds of a row. Runs of one process report its stages alike, to the second they were written."""
    figures = {
        (stage, seconds, str(run.environment.get("written", "")))
        for run in runs
        for stage, seconds in run.costs.items()
    }
    return sum(sorted(seconds for _, seconds, _ in figures)) if figures else None


def trade_figure(compared: Comparisons, table: Board) -> TradeFigure | None:
    """Cost against the sorting task, with the rows that no other row beats at less cost."""
    place = next((i for i, t in enumerate(table.tasks) if t.name == table.sorted_by), None)
    if place is None:
        return None
    priced = [row for row in table.encoders if row.cells[place].span is not None and row.cost_s]
    seeds = max((c.num_seeds for row in priced for c in row.cells), default=0)
    rows = [
        (row, span, row.cost_s)
        for row in priced
        # A row that did less costs less: only whole ones compare.
        if all(c.span is not None and c.num_seeds == seeds for c in row.cells)
        and (span := row.cells[place].span) is not None
        and row.cost_s
    ]
    if len(rows) < 2:
        return None
    rows.sort(key=lambda item: (item[2], -item[1].value, item[0].name.id))
    front, beaten, best, ahead = [], {}, -1.0, ""
    for row, span, _ in rows:
        if span.value > best:
            front.append(row.name.id)
            best, ahead = span.value, row.name.id
            beaten[row.name.id] = "no"
        else:
            gap = compared.difference(ahead, row.name.id, table.sorted_by)
            proven = gap is not None and gap.low > 0
            beaten[row.name.id] = "yes, proven" if proven else "by point value only"
    shown = [item for item in rows if len(rows) <= POINTS_UP_TO or item[0].name.id in front]
    chart = trade_off(
        [
            TradeInput(
                key=str(number),
                name=row.name.title,
                side=row.name.side,
                cost=cost,
                score=(span.low, span.value, span.high),
                on_front=row.name.id in front,
            )
            for number, (row, span, cost) in enumerate(shown, 1)
        ],
        "Time per encoder",
        table.sorted_title,
    )
    machines = sorted({_machine(r) for found in compared.runs.values() for r in found})
    return TradeFigure(
        chart=chart,
        rows=tuple(
            TradeRow(key=str(n), name=row.name, cost_s=cost, score=span, beaten=beaten[row.name.id])
            for n, (row, span, cost) in enumerate(shown, 1)
        ),
        left_out=len(rows) - len(shown),
        unlike=len(priced) - len(rows),
        machines=tuple(machines),
    )


def _machine(run: RunFacts) -> str:
    environment = run.environment
    device, cpu, cores = (environment.get(key) for key in ("device", "cpu", "cores"))
    words = [str(device.get("name", ""))] if isinstance(device, dict) else []
    words += [f"{cpu}, {cores} cores" if cores else str(cpu)] if cpu else []
    return "; ".join(words) or "a machine that no run names"


def board_page(compared: Comparisons, table: Board) -> BoardPage:
    """The board with what is said around it."""
    ranked = [t for t in table.tasks if compared_tables(compared, t.name)]
    return BoardPage(
        name=compared.protocol,
        suite=compared.facts.suites[compared.protocol],
        href=board_href(compared.protocol),
        board=replace(table, encoders=table.encoders[:ROWS_UP_TO]),
        left_out=max(len(table.encoders) - ROWS_UP_TO, 0),
        weak=weak_words(compared),
        floors_missing=floors_missing_words(compared),
        trade=trade_figure(compared, table),
        strips=len(table.encoders) + len(table.reported) <= STRIPS_UP_TO,
        pair_files_json=json.dumps([[t.name, "../" + pair_file(compared.protocol, t.name)] for t in ranked]),
        num_margins=sum(any(m.required for m in c.margins) for r in table.encoders for c in r.cells),
        unranked=tuple(t.title for t in table.tasks if t not in ranked),
    )
