"""Segmenters over any encoder: a decoder that brings its coarse maps back to the picture's detail.

The decoders are those of segmentation_models_pytorch.

Shapes: n images, H x W pixels, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (2, 4, 8, 16, 32)  # of the encoder's maps
WIDTHS = (160, 96, 64, 48)  # of the decoder's maps, the coarsest first


class Unet(nn.Module):
    """A decoder that doubles the coarsest map step by step and joins the finer ones as it passes them.

    Ronneberger et al. 2015, arXiv 1505.04597. It ends at half the picture's resolution; what is said there is
    interpolated, which costs little detail and half of the time.

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
        found = self.last(self.decoder(list(maps))).float()
        return F.interpolate(found, scale_factor=STRIDES[0], mode="bilinear", align_corners=False)
