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
from harness.digest import digest_bytes
from harness.errors import IntegrityError, UsageError
from harness.files import read_parquet, write_parquet
from harness.gate_differences import what_differs
from harness.gate_records import CheckReport
from harness.gate_sides import Side, TaskCell
from harness.policy import Policy, TaskPolicy
from harness.tables import text_table
from harness.variance import SeedPool

MIN_SEEDS = 20
"""Fewer seeds than this are no test of the check."""
SPLITS = 1000
_SCHEMA = pa.schema(
    {
        "protocol": pa.string(),
        "encoder": pa.string(),
        "task": pa.string(),
        "task_digest": pa.string(),
        "seed": pa.int64(),
        "digest": pa.string(),
        "sample_id": pa.int64(),
        "cluster": pa.int64(),
        "score": pa.float64(),
    }
)


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
        UsageError: too few seeds, or a copy that cannot be held against the whole encoder.
    """
    whole = max(sides, key=_num_seeds)
    if _num_seeds(whole) < MIN_SEEDS:
        raise UsageError(
            "too few seeds for a self-test",
            where=whole.encoder,
            found=str(_num_seeds(whole)),
            expected=f"{MIN_SEEDS}",
        )
    for side in sides:
        _refuse_unlike(side, whole, seeds[1])
    found = {}
    for side in [whole, *(s for s in sides if s is not whole)]:
        rng = np.random.default_rng(seed)
        reports = [
            check(*_split(whole, side, seeds, rng), rules, policy, pools=pools, explain=False)
            for _ in range(splits)
        ]
        found[side.encoder] = _rates(whole, side, reports, seeds)
    return found


def _refuse_unlike(side: Side, whole: Side, num_seeds: int) -> None:
    """Each split must come out as one of the three verdicts, or the rates are no rates."""
    for task, cell in whole.cells.items():
        other = side.cells.get(task)
        if other is None:
            raise UsageError(
                "a copy lacks a task of the encoder it is held against",
                where=side.encoder,
                found=", ".join(side.cells),
                expected=task,
            )
        differing = what_differs(cell, other)
        if differing:
            found = "; ".join(differing)
            raise UsageError(
                f"not under the conditions of {whole.encoder}", where=f"{side.encoder}: {task}", found=found
            )
        if len(other.seeds) < num_seeds:
            raise UsageError(
                "too few seeds for a self-test",
                where=f"{side.encoder}: {task}",
                found=str(len(other.seeds)),
                expected=str(num_seeds),
            )
        if other.num_unscored:
            count = f"{other.num_unscored:,} of {other.scores.size:,}"
            raise UsageError("scores are missing", where=f"{side.encoder}: {task}", found=count)


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
                tables.append(pa.table(dict(zip(_SCHEMA.names, columns, strict=True))))
    whole = pa.concat_tables(tables)
    write_parquet(path, whole)
    return int(whole.num_rows)


def unpack(path: Path) -> list[Side]:
    """The sides that `pack` wrote; of the conditions only protocol and task are known.

    Raises:
        IntegrityError: not such a file, or one whose rows do not make whole sides.
    """
    rows = _sound_rows(path)
    protocol = str(rows["protocol"][0].as_py())
    sides: dict[str, dict[str, TaskCell]] = {}
    keys = rows.select(["encoder", "task"]).group_by(["encoder", "task"]).aggregate([]).to_pylist()
    for key in sorted(keys, key=lambda k: (k["encoder"], k["task"])):
        wanted = pc.and_(pc.equal(rows["encoder"], key["encoder"]), pc.equal(rows["task"], key["task"]))
        mine = rows.filter(wanted)
        where = f"{path}: {key['encoder']}, {key['task']}"
        sides.setdefault(key["encoder"], {})[key["task"]] = _unpacked(key["task"], protocol, mine, where)
    return [
        Side(protocol=protocol, encoder=encoder, title=encoder, cells=cells, tier="re-run")
        for encoder, cells in sides.items()
    ]


def _sound_rows(path: Path) -> pa.Table:
    """The rows in the types that `pack` writes: one protocol, nothing null, printable, scores from 0 to 1."""
    rows = read_parquet(path, _SCHEMA.names)
    try:
        rows = rows.select(_SCHEMA.names).cast(_SCHEMA)
    except pa.ArrowException as error:
        raise IntegrityError("a column of another type", where=str(path), found=str(error)) from error
    if not rows.num_rows:
        raise IntegrityError("no scores", where=str(path), fix="give the file that `pack` wrote")
    for name in _SCHEMA.names:
        if rows[name].null_count:
            count = f"{rows[name].null_count:,} rows without one"
            raise IntegrityError(f"{name} missing", where=str(path), found=count, expected="one in each row")
    for name in ("protocol", "encoder", "task", "task_digest", "digest"):
        for text in pc.unique(rows[name]).to_pylist():
            if not text.isprintable():
                where = f"{path}: {name}"
                raise IntegrityError("a name that cannot be printed", where=where, found=ascii(text)[:80])
    scores = rows["score"].to_numpy()
    odd = scores[~((scores >= 0) & (scores <= 1))]
    if len(odd):
        raise IntegrityError(
            "a score out of range", where=str(path), found=str(odd[0]), expected="a number from 0 to 1"
        )
    protocols = pc.unique(rows["protocol"]).to_pylist()
    if len(protocols) > 1:
        raise IntegrityError("several protocols", where=str(path), found=", ".join(sorted(protocols)))
    return rows


def _unpacked(task: str, protocol: str, mine: pa.Table, where: str) -> TaskCell:
    mine = mine.sort_by([("seed", "ascending"), ("sample_id", "ascending")])
    seeds = sorted(set(mine["seed"].to_pylist()))
    expected = f"{mine.num_rows / len(seeds):g} samples of each of {len(seeds)} seeds"
    if mine.num_rows % len(seeds):
        raise IntegrityError(
            "rows missing", where=where, found=f"{mine.num_rows:,}", expected="as many a seed"
        )

    def by_seed(name: str) -> np.ndarray:
        return np.asarray(mine[name].to_numpy()).reshape(len(seeds), -1)

    for name in ("seed", "task_digest", "digest"):
        constant = by_seed(name)
        if (constant != constant[:, :1]).any():
            raise IntegrityError(f"seeds differ in size or in {name}", where=where, expected=expected)
    for name in ("sample_id", "cluster", "task_digest"):
        alike = by_seed(name)
        if (alike != alike[:1]).any():
            raise IntegrityError(f"seeds hold other samples, by {name}", where=where, expected=expected)
    samples, clusters, scores = by_seed("sample_id")[0], by_seed("cluster")[0], by_seed("score")
    if len(np.unique(samples)) < len(samples):
        raise IntegrityError("a sample twice in one seed", where=where, expected=expected)
    digest = mine["task_digest"][0].as_py()
    return TaskCell(
        task=task,
        conditions={"protocol": protocol, "task": digest},
        samples=digest_bytes(samples.tobytes() + clusters.tobytes()),
        prompts="",
        task_digest=digest,
        seeds=tuple(seeds),
        engines=("hf",),
        num_expected=scores.size,
        num_unscored=int(np.isnan(scores).sum()),
        num_unparsed=0,
        clusters=clusters,
        scores=scores,
        digests=tuple(str(digest) for digest in by_seed("digest")[:, 0]),
        ids=mine["sample_id"][: len(samples)].cast(pa.string()),
    )
