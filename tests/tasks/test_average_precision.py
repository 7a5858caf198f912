"""Average precision against pycocotools, against repeated images, and against what can be seen by eye."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.errors import RecipeError
from pictune.tasks.average_precision import (
    best_thresholds,
    coco_numbers,
    precision,
    precision_curve,
    quick_numbers,
    recall,
    resampled,
)
from pictune.tasks.matching import Verdict, judge, match
from pictune.tasks.table import BoxTable

NAMES = (
    "map map50 map75 map_small map_medium map_large mar1 mar10 mar100 mar_small mar_medium mar_large".split()
)


def table_of(said, known, *, images=1, classes=1, thresholds=0.5) -> BoxTable:
    """A table from rows (image, class, score, box) and (image, class, box[, crowd[, area]])."""
    said = sorted(said, key=lambda row: row[0])
    known = sorted(known, key=lambda row: row[0])
    true_box = np.array([row[2] for row in known], float).reshape(-1, 4)
    areas = (true_box[:, 2:] - true_box[:, :2]).prod(axis=1)
    return BoxTable(
        keys=tuple(f"{i:03}.png" for i in range(images)),
        classes=tuple(f"class {i}" for i in range(classes)),
        image=np.array([row[0] for row in said], np.int64),
        label=np.array([row[1] for row in said], np.int64),
        score=np.array([row[2] for row in said], float),
        box=np.array([row[3] for row in said], float).reshape(-1, 4),
        true_image=np.array([row[0] for row in known], np.int64),
        true_label=np.array([row[1] for row in known], np.int64),
        true_box=true_box,
        crowd=np.array([len(row) > 3 and row[3] for row in known], bool),
        area=np.array([row[4] if len(row) > 4 else areas[i] for i, row in enumerate(known)], float),
        thresholds=np.full(classes, thresholds),
    )


def random_table(seed: int, *, distinct: bool = False) -> BoxTable:
    """Few images with everything that may go wrong; with equal scores and overlaps unless ``distinct``."""
    generator = np.random.default_rng(seed)
    images, classes = int(generator.integers(1, 9)), int(generator.integers(1, 5))
    truths = int(generator.integers(0, 40)) if seed % 10 else 0
    predictions = int(generator.choice([0, 5, 60, 300])) if images > 1 else 130
    # The last class never has a true box, the last image never a prediction.
    true_label = generator.integers(max(classes - 1, 1), size=truths)
    true_image = generator.integers(images, size=truths)
    size = np.exp(generator.normal(4, 1, (truths, 2)))
    corner = generator.random((truths, 2)) * 150
    true_box = np.concatenate([corner, corner + size + 1], axis=1)
    near = generator.random(predictions) < (0.7 if truths else 0)
    whose = generator.integers(max(truths, 1), size=predictions)
    box = np.concatenate([(corner := generator.random((predictions, 2)) * 150), corner + 60], axis=1)
    image = generator.integers(max(images - 1, 1), size=predictions)
    label = generator.integers(classes, size=predictions)
    if truths:
        box[near] = (true_box + generator.normal(0, 0.05, (truths, 4)) * np.tile(size, 2))[whose[near]]
        image[near], label[near] = true_image[whose[near]], true_label[whose[near]]
        image[image == images - 1] = 0
    score = generator.random(predictions)
    if not distinct:
        box, true_box, score = np.round(box), np.round(true_box), np.round(score, 1)
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
    area = (true_box[:, 2:] - true_box[:, :2]).prod(axis=1) * generator.choice([1, 0.3], size=truths)
    crowd = generator.random(truths) < generator.choice([0, 0.2])
    said = list(zip(image.tolist(), label.tolist(), score.tolist(), box.tolist(), strict=True))
    columns = (true_image, true_label, true_box, crowd, area)
    known = list(zip(*(column.tolist() for column in columns), strict=True))
    return table_of(said, known, images=images, classes=classes)


def reference(table: BoxTable) -> dict[str, float]:
    """The twelve numbers of pycocotools; NaN for its -1."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def described(image, label, box, area, **more):
        # Numbers start at 1: pycocotools takes a match with annotation 0 for none (cocoapi issue 332).
        sizes = np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1)
        rows = zip(image.tolist(), label.tolist(), sizes.tolist(), area.tolist(), strict=True)
        return [
            {"id": i + 1, "image_id": a, "category_id": b, "bbox": c, "area": d}
            | {name: values[i].item() for name, values in more.items()}
            for i, (a, b, c, d) in enumerate(rows)
        ]

    def indexed(annotations):
        made = coco.COCO()
        made.dataset = {
            "images": [{"id": i} for i in range(len(table))],
            "categories": [{"id": i} for i in range(len(table.classes))],
            "annotations": annotations,
        }
        made.createIndex()
        return made

    said_area = (table.box[:, 2:] - table.box[:, :2]).prod(axis=1)
    no_crowd = np.zeros(len(said_area), int)
    with contextlib.redirect_stdout(io.StringIO()):
        known = indexed(
            described(
                table.true_image,
                table.true_label,
                table.true_box,
                table.area,
                iscrowd=table.crowd.astype(int),
            )
        )
        said = indexed(
            described(table.image, table.label, table.box, said_area, score=table.score, iscrowd=no_crowd)
        )
        evaluation = cocoeval.COCOeval(known, said, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: np.nan if value == -1 else value for name, value in zip(NAMES, evaluation.stats, strict=True)
    }


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_all_twelve_numbers_are_those_of_pycocotools(first):
    for seed in range(first, first + 20):
        table = random_table(seed, distinct=seed % 3 == 0)
        found = coco_numbers(match(table))
        assert list(found) == NAMES
        assert found == pytest.approx(reference(table), abs=1e-9, nan_ok=True), seed


