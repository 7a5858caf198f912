"""A small plain convolutional network of ours, for lessons and for tiny data.

Shapes: n images, h x w pixels, d features, k outputs. Reads like a picture:

    images [n, 3, h, w] -> stages, each halving h and w -> mean over pixels [n, d] -> dropout -> linear [n, k]
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Cnn(nn.Module):
    """Stages of convolution, batch normalisation and ReLU; then pooling, dropout and one linear layer.

    It answers to the same few names as a timm network, so nothing above has to tell them apart.

    Args:
        outputs: How many numbers the last layer gives; 0 leaves the last layer out.
        widths: Channels of each stage; every stage halves height and width, so the smallest
            side is ``2 ** len(widths)`` pixels.
        blocks: Convolutions in each stage.
        dropout: Share of the pooled features set to zero while training, 0 to 1.
    """

    def __init__(
        self,
        *,
        outputs: int,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        incoming = (3, *widths[:-1])
        self.stages = nn.Sequential(
            *(_stage(before, after, blocks) for before, after in zip(incoming, widths, strict=True))
        )
        self.num_features = widths[-1]
        self.drop = nn.Dropout(dropout)
        self.fc = _last_layer(self.num_features, outputs)
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

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer with this many outputs, at random; 0 leaves it out."""
        device = next(self.parameters()).device
        self.fc = _last_layer(self.num_features, num_classes).to(device)


def _last_layer(features: int, outputs: int) -> nn.Module:
    return nn.Linear(features, outputs) if outputs else nn.Identity()


def _stage(before: int, after: int, blocks: int) -> nn.Sequential:
    """Convolution, normalisation, ReLU, as often as asked; then half the height and width."""
    layers: list[nn.Module] = []
    for channels in (before, *[after] * (blocks - 1)):
        layers += [
            nn.Conv2d(channels, after, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
