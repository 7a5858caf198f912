"""`pictune demo`: the whole way, on fewer pictures than it draws for people."""

from __future__ import annotations

import csv
import json

import pytest
from asking import ask, report_of

from pictune.run import Run
from pictune.training.machine import Arithmetic, Machine
from pictune.verbs import demo as home


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured_nothing(*_: object, **__: object) -> Arithmetic:
        return Arithmetic("fp32", "contiguous", "for a test")

    monkeypatch.setattr("pictune.verbs.demo.IMAGES", 120)
    monkeypatch.setattr("pictune.verbs.demo.EPOCHS", 1)
    monkeypatch.setattr(Machine, "choose", measured_nothing)


def test_draws_trains_and_reports(here) -> None:
    answer = ask("demo", "--json")
    assert answer.code == 0, answer.err
    assert set(answer.json) == {"verb", "run", "report", "metrics", "seconds"}
    assert answer.json["run"].startswith("pictune-demo/runs/")
    report = report_of(answer.json["run"])
    assert answer.json["metrics"] == report["metrics"]
    assert report["metrics"]["accuracy"]["low"] < report["metrics"]["accuracy"]["high"]
    assert len(report["per_class"]) == 10


def test_no_handwriting_is_in_two_splits(here) -> None:
    run = home.demo(here / "play", seed=1)
    table = next((here / "play/digits").glob("*.csv"))
    with table.open() as stream:
        rows = {row["path"]: row["group"] for row in csv.DictReader(stream)}
    splits = Run(run.path).read("splits.json")["splits"]
    homes = {(rows[key], name) for name, keys in splits.items() for key in keys}
    assert len(homes) == len(set(rows.values()))
    assert json.loads((run.path / "status.json").read_text())["state"] == "finished"
