"""Muon on matrices and kernels, its schedule, and training that continues from a file to the byte."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from harness.adapter.optim import (
    Muon,
    build_optimisers,
    load_training,
    orthogonalise,
    save_training,
    set_progress,
)
from harness.errors import IntegrityError


class Net(nn.Module):
    """One of each: a kernel, a norm, a matrix, biases and a table that Muon must not get."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.position = nn.Parameter(torch.randn(4, 1, 1))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((self.norm(self.conv(x)) + self.position).mean((2, 3)))


def start(seed):
    net = Net(seed)
    return net, build_optimisers({"net": net}, 0.02, 0.01)


def advance(net, optimisers, first, last, steps=8):
    """Steps `first` up to `last`; each step's batch is its own."""
    losses = []
    for step in range(first, last):
        set_progress(optimisers, step, steps, 2)
        draw = torch.Generator().manual_seed(step)
        x = torch.randn(6, 3, 5, 5, generator=draw)
        loss = functional.cross_entropy(net(x), torch.randint(2, (6,), generator=draw))
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def content(net):
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("shape", [(16, 16), (8, 32), (32, 8), (24, 27), (1, 9)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_singular_values_come_near_one(shape, scale):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    # Spread evenly over a factor of five: a random square matrix may hold one value of nearly zero.
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = scale * (u * torch.linspace(1.0, 0.2, len(values))) @ v
    result = orthogonalise(matrix)
    assert result.shape == matrix.shape
    assert result.dtype == torch.float32
    found = torch.linalg.svdvals(result)
    assert found.min() > 0.6
    assert found.max() < 1.3
    # Its directions are those of the matrix.
    assert functional.cosine_similarity(result.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_a_zero_matrix_stays_zero():
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_a_kernel_moves_like_its_flattened_matrix():
    draw = torch.Generator().manual_seed(1)
    kernel, gradient = torch.randn(8, 3, 3, 3, generator=draw), torch.randn(8, 3, 3, 3, generator=draw)
    moved = []
    for shape in (kernel.shape, (8, 27)):
        parameter = kernel.reshape(shape).clone().requires_grad_()
        parameter.grad = gradient.reshape(shape)
        Muon([parameter], 0.1).step()
        moved.append(parameter.detach().reshape(8, 27))
    assert torch.equal(*moved)
    assert not torch.equal(moved[0], kernel.reshape(8, 27))


def test_parameters_without_gradient_stay():
    parameter = torch.ones(2, 2, requires_grad=True)
    Muon([parameter], 0.1).step()
    assert torch.equal(parameter.detach(), torch.ones(2, 2))


def test_matrices_and_kernels_go_to_muon_and_the_rest_to_adam():
    net, (muon, adam) = start(0)
    names = {id(p): name for name, p in net.named_parameters()}

    def held(optimiser):
        return {names[id(p)] for group in optimiser.param_groups for p in group["params"]}

    assert isinstance(muon, Muon)
    assert held(muon) == {"conv.weight", "head.weight"}
    assert held(muon) | held(adam) == set(names.values())
    assert not held(muon) & held(adam)
    assert [o.param_groups[0]["base_lr"] for o in (muon, adam)] == [0.02, 0.01]


def test_frozen_and_shared_parameters_are_held_at_most_once():
    net = Net(0)
    net.conv.requires_grad_(requires_grad=False)
    optimisers = build_optimisers({"net": net, "again": net}, 0.02, 0.01)
    held = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters() if p.requires_grad)


def test_without_parameters_there_is_no_optimiser():
    assert build_optimisers({"net": nn.ReLU()}, 0.02, 0.01) == []


def test_saved_and_loaded_training_continues_to_the_same_bytes(tmp_path):
    whole, optimisers = start(0)
    losses = advance(whole, optimisers, 0, 8)
    cut, optimisers = start(0)
    early = advance(cut, optimisers, 0, 5)
    path = tmp_path / "state.safetensors"
    save_training(path, {"net": cut}, optimisers, 5, early)
    resumed, optimisers = start(99)  # what it starts from must not matter
    assert load_training(path, {"net": resumed}, optimisers) == (5, early)
    assert content(resumed) == content(cut)
    assert early + advance(resumed, optimisers, 5, 8) == losses
    assert content(resumed) == content(whole)


def test_saving_repeats_to_the_byte_and_replaces(tmp_path):
    net, optimisers = start(0)
    advance(net, optimisers, 0, 2)
    files = []
    for _ in range(2):
        save_training(tmp_path / "state", {"net": net}, optimisers, 2, [0.5])
        files.append((tmp_path / "state").read_bytes())
    assert files[0] == files[1]
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_without_a_file_training_starts_afresh(tmp_path):
    net, optimisers = start(0)
    before = content(net)
    assert load_training(tmp_path / "none", {"net": net}, optimisers) == (0, [])
    assert content(net) == before


def test_one_flipped_bit_is_found_and_nothing_is_loaded(tmp_path):
    net, optimisers = start(0)
    advance(net, optimisers, 0, 2)
    path = tmp_path / "state"
    save_training(path, {"net": net}, optimisers, 2)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    other, optimisers = start(1)
    before = content(other)
    with pytest.raises(IntegrityError, match="damaged"):
        load_training(path, {"net": other}, optimisers)
    assert content(other) == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.corrupt"]


def test_the_schedule_warms_up_stays_and_falls():
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    optimiser.param_groups[0]["base_lr"] = 2.0
    factors, rates = [], []
    for step in range(100):
        factors.append(set_progress([optimiser], step, 100, 10))
        rates.append(optimiser.param_groups[0]["lr"])
    assert factors[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert factors[10:30] == [1.0] * 20
    assert factors[65] == pytest.approx(0.5)
    assert factors[30:] == sorted(factors[30:], reverse=True)
    assert factors[-1] == pytest.approx(0.01 / 0.7)
    assert rates == pytest.approx([2.0 * f for f in factors])


def test_the_schedule_has_a_floor_a_rate_and_a_length_of_its_flat_part():
    assert set_progress([], 9999, 10000, 0) == pytest.approx(0.01)
    assert set_progress([], 50, 100, 10, rate=0.25) == pytest.approx(0.25 * 0.5 / 0.7)
    assert set_progress([], 89, 100, 10, flat=0.9) == 1.0
