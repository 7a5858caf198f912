"""`train`: a folder of pictures in; a run with a fine-tuned model and an honest report out."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from pictune.data.augmentation import MIXINGS, PRESETS, Augmentation, build_augmentation, preview_grid
from pictune.data.decoding import decode
from pictune.data.ingest import Ingested
from pictune.data.loading import Loader
from pictune.data.sample import Dataset
from pictune.errors import DataError, InputError, RecipeError, RunError, StoppedError
from pictune.files import replace_file, write_text
from pictune.models.backbones import describe
from pictune.models.losses import LOSSES
from pictune.models.weights import Weights, find_weights
from pictune.recipe import Recipe
from pictune.recipe_text import dump_yaml, load_yaml
from pictune.run import Journal, Run, all_runs
from pictune.tasks.answering import answer
from pictune.tasks.classification import Classification
from pictune.tasks.model import Model, Specification, assemble
from pictune.training.fitting import Fit, Plan, Watcher, best_weights, fit
from pictune.training.machine import Arithmetic, Machine
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.schedules import SCHEDULES
from pictune.training.signals import stop_signal
from pictune.verbs import reading, settling
from pictune.verbs.judging import judge, versions
from pictune.verbs.recipe import parse
from pictune.verbs.tables import TABLES

log = logging.getLogger(__name__)

PROBED = 24  # pictures opened beforehand to learn how large they are
WATCHED = 256  # training pictures on which progress is measured as on validation pictures


class Silent:
    """A watcher that only logs."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Says nothing: there are too many."""

    def epoch(self, facts: Mapping[str, Any]) -> None:
        """Logs the epoch's numbers."""
        log.info("epoch %(epoch)d: loss %(train_loss).4f, accuracy %(val_accuracy).4f", facts)

    def say(self, sentence: str) -> None:
        """Logs the sentence."""
        log.info(sentence)


def train(
    data: Path | str,
    *,
    recipe: Path | str | None = None,
    settings: Sequence[str] = (),
    model: str | None = None,
    weights: str | None = None,
    image_size: int | None = None,
    epochs: int | str | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    augmentation: str | None = None,
    loss: str | None = None,
    group_by: str | None = None,
    seed: int | None = None,
    allow_leaks: bool | None = None,
    runs: Path | str = "runs",
    name: str | None = None,
    new: bool = False,
    watcher: Watcher | None = None,
) -> Run:
    """Fine-tunes a model on a folder or table of labelled pictures.

    Called again with the same arguments after it was stopped or killed, it goes on where it was and
    ends with the same weights, bit for bit.

    Args:
        data: A folder of class folders, or a table of paths and labels; or a run, to go on with it.
        recipe: A YAML recipe; what it leaves out takes its default.
        settings: Texts such as ``loss.gamma=2``; every setting: ``pictune recipe``.
        model: ``cnn`` or any timm backbone.
        weights: ``auto``, ``hub``, ``none`` or a file.
        image_size: Side of the square the network sees, pixels.
        epochs: Passes over the training pictures; ``"+5"`` extends a finished run by five.
        batch_size: Pictures a step.
        learning_rate: The highest one.
        augmentation: A preset: none, light, medium or heavy.
        loss: A loss by name.
        group_by: What must stay together in one split.
        seed: Where all randomness starts.
        allow_leaks: Train even if a picture is in two splits.
        runs: The folder that holds all runs.
        name: Of the new run; a readable one is drawn when None.
        new: Start a new run even where an unfinished one could go on.
        watcher: Is told how it goes.

    Returns:
        The run; its report lies in ``run.report("test")``, or ``"val"`` when there is no test split.

    Raises:
        InputError: When the data, the recipe, the weights or the run cannot be used as asked.
        MachineError: When disk or memory ran out.
        StoppedError: When a signal came; the run was saved.
    """
    watcher = watcher or Silent()
    flags = {
        "model.name": model,
        "model.weights": weights,
        "model.image_size": image_size,
        "training.epochs": epochs if not _extends(epochs) else None,
        "training.batch_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "augmentation.preset": augmentation,
        "loss.name": loss,
        "data.group_by": group_by,
        "training.seed": seed,
        "data.allow_leaks": allow_leaks,
    }
    path = Path(data)
    if (path / "status.json").is_file():
        changed = [key for key, value in flags.items() if value is not None]
        return _go_on(Run(path), epochs=epochs, changed=[*changed, *settings], recipe=recipe, watcher=watcher)
    if _extends(epochs):
        raise RecipeError(
            f"--epochs {epochs} extends a finished run, and {path} is none",
            instead="Name the run: pictune train runs/latest --epochs +5",
        )
    asked = parse(recipe, assignments=settings, flags=flags)
    question = _question(path, asked)
    if not new and name is None:
        for earlier in reversed(all_runs(Path(runs))):
            if earlier.state in {"running", "stopped"} and _asked_of(earlier) == question:
                watcher.say(f"Going on with the unfinished run {earlier.name} (--new starts another one).")
                return _go_on(earlier, epochs=None, changed=[], recipe=None, watcher=watcher)
    return _start(path, asked, question, runs=Path(runs), name=name, watcher=watcher)


