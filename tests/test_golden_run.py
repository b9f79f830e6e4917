"""The numbers of the run in miniature; a change must not move them silently.

Compared within a tolerance, not byte by byte: on another processor sums are taken in another order and
their last bits differ, which after bfloat16 training steps turns an answer here and there. A changed
draw, recipe, prompt or scorer moves a number by more.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import tiny_run

from harness.bundle import find_bundles, read_bundle

GOLDEN = Path(__file__).with_name("golden") / "run.json"
TOLERANCE = 0.05
"""Absolute, of a mean score in [0, 1]: two answers of forty."""
LOSS_TOLERANCE = 0.005
"""Relative. Without AVX2, and without AVX-512, the losses came out within 0.0002."""


def measured(home):
    """Mean score and final training loss of every bundle."""
    found = {}
    for path in find_bundles(home.results):
        bundle = read_bundle(path)
        values = {"score": round(statistics.fmean(s.score for s in bundle.scores), 4)}
        if "adapter" in bundle.receipt:
            values["loss"] = bundle.receipt["adapter"]["losses"][-1]
        found[f"{bundle.run.task}/{bundle.run.seed}"] = values
    return found


@pytest.mark.golden
def test_numbers_stand(tmp_path_factory, golden, request):
    home = tiny_run.uninterrupted(tiny_run.shared(tmp_path_factory))
    found = measured(home)
    assert len(found) == 18
    if request.config.getoption("--write-golden"):
        golden("run.json", found)
        return
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found.keys() == expected.keys()
    for unit, values in expected.items():
        assert found[unit]["score"] == pytest.approx(values["score"], abs=TOLERANCE), unit
        assert found[unit].keys() == values.keys(), unit
        if "loss" in values:
            assert found[unit]["loss"] == pytest.approx(values["loss"], rel=LOSS_TOLERANCE), unit
