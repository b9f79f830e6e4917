"""Samples on a task's page: the distribution, the shares and the hardest ones are those of the index."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace

import numpy as np
import pytest

from harness.store import open_store
from leaderboard.build import build_site
from leaderboard.charts import score_scale
from leaderboard.comparisons import Comparisons
from leaderboard.index import read_facts
from leaderboard.task_samples import NUM_HARDEST, bars, difficulty, task_samples
from tests.sample_site import NUM, REC, VIDEO, VQA, write_site_inputs
from tests.test_leaderboard import Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        db = write_site_inputs(home)
    build_site(db, home / "site", home / "pairs.toml", datasets=home / "data")
    facts = read_facts(db, home / "pairs.toml", None, datasets=home / "data")
    return SimpleNamespace(db=db, site=home / "site", facts=facts, compared=Comparisons(facts, "mini"))


def by_sample(made: SimpleNamespace, task: str) -> list[tuple]:
    """(mean over encoders, encoders that are right, sample id), hardest first, as SQL has it."""
    connection = open_store(made.db)
    try:
        return connection.execute(
            "WITH m AS (SELECT encoder, sample_id, avg(score) AS s FROM samples WHERE task = ? GROUP BY ALL) "
            "SELECT avg(s) AS mean, count(*) FILTER (s >= 0.5), sample_id FROM m GROUP BY sample_id "
            "ORDER BY round(mean, 9), sample_id",
            [task],
        ).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("task", [VQA, REC, VIDEO])
def test_numbers_are_those_of_the_index(made, task):
    want = by_sample(made, task)
    found = task_samples(made.compared, task)
    assert found is not None
    num = 2 if task == VIDEO else 3
    assert (found.num_encoders, found.num_samples) == (num, NUM)
    assert found.num_all_right == sum(r[1] == num for r in want)
    assert found.num_none_right == sum(r[1] == 0 for r in want)
    assert [(h.sample_id, h.num_right) for h in found.hardest] == [(r[2], r[1]) for r in want[:NUM_HARDEST]]
    assert [h.mean for h in found.hardest] == pytest.approx([r[0] for r in want[:NUM_HARDEST]])
    assert sum(b.count for b in found.bars) == NUM


def test_page_shows_them(made):
    page = Page((made.site / f"tasks/{VIDEO}.html").read_text())
    words = " ".join(page.words.split())
    found = task_samples(made.compared, VIDEO)
    assert found is not None
    assert f"{found.num_all_right} of {NUM} samples" in words
    assert f"right with {found.hardest[0].num_right} of 2; mean" in words
    assert "below chance" in words and "may be a trap" in words and "Guessing gives 20.0 %" in words
    assert len([t for t, a in page.elements if t == "img"]) == NUM_HARDEST
    rec = Page((made.site / f"tasks/{REC}.html").read_text())
    assert "may be a trap" not in rec.words, "only a choice can be guessed wrong on purpose"
    drawn = [a for t, a in rec.elements if t == "rect" and a.get("class") == "box reference"]
    assert len(drawn) == NUM_HARDEST and {a["x"] for a in drawn} == {"0.00%"}


def test_floors_and_self_reported_are_left_out(made):
    facts = made.facts
    floor = dataclasses.replace(facts.submissions["net-b"], floor="blind")
    without = Comparisons(
        dataclasses.replace(facts, submissions={**facts.submissions, "net-b": floor}), "mini"
    )
    found = difficulty(without, VIDEO)
    assert found is not None and found.encoders == ("net-a",)
    metrics = dict(facts.metrics)
    metrics["mini", "net-a", VIDEO] = dataclasses.replace(
        metrics["mini", "net-a", VIDEO], tier="self-reported"
    )
    reported = Comparisons(dataclasses.replace(facts, metrics=metrics), "mini")
    found = difficulty(reported, VIDEO)
    assert found is not None and found.encoders == ("net-b",)
    assert difficulty(Comparisons(dataclasses.replace(facts, scores={}), "mini"), VIDEO) is None
    assert task_samples(Comparisons(dataclasses.replace(facts, scores={}), "mini"), VIDEO) is None


def test_bars_hold_every_mean_once():
    means = np.array([0.0, 0.0999, 0.1, 0.3, 2 / 3, 0.7, 0.1 + 0.2, 0.9, 1.0])
    found = bars(means, score_scale())
    assert [b.count for b in found] == [2, 1, 0, 2, 0, 0, 1, 1, 0, 2]
    assert found[0].label == "0 to below 10" and found[-1].label == "90 to 100"
    assert max(b.height for b in found) == 120 and all(b.y + b.height == 120 for b in found)
    assert sum(b.count for b in bars(np.zeros(0), score_scale())) == 0


def test_data_table_stands_behind_the_drawing(made):
    page = Page((made.site / f"tasks/{VQA}.html").read_text())
    words = " ".join(page.words.split())
    found = task_samples(made.compared, VQA)
    assert found is not None
    for bar in found.bars:
        assert f"{bar.label} {bar.count}" in words or f"{bar.label}{bar.count}" in words
