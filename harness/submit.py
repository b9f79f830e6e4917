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

from harness.digest import digest_file
from harness.encoders import open_encoder
from harness.encoders.architectures import read_config, read_table
from harness.errors import SubmissionError, UnsafeInputError, UsageError
from harness.files import write_atomic
from harness.records import (
    SCHEMA_VERSION,
    InputSpec,
    Objective,
    PretrainStage,
    Source,
    Submission,
    WeightFile,
)
from harness.submission import RULES, UNSAFE_WEIGHTS, spell_source, spell_toml, verify_files

MANIFEST = "submission.toml"
WEIGHTS, INDEX, CONFIG, PREPROCESSOR, CARD = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "preprocessor_config.json",
    "README.md",
)
OBJECTIVES = tuple(o for o in typing.get_args(Objective) if o != "none")
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What the person said on the command line; it goes before what is found."""

    id: str = ""
    resolution: int | None = None
    mean: Triple | None = None
    std: Triple | None = None


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


def submit(folder: Path, given: Given) -> Draft:
    """Read a checkpoint's folder, check it, and write `submission.toml` into it.

    Args:
        folder: config.json and safetensors as `save_pretrained` of transformers leaves them.
        given: what the person said.

    Raises:
        UsageError: no such folder, or there is a manifest already.
        SubmissionError: not a supported checkpoint, or its weights do not fit its configuration.
        UnsafeInputError: only weights in a format that can carry code, or a configuration that asks for code.
    """
    target = folder / MANIFEST
    if not folder.is_dir():
        raise UsageError("no such folder", where=str(folder), expected="a folder with config.json")
    if target.exists():
        raise UsageError("there is a manifest already", where=str(target), fix="edit it, or move it away")
    names = (CONFIG, *find_weights(folder))
    model_type, config = read_config(folder / CONFIG)
    files = tuple(WeightFile(path=name, sha256=digest_file(folder / name)) for name in names)
    facts = [
        Fact("architecture", model_type, CONFIG),
        *(Fact("file", f"{file.path}  {file.sha256[:12]}…", "counted") for file in files),
    ]
    source = Source(kind="local", name=model_type, revision="local", files=files)
    found, origins = read_input(folder, config, given)
    facts += [Fact(name, _spell(found[name]), origin) for name, origin in origins.items()]
    license_ = read_license(folder)
    if license_:
        facts.append(Fact("license", license_, CARD))
    id_ = _id(given.id or _slug(folder.resolve().name))
    facts += _check(folder, source, found)
    text, open_fields = _manifest(id_, license_, source, found)
    write_atomic(target, text.encode())
    return Draft(target, tuple(facts), open_fields)


def find_weights(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files that hold the checkpoint.

    Raises:
        SubmissionError: none, several that no index explains, a shard that is missing, or no config.json.
        UnsafeInputError: weights of another format only.
    """
    if not (folder / CONFIG).is_file():
        raise SubmissionError(
            "no config.json", where=str(folder), expected="a folder that save_pretrained wrote"
        )
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        shards = _shards(folder / INDEX)
        if missing := sorted(set(shards) - set(there)):
            raise SubmissionError(
                "shard of the weights is missing", where=str(folder / INDEX), found=missing[0]
            )
        return shards
    if WEIGHTS in there:
        return (WEIGHTS,)
    if len(there) == 1:
        return (there[0],)
    if there:
        raise SubmissionError(
            "several weight files and no index",
            where=str(folder),
            found=", ".join(there[:3]),
            expected=f"{WEIGHTS}, or shards with {INDEX}",
        )
    others = sorted(p.name for p in folder.iterdir() if p.suffix in UNSAFE_WEIGHTS)
    if others:
        raise UnsafeInputError(
            "weights are not safetensors",
            where=str(folder),
            found=others[0],
            fix="load them where you trust them and save_pretrained(..., safe_serialization=True)",
        )
    raise SubmissionError("no weights", where=str(folder), expected=WEIGHTS)


