"""`make example-gate`: five candidates against the baseline of examples/gate, and what came of each.

Prints one line and exits 0 when all come out as they should; else a line for each that does not, and exits 1.
Everything runs as a user would run it: `eyechart check` as a process, its exit code and its JUnit file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from junitparser import Failure, JUnitXml

ROOT = Path(__file__).resolve().parent.parent
GATE = ROOT / "examples" / "gate"


@dataclass(frozen=True)
class Case:
    """One candidate and what must come of it."""

    name: str
    candidate: str
    code: int
    words: tuple[str, ...] = ()
    policy: str = "policy.toml"
    says: str = ""
    """On standard output."""
    failing: str = ""
    """Task that JUnit must name as failed."""


CASES = (
    Case("honest", "honest", 0, says="pass: "),
    Case("degraded", "degraded", 1, says="REGRESSION", failing="eyechart_mini_vqa"),
    Case("under-powered", "under-powered", 0, policy="narrow.toml", says="inconclusive"),
    Case("under-powered, strict", "under-powered", 11, words=("--strict",), policy="narrow.toml"),
    Case("other protocol", "other-protocol", 12, says="not comparable"),
)


def run(case: Case, folder: Path) -> list[str]:
    """What is wrong with one case; nothing when all is as it should be."""
    junit = folder / f"{case.candidate}-{case.code}.xml"
    words = ["check", "--baseline", str(GATE / "baseline.json"), "--candidate", str(GATE / case.candidate)]
    words += ["--policy", str(GATE / case.policy), "--junit", str(junit), *case.words]
    got = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    wrong = []
    if got.returncode != case.code:
        wrong.append(f"exit {got.returncode}, expected {case.code}: {(got.stderr or got.stdout)[-300:]}")
    if case.says not in got.stdout:
        wrong.append(f"does not say {case.says!r}")
    if "Traceback" in got.stderr:
        wrong.append("a traceback")
    if case.failing:
        cases = [c for suite in JUnitXml.fromfile(str(junit)) for c in suite]
        failed = [c.name for c in cases if any(isinstance(r, Failure) for r in c.result)]
        if case.failing not in failed:
            wrong.append(f"JUnit names {failed}, not {case.failing}")
    return wrong


def main() -> int:
    """Run all five."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = {case.name: run(case, Path(folder)) for case in CASES}
    wrong = [f"{name}: {'; '.join(what)}" for name, what in found.items() if what]
    if wrong:
        print("\n".join(f"example-gate: {line}" for line in wrong))
        return 1
    codes = ", ".join(f"{case.name} {case.code}" for case in CASES)
    print(f"example-gate: all as they should be ({codes}) in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
