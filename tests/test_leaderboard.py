"""The site: every number is the index's, absence is said in words, nothing a stranger wrote is markup."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.bundle import count_scores, write_bundle
from harness.errors import ResourceError, UsageError
from harness.mini.members import WEIGHTS
from harness.pair_facts import PairFact
from harness.pairs import Pair
from harness.records import Answer, InputSpec, PretrainStage, Run, Score, Source, Submission
from harness.store import ingest, open_store
from harness.submission import read_submission
from harness.task import read_task
from leaderboard import charts, wording
from leaderboard.board import board, board_page
from leaderboard.build import build_site, render_site, write_site
from leaderboard.comparisons import Comparisons
from leaderboard.compose import cell, task_page
from leaderboard.doctor_words import DOCTOR_CHECKS
from leaderboard.facts import Agreement, Facts
from leaderboard.front_views import Home
from leaderboard.home import home_section
from leaderboard.index import _faults, read_facts
from leaderboard.pair_names import pair_href
from leaderboard.profiles import _inputs, _shipped
from leaderboard.sentences import answer, floors_missing_words, weak_words

HEX = "0123456789abcdef" * 4
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
PROBE, VQA, VIDEO = "eyechart_mini_probe", "eyechart_mini_vqa", "eyechart_mini_video"
NUM_SAMPLES = 120
# encoder -> share right on (probe, vqa, video); None: not run
SHARES: dict[str, tuple[float | None, ...]] = {
    "net-label": (0.95, 0.40, 0.25),
    "net-clip": (0.40, 0.90, 0.28),
    "net-words": (0.30, 0.88, None),
    "blind": (0.05, 0.30, 0.22),
    "shuffled": (0.05, 0.30, 0.22),
    "random": (0.10, 0.35, 0.24),
}
OBJECTIVES = {
    "net-label": "label-classification",
    "net-clip": "sigmoid-contrastive",
    "net-words": "caption-word-classification",
}
FLOORS = {
    "blind": ("blind", ""),
    "shuffled": ("shuffled-image", "net-clip"),
    "random": ("random-init", "net-label"),
}
PAIRS = """
[[pair]]
a = "net-clip"
b = "net-label"
held_equal = ["architecture", "images"]
differs = ["objective", "information"]
note = "Same network <b>same</b> pictures."

[[pair]]
a = "net-words"
b = "net-clip"
held_equal = ["architecture", "images", "information"]
differs = ["objective"]
note = "Same words."
"""


def submission(encoder: str) -> Submission:
    floor, base = FLOORS.get(encoder, (None, ""))
    return Submission(
        id=encoder,
        title=f"{encoder} {HOSTILE}" if encoder == "net-words" else encoder.replace("-", " ").title(),
        authors=(HOSTILE,),
        links=("https://example.org/a?b=1&c=2", "javascript:alert(3)", "http://x y", HOSTILE),
        license=HOSTILE,
        contamination="none known",
        source=Source(kind="floor" if floor else "local", name="resnet", revision="local", files=()),
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=()
        if floor
        else (PretrainStage(objective=OBJECTIVES[encoder], data=HOSTILE, images_seen=614400),),  # type: ignore[arg-type]
        architecture="ResNet, 1.9 M",
        floor=floor,  # type: ignore[arg-type]
        base=base,
        identity_digest=HEX,
    )


def write(root: Path, encoder: str, task: str, seed: int, share: float) -> None:
    rng = np.random.default_rng([seed, sum(map(ord, encoder + task))])
    scores = [
        Score(sample_id=f"{i:03}", cluster=f"c{i // 2}", score=float(rng.random() < share), status="scored")
        for i in range(NUM_SAMPLES)
    ]
    if (encoder, task, seed) == ("net-words", VQA, 1):
        scores[7] = Score(sample_id="007", cluster="c3", score=None, status="error")
    if (encoder, task) == ("net-label", VQA):
        scores[9] = Score(sample_id="009", cluster="c4", score=0.0, status="unparsed")
    answers = [
        Answer(sample_id=s.sample_id, prompt_hash="ab" * 8, answer=HOSTILE, status=said)  # type: ignore[arg-type]
        for s in scores
        for said in ("error" if s.score is None else "scored",)
    ]
    run = Run(
        submission=submission(encoder),
        protocol="mini",
        protocol_version=1,
        suite="mini",
        recipes={"probe": HEX},
        task=task,
        task_digest=HEX,
        dataset_digest=HEX,
        split="test",
        metric="exact_match",
        chance=0.0,
        seed=seed,
        engine="hf",
        dtype="float32",
        llm_revision=HEX,
        counts=count_scores(scores),
    )
    receipt = {"frozen": {"before": HEX, "after": HEX}, "note": HOSTILE}
    environment = {"stages_s": {"features": 1.5, "adapter": 90.0}, "hardware": {"cpu": HOSTILE}}
    write_bundle(root, run, answers, receipt, environment, scores=scores, scorer_digest=HEX)


ATTEMPTS = """schema = 1
[[attempt]]
encoder = "net-label"
checkpoints = 4
adapter_seeds = 9
runs = 81
declared_by = "A. Person"
date = "2026-11-28"
note = "Two were cut off."
"""
TOMBSTONES = f"""schema = 1
[[tombstone]]
protocol = "main"
encoder = "net-gone"
identity_digest = "{HEX}"
date = "2026-11-28"
reason = "trained on the test split"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for (encoder, shares), seed in itertools.product(SHARES.items(), range(3)):
            for task, share in zip((PROBE, VQA, VIDEO), shares, strict=True):
                if share is not None:
                    write(home / "results", encoder, task, seed, share)
        (home / "results" / "attempts.toml").write_text(ATTEMPTS)
        (home / "results" / "tombstones.toml").write_text(TOMBSTONES)
        ingest(home / "db.duckdb", home / "results")
        (home / "pairs.toml").write_text(PAIRS)
        report = build_site(home / "db.duckdb", home / "site", home / "pairs.toml")
    facts = read_facts(home / "db.duckdb", home / "pairs.toml", None)
    return SimpleNamespace(home=home, facts=facts, report=report, site=home / "site")


