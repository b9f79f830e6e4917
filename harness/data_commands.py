"""The `eyechart data …` commands: list, fetch, import, doctor, pack."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.data import NOTE, read_note
from harness.datasets.download import download, look_up_dataset
from harness.datasets.make import Given, Made, import_dataset
from harness.datasets.packs import tasks_of, write_pack
from harness.datasets.pins import COMMIT, pinned, write_pin
from harness.datasets.specs import SPECS, UNPINNED, DatasetSpec, find_spec
from harness.errors import DatasetError, UsageError
from harness.home import Home, find_home
from harness.progress import Stage
from harness.tables import text_table

WORKERS = max(1, min(16, len(os.sched_getaffinity(0))))


def run_part(arguments: argparse.Namespace) -> int:
    """Carry out one part."""
    parts = {"list": _list, "fetch": _fetch, "import": _import, "doctor": _doctor, "pack": _pack}
    return parts[arguments.part](arguments)


def _print(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _list(arguments: argparse.Namespace) -> int:
    home = find_home(arguments.home)
    rows, told = [], []
    for spec in SPECS.values():
        state, facts = _state(home.data(arguments.suite) / spec.name)
        pin = pinned(spec.name, home.root)
        published = ", ".join(
            f"{s.name} {count:,}" if (count := s.rows or s.raw_rows) else s.name
            for s in spec.splits
            if s.rows or not s.hub_refusal
        )
        shown = pin if pin == UNPINNED else pin[:12]
        rows.append([spec.name, spec.title, published, f"{spec.repo}{' (gated)' * spec.gated}", shown, state])
        told.append(
            {
                "name": spec.name,
                "title": spec.title,
                "repo": spec.repo,
                "gated": spec.gated,
                "license": spec.license,
                "revision": pin,
                "published": {s.name: s.rows or s.raw_rows for s in spec.splits},
                **facts,
            }
        )
    if arguments.json:
        _print(told)
    else:
        print(text_table(["name", "dataset", "rows as published", "repository", "revision", "here"], rows))
        print("\nWhat each needs, and its licence: docs/data.md.")
    return 0


def _state(folder: Path) -> tuple[str, dict[str, Any]]:
    if not (folder / NOTE).is_file():
        return "-", {"digest": "", "rows": {}}
    try:
        note = read_note(folder)
    except DatasetError as error:
        return error.what, {"digest": "", "rows": {}}
    rows = ", ".join(f"{split} {count:,}" for split, count in note["rows"].items())
    return f"{rows} ({note['digest'][:12]})", {"digest": note["digest"], "rows": note["rows"]}


def _given(arguments: argparse.Namespace) -> Given:
    given = Given(
        splits=tuple(arguments.splits),
        copy=arguments.copy,
        partial=arguments.partial,
        against=tuple(arguments.against),
        workers=WORKERS,
    )
    if given.against and arguments.dataset != "mixture":
        raise UsageError("--against is for the training mixture", found=arguments.dataset, fix="leave it out")
    return given


def _import(arguments: argparse.Namespace) -> int:
    spec, home = find_spec(arguments.dataset), find_home(arguments.home)
    given = replace(_given(arguments), images=arguments.images, clips=arguments.clips)
    return _prepare(spec, arguments.source, home, given, arguments)


def _prepare(spec: DatasetSpec, place: Path, home: Home, given: Given, arguments: argparse.Namespace) -> int:
    stage = Stage(f"prepare {spec.name}", "rows")
    made = import_dataset(spec, place, home.data(arguments.suite), given, stage)
    stage.close(f"{sum(made.rows.values()):,} rows")
    packed = _write_pack(spec, made.path, arguments.suite)
    return _tell(made, packed, arguments)


def _write_pack(spec: DatasetSpec, folder: Path, suite: str) -> list[str]:
    """Pack the samples of the tasks whose split is there; returns the tasks."""
    rows = read_note(folder)["rows"]
    tasks = [task for task in tasks_of(suite, spec.name) if task.split in rows]
    if tasks:
        write_pack(folder, tasks, spec.license)
    return [task.name for task in tasks]


def _tell(made: Made, packed: list[str], arguments: argparse.Namespace) -> int:
    if arguments.json:
        _print({"path": str(made.path), "digest": made.digest, "rows": made.rows, "notes": made.notes})
        return 0
    rows = [[split, f"{count:,}"] for split, count in made.rows.items()]
    print(text_table(["split", "rows"], rows, numbers=[1]))
    for note in made.notes:
        print(f"note: {note}.")
    print(f"digest {made.digest}\nin {made.path}")
    if packed:
        print(f"packed for the site: {', '.join(packed)}")
    suite = f" --suite {arguments.suite}" * (arguments.suite != "main")
    print(f"Next: eyechart data doctor {made.path.name}{suite}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    spec, home = find_spec(arguments.dataset), find_home(arguments.home)
    given = _given(arguments)
    for split in given.splits:
        if why := spec.split(split).hub_refusal:
            raise DatasetError(
                f"{spec.title}: the hub's split {split} is not taken, {why}",
                where=spec.repo,
                fix=f"`eyechart data import {spec.name}` takes the official REFER files, see docs/data.md",
            )
    revision = _revision(spec, home, arguments)
    remote = look_up_dataset(spec, None if revision == UNPINNED else revision)
    if revision == UNPINNED:
        path = write_pin(spec.name, remote.revision, home.root)
        print(f"Pinned {spec.repo} at {remote.revision} in {path}.")
    folder = home.root / "downloads" / spec.repo / remote.revision
    stage = Stage(f"fetch {spec.name}", "bytes")
    download(spec, remote, given.splits, folder, stage)
    stage.close()
    source = {"repo": spec.repo, "revision": remote.revision}
    code = _prepare(spec, folder, home, replace(given, source=source), arguments)
    if spec.media == "image" and not arguments.json:
        print(f"The downloads are no longer needed: {folder}")
    return code


def _revision(spec: DatasetSpec, home: Home, arguments: argparse.Namespace) -> str:
    """What to fetch: the revision given, the pinned one, or UNPINNED where --pin allows to ask.

    Raises:
        UsageError: not 40 hex digits, another one than the pinned, or none at all.
    """
    pin = pinned(spec.name, home.root)
    if given := str(arguments.revision).lower():
        if not COMMIT.fullmatch(given):
            raise UsageError("not a commit", where="--revision", found=given, expected="40 hex digits")
        if arguments.pin and pin not in {UNPINNED, given}:
            raise UsageError("pinned to another revision", where=spec.name, found=pin, expected=given)
        if arguments.pin:
            write_pin(spec.name, given, home.root)
        return given
    if pin != UNPINNED or arguments.pin:
        return pin
    raise UsageError(
        f"{spec.name} is UNPINNED: nobody has looked up a revision of {spec.repo} yet",
        fix="give --revision and 40 digits, or --pin to ask the hub once and write down what it says",
    )


def _doctor(arguments: argparse.Namespace) -> int:
    """Examine a prepared dataset; exit code 5 when something is wrong."""
    from harness.datasets.checks import examine_dataset
    from harness.datasets.leak_audit import audit_mixture

    spec, home = find_spec(arguments.dataset), find_home(arguments.home)
    root = home.data(arguments.suite)
    stage = Stage(f"doctor {spec.name}")
    health = examine_dataset(
        spec, root / spec.name, workers=WORKERS, progress=lambda _what, done, total: stage(done, total)
    )
    leaks = audit_mixture(root, health, WORKERS, stage) if spec.kind == "mixture" else []
    stage.close()
    code = DatasetError.exit_code if health.findings else 0
    if arguments.json:
        _print({**health.as_json(), "leaks": leaks})
        return code
    rows = [[split, f"{count:,}"] for split, count in health.rows.items()]
    print(text_table(["split", "rows"], [*rows, ["images or clips", f"{health.num_media:,}"]], numbers=[1]))
    if leaks:
        table = [[x["dataset"], f"{x['same_bytes']:,}", f"{x['near']:,}", f"{x['removed']:,}"] for x in leaks]
        print(
            text_table(["mixture shares with", "bytes", "look", "removed before"], table, numbers=[1, 2, 3])
        )
    for note in health.notes:
        print(f"note: {note}.")
    for finding in health.findings:
        print(finding.line())
    num = len(health.findings)
    print(f"Verdict: {num} finding{'s' * (num != 1)}." if num else f"Verdict: sound, digest {health.digest}.")
    return code


def _pack(arguments: argparse.Namespace) -> int:
    spec, home = find_spec(arguments.dataset), find_home(arguments.home)
    folder = home.data(arguments.suite) / spec.name
    read_note(folder)
    packed = _write_pack(spec, folder, arguments.suite)
    if not packed:
        raise UsageError(f"no task of the suite {arguments.suite} reads {spec.name}", fix="see tasks/")
    print(f"Packed {', '.join(packed)} in {folder / 'packs'}.")
    return 0
