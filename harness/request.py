"""What a request to add results may change, held against the results that it would join.

A request adds bundles. What is there already is changed by maintainers, except that a row may be withdrawn,
and then a tombstone says so for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from harness.bundle import COMMIT, Bundle, find_bundles
from harness.bundle_rules import Definitions, is_known
from harness.errors import IntegrityError, UsageError
from harness.ledger import ATTEMPTS, TOMBSTONES, Attempt, read_attempts, read_tombstones
from harness.records import TIERS, Tier

LEDGERS = (ATTEMPTS, TOMBSTONES)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Under which terms bundles are looked at."""

    base: Path | None = None
    """The results that the bundles would join; None: there is nothing to compare with."""
    max_tier: Tier = "re-run"
    """The most trusted tier that a bundle may claim which is not in the base."""


def trusted_bundles(root: Path, base: Path | None) -> set[Path]:
    """Bundles below `root` that are in the base too, with the same contents."""
    if base is None:
        return set()
    return {
        root / path.relative_to(base)
        for path in find_bundles(base)
        if _commit(root / path.relative_to(base)) == _commit(path)
    }


def check_request(
    root: Path, bundles: Mapping[Path, Bundle], definitions: Definitions, request: Request
) -> list[IntegrityError]:
    """Everything that a request may not do.

    Args:
        root: the results with the request's changes.
        bundles: by folder, those that are sound.
        definitions: what is known here of tasks and protocols.
        request: its terms.

    Raises:
        UsageError: a ledger is not valid.
    """
    base = request.base
    known = trusted_bundles(root, base)
    new = {path: bundle for path, bundle in bundles.items() if path not in known}
    found = _check_tiers(new, request.max_tier)
    if base is None:
        return found
    old = [bundles[path] for path in known if path in bundles]
    found += _check_terms(root, new, definitions)
    found += _check_rows(new, old)
    found += _check_kept(root, base)
    adding = {bundle.run.submission.id for bundle in new.values()}
    return found + _check_ledgers(root, base, adding) + _check_top_files(root, base)


def _commit(path: Path) -> bytes:
    file = path / COMMIT
    return file.read_bytes() if file.is_file() and not path.is_symlink() else b""


def _check_tiers(new: Mapping[Path, Bundle], limit: Tier) -> list[IntegrityError]:
    return [
        IntegrityError(
            f"claims the tier {bundle.run.tier}, which only maintainers give",
            where=str(path),
            found=bundle.run.tier,
            expected=limit,
            fix=f"measure with `eyechart run … --tier {limit}`",
        )
        for path, bundle in new.items()
        if TIERS.index(bundle.run.tier) < TIERS.index(limit)
    ]


def _check_terms(root: Path, new: Mapping[Path, Bundle], definitions: Definitions) -> list[IntegrityError]:
    """A new bundle is of a task and a protocol that are defined here, and its attempts are declared."""
    attempts = read_attempts(root)
    found = []
    for path, bundle in new.items():
        run = bundle.run
        if not is_known(run, definitions):
            at = f"{run.protocol} version {run.protocol_version}, {run.task} {run.task_digest[:12]}"
            what = "no such version of protocol and task is defined here"
            found.append(IntegrityError(what, where=str(path), found=at))
        elif run.submission.id not in attempts:
            what = f"attempts of {run.submission.id} are not declared"
            fix = f"add an [[attempt]] to {ATTEMPTS}"
            found.append(IntegrityError(what, where=str(path), fix=fix))
    return found