@pytest.fixture
def compared(made: SimpleNamespace) -> Comparisons:
    return Comparisons(made.facts, "mini")


def changed(facts: Facts, **changes: Any) -> Comparisons:
    return Comparisons(dataclasses.replace(facts, **changes), "mini")


def start_page(compared: Comparisons) -> Home:
    return home_section(compared, board(compared))


POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'"
)
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements, ids and text of a page, with a check that tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.stack, self.stack
        self.ids = [a["id"] for _, a in self.elements if "id" in a]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, tag

    def handle_data(self, data):
        self.words += data


def pages(site: Path) -> dict[str, Page]:
    return {p.relative_to(site).as_posix(): Page(p.read_text()) for p in sorted(site.rglob("*.html"))}


def test_every_page_is_there(made):
    names = set(pages(made.site))
    assert {"index.html", "methods.html", "404.html"} <= names
    assert {f"encoders/{e}.html" for e in SHARES} <= names
    assert {f"tasks/{t}.html" for t in (PROBE, VQA, VIDEO)} <= names
    assert made.report.pages == len(names) and made.report.index == made.site / "index.html"
    files = [p for p in made.site.rglob("*") if p.is_file()]
    assert made.report.bytes == sum(p.stat().st_size for p in files)


def test_same_input_same_bytes(made, tmp_path):
    again = build_site(made.home / "db.duckdb", tmp_path / "elsewhere", made.home / "pairs.toml")
    assert again.bytes == made.report.bytes
    for path in made.site.rglob("*"):
        if path.is_file():
            copy = tmp_path / "elsewhere" / path.relative_to(made.site)
            assert copy.read_bytes() == path.read_bytes(), path
            assert str(made.home).encode() not in path.read_bytes()


