"""The loop: what a step is, which weights are the best, and when it stops."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lessons import TRAIN, Recorder, classifying, left_behind, lesson, loader, tiny
from torch.nn import functional as F

from pictune.errors import DivergedError, MachineError, StoppedError
from pictune.training import checkpoints, fitting
from pictune.training.checkpoints import below, load_checkpoint
from pictune.training.fitting import best_weights, fit
from pictune.training.machine import Arithmetic
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan


def weights_of(network) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in network.state_dict().values()])


class Teaching:
    """Validation that answers as a script says, epoch by epoch."""

    def __init__(self, **scores) -> None:
        self.seen: list[torch.Tensor] = []
        self._scores = scores

    def __call__(self, network) -> dict[str, float]:
        self.seen.append(weights_of(network).clone())
        at = len(self.seen) - 1
        return {"accuracy": 0.5, "log_loss": 1.0} | {name: row[at] for name, row in self._scores.items()}


def test_among_equal_scores_the_lower_log_loss_is_the_better_one(tmp_path):
    validate = Teaching(accuracy=[0.9, 1.0, 1.0, 1.0, 0.9], log_loss=[0.1, 0.5, 0.2, 0.3, 0.05])
    assert fit(lesson(tmp_path, network=tiny(), validate=validate, plan=Plan(cycles=(5,)))).best_epoch == 2


@pytest.mark.parametrize(
    ("seconds", "epochs", "told"),
    [(30, 11, ["About 5 minutes to go"]), (2, 11, ["About 20 seconds to go"]), (30, 1, [])],
)
def test_after_the_first_epoch_the_rest_is_estimated(tmp_path, monkeypatch, seconds, epochs, told):
    clock = Clock(monkeypatch, saving=0.0)

    def validate(network):
        clock.now += seconds
        return {"accuracy": 0.5, "log_loss": 1.0}

    job = lesson(tmp_path, network=tiny(), validate=validate, plan=Plan(cycles=(epochs,)))
    fit(job)
    assert [sentence.partition(". ")[0] for sentence in job.watcher.said] == told


class Clock:
    """Time that passes only where a test says so; and a count of the checkpoints."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, saving: float) -> None:
        self.now, self.saved = 0.0, 0
        save = checkpoints.save_checkpoint

        def slowly(path, *given) -> None:
            save(path, *given)
            if path.name == "last.safetensors":
                self.now += saving
                self.saved += 1

        monkeypatch.setattr(fitting.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(checkpoints, "save_checkpoint", slowly)


# ---------------------------------------------------------------- a step


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_plan_is_a_plain_loop(tmp_path, accumulate):
    """Against a loop written out by hand; six batches, so four a step leave a shorter last step."""
    network = tiny()
    by_hand = copy.deepcopy(network)
    pictures = loader()
    job = lesson(
        tmp_path,
        network=network,
        pictures=pictures,
        rate=0.1,
        decay=0.01,
        schedule="constant",
        plan=Plan(cycles=(2,), accumulate=accumulate),
    )
    fit(job)
    optimizer = torch.optim.SGD(
        [
            {"params": [by_hand.first.weight, by_hand.last.weight], "weight_decay": 0.01},
            {"params": [by_hand.first.bias, by_hand.last.bias]},
        ],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    for epoch in range(2):
        batches = list(pictures.batches(epoch))
        for first in range(0, len(batches), accumulate):
            step = batches[first : first + accumulate]
            optimizer.zero_grad()
            images = torch.from_numpy(np.concatenate([batch.images for batch in step]))
            targets = torch.from_numpy(np.concatenate([batch.targets for batch in step]))
            F.cross_entropy(by_hand(images), targets).backward()
            optimizer.step()
    torch.testing.assert_close(weights_of(network), weights_of(by_hand), atol=1e-6, rtol=1e-5)


def test_accumulated_batches_equal_one_big_batch(tmp_path):
    ends = []
    for size, accumulate in ((8, 1), (4, 2), (2, 4)):
        network = tiny()
        plan = Plan(cycles=(3,), accumulate=accumulate)
        fit(
            lesson(
                tmp_path / str(size),
                network=network,
                pictures=loader(batch_size=size),
                optimizer="adamw",
                schedule="constant",
                plan=plan,
            )
        )
        ends.append(weights_of(network))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ends[0], ends[2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("clip", [0.01, 0.0, 1e9])
def test_the_gradient_is_clipped_to_its_norm(tmp_path, clip):
    network = tiny()
    start = weights_of(network).clone()
    moved: list[float] = []
    watcher = Recorder(lambda _: moved.append(float((weights_of(network) - start).norm())))
    make = OPTIMIZERS["sgd"].make(learning_rate=1.0, weight_decay=0.0, momentum=0.0)
    plan = Plan(cycles=(1,), clip=clip)
    fit(
        lesson(
            tmp_path, network=network, schedule="constant", plan=plan, make_optimizer=make, watcher=watcher
        )
    )
    if clip == 0.01:
        assert moved[0] == pytest.approx(0.01, rel=1e-3)
    else:
        assert moved[0] > 0.1


def test_the_rate_follows_the_schedule_batch_by_batch(tmp_path):
    asked: list[tuple[float, int]] = []

    def schedule(done, epochs, scores) -> float:
        asked.append((done, epochs))
        return 0.0

    network = tiny()
    before = weights_of(network).clone()
    fit(replace(lesson(tmp_path, network=network, plan=Plan(cycles=(2,))), schedule=schedule))
    assert torch.equal(weights_of(network), before), "a share of zero moves nothing"
    steps = [done for done, _ in asked]
    assert sorted(set(steps)) == pytest.approx([number / 6 for number in range(12)])
    assert {epochs for _, epochs in asked} == {2}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_it_learns_in_every_arithmetic(tmp_path, precision, layout):
    job = lesson(
        tmp_path,
        optimizer="adamw",
        rate=0.01,
        plan=Plan(cycles=(8,), ema=0.9, clip=1.0),
        arithmetic=Arithmetic(precision, layout, "as given"),
    )
    fit(job)
    rows = job.journal.lines("epoch")
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert max(row["val_accuracy"] for row in rows) > 0.8


# ---------------------------------------------------------------- which weights


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize(
    ("select_by", "scores", "best"),
    [
        ("accuracy", [0.2, 0.9, 0.5, 0.9], 1),
        ("accuracy", [0.0, 0.0, 0.0, 0.1], 3),
        ("log_loss", [0.9, 0.3, 0.2, 0.5], 2),
        ("log_loss", [0.1, 0.3, 0.2, 0.5], 0),
    ],
)
def test_the_best_weights_are_those_of_the_best_validation(tmp_path, select_by, scores, best, ema):
    validate = Teaching(**{select_by: scores})
    job = lesson(
        tmp_path, network=tiny(), validate=validate, plan=Plan(cycles=(4,), select_by=select_by, ema=ema)
    )
    progress = fit(job)
    assert progress.best_epoch == best
    kept = tiny(seed=1)
    kept.load_state_dict(best_weights(tmp_path, progress))
    assert torch.equal(weights_of(kept), validate.seen[best])
    assert [path.name for path in tmp_path.glob("best-*")] == [f"best-{best}.safetensors"]
    rows = job.journal.lines("epoch")
    assert [row["epoch"] for row in rows if row["best"]][-1] == best + 1
    if ema:
        assert not torch.equal(validate.seen[-1], weights_of(job.network)), "the average is judged"


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [
        (0, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 6),
        (2, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 3),
        (2, [0.1, 0.2, 0.1, 0.3, 0.3, 0.3], 6),
        (1, [0.5, 0.5, 0.6, 0.7, 0.8, 0.9], 2),
    ],
)
def test_early_stopping_waits_as_long_as_asked(tmp_path, patience, scores, epochs):
    plan = Plan(cycles=(6,), early_stopping=patience)
    job = lesson(tmp_path, validate=Teaching(accuracy=scores), plan=plan)
    progress = fit(job)
    assert progress.done
    assert len(job.journal.lines("epoch")) == epochs
    again = lesson(tmp_path, validate=Teaching(accuracy=scores), plan=plan)
    before = left_behind(tmp_path)
    assert fit(again).epoch == epochs, "what has stopped early is done"
    assert left_behind(tmp_path) == before


def test_plateau_lowers_the_rate_when_validation_stalls(tmp_path):
    job = lesson(
        tmp_path,
        validate=Teaching(accuracy=[0.5] * 5),
        rate=0.1,
        schedule="plateau",
        schedule_settings={"patience": 1, "gamma": 0.5},
        plan=Plan(cycles=(5,)),
    )
    fit(job)
    rates = [row["learning_rate"] for row in job.journal.lines("epoch")]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05])