def _check_rows(new: Mapping[Path, Bundle], old: list[Bundle]) -> list[IntegrityError]:
    """A less trusted run may not join a row: a cell has the tier, and the mean, of all its runs."""
    tiers: dict[tuple[str, str], Tier] = {}
    for bundle in old:
        row = bundle.run.protocol, bundle.run.submission.id
        tiers[row] = min((tiers.get(row, bundle.run.tier), bundle.run.tier), key=TIERS.index)
    found = []
    for path, bundle in new.items():
        tier = tiers.get((bundle.run.protocol, bundle.run.submission.id))
        if tier is not None and TIERS.index(tier) < TIERS.index(bundle.run.tier):
            what = f"joins a row that is {tier} with a run that is {bundle.run.tier}"
            found.append(IntegrityError(what, where=str(path), fix="submit under an id of your own"))
    return found


def _check_kept(root: Path, base: Path) -> list[IntegrityError]:
    withdrawn = {(t.protocol, t.encoder) for t in read_tombstones(root)}
    found = []
    for path in find_bundles(base):
        relative = path.relative_to(base)
        here = root / relative
        if (relative.parts[0], relative.parts[1]) in withdrawn:
            continue  # that it is gone indeed is asked of all results, see harness.verify
        if not here.is_dir():
            fix = f"add a [[tombstone]] to {TOMBSTONES}, or put it back"
            found.append(IntegrityError("deleted without a tombstone", where=str(here), fix=fix))
        elif _commit(here) != _commit(path):
            what = "changed: a committed bundle stays as it is"
            found.append(IntegrityError(what, where=str(here), fix="write a new bundle beside it"))
        elif _environment(here) != _environment(path):
            what = "environment.json of a committed bundle was changed"
            found.append(IntegrityError(what, where=str(here), fix="put it back"))
    return found


def _environment(path: Path) -> bytes:
    file = path / "environment.json"
    return file.read_bytes() if file.is_file() and not file.is_symlink() else b""


def _check_ledgers(root: Path, base: Path, adding: set[str]) -> list[IntegrityError]:
    """Ledgers only grow: no tombstone goes, no attempt becomes fewer, and each speaks for its own encoder.

    Args:
        root: the results with the request's changes.
        base: the results that they would join.
        adding: ids of the encoders that the request adds runs of.
    """
    found = []
    left = read_tombstones(root)
    for stone in read_tombstones(base):
        if stone not in left:
            what = f"tombstone of {stone.protocol}/{stone.encoder} was removed or changed"
            found.append(IntegrityError(what, where=str(root / TOMBSTONES), fix="put it back"))
    after = read_attempts(root)
    for encoder, before in read_attempts(base).items():
        now = after.get(encoder)
        if now is None:
            what = f"attempts of {encoder} were removed"
            found.append(IntegrityError(what, where=str(root / ATTEMPTS), fix="put them back"))
        elif fewer := _fewer(before, now):
            what = f"attempts of {encoder} became fewer: {fewer}"
            found.append(IntegrityError(what, where=str(root / ATTEMPTS), fix="add to them only"))
        elif now != before and encoder not in adding:
            what = f"attempts of {encoder} were changed, and no run of it is added"
            found.append(IntegrityError(what, where=str(root / ATTEMPTS), fix="put them back"))
    return found


def _fewer(before: Attempt, now: Attempt) -> str:
    counts = [f.name for f in fields(Attempt) if type(getattr(before, f.name)) is int]
    lower = [name for name in counts if getattr(now, name) < getattr(before, name)]
    return ", ".join(f"{name} {getattr(before, name)} to {getattr(now, name)}" for name in lower)


def _check_top_files(root: Path, base: Path) -> list[IntegrityError]:
    """Pairs and whatever else lies beside the protocols' folders is the maintainers'."""
    before, after = (
        {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and not p.is_symlink()}
        for folder in (base, root)
    )
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    return [
        IntegrityError("only maintainers change this file", where=str(root / name), fix="put it back")
        for name in changed
        if name not in LEDGERS
    ]


def refuse_missing_base(base: Path | None) -> None:
    """Refuse a base that is not there, which would let everything pass as new.

    Raises:
        UsageError: no such folder.
    """
    if base is not None and not base.is_dir():
        raise UsageError("no such folder of results", where=str(base))
