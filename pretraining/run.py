"""Trains the starter weights: `python -m pretraining.run --minutes 90 --voc FOLDER --camvid FOLDER`.

The same command goes on where it was stopped or killed, and ends with the same weights. How many epochs fit
into the minutes is measured once, at the beginning, and kept.
"""

# ruff: noqa: T201 - a script speaks on standard output
from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import nn

from pictune.files import write_json
from pictune.models.cnn import Cnn, resnet9
from pictune.models.losses import LOSSES
from pictune.models.preprocess import Preprocess
from pictune.run import Journal
from pictune.tasks.classification import Classification
from pictune.training.fitting import fit
from pictune.training.job import Fit
from pictune.training.machine import Arithmetic, Machine, place
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES
from pictune.training.signals import stop_signal
from pretraining.bank import Bank
from pretraining.loader import DrawnLoader
from pretraining.probes import Watched, scores, watched
from pretraining.scenes import CONTENTS

OUT = Path(__file__).parent / "out"
SMALL, LARGE = 64, 96  # pixels a side, first and at the end
MEAN, STD = (0.5,) * 3, (0.25,) * 3  # of the network's own preprocessing
EMA = 0.999


class Told:
    """Prints a line an epoch."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Says nothing: there are too many."""

    def epoch(self, facts: Mapping[str, Any]) -> None:
        """The loss, the probes and the time."""
        told = {k: round(v, 4) if isinstance(v, float) else v for k, v in facts.items()}
        print(f"{(time.monotonic() - self.started) / 60:6.1f} min {told}", flush=True)

    def say(self, sentence: str) -> None:
        """Prints the sentence."""
        print(sentence, flush=True)


