"""`train`: a folder of pictures in; a run with a fine-tuned model and an honest report out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pictune.data.sample import Dataset
from pictune.errors import RecipeError, RunError
from pictune.files import write_text
from pictune.recipe_text import dump_yaml
from pictune.recipes import Recipe
from pictune.run import Run, all_runs, check_name
from pictune.training.job import Watcher
from pictune.verbs import reading
from pictune.verbs.learning import learn
from pictune.verbs.preparing import made_by_record, splits_record
from pictune.verbs.recipe import parse
from pictune.verbs.resuming import extends, go_on
from pictune.verbs.starting import prepare
from pictune.verbs.tables import TABLES
from pictune.verbs.targets import check_target

log = logging.getLogger(__name__)


class Silent:
    """A watcher that only logs."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Says nothing: there are too many."""

    def epoch(self, facts: Mapping[str, Any]) -> None:
        """Logs the epoch's numbers."""
        name = next(name for name in facts if name.startswith("val_"))
        said = f"{name.removeprefix('val_')} {facts[name]:.4f}"
        log.info("epoch %d: loss %.4f, %s", facts["epoch"], facts["train_loss"], said)

    def say(self, sentence: str) -> None:
        """Logs the sentence."""
        log.info(sentence)


def train(
    data: Path | str,
    *,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    model: str | None = None,
    head: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    epochs: int | str | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    augmentation: str | None = None,
    loss: str | None = None,
    technique: str | None = None,
    freeze: str | int | None = None,
    layer_decay: float | None = None,
    rank: int | None = None,
    teacher: Path | str | None = None,
    preset: str | None = None,
    minutes: float | None = None,
    cache: bool | None = None,
    group_by: str | None = None,
    seed: int | None = None,
    allow_leaks: bool | None = None,
    runs: Path | str = "runs",
    name: str | None = None,
    new: bool = False,
    watcher: Watcher | None = None,
    progress: reading.Progress | None = None,
) -> Run:
    """Fine-tunes a model on a folder or table of labelled pictures.

    Called again with the same arguments after it was stopped or killed, it goes on where it was and
    ends with the same weights, bit for bit.

    Args:
        data: A folder of class folders, or a table of paths and labels; or a run, to go on with it.
        recipe: A YAML recipe; what it leaves out takes its default.
        settings: Texts such as ``loss.gamma=2``; every setting: ``pictune recipe``.
        model: ``cnn``, ``resnet9`` or any timm backbone.
        head: What stands on its maps, such as ``fcos`` for boxes or ``unet`` for masks.
        weights: ``auto``, ``hub``, ``none`` or a file.
        image_size: Side of the square the network sees, pixels.
        epochs: Passes over the training pictures; ``"+5"`` extends a finished run by five.
        batch_size: Pictures a step.
        learning_rate: The highest one.
        augmentation: A preset: none, light, medium or heavy.
        loss: A loss by name.
        technique: Which layers learn, and when: full, head, lp_ft, gradual or lora.
        freeze: Layers that stay as they are: ``backbone``, a number of groups, a layer or a pattern.
        layer_decay: Rate of a group of layers beside the one above it, above 0 and at most 1.
        rank: Of the adapters of technique lora.
        teacher: A run whose model is imitated.
        preset: How long what is left open may take: fast, good or best.
        minutes: How long all of it may take.
        cache: Whether what lies below all that learns is computed once and kept.
        group_by: What must stay together in one split.
        seed: Where all randomness starts.
        allow_leaks: Train even if a picture is in two splits.
        runs: The folder that holds all runs.
        name: Of the new run; a readable one is drawn when None.
        new: Start a new run even where an unfinished one could go on.
        watcher: Is told how it goes.
        progress: Called with how many pictures are opened, and how many there are.

    Returns:
        The run; its report lies in ``run.report("test")``, or ``"val"`` when there is no test split.

    Raises:
        InputError: When the data, the recipe, the weights or the run cannot be used as asked.
        MachineError: When disk or memory ran out.
        StoppedError: When a signal came; the run was saved.
    """
    flags = {
        "model.name": model,
        "model.head": head,
        "model.weights": weights,
        "model.image_size": image_size,
        "training.epochs": epochs if not extends(epochs) else None,
        "training.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "augmentation.preset": augmentation,
        "loss.name": loss,
        "technique.name": technique,
        "transfer.freeze": None if freeze is None else str(freeze),
        "transfer.layer_decay": layer_decay,
        "technique.rank": rank,
        "transfer.teacher": _place_of(teacher),
        "training.preset": preset,
        "training.minutes": minutes,
        "transfer.cache": cache,
        "data.group_by": group_by,
        "training.seed": seed,
        "data.allow_leaks": allow_leaks,
    }
    path, watcher = Path(data), watcher or Silent()
    if (path / "status.json").is_file():
        changed = _changed(flags, settings, recipe)
        return go_on(Run(path), epochs=epochs, changed=changed, watcher=watcher, progress=progress)
    _check_place(path, Path(runs), epochs)
    asked = parse(recipe, assignments=settings, flags=flags)
    return _start(path, asked, runs=Path(runs), name=name, new=new, watcher=watcher, progress=progress)


