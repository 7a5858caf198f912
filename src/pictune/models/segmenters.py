"""Segmenters over any encoder: a decoder that brings its coarse maps back to the picture's detail.

The decoders are those of segmentation_models_pytorch.

Shapes: n images, H x W pixels, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (2, 4, 8, 16, 32)  # of the encoder's maps
WIDTHS = (160, 96, 64, 48)  # of the U-Net's maps, the coarsest first
WIDTH = 128  # of the other decoders
RATES = (3, 6, 9)  # steps of the coarsest map between the samples of a dilated convolution


class Unet(nn.Module):
    """A decoder that doubles the coarsest map step by step and joins the finer ones as it passes them.

    Ronneberger et al. 2015, arXiv 1505.04597. It ends at half the picture's resolution, where no map joins
    it; what is said there is interpolated, which costs little detail and half of the time.

    Args:
        channels: Of the encoder's maps, the finest first.
        classes: k.
        widths: Of the decoder's maps, the coarsest first.
    """

    def __init__(self, channels: Sequence[int], *, classes: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.decoder = UnetDecoder(list(channels), list(widths), n_blocks=len(widths))
        self.last = nn.Conv2d(widths[-1], classes, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's maps to logits [n, k, H, W] float32."""
        return _enlarged(self.last(self.decoder(list(maps))), STRIDES[0])


class Fpn(nn.Module):
    """A pyramid whose levels are brought to a quarter of the picture's resolution and added.

    Kirillov et al. 2019, arXiv 1901.02446.

    Args:
        channels: Of the encoder's maps, the finest first.
        classes: k.
    """

    def __init__(self, channels: Sequence[int], *, classes: int) -> None:
        super().__init__()
        self.decoder = FPNDecoder(list(channels), pyramid_channels=2 * WIDTH, segmentation_channels=WIDTH)
        self.last = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's maps to logits [n, k, H, W] float32."""
        return _enlarged(self.last(self.decoder(list(maps))), STRIDES[1])


class DeepLab(nn.Module):
    """Dilated convolutions of several reaches over the coarsest map, joined with the map of stride 4.

    Chen et al. 2018, arXiv 1802.02611 (DeepLabV3+). The encoder is not dilated, so that any will do: its
    coarsest map has stride 32 and not 16, and the rates of the paper are halved to reach as far.

    Args:
        channels: Of the encoder's maps, the finest first.
        classes: k.
    """

    def __init__(self, channels: Sequence[int], *, classes: int) -> None:
        super().__init__()
        self.decoder = DeepLabV3PlusDecoder(
            [3, *channels],
            encoder_depth=5,
            out_channels=WIDTH,
            atrous_rates=RATES,
            output_stride=16,
            aspp_separable=True,
            aspp_dropout=0.1,
        )
        self.decoder.up = nn.Upsample(scale_factor=STRIDES[-1] // STRIDES[1], mode="bilinear")
        self.last = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's maps to logits [n, k, H, W] float32."""
        picture = maps[0]  # the decoder counts the picture itself as the first map, and does not look at it
        return _enlarged(self.last(self.decoder([picture, *maps])), STRIDES[1])


class SegFormer(nn.Module):
    """One linear layer a map, from stride 4 on, and one over all of them together.

    Xie et al. 2021, arXiv 2105.15203.

    Args:
        channels: Of the encoder's maps, the finest first.
        classes: k.
    """

    def __init__(self, channels: Sequence[int], *, classes: int) -> None:
        super().__init__()
        # A width of 0 stands for a map that is not used.
        self.decoder = SegformerDecoder([3, 0, *channels[1:]], segmentation_channels=WIDTH)
        self.last = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The encoder's maps to logits [n, k, H, W] float32."""
        height, width = (STRIDES[0] * side for side in maps[0].shape[2:])
        nothing = maps[0].new_empty((1, 0, height, width))  # it is only asked how large the picture is
        return _enlarged(self.last(self.decoder([nothing, nothing, *maps[1:]])), STRIDES[1])


def _enlarged(found: Tensor, stride: int) -> Tensor:
    """Logits at the picture's resolution, in float32."""
    return F.interpolate(found.float(), scale_factor=stride, mode="bilinear", align_corners=False)


DECODERS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"unet": Unet, "fpn": Fpn, "deeplabv3plus": DeepLab, "segformer": SegFormer}
)
