"""What a checkpoint's folder says about itself, in the on-disk format of each library we read."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from harness.encoders.config_json import library_of, read_config, read_table
from harness.errors import SubmissionError, UnsafeInputError
from harness.fields import Place, show
from harness.files import confine
from harness.safetensors_header import read_safetensors_header
from harness.submission import MAX_CHECKPOINT_BYTES, MAX_SIDE, UNSAFE_WEIGHTS

Format = Literal["transformers", "timm", "open_clip"]
FORMATS: tuple[Format, ...] = get_args(Format)
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
PREPROCESSOR, CARD = "preprocessor_config.json", "README.md"
CONFIG_OF: dict[Format, str] = {"transformers": CONFIG, "timm": CONFIG, "open_clip": OPEN_CLIP_CONFIG}
WEIGHTS_OF: dict[Format, tuple[str, ...]] = {
    "transformers": ("model.safetensors",),
    "timm": ("model.safetensors",),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
}
_OTHER_WEIGHTS = UNSAFE_WEIGHTS | {".gguf", ".keras", ".msgpack", ".npy", ".npz", ".onnx", ".tar", ".zip"}
MAX_LICENSE, MAX_PIXEL = 100, 255
Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the files of a folder say; None and "" where they say nothing."""

    architecture: str
    """As the library names it."""
    resolution: tuple[int, str] | None = None
    """Native side in pixels, and the file that says it."""
    built_for: int | None = None
    """Side that the network's own configuration names; another one contradicts it."""
    mean: tuple[Triple, str] | None = None
    std: tuple[Triple, str] | None = None
    license: tuple[str, str] | None = None
    notes: tuple[str, ...] = field(default=())
    """What may help a person to tell the pretraining history; never taken for it."""


def find_format(folder: Path, wanted: str = "") -> Format:
    """Which library wrote a folder.

    Args:
        folder: the checkpoint.
        wanted: what the person says it is; needed where a folder holds one checkpoint in two formats.

    Raises:
        UnsafeInputError: a configuration that is no plain file inside the folder.
        SubmissionError: no configuration that we know, or two of them and nothing that chooses.
    """
    there: list[Format] = []
    if _is_there(folder, CONFIG):
        table = read_table(folder / CONFIG, str(folder / CONFIG))
        there.append(library_of(table))
    if _is_there(folder, OPEN_CLIP_CONFIG):
        there.append("open_clip")
    if wanted:
        there = [form for form in there if form == wanted]
    if len(there) == 1:
        return there[0]
    if there:
        raise SubmissionError(
            "checkpoint is there in two formats",
            where=str(folder),
            found=" and ".join(there),
            fix=f"say which one is meant with --format {there[0]} or --format {there[1]}",
        )
    names = f"{CONFIG} or {OPEN_CLIP_CONFIG}" if not wanted else CONFIG_OF.get(wanted, CONFIG)  # type: ignore[call-overload]
    raise SubmissionError(
        f"no {names}" + (f" of {wanted}" if wanted else ""),
        where=str(folder),
        expected="a folder that save_pretrained of transformers, or save_for_hf of timm or open_clip, wrote",
        fix=_hint_of_pickles(folder),
    )


def _is_there(folder: Path, name: str) -> bool:
    """Whether the folder has the file.

    Raises:
        UnsafeInputError: under that name is a pipe, a folder, or a link that leads out.
    """
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return False
    try:
        plain = stat.S_ISREG(confine(folder, name).stat().st_mode)
    except OSError:
        plain = False
    if not plain:
        raise UnsafeInputError("not a plain file", where=str(path), fix="replace it with the file itself")
    return True