def _changed(flags: Mapping[str, Any], settings: Sequence[str], recipe: Path | str | None) -> list[str]:
    """Everything that was said about a run that has its recipe already."""
    given = [key for key, value in flags.items() if value is not None]
    return [*given, *settings, *(["--recipe"] if recipe else [])]


def _place_of(path: Path | str | None) -> str | None:
    """A path that means the same wherever the recipe is read."""
    return None if path is None else str(Path(path).resolve())


def _check_place(path: Path, runs: Path, epochs: int | str | None) -> None:
    """Refuses to extend what is no run, and to write among the user's pictures."""
    if extends(epochs):
        raise RecipeError(
            f"--epochs {epochs} extends a finished run, and {path} is none",
            instead="Name the run: pictune train runs/latest --epochs +5",
        )
    check_target(runs, data=path, flag="--runs")


def _unfinished(runs: Path, name: str | None, question: str) -> Run | None:
    """The newest unfinished run that was asked for the very same; of that name, if one is given."""
    for run in reversed(all_runs(runs)):
        fits = name in {None, run.name} and run.state in {"running", "stopped"}
        if fits and _asked_of(run) == question:
            return run
    return None


def _question(path: Path, asked: Recipe) -> str:
    """A fingerprint of what was asked for: the data's place and the recipe."""
    text = json.dumps([str(path.resolve()), asked.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _asked_of(run: Run) -> str | None:
    try:
        return str(run.read("made_by.json").get("asked"))
    except RunError:
        return None  # it was killed before it had written anything worth going on with


def _start(
    path: Path,
    asked: Recipe,
    *,
    runs: Path,
    name: str | None,
    new: bool,
    watcher: Watcher,
    progress: reading.Progress | None,
) -> Run:
    """A new run; or the unfinished one that was asked for the very same."""
    question = _question(path, asked)
    earlier = None if new else _unfinished(runs, name, question)
    if earlier is not None:
        watcher.say(f"Going on with the unfinished run {earlier.name} (--new starts another one).")
        return go_on(earlier, epochs=None, changed=[], watcher=watcher, progress=progress)
    check_name(runs, name)
    start = prepare(path, asked, watcher=watcher, progress=progress)
    prepared, recipe, machine = start.prepared, start.prepared.recipe, start.machine
    watcher.say(_summary(recipe, prepared.dataset))
    run = Run.create(runs, name=name)
    with run.lock():
        write_text(run.path / "recipe.yaml", dump_yaml(recipe, TABLES, reasons=start.reasons))
        run.write("splits.json", splits_record(prepared.dataset))
        run.write("made_by.json", made_by_record(path, question, prepared, start.reasons, machine))
        return learn(run, prepared, machine, start.network, start.specification, watcher)


def _summary(recipe: Recipe, dataset: Dataset) -> str:
    """What is about to be trained, in one sentence."""
    counts = ", ".join(
        f"{len(dataset.splits[s]):,} {s}" for s in ("train", "val", "test") if s in dataset.splits
    )
    epochs, training, technique = int(recipe.training.epochs), recipe.training, recipe.technique.name
    kept = f", {recipe.transfer.freeze} frozen" if recipe.transfer.freeze != "none" else ""
    return (
        f"{recipe.model.name} at {recipe.model.image_size} pixels, technique {technique}{kept}, "
        f"{epochs} epoch{'s' * (epochs > 1)}, {training.precision}; {counts}."
    )