def test_one_perfect_box_has_average_precision_one():
    table = table_of([(0, 0, 0.9, [0, 0, 50, 50])], [(0, 0, [0, 0, 50, 50])])
    found = coco_numbers(match(table))
    assert found == pytest.approx(reference(table), nan_ok=True)
    assert (found["map"], found["map_medium"], found["mar1"]) == (1, 1, 1)
    assert np.isnan(found["map_small"])
    assert quick_numbers(table) == {"map": 1.0, "map50": 1.0}


def test_of_equal_overlaps_the_last_box_is_taken():
    said = [(0, 0, 0.9, [2, 0, 12, 10]), (0, 0, 0.8, [4, 0, 14, 10])]
    first, last = (0, 0, [0, 0, 10, 10]), (0, 0, [4, 0, 14, 10])
    for known, found in (([first, last], 51 / 101), ([last, first], 1)):
        table = table_of(said, known)
        numbers = coco_numbers(match(table))
        assert numbers == pytest.approx(reference(table), nan_ok=True)
        assert numbers["map50"] == pytest.approx(found)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ([], []),
        ([(0, 0, 0.9, [0, 0, 5, 5])], []),
        ([(0, 0, 0.9, [0, 0, 5, 5])], [(0, 0, [0, 0, 5, 5], True)]),
    ],
    ids=["nothing", "no truth", "crowd only"],
)
def test_without_true_boxes_nothing_is_known(said, known):
    table = table_of(said, known)
    matches = match(table)
    assert np.isnan(list(coco_numbers(matches).values())).all()
    assert quick_numbers(table) == {"map": 0.0, "map50": 0.0}
    assert precision_curve(matches, label=0) is None
    assert best_thresholds(table).tolist() == [0.5]


def test_without_predictions_everything_is_zero():
    table = table_of([], [(0, 0, [0, 0, 50, 50])], images=2, classes=2)
    found = precision(match(table))
    assert found.ap[0, 0] == found.recall[0, 0] == 0
    assert np.isnan(found.ap[0, 1])
    assert precision_curve(match(table), label=0).precision.max() == 0


