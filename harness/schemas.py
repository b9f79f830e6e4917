"""JSON schemas of every file a person or another program may want to check, from the records themselves.

`python -m harness.schemas` writes them to docs/schemas/. Types, defaults and bounds come from the same
classes and rules that the readers use, descriptions from the docstrings beside the fields.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from harness import protocol, submission, task
from harness.baseline import Baseline
from harness.fields import ANY, Rule, Rules
from harness.files import write_json
from harness.gate_records import CheckReport
from harness.records import (
    SCHEMA_VERSION,
    Answer,
    FloorKind,
    Metric,
    Protocol,
    Run,
    Sample,
    Score,
    Submission,
    Task,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schemas"

Schema = dict[str, Any]


def all_schemas() -> dict[str, Schema]:
    """File name -> schema: the three inputs as people write them, then records as programs write them."""
    records = {"answer": Answer, "metric": Metric, "run": Run, "sample": Sample, "score": Score}
    records |= {"baseline": Baseline, "check-report": CheckReport}
    schemas = {name: object_schema(cls, None) for name, cls in records.items()}
    schemas |= {"submission": _submission(), "protocol": _protocol(), "task-metadata": _task()}
    head = {"$schema": DIALECT}
    return {
        f"{name}.schema.json": {**head, "title": name, **schema} for name, schema in sorted(schemas.items())
    }


def write_schemas(folder: Path = FOLDER) -> list[Path]:
    """Write every schema; same records, same bytes.

    Returns:
        The files written.

    Raises:
        ResourceError: see `files.write_atomic`.
    """
    schemas = all_schemas()
    for name, schema in schemas.items():
        write_json(folder / name, schema)
    return [folder / name for name in schemas]


def object_schema(cls: type, rules: Rules | None, without: Collection[str] = ()) -> Schema:
    """Schema of one record as a JSON or TOML object.

    Args:
        cls: a dataclass from `harness.records`.
        rules: bounds by (class, field), as the reader of an input applies them; None for a record that a
            program writes whole: types only, and every key required.
        without: fields that the file does not have.
    """
    hints = typing.get_type_hints(cls)
    notes = field_docstrings(cls)
    properties: Schema = {}
    required = []
    for field in dataclasses.fields(cls):
        if field.name in without:
            continue
        rule = None if rules is None else rules.get((cls, field.name), ANY)
        properties[field.name] = _type_schema(hints[field.name], rule, rules)
        if field.name in notes:
            properties[field.name]["description"] = notes[field.name]
        optional = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if rules is None or not optional:
            required.append(field.name)
    doc = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return {
        "type": "object",
        "description": " ".join(doc.split()),
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def field_docstrings(cls: type) -> dict[str, str]:
    """Field name -> the string literal below it, which Python itself does not keep."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    notes: dict[str, str] = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if (
            isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            notes[field.target.id] = " ".join(below.value.value.split())
    return notes


def _type_schema(hint: Any, rule: Rule | None, rules: Rules | None) -> Schema:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in {typing.Union, types.UnionType}:
        (inner,) = (arg for arg in args if arg is not type(None))
        return {"anyOf": [_type_schema(inner, rule, rules), {"type": "null"}]}
    if origin is tuple:
        low, high = (rule.min_items, rule.max_items) if rule else (0, None)
        if args[-1] is not Ellipsis:
            low, high = len(args), len(args)
        schema: Schema = {"type": "array", "items": _type_schema(args[0], rule, rules), "minItems": low}
        return schema if high is None else {**schema, "maxItems": high}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(args[1], rule, rules)}
    if dataclasses.is_dataclass(hint):
        return object_schema(typing.cast(type, hint), rules)
    if hint is str:
        return _text_schema(rule)
    if hint is bool:
        return {"type": "boolean"}
    bounds = {} if rule is None else {"minimum": rule.low, "maximum": rule.high}
    return {"type": {int: "integer", float: "number"}[hint], **bounds}


def _text_schema(rule: Rule | None) -> Schema:
    if rule is None:
        return {"type": "string"}
    schema: Schema = {"type": "string", "maxLength": rule.max_length}
    if not rule.empty:
        schema["minLength"] = 1
    if rule.pattern:
        schema["pattern"] = f"^(?:{rule.pattern})$"
    return schema


def _submission() -> Schema:
    """The manifest's layout: [floor] stands beside the record's fields, and decides what is required."""
    without = ("floor", "base", "identity_digest")
    schema = object_schema(Submission, submission.RULES, without)
    floor: Schema = {
        "type": "object",
        "description": "Only for floors, and then required.",
        "properties": {
            "kind": {"enum": list(typing.get_args(FloorKind))},
            "base": _text_schema(submission.RULES[Submission, "id"]),
        },
        "required": ["kind"],
        "additionalProperties": False,
    }
    keys = {**_versioned(schema), "floor": floor}
    lists = ("authors", "links", "pretraining")
    is_floor = {"properties": {"source": {"properties": {"kind": {"const": "floor"}}}}}
    no_authors = {**keys["authors"], "minItems": 0}
    encoder = {
        "required": ["authors", "pretraining"],
        "properties": {"floor": False, "authors": {"minItems": 1}, "pretraining": {"minItems": 1}},
    }
    source = keys["source"]
    # A floor may have no files at all; for an encoder the reader asks for weights.
    source["required"] = [key for key in source["required"] if key != "files"]
    return {
        **schema,
        "properties": {**keys, "authors": no_authors},
        "required": ["schema", *(key for key in schema["required"] if key not in lists)],
        "if": is_floor,
        "then": {"required": ["floor"]},
        "else": encoder,
    }


def _protocol() -> Schema:
    schema = object_schema(Protocol, protocol.RULES, ("recipe_digests",))
    return {**schema, "properties": _versioned(schema), "required": ["schema", *schema["required"]]}


def _task() -> Schema:
    return object_schema(Task, task.RULES, ("name", "split", "digest"))


def _versioned(schema: Schema) -> Schema:
    version = {"const": SCHEMA_VERSION, "description": "Version of this file's format."}
    return {"schema": version, **schema["properties"]}


if __name__ == "__main__":
    sys.stdout.writelines(f"wrote {path.name}\n" for path in write_schemas())
