"""The changelog of scores: entries are the file's, anchors last, Markdown never becomes foreign markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.errors import UsageError
from leaderboard import changes
from leaderboard.changes import changes_page, scores_entries
from leaderboard.facts import Facts
from leaderboard.kit import Kit, environment
from leaderboard.markdown import Grid, Items, Paragraph, Verbatim, plain_text, read_markdown
from leaderboard.profiles import site_frame

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = """# Changelog

Words before.

## Unreleased

### Scores

- One *moved* by **2** in `mini`, see [the record](https://example.org/a?b=1&c=2).

  | task | by |
  |---|---|
  | vqa | +1.0 `x` |

- Two
  - nested
    1. deeper

### Changed

- Not a score.

## [0.2.0] - 2026-12-01

### Scores

A paragraph of its own.

#### Of protocol mini

- Under a lower heading.

### Added

- Nor this.

## 0.1.0

### Added

- Nothing moved.
"""


class Page(HTMLParser):
    """Elements and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.ids = [a["id"] for _, a in self.elements if "id" in a]
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data


def page_of(path: Path | None) -> str:
    facts = Facts(
        metrics={}, submissions={}, runs=(), scores={}, seed_pools={}, chances={}, tasks={}, suites={},
        protocols={}, pairs=(), set_aside=(), index_digest="0" * 64,
    )  # fmt: skip
    kit = Kit(facts=facts, compared=(), site=site_frame(facts, ()), environment=environment())
    return changes_page(kit, path)["changes.html"].decode()


def write(folder: Path, text: str) -> Path:
    path = folder / "CHANGELOG.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_entries_of_the_repository():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = re.findall(r"^### Scores\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    bullets = [line for part in parts for line in part.splitlines() if line.startswith("- ")]
    found = scores_entries()
    assert len(found) == len(bullets) > 0
    page = Page(page_of(ROOT / "CHANGELOG.md"))
    for entry, bullet in zip(found, bullets, strict=True):
        # Plain text has no marks of code; the bullet's first words are otherwise the entry's.
        assert entry.text.startswith(bullet[2:].replace("`", "")[:60])
        assert entry.anchor in page.ids
    for line in (line for part in parts for line in part.splitlines() if re.match(r"  \| mini-", line)):
        for cell in line.strip().strip("|").split("|"):
            assert cell.strip() in page.words


def test_only_scores_and_all_of_them(tmp_path):
    found = scores_entries(write(tmp_path, SAMPLE))
    assert [(e.version, e.date) for e in found] == [
        ("Unreleased", ""),
        ("Unreleased", ""),
        ("0.2.0", "2026-12-01"),
        ("0.2.0", "2026-12-01"),
    ]
    assert found[0].text == "One moved by 2 in mini, see the record.\ntask | by\nvqa | +1.0 x"
    assert found[1].text == "Two\nnested\ndeeper"
    assert found[2].text == "A paragraph of its own."
    assert found[3].text == "Of protocol mini\nUnder a lower heading."
    page = Page(page_of(tmp_path / "CHANGELOG.md"))
    assert "Not a score" not in page.words and "Nor this" not in page.words and "0.1.0" not in page.words
    assert "2026-12-01" in page.words


def test_marks_become_elements(tmp_path):
    html = page_of(write(tmp_path, SAMPLE))
    for part in ("<em>moved</em>", "<strong>2</strong>", "<code>mini</code>", '<th scope="col">task</th>'):
        assert part in html
    hrefs = [a["href"] for t, a in Page(html).elements if t == "a" and a.get("rel")]
    assert hrefs == ["https://example.org/a?b=1&c=2"]
    assert [t for t, _ in Page(html).elements].count("ol") == 1


def test_anchors_are_unique_and_outlive_the_name_of_a_version(tmp_path):
    twice = SAMPLE.replace("- Two\n", "- Two\n- Same.\n- Same.\n")
    before = scores_entries(write(tmp_path, twice))
    anchors = [e.anchor for e in before]
    assert len(set(anchors)) == len(anchors)
    page = Page(page_of(tmp_path / "CHANGELOG.md"))
    assert len(set(page.ids)) == len(page.ids) and set(anchors) <= set(page.ids)
    named = twice.replace("## Unreleased", "## 0.3.0 – 2027-01-02").replace(
        "### Scores\n", "### Scores\n\n- New.\n", 1
    )
    after = scores_entries(write(tmp_path, named))
    assert [e.anchor for e in after[1:]] == anchors
    assert after[1].version == "0.3.0" and after[1].date == "2027-01-02"


HOSTILE = """## Unreleased

### Scores

- <script>alert(1)</script> and <img src=x onerror=alert(2)> inline
- [press](javascript:alert(3)) [again](data:text/html,x) [odd](//example.org) [file](docs/format.md) {{ 7*7 }}
- ![picture](https://example.org/x.png "t") <https://example.org/auto> <javascript:alert(4)>
- [ref]

<div onclick="alert(5)">block</div>

> quoted <b>bold</b>

```html
<iframe src="x"></iframe>
```

| <i>a</i> | "b' |
|---|---|
| <svg onload=alert(6)> | `</code><script>alert(7)</script>` |

---

[ref]: javascript:alert(8)
"""


def test_hostile_markdown_stays_text(tmp_path):
    plain_page = Page(page_of(None))
    html = page_of(write(tmp_path, HOSTILE))
    page = Page(html)
    allowed = {"p", "ul", "ol", "li", "table", "caption", "thead", "tbody", "tr", "th", "td", "pre", "code"}
    allowed |= {"section", "article", "h2", "div", "a", "strong", "em"}
    assert {t for t, _ in page.elements} <= {t for t, _ in plain_page.elements} | allowed
    assert not [a for _, a in page.elements for key in a if key.startswith("on")]
    assert html.count("<script") == page_of(None).count("<script")
    inside = html.split("<main", 1)[1].split("</main>", 1)[0]
    links = [a["href"] for t, a in Page(inside).elements if t == "a"]
    outside = [h for h in links if h and not h.startswith("#") and h not in {"index.html", "methods.html"}]
    assert outside == ["https://example.org/auto"]
    for text in (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(2)>",
        "press",
        "{{ 7*7 }}",
        "picture",
    ):
        assert text in page.words
    for text in ('<div onclick="alert(5)">block</div>', "quoted <b>bold</b>", '<iframe src="x"></iframe>'):
        assert text in page.words
    assert "</code><script>alert(7)</script>" in page.words


def test_without_a_changelog_the_page_says_so(monkeypatch, tmp_path):
    assert "The changelog did not come along" in page_of(None)
    # An installed package: its parent holds a stranger's changelog and no pyproject.toml.
    write(tmp_path, SAMPLE)
    monkeypatch.setattr(changes, "HERE", tmp_path / "leaderboard")
    assert changes.changelog_path() is None and scores_entries() == ()
    (tmp_path / "pyproject.toml").write_text("")
    assert len(scores_entries()) == 4


def test_a_changelog_without_scores(tmp_path):
    path = write(tmp_path, "# Changelog\n\n## Unreleased\n\n### Added\n\n- x\n")
    assert scores_entries(path) == () and "No change is listed yet." in page_of(path)


def test_what_cannot_be_read_is_one_line(tmp_path):
    path = tmp_path / "CHANGELOG.md"
    path.write_bytes(b"## \xff")
    with pytest.raises(UsageError, match="cannot read the changelog"):
        scores_entries(path)
    with pytest.raises(UsageError, match="cannot read the changelog"):
        scores_entries(tmp_path / "absent.md")


def test_blocks():
    (part,) = read_markdown("a `b`\nc\n\n1. x\n\n   y\n\n|h|\n|-|\n|v|\n\n    code\n\n> q\n")
    paragraph, items, grid, code, quote = part.blocks
    assert isinstance(paragraph, Paragraph) and plain_text([paragraph]) == "a b c"
    assert isinstance(items, Items) and items.ordered and len(items.items[0]) == 2
    assert isinstance(grid, Grid) and len(grid.rows) == 1
    assert code == Verbatim(text="code") and quote == Verbatim(text="> q")


def test_text_is_kept_whole():
    # Whatever the nesting, no word of the source is lost.
    words = [f"w{i}" for i in range(40)]
    text = "".join(f"{'  ' * (i % 5)}- {w} **{w}b**\n" for i, w in enumerate(words))
    flat = plain_text([b for p in read_markdown(text) for b in p.blocks])
    for word in words:
        assert re.search(rf"\b{word}\b", flat) and re.search(rf"\b{word}b\b", flat)


def test_an_entry_may_bear_its_own_date(tmp_path):
    path = tmp_path / "CHANGELOG.md"
    path.write_text(
        "# C\n\n## 1.0 - 2026-01-02\n\n### Scores\n\n- 2025-12-31: One moved.\n- Another moved.\n"
    )
    assert [c.date for c in scores_entries(path)] == ["2025-12-31", "2026-01-02"]
    assert all(c.date for c in scores_entries())  # the feed orders by them
