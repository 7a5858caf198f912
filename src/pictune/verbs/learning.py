"""The middle of `train`: from everything settled to a model and its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
from safetensors.torch import load_file
from torch import nn

from pictune.data.augmentation import Augmentation, preview_grid
from pictune.data.loading import Batches, Loader
from pictune.errors import InputError, StoppedError
from pictune.files import replace_file, write_tensors, write_text
from pictune.models.boundary import Cut
from pictune.models.freezing import EVERYTHING_BELOW, freeze_layers, frozen_tensors
from pictune.recipe_text import dump_yaml
from pictune.recipes import Recipe
from pictune.run import Journal, Run
from pictune.tasks.answering import Placing, answers
from pictune.tasks.specification import Specification
from pictune.training.fitting import fit, merit_of
from pictune.training.job import Fit, Progress, Watcher, all_learn
from pictune.training.machine import Machine, place
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES
from pictune.training.signals import stop_signal
from pictune.training.souping import greedy_soup
from pictune.verbs import probing, transferring
from pictune.verbs.lessons import Lesson, growing, lesson_of
from pictune.verbs.preparing import Prepared
from pictune.verbs.shipping import probe_rows, ship
from pictune.verbs.tables import TABLES
from pictune.verbs.transferring import Loaders, Place


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
    store = prepared.ingested.store
    assert store is not None, "training stores its pictures"
    try:
        lesson = lesson_of(prepared.recipe, prepared.dataset, store, specification, machine)
        _preview(run, lesson.train)
        with stop_signal() as stop:
            student = _Student(run, prepared, machine, network, lesson, watcher, stop)
            recipe, progress, soup = student.learn()
    except (StoppedError, KeyboardInterrupt):
        run.write("status.json", {"state": "stopped"})
        run.note_time("stopped", seconds=round(time.monotonic() - started, 1))
        raise
    except InputError as error:
        run.write("status.json", {"state": "failed", "reason": str(error)})
        raise
    chosen = dict(run.read("made_by.json")["chosen"])
    chosen |= dict.fromkeys(_changed(prepared.recipe, recipe), "auto: the best of the probe")
    write_text(run.path / "recipe.yaml", dump_yaml(recipe, TABLES, reasons=chosen))
    ship(run, replace(prepared, recipe=recipe), machine, network, specification, progress, soup)
    seconds = round(time.monotonic() - started, 1)
    run.note_time("finished", seconds=seconds)
    name = "test" if "test" in prepared.dataset.splits else "val"
    best = progress.best_epoch + 1 if soup else 0
    run.write("status.json", {"state": "finished", "report": name, "best_epoch": best})
    return run


def _changed(before: Recipe, after: Recipe) -> list[str]:
    """Settings of parts that the probe has chosen, as ``section.setting``."""
    return [
        f"{section}.{name}"
        for section in ("optimizer", "loss")
        for name, value in getattr(after, section).settings.items()
        if getattr(before, section).settings.get(name) != value
    ]


@dataclass(frozen=True)
class _Beforehand:
    """Tells a watcher of batches and of what happens, and not of epochs, which are counted anew later."""

    watcher: Watcher

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """As it is."""
        self.watcher.step(epoch, epochs, step, steps, loss)

    def epoch(self, facts: Mapping[str, Any]) -> None:
        """Nothing."""

    def say(self, sentence: str) -> None:
        """Nothing: how long it takes to the end is said of the epochs that come."""


@dataclass(frozen=True)
class _Student:
    """A network and everything it learns from."""

    run: Run
    prepared: Prepared
    machine: Machine
    network: nn.Module
    lesson: Lesson
    watcher: Watcher
    stop: Callable[[], int]

    def learn(self) -> tuple[Recipe, Progress, tuple[int, ...]]:
        """Probes, fits and averages.

        Returns:
            The recipe with the probe's choice, how far training came, and the epochs that are shipped.
        """
        place(self.network, self.machine.device, self.prepared.arithmetic.memory_format)
        self.measure_statistics()
        recipe = self.probed()
        self.head_alone()
        apart = self.prepared.reading != "pixels"
        made = transferring.cut_network(self.network, recipe) if apart else None
        assert made is not None or not apart, "a cut that held once holds again"
        pictures = Loaders(
            growing(self.lesson.train, recipe, self.lesson.view), self.lesson.val, self.lesson.seen
        )
        loaders = self.features(made, pictures, recipe) if made else pictures
        job = self.job(recipe, made, loaders)
        progress = fit(job)
        soup = greedy_soup(
            self.run.checkpoints, progress, job.network, job.validate, select_by=recipe.training.select_by
        )
        if self.folder.is_relative_to(self.run.path):
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.probe_did_better(progress):
            self.watcher.say("No epoch did better than the probe's head in validation; that is kept.")
            return recipe, progress, ()
        if len(soup) > 1:
            self.watcher.say(f"The weights of {len(soup)} epochs are averaged.")
        return recipe, progress, soup

    @property
    def probed_head(self) -> Path:
        """Where the probe's best head waits for the epochs to do better."""
        return self.run.checkpoints / "probe.safetensors"

    def probe_did_better(self, progress: Progress) -> bool:
        """Whether the head that the probe found beats every epoch; if so, it is in the network afterwards."""
        rows = probe_rows(self.run)
        if not rows or not self.probed_head.exists():
            return False
        quick = {name.removeprefix("val_"): value for name, value in rows[0].items()}
        if merit_of(quick, self.prepared.recipe.training.select_by) <= progress.kept[0][:2]:
            return False
        head = load_file(self.probed_head)
        probing.take_over(self.network, probing.Probed(tuple(rows), head["weight"], head["bias"]))
        return True

    @property
    def folder(self) -> Path:
        """Where features lie: in the cache, or in the run for as long as it learns."""
        keeps = self.prepared.recipe.transfer.cache
        return transferring.feature_folder() if keeps else self.run.checkpoints / "features"

    @property
    def place(self) -> Place:
        """What a pass through frozen layers needs to know."""
        prepared, store = self.prepared, self.prepared.ingested.store
        assert store is not None, "training stores its pictures"
        return Place(
            machine=self.machine,
            precision=prepared.arithmetic.precision,
            store=store.name,
            network=prepared.recipe.model.name,
            look=self.lesson.look,
            varied=self.lesson.varied,
            folder=self.folder,
            rows=len(prepared.dataset),
            watcher=self.watcher,
            stop=self.stop,
        )

    def features(self, made: Cut, pictures: Loaders, recipe: Recipe) -> Loaders:
        """The pictures as features."""
        keep = self.prepared.reading == "cached"
        views = min(transferring.views_of(recipe), sum(self.prepared.cycles))  # later ones are not looked at
        return transferring.as_features(made, pictures, self.place, views=views, keep=keep)

    def measure_statistics(self) -> None:
        """Fits normalisation to the pictures before a head learns on layers that move afterwards."""
        technique = transferring.technique_of(self.prepared.recipe)
        wanted = technique.head_first and self.prepared.recipe.transfer.statistics == "measured"
        if wanted and not (self.run.checkpoints / "last.safetensors").exists():
            transferring.measure_on(self.network, self.lesson.train, self.place)

    def probed(self) -> Recipe:
        """The recipe after the probe, whose head is in the network if the technique goes on from there."""
        journal, recipe = Journal(self.run.journal), self.prepared.recipe
        technique = transferring.technique_of(recipe)
        if (self.run.checkpoints / "last.safetensors").exists():
            rows = [line["rows"] for line in journal.lines("probe")]
            return probing.with_best(recipe, rows[0][0]) if rows and technique.head_only else recipe
        journal.cut(0)
        open_ = self.prepared.open_settings if technique.head_only else probing.VARIED[:2]
        if not technique.probe_epochs and not (technique.head_only and technique.heads > 1 and open_):
            return recipe
        if recipe.model.head != "none":
            return recipe  # such a head has more to learn than a probe can find out
        made = probing.probe_cut(self.network, image_size=int(recipe.model.image_size))
        if made is None:
            self.watcher.say("This network's head is more than one linear layer, so no probe is made.")
            return recipe
        read = recipe if technique.head_only else probing.for_fine_tuning(recipe)
        epochs = technique.probe_epochs or int(recipe.training.epochs)
        found = probing.probe(
            made,
            Loaders(self.lesson.train, self.lesson.val, self.lesson.seen),
            read,
            self.place,
            task=self.lesson.task,
            truths=self.lesson.truths,
            class_weights=self.lesson.class_weights,
            settings=probing.grid(read, open_, most=technique.heads),
            epochs=epochs,
            views=min(transferring.views_of(recipe), epochs) if technique.head_only else 0,
        )
        journal.add("probe", rows=list(found.rows))
        self.watcher.say(found.sentence(recipe.training.select_by))
        if technique.head_only:
            write_tensors(
                self.probed_head, {"weight": found.weight, "bias": found.bias}, facts={"format": "pt"}
            )
            return probing.with_best(recipe, found.rows[0])
        probing.take_over(self.network, found)
        return recipe

    def head_alone(self) -> None:
        """Trains what stands on an encoder's maps by itself, on cached maps, before all layers learn.

        It takes the place of the linear probe where the head is more than a linear layer.
        """
        recipe, folder = self.prepared.recipe, self.run.checkpoints / "head"
        epochs = transferring.technique_of(recipe).probe_epochs
        if recipe.model.head == "none" or not epochs or (self.run.checkpoints / "last.safetensors").exists():
            return
        folder.mkdir(exist_ok=True)
        learning = {name: parameter.requires_grad for name, parameter in self.network.named_parameters()}
        backbone = transferring.backbone_of(self.network)
        freeze_layers(backbone, frozen_tensors(backbone, EVERYTHING_BELOW))
        try:
            made = transferring.cut_network(self.network, recipe)
            assert made is not None, "nothing below the head learns now"
            lesson = self.lesson
            alone = replace(lesson.train, compose=None)  # the head sees pictures as they are
            pictures = Loaders(alone, lesson.val, lesson.seen)
            loaders = transferring.as_features(made, pictures, self.place, views=0, keep=True)
            job = self.job(recipe, made, loaders)
            lonely = replace(
                job,
                plan=replace(job.plan, cycles=(epochs,), soup=1, seconds=0.0),
                folder=folder,
                journal=Journal(folder.with_suffix(".jsonl")),
                watcher=_Beforehand(self.watcher),
                rates={},
                waiting=all_learn,
                anchors={},
            )
            progress = fit(lonely)
            greedy_soup(folder, progress, lonely.network, lonely.validate, select_by=lonely.plan.select_by)
        finally:
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad = learning[name]
        name, score = recipe.training.select_by, max(progress.scores)
        self.watcher.say(
            f"The head learnt alone for {epochs} epochs: validation {name.replace('_', ' ')} {score:.3f}."
        )

    def job(self, recipe: Recipe, made: Cut | None, loaders: Loaders) -> Fit:
        """What the loop is handed."""
        task, machine, precision = self.lesson.task, self.machine, self.prepared.arithmetic.precision
        samples, store = self.prepared.dataset.samples, self.prepared.ingested.store
        assert store is not None, "training stores its pictures"
        keys = [sample.key for sample in samples]
        placing = Placing(store, [(s.width, s.height) for s in samples], self.lesson.view)

        def quick(network: nn.Module, loader: Batches) -> dict[str, float]:
            said = answers(
                network,
                task,
                loader,
                placing,
                device=machine.device,
                precision=lambda: machine.autocast(precision),
            )
            rows = [int(i) for i in loader.positions]
            truths = [self.lesson.truths[i] for i in rows]
            return task.quick(task.score([keys[i] for i in rows], said, truths, None))

        def validate(network: nn.Module) -> dict[str, float]:
            seen = {f"train_{k}": v for k, v in quick(network, loaders.seen).items()}
            return {**quick(network, loaders.val), **seen}

        above = "network." if made else ""  # what stands before a tensor's name in the network that is fitted
        rates = transferring.rates_of(self.network, recipe)
        waiting = transferring.waiting_of(
            self.network, transferring.technique_of(recipe), int(recipe.training.epochs)
        )
        anchors = transferring.anchors_of(self.network) if recipe.transfer.l2_sp else {}
        optimizer = recipe.optimizer
        return Fit(
            network=made.above if made else self.network,
            task=task,
            loader=loaders.train,
            validate=validate,
            make_optimizer=OPTIMIZERS[optimizer.name].make(**optimizer.settings),
            weight_decay=float(optimizer.settings["weight_decay"]),
            schedule=SCHEDULES[recipe.schedule.name].make(**recipe.schedule.settings),
            plan=_plan(self.prepared),
            machine=machine,
            arithmetic=self.prepared.arithmetic,
            folder=self.run.checkpoints,
            journal=Journal(self.run.journal),
            names=keys,
            watcher=self.watcher,
            stop=self.stop,
            rates={f"{above}{name}": rate for name, rate in rates.items()},
            waiting=lambda epoch: frozenset(f"{above}{name}" for name in waiting(epoch)),
            anchors={f"{above}backbone.{name}": tensor for name, tensor in anchors.items()},
            pull=recipe.transfer.l2_sp,
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
        soup=settings.soup,
        seconds=prepared.seconds,
    )


def _preview(run: Run, loader: Loader) -> None:
    """Saves what the network is going to see of a few pictures."""
    path = run.path / "augmentation.png"
    if path.exists() or not isinstance(loader.look, Augmentation):
        return
    rows = loader.positions[:: max(1, len(loader.positions) // 6)][:6]
    grid = preview_grid(
        [loader.pictures[int(i)] for i in rows],
        loader.look,
        views=6,
        seed=loader.seed,
        composed=lambda row, view: loader.composed(view, row, int(rows[row]))[0],
    )
    encoded = cv2.imencode(".png", grid[:, :, ::-1])[1].tobytes()
    replace_file(path, lambda temporary: _write(temporary, encoded))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
