"""Content-addressed store of arrays: one file a key, checked at every read.

`<root>/<first two digits>/<key>.safetensors` holds the arrays, `<key>.json` beside it their sha256.
The JSON is written last, so an entry without one was never finished and does not count.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.digest import digest_bytes
from harness.errors import IntegrityError, InternalError
from harness.files import read_json, write_atomic, write_json

Arrays = dict[str, npt.NDArray[Any]]

_KEY = re.compile(r"[0-9a-f]{64}")


class ArrayCache:
    """Arrays on disk under a sha256 key of what made them.

    Two programs may write one key at the same time: each file appears whole, and both hold the same.

    Args:
        root: folder of the cache; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: str) -> bool:
        """True when a finished entry is there; its bytes are checked by `read` only."""
        arrays, meta = self._paths(key)
        return arrays.is_file() and meta.is_file()

    def read(self, key: str) -> Arrays:
        """The arrays of an entry.

        Raises:
            IntegrityError: the entry is damaged or missing. A damaged one is renamed to `*.corrupt`,
                so that the same command recomputes it.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        arrays, meta = self._paths(key)
        try:
            recorded = read_json(meta)["sha256"]
            data = arrays.read_bytes()
            found = digest_bytes(data)
            if found != recorded:
                raise self._set_aside(key, f"sha256 {found[:16]}…, {len(data):,} bytes", f"{recorded:.16}…")
            return dict(load(data))
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise self._set_aside(key, str(error) or type(error).__name__, "a finished entry") from error
        except IntegrityError as error:
            if error.where == str(meta):
                raise self._set_aside(key, error.found, "a finished entry") from error
            raise

    def write(self, key: str, arrays: Mapping[str, npt.NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Store arrays under a key; an older entry is replaced.

        Args:
            key: 64 hex digits over everything that determines the arrays.
            arrays: name -> array.
            meta: plain values for people who look into the folder; not part of the key.

        Raises:
            ResourceError: no space left, or the folder cannot be written.
        """
        from safetensors.numpy import save

        where, note = self._paths(key)
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        write_atomic(where, data)
        write_json(note, {**meta, "sha256": digest_bytes(data), "bytes": len(data)})

    def _paths(self, key: str) -> tuple[Path, Path]:
        if not _KEY.fullmatch(key):
            raise InternalError("cache key is not a sha256", found=repr(key), expected="64 hex digits")
        folder = self.root / key[:2]
        return folder / f"{key}.safetensors", folder / f"{key}.json"

    def _set_aside(self, key: str, found: str, expected: str) -> IntegrityError:
        where = self._paths(key)[0]
        for path in self._paths(key):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, path.with_name(path.name + ".corrupt"))
        return IntegrityError(
            "cache entry is corrupt",
            where=str(where),
            found=found,
            expected=expected,
            fix="run the same command again: the entry was set aside and will be recomputed",
        )
