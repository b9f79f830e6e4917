"""What the gate says of evidence: what would settle it, whose seeds it rests on, what the badge names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import TASK, draw, write_runs

from harness.baseline import board_seeds, make_baseline
from harness.check import check, pooled
from harness.check_commands import judge, read_reference
from harness.check_output import as_badge, as_markdown
from harness.gate_needs import needed
from harness.gate_records import CheckReport, SideSummary, TaskVerdict
from harness.gate_sides import bundle_folders, read_side
from harness.policy import Policy, TaskPolicy
from harness.stats import DifferenceParts, difference_limits
from harness.variance import Component, SeedPart, SeedPool, Size, joined

POLICY = Policy(tasks={TASK: TaskPolicy(margin=0.05)})


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def parts(value: float, samples: float, one_seed: float, seeds: tuple[int, int]) -> DifferenceParts:
    """A difference with known variances: of the samples, and of one seed of each side, pooled."""
    ours, theirs = (
        SeedPart(Component(one_seed / n, 200.0, one_seed / n), pooled=True, known=True) for n in seeds
    )
    of_samples = Component(samples, 5000.0)
    return DifferenceParts(value, of_samples, Size(1000, 1000), joined(ours, theirs), True, (ours, theirs))


def half(samples: float, seeds: float) -> float:
    """Half the interval if the variances were these, and known."""
    size = Size(1000, 1000)
    got = difference_limits(0.0, Component(samples, 5000.0), size, [Component(seeds, 200.0)], against=None)
    return float(got.high)


def test_each_side_is_scaled_by_its_own_seeds() -> None:
    """One seed against three: at 30 seeds a side the noise is 2/30 of one seed's, whatever is there today."""
    margin = half(1e-7, 2e-4 / 30)
    said = needed(parts(0.0, 1e-7, 1e-4, (1, 3)), margin * 1.001, 0.95, (1, 3))
    (count,) = re.findall(r"about (\d+) seeds a side would settle it", said)
    assert int(count) == pytest.approx(30, abs=1)
    # A side that has more than that already keeps them.
    said = needed(parts(0.0, 1e-7, 1e-4, (1, 50)), half(1e-7, 1e-4 / 10 + 1e-4 / 50) * 1.001, 0.95, (1, 50))
    assert re.findall(r"about (\d+) seeds", said) == ["10"]


def test_seeds_and_samples_together_are_tried() -> None:
    noisy = parts(0.0, 4e-4, 4e-4, (1, 3))
    margin = half(1e-4, 8e-4 / 6) * 1.001
    assert half(4e-4, 8e-4 / 100) > margin  # seeds alone never
    assert half(4e-6, 4e-4 + 4e-4 / 3) > margin  # nor samples
    said = needed(noisy, margin, 0.95, (1, 3))
    count, samples = re.findall(r"about (\d+) seeds a side and about ([\d,]+) samples would settle it", said)[
        0
    ]
    times = int(samples.replace(",", "")) // 1000
    assert int(count) * times <= 6 * 4
    assert half(4e-4 / times, 4e-4 / int(count) + 4e-4 / max(int(count), 3)) <= margin
    assert said.endswith("more seeds alone would not")


def test_what_nothing_settles_is_said() -> None:
    assert "would not settle it" in needed(parts(0.0, 4e-4, 4e-4, (1, 3)), 1e-6, 0.95, (1, 3))
    many = parts(0.0, 4e-4, 4e-4, (120, 120))
    assert "120 seeds a side with" in needed(many, 1e-6, 0.95, (120, 120))
    few = parts(0.0, 4e-4, 0.0, (3, 3))
    said = needed(few, half(1e-4, 0) * 1.001, 0.95, (3, 3))
    assert said == "about 4,000 samples would settle it; more seeds alone would not"


def verdict(task: str, kind: str, difference: float, margin: float = 0.02) -> TaskVerdict:
    low, high = difference - 0.015, difference + 0.015
    return TaskVerdict(
        task=task,
        importance="gating",
        verdict=kind,  # type: ignore[arg-type]
        margin=margin,
        reason="r",
        difference=difference,
        ci_low=low,
        ci_high=high,
        seeds_candidate=1,
        seeds_baseline=1,
    )


