"""Canonical hashing: same content same digest, other content other digest."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from harness.digest import (
    canonical_json,
    digest_arrays,
    digest_bytes,
    digest_file,
    digest_json,
    digest_tree,
    plain_json,
)


@dataclass(frozen=True)
class Pair:
    b: int
    a: tuple[float, ...]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None]}, '{"a":[true,null],"b":1}'),
        (Pair(b=1, a=(0.1, 1e-05)), '{"a":[0.1,1e-05],"b":1}'),
        ({"λ": "é\n"}, '{"λ":"é\\n"}'),
        ((), "[]"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (0.1 + 0.2, "0.30000000000000004"),
    ],
)
def test_canonical_json(value, text):
    assert canonical_json(value) == text.encode()
    assert json.loads(canonical_json(value)) == plain_json(value)


def test_a_whole_float_is_not_an_int():
    assert digest_json({"lr": 1}) != digest_json({"lr": 1.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=r"\$\.runs\[1\]\.score"):
        canonical_json({"runs": [0, {"score": value}]})


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {2, 3}}, b"bytes", object(), Pair, np.float32(1)])
def test_no_canonical_form(value):
    with pytest.raises(TypeError):
        canonical_json(value)


def test_lone_surrogate_is_refused():
    with pytest.raises(ValueError, match="surrogate"):
        canonical_json("\ud800")


def test_digests_are_sha256(tmp_path):
    data = b"x" * 3_000_000
    path = tmp_path / "f"
    path.write_bytes(data)
    assert digest_file(path) == digest_bytes(data) == hashlib.sha256(data).hexdigest()


def test_tree_ignores_order_but_not_names(tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    forward = digest_tree({"a": one, "b/c": two})
    assert forward == digest_tree({"b/c": two, "a": one})
    assert forward != digest_tree({"b/c": one, "a": two})
    assert forward != digest_tree({"a": one})


def test_arrays_ignore_order_strides_and_byte_order():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    want = digest_arrays({"x": a, "y": np.int64(3) * np.ones((), np.int64)})
    assert want == digest_arrays({"y": np.array(3), "x": np.asfortranarray(a)})
    assert want == digest_arrays({"x": a.astype(">f4"), "y": np.array(3, dtype=">i8")})


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.arange(6, dtype=np.float32).reshape(3, 2)},
        {"x": np.arange(6, dtype=np.int32).reshape(2, 3)},
        {"z": np.arange(6, dtype=np.float32).reshape(2, 3)},
        {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "e": np.zeros((0, 4))},
        {"x": np.nextafter(np.arange(6, dtype=np.float32), 9).reshape(2, 3)},
    ],
)
def test_arrays_that_differ(other):
    assert digest_arrays({"x": np.arange(6, dtype=np.float32).reshape(2, 3)}) != digest_arrays(other)


def test_arrays_of_objects_are_refused():
    with pytest.raises(TypeError, match="objects"):
        digest_arrays({"x": np.array([object()])})


def test_the_same_in_another_process():
    code = "from harness.digest import digest_json; print(digest_json({'b': [1.5], 'a': 'é'}), end='')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == digest_json({"a": "é", "b": [1.5]})