def test_numbers_of_a_class_are_those_of_its_boxes_alone():
    table = random_table(27)
    whole = precision(match(table))
    for number in range(len(table.classes)):
        said, known = table.label == number, table.true_label == number
        alone = replace(
            table,
            **{name: getattr(table, name)[said] for name in ("image", "label", "score", "box")},
            **{
                name: getattr(table, name)[known]
                for name in ("true_image", "true_label", "true_box", "crowd", "area")
            },
        )
        expected = reference(alone)
        found = [whole.ap[0, number], whole.ap50[0, number], whole.ap75[0, number], whole.recall[0, number]]
        wanted = [expected[name] for name in ("map", "map50", "map75", "mar100")]
        assert found == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def repeated(table: BoxTable, weights: np.ndarray) -> BoxTable:
    """The table with every image there as often as its weight says."""
    images = np.repeat(np.arange(len(table)), weights)

    def rows(image):
        starts, stops = np.searchsorted(image, images), np.searchsorted(image, images, "right")
        at = [np.arange(a, b) for a, b in zip(starts, stops, strict=True)]
        copies = [np.full(len(part), i) for i, part in enumerate(at)]
        return (np.concatenate(part) if part else np.zeros(0, np.int64) for part in (at, copies))

    (at, image), (true_at, true_image) = rows(table.image), rows(table.true_image)
    return replace(
        table,
        keys=tuple(map(str, images)),
        image=image,
        true_image=true_image,
        **{name: getattr(table, name)[at] for name in ("label", "score", "box")},
        **{name: getattr(table, name)[true_at] for name in ("true_label", "true_box", "crowd", "area")},
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["all", "small", "medium", "large"]))
def test_a_weight_counts_as_if_the_image_were_repeated(seed, area):
    table = random_table(seed, distinct=True)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, len(table)))
    matches = match(table)
    found = resampled(matches, weights, area=area)
    few = recall(matches, area=area, most=2, weights=weights)
    for row, weight in enumerate(weights):
        again = match(repeated(table, weight))
        expected = precision(again, area=area)
        for name in ("ap", "ap50", "ap75", "recall"):
            values = getattr(found, name)[row], getattr(expected, name)[0]
            np.testing.assert_allclose(*values, rtol=0, atol=1e-12)
        for name in ("map", "map50", "map75", "mar"):
            assert getattr(found, name)[row] == pytest.approx(getattr(expected, name)[0], nan_ok=True)
        np.testing.assert_allclose(few[row], recall(again, area=area, most=2)[0], rtol=0, atol=1e-12)


def test_many_sets_of_weights_are_worked_through_in_blocks(monkeypatch):
    matches = match(random_table(3))
    weights = np.random.default_rng(0).integers(0, 3, size=(300, len(matches.table)))
    whole = resampled(matches, weights)
    monkeypatch.setattr("pictune.tasks.average_precision._BLOCK", 1)
    in_blocks = resampled(matches, weights)
    np.testing.assert_array_equal(whole.ap, in_blocks.ap)
    np.testing.assert_array_equal(whole.recall, in_blocks.recall)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_precision_stays_in_its_bounds(seed):
    matches = match(random_table(seed))
    found = precision(matches)
    known = ~np.isnan(found.ap[0])
    everything = [getattr(found, name)[0, known] for name in ("ap", "ap50", "ap75", "recall")]
    assert all(((values >= 0) & (values <= 1)).all() for values in everything)
    assert (found.ap50[0, known] >= found.ap[0, known] - 1e-12).all()
    assert (found.ap50[0, known] >= found.ap75[0, known] - 1e-12).all()
    few = [recall(matches, most=most)[0, known] for most in (1, 10, 100)]
    assert (np.diff(few, axis=0) >= 0).all()
    np.testing.assert_allclose(few[-1], found.recall[0, known])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_of_the_scores_matters(seed):
    table = random_table(seed)
    carried = replace(table, score=table.score**3 / 2)
    assert coco_numbers(match(carried)) == pytest.approx(coco_numbers(match(table)), nan_ok=True)


