"""The page of a pair: numbers are those of the index's view, declared stands beside found."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.store import open_store
from leaderboard.build import build_site
from leaderboard.comparisons import Comparisons
from leaderboard.index import read_facts
from leaderboard.pair_names import flips_href, pair_href
from leaderboard.pair_page import difference_row, p_words, pair_page
from leaderboard.wording import per_cent, points, points_range
from tests.sample_site import EVIL, HOSTILE, REC, VIDEO, VQA, write_site_inputs
from tests.test_leaderboard import Page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        db = write_site_inputs(home, pack=False)
    build_site(db, home / "site", home / "pairs.toml")
    facts = read_facts(db, home / "pairs.toml", None)
    return SimpleNamespace(home=home, db=db, site=home / "site", facts=facts)


def rows(db: Path, sql: str) -> list[dict]:
    connection = open_store(db)
    try:
        cursor = connection.execute(sql)
        names = [c[0] for c in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    finally:
        connection.close()


def words_of(made: SimpleNamespace, b: str) -> str:
    return " ".join(Page((made.site / pair_href("net-a", b)).read_text()).words.split())


def test_every_number_is_the_views(made):
    compared = Comparisons(made.facts, "mini")
    view = rows(made.db, "SELECT * FROM pairs")
    assert {(r["task"], r["b"]) for r in view} == {
        (t, b) for b in ("net-b", EVIL) for t in (VQA, REC, VIDEO)
    } - {(VIDEO, EVIL)}
    for row in view:
        pair = next(p for p in made.facts.pairs if p.b == row["b"])
        mine = difference_row(compared, pair, row["task"])
        assert mine == {k: row[k] for k in mine}
        words = words_of(made, row["b"])
        shown = points_range(max(row["ci_low"], -1), min(row["ci_high"], 1))
        assert f"{points(row['difference'])} [{shown}]" in words
        assert f"{row['only_a']:,} only A, {row['only_b']:,} only B" in words
        assert f"of {row['num_samples']} samples in {row['num_clusters']} clusters" in words
        assert p_words(row["p"]) in words and per_cent(row["detectable"]) in words


def test_the_numbers_do_not_need_an_index_made_with_these_pairs(made, tmp_path):
    """A site is verified against an index that knows no pairs."""
    from harness.store import ingest

    ingest(tmp_path / "bare.duckdb", made.home / "results")
    assert not rows(tmp_path / "bare.duckdb", "SELECT * FROM pairs")
    build_site(tmp_path / "bare.duckdb", tmp_path / "site", made.home / "pairs.toml")
    href = pair_href("net-a", "net-b")
    assert (tmp_path / "site" / href).read_bytes() == (made.site / href).read_bytes()


def test_declared_found_and_contradicted_are_the_index_table(made):
    for row in rows(made.db, "SELECT * FROM pair_facts"):
        fact = next(f for f in made.facts.pair_facts[row["a"], row["b"]] if f.aspect == row["aspect"])
        assert (fact.declared, fact.found, fact.contradicted) == (
            row["declared"],
            row["found"],
            row["contradicted"],
        )
    assert rows(made.db, "SELECT * FROM pair_facts WHERE contradicted")
    words = words_of(made, EVIL)
    assert "The records contradict the declared objective" in words and "contradicted" in words
    assert "informationdifferscannot tellnot checkable" in words
    assert "The records contradict" not in words_of(made, "net-b")
    assert "objectivediffersdiffersyes" in words_of(made, "net-b")


def test_absence_is_said_in_words(made):
    compared = Comparisons(made.facts, "mini")
    pair = next(p for p in made.facts.pairs if p.b == EVIL)
    page = pair_page(made.facts, [compared], pair)
    absent = next(r for r in page.sections[0].rows if r.span is None)
    assert absent.verdict == f"no number: {EVIL} {HOSTILE} not run"
    assert "no number" in words_of(made, EVIL)


def test_both_sides_stand_beside_each_other(made):
    pair = next(p for p in made.facts.pairs if p.b == "net-b")
    page = pair_page(made.facts, [Comparisons(made.facts, "mini")], pair)
    facts = {f.label: (f.a, f.b, f.same) for f in page.facts}
    assert facts["Side"] == ("classification", "contrastive", False)
    assert facts["Parameters"] == ("7", "7", True)
    assert facts["Patch tokens"][0] == "not recorded"
    assert [s[0].objective for s in page.stages] == ["label-classification", "sigmoid-contrastive"]


def test_the_board_leads_to_the_pair_and_the_pair_to_its_flips(made):
    index = Page((made.site / "index.html").read_text())
    hrefs = {a.get("href") for t, a in index.elements if t == "a"}
    assert {pair_href("net-a", b) for b in ("net-b", EVIL)} <= hrefs
    links = {a.get("href") for t, a in Page((made.site / pair_href("net-a", "net-b")).read_text()).elements}
    assert {f"../{flips_href('mini', 'net-a', 'net-b', t)}" for t in (VQA, REC, VIDEO)} <= links


def test_a_pair_without_both_arms_has_no_page(made, tmp_path):
    text = (made.home / "pairs.toml").read_text().replace(EVIL, "absent")
    (tmp_path / "pairs.toml").write_text(text)
    build_site(made.db, tmp_path / "site", tmp_path / "pairs.toml")
    assert [p.name for p in (tmp_path / "site" / "pairs").iterdir()] == ["net-a--net-b.html"]


@pytest.mark.parametrize(
    ("p", "words"),
    [(None, "unknown"), (0.0, "< 0.001"), (0.00099, "< 0.001"), (0.001, "0.001"), (1.0, "1.000")],
)
def test_p_in_words(p, words):
    assert p_words(p) == words