def _extends(epochs: int | str | None) -> bool:
    return isinstance(epochs, str) and epochs.startswith("+")


def _question(path: Path, asked: Recipe) -> str:
    """A fingerprint of what was asked for: the data's place and the recipe."""
    text = json.dumps([str(path.resolve()), asked.to_dict()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _asked_of(run: Run) -> str | None:
    try:
        return str(run.read("made_by.json").get("asked"))
    except RunError:
        return None  # it was killed before it had written anything worth going on with


@dataclass(frozen=True)
class Prepared:
    """Everything settled before the weights move; written to the run, so that it is settled once."""

    recipe: Recipe
    dataset: Dataset
    ingested: Ingested
    weights: Weights
    arithmetic: Arithmetic
    cycles: tuple[int, ...]


def _read_pictures(path: Path, recipe: Recipe, machine: Machine, watcher: Watcher) -> tuple[Recipe, Ingested, dict[str, str]]:
    named = reading.read_named(path, recipe.data)
    recipe, reasons = settling.settle_model(recipe, _probed(named), gpu=machine.device.type == "cuda")
    side = Specification("", (), recipe.model.name, int(recipe.model.image_size)).side
    ingested = reading.open_pictures(named, recipe.data, side=side, threads=machine.threads)
    total, left_out = len(named), len(named) - len(ingested.dataset)
    watcher.say(
        f"{total:,} pictures, {len(named.classes)} classes ({named.format})"
        + (f"; {left_out} cannot be used and are left out" if left_out else "")
        + "."
    )
    return recipe, ingested, reasons


def _probed(dataset: Dataset) -> Dataset:
    """A few pictures with their sizes, to choose an image size before all are opened."""
    step = max(1, len(dataset) // PROBED)
    sized = []
    for sample in dataset.samples[::step]:
        try:
            pixels = decode(sample.path).pixels
        except DataError:
            continue  # it is reported with all others when they are opened
        sized.append(replace(sample, width=pixels.shape[1], height=pixels.shape[0]))
    return replace(dataset, samples=tuple(sized), splits={})


def _start(path: Path, asked: Recipe, question: str, *, runs: Path, name: str | None, watcher: Watcher) -> Run:
    machine = Machine(device=asked.training.device, threads=asked.training.threads)
    recipe, ingested, reasons = _read_pictures(path, asked, machine, watcher)
    weights = find_weights(
        recipe.model.weights,
        network=recipe.model.name,
        allow_licence={recipe.model.allow_licence} if recipe.model.allow_licence else (),
    )
    watcher.say(weights.sentence)
    clusters = reading.look_alikes(ingested, near=recipe.split.near_duplicates)
    dataset = reading.split_pictures(ingested, recipe, clusters)
    _check_enough(dataset)
    recipe, more = settling.settle_training(recipe, dataset, gpu=machine.device.type == "cuda")
    specification = _specify(recipe, dataset, weights)
    network = _first_network(recipe, specification, weights)
    trial = torch.zeros(min(8, int(recipe.training.batch_size)), specification.image_size, specification.image_size, 3)
    arithmetic = machine.choose(
        network,
        trial.to(torch.uint8),
        precision=recipe.training.precision,
        memory_format=recipe.training.memory_format,
    )
    recipe = recipe.with_values(
        training={"precision": arithmetic.precision, "memory_format": arithmetic.memory_format}
    )
    reasons |= more | {"training.precision": arithmetic.reason}
    counts = ", ".join(f"{len(dataset.splits[s]):,} {s}" for s in ("train", "val", "test") if s in dataset.splits)
    watcher.say(
        f"{recipe.model.name} at {specification.image_size} pixels, {recipe.training.epochs} epochs, "
        f"{arithmetic.precision}; {counts}."
    )
    run = Run.create(runs, name=name)
    prepared = Prepared(recipe, dataset, ingested, weights, arithmetic, (int(recipe.training.epochs),))
    with run.lock():
        write_text(run.path / "recipe.yaml", dump_yaml(recipe, TABLES, reasons=reasons))
        run.write("splits.json", _splits(dataset))
        run.write("made_by.json", _made_by(path, question, prepared, reasons, machine))
        return _train(run, prepared, machine, network, specification, watcher)


def _check_enough(dataset: Dataset) -> None:
    if len(dataset.classes) < 2 and not dataset.multilabel:
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


def _specify(recipe: Recipe, dataset: Dataset, weights: Weights) -> Specification:
    card = describe(recipe.model.name)
    return Specification(
        task=dataset.task,
        classes=dataset.classes,
        network=recipe.model.name,
        image_size=int(recipe.model.image_size),
        fit=recipe.model.fit,
        mean=tuple(card.mean),
        std=tuple(card.std),
        multilabel=dataset.multilabel,
        origin=weights.sentence,
        licence=weights.licence,
    )


def _first_network(recipe: Recipe, specification: Specification, weights: Weights) -> nn.Module:
    """The network before its first step; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        return assemble(
            specification,
            dropout=recipe.model.dropout,
            stochastic_depth=recipe.model.stochastic_depth,
            weights=weights,
        )


def _splits(dataset: Dataset) -> dict[str, Any]:
    return {
        "fingerprint": dataset.fingerprint,
        "classes": list(dataset.classes),
        "splits": {name: [dataset.samples[i].key for i in rows] for name, rows in dataset.splits.items()},
        "findings": reading.finding_rows(dataset.findings),
    }


def _made_by(path: Path, question: str, prepared: Prepared, reasons: Mapping[str, str], machine: Machine) -> dict[str, Any]:
    weights = prepared.weights
    return {
        "data": str(path.resolve()),
        "asked": question,
        "fingerprint": prepared.dataset.fingerprint,
        "weights": {
            "kind": weights.kind,
            "source": weights.source,
            "path": str(weights.path) if weights.path else None,
            "sha256": weights.sha256,
            "licence": weights.licence,
            "sentence": weights.sentence,
        },
        "chosen": dict(reasons),
        "cycles": list(prepared.cycles),
        "device": str(machine.device),
        "threads": machine.threads,
        "versions": versions(),
    }


def _go_on(run: Run, *, epochs: int | str | None, changed: Sequence[str], recipe: Path | str | None, watcher: Watcher) -> Run:
    """Resumes an unfinished run, or extends a finished one."""
    if changed or recipe is not None or (epochs is not None and not _extends(epochs)):
        raise RecipeError(
            f"{run.name} goes on with the recipe it was started with; these cannot change now",
            causes=[*changed, *(["--recipe"] if recipe else []), *(["--epochs"] if epochs else [])],
            instead="Train the data again with the new settings, or extend the run with --epochs +5.",
        )
    with run.lock():
        made_by = run.read("made_by.json")
        cycles = tuple(made_by["cycles"])
        if _extends(epochs):
            cycles = _extended(run, cycles, str(epochs))
            run.write("made_by.json", {**made_by, "cycles": list(cycles)})
        elif run.state == "finished":
            raise RunError(f"{run.name} is finished", instead="Extend it with --epochs +5, or train anew.")
        stored = parse(None, assignments=(), flags={})
        given = load_yaml(run.path / "recipe.yaml")
        from pictune.recipe import read_recipe

        stored = read_recipe(given, TABLES)
        machine = Machine(device=stored.training.device, threads=int(made_by["threads"]))
        _, ingested, _ = _read_pictures(Path(made_by["data"]), stored, machine, watcher)
        dataset = _kept_split(ingested.dataset, run.read("splits.json"))
        told = made_by["weights"]
        weights = Weights(
            told["kind"], told["source"], told["licence"], Path(told["path"]) if told["path"] else None,
            told["sha256"], told["sentence"],
        )
        arithmetic = Arithmetic(stored.training.precision, stored.training.memory_format, "as the run began")
        prepared = Prepared(stored, dataset, ingested, weights, arithmetic, cycles)
        specification = _specify(stored, dataset, weights)
        resumable = (run.checkpoints / "last.safetensors").exists()
        network = _first_network(
            stored, specification, replace(weights, kind="none", path=None) if resumable else weights
        )
        run.write("status.json", {"state": "running"})
        run.note_time("resumed")
        run.point_latest()
        return _train(run, prepared, machine, network, specification, watcher)


def _extended(run: Run, cycles: tuple[int, ...], epochs: str) -> tuple[int, ...]:
    if run.state != "finished":
        raise RunError(f"{run.name} is not finished yet", instead=f"Finish it first: pictune train {run.path.name}")
    if not epochs[1:].isdecimal() or int(epochs[1:]) < 1:
        raise RecipeError(f"--epochs {epochs}: after the plus stands a number of epochs, such as +5")
    return (*cycles, int(epochs[1:]))


def _kept_split(dataset: Dataset, kept: Mapping[str, Any]) -> Dataset:
    """The dataset with the split that the run began with.

    Raises:
        DataError: When the data are no longer what they were.
    """
    if dataset.fingerprint != kept["fingerprint"]:
        raise DataError(
            "the pictures or labels have changed since the run began",
            code="changed",
            instead="Start a new run on the new data with --new.",
        )
    place = {sample.key: i for i, sample in enumerate(dataset.samples)}
    splits = {name: tuple(sorted(place[key] for key in keys)) for name, keys in kept["splits"].items()}
    return replace(dataset, splits=splits)


def _train(
    run: Run, prepared: Prepared, machine: Machine, network: nn.Module, specification: Specification, watcher: Watcher
) -> Run:
    """Moves the weights, keeps the best ones, and writes the model and its report."""
    started = time.monotonic()
    cv2.setNumThreads(1)  # the loader's own threads are enough; OpenCV's would fight with torch's
    recipe, dataset = prepared.recipe, prepared.dataset
    store = prepared.ingested.store
    assert store is not None, "training stores its pictures"
    try:
        job = _job(run, prepared, machine, network, specification, watcher)
        _preview(run, prepared, job.loader)
        with stop_signal() as stop:
            progress = fit(replace(job, stop=stop))
    except (StoppedError, KeyboardInterrupt):
        run.write("status.json", {"state": "stopped"})
        run.note_time("stopped", seconds=round(time.monotonic() - started, 1))
        raise
    except InputError as error:
        run.write("status.json", {"state": "failed", "reason": str(error)})
        raise
    network.load_state_dict(best_weights(run.checkpoints, progress))
    quick = {k: v for k, v in Journal(run.journal).lines("epoch")[progress.best_epoch].items() if k.startswith("val_")}
    facts = {"run": run.name, "fingerprint": dataset.fingerprint, "versions": versions(), "validation": quick}
    model = Model(replace(specification, facts=facts), network.eval(), machine.device)
    model.save(run.model)
    name = "test" if "test" in dataset.splits else "val"
    rows = dataset.splits[name]
    judge(
        run,
        model,
        dataset.split(name),
        [store[i] for i in rows],
        name=name,
        evaluation=recipe.evaluation,
        seed=recipe.training.seed,
        facts={"selected_by": f"{recipe.training.select_by} on the validation split", "findings": _warnings(dataset)},
    )
    seconds = round(time.monotonic() - started, 1)
    run.note_time("finished", seconds=seconds)
    run.write("status.json", {"state": "finished", "report": name, "best_epoch": progress.best_epoch + 1})
    return run


def _warnings(dataset: Dataset) -> list[dict[str, str]]:
    return [
        {"code": finding.code, "severity": "warning", "message": finding.message}
        for finding in dataset.findings
        if finding.outcome == "warn" and not finding.where
    ]


def _job(
    run: Run, prepared: Prepared, machine: Machine, network: nn.Module, specification: Specification, watcher: Watcher
) -> Fit:
    recipe, dataset = prepared.recipe, prepared.dataset
    settings, store = recipe.training, prepared.ingested.store
    assert store is not None
    task, loader = _task_and_loader(recipe, dataset, store, specification, machine)
    clean = specification.view
    val = replace(
        loader,
        positions=np.array(dataset.splits["val"]),
        view=lambda pixels, _: clean(pixels),
        shuffled=False,
        weights=None,
        mix=None,
        batch_size=max(64, loader.batch_size),
    )
    step = max(1, len(dataset.splits["train"]) // WATCHED)
    seen = replace(val, positions=np.array(dataset.splits["train"][::step][:WATCHED]))
    precision = prepared.arithmetic.precision

    def quick(network: nn.Module, loader: Loader) -> dict[str, float]:
        scores = answer(network, task, loader, device=machine.device, precision=lambda: machine.autocast(precision))
        samples = [dataset.samples[i] for i in loader.positions]
        return task.quick(task.score([s.key for s in samples], scores, [s.annotation for s in samples], None))

    def validate(network: nn.Module) -> dict[str, float]:
        return {**quick(network, val), **{f"train_{k}": v for k, v in quick(network, seen).items()}}

    optimizer = recipe.optimizer
    return Fit(
        network=network,
        task=task,
        loader=loader,
        validate=validate,
        make_optimizer=OPTIMIZERS[optimizer.name].make(**optimizer.settings),
        weight_decay=float(optimizer.settings["weight_decay"]),
        schedule=SCHEDULES[recipe.schedule.name].make(**recipe.schedule.settings),
        plan=Plan(
            cycles=prepared.cycles,
            accumulate=settings.accumulate,
            clip=settings.clip,
            ema=settings.ema,
            early_stopping=settings.early_stopping,
            select_by=settings.select_by,
            seed=settings.seed,
            checkpoint_seconds=60 * settings.checkpoint_minutes,
        ),
        machine=machine,
        arithmetic=prepared.arithmetic,
        folder=run.checkpoints,
        journal=Journal(run.journal),
        names=[sample.key for sample in dataset.samples],
        watcher=watcher,
        stop=lambda: 0,
    )


def _task_and_loader(
    recipe: Recipe, dataset: Dataset, store: Sequence[Any], specification: Specification, machine: Machine
) -> tuple[Classification, Loader]:
    settings = recipe.training
    plain = Classification(dataset.classes, multilabel=dataset.multilabel)
    targets = plain.targets([sample.annotation for sample in dataset.samples])
    rows = np.array(dataset.splits["train"])
    weights = (
        torch.from_numpy(settling.class_weights(targets[rows])).to(machine.device)
        if settings.class_weights == "balanced"
        else None
    )
    task = Classification(
        dataset.classes,
        multilabel=dataset.multilabel,
        loss=LOSSES[recipe.loss.name].make(**recipe.loss.settings),
        class_weights=weights,
    )
    mixing = recipe.mixing
    loader = Loader(
        pictures=store,
        targets=targets,
        positions=rows,
        view=_augmentation(recipe, specification),
        batch_size=min(int(settings.batch_size), len(rows)),
        size=specification.image_size,
        shuffled=True,
        weights=settling.draw_weights(targets[rows]) if settings.sampling == "balanced" else None,
        mix=None if mixing.name == "none" else MIXINGS[mixing.name].make(**mixing.settings),
        seed=settings.seed,
        workers=settings.workers,
    )
    return task, loader


def _augmentation(recipe: Recipe, specification: Specification) -> Augmentation:
    section = recipe.augmentation
    steps = section.steps if section.preset == "custom" else PRESETS[section.preset]
    return build_augmentation(steps, specification.image_size, fit=recipe.model.fit)  # type: ignore[arg-type]


def _preview(run: Run, prepared: Prepared, loader: Loader) -> None:
    """Saves what the network is going to see of a few pictures."""
    path = run.path / "augmentation.png"
    if path.exists() or not isinstance(loader.view, Augmentation):
        return
    rows = loader.positions[:: max(1, len(loader.positions) // 6)][:6]
    grid = preview_grid([loader.pictures[int(i)] for i in rows], loader.view, views=6, seed=loader.seed)
    encoded = cv2.imencode(".png", grid[:, :, ::-1])[1].tobytes()
    replace_file(path, lambda temporary: _write(temporary, encoded))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