def test_plateau_reads_log_loss_the_right_way_round(tmp_path):
    job = lesson(
        tmp_path,
        validate=Teaching(log_loss=[1.0, 0.9, 0.8, 0.7, 0.6]),
        rate=0.1,
        schedule="plateau",
        schedule_settings={"patience": 1},
        plan=Plan(cycles=(5,), select_by="log_loss"),
    )
    fit(job)
    assert {row["learning_rate"] for row in job.journal.lines("epoch")} == {0.1}


# ---------------------------------------------------------------- extending


def test_an_extension_begins_a_new_cycle_of_the_schedule(tmp_path):
    plan = Plan(cycles=(3,))
    first = lesson(tmp_path, plan=plan, rate=0.1)
    fit(first)
    assert fit(lesson(tmp_path, plan=plan, rate=0.1)).epoch == 3, "a finished plan is not begun again"
    longer = lesson(tmp_path, plan=Plan(cycles=(3, 2)), rate=0.1)
    assert fit(longer).epoch == 5
    rates = [row["learning_rate"] for row in longer.journal.lines("epoch")]
    assert rates[2] < 0.02 < 0.05 < rates[3]
    assert rates[4] < 0.02


def test_an_extension_of_an_early_stop_waits_anew(tmp_path):
    scores = [0.5, 0.4, 0.3, 0.2, 0.1]
    fit(lesson(tmp_path, validate=Teaching(accuracy=scores), plan=Plan(cycles=(10,), early_stopping=2)))
    longer = lesson(
        tmp_path, validate=Teaching(accuracy=[0.2] * 4), plan=Plan(cycles=(3, 7), early_stopping=2)
    )
    progress = fit(longer)
    assert progress.epoch == 5
    assert progress.best_epoch == 0
    assert [row["epoch"] for row in longer.journal.lines("epoch")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("done", "place"),
    [(0, (0, 3)), (2.9, (2.9, 3)), (3, (0, 2)), (4.5, (1.5, 2)), (5, (0, 4)), (9, (4, 4))],
)
def test_where_a_moment_stands_in_its_cycle(done, place):
    assert Plan(cycles=(3, 2, 4)).place(done) == pytest.approx(place)


