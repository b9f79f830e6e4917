"""p values for the browser: never below the true ones, and near enough that ranks stay what they are."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from harness.comparison import all_pairs, rank
from leaderboard import pair_codes


def test_a_decoded_p_is_never_smaller_and_hardly_larger():
    p = np.concatenate([np.geomspace(1e-28, 1, 5000), [1.0, 0.05, 0.5]])
    again = pair_codes.decode(pair_codes.encode(p))
    assert np.all(again >= p * (1 - 1e-12))
    assert np.all(again <= p * np.exp(1e-3) * (1 + 1e-12))


def test_what_is_too_small_for_a_code_is_as_small_as_can_be():
    codes = pair_codes.encode(np.array([0.0, 1e-300, 5e-324]))
    assert codes.tolist() == [65535] * 3
    assert pair_codes.decode(codes).max() < 1e-28


@pytest.mark.parametrize("seed", range(5))
def test_ranks_from_codes_are_the_ranks(seed):
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.3, 0.7, 30)
    tables = [(rng.random((3, 400)) < share).astype(float) for share in shares]
    pairs = all_pairs(tables, np.arange(400) // 2)
    decoded = pairs._replace(p=pair_codes.decode(pair_codes.encode(pairs.p)))
    plain, coded = rank(pairs), rank(decoded)
    # Rounding up can only open places, and a thousandth opens next to none.
    assert np.all(coded.low <= plain.low) and np.all(coded.high >= plain.high)
    assert np.mean(coded.low == plain.low) > 0.9


def test_the_script_holds_the_upper_triangle_row_by_row():
    p = np.array([[1.0, 0.5, 0.25], [0.5, 1.0, 0.125], [0.25, 0.125, 1.0]])
    text = pair_codes.script("a task", ["x</script>", "y", "z"], [0.1, 0.2, 0.3], p).decode()
    head, _, body = text.partition(' = {"encoders')
    assert head == '(window.EYECHART_PAIRS = window.EYECHART_PAIRS || {})["a task"]'
    found = json.loads('{"encoders' + body.rstrip(";\n"))
    codes = np.frombuffer(base64.b64decode(found["p"]), "<u2")
    assert found["encoders"] == ["x</script>", "y", "z"] and found["values"] == [0.1, 0.2, 0.3]
    assert codes.tolist() == [int(-1000 * np.log(x)) for x in (0.5, 0.25, 0.125)]
