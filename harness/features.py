"""Extracts features once per encoder and image, in shards that rest in the cache."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol as Interface

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.cache import ArrayCache
from harness.device import in_halves, memory_told
from harness.digest import digest_json
from harness.encoders.base import ENCODE_CHUNK, Encoder
from harness.errors import DatasetError, InternalError, SubmissionError, UsageError
from harness.files import require_free
from harness.images import RGB, prepare
from harness.records import Protocol

FEATURES_VERSION = 1
"""Part of every cache key; bumped when the same inputs would give other features."""

SHARD_ROWS = 4096
"""Images an entry of the cache; an interrupted extraction loses at most one."""

Progress = Callable[[int, int], None]
"""progress(done, total), in images."""


class ImageSource(Interface):
    """Decoded images by row."""

    keys: list[str]
    """Unique name of each row."""

    def load(self, i: int) -> RGB:
        """(H, W, 3) uint8 of row i."""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features of n images."""

    tokens: npt.NDArray[Any]
    """(n, N, D) float16 or float32; N ≤ budget."""
    pooled: npt.NDArray[np.float32]
    """(n, D), mean over the encoder's own patch tokens, before they were reduced to the budget."""
    keys: list[str]
    grid: tuple[int, int]
    """(h, w) with h · w = N."""
    under_budget: bool
    """The encoder's own grid is smaller than the budget's side."""

    def tokens_of(self, rows: Sequence[int]) -> npt.NDArray[Any]:
        """(b, N, D) tokens of some rows, in their order."""
        return np.asarray(self.tokens[list(rows)])

    def rows(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row number of each key.

        Raises:
            DatasetError: a key is not in the set.
        """
        index = {key: row for row, key in enumerate(self.keys)}
        absent = [key for key in keys if key not in index]
        if absent:
            raise DatasetError(
                "no features for some media", found=f"{len(absent)} absent, first {absent[0]!r}"
            )
        return np.array([index[key] for key in keys], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one extraction does; equal for all of its shards."""

    encoder: Encoder
    protocol: Protocol
    grid: tuple[int, int]
    under_budget: bool
    dtype: np.dtype[Any]
    key: dict[str, Any]


COMPUTING = ("torch", "transformers", "timm", "open_clip_torch", "pillow", "av")
"""Packages whose next version may compute other features from the same weights and images."""


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of `COMPUTING`: part of the keys of whatever is cached.

    Nothing made by an older library is then taken for the work of the installed one, which receipts name.
    """
    found = {}
    for name in COMPUTING:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def target_grid(grid: tuple[int, int], budget: int) -> tuple[int, int]:
    """The grid that `grid` is reduced to under a budget.

    Raises:
        UsageError: the budget is no square number.
    """
    side = math.isqrt(max(budget, 0))
    if side * side != budget or side < 1:
        raise UsageError(
            "token budget is not a square number", where="protocol: tokens.budget", found=str(budget)
        )
    return min(grid[0], side), min(grid[1], side)


def pool_tokens(tokens: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Reduce a grid of tokens by 2-D average pooling (windows of adaptive pooling).

    Args:
        tokens: (B, h · w, D), row-major.
        grid: (h, w).
        target: from `target_grid`, nowhere larger than `grid`.

    Returns:
        (B, N, D) with N the cells of `target`.
    """
    if target == grid:
        return tokens
    B, _, D = tokens.shape
    planes = tokens.transpose(1, 2).reshape(B, D, *grid)
    return F.adaptive_avg_pool2d(planes, target).flatten(2).transpose(1, 2)


def extract(
    encoder: Encoder,
    images: ImageSource,
    protocol: Protocol,
    cache: ArrayCache,
    *,
    dataset_digest: str,
    batch: int = 256,
    progress: Progress | None = None,
    budget: int | None = None,
    device: str = "cpu",
) -> FeatureSet:
    """Features of every image, from the cache where they are there.

    Args:
        encoder: frozen; opened with the protocol's resolution and layer.
        images: what to encode.
        protocol: image and token recipes.
        cache: where shards rest.
        dataset_digest: sha256 of the data that `images` decodes; part of the key.
        batch: images decoded ahead of each call, rounded up to whole chunks; moves speed only.
        progress: called with (images done, images in all) after each batch.
        budget: tokens an image; `protocol.tokens.budget` when None (frames: `tokens_per_frame`).
        device: where the encoder computes; what another than the CPU rounds has its own entries.

    Raises:
        DatasetError: no images, a key twice, or an image that cannot be decoded.
        SubmissionError: features are NaN or beyond the range of the storage type.
        ResourceError: the disk cannot take them.
        IntegrityError: a damaged cache entry, set aside.
    """
    keys = _unique_keys(images, encoder.id)
    plan = _plan(encoder, protocol, budget or protocol.tokens.budget, dataset_digest, device)
    N, D, n = plan.grid[0] * plan.grid[1], encoder.width, len(keys)
    shards = [range(start, min(start + SHARD_ROWS, n)) for start in range(0, n, SHARD_ROWS)]
    names = {shard: digest_json({**plan.key, "rows": [keys[i] for i in shard]}) for shard in shards}
    missing = sum(len(shard) for shard in shards if not cache.has(names[shard]))
    require_free(cache.root, missing * D * (N * plan.dtype.itemsize + 4), "the feature cache")
    tokens, pooled = np.empty((n, N, D), dtype=plan.dtype), np.empty((n, D), dtype=np.float32)
    report: Progress = progress or _silent
    for shard in shards:
        rows = slice(shard.start, shard.stop)
        if cache.has(names[shard]):
            entry = cache.read(names[shard])
            tokens[rows], pooled[rows] = entry["tokens"], entry["pooled"]
            report(shard.stop, n)
            continue
        for part, some_tokens, some_pooled in _encode_shard(plan, images, shard, batch):
            tokens[part], pooled[part] = some_tokens, some_pooled
            report(part.stop, n)
        cache.write(
            names[shard],
            {"tokens": tokens[rows], "pooled": pooled[rows]},
            {"encoder": encoder.id, "dataset": dataset_digest, "rows": [shard.start, shard.stop]},
        )
    return FeatureSet(tokens, pooled, keys, plan.grid, plan.under_budget)


def _unique_keys(images: ImageSource, where: str) -> list[str]:
    keys = list(images.keys)
    if not keys:
        raise DatasetError("nothing to encode: the split is empty", where=where)
    if len(set(keys)) != len(keys):
        raise DatasetError("two images under one key", where=where)
    return keys


class StreamedTokens:
    """Tokens encoded when they are asked for: for a mixture whose features no disk would hold.

    The same images give the same numbers as `extract` (a test compares the bytes).

    Args:
        encoder: frozen.
        images: what to encode.
        protocol: image and token recipes.
        budget: tokens an image.
    """

    def __init__(self, encoder: Encoder, images: ImageSource, protocol: Protocol, budget: int) -> None:
        self.keys = list(images.keys)
        self._images = images
        self._plan = _plan(encoder, protocol, budget, "")

    def tokens_of(self, rows: Sequence[int]) -> npt.NDArray[Any]:
        """(b, N, D) tokens of some rows, in their order.

        Raises:
            DatasetError: an image cannot be decoded.
            SubmissionError: features are NaN or beyond the range of the storage type.
        """
        pixels = _prepared(self._plan, [self._images.load(i) for i in rows])
        return _encode(self._plan, pixels, [self.keys[i] for i in rows])[0]


def _silent(done: int, total: int) -> None:
    """For callers who do not watch."""


def _plan(
    encoder: Encoder, protocol: Protocol, budget: int, dataset_digest: str, device: str = "cpu"
) -> _Plan:
    if encoder.layer != protocol.tokens.layer:
        raise InternalError(
            "encoder was opened at another layer than the protocol's",
            where=encoder.id,
            found=str(encoder.layer),
            expected=str(protocol.tokens.layer),
        )
    own = encoder.grid
    grid = target_grid(own, budget)
    key = {
        "features": FEATURES_VERSION,
        "encoder": encoder.description(),
        "weights": encoder.weight_digest(),
        "mean": encoder.mean,
        "std": encoder.std,
        "image": protocol.image,
        "tokens": replace(protocol.tokens, budget=budget),
        "dataset": dataset_digest,
        "versions": versions(),
    }
    if encoder.side != protocol.image.resolution:
        key["side"] = encoder.side
    if device != "cpu":
        key["device"] = device
    dtype = np.dtype(protocol.tokens.dtype)
    return _Plan(encoder, protocol, grid, min(own) < math.isqrt(budget), dtype, key)


def _encode_shard(
    plan: _Plan, images: ImageSource, shard: range, batch: int
) -> Iterator[tuple[slice, npt.NDArray[Any], npt.NDArray[np.float32]]]:
    """Encode a shard in whole chunks, decoding one batch ahead of the encoder."""
    step = ENCODE_CHUNK * max(1, math.ceil(batch / ENCODE_CHUNK))
    parts = [slice(start, min(start + step, shard.stop)) for start in range(shard.start, shard.stop, step)]
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:
        ahead = pool.submit(_pixels, plan, images, parts[0])
        for i, part in enumerate(parts):
            pixels = ahead.result()
            if i + 1 < len(parts):
                ahead = pool.submit(_pixels, plan, images, parts[i + 1])
            keys = [images.keys[row] for row in range(part.start, part.stop)]
            yield part, *_encode(plan, pixels, keys)


def _encode(
    plan: _Plan, pixels: npt.NDArray[np.float32], keys: list[str]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Tokens (b, N, D) as they are stored, and pooled vectors (b, D)."""

    def encode(parts: list[Tensor]) -> list[tuple[npt.NDArray[Any], npt.NDArray[np.float32]]]:
        output = plan.encoder.encode(torch.cat(parts))
        tokens = pool_tokens(output.patch_tokens, output.grid, plan.grid).cpu().numpy()
        found = tokens, output.pooled.cpu().numpy()
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return list(zip(*(np.split(array, ends) for array in found), strict=True))

    # Never fewer rows than a pass has: another size of pass rounds otherwise.
    with memory_told(f"{plan.encoder.id}: {ENCODE_CHUNK} images at a time"):
        found = in_halves(encode, list(torch.split(torch.from_numpy(pixels), ENCODE_CHUNK)))
    tokens, pooled = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    with np.errstate(over="ignore"):  # reported below, with the name of the image
        stored = tokens.astype(plan.dtype)
    _refuse_non_finite(plan, stored, pooled, keys)
    return stored, pooled


def _pixels(plan: _Plan, images: ImageSource, part: slice) -> npt.NDArray[np.float32]:
    return _prepared(plan, [images.load(i) for i in range(part.start, part.stop)])


def _prepared(plan: _Plan, decoded: list[RGB]) -> npt.NDArray[np.float32]:
    recipe = replace(plan.protocol.image, resolution=plan.encoder.side)
    return prepare(decoded, recipe, plan.encoder.mean, plan.encoder.std)


def _refuse_non_finite(
    plan: _Plan, tokens: npt.NDArray[Any], pooled: npt.NDArray[np.float32], keys: list[str]
) -> None:
    sound = np.isfinite(tokens).all(axis=(1, 2)) & np.isfinite(pooled).all(axis=1)
    if not sound.all():
        raise SubmissionError(
            "features are not finite",
            where=f"{plan.encoder.id}: image {keys[int(np.argmin(sound))]}",
            found=f"{int((~sound).sum())} of {len(keys)} images in this batch",
            expected=f"numbers within the range of {plan.dtype}",
        )