def build(outputs: int, *, seed: int) -> nn.Sequential:
    """Preprocessing and network, at random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = resnet9(outputs=outputs)
    return nn.Sequential(OrderedDict(preprocess=Preprocess(mean=MEAN, std=STD), network=network))


def parts(network: nn.Module) -> tuple[Preprocess, Cnn]:
    """Preprocessing and network of what `build` made."""
    return cast(Preprocess, network.get_submodule("preprocess")), cast(Cnn, network.get_submodule("network"))


def seconds_of_epochs(
    job: Callable[[int], DrawnLoader], network: nn.Module, machine: Machine, task: Classification
) -> tuple[float, float]:
    """Seconds of an epoch of small and of large pictures, from the quickest of a few steps of each."""
    measured = []
    trial = place(build(len(task.classes), seed=0), machine.device, "channels_last").train()
    trial.load_state_dict(network.state_dict())
    for side in (SMALL, LARGE):
        loader, quickest = job(side), float("inf")
        batches = loader.batches(0)
        for _ in range(6):
            started = time.perf_counter()
            batch = next(batches)
            with machine.autocast("bf16"):
                outputs = trial(torch.from_numpy(batch.images))
            outputs.float().square().mean().backward()
            quickest = min(quickest, time.perf_counter() - started)
        measured.append(quickest * len(loader) * 1.06)  # optimizer, average and what else a step does
    return measured[0], measured[1]


def planned(
    folder: Path, minutes: float, large_share: float, measure: Callable[[], tuple[float, float, float]]
) -> dict[str, int]:
    """How many epochs of small and of large pictures fit; measured once for a folder.

    Args:
        folder: Of the run.
        minutes: For all.
        large_share: Of the time, for large pictures.
        measure: Gives seconds of an epoch of small and of large pictures, and of the probes.
    """
    path = folder / "plan.json"
    if not path.exists():
        small, large, probes = measure()
        epochs = {
            "small": max(round(60 * minutes * (1 - large_share) / (small + probes)), 1),
            "large": round(60 * minutes * large_share / (large + probes)),
        }
        write_json(path, {**epochs, "seconds": [small, large, probes], "minutes": minutes})
    kept = json.loads(path.read_text())
    return {"small": int(kept["small"]), "large": int(kept["large"])}


def train(given: argparse.Namespace, sets: list[Watched]) -> Path:
    """Trains until the plan is done; returns the folder."""
    folder = Path(given.out, given.name)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    machine, content = Machine(device=given.device, threads=given.threads), CONTENTS[given.content]
    bank = Bank(variants=given.variants, most=given.most, seed=given.seed).at(0)
    loss = LOSSES[given.loss].make()
    task = Classification(bank.names, multilabel=True, loss=loss)
    network = build(len(bank.names), seed=given.seed)
    place(network, machine.device, "channels_last")

    def loader(side: Callable[[int], int]) -> DrawnLoader:
        return DrawnLoader(
            bank,
            content,
            given.images,
            given.batch_size,
            side,
            shared=loss.accepts == "exclusive",
            seed=given.seed,
        )

    def validate(judged: nn.Module) -> dict[str, float]:
        numbers = scores(*parts(judged), sets, lambda: machine.autocast(given.precision))
        return {"accuracy": float(np.mean(list(numbers.values()))), **numbers}

    def measure() -> tuple[float, float, float]:
        validate(network.eval())
        started = time.perf_counter()
        print("at random:", validate(network.eval()), flush=True)
        probes = time.perf_counter() - started
        return *seconds_of_epochs(lambda side: loader(lambda _: side), network, machine, task), probes

    if given.epochs:
        plan = dict(zip(("small", "large"), given.epochs, strict=True))
        print("at random:", validate(network.eval()), flush=True)
    else:
        plan = planned(folder, given.minutes, given.large_share, measure)
    print(f"{len(bank.names)} classes, {plan}", flush=True)
    drawn = loader(lambda epoch: SMALL if epoch < plan["small"] else LARGE)
    with stop_signal() as stop:
        fit(
            joined(
                given,
                network=network,
                task=task,
                loader=drawn,
                validate=validate,
                machine=machine,
                epochs=sum(plan.values()),
                folder=folder,
                stop=stop,
            )
        )
    return folder


def joined(
    given: argparse.Namespace,
    *,
    network: nn.Module,
    task: Classification,
    loader: DrawnLoader,
    validate: Callable[[nn.Module], dict[str, float]],
    machine: Machine,
    epochs: int,
    folder: Path,
    stop: Callable[[], int],
) -> Fit:
    """Everything the loop needs; the schedule is half a cosine over all epochs."""
    optimizer = {"learning_rate": given.learning_rate, "weight_decay": given.weight_decay}
    return Fit(
        network=network,
        task=task,
        loader=loader,
        validate=validate,
        make_optimizer=OPTIMIZERS[given.optimizer].make(**optimizer),
        weight_decay=given.weight_decay,
        schedule=SCHEDULES["cosine"].make(warmup_epochs=1.0),
        plan=Plan(cycles=(epochs,), ema=EMA, seed=given.seed, clip=given.clip),
        machine=machine,
        arithmetic=Arithmetic(given.precision, "channels_last", "as given"),
        folder=folder / "checkpoints",
        journal=Journal(folder / "journal.jsonl"),
        names=[f"picture {n}" for n in loader.positions],
        watcher=Told(),
        stop=stop,
    )


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=90.0, help="for all epochs, about")
    parser.add_argument(
        "--epochs", type=int, nargs=2, metavar=("SMALL", "LARGE"), help="instead of --minutes"
    )
    parser.add_argument("--name", default="starter", help="of the folder under --out")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--voc", type=Path, help="blood cells with boxes, to be watched")
    parser.add_argument("--camvid", type=Path, help="road scenes with masks, to be watched")
    parser.add_argument("--content", choices=sorted(CONTENTS), default="mixture")
    parser.add_argument("--images", type=int, default=16384, help="an epoch")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--large-share", type=float, default=0.25, help="of the time, for pictures of 96 pixels"
    )
    parser.add_argument("--variants", type=int, default=8, help="drawings of each class at a time")
    parser.add_argument("--most", type=int, help="classes of each family; for tests")
    parser.add_argument("--loss", default="soft_target")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main() -> None:
    """Trains as the command line says."""
    cv2.setNumThreads(1)
    given = arguments()
    train(given, watched(given.out / "watched", voc=given.voc, camvid=given.camvid))


if __name__ == "__main__":
    main()
