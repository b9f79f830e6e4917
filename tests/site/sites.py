"""The sites under test: of the results of record, of awkward results, and of a stranger's worst words."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_strings import STRINGS
from stored_runs import HEX, TASK, draw, submission, write_runs

from harness.errors import UsageError
from harness.fields import Place, Rule, read_text
from harness.ledger import ATTEMPTS, TOMBSTONES
from harness.pairs import read_pairs
from harness.records import PretrainStage, Submission, WeightFile
from harness.store import ingest
from leaderboard.build import build_site

ROOT = Path(__file__).resolve().parent.parent.parent
PROBE, VIDEO = "eyechart_mini_probe", "eyechart_mini_video"


@dataclass(frozen=True)
class BuiltSite:
    """A site's folder and the index that it was built from."""

    folder: Path
    db: Path
    both_ends: bool = True
    """Whether the smallest page of a kind is looked at too, or only the largest."""

    def types(self) -> dict[str, list[str]]:
        """Kind of page -> sample of its pages: of a folder's pages the smallest, if wanted, and the largest.

        A page at the top is a kind of its own; floors stand apart from the encoders beside them. Pages
        that did not exist when this was written are found the same way.
        """
        kinds: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*.html")):
            inside = path.relative_to(self.folder)
            kind = inside.parts[0] if len(inside.parts) > 1 else inside.stem
            kinds.setdefault("floors" if path.name.startswith("floor-") else kind, []).append(path)
        found = {}
        for kind, paths in kinds.items():
            by_size = sorted(paths, key=lambda p: (p.stat().st_size, p))
            ends = dict.fromkeys((by_size[0] if self.both_ends else by_size[-1], by_size[-1]))
            found[kind] = [p.relative_to(self.folder).as_posix() for p in ends]
        return found

    def sample(self) -> list[str]:
        """Those pages, in one list."""
        return [page for pages in self.types().values() for page in pages]


def site_of_record(home: Path) -> BuiltSite:
    """What `eyechart ingest && eyechart publish` make of results/."""
    built = _built(home, ROOT / "results", ROOT / "results" / "pairs.toml")
    return dataclasses.replace(built, both_ends=False)


def _built(home: Path, results: Path, pairs: Path) -> BuiltSite:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        ingest(home / "db.duckdb", results, pairs=read_pairs(pairs))
        build_site(home / "db.duckdb", home / "site", pairs)
    return BuiltSite(folder=home / "site", db=home / "db.duckdb")


def _toml(text: str) -> str:
    # TOML's basic strings are JSON's, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _pair(a: str, b: str, note: str) -> str:
    text = _toml(note)
    aspects = 'held_equal = ["architecture"]\ndiffers = ["objective"]'
    return f'[[pair]]\na = "{a}"\nb = "{b}"\n{aspects}\nnote = {text}\n'


AWKWARD_LEVELS: dict[str, float] = {
    "net-label": 0.8,
    "net-clip": 0.9,
    "net-one-seed": 0.6,
    "net-under-the-floors": 0.2,
    "net-unfinished": 0.7,
    "net-reported": 0.95,
    "net-sure": 1.0,
    "floor-blind": 0.3,
    "floor-random": 0.35,
}


def awkward_site(home: Path) -> BuiltSite:
    """One seed, a row under the floors, cells not run or not complete, a self-reported row, two suites."""
    results = home / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for number, (encoder, suite) in enumerate(itertools.product(AWKWARD_LEVELS, ("mini", "main"))):
            _write_awkward(results, encoder, suite, number)
        # A task that no definition is installed for, and a dead one: everyone guesses.
        for number, encoder in enumerate(("net-label", "net-clip", "floor-blind")):
            for task in ("a_task_of_another_house_with_a_long_name", VIDEO):
                write_runs(results, encoder, draw(90 + number, 0.25, samples=60), task, of=_awkward(encoder))
    pairs = home / "pairs.toml"
    notes = ("Same pictures; <b>other</b> words.", "W" * 300)
    pairs.write_text(
        _pair("net-label", "net-clip", notes[0]) + _pair("net-label", "net-unfinished", notes[1])
    )
    return _built(home, results, pairs)


def _awkward(encoder: str) -> Submission:
    floor = {"floor-blind": "blind", "floor-random": "random-init"}.get(encoder)
    objective = "label-classification" if "label" in encoder else "sigmoid-contrastive"
    title = "Reported " + "VeryLongName" * 15 if encoder == "net-reported" else encoder.title()
    if floor is None:
        return submission(encoder, objective, title=title, architecture="ResNet, 1.9 M")
    base = "net-clip" if floor == "random-init" else ""
    return submission(encoder, "none", title=title, floor=floor, base=base, pretraining=())


