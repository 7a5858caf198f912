"""The linear probe: heads with different settings, trained at once over cached features; the best is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import nn

from pictune.data.loading import Batches
from pictune.data.sample import Annotation
from pictune.models.boundary import Cut, cut, read_input
from pictune.models.freezing import EVERYTHING_BELOW, freeze_layers, frozen_tensors, head_modules
from pictune.models.losses import LOSSES
from pictune.recipe_sections import Choice
from pictune.recipes import Recipe
from pictune.tasks.task import Task
from pictune.training.heads import HeadSetting, TrainedHeads, train_heads
from pictune.training.schedules import SCHEDULES
from pictune.verbs.transferring import Loaders, Place, as_features, backbone_of

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
DECAYS = (0.01, 0.3)
SMOOTHINGS = (0.0, 0.1)
VARIED = ("learning_rate", "weight_decay", "label_smoothing")
PROBE_DECAY = 0.01  # where the probe comes before fine-tuning, whose own settings say nothing about it
PROBE_RATE = 1e-3


@dataclass(frozen=True)
class Probed:
    """What the probe found.

    Args:
        rows: One a setting, best first: the setting, its numbers on the validation pictures.
        weight: Of the best head, [k, d].
        bias: Of the best head, [k].
    """

    rows: tuple[dict[str, float], ...]
    weight: torch.Tensor
    bias: torch.Tensor

    def sentence(self, select_by: str) -> str:
        """What the probe found, for people."""
        best, worst = self.rows[0], self.rows[-1]
        setting = ", ".join(f"{name.replace('_', ' ')} {best[name]:g}" for name in VARIED if name in best)
        return (
            f"Probe: {len(self.rows)} heads, validation {select_by.replace('_', ' ')} "
            f"{worst[f'val_{select_by}']:.3f} to {best[f'val_{select_by}']:.3f}; best with {setting}."
        )


def open_settings(recipe: Recipe) -> tuple[str, ...]:
    """Which settings of the head the user left open, and the probe may choose."""
    given = set(recipe.optimizer.settings) if recipe.optimizer.name == "auto" else {*VARIED[:2]}
    given |= set(recipe.loss.settings) if recipe.loss.name == "auto" else {VARIED[2]}
    return tuple(name for name in VARIED if name not in given)


def grid(recipe: Recipe, open_: Collection[str], *, most: int) -> list[dict[str, float]]:
    """The settings to try: those left open vary, the others stay as the recipe has them."""
    own: dict[str, Any] = {**recipe.optimizer.settings, **recipe.loss.settings}
    smooths = "label_smoothing" in LOSSES[recipe.loss.name].settings
    choices = {"learning_rate": RATES, "weight_decay": DECAYS}
    choices |= {"label_smoothing": SMOOTHINGS} if smooths else {}
    values = {name: tried if name in open_ else (own[name],) for name, tried in choices.items()}
    rows = [dict(zip(values, row, strict=True)) for row in product(*values.values())]
    standard = {name: own[name] for name in values}
    return [standard, *(row for row in rows if row != standard)][:most]


def probe_cut(network: nn.Module, *, image_size: int) -> Cut | None:
    """The network cut below its head; None where it cannot be, or the head is more than one linear layer."""
    backbone = backbone_of(network)
    modules = head_modules(backbone)
    if len(modules) != 1 or type(backbone.get_submodule(modules[0])) is not nn.Linear:
        return None
    learning = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    freeze_layers(backbone, frozen_tensors(backbone, EVERYTHING_BELOW))
    try:
        return cut(network, image_size=image_size)
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad = learning[name]


def probe(
    made: Cut,
    loaders: Loaders,
    recipe: Recipe,
    place: Place,
    *,
    task: Task,
    truths: Sequence[Annotation | None],
    class_weights: torch.Tensor | None,
    settings: Sequence[dict[str, float]],
    epochs: int,
    views: int,
) -> Probed:
    """Trains a head for every setting and judges each on the validation pictures.

    Args:
        made: The network, cut below its head.
        loaders: Pictures.
        recipe: For loss, schedule, clipping and what the best is chosen by.
        place: Where and how features are computed.
        task: Reads the answers.
        truths: Of all pictures.
        class_weights: [k] of the loss, or None.
        settings: One a head.
        epochs: How many.
        views: Augmented views that take turns; 0 for the clean one.

    Raises:
        StoppedError: When a signal came.
    """
    features = as_features(made, loaders, place, views=views, keep=True)
    head = made.above.get_submodule(_head_of(made))
    assert isinstance(head, nn.Linear), "the network was cut below one linear layer"
    losses: dict[float, Any] = {}
    heads = [_setting(row, recipe, losses, class_weights) for row in settings]
    trained = train_heads(
        heads,
        weight=head.weight.detach().float(),
        bias=_bias(head),
        batches=_pooled(made, features.train, place),
        epochs=epochs,
        steps=len(features.train),
        schedule=SCHEDULES[recipe.schedule.name].make(**recipe.schedule.settings),
        clip=recipe.training.clip,
        seed=recipe.training.seed,
        stop=place.stop,
    )
    numbers = _judged(trained, made, features.val, place, task, truths)
    return _ranked(trained, settings, numbers, recipe.training.select_by)


def _head_of(made: Cut) -> str:
    """Name of the last layer in the part above the cut."""
    return f"network.backbone.{head_modules(made.above.get_submodule('network.backbone'))[0]}"


def _bias(head: nn.Linear) -> torch.Tensor:
    return torch.zeros(head.out_features) if head.bias is None else head.bias.detach().float()


def _setting(
    row: dict[str, float], recipe: Recipe, losses: dict[float, Any], class_weights: torch.Tensor | None
) -> HeadSetting:
    smoothing = row.get("label_smoothing", -1.0)
    if smoothing not in losses:
        own = dict(recipe.loss.settings) | ({"label_smoothing": smoothing} if smoothing >= 0 else {})
        losses[smoothing] = LOSSES[recipe.loss.name].make(**own)
    return HeadSetting(
        learning_rate=row["learning_rate"],
        weight_decay=row["weight_decay"],
        loss=losses[smoothing],
        dropout=recipe.model.dropout,
        class_weights=class_weights,
    )


def _pooled(
    made: Cut, loader: Batches, place: Place
) -> Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Batches of what goes into the head, and targets."""
    device = place.machine.device

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in loader.batches(epoch):
            features, targets = torch.from_numpy(batch.images), torch.from_numpy(batch.targets)
            yield _into_head(made, features.to(device)), targets.to(device)

    return batches