def test_the_mean_of_a_curve_is_its_average_precision():
    matches = match(random_table(27))
    found = precision(matches)
    for number in range(len(matches.table.classes)):
        curve = precision_curve(matches, label=number)
        if curve is None:
            assert np.isnan(found.ap50[0, number])
            continue
        assert curve.precision.mean() == pytest.approx(found.ap50[0, number])
        assert (np.diff(curve.precision) <= 0).all()
        reached = ~np.isnan(curve.threshold)
        assert (np.diff(curve.threshold[reached]) <= 0).all()
        assert (curve.precision[~reached] == 0).all()


def counted(table: BoxTable, thresholds) -> tuple[np.ndarray, ...]:
    """Precision, recall and F1 of each class at these thresholds, from verdicts."""
    verdicts = judge(replace(table, thresholds=np.asarray(thresholds)))
    classes = range(len(table.classes))
    answers = ~np.isin(verdicts.said.verdict, [Verdict.BELOW, Verdict.IGNORED])
    hits = np.array([(table.label[verdicts.said.verdict == Verdict.HIT] == c).sum() for c in classes])
    said = np.array([(table.label[answers] == c).sum() for c in classes])
    known = np.array([((table.true_label == c) & ~table.crowd).sum() for c in classes])
    return hits / np.maximum(said, 1), hits / np.maximum(known, 1), 2 * hits / np.maximum(said + known, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["f1", "precision:0.6", "recall:0.4"]))
def test_no_other_threshold_serves_the_goal_better(seed, goal):
    table = random_table(seed)
    best = counted(table, best_thresholds(table, goal=goal))
    hit = counted(table, np.zeros(len(table.classes)))[1] > 0
    precisions, recalls, f1s = (
        (
            np.array(part)[:, hit]
            for part in zip(
                *(counted(table, np.full(len(table.classes), t)) for t in np.unique(table.score)), strict=True
            )
        )
        if len(table.score)
        else (np.zeros((1, 0)),) * 3
    )
    precision_, recall_, f1_ = (part[hit] for part in best)
    if goal == "f1":
        assert f1_ == pytest.approx(f1s.max(axis=0))
        return
    held, sought, held_, sought_ = (precisions, recalls, precision_, recall_)
    if goal.startswith("recall"):
        held, sought, held_, sought_ = recalls, precisions, recall_, precision_
    needed = np.minimum(float(goal.split(":")[1]), held.max(axis=0))
    assert (held_ >= needed - 1e-12).all()
    assert sought_ == pytest.approx(np.where(held >= needed - 1e-12, sought, -1).max(axis=0))


def test_a_threshold_lies_between_scores_and_unknown_classes_keep_one_half():
    here = [0, 0, 50, 50]
    said = [(0, 0, 0.9, here), (1, 0, 0.8, here), (1, 0, 0.4, [70, 70, 90, 90]), (1, 1, 0.9, here)]
    table = table_of(said, [(0, 0, here), (1, 0, here), (1, 2, here)], images=2, classes=3)
    assert best_thresholds(table) == pytest.approx([0.6, 0.5, 0.5])
    assert best_thresholds(table, goal="precision:1") == pytest.approx([0.6, 0.5, 0.5])
    assert best_thresholds(table, goal="recall:0.5") == pytest.approx([0.6, 0.5, 0.5])
    sole = table_of([(0, 0, 0.3, here)], [(0, 0, here)])
    assert best_thresholds(sole).tolist() == [0.3]


def test_where_no_answer_is_right_recall_still_wants_the_most_answers():
    far, near = [200, 200, 240, 240], [0, 0, 40, 40]
    table = table_of([(0, 0, 0.9, far), (0, 0, 0.2, far)], [(0, 0, near)])
    assert best_thresholds(table, goal="recall:0.9").tolist() == [0.2]
    assert best_thresholds(table, goal="f1").tolist() == [0.5]
    assert best_thresholds(table, goal="precision:0.9").tolist() == [0.5]


@pytest.mark.parametrize("goal", ["f2", "precision", "precision:2", "recall:nan", "recall:x", "f1:0.5", ""])
def test_an_unknown_goal_is_refused(goal):
    with pytest.raises(RecipeError, match="Say f1"):
        best_thresholds(table_of([], []), goal=goal)
