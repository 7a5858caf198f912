"""The rate range test: it finds the edge it is known to have, stops behind it, and touches nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from lessons import CLASSES, PLAIN, SIDE, classifying, loader, tiny
from torch import nn

from pictune.data.loading import Batch
from pictune.errors import DivergedError, MachineError, RecipeError
from pictune.models.losses import Loss
from pictune.tasks.classification import Classification
from pictune.training.fitting import to_device
from pictune.training.machine import Machine
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.rate_finding import RateCurve, find_rate, suggest

CURVATURES = torch.tensor([4.0, 1.0, 0.25])
EDGE = 2 / 4.0  # beyond 2 / curvature, plain gradient descent on a parabola moves away from its bottom


def endless() -> Iterator[Batch]:
    return (batch for epoch in itertools.count() for batch in loader().batches(epoch))


def find(network: nn.Module, task: Classification, **changes) -> RateCurve:
    given = {
        "make_optimizer": OPTIMIZERS["sgd"].make(momentum=0.0),
        "weight_decay": 0.0,
        "machine": Machine(device="cpu", threads=1),
        "arithmetic": PLAIN,
        "seed": 0,
        **changes,
    }
    return find_rate(network, task, given.pop("batches", endless()), **given)


class Bowl(nn.Module):
    """Answers with its own three numbers, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.full((1, 3), 3.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.place.expand(len(images), 3)


def rolling() -> Classification:
    """Down a parabola with known curvatures, whose bottom the targets of a batch move about a little."""

    def terms(place: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 0.5 * CURVATURES * (place - targets) ** 2

    return Classification(CLASSES, loss=Loss("both", terms, lambda targets, _: targets.sum()))


class TestParabola:
    def test_the_suggestion_lies_in_the_known_range(self):
        curve = find(Bowl(), rolling(), highest=100.0)
        assert EDGE / 30 < curve.suggestion < EDGE
        assert curve.suggestion in curve.rates

    def test_it_stops_behind_the_edge(self):
        curve = find(Bowl(), rolling(), highest=1e6, steps=200)
        assert curve.diverged
        assert EDGE < curve.rates[-1] < 20 * EDGE
        assert len(curve.rates) == len(curve.losses) == len(curve.smooth) < 200
        assert np.isfinite(curve.losses).all()
        assert curve.smooth[-1] > 4 * min(curve.smooth) >= curve.smooth[-2]

    def test_momentum_moves_the_suggestion_down(self):
        """With momentum 0.9 a step counts ten times."""
        plain = find(Bowl(), rolling(), highest=100.0).suggestion
        heavy = OPTIMIZERS["sgd"].make(momentum=0.9, nesterov=False)
        assert find(Bowl(), rolling(), highest=100.0, make_optimizer=heavy).suggestion < plain / 2

    def test_below_the_edge_it_goes_to_the_end(self):
        curve = find(Bowl(), rolling(), lowest=1e-4, highest=0.1, steps=40)
        assert not curve.diverged
        assert len(curve.rates) == 40
        assert curve.rates[0] == pytest.approx(1e-4)
        assert curve.rates[-1] == pytest.approx(0.1)
        assert np.allclose(np.diff(np.log(curve.rates)), np.log(1000) / 39)
        assert curve.smooth[0] == pytest.approx(curve.losses[0])
        means = [sum(0.9 ** (i - j) * curve.losses[j] for j in range(i + 1)) for i in range(40)]
        weights = [sum(0.9**j for j in range(i + 1)) for i in range(40)]
        assert np.allclose(curve.smooth, np.divide(means, weights))


def learnt(network: nn.Module, rate: float, steps: int = 24) -> float:
    """The mean loss of the last steps of a training at one rate."""
    task, losses = classifying(), []
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    for batch in itertools.islice(endless(), steps):
        loss = task.losses(network, to_device(batch, torch.device("cpu")))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses[-6:]))


def test_training_at_the_suggested_rate_is_better_than_far_below_or_above():
    sgd = OPTIMIZERS["sgd"].make(momentum=0.9)
    rate = find(tiny(normalised=True), classifying(), make_optimizer=sgd, highest=10.0).suggestion
    good = learnt(tiny(normalised=True), rate)
    assert good < 0.6 * learnt(tiny(normalised=True), rate / 100)
    assert not good > 0.6 * learnt(tiny(normalised=True), rate * 100)


class Remembering(nn.Module):
    """Notes whether it is training; copies of it write into the same list."""

    seen: list[bool]

    def __init__(self, seen: list[bool]) -> None:
        super().__init__()
        self.inner = tiny(normalised=True)
        self.inner.norm.register_forward_hook(lambda module, *_: seen.append(module.training))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images)


class TestNetwork:
    def test_the_network_given_is_untouched(self):
        network = tiny(normalised=True, dropout=0.3).eval()
        network.first.requires_grad_(False)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        generator = torch.get_rng_state()
        curve = find(network, classifying(), highest=10.0)
        assert curve.losses[0] != curve.losses[-1]
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert not any(m.training for m in network.modules())
        assert [p.requires_grad for p in network.first.parameters()] == [False, False]
        assert torch.equal(torch.get_rng_state(), generator)

    @pytest.mark.parametrize("frozen", [True, False])
    def test_frozen_layers_stay_still(self, frozen):
        seen: list[bool] = []
        network, made = Remembering(seen), []
        network.inner.norm.requires_grad_(not frozen)

        def make(groups):
            made.append(OPTIMIZERS["sgd"].make(momentum=0.0)(groups))
            return made[0]

        curve = find(network, classifying(), make_optimizer=make, rates={"inner.first.weight": 0.1})
        assert set(seen) == {not frozen}
        groups = made[0].param_groups
        assert sum(len(group["params"]) for group in groups) == (4 if frozen else 6)
        slow, fast = groups[-1], groups[:-1]
        assert slow["lr"] == pytest.approx(0.1 * curve.rates[-1])
        assert [p.shape for p in slow["params"]] == [network.inner.first.weight.shape]
        assert all(group["lr"] == curve.rates[-1] for group in fast)

    def test_the_seed_decides_what_dropout_drops(self):
        one, same, other = (find(tiny(dropout=0.5), classifying(), seed=seed) for seed in (0, 0, 1))
        assert one == same
        assert one.losses != other.losses