def find_weights(folder: Path, form: Format) -> tuple[str, ...]:
    """Names of the safetensors files that hold the checkpoint.

    Raises:
        SubmissionError: none, several that no index explains, or shards that are not those of their index.
        UnsafeInputError: weights of another format only, or a pipe, a folder or a link that leads out.
    """
    there = sorted(path.name for path in folder.glob("*.safetensors") if _is_there(folder, path.name))
    usual = WEIGHTS_OF[form]
    index = f"{usual[0]}.index.json"
    if _is_there(folder, index):
        return _shards(folder / index, there, usual)
    chosen = next((name for name in usual if name in there), "")
    if not chosen and len(there) == 1 and form != "open_clip":
        chosen = there[0]
    if chosen:
        read_safetensors_header(folder / chosen, str(folder / chosen))
        return (chosen,)
    if there:
        raise SubmissionError(
            "several weight files and no index" if len(there) > 1 else "weights of another format",
            where=str(folder),
            found=", ".join(there[:3]),
            expected=f"{' or '.join(usual)}, or shards with {index}",
        )
    others = sorted(p.name for p in folder.iterdir() if p.suffix in _OTHER_WEIGHTS)
    if others:
        raise UnsafeInputError(
            "weights are not safetensors", where=str(folder), found=others[0], fix=_hint_of_pickles(folder)
        )
    raise SubmissionError("no weights", where=str(folder), expected=usual[0])


def _hint_of_pickles(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if p.suffix in UNSAFE_WEIGHTS)
    return f"write safetensors with eyechart convert {folder / found[0]}" if found else ""


def _shards(path: Path, there: Sequence[str], usual: Sequence[str]) -> tuple[str, ...]:
    """The weight files of an index, which must hold what it says of them and be all there are."""
    index = read_table(path, str(path))
    place, table, stated = Place(str(path), SubmissionError), index.get("weight_map"), index.get("metadata")
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        place.at("weight_map").refuse("index of the weights is not valid", expected="tensor = file")
    names = tuple(sorted(set(table.values())))
    if bad := [name for name in names if Path(name).name != name or name in {"", ".."}]:
        raise UnsafeInputError("index leads out of its folder", where=str(path), found=show(bad[0]))
    if missing := sorted(set(names) - set(there)):
        place.refuse("shard of the weights is missing", found=show(missing[0]))
    if extra := sorted(set(there) - set(names) - set(usual)):
        place.refuse("shard that the index does not name", found=extra[0], fix="move it away")
    num_bytes = 0
    for name in names:
        tensors = read_safetensors_header(path.parent / name, str(path.parent / name))
        if wrong := sorted(tensors.keys() ^ {tensor for tensor, shard in table.items() if shard == name}):
            place.refuse("index and shard disagree", found=f"{show(wrong[0])} in one of them", expected=name)
        num_bytes += sum(tensor.end - tensor.begin for tensor in tensors.values())
    if num_bytes > MAX_CHECKPOINT_BYTES:
        expected = f"at most {MAX_CHECKPOINT_BYTES:,} bytes"
        raise UnsafeInputError("files too large together", where=str(path), expected=expected)
    total = stated.get("total_size") if isinstance(stated, dict) else None
    if total not in (None, num_bytes):
        place.at("metadata.total_size").refuse(
            "index and shards disagree", found=show(total), expected=f"{num_bytes}"
        )
    return names


def read_folder(folder: Path, form: Format) -> Reading:
    """What the folder says about architecture, input and licence.

    Raises:
        UnsafeInputError: a configuration that asks for code.
        SubmissionError: a file that is not what its name says, or an architecture we do not know.
    """
    return _READERS[form](folder)


def _read_transformers(folder: Path) -> Reading:
    model_type, config = read_config(folder / CONFIG)
    built_for = side_in(config.get("image_size"))
    path = folder / PREPROCESSOR
    table = read_table(path, str(path)) if _is_there(folder, PREPROCESSOR) else {}
    sides = [(built_for, CONFIG)]
    if table.get("do_center_crop", True):
        sides.append((side_in(table.get("crop_size")), PREPROCESSOR))
    sides.append((side_in(table.get("size")), PREPROCESSOR))
    resolution = next(((side, origin) for side, origin in sides if side is not None), None)
    mean, std = _triple(table.get("image_mean")), _triple(table.get("image_std"))
    if table.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Reading(
        architecture=model_type,
        resolution=resolution,
        built_for=built_for,
        mean=(mean, PREPROCESSOR) if mean else None,
        std=(std, PREPROCESSOR) if std else None,
        license=_card_license(folder),
    )


