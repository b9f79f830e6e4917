"""feed.atom: valid Atom 1.0 whatever a title holds, dated by the records, the same for the same evidence."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from board_site import HOSTILE, MINI, kit_of, made_site

from harness.errors import UsageError
from leaderboard import feed as feed_module
from leaderboard.address import base_address, repository_address, stated_address, stated_repository
from leaderboard.badges import score_words
from leaderboard.build import render_site
from leaderboard.changes import scores_entries
from leaderboard.feed import MAX_ENTRIES, NO_DATE, feed

ATOM = "{http://www.w3.org/2005/Atom}"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "scores_entries", lambda: ())  # the changelog's own have a test below
        return made_site(tmp_path_factory.mktemp("feed"))


def parsed(data: bytes) -> ET.Element:
    """The feed, held against what RFC 4287 asks of one."""
    root = ET.fromstring(data)
    assert root.tag == f"{ATOM}feed"
    for element in (root, *root.iter(f"{ATOM}entry")):
        for name in ("id", "title", "updated"):
            (one,) = element.findall(ATOM + name)
            assert one.text
        assert re.fullmatch(r"urn:eyechart:sha256:[0-9a-f]{64}", element.findtext(f"{ATOM}id") or "")
        assert TIME.fullmatch(element.findtext(f"{ATOM}updated") or "")
        links = [(k.attrib["rel"], k.attrib.get("type")) for k in element.findall(f"{ATOM}link")]
        assert len(links) == len(set(links))  # at most one alternate of a type
        assert all(k.attrib["href"] for k in element.findall(f"{ATOM}link"))
    assert root.findtext(f"{ATOM}author/{ATOM}name")  # entries inherit it
    entries = root.findall(f"{ATOM}entry")
    assert all(e.find(f"{ATOM}summary") is not None or e.find(f"{ATOM}content") is not None for e in entries)
    ids = [e.findtext(f"{ATOM}id") for e in (root, *entries)]
    assert len(ids) == len(set(ids))
    assert "base" not in str([e.attrib for e in root.iter()])
    dates = [e.findtext(f"{ATOM}updated") or "" for e in entries]
    assert dates == sorted(dates, reverse=True)
    assert root.findtext(f"{ATOM}updated") == max(dates, default=NO_DATE)
    return root


def entry_of(root: ET.Element, title: str) -> ET.Element:
    (found,) = [e for e in root.iter(f"{ATOM}entry") if title in (e.findtext(f"{ATOM}title") or "")]
    return found


def dated(facts, encoder: str, *dates: object):
    """Facts in which the encoder's runs were written at these times, in turn."""
    mine = [r for r in facts.runs if r.encoder == encoder]
    turned = {r.run_key: dates[i % len(dates)] for i, r in enumerate(mine)}
    runs = tuple(
        dataclasses.replace(r, environment={"written": turned[r.run_key]}) if r.run_key in turned else r
        for r in facts.runs
    )
    return dataclasses.replace(facts, runs=runs)


def test_an_entry_for_each_row_with_its_scores(made):
    root = parsed((made.site / "feed.atom").read_bytes())
    assert len(root.findall(f"{ATOM}entry")) == 3
    vit = entry_of(root, "Vit, protocol mini")
    summary = vit.findtext(f"{ATOM}summary") or ""
    scores = [score_words(m) for (_, e, _), m in made.facts.metrics.items() if e == "vit"]
    assert len(scores) == 2 and all(words in summary for words in scores)
    assert "6 runs" in summary and "not an answer about real encoders" in summary
    assert entry_of(root, HOSTILE)  # as text


def test_links_are_relative_or_absolute(made):
    root = parsed((made.site / "feed.atom").read_bytes())
    links = [link.attrib["href"] for link in root.iter(f"{ATOM}link")]
    assert all((made.site / link).is_file() for link in links)
    absolute = parsed(feed(kit_of(made.facts, url="https://example.org/e/")))
    assert [link.attrib["href"] for link in absolute.iter(f"{ATOM}link")] == [
        f"https://example.org/e/{link}" for link in links
    ]


def test_the_date_is_the_last_run_s(made):
    facts = dated(made.facts, "vit", "2026-11-24T13:32:22Z", "2026-11-25T00:00:00Z", "2026-11-23T00:00:00Z")
    entry = entry_of(parsed(feed(kit_of(facts))), "Vit")
    assert entry.findtext(f"{ATOM}updated") == "2026-11-25T00:00:00Z"
    assert "no date" not in (entry.findtext(f"{ATOM}summary") or "")


@pytest.mark.parametrize("written", [None, 7, "", "yesterday", "2026-13-40T99:00:00Z", "2026-11-24", HOSTILE])
def test_no_sound_date_is_said(made, written):
    entry = entry_of(parsed(feed(kit_of(dated(made.facts, "vit", written)))), "Vit")
    assert entry.findtext(f"{ATOM}updated") == NO_DATE
    assert "The records of its runs bear no date." in (entry.findtext(f"{ATOM}summary") or "")


def test_ids_follow_the_evidence_and_nothing_else(made):
    kit = kit_of(made.facts)
    assert feed(kit) == feed(kit)

    def ids(facts) -> dict[str, str]:
        root = parsed(feed(kit_of(facts)))
        return {
            e.findtext(f"{ATOM}title") or "": e.findtext(f"{ATOM}id") or "" for e in root.iter(f"{ATOM}entry")
        }

    before = ids(made.facts)
    assert ids(dated(made.facts, "vit", "2026-11-24T13:32:22Z")) == before
    rerun = tuple(
        dataclasses.replace(r, bundle_digest="f" * 64) if (r.encoder, r.seed) == ("vit", 0) else r
        for r in made.facts.runs
    )
    after = ids(dataclasses.replace(made.facts, runs=rerun))
    assert {title for title in before if before[title] != after[title]} == {"Vit, protocol mini"}


