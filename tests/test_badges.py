"""Badges: the index's own numbers, no toy taken for a result, and sound XML whatever the text."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET

import pytest
from board_site import HOSTILE, MINI, kit_of, made_site

from harness.badge import draw_badge
from harness.records import Metric
from harness.store import open_store
from leaderboard.badges import badge_files, badge_name, score_words

SVG = "{http://www.w3.org/2000/svg}"
ODD = [
    HOSTILE,
    "a\x00b\x1f\x7f",
    "\ud800\udfff",
    "\u202eabc",
    "名前" * 40,
    "x" * 500,
    "",
    "\n\t",
    "]]>",
    "<!--",
    "é&amp;",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_site(tmp_path_factory.mktemp("badges"))


def words(svg: bytes | str) -> tuple[str, list[str]]:
    root = ET.fromstring(svg)
    return root.attrib["aria-label"], [t.text or "" for t in root.iter(f"{SVG}text")]


def test_one_badge_for_each_complete_cell_with_its_numbers(made):
    found = badge_files(kit_of(made.facts))
    connection = open_store(made.db)
    cells = connection.execute("SELECT encoder, task FROM leaderboard WHERE value IS NOT NULL").fetchall()
    ranks = connection.execute("SELECT encoder, task, rank_low, rank_high, num_ranked FROM ranks").fetchall()
    connection.close()
    assert set(found) == {badge_name(MINI, e, t) for e, t in cells} and len(found) == 6
    for encoder, task, low, high, of in ranks:
        label, drawn = words(found[badge_name(MINI, encoder, task)])
        assert f"rank {low if low == high else f'{low}–{high}'} of {of}" in label
        metric = made.facts.metrics[MINI, encoder, task]
        assert score_words(metric) in label and score_words(metric) in drawn[1]
    assert "rank" not in words(found[badge_name(MINI, "blind", cells[0][1])])[0]


def test_a_toy_says_so_and_a_rehearsal_has_none(made):
    assert all("mini demonstration" in words(b)[1][1] for b in badge_files(kit_of(made.facts)).values())
    real = dataclasses.replace(made.facts, suites={MINI: "main"})
    assert not any("mini demonstration" in words(b)[0] for b in badge_files(kit_of(real)).values())
    assert badge_files(kit_of(dataclasses.replace(made.facts, suites={MINI: "rehearsal"}))) == {}


def test_a_self_reported_row_says_so(made):
    key = next(k for k in made.facts.metrics if k[1] == "vit")
    metric = dataclasses.replace(made.facts.metrics[key], tier="self-reported")
    facts = dataclasses.replace(made.facts, metrics={**made.facts.metrics, key: metric})
    assert "self-reported" in words(badge_files(kit_of(facts))[badge_name(*key)])[0]


def test_what_would_mislead_is_said(made):
    keys = [k for k, m in made.facts.metrics.items() if k[1] == "vit" and m.value is not None]
    low = {
        k: dataclasses.replace(m, value=0.01, ci_low=0.0, ci_high=0.02, num_seeds=1) if k in keys else m
        for k, m in made.facts.metrics.items()
    }
    scores = {
        k: dataclasses.replace(t, scores=t.scores * 0.01) if k in keys else t
        for k, t in made.facts.scores.items()
    }
    label = words(
        badge_files(kit_of(dataclasses.replace(made.facts, metrics=low, scores=scores)))[badge_name(*keys[0])]
    )[0]
    assert "1 seed only" in label and "not above blind" in label


def test_a_second_protocol_has_badges_of_its_own(made):
    again = {
        ("two", e, t): dataclasses.replace(m, protocol="two") for (_, e, t), m in made.facts.metrics.items()
    }
    both = dataclasses.replace(
        made.facts, metrics={**made.facts.metrics, **again}, suites={MINI: "mini", "two": "main"}
    )
    found = badge_files(kit_of(both))
    key = next(k for k, m in made.facts.metrics.items() if m.value is not None)
    assert words(found[badge_name("two", *key[1:])])[1][1].startswith("two · ")
    assert "mini demonstration" in words(found[badge_name(*key)])[1][1]


def metric(value: float, low: float, high: float) -> Metric:
    return Metric(
        protocol="p", encoder="e", family="f", side="s", task="t", split="x", metric="m", value=value,
        ci_low=low, ci_high=high, num_seeds=3, num_expected=1, num_scored=1, num_unparsed=0, num_error=0,
        num_missing=0, tier="re-run",
    )  # fmt: skip


def test_an_interval_is_printed_as_it_is():
    assert score_words(metric(0.712, 0.708, 0.716)) == "71.2 ± 0.4"
    assert score_words(metric(0.712, 0.701, 0.719)) == "71.2 [70.1, 71.9]"
    assert score_words(metric(1.0, 1.0, 1.0)) == "100.0 [100.0, 100.0]"  # no spread is not "± 0.0"


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_text_makes_sound_xml_that_is_wide_enough(text):
    for left, right in ((text, "ok"), ("ok", text)):
        root = ET.fromstring(draw_badge(left, right, "#333333").encode("utf-8"))
        assert [e.tag.removeprefix(SVG) for e in root.iter()].count("text") == 2
        assert {e.tag.removeprefix(SVG) for e in root.iter()} == {"svg", "title", "rect", "g", "text"}
        end = 0
        for element in root.iter(f"{SVG}text"):
            assert all(c.isprintable() for c in element.text or "")
            assert int(element.attrib["x"]) >= end  # the fields do not overlap
            end = int(element.attrib["x"]) + int(element.attrib["textLength"])
        assert end < int(root.attrib["width"])


def test_room_for_the_widest_letters():
    def length(text: str) -> int:
        return int(
            next(ET.fromstring(draw_badge(text, "x", "#333333")).iter(f"{SVG}text")).attrib["textLength"]
        )

    # Advances of Verdana at 11 px, from its own tables: W 0.989 em, m 0.973, e 0.596, 7 0.636, i 0.274.
    for letter, em in {
        "W": 0.989,
        "m": 0.973,
        "e": 0.596,
        "7": 0.636,
        "i": 0.274,
        ".": 0.364,
        "[": 0.454,
    }.items():
        assert length(letter * 40) >= 40 * em * 11
