from __future__ import annotations

import harness.torchvision_shim

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import harness.features
from harness.cache import ArrayCache
from harness.encoders import open_encoder
from harness.encoders.base import ENCODE_CHUNK
from harness.errors import (
    DatasetError,
    IntegrityError,
    InternalError,
    ResourceError,
    SubmissionError,
    UsageError,
)
from harness.features import extract, pool_tokens, target_grid
from harness.images import prepare
from harness.protocol import read_protocol
from harness.recipes import ImageRecipe, TokenRecipe
from harness.records import InputSpec, Source, Submission, WeightFile

DATA = "d" * 64


class Pictures:
    """Noise, one size for all, row i from seed i."""

    def __init__(self, num, side=64, broken=None):
        self.keys = [f"image-{i}" for i in range(num)]
        self.side, self.broken, self.loaded = side, broken, []

    def load(self, i):
        if i == self.broken:
            raise DatasetError("image cannot be decoded", where=self.keys[i])
        self.loaded.append(i)
        return np.random.default_rng(i).integers(0, 256, (self.side, self.side, 3), dtype=np.uint8)


def protocol(*, budget=16, dtype="float32", layer=0, resolution=64):
    return replace(
        read_protocol("mini"),
        image=ImageRecipe(resize="squash", interpolation="bicubic", resolution=resolution),
        tokens=TokenRecipe(layer=layer, budget=budget, pooled="mean", dtype=dtype),
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32], depths=[1, 1, 1], layer_type="basic"
    )
    transformers.ResNetModel(config).save_pretrained(folder)
    files = tuple(
        WeightFile(path=p.name, sha256=hashlib.sha256(p.read_bytes()).hexdigest())
        for p in sorted(folder.iterdir())
    )
    sub = Submission(
        id="toy", title="", authors=(), links=(), license="", contamination="",
        source=Source(kind="local", name="resnet", revision="local", files=files),
        input=InputSpec(resolution=64, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)), pretraining=(),
    )  # fmt: skip
    return open_encoder(sub, folder)


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "cache")


def test_features_equal_the_encoder_called_by_hand(encoder, cache):
    pictures = Pictures(5)
    found = extract(encoder, pictures, protocol(), cache, dataset_digest=DATA)
    rule = protocol().image
    pixels = prepare([pictures.load(i) for i in range(5)], rule, encoder.mean, encoder.std)
    wanted = encoder.encode(torch.from_numpy(pixels))
    np.testing.assert_array_equal(found.tokens, wanted.patch_tokens.numpy())
    np.testing.assert_array_equal(found.pooled, wanted.pooled.numpy())
    assert found.keys == pictures.keys
    assert found.grid == (4, 4)
    assert not found.under_budget


@pytest.mark.parametrize("batch", [1, 7, 64, 100, 4096])
def test_batch_size_does_not_move_a_byte(encoder, tmp_path, batch):
    num = 2 * ENCODE_CHUNK + 9
    wanted = extract(encoder, Pictures(num), protocol(), ArrayCache(tmp_path / "a"), dataset_digest=DATA)
    found = extract(
        encoder, Pictures(num), protocol(), ArrayCache(tmp_path / "b"), dataset_digest=DATA, batch=batch
    )
    assert found.tokens.tobytes() == wanted.tokens.tobytes()
    assert found.pooled.tobytes() == wanted.pooled.tobytes()


def test_second_call_reads_the_cache_and_decodes_nothing(encoder, cache, monkeypatch):
    monkeypatch.setattr(harness.features, "SHARD_ROWS", ENCODE_CHUNK)
    first = extract(encoder, Pictures(100), protocol(), cache, dataset_digest=DATA)
    again, calls = Pictures(100), []
    second = extract(
        encoder, again, protocol(), cache, dataset_digest=DATA, progress=lambda *a: calls.append(a)
    )
    assert again.loaded == []
    assert calls == [(64, 100), (100, 100)]
    assert second.tokens.tobytes() == first.tokens.tobytes()
    assert second.pooled.tobytes() == first.pooled.tobytes()