def _shards(path: Path) -> tuple[str, ...]:
    table = read_table(path, str(path)).get("weight_map")
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise SubmissionError("index of the weights is not valid", where=str(path), expected="a weight_map")
    names = tuple(sorted(set(table.values())))
    if bad := [name for name in names if Path(name).name != name]:
        raise UnsafeInputError("index leads out of its folder", where=str(path), found=bad[0])
    return names


def read_input(
    folder: Path, config: dict[str, Any], given: Given
) -> tuple[dict[str, int | Triple | None], dict[str, str]]:
    """Native side, mean and deviation, each None where nothing says it; and where each was read.

    The configuration's own `image_size` goes before the preprocessor's: it is what the network was built for.
    """
    table = (
        read_table(folder / PREPROCESSOR, str(folder / PREPROCESSOR))
        if (folder / PREPROCESSOR).is_file()
        else {}
    )
    sides = [
        ("--resolution", given.resolution),
        (CONFIG, _side(config.get("image_size"))),
        (PREPROCESSOR, _side(table.get("crop_size")) if table.get("do_center_crop", True) else None),
        (PREPROCESSOR, _side(table.get("size"))),
    ]
    candidates: dict[str, list[tuple[str, Any]]] = {
        "resolution": sides,
        "mean": [("--mean", given.mean), (PREPROCESSOR, _triple(table.get("image_mean")))],
        "std": [("--std", given.std), (PREPROCESSOR, _triple(table.get("image_std")))],
    }
    if table.get("do_normalize") is False and given.mean is None and given.std is None:
        candidates["mean"], candidates["std"] = [(PREPROCESSOR, (0.0,) * 3)], [(PREPROCESSOR, (1.0,) * 3)]
    found: dict[str, int | Triple | None] = {}
    origins = {}
    for name, options in candidates.items():
        origin, value = next(((o, v) for o, v in options if v is not None), ("", None))
        found[name] = value
        if value is not None:
            origins[name] = origin
    return found, origins


def _side(value: Any) -> int | None:
    """A square side out of the library's spellings of a size; None for anything else."""
    if isinstance(value, dict):
        sides = {
            value.get("height", value.get("shortest_edge")),
            value.get("width", value.get("shortest_edge")),
        }
    elif isinstance(value, list):
        sides = set(value) if all(isinstance(v, int) for v in value) else set()
    else:
        sides = {value}
    side = sides.pop() if len(sides) == 1 else None
    return side if isinstance(side, int) and not isinstance(side, bool) and side > 0 else None


def _triple(value: Any) -> Triple | None:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value):
        return (float(value[0]), float(value[1]), float(value[2]))
    return None


def read_license(folder: Path) -> str:
    """The licence in the front matter of a model card, "" where there is none."""
    path = folder / CARD
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    line = re.search(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", head[1], flags=re.MULTILINE) if head else None
    return line[1] if line else ""


def _slug(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63]
    return slug if len(slug) >= 2 else "my-encoder"


def _id(text: str) -> str:
    if not re.fullmatch(str(RULES[Submission, "id"].pattern), text):
        raise UsageError("not an id", where="--id", found=text, expected=RULES[Submission, "id"].expected)
    return text


def _spell(value: object) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


def _check(folder: Path, source: Source, found: dict[str, Any]) -> list[Fact]:
    """Hashes and headers; and, where the input is known, the network with every tensor accounted for."""
    side = found["resolution"]
    stand_in = InputSpec(
        resolution=side or 64, mean=found["mean"] or (0.5,) * 3, std=found["std"] or (0.5,) * 3
    )
    draft = Submission(
        id="draft",
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


def _manifest(id_: str, license_: str, source: Source, found: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The text, and the names of the fields that are still open."""
    lines = [
        f"schema = {SCHEMA_VERSION}",
        f"id = {spell_toml(id_)}  # names the row; a-z, 0-9 and -",
        'title = ""  # for people',
        "authors = []  # who answers for this row",
        "links = []  # https addresses of a paper, a page; may stay empty",
        f"license = {spell_toml(license_)}  # of the weights",
        'contamination = ""  # "none known", or what the training data shares with the tasks',
        'architecture = ""  # in your words, for the page; may stay empty',
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
