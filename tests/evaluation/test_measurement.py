"""`measure` end to end: shape, order, sentences, refusals, curves and spreadsheets."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from pictune.errors import DataError
from pictune.evaluation.curves import fit_verdict
from pictune.evaluation.measurement import measure
from pictune.evaluation.tables import tables, write_tables
from pictune.tasks.table import ClassTable


def table_of(truth, answers, classes, *, sureness=0.9, groups=None) -> ClassTable:
    """A single-label table from class positions; every answer has the same confidence."""
    eye = np.eye(len(classes), dtype=bool)
    decided = eye[list(answers)]
    rest = (1 - sureness) / max(len(classes) - 1, 1)
    scores = np.where(decided, sureness if len(classes) > 1 else 1.0, rest)
    keys = tuple(f"{i:03}.png" for i in range(len(decided)))
    return ClassTable(keys, tuple(classes), eye[list(truth)], scores, decided, True, groups)


DIGITS = table_of([0] * 41 + [1] * 40 + [2] * 3, [1] * 7 + [0] * 34 + [1] * 40 + [2, 2, 0], ["3", "8", "x"])


def codes(table: ClassTable) -> list[str]:
    return [finding.code for finding in measure(table, resamples=100).findings]


def sentence(table: ClassTable, code: str) -> str:
    return next(f.message for f in measure(table, resamples=100).findings if f.code == code)


def test_json_is_plain_finite_and_the_same_twice():
    first, second = measure(DIGITS, seed=3).to_json(), measure(DIGITS, seed=3).to_json()
    text = json.dumps(first, allow_nan=False)
    assert json.loads(text) == first == second
    assert {
        "n",
        "n_groups",
        "metrics",
        "per_class",
        "confusion",
        "confused_pairs",
        "mistakes",
    } <= first.keys()
    assert first["n"] == first["n_groups"] == 84
    assert first["confusion"] == {"classes": ["3", "8", "x"], "counts": [[34, 7, 0], [0, 40, 0], [1, 0, 2]]}
    assert {"value", "low", "high"} == first["metrics"]["accuracy"].keys()
    assert first["per_class"][0]["class"] == "3"
    assert first["per_class"][0]["tp"] == 34
    assert {"confidence", "accuracy", "low", "high", "count"} == first["reliability"]["bins"][0].keys()


def test_every_interval_holds_its_value():
    for number in measure(DIGITS).metrics.values():
        assert number.low <= number.value <= number.high


def test_pairs_and_mistakes_come_worst_first():
    scores = DIGITS.scores.copy()
    scores[5] = [0.001, 0.998, 0.001]
    measured = measure(replace(DIGITS, scores=scores), resamples=100)
    pair = measured.confused_pairs[0]
    assert (pair.truth, pair.predicted, pair.count) == ("3", "8", 7)
    assert pair.share == pytest.approx(7 / 41)
    assert pair.keys[0] == "005.png"
    assert [p.count for p in measured.confused_pairs] == [7, 1]
    worst = measured.mistakes[0]
    assert (worst["key"], worst["truth"], worst["predicted"]) == ("005.png", "3", "8")
    assert worst["loss"] == pytest.approx(-math.log(0.001))
    assert worst["confidence"] == pytest.approx(0.998)
    losses = [mistake["loss"] for mistake in measured.mistakes]
    assert len(losses) == 8
    assert losses == sorted(losses, reverse=True)


def test_a_metric_without_meaning_is_null_with_a_reason():
    table = table_of([0] * 5 + [1] * 5, [0] * 10, ["a", "b", "never here"])
    rows = {row["class"]: row for row in measure(table, resamples=100).to_json()["per_class"]}
    nothing = {"value": None, "low": None, "high": None}
    absent = rows["never here"]
    for name in ("precision", "recall", "f1", "roc_auc", "average_precision"):
        assert {k: absent[name][k] for k in nothing} == nothing
        assert absent[name]["reason"]
    assert absent["specificity"]["value"] == 1
    assert rows["b"]["precision"]["reason"] == "the model never gave this answer"
    assert rows["b"]["f1"]["value"] == 0
    metrics = measure(table, resamples=100).metrics
    assert metrics["macro_precision"].value == pytest.approx((0.5 + 0) / 2)
    assert metrics["macro_precision"].note == "over 2 of 3 classes"


@pytest.mark.parametrize("classes", [["only"], ["only", "other"]])
def test_one_image_and_one_class_can_be_measured(classes):
    measured = measure(table_of([0], [0], classes), resamples=100).to_json()
    assert measured["metrics"]["accuracy"]["value"] == 1
    assert measured["metrics"]["accuracy"]["low"] < 0.5
    assert measured["metrics"]["macro_roc_auc"]["value"] is None
    assert measured["metrics"]["log_loss"]["reason"] == "one image only"
    json.dumps(measured, allow_nan=False)


def test_groups_widen_intervals_and_are_counted():
    groups = np.arange(84) // 6
    alone, grouped = measure(DIGITS), measure(replace(DIGITS, groups=groups))
    assert grouped.n_groups == 14
    for name in ("accuracy", "log_loss", "brier", "macro_f1"):
        one, many = alone.metrics[name], grouped.metrics[name]
        assert one.value == many.value
        assert many.high - many.low > one.high - one.low, name


def test_multilabel_counts_exact_matches_and_has_no_single_confusion_matrix():
    truth = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    decided = np.array([[1, 0], [1, 0], [0, 0], [1, 1]], bool)
    scores = np.where(decided, 0.8, 0.1)
    table = ClassTable(("a", "b", "c", "d"), ("red", "big"), truth, scores, decided, exclusive=False)
    measured = measure(table, resamples=100).to_json()
    assert measured["metrics"]["accuracy"]["value"] == 0.5
    assert measured["metrics"]["hamming_loss"]["value"] == pytest.approx(2 / 8)
    assert "balanced_accuracy" not in measured["metrics"]
    assert measured["confusion"] == {
        "classes": ["red", "big"],
        "by_class": [[[1, 1], [0, 2]], [[2, 0], [1, 1]]],
    }
    assert measured["confused_pairs"] == []
    by_key = {mistake["key"]: mistake for mistake in measured["mistakes"]}
    assert by_key["b"]["truth"] == ["red", "big"]
    assert by_key["b"]["predicted"] == ["red"]
    assert by_key["b"]["confidence"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"scores": np.full((84, 3), 0.5)}, ["do not sum to one", "000.png", "and 79 more"]),
        ({"scores": np.full((84, 3), np.nan)}, ["outside 0 to 1", "do not sum to one"]),
        (
            {"truth": np.ones((84, 3), bool), "decided": np.zeros((84, 3), bool)},
            ["one true class", "one answer"],
        ),
        (
            {"truth": np.ones((84, 2), bool), "groups": np.zeros(3, int)},
            ["truth has shape", "groups has shape"],
        ),
        ({"keys": (), "classes": ()}, ["0 images and 0 classes"]),
    ],
    ids=["sums", "nan", "not single", "shapes", "empty"],
)
def test_a_broken_table_is_refused_with_every_reason(changes, parts):
    with pytest.raises(DataError) as caught:
        measure(replace(DIGITS, **changes))
    assert caught.value.code == "bad_table"
    for part in parts:
        assert part in str(caught.value)


def test_bad_arguments_are_refused_together():
    with pytest.raises(DataError) as caught:
        measure(DIGITS, resamples=3, confidence=95)
    assert "resamples" in str(caught.value)
    assert "confidence" in str(caught.value)


def test_an_unknown_kind_of_table_is_refused():
    with pytest.raises(DataError, match="of kind dict"):
        measure({})


def test_findings_name_what_a_reader_should_know():
    assert sentence(DIGITS, "most_confused") == "Most confused: 3 read as 8 (7 of 41)."
    assert sentence(DIGITS, "few_images").startswith(
        "Class x has only 3 images here: its recall could be anywhere"
    )
    absent = table_of([0] * 60 + [1] * 40, [0] * 60 + [1] * 40, ["a", "b", "c"])
    assert "absent_class" in codes(absent)
    silent = table_of([0] * 60 + [1] * 40, [0] * 100, ["a", "b"])
    assert sentence(silent, "never_answered") == "The model never answered b."
    assert "always answering a" in sentence(silent, "no_better_than_guessing")
    assert measure(silent, resamples=100).findings[0].severity == "serious"


@pytest.mark.parametrize(("right", "said"), [(53, True), (75, False)])
def test_a_lead_over_guessing_must_be_more_than_luck(right, said):
    answers = [0] * 25 + [1] * 25 + [0] * (50 - right + 25) + [1] * (right - 25)
    table = table_of([0] * 50 + [1] * 50, answers, ["a", "b"], sureness=0.6)
    assert measure(table, resamples=100).metrics["accuracy"].value == right / 100
    assert ("no_better_than_guessing" in codes(table)) == said


def test_two_classes_share_one_ranking_and_its_interval():
    generator = np.random.default_rng(2)
    truth = generator.random(300) < 0.4
    score = np.clip(generator.normal(0.4 + 0.25 * truth, 0.2), 0.01, 0.99)
    eye = np.eye(2, dtype=bool)
    keys = tuple(map(str, range(300)))
    scores = np.stack([1 - score, score], axis=1)
    table = ClassTable(keys, ("a", "b"), eye[truth * 1], scores, eye[(score > 0.5) * 1], exclusive=True)
    measured = measure(table, resamples=100)
    one, both = measured.classes[1].metrics["roc_auc"], measured.metrics["macro_roc_auc"]
    assert both.value == pytest.approx(one.value)
    assert both.high - both.low == pytest.approx(one.high - one.low, rel=0.1)


def test_recall_weighted_by_support_is_recall_over_all_labels():
    generator = np.random.default_rng(9)
    truth = generator.random((400, 2)) < 0.5
    decided = truth & (generator.random((400, 2)) < [0.98, 0.2])
    keys = tuple(map(str, range(400)))
    table = ClassTable(keys, ("a", "b"), truth, np.where(decided, 0.9, 0.1), decided, exclusive=False)
    metrics = measure(table, resamples=100).metrics
    weighted, micro = metrics["weighted_recall"], metrics["micro_recall"]
    assert weighted.value == pytest.approx(micro.value)
    assert weighted.high - weighted.low == pytest.approx(micro.high - micro.low, rel=0.02)


@pytest.mark.parametrize("name", ["weighted_f1", "weighted_precision", "macro_f1", "macro_recall"])
def test_averages_over_classes_scatter_as_a_bootstrap_says(name):
    generator = np.random.default_rng(8)
    truth = generator.choice(4, size=400, p=[0.5, 0.2, 0.2, 0.1])
    right = generator.random(400) < np.array([0.95, 0.5, 0.7, 0.4])[truth]
    answers = np.where(right, truth, generator.integers(4, size=400))
    table = table_of(truth, answers, list("abcd"), sureness=0.7)
    number = measure(table, resamples=100).metrics[name]
    drawn = generator.integers(400, size=(500, 400))
    average, metric = name.split("_")
    score = {"f1": f1_score, "precision": precision_score, "recall": recall_score}[metric]
    deviation = np.std([score(truth[i], answers[i], average=average, zero_division=0) for i in drawn])
    assert (number.high - number.low) / 3.92 == pytest.approx(deviation, rel=0.15)


def test_findings_stay_silent_when_all_is_well():
    truth = [0, 1] * 300
    answers = [1 - t if i % 50 == 0 else t for i, t in enumerate(truth)]
    assert codes(table_of(truth, answers, ["a", "b"], sureness=0.98)) == ["most_confused"]


@pytest.mark.parametrize(("sureness", "code"), [(0.99, "overconfident"), (0.55, "underconfident")])
def test_calibration_is_judged_by_its_interval(sureness, code):
    truth = [0, 1] * 100
    answers = [1 - t if i % 5 == 0 else t for i, t in enumerate(truth)]
    assert code in codes(table_of(truth, answers, ["a", "b"], sureness=sureness))
    few = table_of(truth[:10], answers[:10], ["a", "b"], sureness=sureness - 0.1 if sureness > 0.9 else 0.7)
    assert code not in codes(few)


def history(train, val, **scores):
    rows = zip(train, val, strict=True)
    epochs = [{"epoch": i + 1, "train_loss": a, "val_loss": b} for i, (a, b) in enumerate(rows)]
    for name, values in scores.items():
        for row, value in zip(epochs, values, strict=True):
            row[name] = value
    return epochs


@pytest.mark.parametrize(
    ("epochs", "verdict"),
    [
        (history([1, 0.5], [1, 0.6]), "too little to tell"),
        (history([1, float("nan"), 0.3], [1, 0.5, None]), "too little to tell"),
        ([], "too little to tell"),
        (history([1, 0.5, 0.2, 0.1, 0.05], [1, 0.6, 0.5, 0.7, 0.9]), "overfitting"),
        (
            history([1, 0.5, 0.2], [1, 0.6, 0.59], train_f1=[0.5, 0.9, 1], val_f1=[0.5, 0.7, 0.7]),
            "overfitting",
        ),
        (history([1, 0.8, 0.6], [1, 0.8, 0.6]), "underfitting"),
        (history([2.3, 2.29, 2.28], [2.3, 2.3, 2.29]), "underfitting"),
        (history([1, 0.5, 0.31, 0.3], [1, 0.55, 0.36, 0.35]), "fits well"),
        (
            history([0.10, 0.10, 0.098], [0.1, 0.1, 0.1], train_accuracy=[0.97] * 3, val_accuracy=[0.96] * 3),
            "fits well",
        ),
        (history([1, 0.5, 0.3, 0.29], [1, 0.5, 0.4, 0.405]), "fits well"),
        (history([1, 0.5, 0.3, 0.29, 0.28], [1, 0.5, 0.4, 0.39, 0.6]), "fits well"),
    ],
)
def test_learning_curves_get_a_plain_verdict(epochs, verdict):
    answer = fit_verdict(epochs)
    assert answer["verdict"] == verdict
    assert answer["sentence"].endswith(".")


@pytest.mark.parametrize(
    ("unseen", "val_loss", "verdict"),
    [
        (None, [1, 0.6, 0.59], "overfitting"),
        (300, [1, 0.6, 0.59], "overfitting"),
        (15, [1, 0.6, 0.59], "fits well"),  # 2 of 15 images more or less are chance
        (300, [1, 0.6, 0.4], "underfitting"),  # what is still learnt says nothing yet
    ],
)
def test_a_gap_that_may_be_chance_or_is_still_closing_is_no_overfitting(unseen, val_loss, verdict):
    epochs = history([1, 0.5, 0.4], val_loss, train_accuracy=[0.5, 0.8, 0.85], val_accuracy=[0.5, 0.7, 0.73])
    assert fit_verdict(epochs, unseen=unseen)["verdict"] == verdict


def test_the_verdict_names_the_epoch_where_it_turned():
    answer = fit_verdict(history([1, 0.5, 0.2, 0.1, 0.05], [1, 0.6, 0.5, 0.7, 0.9]))
    assert answer["best_epoch"] == 3
    assert "after epoch 3" in answer["sentence"]


def test_spreadsheets_cannot_be_made_to_run_formulas():
    keys = ("=1+1.png", "-2.png", "+3.png", "@x.png", "\tt.png", "fine=.png")
    table = replace(table_of([0, 1] * 3, [0, 1, 1, 1, 0, 1], ["=cmd()", "b"]), keys=keys)
    made = tables(measure(table, resamples=100))
    assert [row[0] for row in made["predictions.csv"][1:]] == [
        "'=1+1.png",
        "'-2.png",
        "'+3.png",
        "'@x.png",
        "'\tt.png",
        "fine=.png",
    ]
    assert made["per_class.csv"][1][0] == "'=cmd()"
    assert made["confusion.csv"][0][1] == "'=cmd()"
    assert all(isinstance(cell, float) for cell in made["predictions.csv"][1][3:])


def test_written_tables_read_back(tmp_path):
    table = replace(DIGITS, keys=("odd\udcff.png", 'a, "b"\n.png', *DIGITS.keys[2:]))
    paths = write_tables(measure(table, resamples=100), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.csv",
        "per_class.csv",
        "predictions.csv",
    ]
    with paths[2].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 84
    assert rows[0]["key"] == "odd\\udcff.png"
    assert rows[1]["key"] == 'a, "b"\n.png'
    assert (rows[0]["truth"], rows[0]["predicted"]) == ("3", "8")
    assert float(rows[0]["score 8"]) == pytest.approx(0.9)
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream))[1] == ["3", "34", "7", "0"]


def test_multilabel_tables_list_labels_and_outcomes():
    truth = np.array([[1, 1], [0, 0]], bool)
    table = ClassTable(("a", "b"), ("red", "big"), truth, np.where(truth, 0.9, 0.2), truth, exclusive=False)
    made = tables(measure(table, resamples=100))
    assert made["predictions.csv"][1][:3] == ["a", "red; big", "red; big"]
    assert made["confusion.csv"] == [
        ["class", "tp", "fp", "fn", "tn"],
        ["red", 1, 0, 0, 1],
        ["big", 1, 0, 0, 1],
    ]
