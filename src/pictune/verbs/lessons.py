"""What a training run learns from: the task with its loss, the pictures, and a teacher if there is one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pictune.data.augmentation import (
    COMPOSITIONS,
    DENSE_PRESETS,
    MIXINGS,
    PRESETS,
    Augmentation,
    View,
    build_augmentation,
)
from pictune.data.finding import Finding, Outcome
from pictune.data.loading import Batches, Growing, Loader
from pictune.data.sample import Annotation, Dataset
from pictune.data.truths import Truths
from pictune.errors import RecipeError
from pictune.recipes import Recipe
from pictune.run import Run
from pictune.tasks.distillation import Teacher
from pictune.tasks.kinds import KINDS, Teaching
from pictune.tasks.model import Model
from pictune.tasks.specification import Specification
from pictune.tasks.task import Task
from pictune.training.machine import Machine
from pictune.verbs import settling
from pictune.verbs.weighing import class_weights, draw_weights

WATCHED = settling.WATCHED
GROWN_BY = 0.7  # share of the epochs after which pictures have their full size
MOST_CLASSES = 20  # named in one sentence
GROWTH = 16  # pixels a side by which they grow at least: more sizes would only cost time


@dataclass(frozen=True)
class Lesson:
    """Everything about the data that training asks for.

    Args:
        task: With its loss.
        train: Training pictures, augmented.
        val: Validation pictures, as they are.
        seen: Some training pictures, as they are.
        truths: Of all pictures.
        class_weights: [k] in the loss, or None.
        look: What identifies the clean view of a picture, for the cache.
        varied: What identifies an augmented view, beside its number.
        view: How a stored picture is looked at when nothing is left to chance.
    """

    task: Task
    train: Loader
    val: Loader
    seen: Loader
    truths: tuple[Annotation | None, ...]
    class_weights: torch.Tensor | None
    look: str
    varied: str
    view: View


def lesson_of(
    recipe: Recipe,
    dataset: Dataset,
    store: Sequence[Any],
    specification: Specification,
    machine: Machine,
) -> Lesson:
    """The lesson that a settled recipe describes.

    Raises:
        RecipeError: When the teacher does not know the classes.
        RunError: When there is no such teacher.
    """
    truths = tuple(sample.annotation for sample in dataset.samples)
    rows = np.array(dataset.splits["train"])
    there = _classes_there(dataset)
    class_weights = None
    if recipe.training.class_weights == "balanced":
        weights = _balanced(KINDS[dataset.task].task(specification), dataset, store, rows)
        class_weights = torch.from_numpy(weights).to(machine.device)
    teaching = Teaching(
        recipe.loss.name, recipe.loss.settings, class_weights, teacher_of(recipe, dataset, machine)
    )
    task = KINDS[dataset.task].taught(specification, teaching)
    train = _training_pictures(
        recipe, store, task.truths(dataset.samples, store), rows, there[rows], specification
    )
    val = replace(
        train,
        positions=np.array(dataset.splits["val"]),
        look=Augmentation((), specification.view),
        shuffled=False,
        weights=None,
        mix=None,
        compose=None,
        views=0,
        batch_size=max(specification.at_once, train.batch_size),
    )
    # The training rows stand in the order of the classes, so evenly spread is stratified.
    spread = np.linspace(0, len(rows) - 1, min(len(rows), WATCHED)).round().astype(int)
    look = json.dumps([*specification.canvas, specification.fit])
    return Lesson(
        task=task,
        train=train,
        val=val,
        seen=replace(val, positions=rows[spread]),
        truths=truths,
        class_weights=class_weights,
        look=look,
        varied=json.dumps([look, _steps(recipe)], sort_keys=True, default=str),
        view=specification.view,
    )


def _balanced(
    task: Task, dataset: Dataset, store: Sequence[Any], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(k) the weight of each class, the rarer the higher."""
    truths = task.truths(dataset.samples, store)
    return class_weights(np.stack([task.amounts(truths[int(row)]) for row in rows]))


def _training_pictures(
    recipe: Recipe,
    store: Sequence[Any],
    truths: Truths,
    rows: NDArray[np.int64],
    there: NDArray[np.float32],
    specification: Specification,
) -> Loader:
    settings, mixing, composed = recipe.training, recipe.mixing, recipe.composition
    return Loader(
        pictures=store,
        truths=truths,
        positions=rows,
        look=augmentation_of(recipe, specification.view),
        batch_size=min(int(settings.batch_size), len(rows)),
        shuffled=True,
        weights=draw_weights(there) if settings.sampling == "balanced" else None,
        mix=None if mixing.name == "none" else MIXINGS[mixing.name].make(**mixing.settings),
        compose=None if composed.name == "none" else COMPOSITIONS[composed.name].make(**composed.settings),
        seed=settings.seed,
        workers=settings.workers,
        views=int(recipe.transfer.views),
    )


