"""The published shelf: what the files say is what the page prints; what nobody has read is not."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.pair_facts import PairFact
from harness.pairs import Pair
from harness.records import SIDE_OF_OBJECTIVE, InputSpec, Metric, PretrainStage, Source, Submission
from harness.task import known_tasks, read_task
from harness.variance import SeedPool
from leaderboard.comparisons import Comparisons
from leaderboard.facts import Facts, ScoreTable
from leaderboard.kit import Kit, environment
from leaderboard.profiles import site_frame
from leaderboard.shelf import PUBLISHED, read_paper, read_shelf
from leaderboard.shelf_page import our_sides, pair_view, shelf_pages, signed

FILES = sorted(PUBLISHED.glob("*.toml"))
TEXTVQA = "eyechart_textvqa_val"
PAPER = """
title = "A title"
authors = "Person et al."
year = 2024
venue = "Somewhere"
arxiv = "2401.00001"
measured_by = "authors"
direction = "Some direction."
differs = ["All of it."]

[[table]]
title = "T"
source = "Its table"
verified = "seen"
uncertainty = "None given."

[[table.column]]
name = "textvqa"
task = "TextVQA"
unit = "%"
metric = "VQA accuracy"
ours = ["eyechart_textvqa_val"]

[[table.column]]
name = "ocr"
task = "OCR"
unit = "of 1000"
metric = "score"

[[table.row]]
name = "label"
encoder = "Label ViT"
objective = "label-classification"
side = "classification"
resolution = "224"
values = {textvqa = 12.30, ocr = 40}

[[table.row]]
name = "clip"
encoder = "CLIP ViT"
objective = "softmax-contrastive"
side = "contrastive"
resolution = "1333×800"
values = {textvqa = 36.60}

[[table.pair]]
classification = "label"
contrastive = "clip"
note = "Nothing is equal."
"""


def submission(encoder: str, objective: str) -> Submission:
    return Submission(
        id=encoder,
        title=encoder.title(),
        authors=(),
        links=(),
        license="x",
        contamination="none known",
        source=Source(kind="local", name=encoder, revision="local", files=()),
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=(PretrainStage(objective=objective, data="x", images_seen=1),),  # type: ignore[arg-type]
    )


def our_facts(suite: str = "main", label: float = 0.2, clip: float = 0.6, **changes: Any) -> Facts:
    """Two encoders on TextVQA, three seeds of 400 questions, right in the share given."""
    shares = {"label": label, "clip": clip}
    rng = np.random.default_rng(7)
    clusters = np.array([f"c{i // 2}" for i in range(400)])
    ids = tuple(f"{i:03}" for i in range(400))
    scores = {
        ("p", e, TEXTVQA): ScoreTable(
            sample_ids=ids, clusters=clusters, scores=(rng.random((3, 400)) < share).astype(float)
        )
        for e, share in shares.items()
    }
    metrics = {
        key: Metric(
            protocol="p", encoder=key[1], family="x", side="other", task=TEXTVQA, split="val", metric="m",
            value=float(t.scores.mean()), ci_low=0.0, ci_high=1.0, num_seeds=3, num_expected=1200,
            num_scored=1200, num_unparsed=0, num_error=0, num_missing=0, tier="re-run",
        )
        for key, t in scores.items()
    }  # fmt: skip
    facts = Facts(
        metrics=metrics,
        submissions={
            "label": submission("label", "label-classification"),
            "clip": submission("clip", "softmax-contrastive"),
        },
        runs=(),
        scores=scores,
        seed_pools={("p", TEXTVQA): SeedPool(0.0, 4.0, 6)},
        chances={("p", TEXTVQA): 0.0},
        tasks={},
        suites={"p": suite},
        protocols={},
        pairs=(Pair(a="clip", b="label", held_equal=("tokens",), differs=("objective",), note="n"),),
        set_aside=(),
        index_digest="0" * 64,
    )
    return dataclasses.replace(facts, **changes)


def page_of(facts: Facts, folder=PUBLISHED) -> str:
    compared = [Comparisons(facts, protocol) for protocol in facts.suites]
    kit = Kit(facts=facts, compared=compared, site=site_frame(facts, compared), environment=environment())
    return shelf_pages(kit, folder)["published.html"].decode()


class Tables(HTMLParser):
    """Tables as lists of rows of cell texts, in order, and all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in {"td", "th"}

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data


