"""How a network of a given name is built, and whether it can do what is asked, before it is built.

Questions about shapes are put to a shadow: the same network on PyTorch's meta device, which has shapes
and no numbers. So nothing crashes deep inside a network, and a size that fails comes with one that works.

Shapes: n images, 3 x s x s pixels, d pooled features, k outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import timm
import torch
from torch import Tensor, nn

from pictune.errors import RecipeError
from pictune.models.cnn import OWN
from pictune.models.hub import brief
from pictune.settings import suggestion

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

OWN_SIZE = 64  # pixels a side that our own small networks like
STEP = 32  # most networks halve their input five times
FARTHEST = 9  # patches up and down within which a size that works is looked for

# What torch and timm raise for an input or a checkpoint that does not fit an architecture.
MISFIT = (
    RuntimeError,
    AssertionError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
)


@runtime_checkable
class Backbone(Protocol):
    """What a network must be able to do to be fine-tuned here."""

    def forward_features(self, images: Tensor) -> Tensor:
        """Images to the last feature map."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: FBT001, FBT002 - timm's
        """A feature map to outputs, or to pooled features."""

    def get_classifier(self) -> nn.Module:
        """The last layer."""

    def reset_classifier(self, num_classes: int) -> None:
        """A new last layer."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All that decides a network but its outputs, its image size and its first weights.

    Args:
        name: As the user gave it.
        rates: Keywords of the architecture for dropout and stochastic depth, with their values.
        default_size: Pixels a side of the images it was made for.
        fixed_size: Whether the network is built for one image size.
        last_layer: Its name among the tensors.
        default_outputs: How many it has in published weights.
    """

    name: str
    rates: dict[str, float]
    default_size: int
    fixed_size: bool
    last_layer: str
    default_outputs: int

    def make(self, outputs: int, *, image_size: int, tensors: dict[str, Tensor] | None = None) -> nn.Module:
        """The network, at random or from tensors; 0 outputs leave the last layer out."""
        if self.name in OWN:
            network: nn.Module = OWN[self.name](outputs=outputs, dropout=self.rates["drop_rate"])
            if tensors is not None:
                network.load_state_dict(tensors)
            return network
        overlay = {"state_dict": tensors, "num_classes": outputs, "label_offset": 0}
        network = timm.create_model(
            self.name,
            pretrained=tensors is not None,
            pretrained_cfg_overlay=None if tensors is None else overlay,
            num_classes=outputs,
            **({"img_size": image_size} if self.fixed_size else {}),
            **self.rates,
        )
        # timm keeps its card with the network, and in it the tensors a second time.
        card: Any = network.pretrained_cfg
        card["state_dict"] = None
        return network

    def shadow(self, image_size: int) -> nn.Module:
        """The network without its numbers: shapes can be asked of it, quickly and without memory."""
        with torch.device("meta"):
            return self.make(2, image_size=image_size).eval()

    def obstacle(self, image_size: int) -> str:
        """Why the network cannot classify images of this size; empty when it can."""
        try:
            shadow = self.shadow(image_size)
        except MISFIT as error:
            return brief(error)
        patch = _patch_size(shadow)
        if self.fixed_size and image_size % patch:
            return f"it cuts images into patches of {patch} pixels and would ignore the rest"
        return _obstacle(shadow, image_size)


def _obstacle(shadow: nn.Module, image_size: int) -> str:
    if not isinstance(shadow, Backbone):
        return "it lacks the parts of a classifier"
    try:
        with torch.no_grad():
            answer: object = shadow(torch.zeros(1, 3, image_size, image_size, device="meta"))
    except MISFIT as error:
        return brief(error)
    fits = isinstance(answer, Tensor) and answer.shape == (1, 2)
    return "" if fits else "it does not answer with one number a class"


def _patch_size(shadow: nn.Module) -> int:
    """Pixels a side of a transformer's patches; 1 for a network without."""
    size = getattr(getattr(shadow, "patch_embed", None), "patch_size", 1)
    return int(size[0] if isinstance(size, tuple | list) else size)


def draw_blueprint(name: str, *, dropout: float, stochastic_depth: float) -> Blueprint:
    """Finds which rates the architecture has a place for.

    Raises:
        RecipeError: For an unknown name, or for rates above zero that the network would ignore.
    """
    if name in OWN:
        own = OWN[name](outputs=2, dropout=dropout)
        _check_rates(own, name, dropout=dropout, stochastic_depth=stochastic_depth)
        return Blueprint(
            name, {"drop_rate": dropout}, OWN_SIZE, fixed_size=False, last_layer="fc", default_outputs=0
        )
    card = network_card(name)
    rates = {"drop_rate": dropout, "drop_path_rate": stochastic_depth}
    while True:
        try:
            with torch.device("meta"):
                network = timm.create_model(name, num_classes=2, **rates)
            break
        except TypeError as error:  # architectures refuse keywords they have no place for, by name
            refused = [keyword for keyword in rates if keyword in str(error)]
            if not refused:
                raise _unusable(name, brief(error)) from error
            rates = {keyword: rate for keyword, rate in rates.items() if keyword not in refused}
        except MISFIT as error:
            raise _unusable(name, brief(error)) from error
    _check_rates(network, name, dropout=dropout, stochastic_depth=stochastic_depth)
    last = card.classifier if isinstance(card.classifier, str) else next(iter(card.classifier or ()), "")
    return Blueprint(
        name,
        rates,
        card.input_size[-1],
        fixed_size=card.fixed_input_size,
        last_layer=last,
        default_outputs=card.num_classes,
    )


