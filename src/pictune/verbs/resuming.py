"""Going on with a run: after a stop or a kill, or for more epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pictune.data.sample import Dataset
from pictune.errors import DataError, RecipeError, RunError, WeightsError
from pictune.models.hub import sha256_of
from pictune.models.weights import Weights
from pictune.recipe_text import load_yaml
from pictune.recipes import read_recipe
from pictune.run import Journal, Run
from pictune.training.job import Watcher
from pictune.training.machine import Arithmetic, Machine
from pictune.verbs import reading
from pictune.verbs.learning import learn
from pictune.verbs.lessons import teacher_of
from pictune.verbs.preparing import (
    Prepared,
    first_network,
    needs_weights,
    open_named,
    specify,
    teacher_checksum,
)
from pictune.verbs.reading import Progress, findings_of, origin_of, splits_of
from pictune.verbs.tables import TABLES


def extends(epochs: int | str | None) -> bool:
    """Whether ``--epochs`` asks for more epochs of a finished run, as ``+5`` does."""
    return isinstance(epochs, str) and epochs.startswith("+")


def go_on(
    run: Run,
    *,
    epochs: int | str | None,
    changed: Sequence[str],
    watcher: Watcher,
    progress: Progress | None,
) -> Run:
    """Resumes an unfinished run, or extends a finished one.

    Args:
        run: Is locked while it learns.
        epochs: ``"+5"`` for five more, or None.
        changed: Settings that the user gave, by name; there must be none.
        watcher: Is told how it goes.
        progress: Called with how many pictures are opened, and how many there are.
    """
    if changed:
        raise RecipeError(
            f"{run.name} goes on with the recipe it was started with; these cannot change now",
            causes=changed,
            instead="Train the data again with the new settings, or extend the run with --epochs +5.",
        )
    with run.lock():
        made_by = origin_of(run)
        cycles = tuple(made_by["cycles"])
        if extends(epochs):
            cycles = _extended(run, cycles, str(epochs))
            run.write("made_by.json", {**made_by, "cycles": list(cycles)})
        elif run.state == "finished":
            raise RunError(f"{run.name} is finished", instead="Extend it with --epochs +5, or train anew.")
        stored = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES)
        machine = Machine(device=stored.training.device, threads=int(made_by["threads"]))
        named = reading.read_named(Path(made_by["data"]), stored.data)
        told = made_by["weights"]
        _, ingested, _ = open_named(
            named, stored, machine, watcher, scratch=told["kind"] in {"none", "starter"}, progress=progress
        )
        dataset = _kept_split(ingested.dataset, splits_of(run))
        weights = _weights_of(told)
        arithmetic = Arithmetic(stored.training.precision, stored.training.memory_format, "as the run began")
        open_settings, reads = tuple(made_by["open"]), made_by["reading"]
        prepared = Prepared(
            stored,
            dataset,
            ingested,
            weights,
            arithmetic,
            cycles,
            open_settings,
            reads,
            float(made_by["seconds"]),
        )
        specification = specify(stored, dataset, weights)
        whole = (run.checkpoints / "last.safetensors").exists() and not needs_weights(stored)
        if whole:
            weights = replace(weights, kind="none", path=None)
        _check_unchanged(weights)
        teacher_of(stored, dataset, machine)  # it must be there, whatever else has changed
        if teacher_checksum(stored) != made_by["teacher"]:
            raise RunError(
                f"the teacher {stored.transfer.teacher} has been trained anew since the run began",
                instead="Train anew with --new, and so with the teacher as it is now.",
            )
        network = first_network(stored, specification, weights)
        run.write("status.json", {"state": "running"})
        run.note_time("resumed")
        run.point_latest()
        return learn(run, prepared, machine, network, specification, watcher)


def _weights_of(told: Mapping[str, Any]) -> Weights:
    """The weights that the run began with, as it wrote them down."""
    return Weights(
        told["kind"],
        told["source"],
        told["licence"],
        Path(told["path"]) if told["path"] else None,
        told["sha256"],
        told["sentence"],
    )


def _check_unchanged(weights: Weights) -> None:
    """Refuses to go on from another file: what is frozen comes from it, and would not fit what was learnt.

    Raises:
        WeightsError: When the file is another one than when the run began, or gone.
    """
    if weights.path is None:
        return
    if not weights.path.is_file():
        raise WeightsError(
            f"there is no file of weights at {weights.path} any more, and the run began with it",
            instead="Put it back, or train anew with --new.",
        )
    if sha256_of(weights.path) != weights.sha256:
        raise WeightsError(
            f"the weights {weights.path.name} have changed since the run began",
            instead="Put the old file back, or train anew with --new.",
        )


def _extended(run: Run, cycles: tuple[int, ...], epochs: str) -> tuple[int, ...]:
    if run.state != "finished":
        if len(cycles) > 1 and epochs == f"+{cycles[-1]}":
            return cycles  # the same command once more, after it was stopped
        raise RunError(
            f"{run.name} is not finished yet", instead=f"Finish it first: pictune train {run.path}"
        )
    if not epochs[1:].isdecimal() or int(epochs[1:]) < 1:
        raise RecipeError(f"--epochs {epochs}: after the plus stands a number of epochs, such as +5")
    return (*_lived(cycles, len(Journal(run.journal).lines("epoch"))), int(epochs[1:]))


def _lived(cycles: tuple[int, ...], epochs: int) -> tuple[int, ...]:
    """The cycles as far as they came: an early stop or a killed extension leaves some of it out."""
    lived = []
    for length in cycles:
        if epochs > 0:
            lived.append(min(length, epochs))
            epochs -= length
    return tuple(lived)


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
    return replace(dataset, splits=splits, findings=findings_of(kept["findings"]))
