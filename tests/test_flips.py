"""The flips explorer: counts are the index's, nothing is shown that a licence forbids, text stays text."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from harness.cli import main
from harness.comparison import compare
from harness.digest import digest_bytes
from harness.errors import IntegrityError
from harness.files import write_parquet
from harness.media import MEDIA_SCHEMA
from harness.site_check import verify_site
from harness.store import open_store
from leaderboard.boxes import lay_out, read_box
from leaderboard.build import build_site
from leaderboard.facts import ScoreTable
from leaderboard.flips import PAGE_SIZE, query_words
from leaderboard.index import read_facts
from leaderboard.packs import FREE, find_pack, read_pack, read_picture
from leaderboard.pair_names import flips_href, pair_href, stem
from leaderboard.sample_facts import SHOWN_EACH, choose_flips, lot
from leaderboard.shots import counted
from tests.index_bundles import HEX
from tests.sample_site import (
    BOX_A,
    BOX_B,
    EVIL,
    HOSTILE,
    NUM,
    REC,
    TRUE_BOX,
    VIDEO,
    VQA,
    png,
    write_pack,
    write_site_inputs,
)
from tests.test_leaderboard import Page, pages


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    home = tmp_path_factory.mktemp("flips")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        db = write_site_inputs(home)
    build_site(db, home / "site", home / "pairs.toml", datasets=home / "data")
    facts = read_facts(db, home / "pairs.toml", None, datasets=home / "data")
    return SimpleNamespace(home=home, db=db, site=home / "site", facts=facts)


def rows(made: SimpleNamespace, sql: str) -> list[tuple]:
    connection = open_store(made.db)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def parts_of(made: SimpleNamespace, b: str, task: str, direction: str) -> list[str]:
    """Texts of the pages of one direction, in order."""
    found = []
    while (path := made.site / flips_href("mini", "net-a", b, task, direction, len(found) + 1)).is_file():
        found.append(path.read_text())
    return found


def ids_on(text: str) -> list[str]:
    return re.findall(r"<h3>Sample <code>([^<]*)</code>", text)


@pytest.mark.parametrize("task", [VQA, REC, VIDEO])
def test_counts_and_samples_are_those_of_the_view(made, task):
    view = rows(
        made,
        "SELECT sample_id, score_a, score_b, right_side FROM flips "
        f"WHERE task = '{task}' AND a = 'net-a' AND b = 'net-b'",
    )
    found = made.facts.flips["mini", task, "net-a", "net-b"]
    for side, count in (("a", found.num_a), ("b", found.num_b)):
        ours = [r for r in view if r[3] == side]
        assert count == len(ours) > 0
        best = sorted(ours, key=lambda r: (-round(abs(r[1] - r[2]), 9), lot(r[0])))[:SHOWN_EACH]
        shown = [f for f in found.shown if f.right == side]
        assert [(f.sample_id, f.score_a, f.score_b) for f in shown] == [r[:3] for r in best]
    text = parts_of(made, "net-b", task, "all")[0]
    words = " ".join(Page(text).words.split())
    is_are = "is" if found.num_a == 1 else "are"
    assert f"Of {NUM} samples, {found.num_a} {is_are} right with A alone and {found.num_b} with B" in words
    assert "A flip alone proves nothing" in words


@pytest.mark.parametrize("task", [VQA, REC, VIDEO])
def test_directions_are_complete_and_disjoint(made, task):
    ids = {
        d: [i for text in parts_of(made, "net-b", task, d) for i in ids_on(text)] for d in ("all", "a", "b")
    }
    assert len(ids["all"]) == len(set(ids["all"]))
    assert not set(ids["a"]) & set(ids["b"])
    assert set(ids["a"]) | set(ids["b"]) == set(ids["all"])
    assert len(ids["a"]) <= SHOWN_EACH and len(ids["b"]) <= SHOWN_EACH
    assert all(len(ids_on(text)) <= PAGE_SIZE for text in parts_of(made, "net-b", task, "all"))
    whole = made.facts.flips["mini", task, "net-a", "net-b"]
    first = parts_of(made, "net-b", task, "a")[0]
    more = f"{SHOWN_EACH} of {whole.num_a}, at most {SHOWN_EACH} each way"
    assert (more in first) == (whole.num_a > SHOWN_EACH)


def test_some_list_is_cut_and_says_how_to_get_the_rest(made):
    """The fixture's first arm is right more often than pages show: without this the limit is untested."""
    assert made.facts.flips["mini", VQA, "net-a", "net-b"].num_a > SHOWN_EACH
    words = Page(parts_of(made, "net-b", VQA, "a")[0]).words
    command = re.search(r'eyechart query "(SELECT [^"]*)"', words)
    assert command is not None
    assert len(rows(made, command[1])) == len(
        rows(made, f"SELECT * FROM flips WHERE task = '{VQA}' AND b = 'net-b' AND right_side = 'a'")
    )


