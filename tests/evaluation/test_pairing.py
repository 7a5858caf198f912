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


@pytest.mark.parametrize(
    ("given", "said"),
    [({"confidence": 1.0}, "confidence"), ({"resamples": 99}, "resamples"), ({"seed": -1}, "seed")],
)
def test_arguments_that_cannot_be_used_are_refused(given: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        paired(pixels(1), pixels(2), **given)
    assert paired(pixels(1), pixels(2), confidence=0.5, resamples=100, seed=0).main.low is not None


@pytest.mark.parametrize("kind", MAKE)
def test_no_difference_in_few_images_is_no_proof(kind: str) -> None:
    """None of n images differs: about 3.84 / n of others still may, by Tango's interval."""
    table = MAKE[kind][0](1)
    for one in paired(table, table).metrics.values():
        assert one.low < 0 < one.high
        assert one.low == pytest.approx(-one.high)
        assert one.high >= 3.84 / (3.84 + len(table)) * 0.5  # F1 of single labels moves by half a share
    if kind == "pixels":
        few = paired(pixels(1, images=5), pixels(1, images=5)).main
        assert few.high > 2 * paired(table, table).main.high


def test_many_labels_of_an_image_are_no_more_images() -> None:
    """Each of 100 images shows all three classes; what they prove of F1 is what 100 images prove."""
    table = classes(1, images=100)
    full = np.ones_like(table.truth)
    many = replace(table, truth=full, decided=full, scores=full * 1.0, exclusive=False)
    assert paired(many, many).metrics["macro_f1"].high >= 3.84 / (3.84 + 100) * 0.9
    assert "balanced_accuracy" not in paired(many, many).metrics


@pytest.mark.parametrize(("kind", "said"), [("classes", "image"), ("boxes", "object"), ("pixels", "pixel")])
def test_a_class_that_is_not_here_has_a_reason_in_its_own_words(kind: str, said: str) -> None:
    def with_absent(table):
        if kind == "boxes":
            return replace(table, classes=(*CLASSES, "none"), thresholds=np.full(4, 0.5))
        wider = {"classes": (*CLASSES, "none")}
        columns = ("truth", "scores", "decided") if kind == "classes" else ("hits", "true", "answered")
        for name in columns:
            wider[name] = np.pad(getattr(table, name), ((0, 0), (0, 1)))
        if kind == "pixels":
            wider |= {"confusion": np.pad(table.confusion, (0, 1)), "edges": np.zeros((30, 4, 4), np.int64)}
        return replace(table, **wider)

    make = MAKE[kind][0]
    found = paired(with_absent(make(1)), with_absent(make(2)))
    name, row = found.per_class[3]
    one = next(iter(row.values()))
    assert (name, one.first, one.difference, found.support[3]) == ("none", None, None, 0)
    assert f"no {said} here" in one.reason
    assert found.main.difference == pytest.approx(paired(make(1), make(2)).main.difference)


def test_one_changed_image_of_many_leaves_the_sign_open() -> None:
    """The interval must not shrink to what draws of a single image happen to show."""
    table = pixels(1, images=200)
    hits = table.hits.copy()
    hits[7] //= 2
    one = paired(table, replace(table, hits=hits)).main
    assert one.difference < 0 <= one.high
    assert one.low < 2 * one.difference


def test_groups_widen_differences_that_are_drawn() -> None:
    table = pixels(1, images=80)
    groups = np.arange(80) // 4
    worse = (groups % 5 == 0)[:, None]
    second = replace(table, hits=np.where(worse, table.hits // 2, table.hits))
    alone = paired(table, second).main
    together = paired(replace(table, groups=groups), replace(second, groups=groups)).main
    assert together.difference == pytest.approx(alone.difference)
    assert together.high - together.low > 1.3 * (alone.high - alone.low)