def _read_timm(folder: Path) -> Reading:
    from harness.encoders.timm import read_timm_config

    config = read_timm_config(folder / CONFIG)
    table = read_table(folder / CONFIG, CONFIG)
    stated = table.get("pretrained_cfg")
    stated = stated if isinstance(stated, dict) else {}
    mean, std, license_ = _triple(stated.get("mean")), _triple(stated.get("std")), stated.get("license")
    side = config.side
    notes = [
        f"{name} of config.json: {stated[name]}"
        for name in ("tag", "origin_url", "paper_ids")
        if isinstance(stated.get(name), str) and stated[name]
    ]
    return Reading(
        architecture=config.architecture,
        resolution=(side, CONFIG) if side else None,
        built_for=side if config.arguments.get("img_size") else None,
        mean=(mean, CONFIG) if mean else None,
        std=(std, CONFIG) if std else None,
        license=_license(license_, CONFIG) or _card_license(folder),
        notes=tuple(_plain(note) for note in notes),
    )


def _read_open_clip(folder: Path) -> Reading:
    from harness.encoders.open_clip import read_open_clip_config

    config = read_open_clip_config(folder / OPEN_CLIP_CONFIG)
    stated = read_table(folder / OPEN_CLIP_CONFIG, OPEN_CLIP_CONFIG).get("preprocess_cfg")
    stated = stated if isinstance(stated, dict) else {}
    mean, std = _triple(stated.get("mean")), _triple(stated.get("std"))
    return Reading(
        architecture=config.tower,
        resolution=(config.side, OPEN_CLIP_CONFIG) if config.side else None,
        built_for=config.side,
        mean=(mean, OPEN_CLIP_CONFIG) if mean else None,
        std=(std, OPEN_CLIP_CONFIG) if std else None,
        license=_card_license(folder),
    )


_READERS: dict[Format, Callable[[Path], Reading]] = {
    "transformers": _read_transformers,
    "timm": _read_timm,
    "open_clip": _read_open_clip,
}


def side_in(value: Any) -> int | None:
    """A square side out of the libraries' spellings of a size; None for anything else."""
    sides = [value]
    if isinstance(value, dict):
        sides = [value.get(name, value.get("shortest_edge")) for name in ("height", "width")]
    elif isinstance(value, list):
        sides = value
    side = sides[0] if sides and all(type(v) is int and v == sides[0] for v in sides) else None
    return side if side is not None and 0 < side <= MAX_SIDE else None


def _triple(value: Any) -> Triple | None:
    # The bound keeps out infinity, NaN and whole numbers too large for a float.
    if not isinstance(value, list) or len(value) != 3:
        return None
    sound = all(type(v) in {int, float} and abs(v) <= MAX_PIXEL for v in value)
    return (float(value[0]), float(value[1]), float(value[2])) if sound else None


def _license(value: Any, origin: str) -> tuple[str, str] | None:
    sound = isinstance(value, str) and 0 < len(value) <= MAX_LICENSE and value.isprintable()
    return (value, origin) if sound else None


def _plain(text: str) -> str:
    """One line of printable text, short enough for a comment."""
    return "".join(c for c in text if c.isprintable())[:200]


def _card_license(folder: Path) -> tuple[str, str] | None:
    """The licence in the front matter of a model card."""
    path = folder / CARD
    if not _is_there(folder, CARD):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(1 << 20)
    head = re.match(r"---\r?\n(.*?)\n---", text, flags=re.DOTALL)
    line = re.search(r"^license:\s*[\"']?([\w.+-]+)[\"']?\s*$", head[1], flags=re.MULTILINE) if head else None
    return _license(line[1], CARD) if line else None
