"""How high the learning rate may be: a short training in which it grows from far too low to far too high.

The learning rate range test of Smith (2017, arXiv 1506.01186). At first nothing moves; then the loss falls,
ever faster; then it rises again, because steps overshoot. A good highest rate lies where it falls fastest.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import nn

from pictune.data.loading import Batch
from pictune.errors import DivergedError, MachineError, RecipeError
from pictune.models.freezing import train_mode
from pictune.tasks.task import Task
from pictune.training.fitting import to_device
from pictune.training.machine import Arithmetic, Machine, addressed_randomness, is_out_of_memory, place
from pictune.training.optimizers import MakeOptimizer, parameter_groups

MEMORY = 0.9  # of the running mean of the losses
RISEN = 4.0  # the mean is this many times its lowest: overshot for good
SETTLING = 5  # steps before the mean says anything
FEWEST_STEPS = 10
MARGIN = 3.0  # how far the suggestion stays below the rate of the lowest loss
HALF_WINDOWS = (0.5, 0.75, 1.1, 1.6)  # of the lines that are fitted, in powers of ten
FEWEST_BESIDE = 5  # steps on either side that a fitted line sees at least
MEDIAN = 7  # steps of the running median that shows bad batches at first
ROUNDS = 3  # of fitting; what lay far off counts less in the next
SURE = 3.0  # standard errors by which a fall must stand out from the noise
CLEAR = 7.0  # standard errors from which on the lines need not see farther

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RateCurve:
    """The loss at every rate that was tried, and what follows from it.

    Args:
        rates: (m) learning rates, ascending by one factor; the highest of all layers where layers differ.
        losses: (m) loss of one batch each, before the step at this rate.
        smooth: (m) their running mean.
        suggestion: A highest rate for training.
        diverged: Whether the loss rose for good before the highest rate was reached.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float
    diverged: bool


def find_rate(
    network: nn.Module,
    task: Task,
    batches: Iterator[Batch],
    *,
    make_optimizer: MakeOptimizer,
    weight_decay: float,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    machine: Machine,
    arithmetic: Arithmetic,
    seed: int,
    rates: Mapping[str, float] | None = None,
) -> RateCurve:
    """Trains a copy of the network, each step at a higher rate, until the loss rises for good.

    It stops when a loss is no finite number, or when the running mean is four times its lowest. How the
    suggestion follows from the curve says `suggest`. Frozen layers stay frozen.

    Args:
        network: Left untouched; as it stands before training, its frozen parameters without gradient.
        task: Names the losses.
        batches: At least as many as steps; fewer make a shorter curve.
        make_optimizer: Builds the optimizer; its own rate is overruled.
        weight_decay: For matrices and filters; never for biases and normalisation.
        lowest: The first rate, above 0.
        highest: The last rate, above the first.
        steps: How many rates, 10 or more.
        machine: Where.
        arithmetic: In which precision and layout.
        seed: Where the randomness of dropout starts.
        rates: Share of the rate by tensor name; 1 for those not named.

    Raises:
        RecipeError: When the range is none.
        DivergedError: When the loss is no finite number even before the first step.
        MachineError: When memory ran out.
    """
    if not 0 < lowest < highest < math.inf or steps < FEWEST_STEPS:
        raise RecipeError(
            f"rates from {lowest:g} to {highest:g} in {steps} steps are no range to try",
            instead=f"Begin above 0, end higher, and take at least {FEWEST_STEPS} steps.",
        )
    trial = place(copy.deepcopy(network), machine.device, arithmetic.memory_format)
    assert any(p.requires_grad for p in trial.parameters()), "something learns"
    train_mode(trial)
    optimizer = make_optimizer(parameter_groups(trial, weight_decay=weight_decay, rates=rates))
    step = _stepper(trial, task, optimizer, machine, arithmetic, seed)
    tried = [float(rate) for rate in np.geomspace(lowest, highest, steps)]
    try:
        return _curve(tried, batches, step)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MachineError(
            "memory ran out while rates were tried",
            instead="Use a smaller --image-size, --batch-size or --model.",
        ) from error


def _stepper(
    network: nn.Module,
    task: Task,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    arithmetic: Arithmetic,
    seed: int,
) -> Callable[[int, float, Batch], float]:
    """What makes one step, by number, rate and batch, and gives the loss before it."""
    accelerator = machine.accelerator(arithmetic.precision)
    wrapped, stepping = accelerator.prepare(network, optimizer)

    def step(number: int, rate: float, batch: Batch) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        with addressed_randomness(seed, 0, number, machine.device):
            with accelerator.autocast():
                losses = task.losses(wrapped, to_device(batch, machine.device))
            loss = torch.stack(list(losses.values())).sum()
            value = float(loss.detach())
            if math.isfinite(value):
                accelerator.backward(loss)
                stepping.step()
            optimizer.zero_grad(set_to_none=True)
        return value

    return step