def report(*tasks: TaskVerdict, whole: str) -> CheckReport:
    side = SideSummary(protocol="mini", encoder="e", tier="re-run", bundles=())
    return CheckReport(
        verdict=whole,  # type: ignore[arg-type]
        exit_code=0,
        strict=False,
        level=0.95,
        policy_digest="",
        baseline=side,
        candidate=side,
        tasks=tasks,
    )


def test_the_badge_names_the_task_that_decides() -> None:
    tolerated = verdict("eyechart_wide", "pass", -0.03, margin=0.1)
    close = verdict("eyechart_close", "inconclusive", -0.01)
    badge = as_badge(report(tolerated, close, whole="inconclusive"))
    assert "close −1.00" in badge and "wide" not in badge
    lost = replace(verdict("eyechart_lost", "incomplete", 0.0), difference=None, ci_low=None, ci_high=None)
    badge = as_badge(report(tolerated, lost, whole="incomplete"))
    assert "incomplete · lost" in badge and "wide" not in badge
    worse = verdict("eyechart_worse", "regression", -0.05)
    assert "regression · worse −5.00" in as_badge(report(lost, close, worse, whole="regression"))


def test_the_comment_claims_training_noise_only_where_it_is_known() -> None:
    known, unknown = verdict("a", "pass", 0.0), verdict("b", "inconclusive", 0.0)
    unknown = replace(unknown, seeds_unknown=True)
    alone = as_markdown(report(unknown, whole="inconclusive"))
    assert "include training noise" not in alone and "of the samples alone" in alone
    both = as_markdown(report(known, unknown, whole="inconclusive"))
    assert "include training noise, but for `b`" in both
    assert "95 % intervals that include training noise." in as_markdown(report(known, whole="pass"))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    for number in range(5):
        write_runs(tmp_path / "results", f"enc{number}", draw(number, 0.6, seed_sd=0.02))
    return tmp_path / "results"


def test_a_candidate_that_is_on_the_board_counts_once(board: Path) -> None:
    """Its seeds lie in the pointer's pool already; another version's of the same name do not."""
    pointer = board / "baseline.json"
    made = make_baseline(pointer, [board / "mini" / "enc0"], board=[board])
    assert sorted(made.lenders) == ["enc1", "enc2", "enc3", "enc4"]
    found = judge(pointer, [board / "mini" / "enc1"], POLICY)
    assert found.seed_noise == (
        "Seed noise is from the baseline's pointer, pooled over 4 encoders of a board, and from the seeds of "
        "the baseline."
    )
    reference = read_reference(pointer, POLICY)
    sides = [read_side(bundle_folders([board / "mini" / f"enc{n}"])) for n in (0, 1)]
    cells = [side.cells[TASK] for side in sides]
    pool = reference.pools[TASK]
    once, twice = pooled(*cells, pool, (False, True)), pooled(*cells, pool)
    assert (round(once.df), round(twice.df)) == (10, 12)
    # As if all five were pooled at once.
    whole = board_seeds(sides[0], [board], with_own=True)[0][TASK]
    assert once.ratio == pytest.approx(whole.ratio, rel=0.05)
    (task,) = found.tasks
    lenders = frozenset(reference.lenders.values())
    twice_over = check(*sides, reference.rules, POLICY, pools=reference.pools)
    same = check(*sides, reference.rules, POLICY, pools=reference.pools, lenders=lenders)
    assert task == same.tasks[0]
    assert (task.ci_low, task.ci_high) != (twice_over.tasks[0].ci_low, twice_over.tasks[0].ci_high)


def test_bundles_on_both_sides_lend_their_seeds_once() -> None:
    from test_check import _side

    cell = _side(0, ["t"]).cells["t"]
    assert pooled(cell, cell, None).df == pytest.approx(2)
    assert pooled(cell, replace(cell, digests=("other",)), None).df == pytest.approx(4)
    assert pooled(cell, cell, SeedPool(0.0, 5.0), (True, True)) == SeedPool(0.0, 5.0)
    assert np.isfinite(pooled(cell, cell, None).ratio)
