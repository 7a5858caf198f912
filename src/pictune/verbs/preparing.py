"""Everything settled before the weights move, and how it is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pictune.data.decoding import decode
from pictune.data.finding import Outcome
from pictune.data.ingest import Ingested
from pictune.data.sample import Dataset
from pictune.errors import DataError
from pictune.models.backbones import describe
from pictune.models.freezing import NOTHING, reinitialise
from pictune.models.hub import sha256_of
from pictune.models.weights import Weights
from pictune.recipe_sections import DataSection
from pictune.recipes import Recipe
from pictune.run import Run
from pictune.tasks.kinds import KINDS, Rates
from pictune.tasks.specification import Specification, side_of
from pictune.training.job import Watcher
from pictune.training.machine import Arithmetic, Machine
from pictune.verbs import reading, settling
from pictune.verbs.judging import versions
from pictune.verbs.transferring import Reading, backbone_of, shape_network, technique_of

PROBED = 24  # pictures opened beforehand to learn how large they are


@dataclass(frozen=True)
class Prepared:
    """Everything settled before the weights move; written to the run, so that it is settled once."""

    recipe: Recipe
    dataset: Dataset
    ingested: Ingested
    weights: Weights
    arithmetic: Arithmetic
    cycles: tuple[int, ...]
    open_settings: tuple[str, ...] = ()  # of the head, for the probe to choose
    reading: Reading = "pixels"  # what epochs read
    seconds: float = 0.0  # that training may take; 0 for no limit


def open_named(
    named: Dataset,
    recipe: Recipe,
    machine: Machine,
    watcher: Watcher,
    *,
    scratch: bool,
    progress: reading.Progress | None,
) -> tuple[Recipe, Ingested, dict[str, str]]:
    """Opens the pictures that were named; the image size must be chosen before they are stored."""
    gpu = machine.device.type == "cuda"
    recipe, reasons = settling.settle_size(recipe, _probed(named, recipe.data), gpu=gpu, scratch=scratch)
    side = side_of(min(canvas_of(recipe)))
    ingested = reading.open_pictures(
        named, recipe.data, side=side, threads=machine.threads, progress=progress
    )
    found = ingested.dataset
    left_out = Counter(finding.code for finding in found.findings if finding.outcome is Outcome.QUARANTINE)
    listed = ", ".join(f"{count:,} {code}" for code, count in left_out.most_common())
    watcher.say(
        f"{len(found):,} pictures, {len(found.classes)} classes ({found.format})"
        + (f"; left out: {listed}." if left_out else ".")
    )
    return recipe, ingested, reasons


def canvas_of(recipe: Recipe) -> tuple[int, int]:
    """Width and height of what the network sees, pixels, once they are settled."""
    width = int(recipe.model.image_size)
    return width, int(recipe.model.height) or width


def _probed(dataset: Dataset, data: DataSection) -> Dataset:
    """A few pictures with their sizes, to choose an image size before all are opened."""
    step = max(1, len(dataset) // PROBED)
    sized = []
    for sample in dataset.samples[::step]:
        try:
            pixels = decode(sample.path, limits=reading.limits_of(data), value_range=data.value_range).pixels
        except DataError:
            continue  # it is reported with all others when they are opened
        sized.append(replace(sample, width=pixels.shape[1], height=pixels.shape[0]))
    return replace(dataset, samples=tuple(sized), splits={})


def check_enough(dataset: Dataset) -> None:
    """Refuses what no model can be learnt from."""
    kind = KINDS[dataset.task]
    if not dataset.classes:
        raise DataError(
            "no picture has a label",
            code="no_label",
            instead=f"{dataset.task.capitalize()} needs pictures with {kind.unit}; there are none at all.",
        )
    if len(dataset.classes) < kind.least_classes and not dataset.multilabel:
        raise DataError(
            f"there is only one class: {', '.join(dataset.classes) or 'none'}",
            code="one_class",
            instead="Classification needs pictures of at least two classes, each in its own folder.",
        )
    if not dataset.splits.get("train") or not dataset.splits.get("val"):
        raise DataError(
            "there are too few pictures for a training and a validation split",
            code="too_few",
            causes=[f"{name}: {n}" for name, n in dataset.count().items()],
            instead="Collect more pictures of each class, or lower split.test and split.val.",
        )


def specify(recipe: Recipe, dataset: Dataset, weights: Weights) -> Specification:
    """Everything about the model that is known before it is trained."""
    card = describe(recipe.model.name)
    return Specification(
        task=dataset.task,
        classes=dataset.classes,
        network=recipe.model.name,
        image_size=int(recipe.model.image_size),
        fit=recipe.model.fit,
        head="" if recipe.model.head == "none" else recipe.model.head,
        mean=tuple(card.mean),
        std=tuple(card.std),
        multilabel=dataset.multilabel,
        height=int(recipe.model.height),
        origin=weights.sentence,
        licence=weights.licence,
    )


def first_network(recipe: Recipe, specification: Specification, weights: Weights) -> nn.Module:
    """The network before its first step, shaped by its technique; the same for the same seed.

    Raises:
        RecipeError: When the technique cannot be carried out as asked.
    """

    def made(weights: Weights | None) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.training.seed)
            rates = Rates(recipe.model.dropout, recipe.model.stochastic_depth)
            return KINDS[specification.task].network(specification, rates, weights)

    network = made(weights)
    if recipe.transfer.reinitialise:
        reinitialise(backbone_of(network), backbone_of(made(None)), blocks=recipe.transfer.reinitialise)
    shape_network(network, recipe)
    return network


def needs_weights(recipe: Recipe) -> bool:
    """Whether a run that goes on needs the weights it began with; its checkpoint may lack what was frozen."""
    technique = technique_of(recipe)
    still = technique.head_only or technique.adapters is not None or recipe.transfer.freeze != NOTHING
    return still or recipe.transfer.l2_sp > 0


def splits_record(dataset: Dataset) -> dict[str, Any]:
    """What splits.json holds: which picture is in which split, what was noticed, and what is learnt from.

    ``learnt_from`` holds the checksums of all pictures that train the model or choose its weights.
    """
    learnt = [i for name, rows in dataset.splits.items() if name != "test" for i in rows]
    return {
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "learnt_from": sorted({dataset.samples[i].checksum for i in learnt}),
        "splits": {name: [dataset.samples[i].key for i in rows] for name, rows in dataset.splits.items()},
        "findings": reading.finding_rows(dataset.findings),
    }


def teacher_checksum(recipe: Recipe) -> str | None:
    """SHA-256 of what vouches for the teacher's weights; None where the recipe names no teacher."""
    teacher = recipe.transfer.teacher
    return None if teacher is None else sha256_of(Run(Path(teacher)).model / "model.json")


def made_by_record(
    path: Path, question: str, prepared: Prepared, reasons: Mapping[str, str], machine: Machine
) -> dict[str, Any]:
    """What made_by.json holds: where everything came from, and what was chosen why."""
    weights = prepared.weights
    return {
        "data": str(path.resolve()),
        "asked": question,
        "fingerprint": prepared.dataset.fingerprint,
        "weights": {
            "kind": weights.kind,
            "source": weights.source,
            # Absolute, so that it goes on from anywhere; links stay, as their names tell the kind of file.
            "path": str(weights.path.absolute()) if weights.path else None,
            "sha256": weights.sha256,
            "licence": weights.licence,
            "sentence": weights.sentence,
        },
        "teacher": teacher_checksum(prepared.recipe),
        "chosen": dict(reasons),
        "cycles": list(prepared.cycles),
        "open": list(prepared.open_settings),
        "reading": prepared.reading,
        "seconds": prepared.seconds,
        "device": str(machine.device),
        "threads": machine.threads,
        "versions": versions(),
    }