def section(html: str, name: str) -> str:
    return html.split(f'aria-labelledby="paper-{name}"', 1)[1].split("</section>", 1)[0]


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(our_facts())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_page_prints_the_file(page, path):
    said = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    html = section(page, path.stem)
    printed = [t for t in Tables(html).tables if t[0][0] == "Encoder"]
    seen = [table for table in said["table"] if table["verified"] == "seen"]
    assert len(printed) == len(seen)
    for table, rows in zip(seen, printed, strict=True):
        names = [c["name"] for c in table["column"]]
        for row, cells in zip(table["row"], rows[1:], strict=True):
            values = row.get("values", {})
            assert cells[0] == row["encoder"]
            assert cells[1] == row["objective"] + row["side"]
            assert cells[3:] == [str(values[n]) if n in values else "not given" for n in names]
    for sentence in said["differs"]:
        assert sentence in html.replace("&#39;", "'")
    assert "not by Eyechart" in html
    assert html.count("Published, not measured by Eyechart") == len(printed)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_differences_are_those_of_the_rows(page, path):
    said = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    printed = [t[1:] for t in Tables(section(page, path.stem)).tables if t[0][0] == "Task, as published"]
    wanted = [(table, pair) for table in said["table"] for pair in table.get("pair", [])]
    wanted = [(table, pair) for table, pair in wanted if table["verified"] == "seen"]
    assert len(printed) == len(wanted)
    for lines, (table, pair) in zip(printed, wanted, strict=True):
        rows = {r["name"]: r.get("values", {}) for r in table["row"]}
        left, right = rows[pair["classification"]], rows[pair["contrastive"]]
        for line, column in zip(lines, table["column"], strict=True):
            assert line[0] == column["task"]
            gap = left[column["name"]] - right[column["name"]]
            assert Decimal(line[1].replace("−", "-")) == gap
            side = "classification ahead" if gap > 0 else "contrastive ahead" if gap else "no difference"
            assert line[2].startswith(side)
            assert not gap or f"by {abs(gap)} " in line[2]


def test_digits_stay_as_published(page):
    prismatic = section(page, "prismatic")
    assert ">35.40<" in prismatic
    assert "contrastive ahead by 24.30 points" in prismatic
    assert (signed(Decimal("24.30")), signed(Decimal("-1.20")), signed(Decimal("0.00"))) == (
        "+24.30",
        "−1.20",
        "0.00",
    )


def test_the_paper_that_nobody_has_read_shows_no_number(page):
    html = section(page, "pali-3")
    assert "located (RefCOCO) or read (TextVQA)" in html
    assert "2310.09199" in html and "nobody has read the paper&#39;s table for us yet" in html
    assert not Tables(html).tables, "nothing to fill a table with"
    assert html.count("nobody has read") == 1
    assert "RefCOCO, segmentation (mean IoU of masks, %)" in html
    assert html.count("less ViT-") == 3


def test_tasks_and_sides_are_ours():
    known = set(known_tasks())
    for paper in read_shelf():
        assert paper.differs and paper.direction
        for table in paper.tables:
            named = {task for column in table.columns for task in column.ours}
            assert named <= known
            assert {read_task(t).suite for t in named} <= {"main"}
            for row in table.rows:
                assert SIDE_OF_OBJECTIVE.get(row.objective, row.side) == row.side


