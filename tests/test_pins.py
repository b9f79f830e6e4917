"""The two files of pins: readable, within the project's bounds, alike where they overlap."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = ["constraints.txt", "constraints-cuda.txt"]


def pins(name):
    """Canonical name -> version; every line that is no comment is `name==version`."""
    found = {}
    for line in (ROOT / name).read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)", line)
        assert match, f"{name}: {line}"
        key = canonicalize_name(match[1])
        assert key not in found, f"{name}: {key} twice"
        found[key] = Version(match[2])
    return found


def wishes():
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *extras["run"], *extras["dev"], *extras["site"]]
    return {canonicalize_name(r.name): r for r in map(Requirement, texts)}


@pytest.mark.parametrize("name", FILES)
def test_pins_are_within_the_bounds_of_the_project(name):
    found = pins(name)
    for key, wish in wishes().items():
        assert key in found, f"{name} lacks {key}"
        assert wish.specifier.contains(found[key]), f"{name}: {key} {found[key]}, wanted {wish.specifier}"


@pytest.mark.parametrize("name", FILES)
def test_builds_of_one_machine_are_not_pinned(name):
    assert not {k: v for k, v in pins(name).items() if v.local}, "no +cpu, no +cu130"


def test_the_cuda_pins_are_the_others_and_what_cuda_needs():
    cpu, cuda = pins("constraints.txt"), pins("constraints-cuda.txt")
    assert {key: cuda[key] for key in cpu if key in cuda} == {key: cpu[key] for key in cpu if key in cuda}
    # What pip brings along on Python 3.11 only, or asks for at build time.
    assert set(cpu) <= set(cuda), sorted(set(cpu) - set(cuda))
    more = set(cuda) - set(cpu)
    assert {key for key in more if not key.startswith(("nvidia-", "cuda-"))} <= {"triton", "setuptools"}


def test_the_cuda_pins_have_the_runtime():
    found = pins("constraints-cuda.txt")
    needed = {"cublas", "cuda-runtime", "cuda-nvrtc", "cudnn", "cufft", "cusolver", "cusparse", "nccl"}
    there = {re.sub(r"^nvidia-|-cu\d+$", "", key) for key in found}
    assert needed <= there
    assert "triton" in found
    majors = {found[f"nvidia-{key}"].major for key in ("cuda-runtime", "cuda-nvrtc", "cuda-cupti", "nvtx")}
    assert len(majors) == 1, "of one CUDA"


def test_setup_takes_the_file_for_its_device():
    text = (ROOT / "scripts" / "setup.sh").read_text("utf-8")
    assert "pins=constraints-cuda.txt" in text
    assert not re.search(r"-c constraints\.txt", text), "only through $pins"
