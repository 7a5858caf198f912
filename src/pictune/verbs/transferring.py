"""How a technique is carried out: what learns, where the network is cut, and what is read from the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from pictune.data.loading import Batches, Loader
from pictune.errors import RecipeError
from pictune.files import cache_folder
from pictune.models.boundary import Cut, cut
from pictune.models.freezing import (
    EVERYTHING_BELOW,
    NOTHING,
    freeze_layers,
    frozen_tensors,
    head_modules,
    head_tensors,
    layer_groups,
)
from pictune.models.lora import add_lora
from pictune.models.map_cut import cut_maps
from pictune.models.statistics import measure_statistics
from pictune.recipes import Recipe
from pictune.training.feature_folder import room
from pictune.training.feature_store import FeatureEntry, FeatureOverflowError, feature_key
from pictune.training.features import ComputedFeatures, FeatureLoader, Pass, fill
from pictune.training.job import Watcher
from pictune.training.machine import Machine
from pictune.training.techniques import TECHNIQUES, Technique, layer_rates, thawing

LARGEST = (
    4  # an activation of more numbers than this many times the pixels costs more to read than to compute
)
LARGEST_MAPS = 8  # likewise; an encoder takes longer for a picture, all maps of which are kept
GIGABYTE = 10**9
MEASURED, MEASURED_AT_ONCE = 512, 64  # pictures that tell normalisation statistics; and how many a batch

Reading = Literal["cached", "computed", "pixels"]
SHOWN = {"cached": "cached features", "computed": "features, computed each time", "pixels": "pictures"}


@dataclass(frozen=True)
class Loaders:
    """Where training pictures come from, validation pictures, and the training pictures that are watched."""

    train: Batches
    val: Batches
    seen: Batches


@dataclass(frozen=True)
class Place:
    """What every pass through frozen layers needs to know.

    Args:
        machine: Where.
        precision: In which arithmetic.
        store: Name of the pixel store, which stands for the pictures.
        network: Name of the network.
        look: What identifies the clean view: size and fit.
        varied: What identifies an augmented view, beside its number.
        folder: Where features are kept.
        rows: How many pictures the dataset has.
        watcher: Is told how it goes.
        stop: Gives the signal that asks to stop, or 0.
    """

    machine: Machine
    precision: str
    store: str
    network: str
    look: str
    varied: str
    folder: Path
    rows: int
    watcher: Watcher
    stop: Callable[[], int]


def technique_of(recipe: Recipe) -> Technique:
    """The technique that a settled recipe names."""
    return TECHNIQUES[recipe.technique.name].make(**recipe.technique.settings)


def backbone_of(network: nn.Module) -> nn.Module:
    """The network without its preprocessing."""
    return network.get_submodule("backbone")


def shape_network(network: nn.Module, recipe: Recipe) -> None:
    """Freezes what the recipe says, or adds adapters, in place.

    Raises:
        RecipeError: When what is named is not there, or two wishes contradict.
    """
    technique, freeze, backbone = technique_of(recipe), str(recipe.transfer.freeze), backbone_of(network)
    if technique.adapters is not None:
        if freeze != NOTHING:
            raise RecipeError(
                f"transfer.freeze={freeze} contradicts technique.name=lora, which freezes every layer itself",
                instead="Name the layers that get adapters with technique.targets.",
            )
        add_lora(
            backbone,
            rank=technique.adapters.rank,
            alpha=technique.adapters.alpha,
            targets=technique.adapters.targets,
            keep=head_modules(backbone),
            seed=recipe.training.seed,
        )
        return
    if freeze == EVERYTHING_BELOW and not technique.head_only:
        raise RecipeError(
            f"transfer.freeze=backbone leaves the head alone to learn, and technique.name="
            f"{recipe.technique.name} trains more than that",
            instead="Leave the technique out, or say technique.name=head; or freeze less.",
        )
    if technique.head_only and recipe.transfer.layer_decay != 1:
        raise RecipeError(
            f"transfer.layer_decay={recipe.transfer.layer_decay:g} slows lower layers, and with "
            "technique.name=head none of them learns",
            instead="Leave it out, or choose another technique.",
        )
    if technique.head_only and freeze not in {NOTHING, EVERYTHING_BELOW}:
        raise RecipeError(
            f"transfer.freeze={freeze} contradicts technique.name=head, which freezes all but the head",
            instead="Use technique.name=full to freeze a part.",
        )
    wish = EVERYTHING_BELOW if technique.head_only else freeze
    freeze_layers(backbone, frozen_tensors(backbone, wish))


def measure_on(network: nn.Module, train: Loader, place: Place) -> int:
    """Measures normalisation statistics on training pictures as training sees them, in place.

    Args:
        network: Shaped by its technique; what is frozen keeps its statistics.
        train: Training pictures, augmented.
        place: Where, and in which arithmetic.

    Returns:
        How many layers were measured.
    """
    # The same pictures whatever the seed, so that runs still share the features of the probe
    loader = replace(train, batch_size=min(MEASURED_AT_ONCE, len(train.positions)), mix=None, seed=0)

    def pictures() -> Iterator[torch.Tensor]:
        for batch in islice(loader.batches(), MEASURED // MEASURED_AT_ONCE):
            yield torch.from_numpy(batch.images).to(place.machine.device)

    with place.machine.autocast(place.precision):
        return measure_statistics(network, pictures())


def views_of(recipe: Recipe) -> int:
    """How many augmented views of a picture take turns; 0 where it is seen as it is, or ever anew."""
    return 0 if recipe.augmentation.preset == "none" else int(recipe.transfer.views)


def rates_of(network: nn.Module, recipe: Recipe) -> dict[str, float]:
    """Each tensor's share of the highest rate, by its name in the whole network."""
    if recipe.transfer.layer_decay == 1:
        return {}
    groups = layer_groups(backbone_of(network), fine=True)
    rates = layer_rates(groups, decay=recipe.transfer.layer_decay)
    return {f"backbone.{name}": rate for name, rate in rates.items()}


