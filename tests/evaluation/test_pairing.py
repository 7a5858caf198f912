"""Two models on the same images: differences, and intervals that hold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pictune.errors import DataError
from pictune.evaluation.measurement import measure
from pictune.evaluation.pairing import paired
from pictune.tasks.table import BoxTable, ClassTable, PixelTable

CLASSES = ("a", "b", "c")


def classes(seed: int, *, images: int = 200, skill: float = 2.0, grouped: bool = False) -> ClassTable:
    generator = np.random.default_rng(0)
    truth = np.eye(3, dtype=bool)[generator.integers(3, size=images)]
    logits = truth * skill + np.random.default_rng(seed).normal(0, 1, truth.shape)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    decided = np.eye(3, dtype=bool)[scores.argmax(1)]
    groups = np.arange(images) // 4 if grouped else None
    return ClassTable(tuple(map(str, range(images))), CLASSES, truth, scores, decided, True, groups)


def boxes(seed: int, *, wobble: float = 2.0, images: int = 30) -> BoxTable:
    generator = np.random.default_rng(0)
    true_image = np.repeat(np.arange(images), 3)
    corner = generator.random((len(true_image), 2)) * 60
    true_box = np.hstack([corner, corner + 20])
    true_label = generator.integers(3, size=len(true_image))
    moved = np.random.default_rng(seed)
    return BoxTable(
        keys=tuple(map(str, range(images))),
        classes=CLASSES,
        image=true_image,
        label=true_label,
        score=moved.random(len(true_image)),
        box=true_box + moved.normal(0, wobble, true_box.shape),
        true_image=true_image,
        true_label=true_label,
        true_box=true_box,
        crowd=np.zeros(len(true_image), bool),
        area=np.full(len(true_image), 400.0),
        thresholds=np.full(3, 0.5),
    )


def pixels(seed: int, *, share: float = 0.8, images: int = 30) -> PixelTable:
    true = np.random.default_rng(0).integers(50, 200, (images, 3))
    hits = np.random.default_rng(seed).binomial(true, share)
    missed = true - hits
    answered = hits + np.roll(missed, 1, axis=1)
    confusion = np.diag(hits.sum(0)) + np.roll(np.diag(missed.sum(0)), 1, axis=1)
    edges = np.zeros((images, 3, 4), np.int64)
    return PixelTable(tuple(map(str, range(images))), CLASSES, hits, true, answered, confusion, edges)


MAKE = {"classes": (classes, "accuracy"), "boxes": (boxes, "map"), "pixels": (pixels, "mean_iou")}
WORSE = {
    "classes": lambda: classes(2, skill=0.3),
    "boxes": lambda: boxes(2, wobble=6.0),
    "pixels": lambda: pixels(2, share=0.5),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_difference_is_that_of_the_two_reports(kind: str) -> None:
    make, main = MAKE[kind]
    first, second = make(1), make(2)
    found = paired(first, second)
    assert found.main.name == main
    before, after = (measure(table).to_json() for table in (first, second))
    for name, one in found.metrics.items():
        assert one.first == pytest.approx(before["metrics"][name]["value"])
        assert one.second == pytest.approx(after["metrics"][name]["value"])
        assert one.difference == pytest.approx(one.second - one.first)
        assert one.low <= one.difference <= one.high
    for (name, row), was, now in zip(found.per_class, before["per_class"], after["per_class"], strict=True):
        assert name == was["class"]
        for metric, one in row.items():
            assert one.first == pytest.approx(was[metric]["value"])
            assert one.second == pytest.approx(now[metric]["value"])
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", MAKE)
def test_a_clear_loss_is_told_from_chance_and_the_other_way_round(kind: str) -> None:
    make, _ = MAKE[kind]
    found = paired(make(1), WORSE[kind]())
    assert found.main.high < 0
    back = paired(WORSE[kind](), make(1))
    assert back.main.difference == pytest.approx(-found.main.difference)
    assert back.main.low > 0


@pytest.mark.parametrize("kind", MAKE)
def test_equal_models_differ_by_nothing_and_the_interval_says_of_how_many(kind: str) -> None:
    table = MAKE[kind][0](1)
    found = paired(table, table)
    assert all(one.difference == 0 for one in found.metrics.values())
    if kind == "classes":
        few = paired(classes(1, images=20), classes(1, images=20)).main
        assert 0 < found.main.high < few.high
        assert few.high == pytest.approx(-few.low)


@pytest.mark.parametrize("kind", MAKE)
def test_equal_tables_and_seeds_give_equal_numbers(kind: str) -> None:
    make, _ = MAKE[kind]
    assert paired(make(1), make(2), seed=3).to_json() == paired(make(1), make(2), seed=3).to_json()


def test_groups_widen_an_interval() -> None:
    """Four images of one group that change together say no more than one."""
    table = classes(1, grouped=True)
    worse = table.decided.copy()
    for group in (3, 11, 20, 33):
        rows = np.flatnonzero(table.groups == group)
        worse[rows] = np.roll(table.truth[rows], 1, axis=1)
    second = replace(table, decided=worse)
    alone = paired(replace(table, groups=None), replace(second, groups=None)).main
    together = paired(table, second).main
    assert together.difference == pytest.approx(alone.difference)
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


@pytest.mark.slow
def test_intervals_of_accuracy_hold_the_truth() -> None:
    """Two models of known accuracy that mostly err together, drawn 600 times."""
    generator = np.random.default_rng(7)
    for images in (50, 200):
        held = 0
        for _ in range(300):
            kind = generator.choice(4, images, p=(0.85, 0.06, 0.02, 0.07))  # both, first, second, none right
            tables = []
            for right in (kind < 2, (kind == 0) | (kind == 2)):
                truth = np.tile((True, False), (images, 1))
                decided = np.where(right[:, None], truth, ~truth)
                keys = tuple(map(str, range(images)))
                tables.append(ClassTable(keys, ("a", "b"), truth, decided * 1.0, decided, True))
            one = paired(*tables).main
            held += one.low <= -0.04 <= one.high
        assert 0.91 <= held / 300 <= 0.995, images


def test_tables_of_other_images_or_truths_are_refused() -> None:
    table = classes(1)
    for other, said in (
        (replace(table, keys=table.keys[::-1]), "keys"),
        (replace(table, truth=np.roll(table.truth, 1, axis=1)), "truth"),
        (replace(table, groups=np.arange(200)), "groups"),
        (pixels(1), "PixelTable"),
    ):
        with pytest.raises(DataError, match="not_paired") as caught:
            paired(table, other)
        assert said in str(caught.value)
