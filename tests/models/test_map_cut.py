"""Detectors and segmenters cut below their heads: both parts together are the whole network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pictune.models.box_heads import BOX_HEADS
from pictune.models.freezing import EVERYTHING_BELOW, freeze_layers, frozen_tensors, train_mode
from pictune.models.map_cut import cut_maps
from pictune.models.segmenters import DECODERS
from pictune.tasks.kinds import KINDS, Rates
from pictune.tasks.specification import Specification

CANVAS = (96, 64)
BUILT = [("detection", head) for head in BOX_HEADS] + [("segmentation", head) for head in DECODERS]


def network_of(task: str, head: str) -> nn.Module:
    torch.manual_seed(0)
    spec = Specification(task, ("a", "b"), "resnet9", CANVAS[0], height=CANVAS[1], head=head)
    network = KINDS[task].network(spec, Rates(0.0, 0.0), None)
    backbone = network.get_submodule("backbone")
    freeze_layers(backbone, frozen_tensors(backbone, EVERYTHING_BELOW))
    return network


def pixels(count: int = 3) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (count, CANVAS[1], CANVAS[0], 3), dtype=torch.uint8)


def tensors(outputs) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in tensors(part)]


@pytest.mark.parametrize(("task", "head"), BUILT)
def test_both_parts_together_answer_as_the_whole(task, head):
    network = network_of(task, head).eval()
    made = cut_maps(network, canvas=CANVAS)
    assert made is not None
    with torch.no_grad():
        activation = made.below(pixels())
        assert activation.shape == (3, *made.shape)
        pairs = list(zip(tensors(made.above(activation)), tensors(network(pixels())), strict=True))
    assert pairs
    for ours, whole in pairs:
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-4)  # maps lie otherwise in memory


@pytest.mark.parametrize(("task", "head"), [("detection", "fcos"), ("segmentation", "unet")])
def test_what_the_part_above_learns_the_network_has_learnt(task, head):
    network = network_of(task, head)
    made = cut_maps(network, canvas=CANVAS)
    assert made is not None
    before = copy.deepcopy(network.state_dict())
    train_mode(made.above)
    with torch.no_grad():
        activation = made.below.eval()(pixels())
    optimizer = torch.optim.SGD([p for p in made.above.parameters() if p.requires_grad], 0.1)
    sum(
        tensor.float().square().mean() for tensor in tensors(made.above(activation)) if tensor.requires_grad
    ).backward()
    optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("backbone.top.") for name in moved)
    names = {name for name, _ in made.above.named_parameters()}
    assert names == {f"network.{n}" for n, _ in network.named_parameters() if n.startswith("backbone.top.")}


def test_maps_that_nothing_looks_at_are_not_kept():
    """A U-Net here does not use the map of stride 2, which alone has most of the numbers."""
    made = cut_maps(network_of("segmentation", "unet"), canvas=CANVAS)
    network = network_of("segmentation", "unet")
    channels = network.get_submodule("backbone.encoder").channels
    area = CANVAS[0] * CANVAS[1]
    sizes = [c * area // stride**2 for c, stride in zip(channels, (2, 4, 8, 16, 32), strict=True)]
    assert made is not None
    assert made.shape == (sum(sizes[1:]),)


def test_where_something_below_learns_there_is_no_cut():
    network = network_of("detection", "fcos")
    first = next(p for n, p in network.named_parameters() if n.startswith("backbone.encoder."))
    first.requires_grad = True
    assert cut_maps(network, canvas=CANVAS) is None


def test_the_fingerprint_follows_what_lies_below_and_nothing_else():
    network = network_of("detection", "fcos")
    made = cut_maps(network, canvas=CANVAS)
    assert made is not None
    before = made.fingerprint
    with torch.no_grad():
        next(network.get_submodule("backbone.top").parameters()).add_(1)
    assert made.fingerprint == before
    with torch.no_grad():
        next(network.get_submodule("backbone.encoder").parameters()).add_(1)
    assert made.fingerprint != before
