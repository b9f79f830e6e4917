"""bfloat16 products taken in float32 are those of the plain way to one rounding, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from harness import bfloat16
from harness.adapter.module import Adapter


def learn(weight, bias, kernel, pixels):
    """A convolution, a linear layer and attention under autocast; output and gradients."""
    leaves = [t.clone().requires_grad_() for t in (weight, bias, kernel)]
    with torch.autocast("cpu", torch.bfloat16):
        seen = functional.conv2d(pixels, leaves[2]).flatten(2).transpose(1, 2)
        hidden = functional.linear(seen, leaves[0], leaves[1])
        scores = torch.matmul(hidden, hidden.transpose(1, 2)) / 8
        out = torch.matmul(functional.softmax(scores, -1), hidden)
    out.float().square().mean().backward()
    return out.detach(), *(leaf.grad for leaf in leaves)


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    shapes = (24, 16), (24,), (16, 3, 3, 3), (2, 3, 8, 8)
    return [torch.randn(*shape, generator=generator) / 4 for shape in shapes]


def test_forward_and_backward_agree_to_a_rounding(given, monkeypatch):
    plain = learn(*given)
    monkeypatch.setattr(bfloat16, "has_units", lambda: False)
    with bfloat16.bfloat16_products():
        other = learn(*given)
    for one, two in zip(plain, other, strict=True):
        assert one.dtype == two.dtype
        assert torch.allclose(one.float(), two.float(), rtol=0.02, atol=0.02 * float(one.abs().max()))


def test_nothing_changes_where_there_are_units_or_a_card(monkeypatch):
    products = torch.ones(2, 2, dtype=torch.bfloat16)
    seen = []
    monkeypatch.setattr(bfloat16._InFloat32, "__torch_dispatch__", lambda *a, **k: seen.append(a))
    monkeypatch.setattr(bfloat16, "has_units", lambda: True)
    with bfloat16.bfloat16_products():
        assert torch.equal(products @ products, torch.full((2, 2), 2, dtype=torch.bfloat16))
    monkeypatch.setattr(bfloat16, "has_units", lambda: False)
    with bfloat16.bfloat16_products("cuda"):
        assert torch.equal(products @ products, torch.full((2, 2), 2, dtype=torch.bfloat16))
    assert seen == []


def test_places_of_coarser_grids_are_not_rounded():
    class Places:
        position = torch.arange(64.0).reshape(16, 4) + 1 / 512

    whole = Adapter._places(Places, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Adapter._places(Places, 4), whole)
    assert torch.allclose(whole[0], Places.position[[0, 1, 4, 5]].mean(0))
