"""What each command does, in terms of the stages. Heavy modules are imported where they run."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.home import RESULTS, Home, find_home
from harness.progress import Stage, spell_time
from harness.records import TIERS, Tier
from harness.tables import text_table


def _results_of(arguments: argparse.Namespace, home: Home) -> Path:
    return Path(arguments.results) if arguments.results else home.results


def ensure_suite(suite: str, home: Home) -> None:
    """Write the embedded suite's data and packs where they are missing; owners fetch other suites."""
    if suite != "mini":
        return
    from harness.mini.packs import write_packs
    from harness.mini.suite import DATASETS, suite_digests, write_suite

    if len(suite_digests(home.data(suite))) < len(DATASETS):
        show = Stage("mini suite", "datasets")
        write_suite(home.data(suite), progress=show)
        show.close()
    write_packs(home.data(suite))


def _make_plan(arguments: argparse.Namespace, num_seeds: int | None = None) -> Any:
    from harness.device import resolve_device
    from harness.engines.choose import resolve_engine
    from harness.plan import make_plan
    from harness.protocol import read_protocol, refuse_unpinned
    from harness.submission import read_submission

    home, device = find_home(arguments.home), resolve_device(arguments.device)
    if not arguments.manifest.is_file():
        raise UsageError("no such manifest", where=str(arguments.manifest))
    read_submission(arguments.manifest)  # first: a slip of the pen must not cost the minutes of a suite
    protocol = read_protocol(arguments.protocol, home.protocols)
    refuse_unpinned(protocol)
    if num_seeds is not None:  # an open sequence, and in no recipe
        protocol = replace(protocol, seeds=tuple(range(num_seeds)))
    ensure_suite(protocol.suite, home)
    results = _results_of(arguments, home)
    return make_plan(
        arguments.manifest,
        protocol,
        home,
        [results],
        board=[root for root in {results, RESULTS} if root.is_dir()],
        allow_code=arguments.allow_local_code,
        engine=resolve_engine(arguments.engine, device),
        device=device,
    )


def _units(plan: Any) -> list[dict[str, Any]]:
    return [
        {
            "task": u.task.name,
            "seed": u.seed,
            "state": "done" if u.bundle else "pending",
            "bundle": str(u.bundle or ""),
        }
        for u in plan.units
    ]


def plan(arguments: argparse.Namespace) -> int:
    """Check everything and print what a run would do."""
    from harness.engines.choose import require_engine
    from harness.forecast import GPUS, refuse_what_does_not_fit
    from harness.plan import require_room
    from harness.plan_tables import plan_facts, plan_table
    from harness.workload import device_here

    made = _make_plan(arguments)
    require_engine(made.engine)
    if arguments.on:
        device = GPUS[arguments.on]
        refuse_what_does_not_fit(made.forecast, device)
    else:
        device = device_here(made.subject.device)
        require_room(made, device)
    if arguments.json:
        print(json.dumps({**plan_facts(made, device), "list": _units(made)}, indent=1))
    else:
        print(plan_table(made, device))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print which units are done."""
    made = _make_plan(arguments)
    if arguments.json:
        print(json.dumps({"units": _units(made)}, indent=1))
        return 0
    print(text_table(["task", "seed", "state", "bundle"], [[*map(str, u.values())] for u in _units(made)]))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Measure an encoder."""
    if arguments.for_check is not None:
        return _run_for_check(arguments)
    if arguments.policy is not None:
        raise UsageError("--policy is of --for-check", fix="give --for-check BASELINE, or leave it out")
    made = _claim(_make_plan(arguments), arguments.tier)
    home = find_home(arguments.home)
    if arguments.answers_only:
        return _answer_only(made, arguments)
    report = carry_out(
        made,
        _results_of(arguments, home),
        arguments.workers,
        arguments.batch,
        heed_doctor=not arguments.ignore_doctor,
    )
    if arguments.json:
        print(
            json.dumps({"bundles": [str(b) for b in report.bundles], "stages_s": report.stages_s}, indent=1)
        )
        return 0
    where = report.bundles[0].parent
    roots = "" if arguments.results is None else f" {RESULTS} {arguments.results}"
    print(f"{len(report.bundles)} bundles in {where}. Next: eyechart ingest{roots} && eyechart publish")
    return 0


def _run_for_check(arguments: argparse.Namespace) -> int:
    """Measure a candidate and judge it; the exit code is that of the check."""
    from harness.check_commands import judge_looks, say_verdict
    from harness.check_output import as_json, as_text
    from harness.policy import Policy, read_policy
    from harness.protocol import read_protocol

    if arguments.answers_only:
        raise UsageError("--for-check needs scores", fix="leave out --answers-only")
    policy = read_policy(arguments.policy) if arguments.policy else Policy()
    results = _results_of(arguments, find_home(arguments.home))

    def measure(count: int) -> list[Path]:
        made = _claim(_make_plan(arguments, count), arguments.tier)
        heed = not arguments.ignore_doctor
        done = carry_out(made, results, arguments.workers, arguments.batch, heed_doctor=heed)
        return list(done.bundles)

    protocol = read_protocol(arguments.protocol, find_home(arguments.home).protocols)
    report = judge_looks(arguments.for_check, policy, measure, protocol.name)
    return say_verdict(report, as_json(report) if arguments.json else as_text(report))


