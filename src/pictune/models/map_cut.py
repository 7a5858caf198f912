"""Cuts a detector or segmenter between its encoder and what stands on the encoder's maps.

There a picture is several maps at once, so the cut is made by name and not found by watching; that it holds
is proven all the same. Maps that what stands above does not look at are not kept.

Shapes: n pictures, [n, H, W, 3] pixels, maps [n, c, h, w], an activation [n, a] of all maps in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pictune.models.boundary import Cut
from pictune.models.dense import DenseNetwork

TOLERANCE = 1e-5  # of outputs without a map, beside their size
HEAD = "backbone.top."
ENCODER = "backbone.encoder"  # the activation is what this module gives


def cut_maps(network: nn.Module, *, canvas: tuple[int, int]) -> Cut | None:
    """Cuts a network below its head, if nothing below learns.

    Args:
        network: Preprocessing and a `DenseNetwork`; what learns has a gradient.
        canvas: Width and height of the images, pixels.

    Returns:
        The two parts, or None where the network is of another kind or something in its encoder learns.
    """
    backbone = network.get_submodule("backbone")
    learning = [name for name, tensor in network.named_parameters() if tensor.requires_grad]
    if not isinstance(backbone, DenseNetwork) or any(not name.startswith(HEAD) for name in learning):
        return None
    width, height = canvas
    device = next(network.parameters()).device
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, device=device)
            maps = backbone.encoder(network.get_submodule("preprocess")(pixels))
            used = [number for number in range(len(maps)) if _minded(backbone.top, maps, number)]
    finally:
        for module, was in training.items():
            module.training = was
    shapes = [tuple(found.shape[1:]) for found in maps]
    kept = [number in used for number in range(len(maps))]
    numbers = sum(_size(shape) for shape, keep in zip(shapes, kept, strict=True) if keep)
    later = frozenset(name for name in network.state_dict() if name.startswith(HEAD))
    return Cut(_Below(network, kept), _Above(backbone.top, shapes, kept), ENCODER, (numbers,), later)


def _minded(top: nn.Module, maps: Sequence[Tensor], number: int) -> bool:
    """Whether outputs change when one of the maps is empty."""
    given = [found.new_zeros(()).expand_as(found) if i == number else found for i, found in enumerate(maps)]
    before, after = (_flat(top(each)) for each in (maps, given))
    return any(
        float((one - other).abs().max()) > TOLERANCE * (float(one.abs().max()) or 1.0)
        for one, other in zip(before, after, strict=True)
        if one.numel()
    )


def _flat(outputs: Any) -> list[Tensor]:
    """All tensors of an output, as numbers."""
    if isinstance(outputs, Tensor):
        return [outputs.float()]
    return [tensor for part in outputs for tensor in _flat(part)]


def _size(shape: Sequence[int]) -> int:
    return shape[0] * shape[1] * shape[2]


class _Part(nn.Module):
    """A module of a few named parts and no work of its own, so that tensors keep their names."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class _Below(nn.Module):
    """Pixels [n, H, W, 3] to all kept maps in one row [n, a]."""

    def __init__(self, network: nn.Module, kept: Sequence[bool]) -> None:
        super().__init__()
        encoder = network.get_submodule(ENCODER)
        self.network = _Part(preprocess=network.get_submodule("preprocess"), backbone=_Part(encoder=encoder))
        self._kept = tuple(kept)

    def forward(self, pixels: Tensor) -> Tensor:
        """The activation."""
        maps = self.network.get_submodule(ENCODER)(self.network.get_submodule("preprocess")(pixels))
        rows = [found.flatten(1).float() for found, keep in zip(maps, self._kept, strict=True) if keep]
        return torch.cat(rows, dim=1)


class _Above(nn.Module):
    """The activation to outputs; its tensors are those of the whole network, under the same names."""

    def __init__(self, top: nn.Module, shapes: Sequence[tuple[int, ...]], kept: Sequence[bool]) -> None:
        super().__init__()
        self.network = _Part(backbone=_Part(top=top))
        self._shapes, self._kept = tuple(shapes), tuple(kept)

    def forward(self, activation: Tensor, targets: Tensor | None = None) -> Any:
        """[n, a], and targets where the top is taught, to what the top gives."""
        sizes = [_size(shape) * keep for shape, keep in zip(self._shapes, self._kept, strict=True)]
        parts = torch.split(activation, sizes, dim=1)
        # A map that is not kept is not looked at but for its shape.
        maps = [
            part.view(-1, *shape) if keep else activation.new_zeros(()).expand(len(activation), *shape)
            for part, shape, keep in zip(parts, self._shapes, self._kept, strict=True)
        ]
        top = self.network.get_submodule("backbone.top")
        return top(maps) if targets is None else top(maps, targets)
