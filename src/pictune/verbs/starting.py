"""The beginning of `train`: from what was asked for to everything settled and the network at its start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pictune.models.backbones import describe
from pictune.models.weights import Weights, find_weights
from pictune.recipes import Recipe
from pictune.tasks.specification import Specification
from pictune.training.job import Watcher
from pictune.training.machine import Machine
from pictune.verbs import reading, settling
from pictune.verbs.lessons import WATCHED, teacher_of, told_by_teacher
from pictune.verbs.preparing import Prepared, check_enough, first_network, open_named, specify
from pictune.verbs.probing import open_settings as open_settings_of
from pictune.verbs.transferring import SHOWN, settle_reading


@dataclass(frozen=True)
class Start:
    """What a training begins with; nothing of it is written down yet.

    Args:
        prepared: The settled recipe, the opened and split pictures, the weights, the arithmetic.
        machine: Where.
        network: Before its first step, shaped by its technique.
        specification: Of the model.
        reasons: Why a setting was chosen, by ``section.setting``.
    """

    prepared: Prepared
    machine: Machine
    network: nn.Module
    specification: Specification
    reasons: Mapping[str, str]


def prepare(path: Path, asked: Recipe, *, watcher: Watcher, progress: reading.Progress | None) -> Start:
    """Opens the pictures, settles what was left open, and builds the network.

    Args:
        path: A folder of class folders, or a table of paths and labels.
        asked: The recipe as the user gave it.
        watcher: Is told how it goes.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        InputError: When the data, the recipe or the weights cannot be used as asked.
        MachineError: When disk or memory ran out.
    """
    begun = time.monotonic()
    machine = Machine(device=asked.training.device, threads=asked.training.threads)
    gpu = machine.device.type == "cuda"
    # First what costs nothing: no weights are fetched for data, or a network, that are not there
    named = reading.read_named(path, asked.data)
    recipe, weights, reasons = _network_and_weights(asked, gpu=gpu)
    watcher.say(weights.sentence)
    recipe, ingested, sized = open_named(
        named, recipe, machine, watcher, scratch=weights.kind in {"none", "starter"}, progress=progress
    )
    clusters = reading.look_alikes(ingested, near=recipe.split.near_duplicates)
    dataset = reading.split_pictures(ingested, recipe, clusters)
    check_enough(dataset)
    teacher_of(recipe, dataset, machine)  # a mistake is told before a run is begun
    for finding in (doubts := told_by_teacher(recipe, dataset)):
        watcher.say(finding.message)
    dataset = replace(dataset, findings=(*dataset.findings, *doubts))
    open_settings = open_settings_of(recipe)
    recipe, more = settling.settle_training(recipe, dataset, gpu=gpu, start=weights.kind)
    specification = specify(recipe, dataset, weights)
    network = first_network(recipe, specification, weights)
    width, height = specification.canvas
    trial = torch.zeros(min(8, int(recipe.training.batch_size)), height, width, 3)
    arithmetic = machine.choose(
        network,
        trial.to(torch.uint8),
        precision=recipe.training.precision,
        memory_format=recipe.training.memory_format,
    )
    recipe = recipe.with_values(
        training={"precision": arithmetic.precision, "memory_format": arithmetic.memory_format}
    )
    counts = (len(dataset.splits["train"]), len(dataset.splits["val"]) + WATCHED)
    reads, why = settle_reading(recipe, network, counts=counts)
    chosen = {**reasons, **sized, **more, "training.precision": arithmetic.reason}
    chosen |= {"transfer.cache": f"epochs read {SHOWN[reads]}: {why}"}
    if weights.kind == "none" and not all(p.requires_grad for p in network.parameters()):
        watcher.say("The frozen layers are at random and will stay so; name weights with --weights.")
    seconds = 0.0
    if asked.training.minutes:
        recipe, seconds, cut_short = settling.settle_time(
            recipe,
            dataset,
            seconds=60 * asked.training.minutes - (time.monotonic() - begun),
            per_image=machine.seconds_per_image(network, trial.to(torch.uint8), arithmetic),
            given=asked.training.epochs != "auto",
            cached=reads == "cached",
        )
        chosen |= cut_short
        for reason in cut_short.values():
            watcher.say(f"{reason.removeprefix('auto: ').capitalize()}.")
    cycles = (int(recipe.training.epochs),)
    prepared = Prepared(recipe, dataset, ingested, weights, arithmetic, cycles, open_settings, reads, seconds)
    return Start(prepared, machine, network, specification, chosen)


def _network_and_weights(asked: Recipe, *, gpu: bool) -> tuple[Recipe, Weights, settling.Reasons]:
    """Which network, from which weights, and why; a network that is named must be there."""
    model = asked.model
    if model.name != "auto":
        describe(model.name)
    allowed = {model.allow_licence} if model.allow_licence else set()
    return settling.settle_network(
        asked,
        gpu=gpu,
        find=lambda network: find_weights(model.weights, network=network, allow_licence=allowed),
    )
