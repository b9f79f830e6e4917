"""The `eyechart mini …` commands: data, training, proof, results of record."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace

from harness.commands import ensure_suite
from harness.errors import IncompleteError, IntegrityError, UsageError
from harness.home import RESULTS, find_home
from harness.progress import Stage
from harness.tables import text_table


def run_part(arguments: argparse.Namespace) -> int:
    """Carry out one part."""
    parts = {
        "data": _data,
        "train": _train,
        "train-llm": _train_llm,
        "proof": _proof,
        "record": _record,
        "reproduce": _reproduce,
        "tables": _tables,
    }
    return parts[arguments.part](arguments)


def _workers(arguments: argparse.Namespace) -> int:
    return arguments.workers or min(4, len(os.sched_getaffinity(0)))


def _data(arguments: argparse.Namespace) -> int:
    from harness.mini.suite import suite_digests

    home = find_home(arguments.home)
    ensure_suite("mini", home)
    rows = [[name, digest] for name, digest in suite_digests(home.data("mini")).items()]
    print(text_table(["dataset", "digest"], rows))
    return 0


def _train(arguments: argparse.Namespace) -> int:
    """Train members in worker processes; with --out unset the weights go into <home>/zoo."""
    from harness.mini.members import MEMBERS

    home = find_home(arguments.home)
    out = arguments.out or home.root / "zoo"
    wanted = [m for m in MEMBERS if not arguments.only or m.name in arguments.only]
    if not wanted:
        raise UsageError(
            "no such member", found=" ".join(arguments.only), expected=", ".join(m.name for m in MEMBERS)
        )
    waiting = [m.name for m in wanted if not (out / m.name / "model.safetensors").is_file()]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            while waiting and len(running) < _workers(arguments):
                name = waiting.pop(0)
                command = [
                    sys.executable,
                    "-m",
                    "harness.mini.train_member",
                    name,
                    str(out),
                    str(home.root / "pool"),
                ]
                running.append((name, subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})))
            name, process = running.pop(0)
            if process.wait() != 0:
                raise IncompleteError(
                    "training of a member failed", where=name, fix="see above, then run again"
                )
    finally:
        for _, process in running:
            process.terminate()
    print(f"{len(wanted)} members in {out}")
    return 0


def _train_llm(arguments: argparse.Namespace) -> int:
    import torch

    from harness.mini.llm_train import train_llm

    torch.set_num_threads(1)
    print(f"language model in {train_llm(arguments.out)}")
    return 0


def _proof(arguments: argparse.Namespace) -> int:
    from harness.adapter.llm import load_llm
    from harness.llm_files import llm_revision
    from harness.mini.proof import DEFAULT_NEEDED, NEEDED, prove
    from harness.protocol import read_protocol

    recipe, folder = read_protocol("mini").llm, arguments.llm
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise UsageError("no language model", where=str(folder), expected="a folder that train-llm wrote")
        recipe = replace(recipe, revision=llm_revision(folder))
    shares = prove(load_llm(recipe, folder))
    rows = [
        [
            s.kind,
            str(s.asked),
            f"{s.share:.1%}",
            f"{NEEDED.get(s.kind, DEFAULT_NEEDED):.0%}",
            "yes" if s.enough else "NO",
        ]
        for s in shares
    ]
    print(text_table(["kind", "asked", "right", "needed", "enough"], rows, numbers=(1, 2, 3)))
    if not all(s.enough for s in shares):
        weak = ", ".join(s.kind for s in shares if not s.enough)
        raise IntegrityError("the language model does not answer from perfect text", found=weak)
    return 0


def _record(arguments: argparse.Namespace) -> int:
    from harness.mini.record import record, recorded_ids

    home = find_home(arguments.home)
    ensure_suite("mini", home)
    names = _known(recorded_ids(arguments.only), arguments.only)
    show = Stage("results of record", "encoders")
    record(names, home, RESULTS, _workers(arguments), show)
    show.close(f"{len(names)} encoders and floors")
    return 0


def _known(names: list[str], only: list[str]) -> list[str]:
    if not names:
        raise UsageError("no such encoder of record", found=" ".join(only))
    return names


def _reproduce(arguments: argparse.Namespace) -> int:
    from harness.mini.record import TOLERANCE, recorded_ids, reproduce

    home = find_home(arguments.home)
    ensure_suite("mini", home)
    names = _known(recorded_ids(arguments.only), arguments.only)
    show = Stage("reproduce", "encoders")
    found = reproduce(names, home, RESULTS, _workers(arguments), show)
    show.close()
    outside = [d for d in found if not d.within]
    rows = [
        [
            d.encoder,
            d.task,
            str(d.seed),
            f"{d.recorded:.4f}",
            "missing" if d.repeated is None else f"{d.repeated:.4f}",
        ]
        for d in (outside or found)
    ]
    print(text_table(["encoder", "task", "seed", "recorded", "repeated"], rows, numbers=(2, 3, 4)))
    print(
        f"{len(found)} runs, {sum(d.identical for d in found)} with identical answers, "
        f"{len(outside)} outside ±{TOLERANCE}"
    )
    if outside or not found:
        raise IntegrityError(
            "the results of record were not reproduced", found=f"{len(outside)} runs outside tolerance"
        )
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    from harness.mini.report import report_markdown

    print(report_markdown(find_home(arguments.home), RESULTS))
    return 0
