"""Numbers of pixels with their intervals: what can be counted by hand, and what must hold for any table."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pictune.evaluation.pixel_numbers import CLASS_NUMBERS, measure_pixels
from pictune.tasks.table import PixelTable

ROAD, POLE = 0, 1


def table_of(counts, edges=None, groups=None, names=("road", "pole")) -> PixelTable:
    """A table from (n, k, 3) pixels that are right, true and answered."""
    counts = np.asarray(counts, np.int64)
    right, true, answered = np.moveaxis(counts, -1, 0)
    size = len(names)
    confusion = np.diag(right.sum(0))
    return PixelTable(
        keys=tuple(f"{number}.png" for number in range(len(counts))),
        classes=names,
        hits=right,
        true=true,
        answered=answered,
        confusion=confusion,
        edges=np.zeros((len(counts), size, 4), np.int64) if edges is None else np.asarray(edges, np.int64),
        groups=groups,
    )


def random_table(seed: int, images: int = 30, classes: int = 3, groups=None) -> PixelTable:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 1000, (images, classes)) * (rng.random((images, classes)) < 0.7)
    right = (true * rng.beta(6, 2, true.shape)).astype(np.int64)
    answered = right + rng.integers(0, 200, true.shape)
    names = tuple(f"class {number}" for number in range(classes))
    return table_of(np.stack([right, true, answered], -1), groups=groups, names=names)


def measured(table: PixelTable, seed: int = 0):
    return measure_pixels(table, 300, 0.95, seed)


def test_what_can_be_counted_by_hand():
    """Two pictures: 80 of 100 road pixels right and 20 taken for poles; 10 of 10 pole pixels right."""
    found = measured(table_of([[[40, 50, 40], [5, 5, 15]], [[40, 50, 40], [5, 5, 15]]]))
    road, pole = (row.metrics for row in found.classes)
    assert road["iou"].value == pytest.approx(0.8)
    assert pole["iou"].value == pytest.approx(1 / 3)
    assert road["recall"].value == pytest.approx(0.8)
    assert pole["precision"].value == pytest.approx(1 / 3)
    assert road["dice"].value == pytest.approx(160 / 180)
    assert found.metrics["mean_iou"].value == pytest.approx((0.8 + 1 / 3) / 2)
    assert found.metrics["pixel_accuracy"].value == pytest.approx(90 / 110)
    assert found.metrics["class_accuracy"].value == pytest.approx(0.9)


def test_edges_are_an_harmonic_mean_of_two_shares():
    edges = [[[8, 10, 6, 8], [0, 0, 0, 0]]] * 3
    found = measured(table_of([[[9, 10, 10], [0, 0, 0]]] * 3, edges))
    assert found.classes[ROAD].metrics["boundary_f1"].value == pytest.approx(2 * 0.8 * 0.75 / 1.55)
    assert found.classes[POLE].metrics["boundary_f1"].value is None


@pytest.mark.parametrize("seed", range(4))
def test_every_interval_holds_its_value_and_json_is_plain(seed):
    found = measured(random_table(seed))
    for number in [
        *found.metrics.values(),
        *(row.metrics[n] for row in found.classes for n in CLASS_NUMBERS),
    ]:
        if number.low is not None:
            assert 0 <= number.low <= number.value <= number.high <= 1
    assert json.loads(json.dumps(found.to_json(), allow_nan=False)) == found.to_json()
    assert measured(random_table(seed)).to_json() == found.to_json()


def test_a_class_that_is_nowhere_has_no_number_and_says_why():
    found = measured(table_of([[[9, 10, 10], [0, 0, 0]]] * 5))
    assert found.classes[POLE].metrics["iou"].value is None
    assert "no pixel" in found.classes[POLE].metrics["iou"].reason
    assert found.metrics["mean_iou"].value == pytest.approx(9 / 11)
    assert any("No pixel here is of pole" in remark.to_json()["message"] for remark in found.findings)


def test_one_image_shows_a_value_but_not_how_far_it_may_be_off():
    found = measured(table_of([[[9, 10, 10], [5, 5, 5]]]))
    assert found.metrics["mean_iou"].value is not None
    assert found.metrics["mean_iou"].low is None
    assert "one image" in found.metrics["mean_iou"].reason


def test_a_class_that_only_one_image_shows_has_no_interval():
    rows = [[[90, 100, 100], [0, 0, 0]]] * 9 + [[[80, 100, 90], [5, 10, 8]]]
    found = measured(table_of(rows))
    assert found.classes[POLE].metrics["iou"].low is None
    assert found.classes[ROAD].metrics["iou"].low is not None


def test_a_class_that_is_never_found_is_not_proved_hopeless():
    """In two of nine images, never answered: nothing scatters, and yet little is known."""
    rows = [[[90, 100, 100], [0, 0, 0]]] * 7 + [[[80, 100, 90], [0, 10, 0]]] * 2
    never = measured(table_of(rows)).classes[POLE].metrics["iou"]
    assert (never.value, never.low) == (0, 0)
    assert never.high > 0.5


def test_groups_widen_intervals_and_are_counted():
    alone = random_table(5, images=40)
    grouped = replace(alone, groups=np.arange(40) // 10)
    one, four = measured(alone), measured(grouped)
    assert (one.n_groups, four.n_groups) == (40, 4)
    assert one.metrics["mean_iou"].value == four.metrics["mean_iou"].value
    copies = replace(
        alone,
        **{name: np.repeat(getattr(alone, name)[::10], 10, axis=0) for name in ("hits", "true", "answered")},
    )
    narrow, wide = (measured(replace(copies, groups=groups)) for groups in (None, np.arange(40) // 10))

    def width(found) -> float:
        return found.metrics["mean_iou"].high - found.metrics["mean_iou"].low

    assert width(wide) > 1.5 * width(narrow)


def test_few_images_reach_farther_than_percentiles():
    """Student's quantile of nine images is a sixth farther than the normal one."""
    table = random_table(1, images=9, classes=1)
    found = measured(table).metrics["pixel_accuracy"]
    rng = np.random.default_rng(0)
    draws = rng.multinomial(9, np.full(9, 1 / 9), size=20_000)
    shares = (draws @ table.hits[:, 0]) / np.maximum(draws @ table.true[:, 0], 1)
    low, high = np.quantile(shares, (0.025, 0.975))
    assert found.low < low
    assert found.high > high


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)

    def images(count: int) -> np.ndarray:
        true = np.exp(rng.normal(7, 0.5, (count, 2)))
        right = true * rng.beta(6, 2, true.shape)
        return np.rint(np.stack([right, true, right + true * rng.beta(2, 6, true.shape)], -1)).astype(
            np.int64
        )

    right, true, answered = images(200_000).sum(0).T
    truth = float((right / (true + answered - right)).mean())
    held = 0
    for seed in range(200):
        number = measure_pixels(table_of(images(30)), 300, 0.95, seed).metrics["mean_iou"]
        held += number.low <= truth <= number.high
    assert 0.9 <= held / 200 <= 0.99