# ---------------------------------------------------------------- no numbers any more


class Poisoned:
    """A task whose loss is spoilt at one call."""

    def __init__(self, task, *, call: int, value: float) -> None:
        self._task, self._call, self._value, self.calls = task, call, value, 0

    def losses(self, network, batch):
        self.calls += 1
        losses = self._task.losses(network, batch)
        return {"loss": losses["loss"] * self._value} if self.calls == self._call else losses

    def weigh(self, batch):
        return self._task.weigh(batch)


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_update(tmp_path, optimizer, value):
    network = tiny()
    after: list[torch.Tensor] = []
    job = lesson(
        tmp_path,
        network=network,
        optimizer=optimizer,
        rate=0.01,
        plan=Plan(cycles=(2,), checkpoint_seconds=0.0, ema=0.9),
        watcher=Recorder(lambda _: after.append(weights_of(network).clone())),
    )
    job = replace(job, task=Poisoned(job.task, call=9, value=value))
    with pytest.raises(DivergedError) as caught:
        fit(job)
    assert torch.equal(weights_of(network), after[-1])
    assert len(after) == 8
    batch = list(job.loader.batches(1))[2]
    assert list(caught.value.causes) == [f"{position}.png" for position in batch.positions]
    assert "epoch 2, batch 3" in caught.value.message
    assert job.journal.lines("diverged")[0]["files"] == list(caught.value.causes)
    tensors, facts = load_checkpoint(tmp_path / "last.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert facts["progress"]["steps"] == 8
    saved = below("network", tensors)
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_no_number_names_all_pictures_of_the_step(tmp_path, clip):
    network = tiny()
    after: list[torch.Tensor] = []
    job = lesson(
        tmp_path,
        network=network,
        plan=Plan(cycles=(1,), accumulate=2, clip=clip),
        watcher=Recorder(lambda _: after.append(weights_of(network).clone())),
    )
    calls = 0

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * math.nan if calls == 3 else gradient

    network.first.weight.register_hook(spoil)
    with pytest.raises(DivergedError, match="The gradient became nan in epoch 1, batch 4") as caught:
        fit(job)
    assert torch.equal(weights_of(network), after[1])
    third, fourth = list(job.loader.batches(0))[2:4]
    named = [*third.positions, *fourth.positions]
    assert list(caught.value.causes) == [f"{position}.png" for position in named]


def test_many_pictures_are_named_up_to_a_limit(tmp_path):
    pictures = loader(positions=np.tile(np.arange(TRAIN), 2), batch_size=40)
    job = lesson(tmp_path, network=tiny(), pictures=pictures)
    job = replace(job, task=Poisoned(job.task, call=1, value=math.nan))
    with pytest.raises(DivergedError) as caught:
        fit(job)
    assert len(caught.value.causes) == 33
    assert caught.value.causes[-1] == "and 8 more"


def test_a_validation_that_is_no_number_keeps_the_last_checkpoint(tmp_path):
    validate = Teaching(log_loss=[1.0, math.nan])
    plan = Plan(cycles=(2,), checkpoint_seconds=0.0)
    job = lesson(tmp_path, network=tiny(), validate=validate, plan=plan)
    with pytest.raises(DivergedError, match="epoch 2 are no numbers any more"):
        fit(job)
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["progress"]["epoch"] == 1
    assert len(job.journal.lines("epoch")) == 1


@pytest.mark.parametrize(
    ("saving", "interval", "saved"),
    [
        (0.0, 300, 1 + 12),  # costs nothing: after every epoch
        (0.12, 300, 1 + 4),  # its twentieth-fold has passed after three epochs of a second
        (5.0, 300, 1 + 1),  # only when all is done
        (5.0, 5, 1 + 2),  # but never later than the interval allows
    ],
)
def test_checkpoints_take_a_small_share_of_the_time(tmp_path, monkeypatch, saving, interval, saved):
    clock = Clock(monkeypatch, saving=saving)
    scores = Teaching(accuracy=[number / 12 for number in range(12)])

    def validate(network):
        clock.now += 1.0
        return scores(network)

    plan = Plan(cycles=(12,), checkpoint_seconds=interval)
    progress = fit(lesson(tmp_path, network=tiny(), validate=validate, plan=plan))
    assert clock.saved == saved
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-11.safetensors"]
    kept = tiny(seed=1)
    kept.load_state_dict(best_weights(tmp_path, progress))
    assert torch.equal(weights_of(kept), scores.seen[11])


# ---------------------------------------------------------------- memory


class Hungry:
    """A task that runs out of memory when too many images come at once, or for its first calls."""

    def __init__(self, task, *, most: int, error: Exception) -> None:
        self._task, self._most, self._error = task, most, error

    def losses(self, network, batch):
        if len(batch.images) > self._most:
            raise self._error
        return self._task.losses(network, batch)

    def weigh(self, batch):
        return self._task.weigh(batch)


def test_class_weights_count_even_when_pictures_come_one_by_one(tmp_path):
    """Each picture's own weight would cancel if its loss were divided by it."""
    ends = []
    for class_weights in ((1.0, 1.0, 1.0), (0.1, 0.4, 2.5)):
        network = tiny()
        job = lesson(
            tmp_path / str(class_weights[0]),
            network=network,
            pictures=loader(batch_size=1),
            plan=Plan(cycles=(1,), accumulate=4),
        )
        fit(replace(job, task=classifying(*class_weights)))
        ends.append(weights_of(network))
    assert not torch.allclose(ends[0], ends[1], atol=1e-3)


@pytest.mark.parametrize("class_weights", [(), (0.1, 0.4, 2.5)])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("most", "pieces", "error"),
    [
        (4, 2, torch.OutOfMemoryError("CUDA out of memory")),
        (3, 4, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")),
        (1, 8, MemoryError()),
    ],
)
def test_short_of_memory_the_batch_is_cut_and_the_recipe_stays(
    tmp_path, most, pieces, error, accumulate, class_weights
):
    ends = []
    for name in ("plenty", "short"):
        network = tiny()
        watcher = Recorder()
        job = lesson(
            tmp_path / name,
            network=network,
            pictures=loader(batch_size=8),
            plan=Plan(cycles=(3,), accumulate=accumulate, ema=0.9),
            watcher=watcher,
        )
        task = classifying(*class_weights)
        job = replace(job, task=task if name == "plenty" else Hungry(task, most=most, error=error))
        progress = fit(job)
        ends.append((weights_of(network), [row["train_loss"] for row in job.journal.lines("epoch")]))
    torch.testing.assert_close(ends[0][0], ends[1][0], atol=1e-5, rtol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)
    assert 2**progress.halvings == pieces
    halved = [sentence for sentence in watcher.said if sentence.startswith("Memory ran out")]
    assert [f"in {pieces} pieces" in sentence for sentence in halved][-1]
    assert len(halved) == progress.halvings


def test_memory_that_runs_out_between_two_batches_of_one_step(tmp_path):
    """The first batch's gradients are there when the second finds no memory: none may count twice."""
    ends = []
    for short in (False, True):
        network = tiny()
        job = lesson(
            tmp_path / str(short), network=network, plan=Plan(cycles=(1,), accumulate=3), schedule="constant"
        )
        if short:
            task, calls = job.task, 0

            class Once:
                def losses(self, network, batch, task=task):
                    nonlocal calls
                    calls += 1
                    if calls == 2:
                        raise torch.OutOfMemoryError
                    return task.losses(network, batch)

                def weigh(self, batch, task=task):
                    return task.weigh(batch)

            job = replace(job, task=Once())
        fit(job)
        ends.append(weights_of(network))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=1e-5)