def test_answers_are_shown_seed_by_seed(made):
    flip = made.facts.flips["mini", REC, "net-a", "net-b"].shown[0]
    want = rows(
        made,
        "SELECT seed, answer, score FROM samples WHERE encoder = 'net-a' "
        f"AND task = '{REC}' AND sample_id = '{flip.sample_id}' ORDER BY seed",
    )
    assert [(s.seed, s.answer, s.score) for s in flip.said_a] == want
    assert {s.answer for s in flip.said_b} == {BOX_B}
    page = Page(parts_of(made, "net-b", REC, "all")[0])
    assert BOX_A in page.words and BOX_B in page.words and TRUE_BOX in page.words


def test_boxes_lie_where_the_answers_say(made):
    page = Page(parts_of(made, "net-b", REC, "all")[0])
    drawn = {
        kind: {
            tuple(a[k] for k in ("x", "y", "width", "height"))
            for t, a in page.elements
            if t == "rect" and a["class"] == f"box {kind}" and "%" in a["x"]
        }
        for kind in ("reference", "a", "b")
    }
    assert drawn == {
        "reference": {("0.00%", "25.00%", "50.00%", "50.00%")},
        "a": {("10.00%", "20.00%", "40.00%", "40.00%")},
        "b": {("25.00%", "25.00%", "50.00%", "75.00%")},
    }
    letters = re.findall(
        r'<text class="whose-box (\w+)"[^>]*>([RAB])</text>', parts_of(made, "net-b", REC, "all")[0]
    )
    assert {("reference", "R"), ("a", "A"), ("b", "B")} == set(letters)
    assert "whose-box" not in parts_of(made, "net-b", VQA, "all")[0]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (BOX_A, (0.1, 0.2, 0.5, 0.6)),
        ("the box [0, 0, 1, 1].", (0.0, 0.0, 1.0, 1.0)),
        ("[0.5, 0.2, 0.1, 0.6]", None),
        ("[0.1, 0.2, 0.5, 1.6]", None),
        ("[0.1, 0.2, 0.5, nan]", None),
        ("[0.1, 0.2, 0.5, 0.6] [0.1, 0.2, 0.5, 0.6]", None),
        ("[0.1, 0.2, 0.5]", None),
        ("[" * 5000, None),
        ("", None),
    ],
)
def test_only_a_sound_box_is_drawn(text, box):
    assert read_box(text) == box


def test_equal_boxes_are_drawn_once_and_lettered_once():
    found = lay_out([TRUE_BOX], [BOX_A, BOX_A, BOX_B], ["none"])
    assert [(b.kind, b.label) for b in found] == [("reference", "R"), ("a", "A"), ("a", "")]


