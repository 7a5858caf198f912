"""The end of `train`: the model is written, and judged as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from pictune.data.sample import Dataset
from pictune.models.lora import merge_lora
from pictune.recipes import Recipe
from pictune.run import Journal, Run
from pictune.tasks.kinds import KINDS
from pictune.tasks.model import Model
from pictune.tasks.specification import Specification
from pictune.training.job import Progress
from pictune.training.machine import Machine
from pictune.verbs import transferring
from pictune.verbs.judging import judge, versions
from pictune.verbs.preparing import Prepared


def probe_rows(run: Run) -> list[dict[str, Any]]:
    """What the probe found, the best first; nothing where there was none."""
    return [row for line in Journal(run.journal).lines("probe") for row in line["rows"]]


def ship(
    run: Run,
    prepared: Prepared,
    machine: Machine,
    network: nn.Module,
    specification: Specification,
    progress: Progress,
    soup: tuple[int, ...],
) -> None:
    """Writes the model, and judges it as it was written."""
    recipe, dataset, store = prepared.recipe, prepared.dataset, prepared.ingested.store
    assert store is not None, "training stores its pictures"
    best = Journal(run.journal).lines("epoch")[progress.best_epoch] if soup else probe_rows(run)[0]
    quick = {name: value for name, value in best.items() if name.startswith("val_")}
    facts = {
        "run": run.name,
        "fingerprint": dataset.fingerprint,
        "versions": versions(),
        "validation": quick,
        "training": _told(run, recipe, soup, prepared.reading),
        **({"goal": recipe.evaluation.goal} if KINDS[specification.task].thresholds else {}),
    }
    merge_lora(transferring.backbone_of(network))
    trained = Model(replace(specification, facts=facts), network.eval(), machine.device)
    thresholds = _thresholds(trained, dataset, store, goal=recipe.evaluation.goal)
    Model(replace(trained.specification, thresholds=thresholds), network, machine.device).save(run.model)
    # What is judged is what is shipped, in full precision: the network that learnt may still compute in bf16.
    model = Model.load(run.model, device=machine.device)
    name = "test" if "test" in dataset.splits else "val"
    judge(
        run,
        model,
        dataset.split(name),
        [store[i] for i in dataset.splits[name]],
        name=name,
        evaluation=recipe.evaluation,
        seed=recipe.training.seed,
        select_by=recipe.training.select_by,
        findings=dataset.findings,
    )


def _thresholds(model: Model, dataset: Dataset, store: Sequence[Any], *, goal: str) -> tuple[float, ...]:
    """From which score on an answer of each class counts, chosen on the validation pictures."""
    if not KINDS[model.specification.task].thresholds:
        return ()
    rows = [i for i in dataset.splits["val"] if dataset.samples[i].annotation is not None]
    samples = [dataset.samples[i] for i in rows]
    said = model.answers([store[i] for i in rows], sizes=[(s.width, s.height) for s in samples])
    keys, truths = [s.key for s in samples], [s.annotation for s in samples]
    return model.task.thresholds_for(model.task.score(keys, said, truths, None), goal=goal)


def _told(run: Run, recipe: Recipe, soup: Sequence[int], reading: str) -> dict[str, Any]:
    """How it was trained, for the readers of the report."""
    technique, transfer, training = recipe.technique, recipe.transfer, recipe.training
    cut_short = Journal(run.journal).lines("cut")
    planned = f" of {cut_short[0]['planned']}, as many as the time allowed" if cut_short else ""
    epochs = len(Journal(run.journal).lines("epoch"))
    facts = {
        "technique": technique.name
        + "".join(f", {key} {value}" for key, value in technique.settings.items()),
        "frozen": transfer.freeze if technique.name != "head" else "backbone",
        "epochs": f"{epochs}{planned}",
        "weights of epoch": ", ".join(str(epoch + 1) for epoch in soup) or "none: the probe's head",
        "precision": training.precision,
        "optimizer": f"{recipe.optimizer.name}, rate {recipe.optimizer.settings['learning_rate']:g}",
        "epochs read": transferring.SHOWN[reading],
    }
    told: dict[str, tuple[Any, Any]] = {
        "layer decay": (transfer.layer_decay, 1.0),
        "l2-sp": (transfer.l2_sp, 0.0),
    }
    told |= {"teacher": (transfer.teacher and Path(transfer.teacher).name, None)}
    return facts | {name: value for name, (value, usual) in told.items() if value != usual}
