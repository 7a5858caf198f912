"""What one training needs, how far it has come, and who is told: the nouns of the loop."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from pictune.data.loading import Batches
from pictune.run import Journal
from pictune.tasks.task import Task
from pictune.training.machine import Arithmetic, Machine
from pictune.training.optimizers import MakeOptimizer
from pictune.training.plan import Plan
from pictune.training.schedules import Schedule


class Watcher(Protocol):
    """Who is told how training goes; a progress bar, a web page, a test."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Called after every batch."""

    def epoch(self, facts: Mapping[str, Any]) -> None:
        """Called after every epoch with its line of the journal."""

    def say(self, sentence: str) -> None:
        """Called when something happened that a person should know."""


@dataclass
class Progress:
    """How far training has come: all that a checkpoint must hold beside tensors.

    Args:
        cut: Epochs in all, after later ones were left out for want of time; 0 when none were.
        kept: Of the best epochs, best first: score, minus log-loss, and number. As many as `Plan.soup` says.
        seconds: Spent in training so far; counted only where the plan limits it.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    scores: list[float] = field(default_factory=list)
    kept: list[tuple[float, float, int]] = field(default_factory=list)
    halvings: int = 0
    journal: int = 0
    done: bool = False
    cycles: list[int] = field(default_factory=list)
    cut: int = 0
    seconds: float = 0.0

    @property
    def best_epoch(self) -> int:
        """The epoch that did best so far, counted from 0; -1 before the first one."""
        return self.kept[0][2] if self.kept else -1


def all_learn(epoch: int) -> Collection[str]:
    """The plan of a training in which no layer waits."""
    return ()


@dataclass(frozen=True)
class Fit:
    """Everything one training needs, joined by a verb.

    Args:
        network: Learns in place. What has no gradient stays still throughout.
        task: Names the losses.
        loader: Training pictures, or their features.
        validate: Takes a network in evaluation mode, gives the task's quick numbers on the validation
            pictures and, under names that begin with ``train_``, on training pictures.
        make_optimizer: Builds the optimizer from parameter groups.
        weight_decay: For matrices and filters; never for biases and normalisation.
        schedule: Share of the highest rate at each moment.
        plan: How long and how carefully.
        machine: Where.
        arithmetic: In which precision and layout.
        folder: Where checkpoints lie.
        journal: Where facts of learning are written.
        names: File names by position, for naming the pictures of a bad batch.
        watcher: Who is told.
        stop: Gives the signal that asks to stop, or 0.
        rates: Share of the highest rate by tensor name; 1 for those not named.
        waiting: Tensors that are still frozen in an epoch, by name.
        anchors: Tensors that are pulled back to these values instead of to zero, by name (L2-SP).
        pull: How strongly, in the unit of weight decay.
    """

    network: nn.Module
    task: Task
    loader: Batches
    validate: Callable[[nn.Module], dict[str, float]]
    make_optimizer: MakeOptimizer
    weight_decay: float
    schedule: Schedule
    plan: Plan
    machine: Machine
    arithmetic: Arithmetic
    folder: Path
    journal: Journal
    names: Sequence[str]
    watcher: Watcher
    stop: Callable[[], int]
    rates: Mapping[str, float] = field(default_factory=dict)
    waiting: Callable[[int], Collection[str]] = all_learn
    anchors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pull: float = 0.0
