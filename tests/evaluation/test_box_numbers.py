"""Numbers of boxes with their intervals: what can be counted by hand, and what must hold for any table."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.errors import DataError
from pictune.evaluation.box_counts import box_confusion
from pictune.evaluation.box_numbers import (
    BOX_CLASS_METRICS,
    COUNTED,
    RANKED,
    measure_boxes,
)
from pictune.evaluation.intervals import Clusters, share_interval
from pictune.evaluation.metrics import share_of
from pictune.tasks.average_precision import class_mean, coco_numbers, precision
from pictune.tasks.matching import Verdict, judge, match
from pictune.tasks.table import BoxTable

HERE, BESIDE, FAR = [0, 0, 40, 40], [20, 0, 60, 40], [200, 200, 240, 240]
CAT, DOG = 0, 1


def table_of(said, known, *, images=1, classes=("cat", "dog"), groups=None) -> BoxTable:
    """A table from rows (image, class, score, box) and (image, class, box[, crowd])."""
    said, known = sorted(said, key=lambda row: row[0]), sorted(known, key=lambda row: row[0])
    true_box = np.array([row[2] for row in known], float).reshape(-1, 4)
    return BoxTable(
        keys=tuple(f"{i:03}.png" for i in range(images)),
        classes=tuple(classes),
        image=np.array([row[0] for row in said], np.int64),
        label=np.array([row[1] for row in said], np.int64),
        score=np.array([row[2] for row in said], float),
        box=np.array([row[3] for row in said], float).reshape(-1, 4),
        true_image=np.array([row[0] for row in known], np.int64),
        true_label=np.array([row[1] for row in known], np.int64),
        true_box=true_box,
        crowd=np.array([len(row) > 3 for row in known], bool),
        area=(true_box[:, 2:] - true_box[:, :2]).prod(axis=1),
        thresholds=np.full(len(classes), 0.5),
        groups=groups,
    )


def random_table(seed: int, images: int = 20, classes: int = 3, *, absent: int = 1) -> BoxTable:
    """Detections of middling quality; the last ``absent`` classes are nowhere."""
    generator = np.random.default_rng(seed)
    said, known = [], []
    for image in range(images):
        for _ in range(generator.poisson(3)):
            label = int(generator.integers(classes - absent))
            corner, size = generator.random(2) * 300, np.exp(generator.normal(3.6, 0.7, 2))
            box = np.concatenate([corner, corner + size])
            known.append((image, label, box, True) if generator.random() < 0.05 else (image, label, box))
            if generator.random() < 0.8:
                moved = box + generator.normal(0, 0.08, 4) * np.tile(size, 2)
                answer = int(generator.integers(classes)) if generator.random() < 0.1 else label
                said.append((image, answer, generator.beta(4, 2), np.sort(moved.reshape(2, 2), 0).ravel()))
        for _ in range(generator.poisson(1)):
            corner = generator.random(2) * 300
            label = int(generator.integers(classes))
            said.append((image, label, generator.beta(2, 3), [*corner, *(corner + 40)]))
    return table_of(said, known, images=images, classes=tuple("abcdefgh"[:classes]))


MIXED = table_of(
    [
        (0, CAT, 0.9, HERE),  # hit
        (0, CAT, 0.8, HERE),  # duplicate
        (0, DOG, 0.7, FAR),  # class error on a cat
        (1, CAT, 0.9, BESIDE),  # location error
        (1, DOG, 0.9, FAR),  # background
        (1, DOG, 0.4, HERE),  # below the threshold
        (2, CAT, 0.9, [5, 5, 9, 9]),  # in a crowd
    ],
    [(0, CAT, HERE), (0, CAT, FAR), (1, CAT, HERE), (2, CAT, HERE, True), (2, DOG, FAR)],
    images=4,
)


def test_what_can_be_counted_by_hand():
    measured = measure_boxes(MIXED, resamples=100)
    assert measured.confusion.tolist() == [[1, 1, 1], [0, 0, 1], [2, 1, 0]]
    assert dict(measured.errors) == {
        "class": 1,
        "location": 1,
        "both": 0,
        "duplicate": 1,
        "background": 1,
        "missed": 3,
        "unnoticed": 1,
    }
    cat, dog = measured.classes
    assert (cat.support, cat.tp, cat.fp, cat.fn) == (3, 1, 2, 2)
    assert (dog.support, dog.tp, dog.fp, dog.fn) == (1, 0, 2, 1)
    assert measured.metrics["precision"].value == pytest.approx(1 / 5)
    assert measured.metrics["recall"].value == pytest.approx(1 / 4)
    assert measured.metrics["f1"].value == pytest.approx(2 / 9)
    assert cat.metrics["precision"].value == pytest.approx(1 / 3)
    assert [row["key"] for row in measured.mistakes] == ["000.png", "001.png", "002.png"]
    assert measured.mistakes[0] == {"key": "000.png", "missed": 1, "false": 2, "found": 1}


def test_json_is_plain_finite_and_the_same_twice():
    table = random_table(1)
    first, second = (measure_boxes(table, resamples=100, seed=3).to_json() for _ in range(2))
    assert json.loads(json.dumps(first, allow_nan=False)) == first == second
    assert list(first["metrics"]) == [*RANKED, *COUNTED]
    assert first["n"] == first["n_groups"] == 20
    assert first["confusion"]["classes"] == ["a", "b", "c", "background"]
    row = first["per_class"][0]
    assert {"class", "support", "tp", "fp", "fn", *BOX_CLASS_METRICS} == row.keys()
    assert {"value", "low", "high"} == row["ap"].keys()


def test_another_seed_moves_the_simulated_intervals_alone():
    table = random_table(1)
    first, second = (measure_boxes(table, resamples=100, seed=seed).metrics for seed in (0, 1))
    assert all(first[name].value == second[name].value for name in first)
    assert all(first[name].low != second[name].low for name in ("map", "map50", "mar10"))
    assert all(first[name] == second[name] for name in COUNTED)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_every_interval_holds_its_value(seed, grouped):
    table = random_table(seed, images=8)
    table = replace(table, groups=np.arange(8) // 2 if grouped else None)
    measured = measure_boxes(table, resamples=100)
    numbers = [*measured.metrics.values(), *(n for row in measured.classes for n in row.metrics.values())]
    for number in numbers:
        if number.low is None:
            assert number.reason
        else:
            assert 0 <= number.low <= number.value <= number.high <= 1
            assert number.low < number.high


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_values_are_those_of_coco_and_of_the_counts(seed):
    table = random_table(seed)
    measured = measure_boxes(table, resamples=100)
    expected = coco_numbers(match(table))
    for name in RANKED:
        value = measured.metrics[name].value
        assert (np.nan if value is None else value) == pytest.approx(expected[name], nan_ok=True)
    classes = precision(match(table))
    for c, row in enumerate(measured.classes):
        assert row.support == ((table.true_label == c) & ~table.crowd).sum()
        if row.support:
            assert row.metrics["ap"].value == pytest.approx(classes.ap[0, c])
            assert row.metrics["ap75"].value == pytest.approx(classes.ap75[0, c])
            assert row.metrics["recall"].value == pytest.approx(row.tp / row.support)
            assert row.metrics["f1"].value == pytest.approx(2 * row.tp / (2 * row.tp + row.fp + row.fn))
    tp, fp, fn = (sum(getattr(row, name) for row in measured.classes) for name in ("tp", "fp", "fn"))
    assert measured.metrics["f1"].value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    kinds = ("class", "location", "both", "duplicate", "background")
    assert sum(measured.errors[kind] for kind in kinds) == fp
    assert measured.errors["missed"] == fn >= measured.errors["unnoticed"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_confusion_matrix_counts_every_box_once(seed):
    table = random_table(seed, images=5)
    verdicts = judge(table)
    counts = box_confusion(verdicts)
    answers = ~np.isin(verdicts.said.verdict, [Verdict.BELOW, Verdict.IGNORED])
    assert (
        counts[:-1].sum(axis=1).tolist() == np.bincount(table.true_label[~table.crowd], minlength=3).tolist()
    )
    assert counts[:, :-1].sum(axis=0).tolist() == np.bincount(table.label[answers], minlength=3).tolist()
    assert np.trace(counts) == (verdicts.said.verdict == Verdict.HIT).sum()
    assert counts[-1, -1] == 0


@pytest.mark.parametrize("seed", range(6))
def test_intervals_of_average_precision_agree_with_one_another(seed):
    """At an overlap of 0.5 it is the highest, so no stricter one may be thought to be higher."""
    measure = measure_boxes(random_table(seed, images=6), resamples=100)
    rows = [{name.removeprefix("m"): measure.metrics[name] for name in ("map", "map50", "map75")}]
    rows += [row.metrics for row in measure.classes]
    for row in rows:
        for name in ("ap", "ap75"):
            if row[name].high is not None and row["ap50"].high is not None:
                assert row[name].high <= row["ap50"].high
                assert row[name].low <= row["ap50"].low
                assert row[name].low <= row[name].value <= row[name].high


def test_a_class_without_objects_has_no_numbers_and_says_why():
    measured = measure_boxes(random_table(2), resamples=100)
    absent = measured.classes[-1]
    assert absent.fp
    assert {(number.value, number.reason) for number in absent.metrics.values()} == {
        (None, "no object here is of this class")
    }
    assert measured.metrics["map"].note == "over 2 of 3 classes"
    assert measured.metrics["map"].value == pytest.approx(
        np.mean([row.metrics["ap"].value for row in measured.classes[:2]])
    )


def test_a_class_that_was_never_answered_has_no_precision_but_a_recall_of_zero():
    table = table_of([], [(0, CAT, HERE), (1, CAT, HERE)], images=2)
    measured = measure_boxes(table, resamples=100)
    cat = measured.classes[0].metrics
    assert cat["precision"].reason == "the model never gave this answer"
    assert measured.metrics["precision"].reason == "the model never gave this answer"
    assert (cat["recall"].value, cat["ap"].value, measured.metrics["map"].value) == (0, 0, 0)
    assert cat["ap"].high > 0.5
    assert measured.metrics["map_small"].reason == "no object here is of this size"


@pytest.mark.parametrize("images", [1, 3])
def test_a_table_without_boxes_can_be_measured(images):
    measured = measure_boxes(table_of([], [], images=images), resamples=100)
    assert all(number.value is None and number.reason for number in measured.metrics.values())
    assert measured.mistakes == ()
    assert measured.confusion.sum() == 0
    json.dumps(measured.to_json(), allow_nan=False)


def test_one_image_shows_a_value_but_not_how_far_it_may_be_off():
    measured = measure_boxes(table_of([(0, CAT, 0.9, HERE)], [(0, CAT, HERE)]), resamples=100)
    assert measured.metrics["map"].value == 1
    assert measured.metrics["map"].low is None
    assert measured.metrics["map"].reason.startswith("all these objects are in one image")
    assert measured.metrics["recall"].low < 0.3


def test_a_detector_without_a_mistake_is_not_proved_perfect():
    perfect = [(i, CAT, 0.9, HERE) for i in range(10)]
    table = table_of(perfect, [(i, CAT, HERE) for i in range(10)], images=10)
    alone = measure_boxes(table, resamples=100).metrics
    grouped = measure_boxes(replace(table, groups=np.arange(10) // 5), resamples=100).metrics
    for name in ("map", "mar1", "precision", "recall", "f1"):
        assert alone[name].value == alone[name].high == 1
        assert 0.5 < alone[name].low < 0.9
        assert grouped[name].low < alone[name].low


def test_groups_widen_intervals_and_are_counted():
    generator = np.random.default_rng(0)
    tables = [random_table(seed, images=2) for seed in range(15)]
    # Four copies of each pair of images are a group: they show nothing new.
    said, known = [], []
    for group, table in enumerate(tables * 4):
        rows = zip(table.image, table.label, table.score, table.box, strict=True)
        said += [(2 * group + image, label, score, box) for image, label, score, box in rows]
        rows = zip(table.true_image, table.true_label, table.true_box, strict=True)
        known += [(2 * group + image, label, box) for image, label, box in rows]
    copies = table_of(said, known, images=120, classes=("a", "b", "c"))
    groups = np.tile(np.repeat(np.arange(15), 2), 4)
    alone = measure_boxes(copies, resamples=200)
    grouped = measure_boxes(replace(copies, groups=generator.permutation(100)[groups]), resamples=200)
    assert (alone.n_groups, grouped.n_groups) == (120, 15)
    for name in ("map", "map50", "mar100", "precision", "recall", "f1"):
        one, many = alone.metrics[name], grouped.metrics[name]
        assert one.value == many.value
        assert many.high - many.low > 1.5 * (one.high - one.low), name


def test_recall_has_the_interval_of_a_share_over_images():
    table = random_table(5, images=40)
    verdicts = judge(table)
    found, missed = (
        np.bincount(table.true_image[verdicts.known.verdict == code], minlength=40).astype(float)[:, None]
        for code in (Verdict.FOUND, Verdict.MISSED)
    )
    share, clusters = share_of(found, found + missed), Clusters(40)
    low, high = share_interval(
        share.value,
        share.trials,
        clusters.spread(share.influence, share.held),
        clusters=clusters,
        confidence=0.95,
    )
    number = measure_boxes(table, resamples=100).metrics["recall"]
    assert (number.low, number.high) == pytest.approx((low[0], high[0]))


def test_classes_are_counted_in_blocks(monkeypatch):
    table = random_table(7)
    whole = measure_boxes(table, resamples=100)
    monkeypatch.setattr("pictune.evaluation.box_numbers._BLOCK", 25)
    in_blocks = measure_boxes(table, resamples=100)
    for one, other in zip(whole.classes, in_blocks.classes, strict=True):
        for name in COUNTED:
            first, second = one.metrics[name].to_json(), other.metrics[name].to_json()
            assert first == pytest.approx(second)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    truth = precision(match(random_table(0, images=4000, classes=2, absent=0)))
    held = []
    for seed in range(1, 81):
        metrics = measure_boxes(random_table(seed, 40, 2, absent=0), resamples=100).metrics
        wanted = {"map": truth.map[0], "map50": truth.map50[0], "mar100": class_mean(truth.recall)[0]}
        held.append([metrics[name].low <= value <= metrics[name].high for name, value in wanted.items()])
    assert (np.mean(held, axis=0) > 0.87).all()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"score": np.full(7, 1.5)}, ["scores outside 0 to 1: 7"]),
        ({"score": np.full(7, np.nan), "label": np.full(7, 2)}, ["scores outside", "predictions of classes"]),
        (
            {"image": np.arange(7)[::-1]},
            ["predictions that do not stand", "predictions of images that are not"],
        ),
        ({"true_box": np.full((5, 4), np.inf)}, ["true boxes with sides that are not numbers: 5"]),
        ({"true_box": np.array([[9, 9, 0, 0]] * 5, float)}, ["true boxes that end before they begin"]),
        ({"thresholds": np.zeros(3), "groups": np.zeros(3, int)}, ["thresholds has", "groups has"]),
        ({"area": np.full(5, np.nan)}, ["areas that are not numbers"]),
        ({"thresholds": np.full(2, np.nan)}, ["thresholds that are not numbers"]),
        ({"keys": (), "classes": ()}, ["0 images and 0 classes"]),
    ],
    ids=["score", "both", "order", "infinite", "turned", "shapes", "area", "threshold", "empty"],
)
def test_a_broken_table_is_refused_with_every_reason(changes, parts):
    with pytest.raises(DataError) as caught:
        measure_boxes(replace(MIXED, **changes))
    assert caught.value.code == "bad_table"
    for part in parts:
        assert part in str(caught.value)
