"""The proof of the common language model: without it every encoder looks blind."""

from __future__ import annotations

import pytest

from harness.adapter.llm import load_llm
from harness.mini.proof import DEFAULT_NEEDED, NEEDED, overlap, prove
from harness.protocol import read_protocol


@pytest.fixture(scope="module")
def shares():
    return {s.kind: s for s in prove(load_llm(read_protocol("mini").llm), num_scenes=500)}


@pytest.mark.parametrize("kind", ["color", "shape", "pattern", "count", "exist", "sign"])
def test_answers_from_perfect_text(shares, kind):
    # 500 scenes: allow the sampling error of the smallest kind (some 300 questions), one sided.
    assert shares[kind].asked >= 250
    assert shares[kind].share >= DEFAULT_NEEDED - 0.015


def test_boxes_from_perfect_text(shares):
    assert shares["rec"].asked == 500
    assert shares["rec"].share >= 0.90


def test_clips_from_perfect_text(shares):
    assert shares["video"].asked == 500
    assert shares["video"].share >= NEEDED["video"] - 0.015


def test_overlap():
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == 1.0
    assert overlap((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0.0
    assert overlap((0, 0, 1, 1), (0, 0, 0.5, 1)) == pytest.approx(0.5)