def test_after_three_halvings_the_machine_is_too_small(tmp_path):
    job = lesson(tmp_path, pictures=loader(batch_size=8))
    job = replace(job, task=Hungry(job.task, most=0, error=torch.OutOfMemoryError()))
    with pytest.raises(MachineError, match="batch of 8 in 8 pieces") as caught:
        fit(job)
    assert caught.value.exit_code == 3
    assert len(job.watcher.said) == 3
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["progress"]["steps"] == 0


def test_memory_that_runs_out_elsewhere_is_the_machines_error(tmp_path):
    def validate(network) -> dict[str, float]:
        raise torch.OutOfMemoryError

    with pytest.raises(MachineError, match="memory ran out"):
        fit(lesson(tmp_path, validate=validate))


def test_other_errors_are_not_taken_for_memory(tmp_path):
    job = lesson(tmp_path)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(replace(job, task=Hungry(job.task, most=0, error=RuntimeError("shapes differ"))))


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize("signal", [2, 15])
def test_a_signal_stops_after_the_step_and_saves(tmp_path, signal):
    watcher = Recorder()
    job = lesson(tmp_path, plan=Plan(cycles=(3,), accumulate=2), watcher=watcher)
    with pytest.raises(StoppedError, match="Stopped and saved at epoch 2, batch 2") as caught:
        fit(replace(job, stop=lambda: signal if len(watcher.losses) >= 7 else 0))
    assert caught.value.exit_code == 128 + signal
    assert load_checkpoint(tmp_path / "last.safetensors")[1]["progress"]["batch"] == 2


