"""Every optimizer of the table: it learns, spares biases from decay, can be put down and taken up."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from pictune.training.checkpoints import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from pictune.training.optimizers import OPTIMIZERS, parameter_groups

EVERY = pytest.mark.parametrize("name", list(OPTIMIZERS))


def bowl(seed: int = 0) -> nn.Linear:
    """Weights that should all become zero."""
    network = nn.Linear(5, 4)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def depth(network: nn.Module) -> torch.Tensor:
    return torch.stack([parameter.square().sum() for parameter in network.parameters()]).sum()


def slide(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        depth(network).backward()
        optimizer.step()


def made(name: str, network: nn.Module, *, decay: float = 0.0, **given: float) -> torch.optim.Optimizer:
    make = OPTIMIZERS[name].make(weight_decay=decay, **given)
    return make(parameter_groups(network, weight_decay=decay))


@EVERY
def test_it_goes_downhill(name):
    network = bowl()
    before = float(depth(network).detach())
    slide(network, made(name, network, learning_rate=0.02 if name != "lars" else 1.0), 40)
    assert float(depth(network).detach()) < 0.9 * before


@EVERY
def test_decay_shrinks_matrices_and_spares_all_that_has_one_dimension(name):
    network = bowl()
    weight, bias = network.weight.detach().clone(), network.bias.detach().clone()
    optimizer = made(name, network, decay=0.5, learning_rate=0.01)
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert torch.equal(network.bias, bias)
    if name != "lars":  # it scales the whole step by the gradient, and here there is none
        assert network.weight.norm() < weight.norm()


@EVERY
def test_the_given_rate_and_decay_reach_the_optimizer(name):
    groups = made(name, bowl(), decay=0.125, learning_rate=0.25).param_groups
    assert [group["lr"] for group in groups] == [0.25, 0.25]
    assert [group["weight_decay"] for group in groups] == [0.125, 0.0]


@EVERY
def test_put_down_and_taken_up_it_goes_the_same_way(name, tmp_path):
    """Bit for bit, through a file: what an optimizer remembers is all in its checkpoint."""
    straight = bowl()
    optimizer = made(name, straight, decay=0.1, learning_rate=0.01)
    slide(straight, optimizer, 7)
    tensors, plain = pack_optimizer(optimizer)
    save_checkpoint(tmp_path / "x", {**tensors, **straight.state_dict()}, json.loads(json.dumps(plain)))
    slide(straight, optimizer, 6)

    resumed = bowl(seed=1)
    loaded, facts = load_checkpoint(tmp_path / "x")
    resumed.load_state_dict({key: loaded.pop(key) for key in ("weight", "bias")})
    second = made(name, resumed, decay=0.1, learning_rate=0.01)
    unpack_optimizer(second, loaded, facts)
    slide(resumed, second, 6)
    assert torch.equal(resumed.weight, straight.weight)
    assert torch.equal(resumed.bias, straight.bias)


def test_what_is_frozen_is_in_no_group():
    network = bowl()
    network.weight.requires_grad = False
    (spared,) = parameter_groups(network, weight_decay=0.1)
    assert spared["params"] == [network.bias]
    assert spared["weight_decay"] == 0


def test_each_rate_has_its_own_groups_and_what_is_anchored_does_not_decay():
    network = bowl()
    slow, fast = parameter_groups(network, weight_decay=0.1, rates={"weight": 0.25})[::-1]
    assert (slow["params"], slow["rate"], slow["weight_decay"]) == ([network.weight], 0.25, 0.1)
    assert (fast["params"], fast["rate"]) == ([network.bias], 1.0)
    (together,) = parameter_groups(network, weight_decay=0.1, anchored={"weight"})
    assert (len(together["params"]), together["weight_decay"]) == (2, 0.0)


def test_sgd_without_momentum_can_still_be_made():
    network = bowl()
    slide(network, made("sgd", network, momentum=0.0), 1)
