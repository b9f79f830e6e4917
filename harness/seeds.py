"""Named random generators: every draw has an address, none depends on the draws before it."""

from __future__ import annotations

import numpy as np

from harness.digest import canonical_json, digest_bytes


def derive_seed(*names: str | int) -> int:
    """A 63-bit seed for the draw that `names` spell out, e.g. ("mini", "adapter", 0, "order").

    The seed is the leading 63 bits of sha256 over the canonical JSON of the list of names, so
    ("a", "bc") and ("ab", "c") differ, as do 1 and "1".

    Raises:
        ValueError: no name was given.
    """
    if not names:
        raise ValueError("a seed needs at least one name")
    return int(digest_bytes(canonical_json(list(names)))[:16], 16) >> 1


def numpy_generator(*names: str | int) -> np.random.Generator:
    """A PCG64 generator seeded by `derive_seed(*names)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(*names)))