def _claim(made: Any, tier: Tier) -> Any:
    """The plan with the tier that its bundles are to claim, where they may claim as much."""
    units = [
        replace(unit, run=replace(unit.run, tier=max((unit.run.tier, tier), key=TIERS.index)))
        for unit in made.units
    ]
    return replace(made, units=tuple(units))


def carry_out(
    made: Any, results: Path, workers: int | None = None, batch: int = 128, *, heed_doctor: bool = True
) -> Any:
    """Run a plan on this machine with progress on stderr."""
    from harness.run import run_plan

    with _executor(made, workers, batch) as executor:
        return run_plan(made, results, executor, Stage, batch, heed_doctor=heed_doctor)


def _executor(made: Any, workers: int | None, batch: int) -> Any:
    from harness.engines.choose import require_engine
    from harness.executors.local import LocalExecutor

    require_engine(made.engine)
    if batch < 1 or (workers is not None and workers < 1):
        raise UsageError("--workers and --batch must be at least 1")
    return LocalExecutor(workers)


def _answer_only(made: Any, arguments: argparse.Namespace) -> int:
    """Measure an encoder up to its answers; another machine scores them."""
    from harness.handover import write_answers

    with _executor(made, arguments.workers, arguments.batch) as executor:
        heed = not arguments.ignore_doctor
        places = write_answers(
            made, arguments.answers_only, executor, Stage, arguments.batch, heed_doctor=heed
        )
    if arguments.json:
        print(json.dumps({"answers": [str(place) for place in places]}, indent=1))
    else:
        print(f"answers of {len(places)} units. Next: eyechart score {arguments.answers_only}")
    return 0


def score(arguments: argparse.Namespace) -> int:
    """Score a folder of answers and write its bundles."""
    from harness.handover import score_answers

    home = find_home(arguments.home)
    results = _results_of(arguments, home)
    bundles = score_answers(arguments.answers, results, home, Stage, arguments.protocol)
    if arguments.json:
        print(json.dumps({"bundles": [str(bundle) for bundle in bundles]}, indent=1))
    else:
        print(f"{len(bundles)} bundles in {results}. Next: eyechart ingest {RESULTS} {results}")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Measure the example checkpoint as a submitter would, beside the results of record."""
    from harness.mini.members import WEIGHTS
    from harness.pairs import own_pairs, read_pairs
    from harness.plan import make_plan
    from harness.store import ingest
    from leaderboard.build import build_site

    began = time.monotonic()
    home = find_home(arguments.home)
    results = home.root / "demo-results"
    ensure_suite("mini", home)
    made = make_plan(WEIGHTS / "demo.toml", "mini", home, [results])
    print(
        f"eyechart run {WEIGHTS.name}/demo.toml --protocol mini: "
        f"{len(made.pending)} of {len(made.units)} units to do"
    )
    carry_out(made, results)
    roots = [root for root in (RESULTS, results) if root.is_dir()]
    database = home.root / "demo.duckdb"
    pairs = own_pairs()
    ingest(database, *roots, pairs=read_pairs(pairs) if pairs else ())
    report = build_site(database, arguments.site, pairs, datasets=home.datasets)
    print(_demo_table(database, made.subject.submission.id))
    print(
        "The mini suite is a toy world: a demonstration and a regression instrument, "
        "not a verdict on real encoders."
    )
    print(f"Site: {report.index} ({report.pages} pages). Whole demo: {spell_time(time.monotonic() - began)}.")
    return 0


def _demo_table(database: Path, encoder: str) -> str:
    from harness.store import open_store

    connection = open_store(database)
    try:
        query = (
            "SELECT l.task, l.value, l.ci_low, l.ci_high, l.num_seeds, b.value "
            "FROM leaderboard l LEFT JOIN leaderboard b "
            "ON b.task = l.task AND b.protocol = l.protocol AND b.encoder = 'floor-blind' "
            "WHERE l.encoder = ? ORDER BY ALL"
        )
        found = connection.execute(query, [encoder]).fetchall()
    finally:
        connection.close()
    rows = []
    for task, value, low, high, seeds, blind in found:
        shown = ["incomplete", ""] if value is None else [f"{value:.1%}", f"[{low:.1%}, {high:.1%}]"]
        lift = "no blind floor" if value is None or blind is None else f"{(value - blind) * 100:+.1f} points"
        rows.append([task.removeprefix("eyechart_"), *shown, lift, str(seeds)])
    return text_table(
        ["task", "score", "95 % interval", "lift over blind", "seeds"], rows, numbers=(1, 2, 3, 4)
    )
