"""What the index says of all encoders at once: ranks, pairs, families, rank flips, self-reported rows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import TASK, draw, submission, write_runs

from harness.board_rows import family_rows, family_sentence
from harness.check_commands import judge_looks
from harness.cli import main
from harness.family import FamilyEffect
from harness.pair_facts import Network, network_of, pair_facts
from harness.pairs import Pair
from harness.policy import Policy, TaskPolicy
from harness.records import PretrainStage
from harness.store import ingest, open_store

PROBE = "eyechart_mini_probe"


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def ask(db: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = open_store(db)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def pair(a: str, b: str, *held: str, differs: tuple[str, ...] = ("objective",)) -> Pair:
    return Pair(a=a, b=b, held_equal=held, differs=differs, note="")


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    """Five classification and five contrastive encoders, a probe and a task whose orders are reversed."""
    root = tmp_path_factory.mktemp("board")
    pairs = []
    for number in range(5):
        arms = []
        for side, objective, lift in (
            ("label", "label-classification", 0.1),
            ("siglip", "sigmoid-contrastive", 0),
        ):
            name = f"{side}{number}"
            of = submission(name, objective)
            seed = number * 10 + len(arms)
            write_runs(root / "results", name, draw(seed, 0.8 - lift), of=of)
            probe = draw(seed + 100, 0.6 + lift)
            write_runs(root / "results", name, probe, PROBE, of=of, engine="probe", llm_revision="")
            arms.append(name)
        pairs.append(pair(*arms, "resolution", "images-seen", "parameters"))
    ingest(root / "board.duckdb", root / "results", pairs=pairs)
    return root / "board.duckdb"


def test_five_independent_pairs_are_pooled_and_show_the_reversal(board: Path) -> None:
    rows = ask(
        board, "SELECT task, num_independent, difference, ci_low, ci_high, sentence FROM family_effects"
    )
    found = {task: rest for task, *rest in rows}
    for task, sign in ((TASK, -1), (PROBE, 1)):
        independent, difference, low, high, sentence = found[task]
        assert independent == 5
        assert sign * low > 0 and sign * high > 0
        assert low < difference < high
        assert "is ahead, whichever is left out" in sentence
    assert "contrastive" in found[TASK][-1]
    assert found[PROBE][-1].startswith("5 pairs, 5 of them independent: classification")


def test_the_probes_order_is_named_where_it_is_proven_wrong(board: Path) -> None:
    ((correlation, low, high, count),) = ask(
        board, "SELECT correlation, ci_low, ci_high, num_encoders FROM rank_agreement"
    )
    assert count == 10
    assert low <= correlation <= high
    assert correlation < 0
    flips = ask(board, "SELECT by_probe, by_task FROM rank_flips")
    assert flips
    assert all(first.startswith("label") and second.startswith("siglip") for first, second in flips)


def test_ranks_are_intervals_and_groups(board: Path) -> None:
    rows = ask(
        board, f"SELECT encoder, rank_low, rank_high, tie_groups, num_ranked FROM ranks WHERE task = '{TASK}'"
    )
    assert len(rows) == 10
    for encoder, low, high, groups, count in rows:
        assert 1 <= low <= high <= count == 10
        assert groups
        assert (low == 1) is encoder.startswith("siglip")


def test_what_a_pair_holds_equal_is_computed() -> None:
    a = submission("a", "label-classification")
    b = submission(
        "b", pretraining=(PretrainStage(objective="sigmoid-contrastive", data="web", images_seen=7),)
    )
    declared = pair("a", "b", "resolution", "images-seen", "images", "parameters", "tokens", "information")
    networks = {"a": Network(10, (4, 4)), "b": Network(11, (4, 4))}
    facts = {f.aspect: f for f in pair_facts(declared, {"a": a, "b": b}, networks)}
    assert {name: f.found for name, f in facts.items()} == {
        "resolution": "equal",
        "images-seen": "differs",
        "images": "differs",
        "parameters": "differs",
        "tokens": "equal",
        "information": "unknown",
        "objective": "differs",
    }
    assert [name for name, f in facts.items() if f.contradicted] == ["images-seen", "images", "parameters"]
    same = pair_facts(pair("a", "b", differs=("objective",)), {"a": a, "b": a}, networks)
    assert same[0].contradicted
    # What differs and is not named is no matched pair either; another architecture has other parameters.
    unnamed = {f.aspect: f for f in pair_facts(pair("a", "b", "information"), {"a": a, "b": b}, networks)}
    assert [name for name, f in unnamed.items() if f.declared == "unnamed"] == [
        *("images", "images-seen", "parameters"),
    ]
    assert unnamed["images"].contradicted
    other = pair("a", "b", "information", differs=("objective", "architecture", "images", "images-seen"))
    assert not [f for f in pair_facts(other, {"a": a, "b": b}, networks) if f.declared == "unnamed"]


def test_receipts_that_disagree_tell_nothing() -> None:
    assert network_of([{"num_params": 5, "grid": [2, 2]}, {"num_params": 5}]) == Network(5, (2, 2))
    assert network_of([{"num_params": 5}, {"num_params": 6}]) == Network(None, None)
    assert network_of([]) == Network(None, None)


def test_a_contradicted_pair_is_not_pooled() -> None:
    rows = [{"protocol": "p", "task": "t", "a": f"a{i}", "b": f"b{i}", "difference": 0.1} for i in range(5)]
    sides = {f"a{i}": "classification" for i in range(5)} | {f"b{i}": "contrastive" for i in range(5)}
    (whole,) = family_rows(rows, sides, set())
    assert whole["num_independent"] == 5
    assert whole["difference"] == pytest.approx(0.1)
    (less,) = family_rows(rows, sides, {("a0", "b0")})
    assert (less["num_independent"], less["difference"]) == (4, None)
    turned = [dict(r, a=r["b"], b=r["a"], difference=-0.1) for r in rows]
    assert family_rows(turned, sides, set())[0]["difference"] == pytest.approx(0.1)
    assert family_rows(rows, dict.fromkeys(sides, "contrastive"), set()) == []
    (less,) = family_rows(rows, sides, set(), {("p", "b3"), ("another", "a1")})
    assert (less["num_independent"], less["difference"]) == (4, None)


def test_pairs_that_do_not_count_are_told_when_they_are_read(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "results"
    for number, encoder in enumerate(("a", "b", "c")):
        tier = "self-reported" if encoder == "c" else "re-run"
        write_runs(root, encoder, draw(number, 0.5 + 0.1 * number), tier=tier)
    declared = [
        ("a", "b", ["resolution"], ["objective"]),
        ("a", "ghost", ["resolution"], ["objective"]),
        ("nobody", "ghost", ["resolution"], ["objective"]),
    ]
    text = "".join(
        f'[[pair]]\na = "{a}"\nb = "{b}"\nheld_equal = {equal}\ndiffers = {differs}\nnote = "n"\n'
        for a, b, equal, differs in declared
    ).replace("'", '"')
    (tmp_path / "pairs.toml").write_text(text)
    assert main(["ingest", str(root), "--db", "x.duckdb", "--pairs", "pairs.toml"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  pairs: ")]
    assert told[1:] == ["  pairs: a, ghost: no runs of ghost"]
    assert "a, b: the records contradict objective (declared: differs, found: equal); not counted" in told[0]
    assert ask(tmp_path / "x.duckdb", "SELECT DISTINCT contradicted FROM pairs") == [(True,)]
    # Strangers' rows come last, however high they are.
    order = ask(tmp_path / "x.duckdb", "SELECT encoder FROM leaderboard")
    assert order[-1] == ("c",)


@pytest.mark.parametrize("named", ["empty", "deep", "results/mini", "results/mini/a"])
def test_a_folder_without_results_does_not_empty_the_index(
    named, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "results", "a", draw(1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "1" / "2" / "3").mkdir(parents=True)
    (tmp_path / "thesis.txt").write_text("a whole thesis")
    assert main(["ingest", "results", "--db", "thesis.txt"]) == 2
    assert (tmp_path / "thesis.txt").read_text() == "a whole thesis"
    assert "a file of another kind" in capsys.readouterr().err
    assert main(["ingest", "results", "--db", "x.duckdb"]) == 0
    assert main(["ingest", named, "--db", "x.duckdb"]) == 2
    assert re.search("no results here|this is the folder of one", capsys.readouterr().err)
    assert ask(tmp_path / "x.duckdb", "SELECT count(*) FROM metrics") == [(1,)]


def test_the_sentence_says_when_one_pair_carries_it_all() -> None:
    one = FamilyEffect(num_pairs=1, num_independent=1, pooled=None, leave_one_out=())
    assert family_sentence(one) == "1 pair, 1 of them independent: fewer than 5, so no pooled effect is given"


def test_strangers_runs_are_shown_and_decide_nothing(tmp_path: Path) -> None:
    """Five self-reported encoders under other conditions and a later version do not turn a board of one."""
    root = tmp_path / "results"
    write_runs(root, "ours", draw(1))
    for number in range(5):
        extra = {"protocol_version": 2, "dataset_digest": "e" * 64} if number else {}
        write_runs(root, f"theirs{number}", draw(2 + number), tier="self-reported", **extra)
    report = ingest(tmp_path / "x.duckdb", root)
    rows = ask(tmp_path / "x.duckdb", "SELECT encoder, tier FROM leaderboard ORDER BY ALL")
    assert rows == [("ours", "re-run"), ("theirs0", "self-reported")]
    assert len(report.set_aside) == 12
    assert ask(tmp_path / "x.duckdb", "SELECT count(*) FROM ranks") == [(0,)]


def test_seeds_are_added_only_while_inconclusive_and_only_as_declared(tmp_path: Path, capsys) -> None:
    write_runs(tmp_path / "base", "base", draw(1))
    scores = draw(2, 0.665, seeds=8)
    asked: list[int] = []

    def measure(count: int) -> list[Path]:
        asked.append(count)
        return write_runs(tmp_path / "cand", "cand", scores[:count])

    policy = Policy(seeds=(3, 5, 8), tasks={TASK: TaskPolicy(margin=0.05)})
    report = judge_looks(tmp_path / "base", policy, measure)
    assert asked == [3, 5, 8][: len(asked)]
    assert len(asked) > 1
    assert report.level == pytest.approx(1 - 0.05 / 3)
    assert f"look {len(asked)} of 3" in capsys.readouterr().err
    # All eight seeds are stored now: the first look still sees three, and comes out as it did.
    again: list[int] = []

    def stored(count: int) -> list[Path]:
        again.append(count)
        return [tmp_path / "cand"]

    assert judge_looks(tmp_path / "base", policy, stored) == report
    assert again == asked
    clear = Policy(seeds=(3, 5, 8), tasks={TASK: TaskPolicy(margin=0.3)})
    asked.clear()
    assert judge_looks(tmp_path / "base", clear, measure).verdict == "pass"
    assert asked == [3]
    assert np.all(scores <= 1)
