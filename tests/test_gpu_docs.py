"""docs/gpu.md: the tables are what the script prints, and the script counts what is known."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOC = (ROOT / "docs" / "gpu.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_hours", ROOT / "scripts" / "gpu_hours.py")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
        yield module


def test_the_tables_are_what_the_script_prints(script):
    written = DOC.split(script.BEGIN)[1].split(script.END)[0].strip()
    assert written == script.tables(), "run python scripts/gpu_hours.py --write"


@pytest.mark.parametrize(
    ("name", "side", "gmacs", "params"),
    [
        ("vit_base_patch16_224", 224, 17.6, 86e6),
        ("vit_large_patch14_clip_224", 224, 81.0, 304e6),
        ("vit_large_patch14_clip_224", 336, 191.0, 304e6),
        ("resnet50", 224, 4.1, 23.5e6),
    ],
)
def test_costs_are_those_of_timms_tables(script, name, side, gmacs, params):
    facts = script.encoder_facts(name, side)
    assert facts.gmacs == pytest.approx(gmacs, rel=0.02)
    assert facts.num_params == pytest.approx(params, rel=0.02)


def test_the_document_says_that_it_is_predicted():
    from harness.forecast import UTILISATION

    assert "predicted, not measured" in DOC
    assert f"divided by {UTILISATION} of the GPU's peak" in DOC
