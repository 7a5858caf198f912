"""The table of answers: whatever pictures and classes are called, no spreadsheet runs it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pictune.data.sample import Boxes, ClassMap, Labels
from pictune.errors import RunError
from pictune.tasks.task import Prediction
from pictune.verbs.prediction_table import check_table, write_rows


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_as_a_formula_does(tmp_path: Path, start: str) -> None:
    name = f"{start}cmd|' /C calc'!A1"
    box = Boxes((name,), np.array([[-5.0, 1, 2, 3]]))
    answers = [
        Prediction(f"{name}.png", Labels((name,)), {name: 0.9}),
        Prediction(f"{name}.png", box, {}, (0.9,)),
    ]
    write_rows(tmp_path / "answers.csv", answers, {f"{name}.jpg": f"{name} is no picture"})
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == [f"'{name}.png", f"'{name}.png", f"'{name}.jpg"]
    assert [row["class"] for row in rows] == [f"'{name}", f"'{name}", ""]
    assert rows[2]["error"] == f"'{name} is no picture"
    assert float(rows[1]["left"]) == -5, "a number is no formula"


def test_a_share_of_the_pixels_is_no_confidence(tmp_path: Path) -> None:
    answers = [
        Prediction("a.png", Labels(("x",)), {"x": 0.9, "y": 0.1}),
        Prediction("b.png", ClassMap(("x", "y"), np.array([[1, 1, 1, 0]], np.uint8)), {"y": 0.75, "x": 0.25}),
    ]
    write_rows(tmp_path / "answers.csv", answers, {})
    with (tmp_path / "answers.csv").open(encoding="utf-8", newline="") as stream:
        rows = [
            [row[n] for n in ("class", "confidence", "share", "answered")] for row in csv.DictReader(stream)
        ]
    assert rows == [
        ["x", "0.900000", "", "yes"],
        ["y", "0.100000", "", "no"],
        ["y", "", "0.750000", "yes"],
        ["x", "", "0.250000", "yes"],
    ]


def test_only_a_table_of_answers_is_replaced(tmp_path: Path) -> None:
    table = tmp_path / "answers.csv"
    check_table(table, flag="--csv")
    table.touch()
    check_table(table, flag="--csv")
    write_rows(table, [Prediction("a.png", Labels(("x",)), {"x": 0.9})], {})
    check_table(table, flag="--csv")
    for content in ("path,class\n", "data: here\n", "p"):
        table.write_text(content)
        with pytest.raises(RunError, match="exists, and is no table of answers"):
            check_table(table, flag="--csv")
        assert table.read_text() == content
