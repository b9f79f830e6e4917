"""Submissions: an encoder's manifest (TOML, untrusted) and the files it names.

The manifest's layout is described in docs/format.md. Nothing here imports torch, executes a byte of
what was submitted, or trusts a length it has not checked against the file.
"""

from __future__ import annotations

import json
import re
import stat
import typing
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from harness.digest import digest_file, digest_json
from harness.errors import SubmissionError, UnsafeInputError, UsageError
from harness.fields import (
    Place,
    Rule,
    Rules,
    check_keys,
    parse_json,
    parse_toml,
    read_choice,
    read_record,
    read_text,
    show,
)
from harness.files import confine, write_atomic
from harness.records import (
    SCHEMA_VERSION,
    FloorKind,
    InputSpec,
    PretrainStage,
    Source,
    Submission,
    WeightFile,
)
from harness.safetensors_header import looks_like_pickle, read_safetensors_header

MAX_MANIFEST_BYTES = 64 * 1024
MAX_CONFIG_BYTES = 1024 * 1024
MAX_CHECKPOINT_BYTES = 64 << 30
"""Of all files together; `fetch` brings no more either."""
MAX_SIDE = 4096
"""Pixels of the largest image an encoder may be built for."""
TOP_KEYS = (
    "schema", "id", "title", "authors", "links", "license", "contamination",
    "architecture", "source", "input", "pretraining", "floor",
)  # fmt: skip
FLOOR_KEYS = ("kind", "base")
FLOORS_WITH_BASE = ("shuffled-image", "random-init")
FLOOR_ID = "floor-"
_DEVICE = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")  # an id names a folder, on Windows too

_SLUG = Rule(
    pattern=r"[a-z0-9][a-z0-9-]{1,62}",
    expected="2 to 63 of a-z, 0-9 and -, not starting with -",
    max_length=63,
)
RULES: Rules = {
    (Submission, "id"): _SLUG,
    (Submission, "title"): Rule(max_length=200),
    (Submission, "authors"): Rule(min_items=1, max_items=100),
    (Submission, "links"): Rule(
        max_items=20, max_length=500, pattern=r"https://[^\s\"'<>`\\]+", expected="an https:// address"
    ),
    (Submission, "license"): Rule(max_length=100),
    (Submission, "contamination"): Rule(max_length=1000),
    (Submission, "architecture"): Rule(max_length=200, empty=True),
    (Submission, "base"): _SLUG,
    (Submission, "pretraining"): Rule(max_items=32),
    (Source, "name"): Rule(
        pattern=r"[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*",
        expected="letters, digits, _ and -, parted by single . or /",
    ),
    (Source, "revision"): Rule(pattern=r"local|[0-9a-f]{40}", expected='"local" or 40 hex digits'),
    (Source, "files"): Rule(max_items=256),
    (WeightFile, "path"): Rule(max_length=255),
    (WeightFile, "sha256"): Rule(pattern=r"[0-9a-f]{64}", expected="64 lower-case hex digits"),
    (InputSpec, "resolution"): Rule(low=8, high=MAX_SIDE),
    (InputSpec, "mean"): Rule(low=0, high=1),
    # A standard deviation near 0 would blow every pixel up; 1/255 is the smallest in use.
    (InputSpec, "std"): Rule(low=0.001, high=1),
    (PretrainStage, "data"): Rule(max_length=500),
    (PretrainStage, "images_seen"): Rule(high=10**15),
    (PretrainStage, "init_from"): Rule(empty=True),
}
UNSAFE_WEIGHTS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5"})
"""Endings of weight files that can carry code."""
_FORMATS_WITH_CODE = {
    *UNSAFE_WEIGHTS,
    *(".joblib", ".npy", ".npz", ".hdf5", ".keras", ".onnx", ".gguf", ".msgpack"),
    *(".zip", ".tar", ".gz", ".7z", ".py", ".so", ".sh"),
}