@pytest.mark.parametrize(
    "title", ["a\x00b\x1f", "\ud800", "\ufffe", "]]><x>", "&amp;", "\u202e", "a\r\nb", "x" * 9000]
)
def test_any_title_makes_a_valid_feed(made, title):
    facts = made.facts
    submissions = {**facts.submissions, "vit": dataclasses.replace(facts.submissions["vit"], title=title)}
    root = parsed(feed(kit_of(dataclasses.replace(facts, submissions=submissions))))
    assert len(root.findall(f"{ATOM}entry")) == 3
    assert {e.tag.removeprefix(ATOM) for e in root.iter()} <= {
        "feed", "title", "subtitle", "id", "updated", "link", "author", "name", "entry", "category",
        "summary",
    }  # fmt: skip


def change(**changes):
    plain = {"heading": "VQA scored anew", "date": "2026-11-27", "anchor": "vqa", "text": "All rows moved."}
    return SimpleNamespace(**{**plain, **changes})


def test_changes_of_scores_are_entries(made, monkeypatch):
    changes = [change(), change(heading=f"Old {HOSTILE}", date="", text="Undated")]
    monkeypatch.setattr(feed_module, "scores_entries", lambda: changes)
    root = parsed(render_site(made.facts)["feed.atom"])
    first = entry_of(root, "VQA scored anew")
    assert first.findtext(f"{ATOM}updated") == "2026-11-27T00:00:00Z"
    assert first.find(f"{ATOM}link").attrib["href"].endswith("#vqa")  # type: ignore[union-attr]
    undated = entry_of(root, f"Old {HOSTILE}")
    assert undated.findtext(f"{ATOM}updated") == NO_DATE
    assert "gives no date" in (undated.findtext(f"{ATOM}summary") or "")


def test_the_changelog_is_in_the_feed(made):
    root = parsed(render_site(made.facts)["feed.atom"])
    links = [k.attrib["href"] for k in root.iter(f"{ATOM}link")]
    assert {f"changes.html#{c.anchor}" for c in scores_entries()} == {k for k in links if "#" in k} != set()


def test_a_long_feed_keeps_the_newest_and_says_so(made):
    many = [change(heading=f"c{i}", date=f"2{i:03}-01-01") for i in range(MAX_ENTRIES + 50)]
    root = parsed(feed(kit_of(made.facts), many))
    assert len(root.findall(f"{ATOM}entry")) == MAX_ENTRIES
    assert f"The newest {MAX_ENTRIES} of {MAX_ENTRIES + 53}." in (root.findtext(f"{ATOM}subtitle") or "")
    assert root.findtext(f"{ATOM}entry/{ATOM}title") == f"c{MAX_ENTRIES + 49}"


def test_a_rehearsal_and_an_empty_index_have_no_rows(made):
    nothing = parsed(feed(kit_of(dataclasses.replace(made.facts, suites={MINI: "rehearsal"}))))
    assert nothing.findall(f"{ATOM}entry") == [] and nothing.findtext(f"{ATOM}updated") == NO_DATE


# --- the address -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["https://example.org", "http://a.example:8080/x/", "https://u.github.io/eyechart"]
)
def test_an_address_ends_in_a_slash(text):
    assert base_address(text) == text.rstrip("/") + "/"


@pytest.mark.parametrize(
    "text",
    [
        "example.org", "ftp://example.org/", "https://", "javascript:alert(1)", "https://a/?q", "https://a/#b",
        'https://a/"><script>', "https://u:p@a/", "https://a/../b/", "https://a b/", "https://a/\n", "//a/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="not an address of a site"):
        base_address(text)


def test_every_page_leads_to_the_repository_that_was_named(made, tmp_path):
    address = "https://example.org/us/eyechart"
    assert repository_address(f"{address}/") == address
    for name, data in render_site(made.facts, repository=address).items():
        if name.endswith(".html"):
            assert f'<a id="repository" href="{address}">' in data.decode()
            (tmp_path / name.replace("/", "-")).write_bytes(data)
    assert stated_repository(tmp_path) == address
    assert f"git clone {address}" in (tmp_path / "submit.html").read_text()
    for text in ("javascript:x", "https://user@example.org/x", "example.org"):
        with pytest.raises(UsageError, match="--repository: not an address"):
            repository_address(text)


def test_every_page_knows_its_address(made, tmp_path):
    url = "https://example.org/e/"
    for name, data in render_site(made.facts, url=url).items():
        if name.endswith(".html"):
            text = data.decode()
            assert f'<meta property="og:image" content="{url}social.png">' in text
            assert (
                f'type="application/atom+xml" title="New rows and changed scores" href="{url}feed.atom"'
                in text
            )
            assert (f'<link rel="canonical" href="{url}{name}">' in text) == (name != "404.html")
            (tmp_path / name.replace("/", "-")).write_bytes(data)
    assert stated_address(tmp_path) == url
    assert stated_address(made.site) == ""
    assert stated_repository(made.site) == stated_repository(tmp_path) == ""
    assert f'href="{url}static/site.css"' in (tmp_path / "404.html").read_text()
    for page in made.site.rglob("*.html"):
        text = page.read_text()
        assert "og:image" not in text and "canonical" not in text
        assert text.count('property="og:title"') == text.count('property="og:description"') == 1
