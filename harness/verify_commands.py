"""`eyechart verify`: whatever rests on bundles, held against them. Torch-free, but for `--rescore`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from harness.bundle import COMMIT, MANIFEST
from harness.errors import EyechartError, IntegrityError, UsageError
from harness.home import RESULTS, Home, find_home
from harness.progress import Stage
from harness.verify import Report

BUNDLE, STORE, SITE, FOLDER = "bundle", "database", "site", "results"


def verify(arguments: argparse.Namespace) -> int:
    """Verify a bundle, a folder of results, a database or a site."""
    home = find_home(arguments.home)
    kind = _kind_of(arguments.path)
    _refuse_idle_options(arguments, kind)
    report = _look(arguments, home, kind)
    if arguments.rescore:
        report = _score_again(report, home, arguments.write_re_scored)
    _print(report, arguments, kind)
    if not report.findings:
        return 0
    first = report.findings[0].line()
    raise IntegrityError(
        f"not verified, {len(report.findings)} found, the first: {first.rstrip('.')}",
        where=str(arguments.path),
    )


def _kind_of(path: Path) -> str:
    """What a path is, by what lies there.

    Raises:
        UsageError: none of the four.
    """
    if path.is_dir():
        if any((path / name).is_file() for name in ("run.json", COMMIT, MANIFEST)):
            return BUNDLE
        return SITE if (path / "index.html").is_file() else FOLDER
    if path.is_file():
        from harness.store_files import is_database

        if is_database(path):
            return STORE
    found = "a file of another kind" if path.exists() else "nothing"
    expected = "a bundle, a folder of results, a database or a site"
    raise UsageError("nothing to verify", where=str(path), found=found, expected=expected)


def _refuse_idle_options(arguments: argparse.Namespace, kind: str) -> None:
    """An option that would do nothing gives a false sense of safety."""
    allowed = {
        "rescore": (BUNDLE, FOLDER),
        "write_re_scored": (BUNDLE, FOLDER),
        "max_tier": (BUNDLE, FOLDER),
        "base": (FOLDER,),
        "results": (STORE, SITE),
        "pairs": (STORE, SITE),
    }
    for name, kinds in allowed.items():
        if getattr(arguments, name) and kind not in kinds:
            option = "--" + name.replace("_", "-")
            expected = f"it with a {' or a '.join(kinds)}"
            raise UsageError(
                f"{option} does nothing for a {kind}", where=str(arguments.path), expected=expected
            )
    target = arguments.write_re_scored
    if target and not arguments.rescore:
        raise UsageError("--write-re-scored writes what --rescore found right", fix="add --rescore")
    if target and target.exists():
        raise UsageError(
            "the folder for re-scored bundles is there already", where=str(target), fix="name another"
        )


def _look(arguments: argparse.Namespace, home: Home, kind: str) -> Report:
    from harness.bundle_rules import read_definitions
    from harness.request import Request
    from harness.store_files import open_store
    from harness.verify import refuse_empty, verify_bundle, verify_results, verify_store

    if kind in {BUNDLE, FOLDER}:
        definitions = read_definitions(home.protocols)
        request = Request(base=arguments.base, max_tier=arguments.max_tier or "re-run")
        if kind == BUNDLE:
            return verify_bundle(arguments.path, definitions, request)
        return _with_stage(lambda show: verify_results(arguments.path, definitions, request, show))
    if kind == STORE:
        open_store(arguments.path).close()  # damage before what to compare it with
    roots = arguments.results or [root for root in (RESULTS, home.results) if root.is_dir()]
    if not roots:
        raise UsageError("no results to compare with", expected=f"{RESULTS} or {home.results}")
    for root in arguments.results or ():
        refuse_empty(root)
    from harness.pairs import own_pairs, read_pairs

    pairs = arguments.pairs or own_pairs()
    if kind == STORE:
        declared = read_pairs(pairs) if pairs else ()
        return _with_stage(lambda show: verify_store(arguments.path, roots, declared, show))
    from harness.site_check import verify_site

    own = sorted(home.protocols.glob("*.toml"))
    return _with_stage(lambda show: verify_site(arguments.path, roots, pairs, own, show, home.datasets))


def _with_stage(work: Callable[[Stage], Report]) -> Report:
    show = Stage("verify", "bundles")
    try:
        return work(show)
    finally:
        show.close()


def _score_again(report: Report, home: Home, folder: Path | None) -> Report:
    """The report with what scoring again found; bundles are written where all is well."""
    from dataclasses import replace

    from harness.bundle_rules import read_definitions
    from harness.commands import ensure_suite

    try:
        from harness.rescore import rescore, write_re_scored
    except ModuleNotFoundError as error:
        raise UsageError(
            "scoring again needs a package that is not installed",
            found=f"no module {error.name}",
            fix="install the extra `run`: pip install 'eyechart[run]'",
        ) from error
    for suite in sorted({bundle.run.suite for bundle in report.bundles.values()}):
        ensure_suite(suite, home)
    show = Stage("scores", "bundles")
    try:
        again = rescore(list(report.bundles.values()), read_definitions(home.protocols), home, show)
    finally:
        show.close()
    findings, notes = (*report.findings, *again.findings), (*report.notes, *again.notes)
    if folder and not findings:
        written = write_re_scored(list(report.bundles.values()), again.scored_by, folder)
        left = len(report.bundles) - len(written)
        rest = f"; {left} are not self-reported and were left out" if left else ""
        notes = (*notes, f"{len(written)} bundles written to {folder} as re-scored{rest}")
    return replace(report, findings=findings, notes=notes)


def _print(report: Report, arguments: argparse.Namespace, kind: str) -> None:
    if arguments.json:
        facts = {
            "kind": kind,
            "checked": report.num_checked,
            "rescored": len(report.bundles) if arguments.rescore else 0,
            "verified": not report.findings,
            "findings": [_facts(error) for error in report.findings],
            "notes": list(report.notes),
        }
        print(json.dumps(facts, indent=1))
        return
    for error in report.findings:
        print(error.line())
    for note in report.notes:
        print(f"note: {note}")
    if not report.findings:
        again = ", every answer scored again" if arguments.rescore else ""
        print(f"verified: {kind}, {report.num_checked} bundles{again}")


def _facts(error: EyechartError) -> dict[str, str]:
    names = ("where", "what", "found", "expected", "fix")
    return {name: getattr(error, name) for name in names}


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"verify": verify}