def test_pictures_lie_in_the_site_once_each(made):
    used = set()
    for name, page in pages(made.site).items():
        for tag, a in page.elements:
            link = a.get("src") if tag == "img" else a.get("href") if tag == "image" else None
            if link:
                target = ((made.site / name).parent / link).resolve()
                assert target.parent == (made.site / "media").resolve()
                assert target.is_file()
                used.add(target.name)
            if tag == "img":
                assert a["alt"] and int(a["width"]) > 0 and int(a["height"]) > 0
    assert used == {p.name for p in (made.site / "media").iterdir()}
    shown = {f.sample_id for f in made.facts.flips["mini", VQA, "net-a", "net-b"].shown}
    assert shown < {f"{i:03}" for i in range(NUM)}, "else this says nothing"
    strip = next(a for t, a in Page(parts_of(made, "net-b", VIDEO, "all")[0]).elements if t == "img")
    assert strip["alt"].startswith("Frames of the clip") and int(strip["width"]) == 4 * int(strip["height"])


def test_hostile_text_stays_text(made):
    for name, page in pages(made.site).items():
        raw = (made.site / name).read_text()
        assert "<script>alert" not in raw and "<img src=x" not in raw and "<b>note" not in raw, name
        assert not [a for _, a in page.elements if any(k.startswith("on") or k == "style" for k in a)], name
    words = Page(parts_of(made, "net-b", VQA, "all")[0]).words
    assert HOSTILE in words and f"Secret {HOSTILE}" in words
    assert parts_of(made, EVIL, VQA, "all")


def test_pages_link_to_each_other_and_nothing_dangles(made):
    found = pages(made.site)
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for tag, a in found[name].elements if name in found else ():
            link = (a.get("href") or "").partition("#")[0]
            if tag == "a" and link and not link.startswith("http"):
                target = ((made.site / name).parent / link).resolve()
                assert target.is_file(), (name, link)
                waiting.append(target.relative_to(made.site.resolve()).as_posix())
    assert {n for n in found if n.startswith(("flips/", "pairs/"))} <= reached
    assert pair_href("net-a", "net-b") in reached


def test_same_input_same_bytes(made, tmp_path):
    build_site(made.db, tmp_path / "again", made.home / "pairs.toml", datasets=made.home / "data")
    names = [
        sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        for root in (made.site, tmp_path / "again")
    ]
    assert names[0] == names[1]
    assert all((tmp_path / "again" / n).read_bytes() == (made.site / n).read_bytes() for n in names[0])


@pytest.fixture
def forbidden(made: SimpleNamespace, tmp_path: Path) -> Path:
    """Packs of a licence that lets nobody pass the samples on."""
    write_pack(tmp_path / "mini" / "made" / "packs" / f"{HEX}.parquet", "CC-BY-4.0; images are COCO's")
    return tmp_path


def test_a_licence_that_forbids_shows_neither_question_nor_picture(made, forbidden, tmp_path):
    site = tmp_path / "site"
    build_site(made.db, site, made.home / "pairs.toml", datasets=forbidden)
    assert not (site / "media").exists()
    for name, page in pages(site).items():
        assert "Secret" not in page.words and "Do not publish" not in page.words, name
        assert not {t for t, _ in page.elements} & {"img", "image"}, name
    text = (site / flips_href("mini", "net-a", "net-b", REC)).read_text()
    assert TRUE_BOX not in text and BOX_A in text
    assert "CC-BY-4.0; images are COCO&#39;s" in text and "does not let this site repeat them" in text


def test_local_mode_shows_it_and_marks_every_page(made, forbidden, tmp_path):
    site = tmp_path / "site"
    build_site(made.db, site, made.home / "pairs.toml", datasets=forbidden, local_media=True)
    assert list((site / "media").iterdir())
    for name, page in pages(site).items():
        assert "Do not publish." in page.words, name
    assert "Secret" in Page((site / flips_href("mini", "net-a", "net-b", REC)).read_text()).words