def read_submission(path: Path) -> Submission:
    """Read and check a manifest. The files it names are not opened: see `verify_files`.

    Args:
        path: the manifest, TOML in UTF-8, at most 64 KiB.

    Returns:
        The submission, its `identity_digest` filled in.

    Raises:
        UsageError: there is no such file.
        SubmissionError: the manifest is not valid; the line names the field.
        UnsafeInputError: a file's path leaves the manifest's folder or names a pickle.
    """
    if not path.is_file():
        raise UsageError("no such manifest", where=str(path), fix="give the path of a manifest in TOML")
    with open(path, "rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    return parse_submission(data, path)


def parse_submission(data: bytes, path: Path) -> Submission:
    """`read_submission` on bytes already read; `path` serves messages and the folder's bounds.

    Raises:
        SubmissionError, UnsafeInputError: see `read_submission`.
    """
    place = Place(str(path), SubmissionError)
    if len(data) > MAX_MANIFEST_BYTES:
        place.refuse("manifest too large", expected=f"at most {MAX_MANIFEST_BYTES:,} bytes")
    return submission_from_table(_parse_toml(data, place), path)


def submission_from_table(parsed: object, path: Path) -> Submission:
    """`parse_submission` on a manifest's parsed TOML, or on a stored record brought into its shape.

    Raises:
        SubmissionError, UnsafeInputError: see `read_submission`.
    """
    place = Place(str(path), SubmissionError)
    table = check_keys(parsed, TOP_KEYS, place)
    _check_schema(table, place)
    floor, base = _read_floor(table, place)
    rest = {key: value for key, value in table.items() if key not in {"schema", "floor"}}
    rules = {**RULES, (Submission, "authors"): Rule(max_items=100)} if floor else RULES
    for key in ("authors", "links", "pretraining"):
        # The record has no default for these: in a manifest, absence is an empty list.
        rest.setdefault(key, [])
    if isinstance(rest.get("source"), dict):
        rest["source"] = {"files": [], **rest["source"]}
    given = {"floor": floor, "base": base, "identity_digest": ""}
    sub = read_record(Submission, rest, place, rules, given=given)
    _check_id(sub, place)
    _check_files(sub, path.parent, place)
    _check_source(sub, place)
    _check_history(sub, place)
    return replace(sub, identity_digest=identity_digest(sub))


def _parse_toml(data: bytes, place: Place) -> object:
    try:
        return parse_toml(data)
    except UnicodeDecodeError as error:
        place.refuse("not UTF-8", found=f"byte 0x{data[error.start]:02x} at offset {error.start}")
    except ValueError as error:
        place.refuse("not valid TOML", found=str(error))


def _check_schema(table: dict[str, Any], place: Place) -> None:
    version = table.get("schema")
    if version != SCHEMA_VERSION or type(version) is not int:
        found = "no such key" if version is None else show(version)
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        fix = "update Eyechart" if newer else f"write schema = {SCHEMA_VERSION} at the top"
        place.at("schema").refuse(
            "schema version not known", found=found, expected=str(SCHEMA_VERSION), fix=fix
        )


def _read_floor(table: dict[str, Any], place: Place) -> tuple[FloorKind | None, str]:
    source = table.get("source")
    is_floor = isinstance(source, dict) and source.get("kind") == "floor"
    if "floor" not in table:
        if is_floor:
            place.at("floor").refuse("key missing", fix="add [floor], or choose another source.kind")
        return None, ""
    place = place.at("floor")
    if not is_floor:
        place.refuse("[floor] belongs to floors only", expected='source.kind = "floor" beside it')
    floor = check_keys(table["floor"], FLOOR_KEYS, place)
    if "kind" not in floor:
        place.at("kind").refuse("key missing", fix="add kind")
    kind = read_choice(floor["kind"], typing.get_args(FloorKind), place.at("kind"))
    needs_base = kind in FLOORS_WITH_BASE
    if needs_base != ("base" in floor):
        expected = "the id of the encoder it is derived from" if needs_base else "no base for this kind"
        place.at("base").refuse("key missing" if needs_base else "key not allowed", expected=expected)
    base = read_text(floor["base"], place.at("base"), _SLUG) if needs_base else ""
    return typing.cast(FloorKind, kind), base


def _check_source(sub: Submission, place: Place) -> None:
    place = place.at("source")
    if sub.source.kind in {"local", "python", "floor"} and sub.source.revision != "local":
        place.at("revision").refuse("not well formed", found=show(sub.source.revision), expected='"local"')
    suffixes = {PurePosixPath(file.path).suffix for file in sub.source.files}
    if sub.floor is not None:
        return
    if not sub.source.files:
        place.at("files").refuse("no files", fix="add [[source.files]] with path and sha256")
    if ".safetensors" not in suffixes:
        place.at("files").refuse("no weights", expected="at least one .safetensors file")
    if sub.source.kind == "python" and ".py" not in suffixes:
        place.at("files").refuse("no code", expected="an encoder.py beside the weights")
    if sub.source.kind in {"transformers", "timm", "open_clip"} and ".json" not in suffixes:
        place.at("files").refuse("no configuration", expected="a config.json beside the weights")


def _check_id(sub: Submission, place: Place) -> None:
    if _DEVICE.fullmatch(sub.id):
        place.at("id").refuse("name of a device on Windows", found=show(sub.id), fix="choose another id")
    if sub.id.startswith(FLOOR_ID) and sub.floor is None:  # the board would compare others with it
        place.at("id").refuse("id of a floor", found=show(sub.id), fix=f"leave out {FLOOR_ID}")


def _check_path(root: Path, file: str, spot: Place) -> None:
    try:
        if ":" in file:  # a drive, or the scheme of an address
            raise UnsafeInputError("path refused", found=show(file), expected="a relative path")
        confine(root, file)
    except UnsafeInputError as error:
        where, found, expected = f"{spot.file}: {spot.path}", error.found, error.expected
        raise UnsafeInputError(error.what, where=where, found=found, expected=expected) from error


def _check_files(sub: Submission, root: Path, place: Place) -> None:
    seen: set[str] = set()
    for i, file in enumerate(sub.source.files):
        spot = place.at("source").at("files").at(i).at("path")
        _check_path(root, file.path, spot)
        suffix = PurePosixPath(file.path).suffix.lower()
        is_own_code = suffix == ".py" and sub.source.kind == "python"
        if suffix in _FORMATS_WITH_CODE and not is_own_code:
            raise UnsafeInputError(
                "file format refused, it can carry code",
                where=f"{spot.file}: {spot.path}",
                found=show(file.path),
                expected=".safetensors weights and .json configuration",
                fix="convert the weights to safetensors on your own machine",
            )
        if suffix not in {".safetensors", ".json"} and not is_own_code:
            spot.refuse("file format not known", found=show(file.path), expected=".safetensors or .json")
        if str(PurePosixPath(file.path)) != file.path:
            spot.refuse("not well formed", found=show(file.path), expected=str(PurePosixPath(file.path)))
        if file.path.lower() in seen:
            spot.refuse("listed twice", found=show(file.path), fix="remove one")
        seen.add(file.path.lower())


def _check_history(sub: Submission, place: Place) -> None:
    if sub.floor is not None:
        return
    place = place.at("pretraining")
    for i, stage in enumerate(sub.pretraining):
        if stage.objective == "none":
            place.at(i).at("objective").refuse("objective none is for floors", fix="name the objective")
    if all(stage.locked == "image" for stage in sub.pretraining):
        place.refuse(
            "no stage trained the image side",
            expected="at least one [[pretraining]] whose locked is not image",
            fix="list the parent model's stages first",
        )


def identity_digest(sub: Submission) -> str:
    """sha256 over what makes two submissions the same encoder: `source` and `input`.

    A floor's kind and base belong to its identity too: the floors of two encoders can share their
    source word for word and still see different features.
    """
    identity: dict[str, Any] = {"source": sub.source, "input": sub.input}
    if sub.floor is not None:
        identity |= {"floor": sub.floor, "base": sub.base}
    return digest_json(identity)


def verify_files(sub: Submission, root: Path) -> None:
    """Check every file a submission names: inside the folder, no pickle, whole, hash as declared.

    Args:
        sub: the submission.
        root: folder that the manifest's paths are relative to.

    Raises:
        UnsafeInputError: a path or link leads out of `root`, a special file, a pickle or zip
            archive under a safe name, or a safetensors header beyond our limit.
        SubmissionError: missing, truncated or malformed file, or another hash.
    """
    paths = {file.path: confine(root, file.path) for file in sub.source.files}
    if sum(path.stat().st_size for path in paths.values() if path.is_file()) > MAX_CHECKPOINT_BYTES:
        expected = f"at most {MAX_CHECKPOINT_BYTES:,} bytes"
        raise UnsafeInputError("files too large together", where=str(root), expected=expected)
    for file in sub.source.files:
        path = paths[file.path]
        place = Place(str(root / file.path), SubmissionError)
        if sub.source.revision != "local" and not path.exists():
            place.refuse("file is missing", fix="bring it from the hub with eyechart fetch MANIFEST")
        try:
            _check_kind(path, PurePosixPath(file.path).suffix, place)
            if path.suffix.lower() == ".safetensors":
                read_safetensors_header(path, place.file)
            elif path.suffix.lower() == ".json":
                _check_config(path, place)
            digest = digest_file(path)
        except FileNotFoundError:
            place.refuse("file is missing", fix="put it there, or correct source.files")
        except OSError as error:
            place.refuse("file cannot be read", found=str(error.strerror))
        if digest != file.sha256:
            place.refuse(
                "hash differs from the manifest's",
                found=digest,
                expected=file.sha256,
                fix="restore the file, or correct sha256 if the change is meant",
            )


def _check_kind(path: Path, suffix: str, place: Place) -> None:
    if not stat.S_ISREG(path.stat().st_mode) or path.suffix != suffix:
        raise UnsafeInputError("not a plain file", where=place.file, fix="replace it with the file itself")
    with open(path, "rb") as file:
        head = file.read(16)
    if looks_like_pickle(head):
        raise UnsafeInputError(
            "pickle or zip archive under another name",
            where=place.file,
            found=f"leading bytes {head[:4].hex()}",
            fix="convert the weights to safetensors on your own machine",
        )


def _check_config(path: Path, place: Place) -> None:
    with open(path, "rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        place.refuse("configuration too large", expected=f"at most {MAX_CONFIG_BYTES:,} bytes")
    try:
        config = parse_json(data)
    except (ValueError, RecursionError) as error:
        place.refuse("not valid JSON", found=str(error))
    if not isinstance(config, dict):
        place.refuse("wrong type", found=show(config), expected="a JSON object")


def write_manifest(sub: Submission, path: Path) -> None:
    """Write a submission as the TOML that `read_submission` reads back to the same record.

    Raises:
        SubmissionError, UnsafeInputError: the record would not be valid as a manifest.
        ResourceError: see `files.write_atomic`.
    """
    data = manifest_text(sub).encode("utf-8")
    parse_submission(data, path)
    write_atomic(path, data)


def manifest_text(sub: Submission) -> str:
    """The manifest of a submission, as `write_manifest` writes it; nothing is checked."""
    lines = [f"schema = {SCHEMA_VERSION}"]
    texts = ("id", "title", "authors", "links", "license", "contamination", "architecture")
    lines += [f"{key} = {spell_toml(getattr(sub, key))}" for key in texts]
    lines += [*spell_source(sub.source), "", "[input]"]
    lines += [f"{key} = {spell_toml(getattr(sub.input, key))}" for key in ("resolution", "mean", "std")]
    for stage in sub.pretraining:
        lines += ["", "[[pretraining]]"]
        keys = ("objective", "data", "images_seen", "init_from", "locked")
        lines += [f"{key} = {spell_toml(getattr(stage, key))}" for key in keys]
    if sub.floor is not None:
        lines += ["", "[floor]", f"kind = {spell_toml(sub.floor)}"]
        lines += [f"base = {spell_toml(sub.base)}"] if sub.base else []
    return "\n".join(lines) + "\n"


def spell_source(source: Source) -> list[str]:
    """Lines of the manifest's [source] and [[source.files]], a blank one before each."""
    lines = ["", "[source]"]
    lines += [f"{key} = {spell_toml(getattr(source, key))}" for key in ("kind", "name", "revision")]
    for file in source.files:
        lines += ["", "[[source.files]]"]
        lines += [f"{key} = {spell_toml(getattr(file, key))}" for key in ("path", "sha256")]
    return lines


def spell_toml(value: object) -> str:
    """One TOML value. JSON's spelling of strings and numbers is TOML's too, except for DEL."""
    if isinstance(value, tuple):
        return f"[{', '.join(spell_toml(item) for item in value)}]"
    return re.sub("\x7f", r"\\u007f", json.dumps(value, ensure_ascii=False))
