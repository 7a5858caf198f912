"""Recall by size and precision over recall: what can be counted by hand, and what must hold for any table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from test_box_numbers import random_table, table_of

from pictune.evaluation.box_details import precision_curves, size_groups
from pictune.evaluation.box_measurement import BoxMeasurement, measure_box_table
from pictune.evaluation.box_numbers import measure_boxes
from pictune.tasks.average_precision import precision
from pictune.tasks.matching import Verdict


def measured(table):
    return measure_boxes(table, resamples=20)


def square(side: float, at: float = 0.0) -> list[float]:
    return [at, at, at + side, at + side]


def test_small_objects_that_are_missed_are_told_from_large_ones_that_are_found():
    """Forty objects of sides 10 to 49; the smaller half is missed."""
    sides = range(10, 50)
    known = [(image, 0, square(side)) for image, side in enumerate(sides)]
    said = [(image, 0, 0.9, square(side)) for image, side in enumerate(sides) if side >= 30]
    groups = size_groups(measured(table_of(said, known, images=40)))
    assert [group["objects"] for group in groups] == [10, 10, 10, 10]
    assert [group["recall"]["value"] for group in groups] == [0, 0, 1, 1]
    assert groups[0]["from"] == 10
    assert groups[-1]["to"] == 49
    assert all(before["to"] == after["from"] for before, after in pairwise(groups))
    assert groups[0]["recall"]["high"] > 0.1
    assert groups[-1]["recall"]["low"] < 0.9


def test_few_objects_or_objects_of_one_size_make_no_groups():
    few = [(image, 0, square(10 + image)) for image in range(19)]
    assert size_groups(measured(table_of([], few, images=19))) == []
    alike = [(image, 0, square(10)) for image in range(50)]
    assert size_groups(measured(table_of([], alike, images=50))) == []
    assert size_groups(measured(table_of([], [], images=1))) == []


def test_crowds_are_in_no_group():
    known = [(image, 0, square(10 + image)) for image in range(30)]
    crowds = [(image, 0, square(300), True) for image in range(30)]
    groups = size_groups(measured(table_of([], known + crowds, images=30)))
    assert sum(group["objects"] for group in groups) == 30
    assert groups[-1]["to"] < 100


@pytest.mark.parametrize("seed", range(5))
def test_groups_add_up_to_all_that_was_found(seed):
    measure = measured(random_table(seed, images=40))
    known = measure.verdicts.known.verdict
    groups = size_groups(measure)
    assert sum(group["objects"] for group in groups) == (known != Verdict.IGNORED).sum()
    found = sum(group["objects"] * group["recall"]["value"] for group in groups)
    assert found == pytest.approx((known == Verdict.FOUND).sum())


def test_a_curve_falls_from_its_start_and_the_weakest_class_comes_first():
    known = [(image, label, square(40, 100 * label)) for image in range(10) for label in range(2)]
    said = [(image, 0, 0.9 - 0.01 * image, square(40)) for image in range(10)]
    said += [(image, 1, 0.9 - 0.01 * image, square(40, 100)) for image in range(5)]
    curves = precision_curves(measured(table_of(said, known, images=10)))
    assert [curve["class"] for curve in curves] == ["dog", "cat"]
    assert curves[1]["points"][0] == [0, 1]
    assert curves[1]["points"][-1] == [1, 1]
    assert curves[0]["points"][-1] == [0.55, 0]  # half of the dogs were found
    assert (curves[0]["recall"], curves[0]["precision"]) == (0.5, 1)


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_a_curve_is_the_average_precision(seed):
    measure = measured(random_table(seed, images=40))
    expected = precision(measure.matches).ap50[0]
    for curve in precision_curves(measure):
        label = measure.table.classes.index(curve["class"])
        heights = [y for _, y in curve["points"]]
        whole = np.mean(heights + [0.0] * (21 - len(heights)))
        assert whole == pytest.approx(expected[label], abs=0.06)  # 21 points of 101
        assert heights == sorted(heights, reverse=True)


def test_every_kind_of_error_is_in_the_report_once():
    found = measure_box_table(random_table(3, images=40), 20, 0.95, 0)
    assert isinstance(found, BoxMeasurement)
    kinds = found.to_json()["kinds_of_error"]
    counts = [kind["count"] for kind in kinds]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) > 0
    assert {kind["kind"] for kind in kinds} == {
        "class", "location", "both", "duplicate", "background", "unnoticed",
    }  # fmt: skip