def test_a_signal_during_the_last_validation_is_heeded(tmp_path):
    validate = Teaching(accuracy=[0.1, 0.2])
    job = lesson(tmp_path, plan=Plan(cycles=(2,)), validate=validate)
    with pytest.raises(StoppedError):
        fit(replace(job, stop=lambda: 15 if len(validate.seen) == 2 else 0))
    assert fit(lesson(tmp_path, plan=Plan(cycles=(2,)))).epoch == 2


# ---------------------------------------------------------------- a time limit


class Timed:
    """Validation during which an epoch's time passes; the last time given goes on and on."""

    def __init__(self, clock: Clock, *spent: float) -> None:
        self._clock, self._spent, self.calls = clock, spent, 0

    def __call__(self, network) -> dict[str, float]:
        self._clock.now += self._spent[min(self.calls, len(self._spent) - 1)]
        self.calls += 1
        return {"accuracy": self.calls / 100, "log_loss": 1.0}


@pytest.mark.parametrize(
    ("seconds", "spent", "epochs", "cuts"),
    [
        (0.0, (10.0,), 10, []),  # no limit
        (100.0, (10.0,), 10, []),  # just enough
        (45.0, (10.0,), 4, [(4, 10)]),
        (99.0, (10.0,), 9, [(9, 10)]),
        (10.0, (10.0,), 1, [(1, 10)]),
        (3.0, (10.0,), 1, [(1, 10)]),  # one epoch there is in any case
        (60.0, (10.0, 10.0, 20.0), 4, [(6, 10), (4, 6)]),  # the machine became slower
        (70.0, (20.0, 1.0), 3, [(3, 10)]),  # a slow start; what was left out stays out
        (60.0, (5.0, 5.0, 30.0), 4, [(4, 10)]),
    ],
)
def test_epochs_that_would_take_too_long_are_left_out(tmp_path, monkeypatch, seconds, spent, epochs, cuts):
    clock = Clock(monkeypatch, saving=0.0)
    job = lesson(
        tmp_path,
        network=tiny(),
        validate=Timed(clock, *spent),
        plan=Plan(cycles=(10,), seconds=seconds),
    )
    progress = fit(job)
    assert progress.done
    assert progress.epoch == len(job.journal.lines("epoch")) == epochs
    assert [(line["epochs"], line["planned"]) for line in job.journal.lines("cut")] == cuts
    told = [sentence for sentence in job.watcher.said if sentence.startswith("The time allows")]
    assert told == [f"The time allows {allowed} of {planned} epochs." for allowed, planned in cuts]
    assert progress.cut == (cuts[-1][0] if cuts else 0)
    assert progress.best_epoch == epochs - 1
    if seconds:
        assert progress.seconds == sum(spent[min(n, len(spent) - 1)] for n in range(epochs))