def test_interrupted_extraction_keeps_finished_shards(encoder, cache, monkeypatch):
    monkeypatch.setattr(harness.features, "SHARD_ROWS", ENCODE_CHUNK)

    def stop(done, total):
        if done > ENCODE_CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(encoder, Pictures(200), protocol(), cache, dataset_digest=DATA, progress=stop)
    resumed = Pictures(200)
    found = extract(encoder, resumed, protocol(), cache, dataset_digest=DATA)
    assert min(resumed.loaded) == ENCODE_CHUNK
    whole = extract(encoder, Pictures(200), protocol(), ArrayCache(cache.root / "other"), dataset_digest=DATA)
    assert found.tokens.tobytes() == whole.tokens.tobytes()


def test_progress_ends_at_the_total(encoder, cache):
    calls = []
    progress = lambda done, total: calls.append((done, total))
    extract(encoder, Pictures(150), protocol(), cache, dataset_digest=DATA, batch=64, progress=progress)
    assert calls == [(64, 150), (128, 150), (150, 150)]


def test_what_determines_features_is_in_the_key(encoder, cache):
    def misses(recipe=None, data=DATA, num=3):
        pictures = Pictures(num)
        extract(encoder, pictures, recipe or protocol(), cache, dataset_digest=data)
        return bool(pictures.loaded)

    assert misses()
    assert not misses()
    assert misses(data="e" * 64)
    assert misses(num=4)
    assert misses(protocol(budget=4))
    assert misses(protocol(dtype="float16"))
    assert misses(protocol(resolution=32))
    parameter = next(encoder.module.parameters())
    parameter.data[0, 0, 0, 0] += 1e-3
    assert misses()
    parameter.data[0, 0, 0, 0] -= 1e-3


def test_corrupt_cache_is_refused_once_and_then_recomputed(encoder, cache):
    first = extract(encoder, Pictures(3), protocol(), cache, dataset_digest=DATA)
    path = next(cache.root.rglob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 16
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="set aside"):
        extract(encoder, Pictures(3), protocol(), cache, dataset_digest=DATA)
    again = extract(encoder, Pictures(3), protocol(), cache, dataset_digest=DATA)
    assert again.tokens.tobytes() == first.tokens.tobytes()


def test_storage_type_is_the_protocols(encoder, cache, tmp_path):
    half = extract(encoder, Pictures(3), protocol(dtype="float16"), cache, dataset_digest=DATA)
    full = extract(encoder, Pictures(3), protocol(), ArrayCache(tmp_path / "full"), dataset_digest=DATA)
    assert half.tokens.dtype == np.float16
    assert half.pooled.dtype == np.float32
    np.testing.assert_array_equal(half.tokens, full.tokens.astype(np.float16))
    np.testing.assert_array_equal(half.pooled, full.pooled)


def test_budget_is_reached_by_average_pooling(encoder, cache):
    whole = extract(encoder, Pictures(2), protocol(), cache, dataset_digest=DATA)
    small = extract(encoder, Pictures(2), protocol(), cache, dataset_digest=DATA, budget=4)
    assert small.grid == (2, 2)
    grid = whole.tokens.reshape(2, 2, 2, 2, 2, -1).mean(axis=(2, 4))
    np.testing.assert_allclose(small.tokens, grid.reshape(2, 4, -1), atol=1e-5)
    np.testing.assert_array_equal(small.pooled, whole.pooled)


def test_small_grid_is_flagged_and_never_upsampled(encoder, cache):
    found = extract(encoder, Pictures(2), protocol(budget=64), cache, dataset_digest=DATA)
    assert found.under_budget
    assert found.grid == (4, 4)


@pytest.mark.parametrize(
    ("grid", "budget", "wanted"),
    [((4, 4), 16, (4, 4)), ((24, 24), 144, (12, 12)), ((3, 8), 16, (3, 4)), ((2, 2), 16, (2, 2))],
)
def test_target_grid(grid, budget, wanted):
    assert target_grid(grid, budget) == wanted