def _into_head(made: Cut, features: torch.Tensor) -> torch.Tensor:
    made.above.eval()  # dropout is the heads' own
    with torch.no_grad():
        return read_input(made.above, _head_of(made), features)


def _judged(
    trained: TrainedHeads,
    made: Cut,
    val: Batches,
    place: Place,
    task: Task,
    truths: Sequence[Annotation | None],
) -> list[dict[str, float] | None]:
    """The task's quick numbers of every head; None for one that diverged."""
    answers = []
    for batch in val.batches():
        with torch.no_grad():
            inside = _into_head(made, torch.from_numpy(batch.images).to(place.machine.device))
            outputs = trained.outputs(inside)
            rows = np.stack(task.read(outputs.flatten(0, 1)))
            answers.append(rows.reshape(*outputs.shape[:2], -1))
    scores = np.concatenate(answers, axis=1)
    keys = [str(position) for position in val.positions]
    known = [truths[int(position)] for position in val.positions]
    finite = trained.finite.tolist()
    return [
        task.quick(task.score(keys, scores[number], known, None)) if finite[number] else None
        for number in range(len(scores))
    ]


def _ranked(
    trained: TrainedHeads,
    settings: Sequence[dict[str, float]],
    numbers: Sequence[dict[str, float] | None],
    select_by: str,
) -> Probed:
    rows = [
        (number, {**row, **{f"val_{k}": v for k, v in found.items()}})
        for number, (row, found) in enumerate(zip(settings, numbers, strict=True))
        if found is not None
    ]
    assert rows, "the smallest of the rates does not diverge"
    sign = -1.0 if select_by == "log_loss" else 1.0
    rows.sort(key=lambda item: (-sign * item[1][f"val_{select_by}"], item[1]["val_log_loss"]))
    best = rows[0][0]
    return Probed(tuple(row for _, row in rows), trained.weight[best], trained.bias[best])


def take_over(network: nn.Module, probed: Probed) -> None:
    """Puts the best head into the network, in place."""
    backbone = backbone_of(network)
    head = backbone.get_submodule(head_modules(backbone)[0])
    assert isinstance(head, nn.Linear), "the network was cut below one linear layer"
    with torch.no_grad():
        head.weight.copy_(probed.weight)
        if head.bias is not None:
            head.bias.copy_(probed.bias)


def with_best(recipe: Recipe, best: Mapping[str, float]) -> Recipe:
    """The recipe with the settings that won.

    Args:
        recipe: As it was.
        best: The first row of what the probe found.
    """
    optimizer = {name: best[name] for name in VARIED[:2]}
    loss = {name: best[name] for name in VARIED[2:] if name in best}
    return recipe.with_values(
        optimizer=Choice(recipe.optimizer.name, {**recipe.optimizer.settings, **optimizer}),
        loss=Choice(recipe.loss.name, {**recipe.loss.settings, **loss}),
    )


def for_fine_tuning(recipe: Recipe) -> Recipe:
    """The recipe as the probe before fine-tuning reads it: rates and decay of its own."""
    own = {**recipe.optimizer.settings, "learning_rate": PROBE_RATE, "weight_decay": PROBE_DECAY}
    return replace(recipe, optimizer=Choice("adamw", own))
