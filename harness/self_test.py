"""`eyechart check --self-test`: the check's own error rates, on seeds that differ in nothing but luck.

From many adapter seeds of one encoder, draw a baseline and a candidate that share none, and judge: every
regression found is a false alarm. From seeds of damaged copies of the encoder, the same tells how often a
real loss of each size is found. What is read are stored bundles, or the one Parquet file that `pack` makes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.baseline import board_sides
from harness.check import check
from harness.errors import UsageError
from harness.files import read_parquet, write_parquet
from harness.gate_records import CheckReport
from harness.gate_sides import Side, TaskCell
from harness.policy import Policy, TaskPolicy
from harness.tables import text_table
from harness.variance import SeedPool

MIN_SEEDS = 20
"""Fewer seeds than this are no test of the check."""
SPLITS = 1000
_COLUMNS = ("protocol", "encoder", "task", "task_digest", "seed", "digest", "sample_id", "cluster", "score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What many splits came out as, overall or for a task."""

    name: str
    num_splits: int
    seeds: tuple[int, int]
    """Of the baseline and of the candidate in each split."""
    loss: float
    """Baseline minus candidate over all seeds: the true loss as well as it is known, a fraction."""
    passed: float
    regressions: float
    inconclusive: float


def self_test(
    sides: Sequence[Side],
    rules: Mapping[str, TaskPolicy],
    policy: Policy,
    *,
    splits: int = SPLITS,
    seeds: tuple[int, int] = (3, 3),
    pools: Mapping[str, SeedPool] | None = None,
    seed: int = 0,
) -> dict[str, list[Rates]]:
    """Rates of each verdict: {encoder: [overall, task, task …]}; the encoder itself stands for A/A splits.

    Args:
        sides: the encoder with the most seeds, at least MIN_SEEDS, and damaged copies of it in any order.
        rules: of its tasks.
        policy: level and looks.
        splits: random splits for each candidate.
        seeds: how many of the baseline and of the candidate in each split.
        pools: seed variance of tasks known from other encoders.
        seed: of the splits.

    Raises:
        UsageError: too few seeds.
    """
    whole = max(sides, key=_num_seeds)
    if _num_seeds(whole) < MIN_SEEDS:
        raise UsageError(
            "too few seeds for a self-test",
            where=whole.encoder,
            found=str(_num_seeds(whole)),
            expected=f"{MIN_SEEDS}",
        )
    found = {}
    for side in [whole, *(s for s in sides if s is not whole)]:
        rng = np.random.default_rng(seed)
        reports = [
            check(*_split(whole, side, seeds, rng), rules, policy, pools=pools, explain=False)
            for _ in range(splits)
        ]
        found[side.encoder] = _rates(whole, side, reports, seeds)
    return found


def _num_seeds(side: Side) -> int:
    return min(len(cell.seeds) for cell in side.cells.values())


def _split(whole: Side, other: Side, seeds: tuple[int, int], rng: np.random.Generator) -> tuple[Side, Side]:
    """Seeds of the whole for the baseline, others of the same or of another encoder for the candidate."""
    base, cand = {}, {}
    for task, cell in whole.cells.items():
        order = rng.permutation(len(cell.seeds))
        base[task] = _some(cell, order[: seeds[0]])
        theirs = other.cells[task]
        if other is whole:
            cand[task] = _some(cell, order[seeds[0] : seeds[0] + seeds[1]])
        else:
            cand[task] = _some(theirs, rng.permutation(len(theirs.seeds))[: seeds[1]])
    return replace(whole, cells=base), replace(other, cells=cand)


def _some(cell: TaskCell, chosen: np.ndarray) -> TaskCell:
    picked = sorted(int(i) for i in chosen)
    return replace(
        cell,
        seeds=tuple(cell.seeds[i] for i in picked),
        digests=tuple(cell.digests[i] for i in picked),
        scores=cell.scores[picked],
        num_expected=cell.num_expected // len(cell.seeds) * len(picked),
    )


def _rates(whole: Side, side: Side, reports: Sequence[CheckReport], seeds: tuple[int, int]) -> list[Rates]:
    def rates(name: str, verdicts: Sequence[str], loss: float) -> Rates:
        counted = Counter(verdicts)
        shares = [counted[v] / len(verdicts) for v in ("pass", "regression", "inconclusive")]
        return Rates(
            name=name,
            num_splits=len(verdicts),
            seeds=seeds,
            loss=loss,
            passed=shares[0],
            regressions=shares[1],
            inconclusive=shares[2],
        )

    rows = [rates("overall", [r.verdict for r in reports], math.nan)]
    for number, task in enumerate(whole.cells):
        loss = float(whole.cells[task].scores.mean() - side.cells[task].scores.mean())
        rows.append(rates(task, [r.tasks[number].verdict for r in reports], loss))
    return rows