def test_local_mode_takes_pictures_from_the_dataset(made, tmp_path):
    folder = tmp_path / "mini" / "made"
    write_pack(folder / "packs" / f"{HEX}.parquet", "no", media="images/one.png", thumbnail=None)
    (folder / "images").mkdir()
    (folder / "images" / "one.png").write_bytes(png(3, 320, 160))
    listed = {"path": "images/one.png", "sha256": digest_bytes(png(3, 320, 160)), "bytes": 1}
    write_parquet(folder / "media.parquet", pa.Table.from_pylist([listed], MEDIA_SCHEMA))
    facts = read_facts(made.db, made.home / "pairs.toml", None, datasets=tmp_path, local_media=True)
    picture = next(iter(facts.samples["mini", VQA].values())).picture
    assert picture is not None and (picture.width, picture.height) == (256, 128)
    (folder / "images" / "one.png").write_bytes(png(4, 320, 160))
    facts = read_facts(made.db, made.home / "pairs.toml", None, datasets=tmp_path, local_media=True)
    assert next(iter(facts.samples["mini", VQA].values())).picture is None, "not the listed picture"


def test_local_mode_shows_frames_of_a_clip(made, tmp_path):
    from harness.mini.clips import encode_mp4, sample_clips

    folder, data = tmp_path / "mini" / "made", encode_mp4(sample_clips("test", 1, seed=1)[0])
    write_pack(folder / "packs" / f"{HEX}.parquet", "no", media="clips/7.mp4", thumbnail=None)
    (folder / "clips").mkdir()
    (folder / "clips" / "7.mp4").write_bytes(data)
    listed = {"path": "clips/7.mp4", "sha256": digest_bytes(data), "bytes": len(data)}
    write_parquet(folder / "media.parquet", pa.Table.from_pylist([listed], MEDIA_SCHEMA))
    pack = find_pack(tmp_path, "mini", HEX)
    assert pack is not None
    picture = read_pack(pack, VIDEO, {"003"}, local=True)["003"].picture
    assert picture is not None and (picture.width, picture.height) == (4 * 64, 64)
    assert read_pack(pack, VIDEO, {"003"}, local=False)["003"].picture is None


def test_without_a_pack_ids_answers_and_a_way_to_the_pictures(made, tmp_path):
    build_site(made.db, tmp_path / "site", made.home / "pairs.toml", datasets=tmp_path / "nothing")
    page = Page((tmp_path / "site" / flips_href("mini", "net-a", "net-b", VQA)).read_text())
    words = " ".join(page.words.split())
    assert "This build of the site has no questions and no pictures" in words
    hint = "For whoever builds it"
    assert words.index(hint) < words.index("eyechart mini data makes it")
    assert HOSTILE in words and "Secret" not in words
    assert not (tmp_path / "site" / "media").exists()


def test_a_damaged_pack_is_named(made, tmp_path):
    path = tmp_path / "mini" / "made" / "packs" / f"{HEX}.parquet"
    write_pack(path, "MIT")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(IntegrityError, match="Parquet"):
        read_facts(made.db, made.home / "pairs.toml", None, datasets=tmp_path)


@pytest.mark.parametrize(
    ("suite", "digest"), [("..", HEX), ("mini/..", HEX), ("mini", "*"), ("mini", "../x")]
)
def test_a_pack_is_not_sought_outside(made, suite, digest):
    assert find_pack(made.home / "data", suite, digest) is None
    assert find_pack(made.home / "data", "mini", HEX) is not None