def write(folder, text: str = PAPER):
    path = folder / "paper.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_sound_file_is_read(tmp_path):
    paper = read_paper(write(tmp_path))
    assert (paper.name, paper.year) == ("paper", 2024)
    assert paper.tables[0].row("label").values == (Decimal("12.30"), Decimal(40))
    assert paper.tables[0].row("clip").values == (Decimal("36.60"), None)


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        (
            'verified = "seen"',
            'verified = "unverified"',
            "table[0].row[0].values.textvqa",
            "a value in a table that nobody has read: found 12.30, expected no value while verified is",
        ),
        ("values = {textvqa = 36.60}", "", "table[0].row[1].values", "no value in a table that was read"),
        ("{textvqa = 36.60}", "{textvqs = 36.60}", "values.textvqs", "expected textvqa"),
        ("36.60", "nan", "values.textvqa", "not a finite number"),
        ("36.60", '"36.60"', "values.textvqa", "expected a number"),
        ("36.60", "true", "values.textvqa", "expected a number"),
        ('side = "contrastive"', 'side = "other"', "row[1].side", "expected contrastive"),
        ('classification = "label"', 'classification = "clip"', "pair[0].classification", "another side"),
        ('contrastive = "clip"', 'contrastive = "clop"', "pair[0].contrastive", "expected clip"),
        ('name = "clip"', 'name = "label"', "table[0].row", "the same name twice"),
        ('name = "ocr"', 'name = "textvqa"', "table[0].column", "the same name twice"),
        ('name = "clip"', 'name = "Clip"', "row[1].name", "not well formed"),
        ("year = 2024", "yeer = 2024", "yeer", "expected year"),
        ('venue = "Somewhere"\n', "", "venue", "key missing"),
        ('measured_by = "authors"', 'measured_by = "eyechart"', "measured_by", "one of authors, others"),
        ('differs = ["All of it."]', "differs = []", "differs", "wrong number of items"),
        ('arxiv = "2401.00001"\n', "", "paper.toml", "not one address"),
        ('arxiv = "2401.00001"', 'arxiv = "2401"', "arxiv", "such as 2310.09199"),
        ('arxiv = "2401.00001"', 'link = "javascript:alert(1)"', "link", "https"),
        ('ours = ["eyechart_textvqa_val"]', 'ours = ["textvqa"]', "ours[0]", "a task of ours"),
        ("[[table]]", "[[tables]]", "tables", "unknown key"),
        ("[[table.pair]]", "[table.pair]", "table[0].pair", "wrong type"),
        ("title = ", "title", "paper.toml", "not valid TOML"),
    ],
)
def test_a_slip_is_one_clear_line(tmp_path, old, new, where, message):
    assert old in PAPER
    path = write(tmp_path, PAPER.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        read_paper(path)
    line = caught.value.line()
    assert where in line and message in line and "\n" not in line
    assert str(path) in line


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "paper.toml"
    path.write_bytes(b"title = '\xff'")
    with pytest.raises(UsageError, match="not valid TOML"):
        read_paper(path)


def lines_of(tmp_path, facts: Facts):
    table = read_paper(write(tmp_path)).tables[0]
    mains = [Comparisons(facts, p) for p, suite in facts.suites.items() if suite == "main"]
    return pair_view(table, table.pairs[0], mains).lines


def test_same_direction(tmp_path):
    textvqa, ocr = lines_of(tmp_path, our_facts())
    assert textvqa.theirs == "contrastive ahead by 24.30 points" and textvqa.difference == "−24.30"
    (ours,) = textvqa.ours
    assert ours.verdict == "same direction"
    assert "protocol p, Label less Clip: contrastive ahead by " in ours.words
    assert (ocr.difference, ocr.theirs, ocr.ours_words) == (
        "",
        "not given for both",
        "no task of ours asks this",
    )


def test_our_size_is_the_paired_difference(tmp_path):
    facts = our_facts()
    (ours,) = lines_of(tmp_path, facts)[0].ours
    clip, label = (facts.scores["p", e, TEXTVQA].scores.mean() for e in ("clip", "label"))
    assert f"by {100 * (clip - label):.1f} points [−" in ours.words


def test_opposite_and_undecided(tmp_path):
    assert lines_of(tmp_path, our_facts(label=0.6, clip=0.2))[0].ours[0].verdict == "opposite direction"
    level = lines_of(tmp_path, our_facts(label=0.5, clip=0.5))[0].ours[0]
    assert level.verdict == "undecided" and "neither side ahead" in level.words


def test_no_published_direction_is_never_the_same():
    mains = [Comparisons(our_facts(), "p")]
    assert our_sides(TEXTVQA, Decimal(0), mains)[0].verdict != "same direction"


def test_contradicted_and_self_reported_pairs_are_left_out(tmp_path):
    wrong = our_facts(pair_facts={("clip", "label"): (PairFact("tokens", "equal", "differs"),)})
    assert lines_of(tmp_path, wrong)[0].ours == ()
    facts = our_facts()
    metrics = {k: dataclasses.replace(m, tier="self-reported") for k, m in facts.metrics.items()}
    line = lines_of(tmp_path, dataclasses.replace(facts, metrics=metrics))[0]
    assert (line.ours, line.ours_words) == ((), "no main-suite pair is complete on this task yet")


@pytest.mark.parametrize("suite", ["mini", "rehearsal"])
def test_toys_are_never_compared(tmp_path, suite):
    facts = our_facts(suite)
    line = lines_of(tmp_path, facts)[0]
    assert (line.ours, line.ours_words) == ((), "no main-suite row yet")
    with pytest.raises(AssertionError):
        our_sides(TEXTVQA, Decimal(1), [Comparisons(facts, "p")])
    html = page_of(facts)
    assert "no verdict can be given" in html and "no main-suite row yet" in html
    assert "same direction" not in html and "Label" not in html
    assert "Every number here" not in html, "the notice speaks of ours, not of the published ones"


def test_verdicts_reach_the_page(page):
    html = section(page, "prismatic")
    assert "<strong>same direction</strong>" in html
    assert "no main-suite pair is complete on this task yet" in html
    assert "Published numbers carry no interval unless the paper gave one" in page


def test_text_of_a_file_is_never_markup(tmp_path):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"
    text = PAPER
    for old in (
        "A title",
        "Person et al.",
        "Some direction.",
        "All of it.",
        "Label ViT",
        "Nothing is equal.",
    ):
        text = text.replace(old, hostile)
    write(tmp_path, text)
    html = page_of(our_facts(), tmp_path)
    found = Tables(html).elements
    assert not [t for t, a in found if t == "img" or (t == "script" and not a.get("src")) or "onerror" in a]
    assert html.count("&lt;script&gt;alert(1)") >= 6 and "49" not in re.findall(
        r"alert\(2\)&gt;(\S{2})", html
    )


def test_an_empty_shelf_is_said(tmp_path):
    assert "The shelf is empty." in page_of(our_facts(), tmp_path)


def test_oldest_first():
    years = [p.year for p in read_shelf()]
    assert years == sorted(years) and len(years) == len(FILES)
