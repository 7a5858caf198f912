"""LoRA: a frozen layer learns a small correction beside it (Hu et al. 2022, arXiv 2106.09685).

    layer(x) = base(x) + scale * up(down(x)),    scale = alpha / rank

`up` starts at zero, so at first nothing changes. The correction of a convolution is two convolutions:
`down` looks as the base does (kernel, stride, padding, dilation, groups), into `rank` channels a group, and
`up` mixes those point by point. Both are linear, so they can be added into the base's weight in the end.

Only what is exactly `nn.Linear` or `nn.Conv2d` is adapted. Subclasses stay frozen as they are, because they
may compute otherwise: timm's ``StdConv2d`` and ``ScaledStdConv2d`` (BiT, NFNet) and ``Conv2dSame`` (the
``tf_`` networks), and what is inside `nn.MultiheadAttention`. So do layers that share their weight.

Shapes: i inputs or channels in, o outputs or channels out, r rank, g groups, k x l kernel.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch
from torch import Tensor, nn

from pictune.errors import RecipeError
from pictune.settings import suggestion

EVERYTHING = "all"
WILDCARDS = str.maketrans("", "", "*?[]!")
LISTED = 8  # how many kinds of layers an error lists

log = logging.getLogger(__name__)


@final
class LoraLinear(nn.Module):
    """A linear layer with a correction of low rank. It answers to the names of an `nn.Linear`.

    Args:
        base: The layer; frozen here.
        rank: r, 1 or more.
        alpha: The correction is multiplied by alpha / rank.
        generator: Of the first numbers of `down`.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.scale = alpha / rank
        self.down = nn.Linear(base.in_features, rank, bias=False, device="meta")
        self.up = nn.Linear(rank, base.out_features, bias=False, device="meta")
        _begin(self.down, self.up, like=base.weight, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """[..., i] to [..., o]."""
        outputs: Tensor = self.base(features) + self.scale * self.up(self.down(features))
        return outputs

    def weight_change(self) -> Tensor:
        """What is added to the weight, [o, i]."""
        return self.scale * (self.up.weight @ self.down.weight)

    def merged(self) -> nn.Linear:
        """The base, with the correction added into its weight."""
        with torch.no_grad():
            self.base.weight.add_(self.weight_change())
        return self.base

    # Some networks compute with a layer's weight themselves: BeiT, EVA and Swin v2 in their attention.

    @property
    def weight(self) -> Tensor:
        """[o, i] base and correction together; gradients reach the correction through it."""
        return self.base.weight + self.weight_change()

    @property
    def bias(self) -> Tensor | None:
        """[o], of the base."""
        return self.base.bias

    @property
    def in_features(self) -> int:
        """How many numbers come in."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """How many numbers go out."""
        return self.base.out_features


@final
class LoraConv2d(nn.Module):
    """A convolution with a correction of low rank. It answers to the names of an `nn.Conv2d`.

    Args:
        base: The layer; frozen here.
        rank: r, 1 or more; a grouped convolution has as many channels between in every group.
        alpha: The correction is multiplied by alpha / rank.
        generator: Of the first numbers of `down`.
    """

    def __init__(self, base: nn.Conv2d, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.scale = alpha / rank
        between = rank * base.groups
        self.down = nn.Conv2d(
            base.in_channels,
            between,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=base.groups,
            bias=False,
            padding_mode=base.padding_mode,
            device="meta",
        )
        self.up = nn.Conv2d(
            between, base.out_channels, kernel_size=1, groups=base.groups, bias=False, device="meta"
        )
        _begin(self.down, self.up, like=base.weight, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        """[n, i, h, w] to [n, o, h', w']."""
        outputs: Tensor = self.base(features) + self.scale * self.up(self.down(features))
        return outputs

    def weight_change(self) -> Tensor:
        """What is added to the weight, [o, i / g, k, l]: group by group a product of two matrices."""
        rank = self.up.weight.shape[1]
        up = self.up.weight.reshape(self.groups, -1, rank)  # [g, o / g, r]
        down = self.down.weight.reshape(self.groups, rank, -1)  # [g, r, i / g * k * l]
        change: Tensor = self.scale * (up @ down).reshape(self.base.weight.shape)
        return change

    def merged(self) -> nn.Conv2d:
        """The base, with the correction added into its weight."""
        with torch.no_grad():
            self.base.weight.add_(self.weight_change())
        return self.base

    @property
    def weight(self) -> Tensor:
        """[o, i / g, k, l] base and correction together; gradients reach the correction through it."""
        return self.base.weight + self.weight_change()

    @property
    def bias(self) -> Tensor | None:
        """[o], of the base."""
        return self.base.bias

    @property
    def in_channels(self) -> int:
        """How many channels come in."""
        return self.base.in_channels

    @property
    def out_channels(self) -> int:
        """How many channels go out."""
        return self.base.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return _pair(self.base.kernel_size)

    @property
    def stride(self) -> tuple[int, int]:
        """Down and across, pixels."""
        return _pair(self.base.stride)

    @property
    def padding(self) -> str | tuple[int, int]:
        """Above and beside, pixels; or ``same`` or ``valid``."""
        return self.base.padding if isinstance(self.base.padding, str) else _pair(self.base.padding)

    @property
    def dilation(self) -> tuple[int, int]:
        """Down and across, pixels."""
        return _pair(self.base.dilation)

    @property
    def groups(self) -> int:
        """Into how many parts the channels are divided."""
        return self.base.groups

    @property
    def padding_mode(self) -> str:
        """What lies beyond the edge."""
        return self.base.padding_mode


Plain = nn.Linear | nn.Conv2d
Lora = LoraLinear | LoraConv2d


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def _begin(down: Plain, up: Plain, *, like: Tensor, generator: torch.Generator) -> None:
    """First numbers: `down` keeps the size of what comes in, on average; `up` is zero."""
    fan_in = down.weight[0].numel()
    drawn = torch.randn(down.weight.shape, generator=generator, device="cpu") * fan_in**-0.5
    down.weight = nn.Parameter(drawn.to(like))
    up.weight = nn.Parameter(torch.zeros(up.weight.shape, device=like.device, dtype=like.dtype))


@dataclass(frozen=True, slots=True)
class Adapted:
    """What was adapted.

    Args:
        layers: Names of the layers, in the network's order.
        parameters: How many numbers their corrections learn.
    """

    layers: tuple[str, ...]
    parameters: int


def add_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    targets: str = EVERYTHING,
    keep: Collection[str] = (),
    seed: int,
) -> Adapted:
    """Freezes a network and gives its layers corrections of low rank that learn, in place.

    A layer is left frozen when its correction would learn as many numbers as its own weight has: the
    depthwise convolutions, and layers that are small beside the rank.

    Args:
        network: Any; it has no corrections yet.
        rank: Of the corrections, 1 or more.
        alpha: A correction is multiplied by alpha / rank, so that another rank needs no other rate; above 0.
        targets: ``all``, or a pattern such as ``blocks.*.attn.qkv`` or ``layer4``; a module that fits
            brings all layers below it.
        keep: Modules whose layers are neither adapted nor frozen, such as the classifier.
        seed: The first numbers follow from it alone; no other generator moves.

    Raises:
        RecipeError: When no layer can be adapted as asked. Then nothing was changed.
    """
    assert not any(isinstance(module, Lora) for module in network.modules()), "it is adapted once"
    if rank < 1 or not 0 < alpha < float("inf"):
        raise RecipeError(f"LoRA needs a rank of 1 or more and an alpha above 0, found {rank} and {alpha:g}")
    _check_keep(network, keep)
    layers = _targeted(_adaptable(network, keep), targets)
    layers = {name: layer for name, layer in layers.items() if _cost(layer, rank) < layer.weight.numel()}
    if not layers:
        raise RecipeError(
            f"no layer is large enough for LoRA of rank {rank}: it would learn as many numbers as they have",
            instead="Use a smaller rank, other targets, or learn the layers themselves.",
        )
    for name, parameter in network.named_parameters():
        if not _below_any(name, keep):
            parameter.requires_grad = False
    generator = torch.Generator().manual_seed(seed)
    _replace(
        network,
        {id(layer): _wrapped(layer, rank, alpha, generator) for layer in layers.values()},
    )
    adapted = Adapted(tuple(layers), sum(_cost(layer, rank) for layer in layers.values()))
    log.info("LoRA of rank %d: %d layers learn %d numbers", rank, len(adapted.layers), adapted.parameters)
    return adapted


def merge_lora(network: nn.Module) -> nn.Module:
    """Adds every correction into its layer, in place.

    The network then has the modules and the names that it had before `add_lora`, and computes what it
    computed just now, up to rounding. What was frozen stays frozen.

    Returns:
        The same network.
    """
    _replace(network, {id(part): part.merged() for part in network.modules() if isinstance(part, Lora)})
    return network


def _wrapped(layer: Plain, rank: int, alpha: float, generator: torch.Generator) -> Lora:
    wrapper: Lora
    if isinstance(layer, nn.Linear):
        wrapper = LoraLinear(layer, rank=rank, alpha=alpha, generator=generator)
    else:
        wrapper = LoraConv2d(layer, rank=rank, alpha=alpha, generator=generator)
    return wrapper.train(layer.training)


def _cost(layer: Plain, rank: int) -> int:
    """How many numbers a correction learns: r (i + o), or r (i k l + o)."""
    if isinstance(layer, nn.Linear):
        return rank * (layer.in_features + layer.out_features)
    height, width = layer.kernel_size
    return rank * (layer.in_channels * height * width + layer.out_channels)


def _replace(network: nn.Module, replacements: Mapping[int, nn.Module]) -> None:
    """Puts other modules in the place of some, everywhere: a module may stand in several places."""
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if id(module) in replacements:
            network.set_submodule(name, replacements[id(module)])


def _adaptable(network: nn.Module, keep: Collection[str]) -> dict[str, Plain]:
    """The layers that a correction fits, by name: exact types, with a weight of their own, not kept."""
    kept = {
        id(part) for name, part in network.named_modules(remove_duplicate=False) if _below_any(name, keep)
    }
    uses = Counter(id(p) for part in network.modules() for p in part.parameters(recurse=False))
    return {
        name: part
        for name, part in network.named_modules()
        if name  # a network that is a single layer has no place where another could be put
        and (type(part) is nn.Linear or type(part) is nn.Conv2d)
        and id(part) not in kept
        and uses[id(part.weight)] == 1
    }


def _below_any(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _check_keep(network: nn.Module, keep: Collection[str]) -> None:
    names = [name for name, _ in network.named_modules(remove_duplicate=False)]
    unknown = [name for name in keep if name not in names]
    if unknown:
        raise RecipeError(
            "LoRA cannot keep modules that the network does not have",
            causes=[f"there is no {name!r}{suggestion(name, names)}" for name in unknown],
        )


def _targeted(layers: Mapping[str, Plain], targets: str) -> dict[str, Plain]:
    """The layers that a pattern fits, or that lie below a module that it fits."""
    if targets == EVERYTHING and layers:
        return dict(layers)
    found = {
        name: layer
        for name, layer in layers.items()
        if fnmatchcase(name, targets) or fnmatchcase(name, f"{targets}.*")
    }
    if found:
        return found
    if not layers:
        raise RecipeError(
            "the network has no layer that LoRA can adapt: none is a plain linear layer or convolution",
            instead="Choose another network, or learn its layers themselves (transfer.freeze).",
        )
    modules = [name.rsplit(".", depth)[0] for name in layers for depth in range(name.count(".") + 1)]
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    near = suggestion(targets.translate(WILDCARDS).strip("."), [*modules, *kinds])
    shown = ", ".join(f"*.{kind}" for kind in kinds[:LISTED]) + (", ..." if len(kinds) > LISTED else "")
    raise RecipeError(
        f"no layer that LoRA can adapt fits the pattern {targets!r}{near}",
        instead=f"Use {EVERYTHING}, a name such as {next(iter(layers))}, or a pattern such as {shown}.",
    )