def _check_rates(network: nn.Module, name: str, *, dropout: float, stochastic_depth: float) -> None:
    """A rate above zero must have reached some layer; nothing is dropped silently."""
    layers = list(network.modules())
    has_dropout = any(
        math.isclose(rate, dropout)
        for layer in layers
        for rate in (layer.p if isinstance(layer, nn.Dropout) else getattr(layer, "drop_rate", None),)
        if isinstance(rate, float | int)
    )
    has_depth = any(getattr(layer, "drop_prob", None) for layer in layers)
    mistakes = []
    if dropout and not has_dropout:
        mistakes.append(f"dropout={dropout:g}: {name} has no dropout before its last layer")
    if stochastic_depth and not has_depth:
        mistakes.append(
            f"stochastic_depth={stochastic_depth:g}: {name} has no residual branches to leave out"
        )
    if mistakes:
        raise RecipeError(
            f"{name} cannot be regularised as asked",
            causes=mistakes,
            instead="Set them to 0, or choose another network.",
        )


def _unusable(name: str, reason: str) -> RecipeError:
    return RecipeError(
        f"{name} cannot be used to classify images: {reason}",
        instead="Choose another network, such as resnet18, convnext_atto or vit_tiny_patch16_224.",
    )


def check_size(blueprint: Blueprint, image_size: int) -> None:
    """Tries the image size on the network's shadow.

    Raises:
        RecipeError: With the nearest sizes that work, when this one does not.
    """
    obstacle = blueprint.obstacle(image_size)
    if not obstacle:
        return
    general = blueprint.obstacle(blueprint.default_size)
    if general:
        raise _unusable(blueprint.name, general)
    name, default = blueprint.name, blueprint.default_size
    if blueprint.fixed_size:
        sizes = [str(size) for size in _nearest_sizes(blueprint, image_size)]
        instead = (
            f"Sizes near it that work: {' and '.join(sizes)}." if sizes else f"It was made for {default}."
        )
    elif image_size < default:
        smallest = _smallest_size(blueprint, image_size)
        instead = f"It needs at least {smallest} pixels a side; it was made for {default}."
    else:
        instead = f"It was made for {default}."
    raise RecipeError(
        f"{name} cannot take images of {image_size} x {image_size} pixels: {obstacle}", instead=instead
    )


def _smallest_size(blueprint: Blueprint, too_small: int) -> int:
    """By halving the interval between a size that fails and the one it was made for."""
    works, shadow = blueprint.default_size, blueprint.shadow(blueprint.default_size)
    while works - too_small > 1:
        middle = (works + too_small) // 2
        if _obstacle(shadow, middle):
            too_small = middle
        else:
            works = middle
    return works


def _nearest_sizes(blueprint: Blueprint, image_size: int) -> list[int]:
    """The nearest size below and the nearest above that work, among whole numbers of patches."""
    patch = _patch_size(blueprint.shadow(blueprint.default_size))
    step = patch if patch > 1 else STEP
    first = image_size // step * step
    below = (
        size for size in range(first, max(first - FARTHEST * step, 0), -step) if not blueprint.obstacle(size)
    )
    above = (
        size for size in range(first + step, first + FARTHEST * step, step) if not blueprint.obstacle(size)
    )
    return [size for size in (next(below, None), next(above, None)) if size is not None]


def network_card(name: str) -> PretrainedCfg:
    """Timm's card of a network: input size, mean and std, weights.

    Raises:
        RecipeError: When there is no such network, or no such tag of it.
    """
    if ":" in name or "/" in name:
        raise RecipeError(
            f"model.name={name!r} is an address, not the name of a network",
            instead="Name the network (such as resnet18), and a file of weights with model.weights=PATH.",
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = suggestion(architecture, [*OWN, *timm.list_models()])
        raise RecipeError(
            f"there is no network called {architecture!r}{near}",
            instead=f"Name {', '.join(OWN)} or any of timm's networks: resnet18, convnext_atto, "
            "vit_tiny_patch16_224, ...",
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise RecipeError(
            f"{architecture} has no pretrained weights called {tag!r}{suggestion(tag, tags)}",
            instead=f"Leave the tag out{', or choose one of ' if tags else ''}{', '.join(tags)}.",
        )
    return timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
