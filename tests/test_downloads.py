"""data/ and downloads.html: the index's rows, with hashes that hold; what is too large is named."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from board_site import kit_of, made_site

from harness import site_check
from harness.cli import main
from harness.export_board import Limits, export_board
from harness.store import open_store
from leaderboard import downloads
from leaderboard.build import build_site
from leaderboard.downloads import HOLDS, download_files
from leaderboard.social import SIZE, draw_social, plain_text, wrap


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_site(tmp_path_factory.mktemp("downloads"), url="https://example.org/e")


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """Not whether a power cut spares a file, and syncing hundreds costs seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Rows(HTMLParser):
    """Cells of the page's table, by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.inside = self.inside or tag in {"td", "th"}
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in {"td", "th"}

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_every_file_is_as_the_page_says(made):
    rows = Rows((made.site / "downloads.html").read_text()).rows[1:]
    listed = {row[0]: row[1:] for row in rows}
    files = {p.relative_to(made.site).as_posix() for p in (made.site / "data").iterdir()}
    assert set(listed) == files - {"data/runs.js"}
    for name, (shown, size, holds, sha256) in listed.items():
        data, count = (made.site / name).read_bytes(), shown.replace(",", "")
        assert (int(size.replace(",", "")), sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert holds
        if name.endswith(".parquet"):
            assert pq.read_table(io.BytesIO(data)).num_rows == int(count)
        elif name.endswith(".csv"):
            assert len(list(csv.reader(io.StringIO(data.decode())))) == int(count) + 1
        elif name != "data/index.json":
            assert len(json.loads(data)) == int(count)


def test_the_board_is_the_view(made):
    connection = open_store(made.db)
    rows = connection.execute("SELECT encoder, task, value, ci_low, ci_high FROM leaderboard").fetchall()
    connection.close()
    found = json.loads((made.site / "data/leaderboard.json").read_text())
    mine = [tuple(r[k] for k in ("encoder", "task", "value", "ci_low", "ci_high")) for r in found]
    assert sorted(mine) == sorted(rows)


def test_every_table_is_described(made):
    connection = open_store(made.db)
    names = {n for (n,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    connection.close()
    assert names == set(HOLDS)


def test_what_is_too_large_is_left_out_and_named(made, monkeypatch):
    monkeypatch.setattr(downloads, "LIMITS", Limits(rows=100, bytes=8_000))
    files = download_files(kit_of(made.facts, made.db))
    page = files["downloads.html"].decode()
    assert "data/samples.csv" not in files and "data/scores.parquet" not in files
    assert "samples (csv, json, parquet)" in page and "eyechart export board" in page
    assert "of more than 100 rows or a file of more than 0.008 MB" in page
    large = {name for name in files if name.startswith("data/") and len(files[name]) > 8_000}
    assert large <= {"data/index.json"}
    assert "data/runs.json" not in files and "data/leaderboard.parquet" in files
    left = json.loads(files["data/index.json"])["left_out"]
    assert "samples.json" in left and "runs.json" in left
    assert not [name for name in left if f"data/{name}" in files]


def test_an_export_without_limits_leaves_nothing_out(made, tmp_path):
    report = export_board(made.db, tmp_path / "all")
    assert report.left_out == () and report.num_tables == len(HOLDS)
    assert "left_out" not in json.loads((tmp_path / "all" / "index.json").read_text())


def test_without_an_index_the_page_stands_alone(made):
    files = download_files(kit_of(made.facts))
    assert set(files) == {"downloads.html"} and b"data/all-runs.csv" in files["downloads.html"]


def test_same_index_same_bytes(made, tmp_path):
    again = build_site(made.db, tmp_path / "b", made.home / "pairs.toml", url="https://example.org/e/")
    assert again.bytes == made.report.bytes
    for path in (made.site / "data").iterdir():
        assert (tmp_path / "b" / "data" / path.name).read_bytes() == path.read_bytes()


def test_a_second_build_tells_what_changed(made, tmp_path, capsys, home):
    words = [
        "publish",
        "--db",
        str(made.db),
        "--site",
        str(tmp_path / "s"),
        "--pairs",
        str(made.home / "pairs.toml"),
    ]
    assert main(words) == 0
    assert "; the first build here: " in capsys.readouterr().out
    (tmp_path / "s" / "404.html").unlink()
    (tmp_path / "s" / "social.png").write_bytes(b"old")
    (tmp_path / "s" / "static" / "gone.css").write_text("old")
    shutil.copytree(tmp_path / "s", tmp_path / "t")
    assert main(words) == 0
    assert "; since the last build 1 new, 1 changed, 1 removed: " in capsys.readouterr().out
    assert main([*words[:3], "--site", str(tmp_path / "t"), *words[5:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["first"] is False
    assert (told["new"], told["changed"], told["removed"]) == (
        ["404.html"],
        ["social.png"],
        ["static/gone.css"],
    )


def test_a_published_site_is_verified(made, home, capsys, monkeypatch, tmp_path):
    """With pairs, tables and an address, and no more than its bundles and pairs at hand."""
    monkeypatch.chdir(tmp_path)
    words = ["verify", str(made.site), "--results", str(made.home / "results"), "--pairs"]
    assert main([*words, str(made.home / "pairs.toml")]) == 0, capsys.readouterr()
    shutil.copytree(made.site, tmp_path / "site")
    words[1] = str(tmp_path / "site")
    for name, change, says in [
        ("feed.atom", lambda data: data.replace(b"Vit", b"Hit"), "feed.atom: line"),
        ("data/leaderboard.csv", lambda data: data.replace(b"0.", b"0.9", 1), "leaderboard.csv: line"),
        (
            "data/leaderboard.parquet",
            lambda data: data[:-1] + b"x",
            "leaderboard.parquet: bytes are not what",
        ),
        ("social.png", lambda data: data + b"x", "social.png: bytes are not what"),
        (
            "badges/mini/vit/eyechart_mini_vqa.svg",
            lambda data: data.replace(b"rank", b"best"),
            "vqa.svg: line",
        ),
    ]:
        whole = (tmp_path / "site" / name).read_bytes()
        (tmp_path / "site" / name).write_bytes(change(whole))
        assert main([*words, str(made.home / "pairs.toml")]) == 8
        assert says in capsys.readouterr().out
        (tmp_path / "site" / name).write_bytes(whole)


def test_binary_files_are_those_of_libraries(made):
    kinds = {p.suffix for p in made.site.rglob("*") if p.is_file() and b"\0" in p.read_bytes()}
    assert kinds == site_check.BINARY


# --- the preview image -----------------------------------------------------------------------------------


def test_the_preview_is_an_image_of_its_size(made):
    from PIL import Image

    data = (made.site / "social.png").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == SIZE == (1200, 630) and image.format == "PNG"
    assert len(data) < 300_000


@pytest.mark.parametrize("text", ["", "short", "word " * 400, "x" * 900, "λ−名\x00\u202e " * 30])
def test_any_headline_stays_in_its_field(text):
    from PIL import Image

    with Image.open(io.BytesIO(draw_social(text, "A notice", "3 runs"))) as image:
        field = image.crop((0, 140, 866, 480)).convert("L")
        assert max(field.crop((0, 0, 70, 340)).tobytes(), default=0) == min(
            field.crop((0, 0, 70, 340)).tobytes()
        )
        assert min(field.crop((830, 0, 866, 340)).tobytes()) == 255


def test_words_are_wrapped_by_their_width():
    from PIL import ImageFont

    font = ImageFont.load_default(30)
    lines = wrap(plain_text("an eye chart " * 30 + "w" * 200), font, 400)
    assert all(font.getlength(line) <= 400 for line in lines)
    assert "".join(lines).replace(" ", "") == ("aneyechart" * 30 + "w" * 200)


def test_no_toy_without_its_notice(made, monkeypatch):
    from leaderboard import social

    drawn = []
    monkeypatch.setattr(social, "draw_social", lambda *words: drawn.append(words) or b"")
    social.social_files(kit_of(made.facts))
    social.social_files(kit_of(dataclasses.replace(made.facts, suites={"mini": "main"})))
    assert "Demonstration" in drawn[0][1] and drawn[1][1] == ""
