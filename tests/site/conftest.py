"""One browser and three sites for all tests of the site; see browser.py and sites.py beside this file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sites
from browser import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Real Chromium, started once."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def of_record(tmp_path_factory: pytest.TempPathFactory) -> sites.BuiltSite:
    """The site of results/."""
    return sites.site_of_record(tmp_path_factory.mktemp("record"))


@pytest.fixture(scope="session")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> sites.BuiltSite:
    """The site of results that are awkward to show."""
    return sites.awkward_site(tmp_path_factory.mktemp("awkward"))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> sites.BuiltSite:
    """The site of a stranger's words."""
    return sites.hostile_site(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(params=["of_record", "awkward"])
def site(request: pytest.FixtureRequest) -> sites.BuiltSite:
    """Either ordinary site."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Folder of the pictures, empty; CI keeps it."""
    folder = sites.ROOT / "site-screenshots"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
