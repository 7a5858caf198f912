"""`layers`: a network's groups of layers, their sizes, and what a setting would train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pictune.models.blueprint import draw_blueprint
from pictune.models.freezing import frozen_tensors, layer_groups

CLASSES = 10  # of the head that is shown; its real size follows from the data


@dataclass(frozen=True, slots=True)
class Row:
    """One group of layers.

    Args:
        name: As ``--freeze`` takes it.
        parameters: How many numbers it holds.
        learning: How many of them learn.
    """

    name: str
    parameters: int
    learning: int


@dataclass(frozen=True, slots=True)
class Layers:
    """A network's groups of layers, from the input to the head.

    Args:
        model: The network's name.
        freeze: What is frozen.
        groups: In order.
    """

    model: str
    freeze: str
    groups: Sequence[Row]

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, ready for JSON."""
        return [
            {"number": number, "name": row.name, "parameters": row.parameters, "learning": row.learning}
            for number, row in enumerate(self.groups, start=1)
        ]

    def summary(self) -> str:
        """A table for people."""
        wide = max(len(row.name) for row in self.groups)
        total = sum(row.parameters for row in self.groups)
        learning = sum(row.learning for row in self.groups)
        lines = [f"{self.model}, with a head for {CLASSES} classes", ""]
        lines.append(
            f"      {'group':<{wide}}  {'parameters':>12}  {'share':>6}  with --freeze {self.freeze}"
        )
        for number, row in enumerate(self.groups, start=1):
            state = (
                "learns" if row.learning == row.parameters else "frozen" if not row.learning else "in part"
            )
            share = row.parameters / total
            lines.append(f"  {number:>2}  {row.name:<{wide}}  {row.parameters:>12,}  {share:>6.1%}  {state}")
        lines += [
            "",
            f"{learning:,} of {total:,} parameters learn ({learning / total:.1%}).",
            f"Freeze with --freeze backbone (all but the head), a number from 1 to {len(self.groups) - 1}, "
            "the name of a layer (with all before it), or a pattern such as 'layer[12].*'.",
        ]
        return "\n".join(lines)


def layers(model: str, *, freeze: str = "none", fine: bool = False) -> Layers:
    """A network's groups of layers and what a setting would train.

    Args:
        model: ``cnn``, ``resnet9`` or any timm backbone.
        freeze: As in `train`.
        fine: Blocks instead of stages.

    Raises:
        RecipeError: When there is no such network, or what is to be frozen is not there.
    """
    blueprint = draw_blueprint(model, dropout=0.0, stochastic_depth=0.0)
    with torch.device("meta"):  # shapes without memory
        network = blueprint.make(CLASSES, image_size=blueprint.default_size)
    frozen = frozen_tensors(network, freeze)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    rows = [
        Row(group.name, group.parameters, sum(sizes[n] for n in group.tensors if n not in frozen))
        for group in layer_groups(network, fine=fine)
    ]
    return Layers(model, freeze, rows)
