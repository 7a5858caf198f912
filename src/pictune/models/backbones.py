"""Networks for classification: our own small ones, or any backbone of timm, by name.

Shapes: n images, 3 x s x s pixels, d pooled features, k outputs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn

from pictune.errors import WeightsError
from pictune.models.blueprint import (
    MISFIT,
    OWN_SIZE,
    Backbone,
    Blueprint,
    check_size,
    draw_blueprint,
    network_card,
)
from pictune.models.cnn import OWN
from pictune.models.hub import brief
from pictune.models.weights import Weights, differences, read_tensors

# These families of timm load weights without insisting that every layer is in the file; so we insist.
LENIENT = ("dla", "inception_v3", "mobilenetv5")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a network before it is built.

    Args:
        name: Its name, without a tag.
        parameters: How many numbers it learns, the last layer not counted.
        image_size: Pixels a side of the images it was made for.
        mean: Of each channel (R, G, B) of its input, on the scale 0 to 1.
        std: Of each channel, on the same scale.
        licence: Of its pretrained weights; None when nobody says or there are none.
        tag: Which pretrained weights, such as ``a1_in1k``; empty when there are none.
    """

    name: str
    parameters: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str | None
    tag: str


def build_network(
    name: str,
    *,
    outputs: int,
    image_size: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    weights: Weights | None = None,
) -> nn.Module:
    """Builds a network, with its first weights, that is known to work at this image size.

    Args:
        name: ``cnn``, ``resnet9``, or a name of timm's, with a tag (``resnet18.a1_in1k``) or without.
        outputs: How many numbers the last layer gives, at least 1.
        image_size: Pixels a side.
        dropout: Share of the pooled features set to zero while training, 0 up to 1.
        stochastic_depth: Share of the residual branches left out while training (the deepest one's
            share), 0 up to 1. Huang et al. 2016, arXiv 1603.09382.
        weights: What it starts from; None is at random.

    Returns:
        The network, in training mode, [n, 3, s, s] to [n, outputs]; it is a `Backbone`.

    Raises:
        RecipeError: For an unknown name, a size the network cannot take, or a rate it has no place for.
        WeightsError: When the weights are not of this network; lists what differs.
    """
    assert outputs >= 1, "a classifier has at least one output"
    blueprint = draw_blueprint(name, dropout=dropout, stochastic_depth=stochastic_depth)
    check_size(blueprint, image_size)
    if weights is None or weights.path is None:
        return blueprint.make(outputs, image_size=image_size).train()
    return _started(blueprint, weights, outputs=outputs, image_size=image_size).train()


def embed(network: nn.Module, images: Tensor) -> Tensor:
    """Pooled features just before the last layer.

    Args:
        network: What `build_network` made.
        images: [n, 3, h, w] as the network takes them.

    Returns:
        [n, d].
    """
    assert isinstance(network, Backbone), "features are asked of a backbone"
    return network.forward_head(network.forward_features(images), pre_logits=True).flatten(1)


def describe(name: str) -> Description:
    """What is known of a network: size, input, and where its pretrained weights come from.

    Raises:
        RecipeError: When there is no such network.
    """
    if name in OWN:
        parameters = _count(OWN[name](outputs=0))
        return Description(name, parameters, OWN_SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), None, "")
    card = network_card(name)
    with torch.device("meta"):  # shapes without memory: even a billion parameters are counted at once
        parameters = _count(timm.create_model(name, num_classes=0))
    published = bool(card.hf_hub_id)
    return Description(
        name=name.split(".", 1)[0],
        parameters=parameters,
        image_size=card.input_size[-1],
        mean=tuple(card.mean),
        std=tuple(card.std),
        licence=card.license if published else None,
        tag=(card.tag or "") if published else "",
    )


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _started(blueprint: Blueprint, weights: Weights, *, outputs: int, image_size: int) -> nn.Module:
    """The network with its layers from a file; the last one too if it is the user's own and fits.

    Raises:
        WeightsError: When the file is not of this network; lists what differs.
    """
    assert weights.path is not None
    tensors = read_tensors(weights.path)
    network, rows = _loaded(blueprint, tensors, file=weights.path.name, image_size=image_size)
    if weights.kind == "file":
        _check_complete(network, tensors, file=weights.path.name)
    if weights.kind == "file" and rows == outputs:
        return network
    log.info("%s: the last layer (%d outputs) is replaced by a new one (%d)", weights.source, rows, outputs)
    assert isinstance(network, Backbone)
    network.reset_classifier(outputs)
    return network


def _loaded(
    blueprint: Blueprint, tensors: dict[str, Tensor], *, file: str, image_size: int
) -> tuple[nn.Module, int]:
    """Builds the network with as many outputs as the file has, so that every single layer must match.

    Other projects name the last layer otherwise, and timm renames it while it reads. Then both none
    and the usual number of outputs are tried.
    """
    last = tensors.get(f"{blueprint.last_layer}.weight")
    candidates = (0, blueprint.default_outputs) if last is None else (last.shape[0],)
    first: Exception | None = None
    for rows in dict.fromkeys(candidates):
        try:
            # A copy, because timm takes entries out while it reads.
            return blueprint.make(rows, image_size=image_size, tensors=dict(tensors)), rows
        except MISFIT as error:
            first = first or error
    assert first is not None
    with torch.device("meta"):
        expected = blueprint.make(candidates[0], image_size=image_size).state_dict()
    raise WeightsError(
        f"the weights {file} are not of {blueprint.name}",
        causes=differences(tensors, expected) or [brief(first)],
        instead="Name the network that they were made with (model.name), or other weights.",
    ) from first


def _check_complete(network: nn.Module, tensors: dict[str, Tensor], *, file: str) -> None:
    """For the families that timm reads without insisting: every layer must have come from the file."""
    expected = network.state_dict()
    if type(network).__module__.rpartition(".")[2] in LENIENT and not expected.keys() <= tensors.keys():
        raise WeightsError(
            f"the weights {file} lack layers of the network",
            causes=differences(tensors, expected),
            instead="Name the network that they were made with (model.name), or other weights.",
        )
