"""`lr_find`: how high may the learning rate be? A short training in which it grows, and its curve."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pictune.data.loading import Batch, Loader
from pictune.data.scanning import escape
from pictune.evaluation.report import wording
from pictune.evaluation.report.page import render_rates
from pictune.evaluation.report.rate_chart import curve_svg
from pictune.files import disk_errors, write_json, write_text
from pictune.recipes import Recipe
from pictune.training.job import Watcher
from pictune.training.machine import place
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.rate_finding import RateCurve, find_rate
from pictune.verbs import probing, reading, transferring
from pictune.verbs.lessons import Lesson, lesson_of
from pictune.verbs.recipe import parse
from pictune.verbs.starting import Start, prepare
from pictune.verbs.targets import check_target
from pictune.verbs.train import Silent
from pictune.version import __version__

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
TIMED = 10  # steps after which it is said how long the others take
RATE = "optimizer.learning_rate"


@dataclass(frozen=True)
class FoundRate:
    """A learning rate to train with.

    Args:
        folder: Holds lr.json and lr.html.
        content: What lr.json holds.
    """

    folder: Path
    content: Mapping[str, Any]

    @property
    def suggestion(self) -> float:
        """A highest learning rate, to two digits."""
        return float(self.content["suggestion"])

    def summary(self) -> str:
        """The suggestion, where the curve is, and what to type next."""
        lines = [f"Learning rate {self.suggestion:g}", *(f"  - {note}" for note in self.content["notes"])]
        return "\n".join([*lines, "", f"  curve: {self.folder / 'lr.html'}", f"  {self.content['command']}"])


def lr_find(
    data: Path | str,
    *,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    model: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    technique: str | None = None,
    freeze: str | int | None = None,
    folder: Path | str = "lr-find",
    watcher: Watcher | None = None,
    progress: reading.Progress | None = None,
) -> FoundRate:
    """Finds a highest learning rate for training these pictures, before they are trained.

    Everything is settled as `train` does; then a copy of the network makes a hundred steps, each at a higher
    rate than the last. Nothing is written but lr.json and lr.html, and features of frozen layers if a probe
    computes them, which training then finds in the cache.

    Args:
        data: A folder of class folders, or a table of paths and labels.
        recipe: A YAML recipe; what it leaves out takes its default.
        settings: Texts such as ``loss.gamma=2``; every setting: ``pictune recipe``.
        model: ``cnn``, ``resnet9`` or any timm backbone.
        weights: ``auto``, ``hub``, ``none`` or a file.
        image_size: Side of the square the network sees, pixels.
        batch_size: Pictures a step.
        technique: Which layers learn, and when: full, head, lp_ft, gradual or lora.
        freeze: Layers that stay as they are: ``backbone``, a number of groups, a layer or a pattern.
        folder: Gets lr.json and lr.html.
        watcher: Is told how it goes.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        InputError: When the data, the recipe or the weights cannot be used as asked.
        MachineError: When disk or memory ran out.
    """
    watcher, target, path = watcher or Silent(), Path(folder), Path(data)
    check_target(target, data=path, flag="--out")
    flags = {
        "model.name": model,
        "model.weights": weights,
        "model.image_size": image_size,
        "training.batch_size": batch_size,
        "technique.name": technique,
        "transfer.freeze": None if freeze is None else str(freeze),
    }
    start = prepare(
        path, parse(recipe, assignments=settings, flags=flags), watcher=watcher, progress=progress
    )
    curve = _tried(start, watcher)
    content = {
        "data": escape(path.name),
        **_numbers(curve),
        "notes": _notes(curve, start),
        "command": _command(path, recipe, settings, flags, curve),
        "settings": _used(start),
        "created_with": {"pictune": __version__},
    }
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    write_text(target / "lr.html", render_rates(content, chart=curve_svg(curve)))
    write_json(target / "lr.json", content)
    return FoundRate(target, content)


def _tried(start: Start, watcher: Watcher) -> RateCurve:
    """The curve of the network at its start, after the probe if its technique begins with one."""
    prepared, machine, network = start.prepared, start.machine, start.network
    recipe, store = prepared.recipe, prepared.ingested.store
    assert store is not None, "the pictures are stored"
    lesson = lesson_of(recipe, prepared.dataset, store, start.specification, machine)
    place(network, machine.device, prepared.arithmetic.memory_format)
    _take_the_probes_head(start, lesson, watcher)
    batch = lesson.train.batch_size
    watcher.say(f"Trying {STEPS} rates from {LOWEST:g} to {HIGHEST:g}, each on {batch} pictures.")
    optimizer = recipe.optimizer
    return find_rate(
        network,
        lesson.task,
        _timed(lesson.train, watcher),
        make_optimizer=OPTIMIZERS[optimizer.name].make(**optimizer.settings),
        weight_decay=float(optimizer.settings["weight_decay"]),
        lowest=LOWEST,
        highest=HIGHEST,
        steps=STEPS,
        machine=machine,
        arithmetic=prepared.arithmetic,
        seed=recipe.training.seed,
        rates=transferring.rates_of(network, recipe),
    )


def _timed(train: Loader, watcher: Watcher) -> Iterator[Batch]:
    """Batches without end, epoch after epoch; after a few it is said how long the others take."""
    started = time.monotonic()
    endless = (batch for epoch in itertools.count() for batch in train.batches(epoch))
    for number, batch in enumerate(endless):
        if number == TIMED:
            left = (time.monotonic() - started) / TIMED * (STEPS - TIMED)
            watcher.say(f"About {max(left, 1):.0f} seconds to go.")
        yield batch


def _take_the_probes_head(start: Start, lesson: Lesson, watcher: Watcher) -> None:
    """Puts the head into the network from which fine-tuning will begin, if it begins with a probe."""
    prepared, recipe = start.prepared, start.prepared.recipe
    technique, store = transferring.technique_of(recipe), prepared.ingested.store
    if not technique.probe_epochs or store is None:
        return
    made = probing.probe_cut(start.network, image_size=int(recipe.model.image_size))
    if made is None:
        return
    read = probing.for_fine_tuning(recipe)
    with TemporaryDirectory(prefix="pictune-") as passing:
        found = probing.probe(
            made,
            transferring.Loaders(lesson.train, lesson.val, lesson.seen),
            read,
            transferring.Place(
                machine=start.machine,
                precision=prepared.arithmetic.precision,
                store=store.name,
                network=recipe.model.name,
                look=lesson.look,
                varied=lesson.varied,
                folder=transferring.feature_folder() if recipe.transfer.cache else Path(passing),
                rows=len(prepared.dataset),
                watcher=watcher,
                stop=lambda: 0,
            ),
            task=lesson.task,
            truths=lesson.truths,
            class_weights=lesson.class_weights,
            settings=probing.grid(read, probing.VARIED[:2], most=technique.heads),
            epochs=technique.probe_epochs,
            views=0,
        )
    watcher.say(found.sentence(recipe.training.select_by))
    probing.take_over(start.network, found)


def _numbers(curve: RateCurve) -> dict[str, Any]:
    return {
        "suggestion": _short(curve.suggestion),
        "diverged": curve.diverged,
        "rates": list(curve.rates),
        "losses": list(curve.losses),
        "smooth": list(curve.smooth),
    }


def _short(rate: float) -> float:
    """To two digits: more would say more than a hundred steps can know."""
    return float(f"{rate:.2g}")


def _notes(curve: RateCurve, start: Start) -> list[str]:
    """What the curve says beside the suggestion, in plain sentences."""
    last, recipe = curve.rates[-1], start.prepared.recipe
    notes = [
        f"At {last:.2g} the loss had risen for good."
        if curve.diverged
        else f"Up to {last:.2g} the loss did not rise for good."
    ]
    technique = transferring.technique_of(recipe)
    if technique.head_only and technique.heads > 1 and "learning_rate" in start.prepared.open_settings:
        notes.append("Technique head tries several rates by itself; one that is given is kept.")
    return notes


def _used(start: Start) -> dict[str, Any]:
    """What decides the curve beside the pictures."""
    recipe: Recipe = start.prepared.recipe
    return {
        "model": recipe.model.name,
        "weights": start.prepared.weights.sentence,
        "image_size": recipe.model.image_size,
        "batch_size": recipe.training.batch_size,
        "technique": {"name": recipe.technique.name, **recipe.technique.settings},
        "freeze": recipe.transfer.freeze,
        "layer_decay": recipe.transfer.layer_decay,
        "optimizer": recipe.optimizer.name,
        "loss": recipe.loss.name,
        "augmentation": recipe.augmentation.preset,
        "precision": recipe.training.precision,
        "seed": recipe.training.seed,
        "pictures": len(start.prepared.dataset.splits["train"]),
    }


def _command(
    path: Path,
    recipe: Path | str | None,
    settings: Sequence[str],
    flags: Mapping[str, Any],
    curve: RateCurve,
) -> str:
    """The training to which the curve belongs, with the rate it suggests, ready to be typed."""
    words = ["pictune", "train", str(path), "--lr", f"{_short(curve.suggestion):g}"]
    words += ["--recipe", str(recipe)] if recipe is not None else []
    for name, value in flags.items():
        flag = {"model.name": "model", "technique.name": "technique"}.get(name, name.partition(".")[2])
        words += [f"--{flag.replace('_', '-')}", str(value)] if value is not None else []
    for setting in settings:
        # A rate of its own would contradict the flag.
        words += ["--set", setting] if setting.partition("=")[0].strip() != RATE else []
    return str(wording.printable(shlex.join(words)))
