"""Decoders over an encoder: shapes, gradients, and whether they can learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pictune.models.segmenters import DECODERS, STRIDES

CHANNELS = (4, 6, 8, 10, 12)


def maps_for(width: int, height: int, *, images: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(height // stride, width // stride) for stride in STRIDES]
    return [
        torch.randn(images, channels, *size, requires_grad=True)
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(("width", "height"), [(64, 96), (32, 32)])
def test_every_pixel_of_the_canvas_gets_a_logit_for_each_class(name, width, height):
    logits = DECODERS[name](CHANNELS, classes=3)(maps_for(width, height))
    assert logits.shape == (2, 3, height, width)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("unet", (4, 8, 16, 32)),
        ("fpn", (4, 8, 16, 32)),
        ("deeplabv3plus", (4, 32)),
        ("segformer", (4, 8, 16, 32)),
    ],
)
def test_the_maps_that_a_decoder_says_it_uses_are_those_that_get_gradients(name, used):
    maps = maps_for(64, 64)
    DECODERS[name](CHANNELS, classes=3)(maps).square().sum().backward()
    moved = tuple(stride for stride, m in zip(STRIDES, maps, strict=True) if m.grad is not None)
    assert moved == used
    assert all(m.grad is None or m.grad.abs().sum() > 0 for m in maps)


class Toy(nn.Module):
    """A tiny encoder under a decoder."""

    def __init__(self, name: str) -> None:
        super().__init__()
        widths = (3, *CHANNELS)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU())
            for before, after in zip(widths, CHANNELS, strict=False)
        )
        self.top = DECODERS[name](CHANNELS, classes=3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = []
        for step in self.steps:
            images = step(images)
            maps.append(images)
        return self.top(maps)


@pytest.mark.parametrize("name", DECODERS)
def test_two_pictures_are_learnt_by_heart(name):
    torch.manual_seed(0)
    target = torch.zeros(2, 64, 64, dtype=torch.long)
    target[0, 8:40, 8:32], target[1, 24:56, 16:56] = 1, 2
    images = F.one_hot(target, 3).movedim(3, 1).float() + 0.1 * torch.randn(2, 3, 64, 64)
    network = Toy(name)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(network(images), target).backward()
        optimizer.step()
    right = (network(images).argmax(1) == target).float().mean().item()
    assert right > 0.95, f"{name} names {right:.3f} of the pixels rightly"