def _curve(
    tried: Sequence[float], batches: Iterator[Batch], step: Callable[[int, float, Batch], float]
) -> RateCurve:
    losses: list[float] = []
    smooth: list[float] = []
    mean, diverged = 0.0, False
    for number, (rate, batch) in enumerate(zip(tried, batches, strict=False)):
        loss = step(number, rate, batch)
        if not math.isfinite(loss):
            diverged = True
            break
        losses.append(loss)
        mean = MEMORY * mean + (1 - MEMORY) * loss
        smooth.append(mean / (1 - MEMORY ** (number + 1)))  # or the first means would be drawn to zero
        if len(smooth) > SETTLING and smooth[-1] > RISEN * min(smooth[SETTLING:]):
            diverged = True
            break
    if not losses:
        raise DivergedError(
            "The loss is no finite number even before the first step"
            if diverged
            else "There was no batch to learn from, so no rate could be tried",
            instead="Look at the pictures, or choose other weights: --weights none",
        )
    rates = tuple(tried[: len(losses)])
    return RateCurve(rates, tuple(losses), tuple(smooth), suggest(rates, losses, smooth), diverged)


def suggest(rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float]) -> float:
    """The rate at which the loss falls fastest, well below the rate at which it is lowest.

    1. What comes after the lowest running mean is left out: an explosion would bend every fit.
    2. Through each step and those around it, half a power of ten to both sides, goes a straight line of
       loss over log rate; the nearer count more, and those that lie far off count less (locally weighted
       regression, Cleveland 1979). Its height says where the loss is lowest, its slope how fast it falls.
    3. Of the rates up to a third of the lowest's, that one is suggested whose fall is steepest even if
       the noise flattered it: slope plus three standard errors is most negative. At the ends of the curve,
       where few steps speak, the error is larger, so a chance fall there is not taken for the steepest.
    4. Unless that fall is seven standard errors steep, the lines look farther, up to 1.6 powers of ten.
    5. Where no fall stands out from the noise, a third of the lowest's rate is suggested.

    Args:
        rates: (m) learning rates, ascending by one factor.
        losses: (m) at each.
        smooth: (m) their running mean.
    """
    first = min(SETTLING, len(smooth) - 1)
    used = first + int(np.argmin(smooth[first:])) + 1
    tried = np.asarray(rates[:used], np.float64)
    loss = np.asarray(losses[:used], np.float64)
    for half in HALF_WINDOWS:
        level, slope, error = _local_lines(np.log10(tried), loss, half)
        ceiling = float(tried[int(np.argmin(level))]) / MARGIN
        surest = np.where(tried <= ceiling, slope + SURE * error, np.inf)
        steepest = int(np.argmin(surest))
        if slope[steepest] < -CLEAR * error[steepest]:
            break
    return float(tried[steepest]) if surest[steepest] < 0 else ceiling


def _local_lines(place: Floats, loss: Floats, half: float) -> tuple[Floats, Floats, Floats]:
    """Height, slope and the slope's standard error of the line around each place.

    Args:
        place: (m) ascending, equally far apart.
        loss: (m).
        half: How far a line sees to either side, in the unit of the places; five steps at least.

    Returns:
        Three arrays (m).
    """
    if len(place) < 3:
        return loss, np.zeros_like(loss), np.full_like(loss, np.inf)
    half = max(half, FEWEST_BESIDE * float(place[1] - place[0]))
    away = place[None, :] - place[:, None]  # row: the place of the line; column: the step it sees
    near = np.clip(1 - np.abs(away / half) ** 3, 0, None) ** 3
    # A line that has already bent to one bad batch does not show it, above all at the ends; a median does.
    rest = np.abs(loss - median_filter(loss, size=MEDIAN, mode="mirror"))
    for _ in range(ROUNDS):
        weight = near * _trust(rest)
        total, first, second = ((weight * away**power).sum(axis=1, keepdims=True) for power in (0, 1, 2))
        spread = total * second - first**2
        to_level = weight * (second - first * away) / spread
        to_slope = weight * (total * away - first) / spread
        level, slope = to_level @ loss, to_slope @ loss
        rest = np.abs(loss - level)
    noise = 1.4826 * float(np.median(rest))  # the standard deviation, if the rest is normally distributed
    return level, slope, noise * np.sqrt((to_slope**2).sum(axis=1))


def _trust(rest: Floats) -> Floats:
    """How much each step counts, by how far off it is: six medians off, it is hardly believed at all."""
    scale = 6 * max(float(np.median(rest)), 1e-12)
    return np.clip(1 - (rest / scale) ** 2, 0, None) ** 2 + 1e-3  # so that every line stays defined
