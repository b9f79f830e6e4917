"""Tasks: our part of an lmms-eval YAML, read strictly; the rest hashed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.records import Task
from harness.task import known_tasks, read_task

NAME = "eyechart_toy_vqa"
TEXT = f"""\
task: {NAME}
dataset_path: parquet
test_split: validation
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
generation_kwargs: {{max_new_tokens: 16, until: ["\\n"]}}
metadata:
  title: Toy VQA
  description: |
    Two lines
    of text.
  suite: toy
  kind: generate
  version: 1
  metric: exact_match
  scorer: lmms_eval.tasks.vqav2.utils.vqav2_process_results_val
  chance: 0
  cluster_key: image_id
  num_expected: 1000
  dataset: vqa
  dataset_digest: {"a" * 64}
  max_new_tokens: 16
  gating_margin: 0.02
"""


def read(folder: Path, text: str) -> Task:
    home = folder / NAME
    home.mkdir(exist_ok=True)
    (home / f"{NAME}.yaml").write_bytes(text.encode())
    return read_task(NAME, folder)


def changed(old: str, new: str) -> str:
    assert old in TEXT, old
    return TEXT.replace(old, new, 1)


def test_a_good_task(tmp_path):
    task = read(tmp_path, TEXT)
    assert (task.name, task.split, task.kind, task.chance) == (NAME, "validation", "generate", 0.0)
    assert task.description == "Two lines\nof text.\n"
    assert known_tasks(tmp_path) == (NAME,)


def test_digest_moves_with_the_content_only(tmp_path):
    digest = read(tmp_path, TEXT).digest
    assert read(tmp_path, "# a comment\n" + TEXT.replace("  version: 1", "  version:   1")).digest == digest
    for old, new in [
        ("until: [", "do_sample: false, until: ["),
        ("!function utils.doc_to_text", "!function utils.other"),
        ("!function utils.doc_to_text", "utils.doc_to_text"),
        ("num_expected: 1000", "num_expected: 1001"),
    ]:
        assert read(tmp_path, changed(old, new)).digest != digest


MISTAKES = [
    ("  title: Toy VQA", "  titel: Toy VQA", ["metadata.titel", "expected title"]),
    ("  title: Toy VQA\n", "", ["metadata.title", "key missing"]),
    ("  kind: generate", "  kind: generat", ["metadata.kind", "Write generate"]),
    ("  chance: 0", "  chance: 1.5", ["metadata.chance", "0 to 1"]),
    ("  chance: 0", "  chance: .nan", ["metadata.chance", "finite"]),
    (
        "max_new_tokens: 16, until",
        "max_new_tokens: .inf, until",
        ["generation_kwargs.max_new_tokens", "finite"],
    ),
    ("  chance: 0", "  chance: 1/5", ["metadata.chance", "a number"]),
    ("num_expected: 1000", "num_expected: 0", ["metadata.num_expected", "out of range"]),
    ("version: 1", "version: yes", ["metadata.version", "whole number"]),
    ("scorer: lmms_eval.tasks", "scorer: lmms eval.tasks", ["metadata.scorer", "dotted name"]),
    ("dataset: vqa", "dataset: ../vqa", ["metadata.dataset"]),
    ("dataset_digest: aaa", "dataset_digest: zzz", ["metadata.dataset_digest", "64 hex"]),
    ("  gating_margin", "  name: x\n  gating_margin", ["metadata.name", "unknown key"]),
    ("  gating_margin", "  digest: x\n  gating_margin", ["metadata.digest", "unknown key"]),
    ("test_split: validation\n", "", ["test_split", "key missing"]),
    ("test_split: validation", "test_split: 3", ["test_split"]),
    (f"task: {NAME}", "task: eyechart_other", ["task", f"expected {NAME}"]),
    ("metadata:", "metadata: [1]\nx:", ["metadata", "a table"]),
    ("  chance: 0", "  chance: 0\n  chance: 1", ["not valid YAML", "'chance' twice"]),
    ("dataset_path: parquet", "dataset_path: !!python/object:os.system {}", ["not valid YAML"]),
    ("dataset_path: parquet", "dataset_path: !function [a]", ["not valid YAML", "dotted name"]),
    ("dataset_path: parquet", "include: other.yaml", ["include"]),
    ("metadata:", "metadata", ["not valid YAML", "line"]),
    ("Toy VQA", "Toy \x00", ["not valid YAML"]),
    (TEXT, "", ["a table"]),
    (TEXT, "[" * 100000, ["not valid YAML"]),
]


@pytest.mark.parametrize(("old", "new", "says"), MISTAKES, ids=lambda v: v[:30] if isinstance(v, str) else "")
def test_mistakes(tmp_path, old, new, says):
    with pytest.raises(UsageError) as caught:
        read(tmp_path, changed(old, new))
    line = str(caught.value)
    assert "\n" not in line
    for part in [f"{NAME}.yaml", *says]:
        assert part in line


def test_unknown_task_names_the_nearest(tmp_path):
    read(tmp_path, TEXT)
    for name in ("eyechart_toy_vqb", "../eyechart_toy_vqa", ""):
        with pytest.raises(UsageError, match=f"Write {NAME}"):
            read_task(name, tmp_path)


def test_empty_tasks_folder(tmp_path):
    assert known_tasks(tmp_path / "none") == ()
    with pytest.raises(UsageError, match="no such task"):
        read_task(NAME, tmp_path / "none")


@pytest.mark.parametrize("name", known_tasks())
def test_tasks_of_the_repository(name):
    task = read_task(name)
    assert task.name == name
    assert task.description
