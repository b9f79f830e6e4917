"""Tasks: what lmms-eval's YAML says under `metadata:`, read without lmms-eval."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from harness.digest import digest_json
from harness.errors import UsageError
from harness.fields import Place, Rule, Rules, check_keys, nearest, read_record, show
from harness.records import Task

TASKS = Path(__file__).resolve().parent.parent / "tasks"
"""The repository's tasks/ folder: data beside the package, not part of it."""
PREFIX = "eyechart_"
MAX_YAML_BYTES = 256 * 1024

RULES: Rules = {
    (Task, "name"): Rule(pattern=r"eyechart_[a-z0-9_]+", expected="eyechart_ and then a-z, 0-9 and _"),
    (Task, "description"): Rule(max_length=2000, multiline=True),
    (Task, "suite"): Rule(pattern=r"[a-z0-9][a-z0-9-]{0,62}", expected="a-z, 0-9 and -", max_length=63),
    (Task, "version"): Rule(high=10**6),
    (Task, "scorer"): Rule(
        pattern=r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+",
        expected="a dotted name such as lmms_eval.tasks.x.utils.f",
    ),
    (Task, "chance"): Rule(high=1),
    (Task, "num_expected"): Rule(low=1, high=10**9),
    (Task, "dataset"): Rule(
        pattern=r"[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*",
        expected="a folder below the suite's data root",
    ),
    (Task, "dataset_digest"): Rule(pattern=r"UNPINNED|[0-9a-f]{64}", expected="64 hex digits, or UNPINNED"),
    (Task, "max_new_tokens"): Rule(high=10**6),
    (Task, "gating_margin"): Rule(high=1),
}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """SafeLoader that keeps `!function module.name` as text and refuses a key given twice."""


def _function_as_text(loader: yaml.SafeLoader, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "!function needs a dotted name", node.start_mark)
    # The tag stays in the text: a function and a string of the same spelling are different tasks.
    return f"!function {loader.construct_scalar(node)}"


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in keys if isinstance(key, str) and keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} twice", node.start_mark)
    loader.flatten_mapping(node)
    mapping: dict[Hashable, Any] = loader.construct_mapping(node, deep=True)
    return mapping


_Loader.add_constructor("!function", _function_as_text)
_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def known_tasks(tasks_dir: Path | None = None) -> tuple[str, ...]:
    """Names of the tasks in a tasks folder (the repository's by default), sorted."""
    return tuple(
        sorted(path.stem for path in (tasks_dir or TASKS).glob("*/*.yaml") if path.stem == path.parent.name)
    )


def read_task(name: str, tasks_dir: Path | None = None) -> Task:
    """Read tasks/<name>/<name>.yaml.

    Args:
        name: the task's name.
        tasks_dir: another folder than the repository's tasks/.

    Returns:
        The task; `split` is the YAML's `test_split`, `digest` covers the whole YAML.

    Raises:
        UsageError: no such task (the nearest name is given), or the YAML is not valid.
    """
    folder = tasks_dir or TASKS
    known = known_tasks(folder)
    if name not in known:
        close = nearest(name, known)
        fix = f"write {close}" if close else "check the tasks folder"
        expected = f"one of {', '.join(known)}" if known else f"a folder of that name in {folder}"
        raise UsageError("no such task", found=show(name), expected=expected, fix=fix)
    place = Place(f"{name}.yaml", UsageError)
    table = _load(folder / name / f"{name}.yaml", place)
    if table.get("task") != name:
        place.at("task").refuse("differs from the file's name", found=show(table.get("task")), expected=name)
    for key in ("test_split", "metadata"):
        if key not in table:
            place.at(key).refuse("key missing", fix=f"add {key}")
    # The metadata may not repeat what lmms-eval's own keys say: two places could disagree.
    given = {"name": name, "split": "", "digest": ""}
    task = read_record(Task, table["metadata"], place.at("metadata"), RULES, given=given)
    split = _split(table["test_split"], place.at("test_split"))
    return replace(task, split=split, digest=digest_json(_canonical(table, place)))


def _split(value: object, place: Place) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        place.refuse("not the name of a split", found=show(value))
    return value


def _load(path: Path, place: Place) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_YAML_BYTES)
        # _Loader derives from SafeLoader: no Python object is ever built from a tag.
        table: object = yaml.load(data.decode("utf-8"), Loader=_Loader)  # noqa: S506
    except OSError as error:
        place.refuse("cannot be read", found=f"{path.name}: {error.strerror}")
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        place.refuse("not valid YAML", found=" ".join(str(error).split()))
    # Top-level keys are lmms-eval's business, so any is known here.
    values = check_keys(table, table if isinstance(table, dict) else (), place)
    if "include" in values:
        fix = "write every key in the task's own file"
        place.at("include").refuse("include is not read, the digest would not cover it", fix=fix)
    return values


def _canonical(value: Any, place: Place) -> Any:
    """The table with dates and the like as text, so that it has a canonical JSON form."""
    if isinstance(value, dict):
        return {str(key): _canonical(item, place.at(str(key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item, place.at(i)) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        place.refuse("not a finite number", found=show(value))
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