def waiting_of(network: nn.Module, technique: Technique, epochs: int) -> Callable[[int], frozenset[str]]:
    """Which tensors still wait in an epoch, by their names in the whole network."""
    if not technique.thawed_by:
        return lambda epoch: frozenset()
    waiting = thawing(layer_groups(backbone_of(network)), thawed_by=technique.thawed_by, epochs=epochs)
    return lambda epoch: frozenset(f"backbone.{name}" for name in waiting(epoch))


def anchors_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """What the layers below the head start from, by name in the backbone: where L2-SP pulls them back to."""
    backbone = backbone_of(network)
    head = head_tensors(backbone)
    return {name: p.detach().clone() for name, p in backbone.named_parameters() if name not in head}


def cut_network(network: nn.Module, recipe: Recipe) -> Cut | None:
    """The network in two, where nothing below learns; None where it cannot be cut."""
    width = int(recipe.model.image_size)
    if recipe.model.head == "none":
        return cut(network, image_size=width)
    return cut_maps(network, canvas=(width, int(recipe.model.height) or width))


def settle_reading(recipe: Recipe, network: nn.Module, *, counts: tuple[int, int]) -> tuple[Reading, str]:
    """What epochs read, and why; decided once, and kept with the run.

    Args:
        recipe: Settled otherwise.
        network: Shaped by its technique.
        counts: How many training pictures, and how many others, are looked at.

    Returns:
        ``cached`` features, features ``computed`` each time (the same numbers, where they may not or
        cannot be kept), or ``pixels``.
    """
    transfer, size, views = recipe.transfer, int(recipe.model.image_size), int(recipe.transfer.views)
    height = int(recipe.model.height) or size
    obstacle = _obstacle(recipe, network)
    if obstacle:
        return "pixels", obstacle
    made = cut_network(network, recipe)
    if made is None:
        return "pixels", "nothing lies below all that learns"
    numbers = int(np.prod(made.shape))
    if numbers > (LARGEST if recipe.model.head == "none" else LARGEST_MAPS) * 3 * size * height:
        return "pixels", f"what {_plain(made)} gives is larger than the pictures"
    if not transfer.cache:
        return "computed", "as given"
    wanted = 2 * numbers * (max(views, 1) * counts[0] + counts[1])
    free = room(feature_folder(), limit_bytes=int(transfer.cache_gigabytes * GIGABYTE))
    if wanted > free:
        told = f"it would take {wanted / GIGABYTE:.1f} GB, and {free / GIGABYTE:.1f} GB are left for it"
        return "computed", told
    return "cached", f"{_plain(made)} and all below is computed once: {wanted / GIGABYTE:.2g} GB"


