"""Where things rest that can be made again: data, caches, unfinished work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = "EYECHART_HOME"
"""The one environment variable that moves a folder; it cannot move a number."""
RESULTS = Path("results")
"""Bundles of record, below the working directory."""


@dataclass(frozen=True, slots=True)
class Home:
    """Folders below $EYECHART_HOME, or .eyechart in the working directory."""

    root: Path

    def data(self, suite: str) -> Path:
        """Datasets of a suite."""
        return self.datasets / suite

    @property
    def datasets(self) -> Path:
        """Datasets of all suites, a folder a suite."""
        return self.root / "data"

    @property
    def llms(self) -> Path:
        """Fetched language models."""
        return self.root / "llms"

    @property
    def protocols(self) -> Path:
        """A person's own protocols, and pinned copies of those that come with Eyechart."""
        return self.root / "protocols"

    @property
    def features(self) -> Path:
        """Cached features."""
        return self.root / "cache" / "features"

    @property
    def adapters(self) -> Path:
        """Trained adapters."""
        return self.root / "cache" / "adapters"

    @property
    def answers(self) -> Path:
        """Answers and their scores, by the hash of what made them."""
        return self.root / "cache" / "answers"

    @property
    def unfinished(self) -> Path:
        """States of training that was interrupted."""
        return self.root / "unfinished"

    @property
    def results(self) -> Path:
        """Bundles of runs that are not of record."""
        return self.root / "results"

    @property
    def database(self) -> Path:
        """The DuckDB index."""
        return self.root / "eyechart.duckdb"


def find_home(root: Path | None = None) -> Home:
    """The home folder: the argument, $EYECHART_HOME, or .eyechart here."""
    return Home((root or Path(os.environ.get(ENVIRONMENT) or ".eyechart")).absolute())
