"""Protocols: everything that can move a number and is not the encoder, read from versioned TOML."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.digest import digest_json
from harness.errors import UsageError
from harness.fields import Place, Rule, Rules, check_keys, nearest, read_record, show
from harness.recipes import (
    AdapterRecipe,
    DecodingRecipe,
    ImageRecipe,
    LLMRecipe,
    ProbeRecipe,
    StageRecipe,
    TokenRecipe,
    VideoRecipe,
)
from harness.records import SCHEMA_VERSION, Protocol

UNPINNED = "UNPINNED"
"""Stands for a revision that nobody has looked up yet; official runs refuse it."""
MIN_SEEDS = 3
PROTOCOLS = Path(__file__).parent / "protocols"
TOP_KEYS = ("schema", "name", "version", "suite", "description", "seeds", "tasks")
SECTIONS = ("image", "tokens", "video", "llm", "adapter", "probe", "decoding")
RECIPES: Mapping[str, tuple[str, ...]] = {
    "feature": ("image", "tokens", "video"),
    "probe": ("image", "tokens", "video", "probe"),
    "adapter": ("image", "tokens", "video", "llm", "adapter"),
    "decoding": ("decoding",),
}
"""Which sections each recipe digest covers: a recipe includes those it is built upon."""

_SLUG = Rule(pattern=r"[a-z0-9][a-z0-9-]{0,62}", expected="a-z, 0-9 and -", max_length=63)
_SIDE = Rule(low=8, high=4096)
_COUNT = Rule(low=1, high=10**9)
RULES: Rules = {
    (Protocol, "name"): _SLUG,
    (Protocol, "version"): _COUNT,
    (Protocol, "suite"): _SLUG,
    (Protocol, "description"): Rule(max_length=2000, multiline=True),
    (Protocol, "seeds"): Rule(min_items=MIN_SEEDS, max_items=1000, high=10**6),
    (Protocol, "tasks"): Rule(
        min_items=1,
        max_items=100,
        pattern=r"eyechart_[a-z0-9_]+",
        expected="eyechart_ and then a-z, 0-9 and _",
    ),
    (ImageRecipe, "resolution"): _SIDE,
    (ImageRecipe, "crop_fraction"): Rule(low=0.25, high=1),
    (TokenRecipe, "layer"): Rule(high=1000),
    (TokenRecipe, "budget"): Rule(low=1, high=65536),
    (VideoRecipe, "frames"): Rule(low=1, high=10000),
    (VideoRecipe, "tokens_per_frame"): Rule(low=1, high=65536),
    (LLMRecipe, "revision"): Rule(
        pattern=r"UNPINNED|[0-9a-f]{40}|[0-9a-f]{64}", expected="40 or 64 hex digits, or UNPINNED"
    ),
    (LLMRecipe, "lr"): Rule(high=10),
    (AdapterRecipe, "depth"): Rule(low=1, high=100),
    (AdapterRecipe, "width"): Rule(low=1, high=10**6),
    (AdapterRecipe, "steps"): _COUNT,
    (AdapterRecipe, "batch"): Rule(low=1, high=10**6),
    (AdapterRecipe, "lr"): Rule(high=10),
    (AdapterRecipe, "questions_per_image"): Rule(low=1, high=10**4),
    (AdapterRecipe, "length_power"): Rule(low=0, high=1),
    (AdapterRecipe, "video_share"): Rule(high=1),
    (AdapterRecipe, "mixture_digest"): Rule(
        pattern=r"UNPINNED|[0-9a-f]{64}", expected="64 hex digits, or UNPINNED"
    ),
    (AdapterRecipe, "position_words"): Rule(max_items=65536, max_length=63),
    (AdapterRecipe, "frame_words"): Rule(max_items=10000, max_length=63),
    (AdapterRecipe, "pack_tokens"): Rule(high=10**6),
    (AdapterRecipe, "standardise_images"): Rule(high=10**9),
    (AdapterRecipe, "stages"): Rule(max_items=10),
    (StageRecipe, "steps"): _COUNT,
    (StageRecipe, "batch"): Rule(low=1, high=10**6),
    (StageRecipe, "lr"): Rule(high=10),
    (StageRecipe, "lora_rank"): Rule(low=1, high=4096),
    (StageRecipe, "lora_alpha"): Rule(low=1, high=10**5),
    (ProbeRecipe, "lambdas"): Rule(min_items=1, max_items=1000, high=10**9),
    (ProbeRecipe, "max_iter"): _COUNT,
    (ProbeRecipe, "tolerance"): Rule(high=1),
    (ProbeRecipe, "folds"): Rule(low=2, high=100),
    (DecodingRecipe, "max_new_tokens"): Rule(low=1, high=10**6),
}


def known_protocols(own: Path | None = None) -> tuple[str, ...]:
    """Names of the protocols that come with Eyechart and of those in `own`, sorted."""
    folders = [PROTOCOLS] if own is None else [PROTOCOLS, own]
    return tuple(sorted({path.stem for folder in folders for path in folder.glob("*.toml")}))


def find_protocol(name_or_path: str, own: Path | None = None) -> Path:
    """The file of a protocol.

    Args:
        name_or_path: "mini", or a path: anything with a slash or the ending .toml.
        own: folder of a person's own protocols and pinned copies (`Home.protocols`), looked at first.

    Raises:
        UsageError: no such protocol; the nearest name is given.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError("no such protocol file", where=name_or_path)
        return path
    known = known_protocols(own)
    if name_or_path not in known:
        close = nearest(name_or_path, known)
        raise UsageError(
            "no such protocol",
            found=show(name_or_path),
            expected=f"one of {', '.join(known)}, or a path ending in .toml",
            fix=f"write {close}" if close else "",
        )
    mine = own / f"{name_or_path}.toml" if own else None
    return mine if mine is not None and mine.is_file() else PROTOCOLS / f"{name_or_path}.toml"


