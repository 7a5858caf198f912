"""A whole training in a few milliseconds: tiny pictures, a tiny network, and everything `fit` needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from looks import Look
from pictune.data.loading import Loader
from pictune.data.truths import ClassTruths
from pictune.models.losses import LOSSES
from pictune.run import Journal
from pictune.tasks.answering import answers
from pictune.tasks.classification import Classification
from pictune.tasks.task import Placed
from pictune.training.job import Fit
from pictune.training.machine import Arithmetic, Machine
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES

SIDE, CLASSES, TRAIN, VAL = 6, ("a", "b", "c"), 24, 9
PLAIN = Arithmetic("fp32", "contiguous", "as given")


class Tiny(nn.Module):
    """Two layers on the raw pixels; with normalisation only where a test wants buffers."""

    def __init__(self, *, normalised: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if normalised else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(4 * SIDE * SIDE, len(CLASSES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 255 - 0.5
        return self.last(self.drop(self.norm(self.first(pixels)).relu().flatten(1)))


class Recorder:
    """A watcher that remembers, and may do something after a step."""

    def __init__(self, after: Callable[[int], None] = lambda _: None) -> None:
        self.losses: list[float] = []
        self.epochs: list[Mapping[str, Any]] = []
        self.said: list[str] = []
        self._after = after

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        self.losses.append(loss)
        self._after(len(self.losses))

    def epoch(self, facts: Mapping[str, Any]) -> None:
        self.epochs.append(facts)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


def tiny(seed: int = 0, *, normalised: bool = False, dropout: float = 0.0) -> Tiny:
    """A tiny network, always the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Tiny(normalised=normalised, dropout=dropout)


def noisy(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A view that depends on its generator."""
    return (pixels + generator.integers(0, 30, pixels.shape)).clip(0, 255).astype(np.uint8)


def loader(**changes: Any) -> Loader:
    """Pictures whose brightest channel is their class, the training ones."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 160, (TRAIN + VAL, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(TRAIN + VAL) % len(CLASSES)
    pixels[np.arange(TRAIN + VAL), :, :, labels] += 40
    whole = Loader(
        pictures=list(pixels),
        truths=ClassTruths(np.eye(len(CLASSES), dtype=np.float32)[labels]),
        positions=np.arange(TRAIN),
        look=Look(noisy),
        batch_size=4,
        shuffled=True,
        workers=0,
    )
    return replace(whole, **changes)


def anywhere(position: int) -> Placed:
    """A picture's place, which a classifier does not ask for."""
    return Placed(np.eye(3), SIDE, SIDE)


def classifying(*class_weights: float) -> Classification:
    """The task, with a weight for each class or with none."""
    weights = torch.tensor(class_weights) if class_weights else None
    return Classification(CLASSES, loss=LOSSES["cross_entropy"].make(), class_weights=weights)


def lesson(
    folder: Path,
    *,
    network: nn.Module | None = None,
    optimizer: str = "sgd",
    rate: float = 0.05,
    decay: float = 0.0,
    schedule: str = "cosine",
    schedule_settings: Mapping[str, Any] | None = None,
    pictures: Loader | None = None,
    plan: Plan | None = None,
    **changes: Any,
) -> Fit:
    """Everything `fit` needs, in a folder that may hold an earlier attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures if pictures is not None else loader()
    task = classifying()
    seen = replace(
        pictures,
        positions=np.arange(TRAIN, TRAIN + VAL),
        shuffled=False,
        weights=None,
        look=Look(),
    )
    truths = np.stack([pictures.truths[i] for i in range(TRAIN, TRAIN + VAL)]) > 0

    def validate(judged: nn.Module) -> dict[str, float]:
        scores = np.stack(list(answers(judged, task, seen, anywhere, device=torch.device("cpu"))))
        surprise = -np.log(np.clip(scores[truths], 1e-12, 1)).mean()
        return {"accuracy": float((scores.argmax(1) == truths.argmax(1)).mean()), "log_loss": float(surprise)}

    job = Fit(
        network=network if network is not None else tiny(normalised=True, dropout=0.3),
        task=task,
        loader=pictures,
        validate=validate,
        make_optimizer=OPTIMIZERS[optimizer].make(learning_rate=rate, weight_decay=decay),
        weight_decay=decay,
        schedule=SCHEDULES[schedule].make(**(schedule_settings or {})),
        plan=plan if plan is not None else Plan(cycles=(3,)),
        machine=Machine(device="cpu", threads=1),
        arithmetic=PLAIN,
        folder=folder,
        journal=Journal(folder / "journal.jsonl"),
        names=[f"{position}.png" for position in range(TRAIN + VAL)],
        watcher=Recorder(),
        stop=lambda: 0,
    )
    return replace(job, **changes)


def left_behind(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, byte for byte."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
