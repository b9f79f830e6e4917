"""One short session on a graphics machine: the mini suite for as many encoders as the time allows, and speed.

    python scripts/gpu_session.py --pack .gpu --out "$OUT" --minutes 8

Needs torch, transformers, timm, peft and pyarrow, and neither lmms-eval nor PyAV: answers are scored
elsewhere (`eyechart score`). In this order:
1. unpack the weights that are not in the tree, and start rendering the suite's images (CPU only);
2. measure throughput at the real scale meanwhile (scripts/gpu_bench.py), with the card to itself;
3. answer the mini suite, several encoders at a time, matched pairs first; none is begun after the time that
   leaves room for the longest one seen, and what is unfinished at the end is stopped and left out.
Leaves in OUT: answers.tar (a folder for `eyechart score`), bench.json, session.json, logs.tar.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "harness" / "mini" / "weights"
ORDER = """
    mini-resnet-siglip-s0 mini-resnet-words-s0 mini-pvt-siglip-s0 mini-pvt-words-s0 mini-resnet-label-s0
    mini-pvt-label-s0 mini-resnet-clip-s0 mini-pvt-clip-s0 demo mini-resnet-siglip-s1 mini-resnet-words-s1
    mini-resnet-label-s1 mini-resnet-clip-s1 floor-blind floor-random-resnet floor-random-pvt
    floor-pixel-patches floor-shuffled-resnet floor-shuffled-pvt
""".split()
"""The demo has the weights of mini-resnet-siglip-s0: the two show whether the card repeats itself."""
RESERVE_S = 12
"""For packing the results."""
GIVE_UP = 3
"""Failures without a success after which no other encoder is begun: a second try is worth more."""


class Session:
    """Folders, clock and children of one session."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.options, self.began = arguments, time.monotonic()
        self.work, self.out = arguments.work, arguments.out
        self.logs, self.home = self.work / "logs", self.work / "home"
        for folder in (self.logs, self.out, self.home):
            folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.facts: dict[str, Any] = {"encoders": {}}

    def left(self) -> float:
        """Seconds until results must be packed."""
        return self.options.minutes * 60 - RESERVE_S - (time.monotonic() - self.began)

    def start(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        """A child of ours with its output in a log."""
        with (self.logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log, env=self.environment, cwd=ROOT
            )

    def say(self, text: str) -> None:
        """A line with the time."""
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)


def unpack_weights(pack: Path) -> None:
    """Bring the weights into the tree where they are not there."""
    if (WEIGHTS / "llm" / "model.safetensors").is_file():
        return
    with tarfile.open(pack / "weights.tar.xz") as archive:
        archive.extractall(WEIGHTS.parent, filter="data")


def render(pack: Path, home: Path) -> None:
    """Write the suite's datasets (run as a child: `--render`)."""
    sys.path.insert(0, str(ROOT))
    from harness.mini.suite import DATASETS, write_suite

    packs = {path.parent.name: path for path in (pack / "frames").glob("*/frames-*.parquet")}
    write_suite(home / "data" / "mini", workers=len(DATASETS), packs=packs)


def run_suite(session: Session) -> None:
    """Encoders side by side while there is time; given up where the first ones all fail."""
    waiting, running = list(session.options.encoders), {}
    ended = session.facts["encoders"]
    longest = 0.0
    while (waiting or running) and session.left() > 0:
        while waiting and len(running) < session.options.at_a_time and session.left() > longest:
            name = waiting.pop(0)
            running[name] = _begin(session, name), time.monotonic()
            session.say(f"{name} begun")
        for name, (child, began) in list(running.items()):
            if child.poll() is not None:
                took = time.monotonic() - began
                longest = max(longest, took)
                ended[name] = {"exit": child.returncode, "seconds": round(took, 1)}
                _tell(session, name, child.returncode, took)
                del running[name]
        failed = [name for name, facts in ended.items() if facts["exit"] != 0]
        if waiting and (len(failed) == len(ended) >= GIVE_UP or (not running and session.left() <= longest)):
            break
        time.sleep(0.5)
    for name, (child, _) in running.items():
        child.terminate()
        ended[name] = {"exit": None}
    session.facts["not_begun"] = waiting


def _tell(session: Session, name: str, code: int, took: float) -> None:
    """How an encoder ended, with its last words where that was badly."""
    session.say(f"{name} ended with {code} after {took:.0f} s, {session.left():.0f} s left")
    if code:
        print((session.logs / f"{name}.log").read_text("utf-8", "replace")[-1500:], flush=True)


def _begin(session: Session, name: str) -> subprocess.Popen[bytes]:
    """`eyechart run` of one encoder in a home of its own that shares the data."""
    home = session.work / "homes" / name
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "data").exists():
        (home / "data").symlink_to(session.home / "data")
    options = session.options
    words = ["-m", "harness.cli", "run", str(WEIGHTS / f"{name}.toml"), "--protocol", options.protocol]
    words += ["--device", options.device, "--engine", "hf", "--home", str(home)]
    words += ["--workers", str(options.workers), "--answers-only", str(session.work / "answers" / name)]
    return session.start(name, words)


def pack_results(session: Session) -> None:
    """Tar what is whole, and the logs."""
    done = [name for name, facts in session.facts["encoders"].items() if facts["exit"] == 0]
    with tarfile.open(session.out / "answers.tar", "w") as archive:
        for name in done:
            archive.add(session.work / "answers" / name, "answers")
    with tarfile.open(session.out / "logs.tar", "w") as archive:
        archive.add(session.logs, "logs")
    session.facts["seconds"] = round(time.monotonic() - session.began, 1)
    (session.out / "session.json").write_text(json.dumps(session.facts, indent=1) + "\n")
    session.say(f"{len(done)} encoders answered: {', '.join(done)}")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pack", type=Path, default=ROOT / ".gpu", help="what scripts/gpu_pack.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/eyechart-gpu"))  # noqa: S108
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--protocol", default="mini")
    parser.add_argument("--encoders", nargs="*", default=ORDER)
    parser.add_argument("--at-a-time", type=int, default=6)
    parser.add_argument("--workers", type=int, default=3, help="processes an encoder")
    parser.add_argument("--parts", nargs="*", default=["bench", "suite"], choices=["bench", "suite"])
    parser.add_argument("--toy", action="store_true", help="small models in the bench, to try it on a CPU")
    parser.add_argument("--render", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Carry the session out."""
    arguments = read_arguments()
    if arguments.render:
        render(arguments.pack, arguments.work / "home")
        return
    session = Session(arguments)
    unpack_weights(arguments.pack)
    here = ["--pack", str(arguments.pack), "--out", str(arguments.out), "--work", str(arguments.work)]
    rendering = None
    if "suite" in arguments.parts:
        rendering = session.start("render", [str(Path(__file__)), *here, "--render"])
    if "bench" in arguments.parts:
        words = [str(ROOT / "scripts" / "gpu_bench.py"), "--out", str(arguments.out / "bench.json")]
        bench = session.start("bench", [*words, "--device", arguments.device, *["--toy"] * arguments.toy])
        try:
            bench.wait(timeout=max(1.0, session.left()))
        except subprocess.TimeoutExpired:
            bench.terminate()
        session.facts["bench_exit"] = bench.poll()
        print((session.logs / "bench.log").read_text("utf-8", "replace")[-6000:], flush=True)
        session.say("bench ended")
    try:
        if rendering is not None:
            session.facts["render_exit"] = rendering.wait(timeout=max(1.0, session.left()))
            session.say(f"suite rendered: {session.facts['render_exit']}")
            run_suite(session)
    finally:
        pack_results(session)


if __name__ == "__main__":
    main()