@pytest.mark.parametrize("budget", [0, 2, 15, -4])
def test_budget_must_be_a_square(budget):
    with pytest.raises(UsageError, match="not a square"):
        target_grid((4, 4), budget)


def test_pooling_keeps_rows_and_columns_apart():
    tokens = torch.arange(2 * 4, dtype=torch.float32).reshape(1, 8, 1)  # a grid of 2 rows, 4 columns
    assert pool_tokens(tokens, (2, 4), (2, 2)).flatten().tolist() == [0.5, 2.5, 4.5, 6.5]
    assert pool_tokens(tokens, (2, 4), (1, 4)).flatten().tolist() == [2, 3, 4, 5]


def test_corrupt_image_names_the_sample(encoder, cache):
    with pytest.raises(DatasetError, match="image-70"):
        extract(encoder, Pictures(100, broken=70), protocol(), cache, dataset_digest=DATA)


def test_empty_split_and_double_key_are_refused(encoder, cache):
    with pytest.raises(DatasetError, match="the split is empty"):
        extract(encoder, Pictures(0), protocol(), cache, dataset_digest=DATA)
    twice = Pictures(2)
    twice.keys[1] = twice.keys[0]
    with pytest.raises(DatasetError, match="two images under one key"):
        extract(encoder, twice, protocol(), cache, dataset_digest=DATA)


def test_layer_must_be_the_protocols(encoder, cache):
    with pytest.raises(InternalError, match="another layer"):
        extract(encoder, Pictures(2), protocol(layer=1), cache, dataset_digest=DATA)


def test_features_beyond_half_precision_are_refused_by_name(encoder, cache, monkeypatch):
    encode = encoder.encode

    def huge(pixels):
        output = encode(pixels)
        if len(pixels) == 6:
            output.patch_tokens[4] *= 1e9
        return output

    monkeypatch.setattr(encoder, "encode", huge)
    with pytest.raises(SubmissionError, match="toy: image image-4: features are not finite"):
        extract(encoder, Pictures(6), protocol(dtype="float16"), cache, dataset_digest=DATA)
    assert not list(cache.root.rglob("*.safetensors"))


def test_no_disk_space_is_found_before_work_starts(encoder, cache, monkeypatch):
    monkeypatch.setattr("harness.files.free_bytes", lambda path: 1000)
    pictures = Pictures(8)
    with pytest.raises(ResourceError, match="not enough disk space for the feature cache"):
        extract(encoder, pictures, protocol(), cache, dataset_digest=DATA)
    assert pictures.loaded == []


def test_rows_are_found_by_key(encoder, cache):
    found = extract(encoder, Pictures(4), protocol(), cache, dataset_digest=DATA)
    assert found.rows(["image-3", "image-0", "image-3"]).tolist() == [3, 0, 3]
    with pytest.raises(DatasetError, match="1 absent, first 'image-9'"):
        found.rows(["image-1", "image-9"])


def test_a_small_memory_changes_no_byte(encoder, cache, tmp_path, monkeypatch):
    whole = extract(encoder, Pictures(200), protocol(), cache, dataset_digest=DATA)
    encode, seen = encoder.encode, []

    def short(pixels, most=ENCODE_CHUNK):
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        seen.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(encoder, "encode", short)
    again = extract(encoder, Pictures(200), protocol(), ArrayCache(tmp_path / "b"), dataset_digest=DATA)
    assert again.tokens.tobytes() == whole.tokens.tobytes()
    assert again.pooled.tobytes() == whole.pooled.tobytes()
    assert seen == [64, 64, 64, 8]
    monkeypatch.setattr(encoder, "encode", lambda pixels: short(pixels, 0))
    with pytest.raises(ResourceError, match="toy: 64 images at a time: the device's memory is too small"):
        extract(encoder, Pictures(3), protocol(), ArrayCache(tmp_path / "c"), dataset_digest=DATA)
