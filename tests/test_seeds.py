"""Named generators: an address decides the draw, nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from harness.seeds import derive_seed, numpy_generator


def test_seed_fits_63_bits_and_never_moves():
    assert derive_seed("mini", "adapter", 0) == 7024141826231315227
    assert all(0 <= derive_seed("n", i) < 2**63 for i in range(100))


def test_names_are_kept_apart():
    addresses = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"), ("1",), (1,), ("a", 1), ("a", "1")]
    assert len({derive_seed(*a) for a in addresses}) == len(addresses)


def test_generator_repeats_and_does_not_follow_global_state():
    first = numpy_generator("x", 3).standard_normal(4)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(first, numpy_generator("x", 3).standard_normal(4))
    assert not np.array_equal(first, numpy_generator("x", 4).standard_normal(4))


def test_no_name_no_seed():
    with pytest.raises(ValueError, match="at least one name"):
        derive_seed()