def _write_awkward(results: Path, encoder: str, suite: str, number: int) -> None:
    level = AWKWARD_LEVELS[encoder]
    seeds = 1 if encoder == "net-one-seed" else 3
    tier = "self-reported" if encoder == "net-reported" else "re-run"
    for task in (PROBE, TASK):
        if (encoder, task) == ("net-unfinished", PROBE) or (encoder, suite) == ("net-one-seed", "main"):
            continue
        status = {"net-unfinished": "missing", "net-label": "unparsed"}.get(encoder, "scored")
        scores = draw(number, level, seeds, 90) if level < 1 else draw(number, 9, seeds, 90)
        write_runs(
            results, encoder, scores, task, status=status, of=_awkward(encoder),
            protocol=suite, suite=suite, tier=tier,
            environment={"stages_s": {"features": 12.5, "adapter": 4000.0}, "hardware": {"cpu": "x" * 90}},
        )  # fmt: skip


def hostile_groups() -> list[tuple[str, ...]]:
    """The strings, four to an encoder, as every field can hold them: not blank, no space at their ends."""
    texts = list(dict.fromkeys(s.strip() for s in STRINGS if s.strip()))
    return [tuple(texts[i : i + 4]) for i in range(0, len(texts), 4)]


def joined(texts: Sequence[str]) -> str:
    """What stands in the fields that hold one text."""
    return " \N{BROKEN BAR} ".join(texts)


def hostile_submission(encoder: str, texts: Sequence[str]) -> Submission:
    """An encoder with the strings in every field of text, also where a manifest would refuse them."""
    one = joined(texts)
    made = submission(
        encoder, title=one, authors=tuple(texts), license=one, contamination=one, architecture=one,
        links=(*texts, *(f"https://example.org/{text}" for text in texts)),
        pretraining=tuple(
            PretrainStage(objective="sigmoid-contrastive", data=text, images_seen=1, init_from=text)
            for text in texts
        ),
    )  # fmt: skip
    files = tuple(WeightFile(path=text, sha256=HEX) for text in texts)
    return dataclasses.replace(made, source=dataclasses.replace(made.source, name=one, files=files))


def _is_plain(text: str) -> bool:
    try:
        return bool(read_text(text, Place("ledger", UsageError), Rule(max_length=200)))
    except UsageError:
        return False


def write_ledgers(results: Path, said: Mapping[str, Sequence[str]]) -> None:
    """What each of these encoders' submitters, and whoever withdrew a row of theirs, wrote."""
    attempts, stones = ["schema = 1"], ["schema = 1"]
    for encoder, texts in said.items():
        # What a ledger refuses, such as a control character, no page can show.
        passing = [text for text in texts if _is_plain(text)] or ["nothing that passes"]
        note, by = (_toml(text) for text in (joined(passing), passing[0]))
        attempts.append(
            f'[[attempt]]\nencoder = "{encoder}"\ncheckpoints = 1\nadapter_seeds = 1\nruns = 1\n'
            f'declared_by = {by}\ndate = "2026-11-28"\nnote = {note}'
        )
        stones.append(
            f'[[tombstone]]\nprotocol = "main"\nencoder = "{encoder}"\nidentity_digest = "{HEX}"\n'
            f'date = "2026-11-28"\nreason = {note}'
        )
    for name, lines in ((ATTEMPTS, attempts), (TOMBSTONES, stones)):
        (results / name).write_text("\n".join(lines), encoding="utf-8")


def hostile_site(home: Path) -> BuiltSite:
    """Encoders of strangers, each two neighbours a pair whose note is a stranger's too."""
    results, groups = home / "results", hostile_groups()
    names = [f"x{number:03}" for number in range(len(groups))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        for number, (encoder, texts) in enumerate(zip(names, groups, strict=True)):
            write_runs(
                results, encoder, draw(number % 7, 0.5, 1, 8), of=hostile_submission(encoder, texts),
                said_by_it=texts,
                receipt={"frozen": True, "note": joined(texts), **dict.fromkeys(texts, "key")},
                environment={"hardware": {"cpu": joined(texts)}},
            )  # fmt: skip
    write_ledgers(results, dict(zip(names, groups, strict=True)))
    pairs = home / "pairs.toml"
    couples = zip(names, [*names[1:], names[0]], groups, strict=True)
    pairs.write_bytes("".join(_pair(a, b, f"note: {joined(texts)}") for a, b, texts in couples).encode())
    return _built(home, results, pairs)
