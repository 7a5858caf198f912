"""`pictune demo`: the whole way for each task, on fewer pictures than it draws for people."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from asking import ask, report_of

from pictune.errors import RecipeError
from pictune.run import Run
from pictune.training.machine import Arithmetic, Machine
from pictune.verbs import demo as home


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured_nothing(*_: object, **__: object) -> Arithmetic:
        return Arithmetic("fp32", "contiguous", "for a test")

    shows = {
        task: replace(show, images=120, arguments={**show.arguments, "epochs": 1})
        for task, show in home.SHOWS.items()
    }
    monkeypatch.setattr("pictune.verbs.demo.SHOWS", shows)
    monkeypatch.setattr(Machine, "choose", measured_nothing)


HEADLINES = {"classification": "accuracy", "detection": "map", "segmentation": "mean_iou"}


@pytest.mark.parametrize("task", HEADLINES)
def test_draws_trains_and_reports(here, task) -> None:
    answer = ask("demo", "--task", task, "--json")
    assert answer.code == 0, answer.err
    assert set(answer.json) == {"verb", "run", "report", "metrics", "seconds"}
    assert answer.json["run"].startswith("pictune-demo/runs/")
    report = report_of(answer.json["run"])
    assert report["task"] == task
    assert answer.json["metrics"] == report["metrics"]
    number = report["metrics"][HEADLINES[task]]
    assert number["low"] <= number["value"] <= number["high"]
    assert len(report["per_class"]) == (11 if task == "segmentation" else 10)


def test_without_a_word_it_is_classification(here) -> None:
    answer = ask("demo", "--json")
    assert report_of(answer.json["run"])["task"] == "classification"


@pytest.mark.parametrize("task", HEADLINES)
def test_no_handwriting_is_in_two_splits(here, task) -> None:
    run = home.demo(here / "play", task=task, seed=1)
    groups = {}
    for table in (here / "play").glob("*/*.csv"):
        with table.open() as stream:
            groups = {row["path"]: row["group"] for row in csv.DictReader(stream)}
    splits = Run(run.path).read("splits.json")["splits"]
    of = groups or {key: key.split("/")[1].split("_")[0] for keys in splits.values() for key in keys}
    homes = {(of[key], name) for name, keys in splits.items() for key in keys}
    assert len(homes) == len({of[key] for keys in splits.values() for key in keys}) > 5
    assert json.loads((run.path / "status.json").read_text())["state"] == "finished"


def test_a_task_that_is_none_is_told(here) -> None:
    with pytest.raises(RecipeError, match="did you mean detection"):
        home.demo(here / "play", task="detecton")
    assert not (here / "play").exists()