def test_the_schedule_ends_where_the_time_does(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, saving=0.0)
    rates = {}
    for seconds in (0.0, 45.0):
        job = lesson(
            tmp_path / str(seconds),
            network=tiny(),
            rate=0.1,
            schedule_settings={"warmup_epochs": 0.0},
            validate=Timed(clock, 10.0),
            plan=Plan(cycles=(10,), seconds=seconds),
        )
        fit(job)
        rates[seconds] = [line["learning_rate"] for line in job.journal.lines("epoch")]
    assert rates[45.0][0] == rates[0.0][0], "the first epoch cannot know"
    # The last of six batches of the last of four epochs: 3 5/6 of 4.
    assert rates[45.0][-1] == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * (3 + 5 / 6) / 4)))
    assert rates[45.0][-1] < 0.1 * rates[0.0][3]


@pytest.mark.parametrize("stop_after", [7, 12, 15, 23])
def test_a_cut_stays_when_training_goes_on_after_a_stop(tmp_path, monkeypatch, stop_after):
    clock = Clock(monkeypatch, saving=0.0)

    def job(folder, **changes):
        plan = Plan(cycles=(10,), seconds=45.0)
        return lesson(folder, network=tiny(), validate=Timed(clock, 10.0), plan=plan, **changes)

    whole = job(tmp_path / "whole")
    fit(whole)
    watcher = Recorder()
    with pytest.raises(StoppedError):
        fit(
            replace(
                job(tmp_path / "broken", watcher=watcher),
                stop=lambda: 15 if len(watcher.losses) >= stop_after else 0,
            )
        )
    clock.now += 1000.0  # the pause does not count
    again = job(tmp_path / "broken")
    progress = fit(again)
    assert (progress.epoch, progress.cut, progress.seconds) == (4, 4, 40.0)
    assert [(line["epochs"], line["planned"]) for line in again.journal.lines("cut")] == [(4, 10)]
    assert torch.equal(weights_of(whole.network), weights_of(again.network))
    before = left_behind(tmp_path / "broken")
    assert fit(job(tmp_path / "broken")).epoch == 4, "what was cut short is done"
    assert left_behind(tmp_path / "broken") == before


@pytest.mark.parametrize("first", [3, 10])
def test_a_run_that_is_extended_gets_all_the_epochs_asked_for(tmp_path, monkeypatch, first):
    clock = Clock(monkeypatch, saving=0.0)

    def job(*cycles: int):
        plan = Plan(cycles=cycles, seconds=35.0)
        return lesson(tmp_path, network=tiny(), validate=Timed(clock, 10.0), plan=plan)

    assert fit(job(first)).epoch == 3, "the time allowed no more"
    again = job(3, 5)
    progress = fit(again)
    assert (progress.epoch, progress.cut, progress.done) == (8, 0, True)
    assert len(again.journal.lines("cut")) == (first > 3)


def test_early_stopping_comes_before_the_time(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, saving=0.0)

    def validate(network) -> dict[str, float]:
        clock.now += 10.0
        return {"accuracy": 0.5, "log_loss": 1.0}

    plan = Plan(cycles=(10,), early_stopping=2, seconds=85.0)
    job = lesson(tmp_path, network=tiny(), validate=validate, plan=plan)
    assert fit(job).epoch == 3
    assert [line["epochs"] for line in job.journal.lines("cut")] == [8]


@pytest.mark.parametrize(
    ("cycles", "epochs", "expected"), [((10,), 4, (4,)), ((3, 5), 4, (3, 1)), ((3, 5), 8, (3, 5))]
)
def test_only_the_last_cycle_of_a_plan_is_cut(cycles, epochs, expected):
    cut = Plan(cycles=cycles, seconds=9.0).cut_to(epochs)
    assert cut == Plan(cycles=expected, seconds=9.0)
    assert cut.epochs == epochs
