"""The middle of `train`: from everything settled to a model and its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from pictune.data.augmentation import MIXINGS, PRESETS, Augmentation, build_augmentation, preview_grid
from pictune.data.loading import Loader
from pictune.data.sample import Dataset
from pictune.errors import InputError, StoppedError
from pictune.files import replace_file
from pictune.models.losses import LOSSES
from pictune.recipes import Recipe
from pictune.run import Journal, Run
from pictune.tasks.answering import answer
from pictune.tasks.classification import Classification
from pictune.tasks.model import Model, Specification
from pictune.training.fitting import best_weights, fit
from pictune.training.job import Fit, Watcher
from pictune.training.machine import Machine
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES
from pictune.training.signals import stop_signal
from pictune.verbs import settling
from pictune.verbs.judging import judge, versions
from pictune.verbs.preparing import Prepared

WATCHED = 256  # training pictures on which progress is measured as on validation pictures


def learn(
    run: Run,
    prepared: Prepared,
    machine: Machine,
    network: nn.Module,
    specification: Specification,
    watcher: Watcher,
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
    quick = {
        k: v
        for k, v in Journal(run.journal).lines("epoch")[progress.best_epoch].items()
        if k.startswith("val_")
    }
    facts = {"run": run.name, "fingerprint": dataset.fingerprint, "versions": versions(), "validation": quick}
    Model(replace(specification, facts=facts), network.eval(), machine.device).save(run.model)
    # What is judged is what is shipped, in full precision: the network that learnt may still compute in bf16.
    model = Model.load(run.model, device=machine.device)
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
        select_by=recipe.training.select_by,
        findings=dataset.findings,
    )
    seconds = round(time.monotonic() - started, 1)
    run.note_time("finished", seconds=seconds)
    run.write("status.json", {"state": "finished", "report": name, "best_epoch": progress.best_epoch + 1})
    return run


def _job(
    run: Run,
    prepared: Prepared,
    machine: Machine,
    network: nn.Module,
    specification: Specification,
    watcher: Watcher,
) -> Fit:
    recipe, dataset, store = prepared.recipe, prepared.dataset, prepared.ingested.store
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
    train = np.array(dataset.splits["train"])  # in the order of the classes, so evenly spread is stratified
    spread = np.linspace(0, len(train) - 1, min(len(train), WATCHED)).round().astype(int)
    seen = replace(val, positions=train[spread])
    precision = prepared.arithmetic.precision

    def quick(network: nn.Module, loader: Loader) -> dict[str, float]:
        scores = answer(
            network, task, loader, device=machine.device, precision=lambda: machine.autocast(precision)
        )
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
        plan=_plan(prepared),
        machine=machine,
        arithmetic=prepared.arithmetic,
        folder=run.checkpoints,
        journal=Journal(run.journal),
        names=[sample.key for sample in dataset.samples],
        watcher=watcher,
        stop=lambda: 0,
    )


def _plan(prepared: Prepared) -> Plan:
    settings = prepared.recipe.training
    return Plan(
        cycles=prepared.cycles,
        accumulate=settings.accumulate,
        clip=settings.clip,
        ema=settings.ema,
        early_stopping=settings.early_stopping,
        select_by=settings.select_by,
        seed=settings.seed,
        checkpoint_seconds=60 * settings.checkpoint_minutes,
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
