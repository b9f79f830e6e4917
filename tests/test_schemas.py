"""JSON schemas and docs/format.md say what the records say, today."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import records
from harness.bundle import COMMIT, MANIFEST
from harness.digest import canonical_json
from harness.protocol import PROTOCOLS, known_protocols
from harness.records import SCHEMA_VERSION
from harness.sample_tables import ANSWER_SCHEMA, SCORE_SCHEMA
from harness.schemas import FOLDER, all_schemas, field_docstrings, write_schemas
from harness.store import SCHEMA as STORE_SQL
from harness.task import TASKS, known_tasks

FORMAT = (FOLDER.parent / "format.md").read_text(encoding="utf-8")
TICKED = set(re.findall(r"`([^`\n]+)`", FORMAT))
RECORDS = [cls for cls in vars(records).values() if dataclasses.is_dataclass(cls)]

MANIFEST_TEXT = f"""
schema = 1
id = "vit-siglip"
title = "ViT"
authors = ["A. Person"]
license = "MIT"
contamination = "none known"
[source]
kind = "local"
name = "vit"
revision = "local"
files = [{{ path = "model.safetensors", sha256 = "{"0" * 64}" }}]
[input]
resolution = 64
mean = [0, 0.5, 0.5]
std = [0.5, 0.5, 1]
[[pretraining]]
objective = "captioning"
data = "captions"
images_seen = 1
"""


def section(heading: str) -> str:
    """The part of docs/format.md below a heading, up to the next of the same rank."""
    rank = heading.partition(" ")[0]
    body = FORMAT.partition(f"\n{heading}\n")[2]
    return re.split(rf"\n#{{1,{len(rank)}}} ", body)[0]


def test_committed_schemas_are_fresh(tmp_path):
    written = {path.name: path.read_bytes() for path in write_schemas(tmp_path)}
    committed = {path.name: path.read_bytes() for path in sorted(FOLDER.glob("*.json"))}
    assert committed == written, "run `python -m harness.schemas` and read the difference"


KINDS = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
KINDS |= {"null": type(None), None: object}


def fits(schema: Any, value: Any) -> bool:
    """The part of JSON Schema that ours use, so that these tests need no validator installed."""
    if isinstance(schema, bool):
        return schema
    unknown = set(schema) - KEYWORDS
    assert not unknown, f"teach this function {unknown}"
    branch = schema["then" if fits(schema["if"], value) else "else"] if "if" in schema else True
    checks = [
        fits(branch, value),
        any(fits(inner, value) for inner in schema.get("anyOf", [True])),
        value == schema.get("const", value),
        value in schema.get("enum", [value]),
        isinstance(value, KINDS[schema.get("type")]) and not isinstance(value, bool),
    ]
    return all(checks) and fits_inside(schema, value)


def fits_inside(schema: dict[str, Any], value: Any) -> bool:
    """The keywords that hold for one type of value only."""
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        inside = all(fits(known.get(key, other), item) for key, item in value.items())
        return inside and set(schema.get("required", [])) <= set(value)
    if isinstance(value, list):
        bounds = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        return bounds and all(fits(schema.get("items", True), item) for item in value)
    if isinstance(value, str):
        bounds = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        return bounds and bool(re.search(schema.get("pattern", ""), value))
    return value is None or schema.get("minimum", value) <= value <= schema.get("maximum", value)


KEYWORDS = {"$schema", "title", "description", "type", "const", "enum", "anyOf", "if", "then", "else"}
KEYWORDS |= {"properties", "required", "additionalProperties", "items", "minItems", "maxItems"}
KEYWORDS |= {"minLength", "maxLength", "pattern", "minimum", "maximum"}


def accepts(name: str, value: object) -> bool:
    return fits(all_schemas()[f"{name}.schema.json"], value)


def test_submission_schema_agrees_with_the_reader():
    manifest = tomllib.loads(MANIFEST_TEXT)
    assert accepts("submission", manifest)
    assert not accepts("submission", {**manifest, "titel": "x"})
    assert not accepts("submission", {**manifest, "floor": {"kind": "blind"}})
    assert not accepts("submission", {**manifest, "authors": []})
    assert not accepts("submission", {**manifest, "id": "No Slug"})
    assert not accepts("submission", {k: v for k, v in manifest.items() if k != "pretraining"})
    floor = {k: v for k, v in manifest.items() if k not in {"pretraining", "authors"}}
    floor["source"] = {"kind": "floor", "name": "blind", "revision": "local"}
    assert accepts("submission", {**floor, "floor": {"kind": "blind"}})
    assert not accepts("submission", floor)


@pytest.mark.parametrize("name", known_protocols())
def test_protocol_schema_agrees_with_the_reader(name):
    protocol = tomllib.loads((PROTOCOLS / f"{name}.toml").read_text(encoding="utf-8"))
    assert accepts("protocol", protocol)
    assert not accepts("protocol", {**protocol, "seeds": [0, 1]})
    assert not accepts("protocol", {**protocol, "image": {**protocol["image"], "resize": "squish"}})


@pytest.mark.parametrize("name", known_tasks())
def test_task_schema_agrees_with_the_reader(name):
    metadata = yaml.safe_load(
        (TASKS / name / f"{name}.yaml").read_text(encoding="utf-8").replace("!function", "")
    )
    assert accepts("task-metadata", metadata["metadata"])
    assert not accepts("task-metadata", {**metadata["metadata"], "chance": 2})


def test_record_schemas_agree_with_what_is_written():
    score = records.Score(sample_id="q1", cluster="7", score=None, status="missing")
    assert accepts("score", json.loads(canonical_json(score)))
    assert not accepts("score", {"sample_id": "q1", "cluster": "7", "score": "1", "status": "missing"})
    assert not accepts("score", {"sample_id": "q1", "cluster": "7", "status": "missing"})


def test_field_docstrings_are_found():
    assert field_docstrings(records.WeightFile)["sha256"] == "64 hex digits over the file's bytes."
    assert "n" not in field_docstrings(records.Counts)


def test_format_states_the_schema_version():
    assert f"Schema version: **{SCHEMA_VERSION}**" in FORMAT


@pytest.mark.parametrize("cls", RECORDS, ids=lambda c: c.__name__)
def test_format_names_every_field(cls):
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in TICKED]
    assert not missing, f"docs/format.md lacks {missing}"


@pytest.mark.parametrize(
    ("heading", "schema"), [("### answers.parquet", ANSWER_SCHEMA), ("### scores-*.parquet", SCORE_SCHEMA)]
)
def test_format_lists_the_columns_of_a_table(heading, schema):
    named = re.findall(r"^\| `(\w+)` \|", section(heading), re.MULTILINE)
    assert named == schema.names


def test_format_lists_the_files_of_a_bundle():
    text = section("## Bundle")
    for name in ("run.json", "answers.parquet", "receipt.json", "environment.json", MANIFEST, COMMIT):
        assert f"`{name}`" in text


def test_format_lists_the_leaderboard_view():
    named = re.findall(r"^\| `(\w+)` \|", section("### View `leaderboard`"), re.MULTILINE)
    assert named == [f.name for f in dataclasses.fields(records.Metric)]
    view = STORE_SQL.read_text(encoding="utf-8").split("CREATE VIEW leaderboard AS", 1)[1].split("FROM", 1)[0]
    assert named == re.findall(r"[me]\.(\w+)", view)


def test_format_lists_the_tables_of_the_store():
    sql = STORE_SQL.read_text(encoding="utf-8")
    text = section("## Database")
    for name in re.findall(r"^CREATE (?:TABLE|VIEW) (\w+)", sql, re.MULTILINE):
        assert f"`{name}`" in text, name


def test_format_links_every_schema():
    linked = set(re.findall(r"\(schemas/([a-z.-]+)\)", FORMAT))
    assert linked == {Path(path).name for path in FOLDER.glob("*.json")}
