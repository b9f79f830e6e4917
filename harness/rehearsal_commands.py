"""`eyechart rehearsal`: the main suite's code from end to end on data made here, and a site that says so."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.home import Home, find_home
from harness.progress import Stage, spell_time
from harness.tables import text_table


def rehearse(arguments: argparse.Namespace) -> int:
    """Make the data, run every act, compare the engines, build the site."""
    from harness.engines.choose import require_engine
    from harness.rehearsal.perform import ACTS, agreements, perform
    from harness.rehearsal.suite import set_up

    began = time.monotonic()
    engines = arguments.engines
    for engine in engines:
        require_engine(engine)
    home = Home(find_home(arguments.home).root / "rehearsal")
    show = Stage("rehearsal's data", "datasets")
    rehearsal = set_up(home, show)
    show.close("made, imported, examined")
    for note in rehearsal.notes:
        print(f"note: {note}.")
    done = []
    for act in (a for a in ACTS if a.engine in engines):
        print(f"\n{act.name}")
        done.append(perform(rehearsal, act, Stage, arguments.workers))
    print("\n" + _acts_table(done))
    base = next((d for d in done if d.act == ACTS[0]), None)
    other = next((d for d in done if d.act.manifest == ACTS[0].manifest and d.act.engine == "vllm"), None)
    if base and other and base.act.protocol == other.act.protocol:
        print(f"\nAnswers that hf and vllm share ({base.act.manifest}, float32):")
        print(_agreement_table(agreements(base, other)))
    report = _publish(rehearsal, engines, arguments.site)
    print("\nA rehearsal: made-up pictures and a language model of random weights. No number is a result.")
    print(f"Site: {report.index} ({report.pages} pages). In all {spell_time(time.monotonic() - began)}.")
    return 0


def _publish(rehearsal: Any, engines: Sequence[str], site: Path) -> Any:
    from harness.pairs import own_pairs, read_pairs
    from harness.rehearsal.perform import results_of
    from harness.store import ingest
    from leaderboard.build import build_site

    database = rehearsal.home.database
    pairs = own_pairs()
    declared = read_pairs(pairs) if pairs else ()
    report = ingest(database, *(results_of(rehearsal, engine) for engine in engines), pairs=declared)
    print(f"\n{report.num_bundles} bundles, {report.num_samples:,} samples, {report.num_cells} cells.")
    return build_site(
        database,
        site,
        pairs,
        tasks_dir=rehearsal.tasks,
        protocols=list(rehearsal.protocols.values()),
    )


def _acts_table(done: Sequence[Any]) -> str:
    rows = [
        [
            one.act.protocol,
            one.act.manifest,
            one.act.engine,
            str(len(one.bundles)),
            f"{one.losses[0]:.2f}",
            f"{one.losses[1]:.2f}",
            spell_time(one.seconds),
        ]
        for one in done
    ]
    heads = ["protocol", "encoder", "engine", "units", "loss at first", "at last", "time"]
    return text_table(heads, rows, numbers=(3, 4, 5, 6))


def _agreement_table(found: Sequence[Any]) -> str:
    rows = [[a.task.removeprefix("eyechart_"), f"{a.num_answers:,}", f"{a.num_equal:,}"] for a in found]
    return text_table(["task", "answers", "equal"], rows, numbers=(1, 2))
