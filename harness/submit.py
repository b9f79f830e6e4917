"""`eyechart submit`: a checkpoint's folder in, a manifest out that leaves open only what no machine can know.

What can be read is read and checked at once: architecture, files and hashes, input size, mean and deviation,
licence. What cannot is left empty with a comment, and an empty field is refused by `eyechart plan`, so that
nothing stands there by default: least of all the pretraining objective, which decides an encoder's family.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoint_folder import (
    CONFIG_OF,
    Reading,
    Triple,
    find_format,
    find_weights,
    read_folder,
)
from harness.digest import digest_file
from harness.encoders import open_encoder
from harness.errors import UsageError
from harness.files import write_atomic
from harness.records import (
    SCHEMA_VERSION,
    InputSpec,
    Objective,
    PretrainStage,
    Source,
    SourceKind,
    Submission,
    WeightFile,
)
from harness.submission import RULES, spell_source, spell_toml, verify_files

MANIFEST = "submission.toml"
OBJECTIVES = tuple(o for o in typing.get_args(Objective) if o != "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What the person said on the command line; it goes before what is found."""

    id: str = ""
    format: str = ""
    resolution: int | None = None
    mean: Triple | None = None
    std: Triple | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The hub repository that a folder was fetched from."""

    repo: str
    revision: str
    """40 hex digits."""
    license: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that was found."""

    what: str
    value: str
    origin: str
    """The file it was read from, or "counted"."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A manifest that is not finished."""

    path: Path
    facts: tuple[Fact, ...]
    open_fields: tuple[str, ...]
    """What the person must still say."""


def submit(folder: Path, given: Given, origin: Origin | None = None) -> Draft:
    """Read a checkpoint's folder, check it, and write `submission.toml` into it.

    Args:
        folder: what `save_pretrained` of transformers, or `save_for_hf` of timm or open_clip, leaves.
        given: what the person said.
        origin: where the folder was fetched from; None for files of the person's own.

    Raises:
        UsageError: no such folder, there is a manifest already, or what is given contradicts the files.
        SubmissionError: not a supported checkpoint, or its weights do not fit its configuration.
        UnsafeInputError: only weights in a format that can carry code, or a configuration that asks for code.
    """
    target = folder / MANIFEST
    if not folder.is_dir():
        raise UsageError("no such folder", where=str(folder), expected="a folder with a checkpoint")
    if target.exists():
        raise UsageError("there is a manifest already", where=str(target), fix="edit it, or move it away")
    id_ = _id(given.id or _slug(origin.repo.split("/")[-1] if origin else folder.resolve().name))
    form = find_format(folder, given.format)
    names = (CONFIG_OF[form], *find_weights(folder, form))
    reading = read_folder(folder, form)
    files = tuple(WeightFile(path=name, sha256=digest_file(folder / name)) for name in names)
    found, input_facts = _input_of(reading, given)
    license_ = reading.license or ((origin.license, origin.repo) if origin and origin.license else None)
    facts = [
        Fact("format", form, CONFIG_OF[form]),
        Fact("architecture", reading.architecture, CONFIG_OF[form]),
        *(Fact("file", f"{file.path}  {file.sha256[:12]}…", "counted") for file in files),
        *input_facts,
        *([Fact("license", *license_)] if license_ else []),
    ]
    kind: SourceKind = form if origin else "local"
    source = Source(
        kind=kind,
        name=origin.repo if origin else reading.architecture,
        revision=origin.revision if origin else "local",
        files=files,
    )
    counted = _check(id_, folder, source, found)
    words = reading.architecture + (f", {_short(counted[0].value)} parameters" if counted else "")
    text, open_fields = _manifest(id_, license_[0] if license_ else "", words, source, found, reading.notes)
    write_atomic(target, text.encode())
    return Draft(target, (*facts, *counted), open_fields)