class TestMishaps:
    def test_a_loss_that_is_no_number_ends_the_curve(self):
        images = next(endless())
        bad = images._replace(targets=np.full_like(images.targets, np.nan))
        curve = find(Bowl(), rolling(), batches=iter([*[images] * 15, bad, *[images] * 50]))
        assert curve.diverged
        assert len(curve.losses) == 15
        with pytest.raises(DivergedError, match="even before the first step"):
            find(Bowl(), rolling(), batches=iter([bad]))

    def test_few_batches_make_a_short_curve_and_none_is_said(self):
        for count in (1, 2, 3, 12):
            curve = find(Bowl(), rolling(), batches=itertools.islice(endless(), count))
            assert len(curve.rates) == count
            assert not curve.diverged
            assert 0 < curve.suggestion <= curve.rates[-1]
        with pytest.raises(DivergedError, match="no batch"):
            find(Bowl(), rolling(), batches=iter([]))

    @pytest.mark.parametrize(
        "given", [{"lowest": 0.0}, {"lowest": 2.0}, {"highest": float("inf")}, {"steps": 9}]
    )
    def test_what_is_no_range_is_said(self, given):
        with pytest.raises(RecipeError, match="no range"):
            find(Bowl(), rolling(), **given)

    def test_memory_that_runs_out_is_said(self):
        def full(place: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            raise MemoryError

        task = Classification(CLASSES, loss=Loss("both", full, lambda targets, _: targets.sum()))
        with pytest.raises(MachineError, match="memory ran out"):
            find(Bowl(), task)

    def test_batches_beyond_the_steps_are_not_asked_for(self):
        batches = itertools.islice(endless(), 25)
        find(Bowl(), rolling(), batches=batches, steps=20, highest=1e-3)
        assert len(list(batches)) == 5
        assert next(endless()).images.shape[1:] == (SIDE, SIDE, 3)


RATES = np.geomspace(1e-6, 1, 100)


def running_mean(losses: np.ndarray) -> np.ndarray:
    means = [sum(0.9 ** (i - j) * losses[j] for j in range(i + 1)) for i in range(len(losses))]
    return np.divide(means, [sum(0.9**j for j in range(i + 1)) for i in range(len(losses))])


def made_up(*, steepest: float, rising: float, noise: float, seed: int = 0) -> np.ndarray:
    """Falls from 2 to 1, fastest at one rate, and explodes behind another, with noise that grows with it."""
    place = np.log10(RATES)
    clean = 1 + 1 / (1 + np.exp(4 * (place - np.log10(steepest))))
    clean = clean + np.clip(RATES / rising, 0, 1e3) ** 3
    return clean * (1 + noise * np.random.default_rng(seed).standard_normal(len(RATES)))


class TestSuggestion:
    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize(("steepest", "rising"), [(1e-4, 1e-2), (1e-3, 0.5), (1e-2, 0.3)])
    def test_it_is_near_the_steepest_fall_in_spite_of_noise(self, steepest, rising, seed):
        losses = made_up(steepest=steepest, rising=rising, noise=0.05, seed=seed)
        assert steepest / 4 < suggest(RATES, losses, running_mean(losses)) < 4 * steepest

    @pytest.mark.parametrize("seed", range(20))
    def test_strong_noise_costs_sharpness_only(self, seed):
        """Batches differ by as much as a quarter of what there is to learn."""
        losses = made_up(steepest=1e-3, rising=0.5, noise=0.15, seed=seed)
        assert 1e-3 / 6 < suggest(RATES, losses, running_mean(losses)) < 6e-3

    @pytest.mark.parametrize("at", [0, 3, 30, 48, 55, 70])
    def test_one_bad_batch_does_not_move_it(self, at):
        losses = made_up(steepest=1e-3, rising=0.5, noise=0.02)
        losses[at] *= 4
        calm = made_up(steepest=1e-3, rising=0.5, noise=0.02)
        expected = suggest(RATES, calm, running_mean(calm))
        assert 1 / 2 < suggest(RATES, losses, running_mean(losses)) / expected < 2

    def test_it_stays_below_a_third_of_the_lowest(self):
        """The fall is steepest just before the loss explodes."""
        losses = np.where(RATES < 1e-2, 2 - 1.5 * RATES / 1e-2, 50.0)
        suggested = suggest(RATES, losses, running_mean(losses))
        assert 1e-2 / 6 < suggested <= 1e-2 / 3

    def test_where_nothing_falls_it_is_a_third_of_the_lowest(self):
        rising = np.linspace(1, 2, 100)
        lowest = RATES[5]  # the running mean says nothing earlier
        assert suggest(RATES, rising, running_mean(rising)) <= lowest / 3

    def test_noise_alone_is_no_fall(self):
        found = 0
        for seed in range(20):
            losses = 2 + 0.1 * np.random.default_rng(seed).standard_normal(100)
            suggested = suggest(RATES, losses, running_mean(losses))
            found += bool(np.isclose(RATES, 3 * suggested).any())  # a third of the lowest's rate
        assert found >= 17
