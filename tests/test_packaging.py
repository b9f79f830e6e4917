"""What is installed: a torch-free core, every data file, scripts that parse."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"torch", "transformers", "datasets", "timm", "open-clip-torch", "peft", "lmms-eval", "vllm", "ray"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", r, maxsplit=1)[0] for r in requirements}


def test_core_is_torch_free():
    assert not names(PYPROJECT["project"]["dependencies"]) & HEAVY


def test_extras_are_those_of_the_design():
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) == {"run", "vllm", "ray", "site", "dev"}
    assert HEAVY - {"vllm", "ray"} <= names(extras["run"])


def test_every_pin_is_exact():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    loose = [
        line
        for line in lines
        if not line.startswith("#") and not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.]+", line)
    ]
    assert not loose, "only plain `name==version`: a build flavour (+cpu) or a path is of one machine"


def test_every_direct_requirement_is_pinned():
    pinned = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = names([*PYPROJECT["project"]["dependencies"], *extras["run"], *extras["dev"], *extras["site"]])
    missing = {n for n in wanted if re.sub(r"[-_.]+", "-", n).lower() not in pinned}
    assert not missing, f"`make pins` after installing {sorted(missing)}"


def test_data_files_are_packaged(tracked_files):
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    packaged: set[Path] = set()
    for package in ("harness", "leaderboard"):
        for pattern in data[package]:
            packaged.update((ROOT / package).glob(pattern))
    for package in ("harness", "leaderboard", "tasks"):
        for pattern in data["*"]:
            packaged.update((ROOT / package).rglob(pattern))
    left = [
        p.relative_to(ROOT).as_posix()
        for p in tracked_files
        if p.relative_to(ROOT).parts[0] in ("harness", "leaderboard", "tasks")
        and p.suffix != ".py"
        and p not in packaged
    ]
    assert not left, f"add to package-data in pyproject.toml: {left}"


@pytest.mark.parametrize(
    "script", ["scripts/setup.sh", "scripts/setup-site.sh", "scripts/pins.sh", ".ci/run"]
)
def test_scripts_parse_and_stop_at_the_first_failure(script):
    done = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in (ROOT / script).read_text(encoding="utf-8")
