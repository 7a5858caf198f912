"""Pixels in, normalised numbers out, inside the network: what was trained is what is shipped.

Shapes: n images, h x w pixels, 3 channels (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Preprocess(nn.Module):
    """A batch of pixels to ``(pixel / 255 - mean) / std``.

    Mean and standard deviation travel with the weights. The result has the element type of the
    mean, so a network turned to half precision stays in one type.

    Args:
        mean: Of each channel, on the scale 0 to 1.
        std: Of each channel, on the same scale, above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        assert len(mean) == len(std) == 3, "one mean and one std for each of R, G and B"
        assert min(std) > 0, "a standard deviation is above zero"
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels to network input.

        Args:
            pixels: [n, h, w, 3] or [n, 3, h, w]; uint8, or floats on the same scale 0 to 255 (through
                which a gradient can flow). A batch that fits both shapes is taken as [n, h, w, 3].

        Returns:
            [n, 3, h, w], stored with the channels last, which convolutions like best.
        """
        assert pixels.ndim == 4, f"a batch has four dimensions, found {tuple(pixels.shape)}"
        assert 3 in (pixels.shape[3], pixels.shape[1]), f"RGB has three channels, found {tuple(pixels.shape)}"
        # Seen through permute, [n, h, w, 3] already lies in memory as channels_last: nothing is copied.
        planes = pixels.permute(0, 3, 1, 2) if pixels.shape[3] == 3 else pixels
        planes = planes.to(torch.float32).contiguous(memory_format=torch.channels_last)
        # One multiplication and one addition a pixel: (x / 255 - mean) / std = x * scale + shift.
        scale = (1 / (255 * self.std.float())).view(1, 3, 1, 1)
        shift = (-self.mean.float() / self.std.float()).view(1, 3, 1, 1)
        return torch.addcmul(shift, planes, scale).to(self.mean.dtype)