def _steps(recipe: Recipe) -> Sequence[Any]:
    section = recipe.augmentation
    presets = PRESETS if recipe.model.head == "none" else DENSE_PRESETS
    return section.steps if section.preset == "custom" else presets[section.preset]


def augmentation_of(recipe: Recipe, view: View) -> Augmentation:
    """How training pictures vary in a view."""
    return build_augmentation(_steps(recipe), view.size, fit=view.fit, fill=view.fill, height=view.height)


def _classes_there(dataset: Dataset) -> NDArray[np.float32]:
    """(N, k) 1 where a picture has a class, else 0."""
    column = {name: number for number, name in enumerate(dataset.classes)}
    there = np.zeros((len(dataset), len(dataset.classes)), np.float32)
    for row, sample in enumerate(dataset.samples):
        for name in sample.annotation.names if sample.annotation else ():
            there[row, column[name]] = 1.0
    return there


def growing(train: Loader, recipe: Recipe, view: View) -> Batches:
    """Training pictures that begin small and grow, if the recipe says so (progressive resizing).

    Touvron et al. 2019, arXiv 1906.06423: crops make things look larger in training than they are later,
    so that a network trained small and finished at full size sees them right.
    """
    first, last, epochs = recipe.training.first_size, train.look.size, int(recipe.training.epochs)
    if first is None or first >= last:
        return train
    steps = max(min((last - first) // GROWTH, int(GROWN_BY * epochs)), 1)
    sizes = [round((first + (last - first) * step / steps) / GROWTH) * GROWTH for step in range(steps)]
    whole = train.look.height / last
    views = [replace(view, size=size, height=view.height and round(size * whole)) for size in sizes]
    loaders = [replace(train, look=augmentation_of(recipe, small)) for small in views]
    starts = [round(GROWN_BY * epochs * step / steps) for step in range(steps + 1)]
    return Growing([*loaders, train], starts)


def told_by_teacher(recipe: Recipe, dataset: Dataset) -> list[Finding]:
    """A warning when the teacher has learnt from pictures that are to judge its pupil, by their content."""
    if recipe.transfer.teacher is None:
        return []
    learnt = set(Run(Path(recipe.transfer.teacher)).read("splits.json").get("learnt_from", ()))
    name = "test" if "test" in dataset.splits else "val"
    judging = [dataset.samples[i].checksum for i in dataset.splits[name]]
    known = sum(checksum in learnt for checksum in judging)
    if not known:
        return []
    message = (
        f"{known:,} of the {len(judging):,} pictures of the {name} split have trained the teacher or chosen "
        "its weights, and what it knows of them is passed on: the numbers flatter. Give both runs the same "
        "split, such as by the same seed."
    )
    return [Finding("taught_on_these", Outcome.WARN, "", message)]


def teacher_of(recipe: Recipe, dataset: Dataset, machine: Machine) -> Teacher | None:
    """The model that is imitated; None where the recipe names none.

    Raises:
        RecipeError: When it does not know the classes.
        RunError: When there is no such run, or no model in it.
    """
    transfer = recipe.transfer
    if transfer.teacher is None:
        return None
    model = Model.load(Run(Path(transfer.teacher)).model, device=machine.device)
    known = model.specification.classes
    unknown = sorted(set(dataset.classes) - set(known))
    if unknown or model.specification.multilabel != dataset.multilabel:
        raise RecipeError(
            f"transfer.teacher: {transfer.teacher} was not trained on these classes",
            causes=[
                f"it knows {', '.join(known[:MOST_CLASSES])}",
                f"these data have {', '.join(dataset.classes[:MOST_CLASSES])}",
            ]
            if unknown
            else ["one of the two has several labels a picture, and the other has one"],
            instead="Choose a teacher that was trained on the same classes.",
        )
    return Teacher(
        network=model.network.requires_grad_(requires_grad=False).eval(),
        image_size=model.specification.image_size,
        order=torch.tensor([known.index(name) for name in dataset.classes], device=machine.device),
        share=transfer.teacher_share,
        temperature=transfer.temperature,
    )
