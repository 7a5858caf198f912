"""Two small convolutional networks of ours, for lessons and for training from scratch.

Shapes: n images, h x w pixels, d features, k outputs. Each reads like a picture:

    images [n, 3, h, w] -> stages, each halving h and w -> mean over pixels [n, d] -> dropout -> linear [n, k]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256, 512)
SLIM_WIDTHS = (32, 64, 128, 192, 256)  # of resnet9; with `WIDTHS` it learns few pictures by heart
SHORTCUTS = 3  # of resnet9: its deepest stages end in a residual block


class Cnn(nn.Module):
    """Stages, then pooling, dropout and one linear layer.

    It answers to the same few names as a timm network, so nothing above has to tell them apart.

    Args:
        stages: Images [n, 3, h, w] to the last feature map [n, d, h', w'].
        features: d.
        outputs: How many numbers the last layer gives; 0 leaves the last layer out.
        dropout: Share of the pooled features set to zero while training, 0 to 1.
    """

    def __init__(self, stages: nn.Sequential, *, features: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.stages = stages
        self.num_features = features
        self.drop = nn.Dropout(dropout)
        self.fc = _last_layer(features, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, h, w] to outputs [n, k]."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images [n, 3, h, w] to the last feature map [n, d, h', w']."""
        features: Tensor = self.stages(images)
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - timm's signature
        """A feature map [n, d, h', w'] to outputs [n, k], or to [n, d] just before the last layer."""
        pooled: Tensor = self.drop(features.mean(dim=(2, 3)))
        if pre_logits:
            return pooled
        outputs: Tensor = self.fc(pooled)
        return outputs

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:  # noqa: FBT001, FBT002 - timm's signature
        """The layer groups, as timm's networks tell them: one a stage."""
        return {"stem": r"^stages\.0\.", "blocks": r"^stages\.(\d+)\."}

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer with this many outputs, at random; 0 leaves it out."""
        device = next(self.parameters()).device
        self.fc = _last_layer(self.num_features, num_classes).to(device)


class Residual(nn.Module):
    """Two convolutions that learn what to add to their input (He et al. 2016, arXiv 1512.03385).

    The last scale starts at zero, so at first the block passes everything through (Goyal et al. 2017,
    arXiv 1706.02677).

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(norm.weight)
        again = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.change = nn.Sequential(*_convolution(channels, channels), again, norm)

    def forward(self, features: Tensor) -> Tensor:
        """[n, c, h, w] to [n, c, h, w]."""
        return torch.relu(features + self.change(features))


def cnn(*, outputs: int, dropout: float = 0.0, widths: Sequence[int] = WIDTHS, blocks: int = 1) -> Cnn:
    """As plain as can be: each stage is convolution, normalisation, ReLU and pooling.

    Args:
        outputs: How many numbers the last layer gives; 0 leaves the last layer out.
        dropout: Share of the pooled features set to zero while training, 0 to 1.
        widths: Channels of each stage; every stage halves height and width, so the smallest
            side is ``2 ** len(widths)`` pixels.
        blocks: Convolutions in each stage.
    """
    stages = []
    for before, after in zip((3, *widths[:-1]), widths, strict=True):
        layers = [
            layer for channels in (before, *[after] * (blocks - 1)) for layer in _convolution(channels, after)
        ]
        stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
    return Cnn(nn.Sequential(*stages), features=widths[-1], outputs=outputs, dropout=dropout)


def resnet9(*, outputs: int, dropout: float = 0.0, widths: Sequence[int] = SLIM_WIDTHS) -> Cnn:
    """A short residual network that learns fast from scratch; a residual block ends each deep stage.

    After the network with which David Page trained CIFAR-10 in minutes ("How to train your ResNet", 2018),
    with a strided first layer for larger pictures, and slimmer, for few of them.

    Args:
        outputs: How many numbers the last layer gives; 0 leaves the last layer out.
        dropout: Share of the pooled features set to zero while training, 0 to 1.
        widths: Channels of each stage; every stage halves height and width, so the smallest
            side is ``2 ** len(widths)`` pixels.
    """
    stages = [nn.Sequential(*_convolution(3, widths[0], stride=2))]
    for number, (before, after) in enumerate(pairwise(widths), start=2):
        layers = [*_convolution(before, after), nn.MaxPool2d(2)]
        deep = number > len(widths) - SHORTCUTS
        stages.append(nn.Sequential(*layers, *([Residual(after)] if deep else [])))
    return Cnn(nn.Sequential(*stages), features=widths[-1], outputs=outputs, dropout=dropout)


#: Our own networks by name: what is not here is asked of timm.
OWN: Mapping[str, Callable[..., Cnn]] = MappingProxyType({"cnn": cnn, "resnet9": resnet9})


def _last_layer(features: int, outputs: int) -> nn.Module:
    return nn.Linear(features, outputs) if outputs else nn.Identity()


def _convolution(before: int, after: int, *, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]
