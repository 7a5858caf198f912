"""Normalisation statistics that are measured anew: which ones, what they become, and what stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from pictune.models.freezing import freeze_layers
from pictune.models.statistics import measure_statistics


def normalised() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3))


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [3 + 2 * torch.randn(8, 3, 5, 5, generator=generator) for _ in range(3)]


def test_every_batch_counts_alike(batches) -> None:
    network = normalised()
    assert measure_statistics(network, batches) == 2
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variance = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(network[0].running_mean, mean)
    torch.testing.assert_close(network[0].running_var, variance)


def test_in_evaluation_it_now_answers_as_in_training(batches) -> None:
    network = normalised().eval()
    before = network(batches[0])
    measure_statistics(network, batches)
    after = network(batches[0])
    training = network.train()(batches[0]).detach()
    assert (after - training).abs().mean() < 0.1 * (before - training).abs().mean()


def test_weights_modes_and_momenta_stay(batches) -> None:
    network = normalised().eval()
    weights = {name: parameter.clone() for name, parameter in network.named_parameters()}
    measure_statistics(network, batches)
    assert not any(module.training for module in network.modules())
    assert [network[0].momentum, network[2].momentum] == [0.1, 0.3]
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=0, atol=0)


def test_momenta_come_back_after_a_failure() -> None:
    network = normalised()
    with pytest.raises(RuntimeError):
        measure_statistics(network, [torch.zeros(2, 5, 4, 4)])
    assert [network[0].momentum, network[2].momentum] == [0.1, 0.3]
    assert network.training


def test_frozen_layers_keep_theirs(batches) -> None:
    network = normalised()
    freeze_layers(network, {"0.weight", "0.bias"})
    assert measure_statistics(network, batches) == 1
    torch.testing.assert_close(network[0].running_mean, torch.zeros(3), rtol=0, atol=0)
    assert network[2].running_mean.abs().min() > 0


def test_dropout_is_off_meanwhile(batches) -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    measure_statistics(network, batches)
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)


def test_where_nothing_keeps_statistics_no_picture_is_looked_at() -> None:
    def pictures() -> Iterator[torch.Tensor]:
        raise AssertionError("looked at a picture")
        yield

    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False)
    )
    assert measure_statistics(network, pictures()) == 0