def read_protocol(name_or_path: str, own: Path | None = None) -> Protocol:
    """Read a protocol by name, or from a TOML file.

    A file in `own` that has the name of a protocol that comes with Eyechart is a pinned copy of it: it may
    say what that one leaves UNPINNED, and must agree with it in everything else.

    Args:
        name_or_path: "mini", or a path: anything with a slash or the ending .toml.
        own: folder of a person's own protocols and pinned copies (`Home.protocols`).

    Returns:
        The protocol, its recipe digests filled in and its probe's lambdas sorted largest first.

    Raises:
        UsageError: no such protocol (the nearest name is given), the file is not valid, or it is no copy.
    """
    path = find_protocol(name_or_path, own)
    protocol = _read(path)
    if path.stem == name_or_path and protocol.name != name_or_path:
        place = Place(path.name, UsageError, "name")
        place.refuse("differs from the file's name", found=protocol.name, expected=name_or_path)
    shipped = PROTOCOLS / f"{name_or_path}.toml"
    if path.stem == name_or_path and path != shipped and shipped.is_file():
        _check_copy(protocol, _read(shipped), path)
    return protocol


def _check_copy(copy: Protocol, shipped: Protocol, path: Path) -> None:
    """Under a name that everybody knows there may be no other rules."""
    pinned = replace(
        shipped,
        llm=replace(shipped.llm, revision=_either(shipped.llm.revision, copy.llm.revision)),
        adapter=replace(
            shipped.adapter,
            mixture_digest=_either(shipped.adapter.mixture_digest, copy.adapter.mixture_digest),
        ),
    )
    if replace(copy, recipe_digests={}) == replace(pinned, recipe_digests={}):
        return
    parts = (*TOP_KEYS[1:], *SECTIONS)
    changed = [name for name in parts if getattr(copy, name) != getattr(pinned, name)]
    raise UsageError(
        f"is no pinned copy of the protocol {shipped.name} that comes with this version",
        where=str(path),
        found=f"other values in {', '.join(changed)}",
        fix=f"move the file away and run `eyechart protocol pin {shipped.name}`, "
        "or give your own rules a name of their own",
    )


def _either(shipped: str, own: str) -> str:
    return own if shipped == UNPINNED else shipped


def refuse_unpinned(protocol: Protocol) -> None:
    """No run begins with a part that nobody has looked up: its number could not be made again.

    Raises:
        UsageError: names what is UNPINNED.
    """
    if loose := unpinned_fields(protocol):
        raise UsageError(
            f"protocol {protocol.name} is not pinned yet, so no run can be made under it",
            found=f"UNPINNED in {' and '.join(loose)}",
            fix=f"run `eyechart protocol pin {protocol.name}`",
        )


