"""The moving average: it follows slowly, begins quickly, and takes counters as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from lessons import tiny
from torch import nn

from pictune.training.averaging import MovingAverage


def test_it_starts_as_the_network_and_cannot_learn():
    network = tiny(normalised=True)
    average = MovingAverage(network, decay=0.9)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    for ours, theirs in zip(average.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()


@pytest.mark.parametrize(("step", "share"), [(1, 2 / 11), (8, 0.5), (79, 80 / 89), (10_000, 0.95)])
def test_each_step_keeps_a_share_of_the_old_average(step, share):
    network = nn.Linear(3, 2)
    average = MovingAverage(network, decay=0.95)
    old = copy.deepcopy(average.network.state_dict())
    with torch.no_grad():
        network.weight.add_(1)
        network.bias.mul_(-3)
    average.follow(network, step=step)
    for name, value in average.network.state_dict().items():
        torch.testing.assert_close(value, share * old[name] + (1 - share) * network.state_dict()[name])


def test_statistics_are_averaged_and_counters_copied():
    network = tiny(normalised=True)
    average = MovingAverage(network, decay=0.5)
    network.norm.running_mean.fill_(8.0)
    network.norm.num_batches_tracked.fill_(7)
    average.follow(network, step=1000)
    assert torch.equal(average.network.norm.running_mean, torch.full((4,), 4.0))
    assert int(average.network.norm.num_batches_tracked) == 7


def test_it_ends_where_a_resting_network_is():
    network = nn.Linear(3, 2)
    average = MovingAverage(nn.Linear(3, 2), decay=0.8)
    for step in range(1, 200):
        average.follow(network, step=step)
    torch.testing.assert_close(average.network.weight, network.weight)
