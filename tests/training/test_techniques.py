"""Techniques: which layers learn, when and how fast; each such that nothing else moves."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lessons import CLASSES, SIDE, Recorder, left_behind, lesson, loader
from torch import nn
from torch.nn import functional as F

from pictune.errors import StoppedError
from pictune.models.freezing import LayerGroup, freeze_layers, frozen_tensors, layer_groups
from pictune.training.fitting import fit
from pictune.training.optimizers import OPTIMIZERS, parameter_groups
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES
from pictune.training.techniques import TECHNIQUES, Adapters, Technique, layer_rates, thawing


class Deep(nn.Module):
    """Three stages, each with normalisation and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Dropout(0.3),
            )
            for before, after in pairwise((3, 4, 5, 6))
        )
        self.fc = nn.Linear(6 * SIDE * SIDE, len(CLASSES))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        planes = images.permute(0, 3, 1, 2).float() / 255 - 0.5
        for stage in self.stages:
            planes = stage(planes)
        return self.fc(planes.flatten(1))


STAGES = ("stages.0", "stages.1", "stages.2")


def deep(freeze: str = "none") -> Deep:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Deep()
    freeze_layers(network, frozen_tensors(network, freeze))
    return network


def part_of(key: str) -> str:
    """Which stage a tensor belongs to, or the head."""
    return next((stage for stage in STAGES if key.startswith(stage)), "head")


def digests(network: nn.Module) -> dict[str, str]:
    """SHA-256 of every tensor, normalisation statistics and counters included."""
    return {key: hashlib.sha256(t.numpy().tobytes()).hexdigest() for key, t in network.state_dict().items()}


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {key for key in before if before[key] != after[key]}


class Spied:
    """Makes an optimizer that a test can look at."""

    def __init__(self, name: str, **settings: float) -> None:
        self._make = OPTIMIZERS[name].make(**settings)

    def __call__(self, groups) -> torch.optim.Optimizer:
        self.optimizer = self._make(groups)
        return self.optimizer

    @property
    def rates(self) -> dict[int, float]:
        """The rate of each parameter now, by id."""
        return {id(p): group["lr"] for group in self.optimizer.param_groups for p in group["params"]}


def group_of(name: str, count: int) -> LayerGroup:
    return LayerGroup(name, tuple(f"{name}.{number}" for number in range(count)), count)


GROUPS = (group_of("a", 2), group_of("b", 1), group_of("c", 3), group_of("d", 1), group_of("head", 2))


def names_of(tensors: Collection[str]) -> str:
    """The groups that tensors belong to, when they are all of those groups' tensors."""
    held = [group.name for group in GROUPS if set(group.tensors) <= set(tensors)]
    assert sum(len(group.tensors) for group in GROUPS if group.name in held) == len(tensors)
    return "".join(held)


# ---------------------------------------------------------------- frozen


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize(
    ("freeze", "learning"),
    [
        ("none", {*STAGES, "head"}),
        ("1", {"stages.1", "stages.2", "head"}),
        ("stages.1", {"stages.2", "head"}),
        ("backbone", {"head"}),
        ("stages.1.*", {"stages.0", "stages.2", "head"}),
    ],
)
def test_frozen_layers_are_bit_for_bit_the_same_after_training(tmp_path, freeze, learning, optimizer):
    network = deep(freeze)
    frozen = frozen_tensors(network, freeze)
    make = Spied(optimizer, learning_rate=0.01, weight_decay=0.1)
    before = digests(network)
    job = lesson(
        tmp_path, network=network, decay=0.1, make_optimizer=make, plan=Plan(cycles=(2,), ema=0.5, clip=1.0)
    )
    assert fit(job).steps == 12
    assert moved(before, digests(network)) == {key for key in before if part_of(key) in learning}
    ours = {name for name, parameter in network.named_parameters() if id(parameter) in make.rates}
    assert ours == {name for name, _ in network.named_parameters()} - frozen
    assert all(network.get_parameter(name).grad is None for name in frozen)


# ---------------------------------------------------------------- gradual unfreezing


