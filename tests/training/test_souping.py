"""A soup of epochs: which weights are kept, which are averaged, and never worse than the best epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lessons import lesson, tiny
from torch import nn

from pictune.training.checkpoints import load_checkpoint, save_checkpoint
from pictune.training.fitting import best_weights, epoch_path, fit, merit_of
from pictune.training.job import Progress
from pictune.training.plan import Plan
from pictune.training.souping import greedy_soup

Validate = Callable[[nn.Module], dict[str, float]]


class Scripted:
    """Validation that answers as a script says, and remembers the weights."""

    def __init__(self, accuracy: list[float]) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self._accuracy = accuracy

    def __call__(self, network: nn.Module) -> dict[str, float]:
        self.seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"accuracy": self._accuracy[len(self.seen) - 1], "log_loss": 1.0}


class Point(nn.Module):
    """Two numbers and a counter, so that a validation can be any function of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(2))
        self.register_buffer("steps", torch.tensor(0))


def kept_points(folder: Path, places: list[list[float]], validate: Validate, *, select_by: str) -> Progress:
    """The best epochs as `fit` leaves them behind: in the order of their merit."""
    network, rows = Point(), []
    for epoch, place in enumerate(places):
        network.place.data = torch.tensor(place)
        network.steps.fill_(10 * (epoch + 1))
        save_checkpoint(epoch_path(folder, epoch), network.state_dict(), {})
        rows.append((*merit_of(validate(network), select_by), epoch))
    rows.sort(key=lambda row: row[:2], reverse=True)
    return Progress(kept=rows)


def near(target: tuple[float, float]) -> Validate:
    """The nearer to the target, the better."""

    def validate(network: nn.Module) -> dict[str, float]:
        far = float((network.place.detach() - torch.tensor(target)).norm())
        return {"accuracy": 1 / (1 + far), "log_loss": far}

    return validate


# ---------------------------------------------------------------- what is kept


@pytest.mark.parametrize(
    ("soup", "kept"),
    [(1, [3]), (2, [3, 1]), (3, [3, 1, 4]), (6, [3, 1, 4, 2, 0, 5]), (9, [3, 1, 4, 2, 0, 5])],
)
@pytest.mark.parametrize(("ema", "interval"), [(0.0, 300.0), (0.9, 0.0)])
def test_the_weights_of_exactly_the_best_epochs_are_kept(tmp_path, soup, kept, ema, interval):
    validate = Scripted([0.2, 0.7, 0.4, 0.9, 0.7, 0.1])  # among equals the earlier one is the better one
    plan = Plan(cycles=(6,), soup=soup, ema=ema, checkpoint_seconds=interval)
    progress = fit(lesson(tmp_path, network=tiny(normalised=True), validate=validate, plan=plan))
    assert [epoch for _, _, epoch in progress.kept] == kept
    assert progress.best_epoch == 3
    assert {path.name for path in tmp_path.glob("best-*")} == {f"best-{epoch}.safetensors" for epoch in kept}
    for epoch in kept:
        tensors = load_checkpoint(epoch_path(tmp_path, epoch))[0]
        assert tensors.keys() == validate.seen[epoch].keys()
        assert all(torch.equal(tensors[name], validate.seen[epoch][name]) for name in tensors)
    best = best_weights(tmp_path, progress)
    assert all(torch.equal(best[name], tensor) for name, tensor in validate.seen[3].items())


# ---------------------------------------------------------------- what is averaged


def test_a_soup_of_one_is_the_best_epoch_and_asks_nothing(tmp_path):
    validate = Scripted([0.2, 0.9, 0.4])
    progress = fit(lesson(tmp_path, network=tiny(), validate=validate, plan=Plan(cycles=(3,), soup=1)))
    network = tiny(seed=1)

    def never(network: nn.Module) -> dict[str, float]:
        raise AssertionError("there is nothing to choose")

    assert greedy_soup(tmp_path, progress, network, never, select_by="accuracy") == (1,)
    assert all(torch.equal(validate.seen[1][name], t) for name, t in network.state_dict().items())


def test_the_average_of_all_epochs_is_exact(tmp_path):
    validate = Scripted([0.5, 0.6, 0.7, 0.8])
    plan = Plan(cycles=(4,), soup=4)
    progress = fit(lesson(tmp_path, network=tiny(normalised=True), validate=validate, plan=plan))
    network = tiny(normalised=True)
    taken = greedy_soup(
        tmp_path, progress, network, lambda _: {"accuracy": 0.8, "log_loss": 1.0}, select_by="accuracy"
    )
    assert taken == (3, 2, 1, 0)
    for name, tensor in network.state_dict().items():
        each = torch.stack([seen[name] for seen in validate.seen])
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, each.double().mean(0).float(), atol=1e-6, rtol=1e-5)
            assert not torch.equal(tensor, validate.seen[3][name]) or name == "norm.num_batches_tracked"
        else:
            assert torch.equal(tensor, validate.seen[3][name]), "a counter is not averaged"