def replace_values(text: str, swaps: Mapping[str, str]) -> str:
    """A protocol's TOML with some of its values replaced; everything else, comments too, stays.

    Args:
        text: the file.
        swaps: `section.key`, or `key` of the top, -> TOML value.

    Raises:
        KeyError: a key is not in the file, or its value goes over several lines.
    """
    lines, section, left = text.splitlines(), "", dict(swaps)
    for number, line in enumerate(lines):
        if head := re.fullmatch(r"\[{1,2}([a-z.]+)\]{1,2}", line.split("#")[0].strip()):
            section = head[1] + "."
        elif pair := re.match(r"([a-z_]+)\s*=\s*", line):
            old = re.match(r'(?:"[^"]*"|\[.*\]|[^"#\[]+?)(\s*#.*)?$', line[pair.end() :])
            value = left.pop(section + pair[1], None) if old else None
            if old and value is not None:
                lines[number] = f"{pair[0]}{value}{old[1] or ''}"
    if left:
        raise KeyError(", ".join(left))
    return "\n".join(lines) + "\n"


def _read(path: Path) -> Protocol:
    place = Place(path.name, UsageError)
    try:
        table: object = tomllib.loads(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        place.refuse("not valid TOML", found=str(error))
    values = check_keys(table, (*TOP_KEYS, *SECTIONS), place)
    if values.get("schema") != SCHEMA_VERSION:
        fix = f"write schema = {SCHEMA_VERSION} at the top"
        place.at("schema").refuse("schema version not known", expected=str(SCHEMA_VERSION), fix=fix)
    rest = {key: value for key, value in values.items() if key != "schema"}
    protocol = read_record(Protocol, rest, place, RULES, given={"recipe_digests": {}})
    _check(protocol, place)
    lambdas = tuple(sorted(protocol.probe.lambdas, reverse=True))
    protocol = replace(protocol, probe=replace(protocol.probe, lambdas=lambdas))
    return replace(protocol, recipe_digests=recipe_digests(protocol))


def _check(protocol: Protocol, place: Place) -> None:
    """What bounds on single fields cannot say."""
    if protocol.seeds != tuple(range(len(protocol.seeds))):
        expected = "0, 1, 2, … without gaps"
        place.at("seeds").refuse(
            "not the open sequence of seeds", found=show(protocol.seeds), expected=expected
        )
    if len(set(protocol.tasks)) != len(protocol.tasks):
        place.at("tasks").refuse("a task is listed twice")
    for section, key, count in (
        ("tokens", "budget", protocol.tokens.budget),
        ("video", "tokens_per_frame", protocol.video.tokens_per_frame),
    ):
        if math.isqrt(count) ** 2 != count:
            place.at(section).at(key).refuse(
                "not a square number", found=str(count), expected="1, 4, 9, 16, …"
            )
    if (protocol.llm.training == "frozen") != (protocol.llm.lr == 0):
        expected = "0 when training is frozen, more than 0 otherwise"
        place.at("llm").at("lr").refuse(
            "contradicts training", found=show(protocol.llm.lr), expected=expected
        )
    if len(set(protocol.probe.lambdas)) != len(protocol.probe.lambdas):
        place.at("probe").at("lambdas").refuse("a value is listed twice")
    adapter = protocol.adapter
    if adapter.places == "none" and (adapter.position_words or adapter.frame_words):
        place.at("adapter").at("places").refuse(
            "starting words without places", expected='no words, or "learnt"'
        )
    _check_stages(protocol, place.at("adapter"))


def _check_stages(protocol: Protocol, place: Place) -> None:
    adapter = protocol.adapter
    if (protocol.llm.training == "lora") != bool(adapter.stages):
        place.at("stages").refuse(
            "contradict llm.training",
            found=f'{len(adapter.stages)} stages and "{protocol.llm.training}"',
            expected='later stages where training is "lora", and only there',
        )
    stages: list[AdapterRecipe | StageRecipe] = [adapter, *adapter.stages]
    for number, stage in enumerate(stages):
        if stage.warmup_steps > stage.steps:
            where = place.at("stages").at(number - 1) if number else place
            where.at("warmup_steps").refuse("more than steps", found=str(stage.warmup_steps))


def recipe_digests(protocol: Protocol) -> dict[str, str]:
    """Recipe name -> sha256 of the canonical JSON of the sections it covers (see `RECIPES`)."""
    return {
        recipe: digest_json({section: getattr(protocol, section) for section in sections})
        for recipe, sections in RECIPES.items()
    }


def unpinned_fields(protocol: Protocol) -> tuple[str, ...]:
    """Full paths of the fields still `UNPINNED`; an official run needs this to be empty."""
    values: dict[str, Any] = {
        "llm.revision": protocol.llm.revision,
        "adapter.mixture_digest": protocol.adapter.mixture_digest,
    }
    return tuple(path for path, value in values.items() if value == UNPINNED)