@pytest.mark.parametrize(
    ("thawed_by", "epochs", "plan"),
    [
        # One group every epoch, then all of them.
        (0.5, 8, ["abcd", "abc", "ab", "a", "", "", "", ""]),
        (1.0, 4, ["abcd", "abc", "ab", "a"]),
        # One group every two epochs.
        (1.0, 8, ["abcd", "abcd", "abc", "abc", "ab", "ab", "a", "a"]),
        # Fewer epochs than groups: several at once.
        (1.0, 2, ["abcd", "ab"]),
        # In no less than one epoch.
        (0.01, 3, ["abcd", "", ""]),
        (1.0, 1, ["abcd"]),
    ],
)
def test_groups_thaw_one_after_the_other_from_the_top(thawed_by, epochs, plan):
    waiting = thawing(GROUPS, thawed_by=thawed_by, epochs=epochs)
    assert [names_of(waiting(epoch)) for epoch in range(epochs)] == plan
    assert waiting(10 * epochs) == frozenset()


@pytest.mark.parametrize(
    ("groups", "thawed_by", "epochs", "epoch", "thawed"),
    # 11 of 13.75 epochs are four fifths, and 1 of 1.4 is five sevenths, though not in floating point.
    [(5, 0.55, 25, 11, 4), (5, 0.55, 50, 11, 2), (7, 0.2, 7, 1, 5), (7, 0.4, 7, 2, 5)],
)
def test_no_group_thaws_late_because_of_rounding(groups, thawed_by, epochs, epoch, thawed):
    many = [*(group_of(f"g{number}", 1) for number in range(groups)), group_of("head", 1)]
    assert len(thawing(many, thawed_by=thawed_by, epochs=epochs)(epoch)) == groups - thawed


@given(
    thawed_by=st.floats(0.01, 1.0),
    epochs=st.integers(1, 60),
    count=st.integers(1, 20),
    epoch=st.integers(0, 60),
)
def test_thawing_only_goes_forward_and_the_head_never_waits(thawed_by, epochs, count, epoch):
    groups = [*(group_of(f"g{number}", 2) for number in range(count)), group_of("head", 2)]
    waiting = thawing(groups, thawed_by=thawed_by, epochs=epochs)
    now, later = waiting(epoch), waiting(epoch + 1)
    assert set(later) <= set(now)
    assert not set(groups[-1].tensors) & set(now)
    assert len(waiting(0)) == 2 * count, "at first the head alone"
    if epoch >= max(thawed_by * epochs, 1):
        assert not now


