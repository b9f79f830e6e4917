"""runs.html: every run of the index, columns that a script can trust, and a page that reads without one."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import random
import re

import pytest
from board_site import HOSTILE, kit_of, made_site

from harness.store import open_store
from leaderboard.facts import RunFacts
from leaderboard.runs_page import COLUMNS, SERVED, run_rows, runs_files
from leaderboard.wording import per_cent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_site(tmp_path_factory.mktemp("runs"))


def table_of(script: bytes) -> dict:
    text = script.decode("ascii")
    assert text.startswith("window.EYECHART_RUNS=") and text.endswith(";\n")
    return json.loads(text.removeprefix("window.EYECHART_RUNS=").removesuffix(";\n"))


def decoded(table: dict) -> list[dict]:
    """Rows as static/runs.js reads them."""
    rows = []
    for i in range(table["rows"]):
        row = {}
        for name, _, kind in COLUMNS:
            column = table["columns"][name]
            width = {"run_key": 16, "bundle_digest": 12}.get(name, 0)
            row[name] = (
                column["words"][column["codes"][i]]
                if kind == "word"
                else column[i * width : (i + 1) * width]
                if kind == "hash"
                else column[i]
            )
            if kind == "word" and "hrefs" in column:
                row[f"{name}_href"] = column["hrefs"][column["codes"][i]]
        rows.append(row)
    return rows


def test_the_script_holds_every_run_of_the_index(made):
    connection = open_store(made.db)
    rows = connection.execute(
        "SELECT encoder, task, seed, value, num_expected, num_scored, tier, engine, run_key, bundle_digest "
        "FROM runs WHERE counted ORDER BY protocol, task, encoder, seed"
    ).fetchall()
    connection.close()
    found = decoded(table_of((made.site / "data/runs.js").read_bytes()))
    assert len(found) == len(rows) == 18
    for mine, (encoder, task, seed, value, expected, scored, tier, engine, key, digest) in zip(
        found, rows, strict=True
    ):
        assert (
            mine["encoder_href"] == f"encoders/{encoder}.html" and mine["task_href"] == f"tasks/{task}.html"
        )
        assert (made.site / mine["encoder_href"]).is_file() and (made.site / mine["task_href"]).is_file()
        assert (mine["seed"], mine["value"]) == (seed, value)
        assert (mine["num_expected"], mine["num_scored"]) == (expected, scored)
        assert (mine["tier"], mine["engine"]) == (tier, engine)
        assert key.startswith(mine["run_key"]) and digest.startswith(mine["bundle_digest"])


def test_words_are_in_the_order_that_codes_sort_by(made):
    columns = table_of((made.site / "data/runs.js").read_bytes())["columns"]
    for name, _, kind in COLUMNS:
        if kind == "word":
            words = columns[name]["words"]
            assert words == sorted(words, key=lambda w: (w.casefold(), w))


def test_the_page_reads_without_a_script(made):
    page = (made.site / "runs.html").read_text()
    assert page.count("<tr aria-rowindex=") == 19
    assert 'aria-rowcount="19"' in page and 'role="status">18 runs.<' in page
    tools = page[page.index('<div class="runs-tools" hidden>') : page.index('<p id="runs-status"')]
    assert tools.count("<button") == page.count("<button") == 1
    assert 'href="data/all-runs.csv"' in page
    for run in made.facts.runs:
        assert run.run_key[:16] in page and run.bundle_digest[:12] in page
        assert f'<span class="num">{per_cent(run.value)}</span>' in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_the_csv_has_them_whole(made):
    rows = list(csv.DictReader(io.StringIO((made.site / "data/all-runs.csv").read_text())))
    assert [
        (r["encoder"], r["task"], int(r["seed"]), float(r["value"]), r["run_key"], r["bundle_digest"])
        for r in rows
    ] == [(r.encoder, r.task, r.seed, r.value, r.run_key, r.bundle_digest) for r in made.facts.runs]


def test_a_hostile_title_is_data_in_the_script(made):
    script = (made.site / "data/runs.js").read_bytes()
    assert b"<" not in script and script.isascii() and script.count(b"\n") == 1
    assert f"ResNet {HOSTILE}" in table_of(script)["columns"]["encoder"]["words"]


def many(made, count: int) -> list[RunFacts]:
    rng = random.Random(1)
    runs = []
    for i in range(count):
        one = made.facts.runs[i % len(made.facts.runs)]
        keys = [f"{rng.getrandbits(256):064x}" for _ in range(2)]
        value = None if i % 97 == 0 else rng.randrange(21451) / 21451
        runs.append(
            dataclasses.replace(one, seed=i // 18, value=value, run_key=keys[0], bundle_digest=keys[1])
        )
    return runs


def test_ten_thousand_runs_weigh_little(made):
    facts = dataclasses.replace(made.facts, runs=tuple(many(made, 10_000)))
    files = runs_files(kit_of(facts))
    page = files["runs.html"].decode()
    assert page.count("<tr aria-rowindex=") == SERVED + 1 and 'aria-rowcount="10001"' in page
    assert f"The first {SERVED} of 10,000 runs; the rest needs JavaScript, or the CSV." in page
    assert "incomplete" in page
    weight = sum(len(gzip.compress(files[n], 6)) for n in ("runs.html", "data/runs.js"))
    assert weight < 1_200_000
    rows = decoded(table_of(files["data/runs.js"]))
    assert [(r["value"], r["run_key"]) for r in rows] == [
        (r.value, r.run_key) for r in run_rows(kit_of(facts))
    ]


def test_two_encoders_of_one_title_keep_their_own_pages(made):
    submissions = {e: dataclasses.replace(s, title="Same") for e, s in made.facts.submissions.items()}
    files = runs_files(kit_of(dataclasses.replace(made.facts, submissions=submissions)))
    assert {r["encoder_href"] for r in decoded(table_of(files["data/runs.js"]))} == {
        f"encoders/{e}.html" for e in ("blind", "resnet", "vit")
    }


def test_nothing_run_is_said(made):
    page = runs_files(kit_of(dataclasses.replace(made.facts, runs=())))["runs.html"].decode()
    assert "Nothing has been run yet." in page and not re.search(r"<table", page)
