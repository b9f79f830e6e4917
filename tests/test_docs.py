"""Documentation that cannot drift: the README's tree, the commands, the links and the targets are checked."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def harness_entries() -> set[str]:
    """Top level of harness/: modules, and folders with a trailing slash."""
    found = {p.name for p in (ROOT / "harness").glob("*.py") if not p.name.startswith("__")}
    return found | {
        p.name + "/" for p in (ROOT / "harness").iterdir() if p.is_dir() and any(p.rglob("*.[pt]*"))
    } - {"__pycache__/"}


def tree_entries() -> dict[str, str]:
    """Name -> phrase of the README's tree, the part below harness/."""
    block = README.split("\nharness/\n", 1)[1].split("```", 1)[0]
    lines = [line for line in block.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    return {parts[0]: parts[1] for line in lines if len(parts := line.split(None, 1)) == 2}


def test_tree_lists_every_file_of_harness():
    listed = tree_entries()
    missing = harness_entries() - set(listed)
    assert not missing, f"README's tree lacks {sorted(missing)}"
    gone = set(listed) - harness_entries()
    assert not gone, f"README's tree names what is not there: {sorted(gone)}"
    assert all(len(phrase) <= 90 for phrase in listed.values()), "one phrase a file"


def test_first_screen():
    head = "\n".join(README.splitlines()[:25])
    assert "make demo" in head
    assert "make test" in head
    assert "toy" in "\n".join(README.splitlines()[:30])


@pytest.mark.skipif(not (ROOT / "harness" / "cli.py").exists(), reason="harness/cli.py does not exist yet")
def test_every_command_is_documented():
    from harness.cli import build_parser

    def walk(parser: argparse.ArgumentParser, path: str) -> list[str]:
        names: list[str] = []
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    names += [f"{path} {name}", *walk(sub, f"{path} {name}")]
        return names

    text = " ".join(" ".join(p.read_text(encoding="utf-8").split()) for p in DOCS)
    missing = [c for c in walk(build_parser(), "eyechart") if not re.search(rf"\b{re.escape(c)}\b", text)]
    assert not missing, f"not in README or docs: {missing}"


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    targets = {t.split("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", t)}
    gone = sorted(t for t in targets if not (path.parent / t).exists())
    assert not gone, f"{path.name} links to {gone}"


def test_named_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == targets
    for path in DOCS:
        named = set(re.findall(r"`make ([a-z-]+)`", path.read_text(encoding="utf-8")))
        assert named <= targets, f"{path.name} names {sorted(named - targets)}"


def test_changelog_starts_with_scores():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert headings[0] == "Scores"


def test_pins_agree_with_setup():
    setup = (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    pins = dict(
        line.split("==", 1)
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    assert f"TORCH={pins['torch']} " in setup
    assert f"TORCHVISION={pins['torchvision']}" in setup


def test_version_is_said_once_each():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in citation