def test_nothing_active_and_nothing_foreign(made):
    for name, page in pages(made.site).items():
        policy = [a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == [POLICY]
        for tag, attributes in page.elements:
            assert not [a for a in attributes if a.startswith("on") or a == "style"], (name, tag, attributes)
            assert tag not in {"style", "iframe", "object", "embed", "base", "form", "img"}, (name, tag)
            if tag == "script":
                source = attributes["src"] or ""
                assert re.fullmatch(r"(\.\./)*(static|data)/[a-z]+\.js", source), (name, attributes)
            for key in ("src", "href", "xlink:href"):
                link = attributes.get(key) or ""
                outside = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//", link)
                # A link out is followed only when a reader asks for it, so <a> alone may hold one.
                assert not outside or (tag == "a" and link.startswith(("http://", "https://"))), (name, link)
        raw = (made.site / name).read_text()
        assert "<script>" not in raw and "<img" not in raw and "<b>same" not in raw
        assert "49" not in re.findall(r"alert\(2\)[^<]{0,40}", raw)


def test_hostile_text_is_shown_as_text(made):
    page = pages(made.site)["encoders/net-words.html"]
    assert HOSTILE in page.words
    hrefs = {a.get("href") for t, a in page.elements if t == "a" and a.get("rel")}
    assert hrefs == {"https://example.org/a?b=1&c=2"}


def test_links_and_anchors_resolve(made):
    found = pages(made.site)
    for name, page in found.items():
        assert len(page.ids) == len(set(page.ids)), name
        for tag, attributes in page.elements:
            for key in ("href", "src"):
                link = attributes.get(key)
                if not link or link.startswith("http"):
                    continue
                path, _, anchor = link.partition("#")
                target = (made.site / name).parent / path if path else made.site / name
                assert target.is_file(), (name, link)
                if anchor:
                    assert anchor in found[target.resolve().relative_to(made.site.resolve()).as_posix()].ids
            for label in (attributes.get("aria-labelledby") or "").split():
                assert label in page.ids, (name, tag, label)


def test_board_prints_the_view(made):
    connection = open_store(made.home / "db.duckdb")
    rows = connection.execute(
        "SELECT encoder, task, value, ci_low, ci_high FROM leaderboard WHERE value IS NOT NULL"
    ).fetchall()
    connection.close()
    page = (made.site / "boards/mini.html").read_text()
    for encoder, task, value, low, high in rows:
        assert f'data-value="{value:.6g}"' in page
        shown = f"[{wording.range_of(low, high)}]"
        assert shown in page
        assert shown in (made.site / f"tasks/{task}.html").read_text()
        assert shown in (made.site / f"encoders/{encoder}.html").read_text()


def test_absence_is_said_in_words(made, compared):
    assert cell(compared, "net-words", VIDEO, against="blind").state == "not-run"
    half = cell(compared, "net-words", VQA, against="blind")
    assert (half.state, half.span, half.lift, half.num_error) == ("incomplete", None, None, 1)
    words = pages(made.site)["boards/mini.html"].words
    assert "not run" in words
    assert f"partial ({3 * NUM_SAMPLES - 1} of {3 * NUM_SAMPLES})" in words
    assert f"3 of {3 * NUM_SAMPLES} unparsed" in words
    task = pages(made.site)[f"tasks/{VIDEO}.html"].words
    assert "not run" in task


def test_rows_are_served_sorted_with_absent_last(compared):
    table = board(compared)
    assert table.sorted_by == VQA
    assert [r.name.id for r in table.encoders] == ["net-clip", "net-label", "net-words"]
    assert {r.name.id for r in table.floors} == set(FLOORS)


def test_sorted_column_is_announced(made):
    for name in ("index.html", "boards/mini.html"):
        page = pages(made.site)[name]
        assert [a["aria-sort"] for t, a in page.elements if "aria-sort" in a] == ["descending"]
    # Without script there is nothing to press: sort.js makes the buttons, and the filters are hidden.
    filters = next(a for t, a in page.elements if a.get("id") == "filters")
    assert "hidden" in filters
    assert [a["id"] for t, a in page.elements if t == "button"] == ["f-reset"]


def test_lift_is_the_paired_difference(made, compared):
    found = cell(compared, "net-clip", VQA, against="blind")
    mine, blind = (made.facts.scores["mini", e, VQA].scores for e in ("net-clip", "blind"))
    assert found.lift is not None
    assert found.lift.value == pytest.approx(mine.mean() - blind.mean())
    assert found.lift.low < found.lift.value < found.lift.high


def test_a_weak_encoder_is_marked_and_listed(made, compared):
    weak = cell(compared, "net-label", VIDEO, against="blind")
    assert {m.kind for m in weak.not_beaten} == {"blind", "shuffled image", "random init"}
    assert not cell(compared, "net-clip", VQA, against="blind").not_beaten
    sentences = weak_words(compared)
    assert any(
        s.startswith("Net Label on Mini video questions: not above the Blind floor (") for s in sentences
    )
    assert not any("Net Clip on Mini VQA" in s for s in sentences)
    words = pages(made.site)["boards/mini.html"].words
    assert "not above blind, shuffled image, random init" in words


def test_own_floor_before_kin_before_any(made, compared):
    assert compared.own_floors("net-clip", "shuffled-image", VQA) == ("shuffled",)
    assert compared.own_floors("net-label", "shuffled-image", VQA) == ("shuffled",)
    facts = made.facts
    other = dataclasses.replace(
        facts.submissions["random"], id="random-clip", base="net-clip", title="Random of clip"
    )
    metrics = dict(facts.metrics)
    metrics["mini", "random-clip", VQA] = dataclasses.replace(
        facts.metrics["mini", "random", VQA], encoder="random-clip"
    )
    both = changed(facts, submissions={**facts.submissions, "random-clip": other}, metrics=metrics)
    assert both.own_floors("net-clip", "random-init", VQA) == ("random-clip",)
    assert both.own_floors("net-label", "random-init", VQA) == ("random",)
    assert both.own_floors("net-words", "random-init", VQA) == ("random", "random-clip")


def test_missing_floor_is_said(made):
    facts = made.facts
    without = {k: v for k, v in facts.metrics.items() if k[1] != "shuffled" or k[2] != VQA}
    found = floors_missing_words(changed(facts, metrics=without))
    assert found == ("Mini VQA: no complete shuffled image floor, so nothing is compared with it.",)
    assert floors_missing_words(Comparisons(facts, "mini")) == ()


def test_dead_task(made, compared):
    assert compared.dead(VIDEO) is not None
    assert compared.dead(VQA) is None
    page = task_page(made.facts, [compared], VIDEO)
    assert page.sections[0].dead and "no encoder is shown to see here" in page.sections[0].dead_words
    assert "Dead task." in pages(made.site)[f"tasks/{VIDEO}.html"].words
    assert "Dead task." not in pages(made.site)[f"tasks/{VQA}.html"].words


def test_answer_follows_from_the_data(made, compared):
    headline, more = answer(compared)
    assert headline.startswith(
        "Where the supervision also differs in information, the encoder trained to classify labels is "
        "ahead of its contrastive twin on Mini linear probe by"
    )
    assert "but behind it on Mini VQA by" in headline
    assert headline.endswith("(one pair of architecture declared equal; 95 % intervals).")
    found = [compared.difference("net-label", "net-clip", t) for t in (PROBE, VQA)]
    for low, high in ((found[0].low, found[0].high), (-found[1].high, -found[1].low)):
        assert f"by {wording.per_cent(low)} to {wording.per_cent(high)} points" in headline
    assert len(headline.split()) < 50
    assert "repeated pretraining" in more[-1]
    assert headline in pages(made.site)["index.html"].words
    # Exchange the two arms' scores: the sentence turns round.
    swap = {"net-label": "net-clip", "net-clip": "net-label"}
    scores = {(p, swap.get(e, e), t): v for (p, e, t), v in made.facts.scores.items()}
    turned, _ = answer(changed(made.facts, scores=scores))
    assert "behind its contrastive twin on Mini linear probe" in turned
    assert "but ahead of it on Mini VQA" in turned


def test_a_pair_that_does_not_count_is_not_in_the_answer(made):
    facts = made.facts
    wrong = {("net-clip", "net-label"): (PairFact("architecture", "equal", "differs"),)}
    for found in (
        changed(facts, pair_facts=wrong),
        changed(
            facts,
            metrics={
                k: dataclasses.replace(m, tier="self-reported") if k[1] == "net-label" else m
                for k, m in facts.metrics.items()
            },
        ),
    ):
        assert answer(found)[0].startswith("The question is open here")
        home = start_page(found)
        assert home.pairs is None and home.num_pairs == 1
        (aside,) = home.others
        assert aside.note.endswith("not counted and not pooled")


def test_confirmed_equality_is_said_as_a_fact(made):
    sure = {("net-clip", "net-label"): (PairFact("architecture", "equal", "equal"),)}
    assert "(one pair of equal architecture;" in answer(changed(made.facts, pair_facts=sure))[0]


@pytest.mark.parametrize(
    ("equal", "differs", "records", "begins"),
    [
        (("information",), (), "equal", "Where the supervision holds equal information, the encoder"),
        (("information",), (), "unknown", "Where the supervision is declared to hold equal information, the"),
        ((), ("information",), "unknown", "Where the supervision also differs in information, the encoder"),
        ((), (), "unknown", "The encoder trained to classify labels is"),
    ],
)
def test_the_answer_begins_with_what_is_known_of_information(made, equal, differs, records, begins):
    pair = dataclasses.replace(made.facts.pairs[0], held_equal=equal, differs=differs)
    found = {(pair.a, pair.b): (PairFact("information", "equal", records),)}
    assert answer(changed(made.facts, pairs=(pair,), pair_facts=found))[0].startswith(begins)


def test_one_seed_is_said_with_the_answer(made):
    facts = made.facts
    one = {k: dataclasses.replace(t, scores=t.scores[:1]) for k, t in facts.scores.items()}
    _, more = answer(changed(facts, scores=one, seed_pools={}))
    assert more[-1].endswith("so they cover samples only.")
    assert "the seeds of probe and adapter" in answer(changed(facts))[1][-1]


def test_a_floor_that_is_not_complete_gives_way_to_another(made):
    facts = made.facts
    half = dataclasses.replace(facts.metrics["mini", "shuffled", VQA], value=None, ci_low=None, ci_high=None)
    other = dataclasses.replace(facts.submissions["shuffled"], id="shuffled-2", base="net-words")
    found = changed(
        facts,
        submissions={**facts.submissions, "shuffled-2": other},
        metrics={
            **facts.metrics,
            ("mini", "shuffled", VQA): half,
            ("mini", "shuffled-2", VQA): dataclasses.replace(
                facts.metrics["mini", "shuffled", VQA], encoder="shuffled-2"
            ),
        },
    )
    assert found.own_floors("net-clip", "shuffled-image", VQA) == ("shuffled-2",)
    assert found.own_floors("net-clip", "shuffled-image", PROBE) == ("shuffled",)


def test_answer_without_pairs_is_open(made):
    headline, more = answer(changed(made.facts, pairs=()))
    assert headline.startswith("The question is open here: three encoders measured") and more == ()
    assert render_site(dataclasses.replace(made.facts, pairs=()))


def test_several_pairs_are_counted(made):
    facts = made.facts
    submissions = {
        **facts.submissions,
        "net-label-2": dataclasses.replace(submission("net-label"), id="net-label-2"),
    }
    scores, metrics = dict(facts.scores), dict(facts.metrics)
    for task, source in ((PROBE, "net-label"), (VQA, "net-clip")):
        scores["mini", "net-label-2", task] = facts.scores["mini", source, task]
        metrics["mini", "net-label-2", task] = dataclasses.replace(
            facts.metrics["mini", source, task], encoder="net-label-2"
        )
    second = Pair(
        a="net-label-2", b="net-clip", held_equal=("architecture",), differs=("objective",), note="x"
    )
    headline, _ = answer(
        changed(
            facts, submissions=submissions, scores=scores, metrics=metrics, pairs=(facts.pairs[0], second)
        )
    )
    # The second pair says nothing of information: it is a sentence of its own.
    assert headline.startswith("The encoder trained to classify labels is ahead of its contrastive twin on")
    pairs = tuple(dataclasses.replace(p, differs=("objective",)) for p in (facts.pairs[0], second))
    headline, _ = answer(changed(facts, submissions=submissions, scores=scores, metrics=metrics, pairs=pairs))
    assert "ahead of its contrastive twin on Mini linear probe by" in headline
    assert "; on Mini VQA it is behind in one and undecided in one at \N{MINUS SIGN}" in headline
    assert headline.endswith(
        "(two pairs of architecture declared equal, one independent; all 95 % intervals)."
    )


def test_pairs_of_the_start_page(made, compared):
    home = start_page(compared)
    # Declared as clip against label: turned so that the classification arm comes first.
    assert home.num_pairs == 2 and home.pairs is not None
    (point,) = home.pairs.rows
    assert (point.label, home.pairs.num_left_out) == ("Net: Label − Clip", 1)
    assert [k.words for k in home.pairs.kinds] == ["information differs, as declared"]
    assert point.href == "pairs/net-clip--net-label.html"
    left, right = (made.facts.scores["mini", e, PROBE].scores.mean() for e in ("net-label", "net-clip"))
    assert point.probe.value == pytest.approx(left - right)
    assert home.pairs.chart.zero_x == home.pairs.chart.zero_y.replace("46.00", "53.50")
    probe, _, video = home.forests
    assert probe.tally == "classification ahead in one and contrastive ahead in one"
    assert [r.difference.verdict for r in probe.rows] == ["classification ahead", "contrastive ahead"]
    absent = video.rows[1].difference
    assert absent.span is None and absent.verdict.startswith("no number: net-words")
    assert absent.verdict.endswith("not run") and video.tally.endswith("without a number in one")
    assert home.pooled_words == (
        "Two pairs, one of them independent (no encoder in common): fewer than five independent pairs, "
        "so no pooled effect is given."
    )


def test_what_was_held_equal_is_counted(made):
    found = {a.aspect: a for a in start_page(Comparisons(made.facts, "mini")).aspects}
    assert (found["images"].num_equal, found["images"].num_confirmed) == (2, 2)
    # No run of this index says how large its network is, and nothing tells what a caption holds.
    assert found["architecture"].num_unknown == found["information"].num_unknown == 2
    assert (found["objective"].num_differs, found["objective"].num_confirmed) == (2, 2)


def test_rank_flips_are_named(made):
    found = Agreement(
        protocol="mini",
        probe=PROBE,
        task=VQA,
        num_encoders=3,
        correlation=-0.5,
        low=-0.9,
        high=0.4,
        flips=(("net-label", "net-clip"), ("net-label", "net-words")),
    )
    other = dataclasses.replace(found, task=VIDEO, correlation=None, low=None, high=None, flips=())
    views = start_page(changed(made.facts, agreements=(other, found))).agreements
    assert [v.num_flips for v in views] == [2, 0]
    assert views[0].words == "rank correlation −0.50 [−0.90, +0.40] over 3 encoders"
    assert views[1].words.startswith("no rank correlation")
    assert {v.probe_title for v in views} == {"Mini linear probe"}
    (flipped,) = views[0].flipped
    assert (flipped.name.id, [o.id for o in flipped.ahead_on_task]) == (
        "net-label",
        ["net-clip", "net-words"],
    )


def test_every_probe_is_held_against_the_tasks(made):
    """An index with two probes: the second one's correlations stand on the page, after the first's."""
    found = Agreement(
        protocol="mini", probe=PROBE, task=VQA, num_encoders=3, correlation=0.5, low=-0.4, high=0.9, flips=()
    )
    other = dataclasses.replace(found, probe=VIDEO, correlation=0.1)
    facts = dataclasses.replace(made.facts, agreements=(other, found))
    views = start_page(Comparisons(facts, "mini")).agreements
    assert [(v.probe_title, v.num_held) for v in views] == [
        ("Mini linear probe", 0),
        ("Mini video questions", 2),
    ]
    words = " ".join(Page(render_site(facts)["index.html"].decode()).words.split())
    assert "Mini video questions and Mini VQA: rank correlation +0.10" in words
    assert "2 encoders held by a floor on this probe" in words


def test_what_holds_an_arm_stands_where_its_number_stands(made, compared):
    home = start_page(compared)
    _, _, video = home.forests
    assert video.rows[0].difference.held == "both held by a floor"
    assert video.held == "held by a floor: both arms in one" and video.dead
    site = pages(made.site)
    for name in ("pairs/net-clip--net-label.html", "encoders/net-label.html"):
        words = " ".join(site[name].words.split())
        assert "Mini video questions is a dead task. The best encoder" in words, name
        assert "Net Label on Mini video questions: not above the Blind floor" in words, name
    assert "both held by a floor" in site["pairs/net-clip--net-label.html"].words
    assert "not part of the rule" not in site["encoders/net-label.html"].words, "no pixel patches were run"
    assert "marks" in site["methods.html"].ids


def test_every_pair_is_linked_from_the_start_page(made):
    page = pages(made.site)["index.html"]
    hrefs = {a.get("href") for t, a in page.elements if t == "a"}
    assert {pair_href(p.a, p.b) for p in made.facts.pairs} <= hrefs
    assert "index.html#pairs" in hrefs and "pairs" in page.ids
    without = Page(render_site(dataclasses.replace(made.facts, pairs=()))["index.html"].decode())
    assert "pairs" in without.ids and "No pair is declared and measured" in without.words


def test_board_rows_say_cost_tier_and_budget(made):
    facts = made.facts
    table = changed(facts, under_budget=frozenset({"net-clip"}))
    page = board_page(table, board(table))
    rows = {r.name.id: r for r in page.board.encoders}
    assert [r.name.id for r in page.board.encoders if r.name.flags] == ["net-clip"]
    assert rows["net-clip"].name.flags == ("under the token budget",)
    # Nine runs that report the same 1.5 s and 90 s: they share the stages, so each counts once.
    assert rows["net-label"].cost_s == 91.5
    assert {r.tier for r in rows.values()} == {"re-run"} and page.board.tiers == ("re-run",)
    # Of three rows one has every task with every seed: no two to compare.
    assert page.trade is None or len(page.trade.rows) > 1


def test_a_long_board_says_what_it_leaves_out(compared, monkeypatch):
    monkeypatch.setattr("leaderboard.board.ROWS_UP_TO", 2)
    monkeypatch.setattr("leaderboard.compose.FOREST_UP_TO", 1)
    page = board_page(compared, board(compared))
    assert ([r.name.id for r in page.board.encoders], page.left_out) == (["net-clip", "net-label"], 1)
    section = task_page(compared.facts, [compared], VQA).sections[0]
    assert (len(section.encoders), section.left_out, len(section.floors)) == (1, 2, 3)
    site = render_site(compared.facts)
    assert b"1 more are in the" in site["boards/mini.html"]
    assert b"2 more are on the" in site[f"tasks/{VQA}.html"]


def test_places_on_the_board_are_those_of_the_index(made, compared):
    connection = open_store(made.home / "db.duckdb")
    ranks = connection.execute("SELECT encoder, task, rank_low, rank_high FROM ranks").fetchall()
    connection.close()
    shown = {
        (r.name.id, c.task): (c.place.low, c.place.high)
        for r in board(compared).encoders
        for c in r.cells
        if c.place
    }
    assert shown == {(encoder, task): (low, high) for encoder, task, low, high in ranks} and shown


def test_toy_suite_is_named_everywhere(made):
    for page in pages(made.site).values():
        assert "not an answer about real encoders" in " ".join(page.words.split())


def test_a_rehearsal_is_no_result_and_says_so_everywhere(made):
    facts = dataclasses.replace(made.facts, suites={"mini": "rehearsal"})
    site = {name: data.decode() for name, data in render_site(facts).items() if name.endswith(".html")}
    assert all("No number of it says anything about an encoder." in page for page in site.values())
    assert "Nothing is measured here" in site["index.html"]
    assert answer(Comparisons(made.facts, "mini"))[0] not in site["index.html"]


def test_a_real_suite_comes_first_and_the_toy_stays_named(made):
    facts = made.facts
    both = dataclasses.replace(
        facts,
        suites={"main": "main", **facts.suites},
        metrics=facts.metrics
        | {("main", e, t): dataclasses.replace(m, protocol="main") for (_, e, t), m in facts.metrics.items()},
    )
    words = " ".join(Page(render_site(both)["index.html"].decode()).words.split())
    assert words.index("Protocol main") < words.index("Protocol mini, suite mini")
    assert "Sections marked mini come from" in words


def test_empty_index(made):
    facts = dataclasses.replace(
        made.facts,
        metrics={},
        submissions={},
        runs=(),
        scores={},
        seed_pools={},
        chances={},
        tasks={},
        suites={},
        pairs=(),
    )
    assert "Nothing has been measured yet" in render_site(facts)["index.html"].decode()


def test_encoder_page_has_seeds_costs_and_receipt(made):
    page = pages(made.site)["encoders/net-label.html"]
    words = " ".join(page.words.split())
    for seed in made.facts.runs:
        if seed.encoder == "net-label":
            assert seed.run_key[:16] in words
    assert "adapter1 min 30 s1 min 30 s9" in words  # the median of nine equal runs
    assert "shared by these runs. It is not to be added up" in words
    assert "re-run" in words
    assert "Pairs with this encoder" in words
    assert "Receipt 1 of 1" in words and "frozen / before" in words and HEX in words
    assert "614,400" in words and "label-classification" in words


def test_inputs_of_a_receipt_name_the_task_where_they_differ(made):
    run = dataclasses.replace(made.facts.runs[0], task="t", inputs={"dataset": "a", "dtype": "f", "LLM": ""})
    other = dataclasses.replace(run, task="u", inputs={**run.inputs, "dataset": "b"})
    again = dataclasses.replace(run, seed=run.seed + 1)
    assert [(f.label, f.value) for f in _inputs((run, other, again))] == [
        ("input: dataset of t", "a"),
        ("input: dataset of u", "b"),
        ("input: dtype", "f"),
    ]


def test_margins_over_floors_are_those_of_the_query(made):
    sql = "SELECT encoder, task, floor, difference, ci_low, ci_high, beaten FROM floor_differences"
    connection = open_store(made.home / "db.duckdb")
    rows = connection.execute(sql).fetchall()
    connection.close()
    assert len(rows) >= 12
    for encoder, task, floor, value, low, high, beaten in rows:
        page = (made.site / "encoders" / f"{encoder}.html").read_text(encoding="utf-8")
        body = page[page.index("Against each floor") :]
        title = read_task(task).title
        block = next(b for b in body.split("<tbody>")[1:] if f">{title}</th>" in b).split("</tbody>")[0]
        (line,) = [line for line in block.split("<tr>") if f"encoders/{floor}.html" in line]
        ends = wording.points_range(max(low, -1.0), min(high, 1.0))
        assert f">{wording.points(value)}</span>" in line and f"[{ends}]" in line, (encoder, task, floor)
        assert ("▼" not in line) == beaten


def test_encoder_page_tells_what_was_tried_before(made):
    found = pages(made.site)
    told = {name for name in found if name.startswith("encoders/") and "Tried before" in found[name].words}
    assert told == {f"encoders/{e}.html" for e, s in made.facts.submissions.items() if not s.floor}
    words = " ".join(found["encoders/net-label.html"].words.split())
    assert (
        "4 checkpoints, 9 adapter seeds, 81 runs, these included; declared by A. Person, 2026-11-28. Two"
        in words
    )
    assert "Tried beforenot declared" in found["encoders/net-words.html"].words
    withdrawn = " ".join(found["changes.html"].words.split())
    assert "net-gone" in withdrawn and "trained on the test split" in withdrawn


def test_what_the_doctor_found_stands_with_the_encoder(made):
    def page(**changes: Any) -> str:
        runs = tuple(
            dataclasses.replace(run, **changes) if run.encoder == "net-label" else run
            for run in made.facts.runs
        )
        facts = dataclasses.replace(made.facts, runs=runs, faults=_faults(runs))
        files = render_site(facts)
        found = " ".join(Page(files["encoders/net-label.html"].decode()).words.split())
        flag = "doctor: normalisation, resolution"
        assert (flag in files["boards/mini.html"].decode()) == (flag in found) == bool(facts.faults)
        return found

    assert "No report was kept with 9 runs." in page()
    assert "Sound: nothing wrong was found before 9 runs." in page(
        receipt={"doctor": {"verdict": "sound", "findings": []}}
    )
    assert "nothing wrong was found on 2026-11-28, after 9 runs." in page(
        environment={"doctor": {"verdict": "sound", "findings": [], "examined": "2026-11-28"}}
    )
    faults = {"verdict": "findings", "findings": ["resolution", "normalisation"]}
    said = page(receipt={"doctor": faults})
    assert "Found before 9 runs: resolution (not so: the manifest's side is" in said
    assert "; normalisation (not so: " in said and "Measured all the same." in said
    assert "What it looks for, by the code of a finding" in said
    found = pages(made.site)
    floors = [found[f"encoders/{e}.html"] for e, s in made.facts.submissions.items() if s.floor]
    assert floors and all("No report was kept" not in page.words for page in floors)


def test_every_finding_of_the_doctor_has_words():
    source = "".join((WEIGHTS.parent.parent / name).read_text() for name in ("doctor.py", "doctor_checks.py"))
    lines = re.findall(r"code=(.*),$", source, re.MULTILINE)
    assert {code for line in lines for code in re.findall(r'"([a-z-]+)"', line)} == set(DOCTOR_CHECKS)


def test_a_zoo_encoder_is_measured_again_from_the_repository(made):
    sub = read_submission(WEIGHTS / "mini-pvt-label-s0.toml")
    assert _shipped(sub) == "harness/mini/weights/mini-pvt-label-s0.toml"
    other = dataclasses.replace(sub, source=dataclasses.replace(sub.source, name="resnet"))
    assert _shipped(other) == "" and _shipped(dataclasses.replace(sub, id="../x")) == ""
    words = " ".join(pages(made.site)["encoders/net-words.html"].words.split())
    # Its manifest names no file, so nothing is said of any; one that does, and is not ours, says who has it.
    assert "Save the manifest as submission.toml." in words
    facts = made.facts
    stray = dataclasses.replace(sub.source, name="elsewhere")
    named = dataclasses.replace(facts.submissions["net-words"], source=stray)
    page = render_site(dataclasses.replace(facts, submissions={**facts.submissions, "net-words": named}))[
        "encoders/net-words.html"
    ]
    assert b"This site does not have the files: whoever submitted it has." in page


def test_encoder_page_tells_how_to_measure_again(made, tmp_path):
    words = pages(made.site)["encoders/net-words.html"].words
    assert "eyechart run submission.toml --protocol mini --engine hf" in words
    sub = made.facts.submissions["net-words"]
    manifest = words[words.index("schema = 1") :]
    (tmp_path / "submission.toml").write_text(manifest[: manifest.index('locked = "none"\n') + 17])
    again = tomllib.loads((tmp_path / "submission.toml").read_text())
    assert (again["id"], again["title"], again["source"]["kind"]) == (sub.id, sub.title, "local")


def test_task_page_states_prompt_and_scorer(made):
    words = pages(made.site)[f"tasks/{VQA}.html"].words
    assert "⟨question⟩\nAnswer the question using a single word or phrase." in words
    assert "lmms_eval.tasks.vqav2.utils.vqav2_process_results_val" in words
    assert "a probe is not asked" in pages(made.site)[f"tasks/{PROBE}.html"].words


def test_a_folder_that_is_no_site_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds something that is no site"):
        write_site({"index.html": b"x"}, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_swap_that_fails_leaves_the_old_site(tmp_path, monkeypatch):
    write_site({"index.html": b"1"}, tmp_path / "s")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.startswith(".site-") and not self.name.endswith("-old"):
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(ResourceError, match="cannot replace the site"):
        write_site({"index.html": b"2"}, tmp_path / "s")
    assert (tmp_path / "s" / "index.html").read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_link_to_a_folder_keeps_leading_there(tmp_path):
    write_site({"index.html": b"1"}, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_site({"index.html": b"2"}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "index.html").read_bytes() == b"2"


def test_an_old_site_is_replaced_whole(tmp_path):
    write_site({"index.html": b"1", "old.html": b"1"}, tmp_path / "s")
    report = write_site({"index.html": b"22"}, tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [".eyechart-site", "index.html"]
    assert (report.pages, report.bytes) == (1, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_what_did_not_change_is_taken_over(tmp_path):
    write_site({"index.html": b"1", "a/same.html": b"1"}, tmp_path / "s")
    old = (tmp_path / "s" / "a" / "same.html").stat()
    report = write_site({"index.html": b"2", "a/same.html": b"1"}, tmp_path / "s")
    new = (tmp_path / "s" / "a" / "same.html").stat()
    assert (new.st_mtime_ns, new.st_ino, new.st_nlink) == (old.st_mtime_ns, old.st_ino, 1)
    assert (report.new, report.changed, report.removed) == ((), ("index.html",), ())


def test_scales():
    scale = charts.score_scale()
    assert (scale.at(0), scale.at(1), scale.at(2), scale.at(-1)) == ("1.50%", "98.50%", "98.50%", "1.50%")
    difference = charts.difference_scale([-0.31, 0.02])
    assert (difference.low, difference.high, difference.at(0)) == (-0.4, 0.4, "50.00%")
    assert [t.label for t in charts.ticks(difference, signed=True)] == ["−40", "−20", "0", "+20", "+40"]
    assert charts.difference_scale([]).high > 0


def test_shapes_tell_sides_apart():
    assert len(set(charts.SHAPE_OF_SIDE.values())) == len(charts.SHAPE_OF_SIDE)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://example.org/x", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        ("data:text/html,x", False),
        ("//example.org", False),
        ("https://", False),
        ("https://exa\nmple.org", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_only_plain_web_addresses_become_links(text, kept):
    assert wording.web_link(text) == (text if kept else "")


def test_page_names_cannot_leave_the_folder():
    assert wording.page_name("resnet-label") == "resnet-label.html"
    for name in ("../../etc/passwd", "a/b", "a..b", "", ".hidden", "A b", "x" * 200):
        assert re.fullmatch(r"x-[0-9a-f]{16}\.html", wording.page_name(name))


def test_numbers_in_words():
    assert wording.per_cent(0.96309) == "96.3"
    assert wording.per_cent(-0.0001) == "0.0"
    assert (wording.points(0.694), wording.points(-0.02), wording.points(-0.0001)) == ("+69.4", "−2.0", "0.0")
    assert wording.range_of(0.951, 1.0) == "95.1–100.0"
    assert (wording.seconds(4.25), wording.seconds(200), wording.seconds(3900)) == (
        "4.2 s",
        "3 min 20 s",
        "1 h 5 min",
    )
    assert wording.join_words(["a", "b", "c"]) == "a, b and c"
    assert (wording.count_of(1, "seed"), wording.count_of(3, "seed")) == ("1 seed", "3 seeds")