def test_only_small_pictures_are_carried():
    assert read_picture(png(1)) is not None
    assert read_picture(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None
    assert read_picture(png(1, 4000, 8)) is None
    assert read_picture(png(1) + b"\0" * 70_000) is None
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", name) for name in FREE)


def test_verify_needs_the_same_packs(made):
    roots = [made.home / "results"]
    pairs = made.home / "pairs.toml"
    assert not verify_site(made.site, roots, pairs, datasets=made.home / "data").findings
    found = verify_site(made.site, roots, pairs).findings
    assert [f.what for f in found] == ["pictures are not those of the task packs here"]


def test_a_site_without_pictures_is_verified_wherever_packs_lie(made, tmp_path):
    pairs, roots = made.home / "pairs.toml", [made.home / "results"]
    build_site(made.db, tmp_path / "site", pairs)
    assert not verify_site(tmp_path / "site", roots, pairs, datasets=made.home / "data").findings


def test_the_command_says_what_is_for_ones_own_eyes(made, tmp_path, capsys):
    command = ["publish", "--db", str(made.db), "--pairs", str(made.home / "pairs.toml")]
    command += ["--home", str(made.home)]
    assert main([*command, "--site", str(tmp_path / "own"), "--media-from-home"]) == 0
    assert "Do not publish it" in capsys.readouterr().out
    assert "Do not publish." in (tmp_path / "own" / "index.html").read_text()
    assert main([*command, "--site", str(tmp_path / "site")]) == 0
    assert "publish" not in capsys.readouterr().out
    href = flips_href("mini", "net-a", "net-b", VQA)
    assert (tmp_path / "site" / href).read_bytes() == (made.site / href).read_bytes()


def test_choice_counts_as_the_comparison_does():
    rng = np.random.default_rng(5)
    ids = tuple(f"{i:03}" for i in range(400))
    for _ in range(20):
        a, b = (rng.choice([0.0, 1 / 3, 0.6, 1.0], (3, 400)) for _ in range(2))
        clusters = np.array(ids)
        tables = [ScoreTable(sample_ids=ids, clusters=clusters, scores=s) for s in (a, b)]
        found, want = choose_flips(*tables), compare(a, b, clusters)
        assert (found.num_a, found.num_b) == (want.only_a, want.only_b)
        sizes = [round(abs(f.score_a - f.score_b), 9) for f in found.shown]
        assert sizes == sorted(sizes, reverse=True)


def test_equals_are_spread_over_the_samples():
    """A dataset's first ids may be of one kind: among equals none comes first for its place."""
    ids = tuple(f"{i:04}" for i in range(1000))
    arms = (
        ScoreTable(sample_ids=ids, clusters=np.array(ids), scores=np.full((3, 1000), x)) for x in (1.0, 0.0)
    )
    shown = [int(f.sample_id) for f in choose_flips(*arms).shown]
    assert len(shown) == SHOWN_EACH and max(shown) > 900 and min(shown) < 100
    assert 300 < np.mean(shown) < 700 and shown != sorted(shown)


def test_names_of_pages_cannot_meet_or_leave():
    names = ["x", "y", "x--y", "y--z", "z", "x-", "-y", "../x", "A", "a/b", "", "x" * 80]
    stems = [stem(a, b) for a in names for b in names]
    assert len(set(stems)) == len(stems)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", s) for s in stems)
    tasks = ["t", "t--only-first", "t-1", "only-first"]
    hrefs = [flips_href("p", "a", "b", t, d, n) for t in tasks for d in ("all", "a", "b") for n in (1, 2, 11)]
    assert len(set(hrefs)) == len(hrefs)


def test_the_printed_command_is_safe_to_paste(made):
    pair = next(p for p in made.facts.pairs if p.b == EVIL)
    for b in (EVIL, 'a"; rm -rf x; "', "$(id)", "it's", "`id`"):
        words = shlex.split(query_words("mini", VQA, dataclasses.replace(pair, b=b)))
        assert words[:2] == ["eyechart", "query"] and len(words) == 3
        assert words[2].endswith("b = '" + b.replace("'", "''") + "'")
    assert query_words("mini", VQA, dataclasses.replace(pair, b="net-b")).endswith("b = 'net-b'\"")


def test_references_are_counted():
    assert counted(["red", "red", "blue", "red"]) == ("red (3)", "blue")