def table(found: Mapping[str, Sequence[Rates]]) -> str:
    """The rates as text: false alarms first, then each damaged copy, worst task first."""
    rows = []
    for encoder, rates in found.items():
        for r in rates:
            loss = "" if math.isnan(r.loss) else f"{100 * r.loss:+.2f}"
            shares = [f"{100 * x:.1f}" for x in (r.passed, r.regressions, r.inconclusive)]
            rows.append([encoder, r.name.removeprefix("eyechart_"), loss, *shares, str(r.num_splits)])
    header = ["candidate", "task", "loss, points", "pass %", "regression %", "inconclusive %", "splits"]
    return text_table(header, rows, numbers=(2, 3, 4, 5, 6))


def curve(found: Mapping[str, Sequence[Rates]], rules: Mapping[str, TaskPolicy]) -> str:
    """Losses of damaged copies on gating tasks, smallest against its margin first: how often each was found.

    Args:
        found: of `self_test`; its first encoder is the whole one.
        rules: of its tasks, margins included.
    """
    losses = sorted(
        (r.loss / rules[r.name].margin, r.name, encoder, r)
        for encoder, rates in list(found.items())[1:]
        for r in rates[1:]
        if r.loss > 0 and rules[r.name].importance == "gating" and rules[r.name].margin > 0
    )
    rows = [
        [
            r.name.removeprefix("eyechart_"),
            encoder,
            f"{100 * r.loss:.2f}",
            f"{100 * rules[r.name].margin:g}",
            f"{times:.2f}",
            *(f"{100 * x:.1f}" for x in (r.passed, r.regressions, r.inconclusive)),
        ]
        for times, _, encoder, r in losses
    ]
    header = ["task", "candidate", "loss, points", "margin", "loss / margin"]
    header += ["pass %", "regression %", "inconclusive %"]
    return text_table(header, rows, numbers=(2, 3, 4, 5, 6, 7))


def pack(roots: Sequence[Path], protocol: str, path: Path) -> int:
    """Write the scores of stored bundles as one Parquet file; returns the number of rows."""
    tables = []
    for side in board_sides(roots, protocol):
        for cell in side.cells.values():
            for seed, digest, scores in zip(cell.seeds, cell.digests, cell.scores, strict=True):
                count = len(scores)
                constant = (protocol, side.encoder, cell.task, cell.task_digest, seed, digest)
                columns = [pa.repeat(value, count) for value in constant]
                columns += [pa.array(np.arange(count)), pa.array(cell.clusters), pa.array(scores)]
                tables.append(pa.table(dict(zip(_COLUMNS, columns, strict=True))))
    whole = pa.concat_tables(tables)
    write_parquet(path, whole)
    return int(whole.num_rows)


def unpack(path: Path) -> list[Side]:
    """The sides that `pack` wrote; of the conditions only protocol and task are known.

    Raises:
        IntegrityError: not such a file.
    """
    rows = read_parquet(path, _COLUMNS)
    sides: dict[str, dict[str, TaskCell]] = {}
    keys = rows.select(["encoder", "task"]).group_by(["encoder", "task"]).aggregate([]).to_pylist()
    protocol = str(rows["protocol"][0].as_py())
    for key in sorted(keys, key=lambda k: (k["encoder"], k["task"])):
        wanted = pc.and_(pc.equal(rows["encoder"], key["encoder"]), pc.equal(rows["task"], key["task"]))
        mine = rows.filter(wanted)
        sides.setdefault(key["encoder"], {})[key["task"]] = _unpacked(key["task"], protocol, mine)
    return [
        Side(protocol=protocol, encoder=encoder, title=encoder, cells=cells, tier="re-run")
        for encoder, cells in sides.items()
    ]


def _unpacked(task: str, protocol: str, mine: pa.Table) -> TaskCell:
    mine = mine.sort_by([("seed", "ascending"), ("sample_id", "ascending")])
    seeds = sorted(set(mine["seed"].to_pylist()))
    scores = mine["score"].to_numpy().reshape(len(seeds), -1)
    digests = mine["digest"].to_pylist()[:: scores.shape[1]]
    clusters = mine["cluster"].to_numpy()[: scores.shape[1]]
    digest = mine["task_digest"][0].as_py()
    return TaskCell(
        task=task,
        conditions={"protocol": protocol, "task": digest},
        samples=str(scores.shape[1]),
        prompts="",
        task_digest=digest,
        seeds=tuple(seeds),
        engines=("hf",),
        num_expected=scores.size,
        num_unscored=int(np.isnan(scores).sum()),
        num_unparsed=0,
        clusters=clusters,
        scores=scores,
        digests=tuple(digests),
    )