def _input_of(reading: Reading, given: Given) -> tuple[dict[str, Any], list[Fact]]:
    """Native side, mean and deviation, each None where nothing says it; and where each was read."""
    if given.resolution and reading.built_for and given.resolution != reading.built_for:
        raise UsageError(
            "resolution contradicts the network's configuration",
            where="--resolution",
            found=str(given.resolution),
            expected=str(reading.built_for),
            fix="leave it out: the protocol decides at which side the encoder is measured",
        )
    found: dict[str, Any] = {}
    facts = []
    for name in ("resolution", "mean", "std"):
        said, read = getattr(given, name), getattr(reading, name)
        value, origin = (said, f"--{name}") if said is not None else (read or (None, ""))
        found[name] = value
        if value is not None:
            facts.append(Fact(name, _spell(value), origin))
    return found, facts


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63]
    return slug if len(slug) >= 2 else "my-encoder"


def _id(text: str) -> str:
    if not re.fullmatch(str(RULES[Submission, "id"].pattern), text):
        raise UsageError("not an id", where="--id", found=text, expected=RULES[Submission, "id"].expected)
    return text


def _spell(value: object) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _short(count: str) -> str:
    number = int(count.replace(",", ""))
    return f"{number / 1e6:.3g} M" if number >= 1e5 else count


def _check(id_: str, folder: Path, source: Source, found: dict[str, Any]) -> list[Fact]:
    """Hashes and headers; and, where the input is known, the network with every tensor accounted for."""
    side = found["resolution"]
    stand_in = InputSpec(
        resolution=side or 64, mean=found["mean"] or (0.5,) * 3, std=found["std"] or (0.5,) * 3
    )
    draft = Submission(
        id=id_,
        title="",
        authors=(),
        links=(),
        license="",
        contamination="",
        source=source,
        input=stand_in,
        pretraining=(PretrainStage(objective="self-supervised", data="", images_seen=0),),
    )
    verify_files(draft, folder)
    if side is None:
        return []
    encoder = open_encoder(draft, folder)
    return [
        Fact("parameters", f"{encoder.num_params:,}", "counted"),
        Fact("tokens", f"{encoder.grid[0]} x {encoder.grid[1]} of {encoder.width}", "counted"),
    ]


def _manifest(
    id_: str, license_: str, words: str, source: Source, found: dict[str, Any], notes: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """The text, and the names of the fields that are still open."""
    lines = [
        f"schema = {SCHEMA_VERSION}",
        f"id = {spell_toml(id_)}  # names the row; a-z, 0-9 and -",
        'title = ""  # for people',
        "authors = []  # who answers for this row",
        "links = []  # https addresses of a paper, a page; may stay empty",
        f"license = {spell_toml(license_)}  # of the weights",
        'contamination = ""  # "none known", or what the training data shares with the tasks',
        f"architecture = {spell_toml(words)}  # for the page, in your words",
        *spell_source(source),
    ]
    help_ = {
        "resolution": "# resolution = 224  # native side in pixels; nothing in the folder says it",
        "mean": "# mean = [0.5, 0.5, 0.5]  # of pixel values scaled to 0-1; nothing in the folder says it",
        "std": "# std = [0.5, 0.5, 0.5]  # the same scale; nothing in the folder says it",
    }
    lines += ["", "[input]"]
    lines += [f"{k} = {spell_toml(v)}" if (v := found[k]) is not None else text for k, text in help_.items()]
    lines += [
        "",
        "# One table a stage that made the weights, oldest first. The last stage that trained the image side",
        "# decides whether the row counts as classification or contrastive.",
        *(f"# {note}" for note in notes),
        "[[pretraining]]",
        f'objective = ""  # {", ".join(OBJECTIVES)}',
        'data = ""  # what it was trained on, in words',
        "# images_seen = 0  # images times epochs",
        'init_from = ""  # what the weights started from; empty: at random',
        'locked = "none"  # the side that this stage did not train: none, image or text',
    ]
    open_fields = [f"input.{name}" for name in help_ if found[name] is None]
    person: Sequence[str] = ("title", "authors", *(() if license_ else ("license",)), "contamination")
    stages = tuple(f"pretraining.{name}" for name in ("objective", "data", "images_seen"))
    return "\n".join(lines) + "\n", (*person, *open_fields, *stages)
