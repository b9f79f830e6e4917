"""A small index with pairs, and its site, for the tests of what stands beside the pages."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from index_bundles import submission, write

from harness.pairs import read_pairs
from harness.store import ingest
from leaderboard.build import _protocol_order, build_site
from leaderboard.comparisons import Comparisons
from leaderboard.facts import Facts
from leaderboard.index import read_facts
from leaderboard.kit import Kit, environment
from leaderboard.profiles import site_frame

MINI = "mini"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
PROBE, VQA = "eyechart_mini_probe", "eyechart_mini_vqa"
PAIRS = """
[[pair]]
a = "resnet"
b = "vit"
held_equal = ["images"]
differs = ["objective"]
note = "measured"
"""


def write_results(root: Path) -> None:
    """Two encoders, one of them with hostile words, and a floor: two tasks, three seeds."""
    hostile = submission("resnet", title=f"ResNet {HOSTILE}", authors=(HOSTILE,), license=HOSTILE)
    for seed in range(3):
        for task in (PROBE, VQA):
            write(root, "vit", seed, task=task)
            write(root, "blind", seed, task=task)
            write(root, "resnet", seed, task=task, submission=hostile, answer=HOSTILE)


def made_site(home: Path, **options: Any) -> SimpleNamespace:
    """Results, index, pairs and site below `home`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        write_results(home / "results")
        (home / "pairs.toml").write_text(PAIRS)
        ingest(home / "db.duckdb", home / "results", pairs=read_pairs(home / "pairs.toml"))
        report = build_site(home / "db.duckdb", home / "site", home / "pairs.toml", **options)
    facts = read_facts(home / "db.duckdb", home / "pairs.toml", None)
    return SimpleNamespace(home=home, db=home / "db.duckdb", site=home / "site", report=report, facts=facts)


def kit_of(facts: Facts, database: Path | None = None, url: str = "") -> Kit:
    """What the makers of pages get."""
    compared = [Comparisons(facts, protocol) for protocol in _protocol_order(facts)]
    return Kit(
        facts=facts,
        compared=compared,
        site=site_frame(facts, compared),
        environment=environment(),
        database=database,
        url=url,
    )
