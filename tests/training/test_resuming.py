"""Broken off anywhere and taken up again, the end is the same bit for bit (in one process; see faults/)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lessons import Recorder, left_behind, lesson, loader, tiny

from pictune.errors import StoppedError
from pictune.training import checkpoints
from pictune.training.fitting import fit
from pictune.training.job import Fit
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan


class Killed(BaseException):
    """What nobody catches, as nobody catches SIGKILL."""


@dataclass(frozen=True)
class Case:
    """One way of training."""

    plan: Plan
    workers: int = 0
    optimizer: str = "adamw"
    schedule: str = "cosine"
    settings: dict[str, Any] = field(default_factory=dict)

    def job(self, folder: Path, **changes: Any) -> Fit:
        weights = np.linspace(1, 3, 24) if self.settings.get("balanced") else None
        job = lesson(
            folder,
            network=tiny(normalised=True, dropout=0.3),
            optimizer=self.optimizer,
            rate=0.01,
            decay=0.01,
            schedule=self.schedule,
            schedule_settings=self.settings.get("schedule"),
            pictures=loader(workers=self.workers, weights=weights),
            plan=self.plan,
        )
        return replace(job, **changes)


CASES = {
    "plain": Case(Plan(cycles=(3,))),
    "average": Case(Plan(cycles=(3,), ema=0.9, clip=1.0)),
    "workers": Case(Plan(cycles=(3,), ema=0.9), workers=2),
    "accumulate": Case(Plan(cycles=(3,), accumulate=4, ema=0.9)),
    "early stop": Case(Plan(cycles=(12,), early_stopping=1, ema=0.9)),
    "plateau": Case(Plan(cycles=(5,), select_by="log_loss"), schedule="plateau",
                    settings={"schedule": {"patience": 1, "gamma": 0.3}}),
    "extended": Case(Plan(cycles=(2, 2), ema=0.9), schedule="one_cycle"),
    "balanced": Case(Plan(cycles=(3,)), workers=2, settings={"balanced": True}),
    **{name: Case(Plan(cycles=(2,)), optimizer=name) for name in OPTIMIZERS},
}  # fmt: skip


def finished(case: Case, folder: Path) -> dict[str, bytes]:
    fit(case.job(folder))
    return left_behind(folder)


def killed_after(case: Case, folder: Path, *, steps: int, every_step_saved: bool) -> None:
    def strike(done: int) -> None:
        if done == steps:
            raise Killed

    plan = replace(case.plan, checkpoint_seconds=0.0 if every_step_saved else 1e9)
    fit(case.job(folder, plan=plan, watcher=Recorder(strike)))


@pytest.mark.parametrize("name", list(CASES))
def test_killed_at_any_steps_it_ends_the_same(tmp_path, name):
    case = CASES[name]
    whole = finished(case, tmp_path / "whole")
    generator = np.random.default_rng(len(name))
    for round_number in range(3):
        folder = tmp_path / f"round{round_number}"
        # Two kills, the second while it goes on; a kill past the end finds a finished training.
        for steps in generator.integers(1, 12, 2):
            try:
                killed_after(case, folder, steps=int(steps), every_step_saved=bool(round_number % 2))
            except Killed:
                continue
        assert finished(case, folder) == whole


@pytest.mark.parametrize(
    ("name", "moment"), [("average", "after"), ("accumulate", "before"), ("early stop", "before")]
)
def test_killed_around_every_write_of_a_checkpoint_it_ends_the_same(tmp_path, monkeypatch, name, moment):
    case = CASES[name]
    whole = finished(case, tmp_path / "whole")
    save = checkpoints.save_checkpoint
    for number in range(1, 100, 2):
        folder = tmp_path / f"write{number}"
        calls = 0

        def strike(*given: Any, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == number and moment == "before":
                raise Killed
            save(*given)
            if calls == number:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save_checkpoint", strike)
            survived = True
            try:
                fit(case.job(folder, plan=replace(case.plan, checkpoint_seconds=0.0)))
            except Killed:
                survived = False
        assert finished(case, folder) == whole
        if survived:
            break
    assert number > 10, "hardly any write was struck"


@pytest.mark.parametrize("name", ["average", "accumulate", "workers"])
def test_stopped_by_a_signal_again_and_again_it_ends_the_same(tmp_path, name):
    case = CASES[name]
    whole = finished(case, tmp_path / "whole")
    for _ in range(60):
        watcher = Recorder()
        try:
            fit(case.job(tmp_path / "again", watcher=watcher, stop=lambda w=watcher: 15 if w.losses else 0))
        except StoppedError:
            continue
        break
    assert left_behind(tmp_path / "again") == whole


def test_workers_change_nothing(tmp_path):
    ends = [
        finished(replace(CASES["average"], workers=workers), tmp_path / str(workers))
        for workers in (0, 1, 2, 5)
    ]
    assert all(end == ends[0] for end in ends)


def test_another_seed_is_another_training(tmp_path):
    """So that the equalities above are no accident of a training that has no chance in it."""
    plan = Plan(cycles=(1,))
    ends = [finished(Case(replace(plan, seed=seed)), tmp_path / str(seed)) for seed in (0, 1)]
    assert ends[0] != ends[1]
