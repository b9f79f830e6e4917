"""What every test runs under: no network, fixed seeds, one thread, and a way to rewrite golden files."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
OFFLINE = ROOT / "tests" / "offline"

# A runner started in the background (nohup, `&` in a script) ignores Ctrl-C, and every child inherits that:
# the tests of interruption would then test nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything imports numpy or torch: thread counts change the order of sums, hence last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(OFFLINE)]
    + [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(OFFLINE)]
)

_spec = importlib.util.spec_from_file_location("eyechart_offline", OFFLINE / "sitecustomize.py")
if _spec is None or _spec.loader is None:
    raise ImportError(OFFLINE)
offline = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(offline)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="write tests/golden anew instead of comparing"
    )


@pytest.fixture(autouse=True)
def network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Lets only tests marked `network` out."""
    if request.node.get_closest_marker("network") is None:
        os.environ.pop(offline.ALLOW, None)
        yield
        return
    os.environ[offline.ALLOW] = "1"
    yield
    os.environ.pop(offline.ALLOW, None)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Same global random state for every test, whatever ran before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules and hasattr(sys.modules["torch"], "manual_seed"):
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty EYECHART_HOME, so that no test meets another's caches."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("EYECHART_HOME", str(path))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The suite in miniature (tests/tiny_run.py), and the commands working on it."""
    import tiny_run  # here: most tests need neither torch nor a suite

    with pytest.MonkeyPatch.context() as patch:
        made = tiny_run.shared(tmp_path_factory)
        tiny_run.patch_commands(patch, made)
        yield made


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Compares a JSON value with tests/golden/<name>, or writes it under --write-golden."""

    def compare(name: str, value: object) -> None:
        path = GOLDEN / name
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        if request.config.getoption("--write-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), (
            f"tests/golden/{name} does not exist. Run `make golden` and read the difference."
        )
        expected = json.loads(path.read_text(encoding="utf-8"))
        assert json.loads(text) == expected, f"differs from tests/golden/{name}. If meant, run `make golden`."

    return compare


@pytest.fixture(scope="session")
def tracked_files() -> list[Path]:
    """Every file git tracks or would track; without git, every file outside the usual outputs."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        outputs = {".venv", ".eyechart", "site", "build", "dist", "__pycache__"}
        return sorted(
            p for p in ROOT.rglob("*") if p.is_file() and not outputs & set(p.relative_to(ROOT).parts)
        )
    return sorted(ROOT / name for name in listed if name and (ROOT / name).is_file())