def test_an_epoch_that_makes_it_worse_is_left_out(tmp_path):
    """Best first: 0 alone, then with 1 (better), then with 2 (worse), then with 3 (better again)."""
    validate = near((0.0, 0.0))
    places = [[1.0, 0.0], [-1.2, 0.0], [0.0, 1.5], [0.4, -1.6]]
    progress = kept_points(tmp_path, places, validate, select_by="accuracy")
    assert [epoch for _, _, epoch in progress.kept] == [0, 1, 2, 3]
    network = Point()
    assert greedy_soup(tmp_path, progress, network, validate, select_by="accuracy") == (0, 1)
    assert network.place.tolist() == pytest.approx([-0.1, 0.0])
    assert int(network.steps) == 10, "the counter is the best epoch's"
    assert merit_of(validate(network), "accuracy") > progress.kept[0][:2]


def test_the_share_of_an_epoch_counts_only_what_was_taken(tmp_path):
    """0 alone, with 1 better, with 2 worse; then 3 is one of three, not of four."""
    places = [[1.0, 0.0], [-1.0, 0.3], [-9.0, 9.0], [0.0, -9.3]]
    progress = kept_points(tmp_path, places, lambda _: {"accuracy": 0.5}, select_by="accuracy")
    network = Point()
    assert greedy_soup(tmp_path, progress, network, near((0.0, -3.0)), select_by="accuracy") == (0, 1, 3)
    assert network.place.tolist() == pytest.approx([0.0, -3.0], abs=1e-6)


def test_an_equal_score_is_no_reason_to_leave_an_epoch_out(tmp_path):
    """But a higher log-loss at an equal score is."""
    for losses, taken in (([1.0, 1.0], (0, 1)), ([1.0, 0.9], (0, 1)), ([1.0, 1.1], (0,))):
        progress = kept_points(
            tmp_path,
            [[0.0, 0.0], [1.0, 1.0]],
            lambda _: {"accuracy": 0.5, "log_loss": 1.0},
            select_by="accuracy",
        )
        answers = iter(losses)
        found = greedy_soup(
            tmp_path,
            progress,
            Point(),
            lambda _, answers=answers: {"accuracy": 0.5, "log_loss": next(answers)},
            select_by="accuracy",
        )
        assert found == taken


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(st.tuples(*[st.floats(-3, 3, width=32)] * 2), min_size=1, max_size=6),
    waves=st.tuples(*[st.floats(-4, 4)] * 4),
    steps=st.integers(1, 8),
    select_by=st.sampled_from(["accuracy", "log_loss"]),
)
def test_a_soup_is_never_worse_than_the_best_epoch(tmp_path_factory, places, waves, steps, select_by):
    """Whatever function of the weights validation is: here hills and steps of many kinds."""
    folder = tmp_path_factory.mktemp("soup")

    def validate(network: nn.Module) -> dict[str, float]:
        x, y = (float(number) for number in network.place.detach())
        height = torch.sin(torch.tensor(waves[0] * x + waves[1] * y)) + torch.cos(
            torch.tensor(waves[2] * x * y + waves[3])
        )
        return {"accuracy": round(float(height) * steps) / steps, "log_loss": float(height**2)}

    progress = kept_points(folder, [list(place) for place in places], validate, select_by=select_by)
    network = Point()
    taken = greedy_soup(folder, progress, network, validate, select_by=select_by)
    assert taken[0] == progress.best_epoch
    assert len(set(taken)) == len(taken)
    assert merit_of(validate(network), select_by) >= progress.kept[0][:2]
    expected = torch.tensor([places[epoch] for epoch in taken]).double().mean(0)
    assert network.place.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_soup_that_validates_to_no_number_is_not_taken(tmp_path):
    progress = kept_points(tmp_path, [[0.0, 0.0], [1.0, 1.0]], near((0.0, 0.0)), select_by="accuracy")

    def validate(network: nn.Module) -> dict[str, float]:
        whole = not network.place.any()
        return {"accuracy": 1.0 if whole else float("nan"), "log_loss": 1.0}

    network = Point()
    assert greedy_soup(tmp_path, progress, network, validate, select_by="accuracy") == (0,)
    assert not network.place.any()