class Snapshots:
    """Validation that remembers every tensor after each epoch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def __call__(self, network: nn.Module) -> dict[str, float]:
        self.seen.append(digests(network))
        return {"accuracy": 0.5, "log_loss": 1.0}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_waiting_group_stays_as_it_is_until_its_epoch(tmp_path, optimizer):
    """Momentum, decay and normalisation statistics notwithstanding."""
    network, validate = deep(), Snapshots()
    waiting = thawing(layer_groups(network), thawed_by=0.5, epochs=6)
    first = digests(network)
    job = lesson(
        tmp_path,
        network=network,
        optimizer=optimizer,
        rate=0.01,
        decay=0.1,
        schedule="constant",
        plan=Plan(cycles=(6,)),
        validate=validate,
        waiting=waiting,
    )
    fit(job)
    learning = [
        {part_of(key) for key in moved(before, after)}
        for before, after in zip([first, *validate.seen], validate.seen, strict=False)
    ]
    assert learning == [
        {"head"},
        {"head", "stages.2"},
        {"head", "stages.2", "stages.1"},
        *[{"head", *STAGES}] * 3,
    ]
    for before, after, epoch in zip([first, *validate.seen], validate.seen, range(6), strict=False):
        still = {stage for stage in STAGES if f"{stage}.0.weight" in waiting(epoch)}
        assert moved(before, after) == {key for key in first if part_of(key) not in still}
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("stop_after", [3, 8, 13])
def test_gradual_unfreezing_goes_on_bit_for_bit_after_a_stop(tmp_path, stop_after):
    def job(folder, **changes):
        network = deep()
        waiting = thawing(layer_groups(network), thawed_by=1.0, epochs=4)
        given = {"optimizer": "adamw", "rate": 0.01, "plan": Plan(cycles=(4,), ema=0.9), "waiting": waiting}
        return lesson(folder, network=network, **given, **changes)

    whole = job(tmp_path / "whole")
    fit(whole)
    watcher = Recorder()
    broken = job(tmp_path / "broken", watcher=watcher)
    with pytest.raises(StoppedError):
        fit(replace(broken, stop=lambda: 15 if len(watcher.losses) >= stop_after else 0))
    again = job(tmp_path / "broken")
    fit(again)
    assert not moved(digests(whole.network), digests(again.network))
    assert left_behind(tmp_path / "whole") == left_behind(tmp_path / "broken")


# ---------------------------------------------------------------- discriminative rates


def test_each_group_has_its_power_of_the_decay():
    rates = layer_rates(GROUPS, decay=0.5)
    expected = {"a": 0.0625, "b": 0.125, "c": 0.25, "d": 0.5, "head": 1.0}
    assert rates == {name: expected[group.name] for group in GROUPS for name in group.tensors}


@given(decay=st.floats(0.05, 1.0))
def test_rates_rise_towards_the_head_and_none_is_above_the_highest(decay):
    rates = layer_rates(GROUPS, decay=decay)
    by_group = [rates[group.tensors[0]] for group in GROUPS]
    assert by_group == sorted(by_group)
    assert by_group[-1] == 1.0
    assert by_group[0] == pytest.approx(decay**4)
    assert (len(set(by_group)) == len(by_group)) == (decay < 1)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_every_tensor_learns_at_its_own_rate_at_every_step(tmp_path, schedule):
    network = deep()
    rates = layer_rates(layer_groups(network), decay=0.5)
    make = Spied("adamw", learning_rate=0.01, weight_decay=0.1)
    seen: list[dict[int, float]] = []
    fit(
        lesson(
            tmp_path,
            network=network,
            decay=0.1,
            schedule=schedule,
            plan=Plan(cycles=(2,)),
            make_optimizer=make,
            rates=rates,
            watcher=Recorder(lambda _: seen.append(make.rates)),
        )
    )
    depth = {"head": 0, "stages.2": 1, "stages.1": 2, "stages.0": 3}
    factor = SCHEDULES[schedule].make()
    assert len(seen) == 12
    for step, found in enumerate(seen):
        share = factor(step / 6, 2, [])
        for name, parameter in network.named_parameters():
            assert found[id(parameter)] == pytest.approx(0.01 * 0.5 ** depth[part_of(name)] * share), name


def test_slower_layers_move_less(tmp_path):
    """Lion moves every number by its rate, whatever the gradient."""
    network = deep()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    job = lesson(
        tmp_path,
        network=network,
        make_optimizer=OPTIMIZERS["lion"].make(learning_rate=0.01, weight_decay=0.0),
        schedule="constant",
        pictures=loader(batch_size=24),
        plan=Plan(cycles=(1,)),
        rates=layer_rates(layer_groups(network), decay=0.5),
    )
    assert fit(job).steps == 1
    for name, expected in (("fc.weight", 0.01), ("stages.2.0.weight", 0.005), ("stages.0.0.weight", 0.00125)):
        farthest = (network.get_parameter(name).detach() - before[name]).abs().max()
        assert float(farthest) == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------- L2-SP


def one_step(folder, network: Deep, *, pull: float, anchors, rates=None, decay: float = 0.0) -> None:
    """One step of plain gradient descent on all pictures, with rate 0.1."""
    job = lesson(
        folder,
        network=network,
        make_optimizer=OPTIMIZERS["sgd"].make(learning_rate=0.1, weight_decay=decay, momentum=0.0),
        decay=decay,
        schedule="constant",
        pictures=loader(batch_size=24),
        plan=Plan(cycles=(1,)),
        anchors=anchors,
        pull=pull,
        rates=rates or {},
    )
    assert fit(job).steps == 1


def anchors_of(network: nn.Module, *, away: float = 0.0) -> dict[str, torch.Tensor]:
    """Where all but the head came from, or some way from there."""
    return {
        name: parameter.detach() + away
        for name, parameter in network.named_parameters()
        if not name.startswith("fc.")
    }


@pytest.mark.parametrize("pull", [0.5, 3.0, 1000.0])
def test_one_step_of_l2_sp_is_the_formula(tmp_path, pull):
    """Anchored: after the step, a share (rate x pull, at most all) of the way back; others decay as ever."""
    start = deep()
    anchors = anchors_of(start, away=0.25)
    rates = {name: 0.5 for name in anchors if name.startswith("stages.0")}
    pulled, free = copy.deepcopy(start), copy.deepcopy(start)
    one_step(tmp_path / "pulled", pulled, pull=pull, anchors=anchors, rates=rates, decay=0.1)
    one_step(tmp_path / "free", free, pull=0.0, anchors={}, rates=rates)
    for name, parameter in free.named_parameters():
        rate = 0.1 * rates.get(name, 1.0)
        if name in anchors:
            share = min(rate * pull, 1.0)
            expected = parameter + share * (anchors[name] - parameter)
        else:
            expected = parameter - rate * 0.1 * start.get_parameter(name) * (parameter.ndim > 1)
        torch.testing.assert_close(pulled.get_parameter(name), expected, atol=1e-6, rtol=1e-5)
        assert not torch.equal(parameter, start.get_parameter(name))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_strong_pull_keeps_weights_near_to_where_they_came_from(tmp_path, optimizer):
    away = {}
    for pull in (0.0, 1.0, 10.0):
        network = deep()
        anchors = anchors_of(network)
        start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        plan = Plan(cycles=(4,), accumulate=2)
        fit(
            lesson(
                tmp_path / str(pull), network=network, optimizer=optimizer, rate=0.02, plan=plan,
                anchors=anchors, pull=pull,
            )
        )  # fmt: skip
        far = {name: float((p.detach() - start[name]).norm()) for name, p in network.named_parameters()}
        away[pull] = sum(far[name] for name in anchors)
        assert min(far.values()) > 0, "all of them learn"
    assert away[10.0] < 0.7 * away[1.0] < 0.7 * away[0.0]


def test_what_is_anchored_does_not_decay_and_what_is_not_does():
    network = deep()
    anchors = anchors_of(network)
    del anchors["stages.1.0.weight"]
    groups = parameter_groups(network, weight_decay=0.1, anchored=anchors)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name for name, parameter in network.named_parameters() if decays[id(parameter)] == 0.1}
    assert found == {"stages.1.0.weight", "fc.weight"}


def test_frozen_and_waiting_layers_are_not_pulled(tmp_path):
    network, validate = deep("1"), Snapshots()
    first = digests(network)
    anchors = anchors_of(network, away=1.0)
    job = lesson(
        tmp_path,
        network=network,
        plan=Plan(cycles=(2,)),
        validate=validate,
        anchors=anchors,
        pull=1.0,
        waiting=lambda epoch: [name for name in anchors if name.startswith("stages.1")] if epoch == 0 else [],
    )
    fit(job)
    assert {part_of(key) for key in moved(first, validate.seen[0])} == {"stages.2", "head"}
    assert {part_of(key) for key in moved(first, validate.seen[1])} == {"stages.1", "stages.2", "head"}


def test_anchors_stay_where_they_are_when_the_network_moves(tmp_path):
    """They may be given as the network's own tensors; a pull towards a moving place would be none."""
    network = deep()
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    one_step(tmp_path, network, pull=1000.0, anchors={n: p for n, p in network.named_parameters()})  # noqa: C416
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, start[name]), name


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("full", {}, Technique()),
        ("head", {"heads": 7}, Technique(head_only=True, heads=7)),
        ("head", {"heads": 1}, Technique(head_only=True, heads=1)),
        ("lp_ft", {"heads": 7}, Technique(probe_epochs=20, heads=7)),
        ("lp_ft", {"probe_epochs": 3, "heads": 4}, Technique(probe_epochs=3, heads=4)),
        ("gradual", {}, Technique(thawed_by=0.5)),
        ("gradual", {"thawed_by": 1.0}, Technique(thawed_by=1.0)),
        ("lora", {}, Technique(adapters=Adapters(8, 16.0, "all"))),
        ("lora", {"rank": 2, "targets": "*.qkv"}, Technique(adapters=Adapters(2, 16.0, "*.qkv"))),
    ],
)
def test_a_technique_says_what_learns_and_when(name, settings, expected):
    assert TECHNIQUES[name].make(**settings) == expected


def test_the_lesson_is_learnt_with_every_layer_and_hardly_without(tmp_path):
    """The toy is worth something: with frozen random stages it does worse than with learning ones."""
    losses = {}
    for freeze in ("none", "backbone"):
        job = lesson(
            tmp_path / freeze, network=deep(freeze), optimizer="adamw", rate=0.01, plan=Plan(cycles=(10,))
        )
        fit(job)
        losses[freeze] = job.journal.lines("epoch")[-1]["train_loss"]
    assert losses["none"] < losses["backbone"] < float(F.cross_entropy(torch.zeros(1, 3), torch.tensor([0])))
