"""Networks that answer for every place of a picture: an encoder's maps by stride, and what stands on them.

Any network of `build_network` serves as encoder, with the same weights, groups of layers and techniques; its
last layer is left out.

Shapes: n images, H x W pixels, c channels, maps [n, c, H / stride, W / stride].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pictune.errors import RecipeError
from pictune.models.cnn import Cnn

TRIED = 128  # pixels a side at which an encoder is asked once for the maps it gives


@runtime_checkable
class _Staged(Protocol):
    """A network that gives the maps in its middle, as most of timm's do."""

    def forward_intermediates(self, x: Tensor, **wishes: Any) -> Any:
        """Maps by stage."""


class Encoder(nn.Module):
    """A classification network without its last layer, asked for the maps in its middle.

    Where no map has exactly the stride that is wanted (vision transformers have one stride throughout), the
    nearest one is resized to it (Li et al. 2022, arXiv 2203.16527).

    Args:
        network: What `build_network` made.
        strides: Pixels of the image a step of each map, ascending, such as 8, 16, 32.
        image_size: Width and height of the images, pixels.

    Raises:
        RecipeError: When the network does not give its maps.
    """

    def __init__(self, network: nn.Module, *, strides: Sequence[int], image_size: tuple[int, int]) -> None:
        super().__init__()
        network.reset_classifier(0)  # type: ignore[operator]
        self.network = network
        self.strides = tuple(strides)
        channels, found = _tried(network, image_size)
        self.chosen = [
            min(range(len(found)), key=lambda i: (abs(found[i] - wanted), -i)) for wanted in strides
        ]
        self.channels = tuple(channels[number] for number in self.chosen)
        self.exact = tuple(
            found[number] == wanted for number, wanted in zip(self.chosen, strides, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """[n, 3, H, W] to a map for each stride, the finest first."""
        maps = _maps(self.network, images)
        height, width = images.shape[2:]
        shown = []
        for number, stride, exact in zip(self.chosen, self.strides, self.exact, strict=True):
            found = maps[number]
            if not exact:
                size = (-(-height // stride), -(-width // stride))
                found = F.interpolate(found, size, mode="bilinear", align_corners=False)
            shown.append(found)
        return shown


def _maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    if isinstance(network, Cnn):
        maps = []
        for stage in network.stages:
            images = stage(images)
            maps.append(images)
        return maps
    assert isinstance(network, _Staged), "it was tried when the network was built"
    found: list[Tensor] = network.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    return found


def _tried(network: nn.Module, image_size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Channels and strides of the maps that a network gives."""
    was_training = network.training
    network.eval()
    width, height = image_size
    try:
        with torch.no_grad():
            maps = _maps(network, torch.zeros(1, 3, height, width))
    except (AssertionError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise RecipeError(
            f"{type(network).__name__} does not give the maps in its middle at {width} x {height} pixels, "
            f"which a detector or segmenter stands on: {str(error).splitlines()[0] if str(error) else error}",
            instead="Choose another network, such as resnet18, convnext_atto or mobilenetv4_conv_small.",
        ) from error
    finally:
        network.train(was_training)
    return [m.shape[1] for m in maps], [round(width / m.shape[3]) for m in maps]


class DenseNetwork(nn.Module):
    """An encoder and what stands on its maps; it answers to the names that freezing asks of a network.

    Args:
        encoder: Images to maps.
        top: Maps to outputs: neck, heads or decoder. It is what ``head`` means for this network. One that is
            taught while it answers takes targets as well.
    """

    def __init__(self, encoder: Encoder, top: nn.Module) -> None:
        super().__init__()
        self.encoder, self.top = encoder, top

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        """[n, 3, H, W] to what the top gives."""
        maps = self.encoder(images)
        return self.top(maps) if targets is None else self.top(maps, targets)

    def get_classifier(self) -> nn.Module:
        """Everything above the encoder."""
        return self.top

    @property
    def within(self) -> tuple[str, nn.Module]:
        """The network whose layer groups are this one's, and what stands before its tensors' names."""
        return "encoder.network.", self.encoder.network


class Taught(nn.Sequential):
    """Preprocessing and a network whose top takes targets, too, while it learns."""

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        """[n, H, W, 3] uint8, and targets or None, to what the network gives."""
        preprocess, backbone = self
        return backbone(preprocess(images), targets)


def convolution(before: int, after: int, *, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def named_maps(maps: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Maps under the names that torchvision's pyramid wants."""
    return ((str(number), found) for number, found in enumerate(maps))
