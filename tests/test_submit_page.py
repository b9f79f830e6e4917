"""The page for people with a checkpoint: every command exists, and the files it shows are accepted."""

from __future__ import annotations

import re
import shlex
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.arguments import build_parser
from harness.ledger import read_attempts
from harness.protocol import read_protocol
from harness.records import TIERS
from harness.submission import parse_submission, spell_source
from leaderboard.facts import Facts
from leaderboard.kit import Kit, environment
from leaderboard.profiles import site_frame
from leaderboard.submit_page import ATTEMPT, ID, MANIFEST, submit_pages

ROOT = Path(__file__).resolve().parent.parent


class Code(HTMLParser):
    """Texts of <code>, of list items and of table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.code: list[str] = []
        self.rows: list[list[str]] = []
        self.inside: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "code":
            self.code.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        self.inside.add(tag)

    def handle_endtag(self, tag):
        self.inside.discard(tag)

    def handle_data(self, data):
        if "code" in self.inside:
            self.code[-1] += data
        if self.inside & {"td", "th"}:
            self.rows[-1][-1] += data


def made() -> str:
    facts = Facts(
        metrics={}, submissions={}, runs=(), scores={}, seed_pools={}, chances={}, tasks={}, suites={},
        protocols={}, pairs=(), set_aside=(), index_digest="0" * 64,
    )  # fmt: skip
    kit = Kit(facts=facts, compared=(), site=site_frame(facts, ()), environment=environment())
    return submit_pages(kit)["submit.html"].decode()


PAGE = made()
FOUND = Code(PAGE)
LINES = [line for code in FOUND.code for line in code.splitlines()]
COMMANDS = [line for line in LINES if re.match(r"(eyechart|make|git|source|python|pip) ", line)]
OURS = sorted({c for c in COMMANDS if c.startswith("eyechart ")})


def test_the_steps_are_there():
    names = {c.split()[1] for c in OURS}
    assert {"submit", "doctor", "plan", "run", "status", "verify", "convert", "data", "protocol"} <= names


@pytest.mark.parametrize("command", OURS)
def test_every_command_parses(command):
    # Inline mentions of a command alone are checked by name, whole lines with all their arguments.
    words = shlex.split(command)[1:]
    if words == ["submit"]:
        words = ["submit", "FOLDER"]
    assert build_parser().parse_args(words)


def test_the_parser_would_refuse_a_wrong_one():
    from harness.errors import UsageError

    with pytest.raises(UsageError):
        build_parser().parse_args(["run", "FOLDER/submission.toml", "--tiers", "self-reported"])


def test_other_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "make":
            assert words[1] in targets
        elif words[0] != "eyechart":
            assert words[0] in {"git", "source"}, command


def test_the_manifest_is_accepted():
    text = "\n".join(line.text for line in MANIFEST) + "\n"
    sub = parse_submission(text.encode(), Path("FOLDER/submission.toml"))
    assert (sub.id, sub.side, sub.source.kind) == (ID, "contrastive", "local")
    # The lines that are not a person's have the form that `eyechart submit` writes.
    assert "\n".join(spell_source(sub.source)).strip() in text
    for line in MANIFEST:
        assert line.text in LINES or not line.text


def test_ten_lines_are_a_persons():
    yours = [line.text for line in MANIFEST if line.yours]
    assert len(yours) == 10
    assert f"The {len(yours)} lines" in PAGE
    keys = {line.split(" = ")[0] for line in yours}
    assert keys >= {"title", "authors", "license", "contamination", "objective", "data", "images_seen"}
    assert not keys & {"sha256", "path", "resolution", "mean", "std", "revision", "kind"}


def test_the_entry_of_the_ledger_is_accepted(tmp_path):
    head = (ROOT / "results" / "attempts.toml").read_text(encoding="utf-8")
    (tmp_path / "attempts.toml").write_text(f"{head}\n{ATTEMPT}", encoding="utf-8")
    attempt = read_attempts(tmp_path)[ID]
    main = read_protocol("main")
    assert attempt.runs == len(main.tasks) * len(main.seeds)
    assert tomllib.loads(ATTEMPT)["attempt"][0]["encoder"] == ID
    assert all(line in LINES for line in ATTEMPT.splitlines())


def test_tiers_are_those_of_the_command_line():
    rows = [row for row in FOUND.rows if row[0] in TIERS]
    assert tuple(row[0] for row in rows) == TIERS
    docs = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    for tier, means, by in rows:
        line = next(text for text in docs.splitlines() if text.startswith(f"| `{tier}` |"))
        assert line.endswith(f"| {by} |") and means


def test_files_that_are_named_exist():
    for name in ("docs/verification.md", "results/attempts.toml", "results/tombstones.toml"):
        assert name in FOUND.code and (ROOT / name).is_file()


def test_the_badge_is_markdown_and_no_link():
    assert f"![Eyechart, VQAv2](SITE/badges/main/{ID}/eyechart_vqav2_val.svg)" in LINES
    assert "<img" not in PAGE
