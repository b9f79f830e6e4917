from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from harness.cache import ArrayCache
from harness.errors import IntegrityError, InternalError, ResourceError

KEY = "ab" + "0" * 62


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "cache")


def arrays():
    return {
        "tokens": np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        "pooled": np.ones((2, 4), np.float32),
        "rows": np.arange(2),
    }


def test_arrays_come_back_bit_for_bit(cache):
    assert not cache.has(KEY)
    cache.write(KEY, arrays(), {"encoder": "toy"})
    assert cache.has(KEY)
    found = cache.read(KEY)
    assert found.keys() == arrays().keys()
    for name, array in arrays().items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_strided_arrays_are_stored_in_order(cache):
    cache.write(KEY, {"x": arrays()["tokens"].transpose(2, 0, 1)}, {})
    np.testing.assert_array_equal(cache.read(KEY)["x"], arrays()["tokens"].transpose(2, 0, 1))


def test_same_arrays_make_the_same_bytes(cache, tmp_path):
    other = ArrayCache(tmp_path / "other")
    cache.write(KEY, arrays(), {"a": 1})
    other.write(KEY, dict(reversed(arrays().items())), {"a": 1})
    names = sorted(p.relative_to(cache.root) for p in cache.root.rglob("*") if p.is_file())
    assert [(cache.root / n).read_bytes() for n in names] == [(other.root / n).read_bytes() for n in names]


@pytest.mark.parametrize("place", [0, 8, 60, -1])
def test_flipped_bit_is_found_set_aside_and_recomputed(cache, place):
    cache.write(KEY, arrays(), {})
    path = cache.root / "ab" / f"{KEY}.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    assert cache.has(KEY)
    with pytest.raises(IntegrityError, match="Run the same command again: the entry was set aside") as caught:
        cache.read(KEY)
    assert caught.value.exit_code == 8
    assert not cache.has(KEY)
    assert path.with_name(path.name + ".corrupt").read_bytes() == bytes(data)
    cache.write(KEY, arrays(), {})
    np.testing.assert_array_equal(cache.read(KEY)["pooled"], 1)


@pytest.mark.parametrize("meta", [b"", b"{", b"[]", b"{}", b'{"sha256": 3}', b"\xff\xfe"])
def test_damaged_note_is_set_aside(cache, meta):
    cache.write(KEY, arrays(), {})
    (cache.root / "ab" / f"{KEY}.json").write_bytes(meta)
    with pytest.raises(IntegrityError, match="set aside"):
        cache.read(KEY)
    assert not cache.has(KEY)


def test_truncated_entry_is_set_aside(cache):
    cache.write(KEY, arrays(), {})
    path = cache.root / "ab" / f"{KEY}.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(IntegrityError, match="set aside"):
        cache.read(KEY)


def test_entry_without_its_note_was_never_finished(cache):
    cache.write(KEY, arrays(), {})
    (cache.root / "ab" / f"{KEY}.json").unlink()
    assert not cache.has(KEY)


def test_full_disk_is_a_resource_error_and_leaves_no_entry(cache, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        cache.write(KEY, arrays(), {})
    assert not cache.has(KEY)
    assert not [p for p in cache.root.rglob("*") if p.is_file()]


@pytest.mark.parametrize("key", ["", "../" + "a" * 61, "A" * 64, "a" * 63])
def test_only_digests_are_keys(cache, key):
    with pytest.raises(InternalError):
        cache.has(key)