def _obstacle(recipe: Recipe, network: nn.Module) -> str:
    """Why features cannot stand for pictures in this recipe, or gain nothing; empty when they may."""
    views, epochs = int(recipe.transfer.views), int(recipe.training.epochs)
    if all(parameter.requires_grad for parameter in network.parameters()):
        return "no layer is frozen"
    for part in (recipe.mixing, recipe.composition):
        if part.name != "none":
            return f"{part.name} makes new pictures at every step"
    if recipe.transfer.teacher is not None:
        return "the teacher must see the pictures"
    if recipe.training.first_size is not None:
        return "the size of the pictures changes"
    if recipe.augmentation.preset != "none" and not views:
        return "every epoch sees new views; with transfer.views they would take turns"
    return f"{epochs} epochs look at each view once" if epochs <= max(views, 1) else ""


def _plain(made: Cut) -> str:
    return made.module.removeprefix("backbone.")


def feature_folder() -> Path:
    """Where cached features are kept."""
    return cache_folder() / "features"


def as_features(made: Cut, loaders: Loaders, place: Place, *, views: int, keep: bool) -> Loaders:
    """The same pictures as features.

    Args:
        made: The network, cut.
        loaders: Pictures.
        place: Where and how.
        views: Of the training pictures; 0 for the clean one.
        keep: Whether they are computed where they are not there yet, and kept; otherwise each time.
    """
    through = Pass(made.below, place.machine.device, lambda: place.machine.autocast(place.precision))
    train, val, seen = loaders.train, loaders.val, loaders.seen
    if not keep:
        return Loaders(*(ComputedFeatures(loader, through) for loader in (train, val, seen)))
    assert isinstance(train, Loader), "training pictures are stored"
    assert isinstance(val, Loader), "validation pictures are stored"
    assert isinstance(seen, Loader), "watched pictures are stored"
    both = replace(val, positions=np.union1d(val.positions, seen.positions if views else train.positions))
    clean = _entry(made, through, both, place, view=None)
    looks = [_entry(made, through, train, place, view=number) for number in range(views)] or [clean]
    return Loaders(FeatureLoader(train, looks), FeatureLoader(val, [clean]), FeatureLoader(seen, [clean]))


def _entry(made: Cut, through: Pass, loader: Loader, place: Place, *, view: int | None) -> FeatureEntry:
    """One view's features, in half precision, or in bfloat16 where a value is too large for that."""
    look = "clean view" if view is None else f"augmented view {view + 1}"
    varied = "" if view is None else place.varied
    for dtype in ("float16", "bfloat16"):
        key = feature_key(
            weights=made.fingerprint,
            pixels=place.store,
            view=json.dumps([place.network, place.precision, place.look, varied, look]),
            dtype=dtype,
        )
        facts = {"network": place.network, "boundary": _plain(made), "view": look.removesuffix(" view")}
        entry = FeatureEntry.open(
            place.folder, key, rows=place.rows, shape=_stored(made.shape), dtype=dtype, facts=facts
        )
        left, started = len(entry.missing(loader.positions)), time.monotonic()
        if left:
            place.watcher.say(f"Computing features of {_plain(made)}, {look}: {left:,} pictures.")
        try:
            fill(entry, through, loader, view=view or 0, stop=place.stop)
        except FeatureOverflowError:
            entry.close()
            continue
        if left:
            place.watcher.say(f"They are kept in the cache ({time.monotonic() - started:.0f} s).")
        return entry
    raise AssertionError("bfloat16 holds every float32 but in digits")


def _stored(shape: Sequence[int]) -> tuple[int, ...]:
    """Feature maps lie on disk with their channels last, as convolutions like them."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else tuple(shape)
