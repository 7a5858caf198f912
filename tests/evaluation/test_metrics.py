"""Values equal scikit-learn's; influence values predict what a metric does when an image counts more."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from pictune.evaluation import metrics
from pictune.evaluation.measurement import measure
from pictune.tasks.table import ClassTable

EXACT = {"rel": 1e-9, "abs": 1e-9}


def random_table(seed: int, *, size: int, classes: int, exclusive: bool, coarse: bool) -> ClassTable:
    """A table with absent classes, unanswered classes and, when coarse, many equal scores."""
    generator = np.random.default_rng(seed)
    if exclusive:
        used = generator.integers(1, classes + 1)
        truth = np.eye(classes, dtype=bool)[generator.integers(used, size=size)]
        scores = (
            generator.integers(1, 4, size=(size, classes)) if coarse else generator.random((size, classes))
        )
        scores = scores / scores.sum(axis=1, keepdims=True)
        decided = np.eye(classes, dtype=bool)[scores.argmax(axis=1)]
    else:
        truth = generator.random((size, classes)) < generator.random(classes) ** 2
        scores = (
            generator.integers(0, 5, size=(size, classes)) / 4
            if coarse
            else generator.random((size, classes))
        )
        decided = scores > 0.6
    keys = tuple(f"{i}.png" for i in range(size))
    return ClassTable(keys, tuple(f"c{c}" for c in range(classes)), truth, scores, decided, exclusive)


tables = st.builds(
    random_table,
    st.integers(0, 2**32 - 1),
    size=st.integers(2, 40),
    classes=st.integers(2, 6),
    exclusive=st.booleans(),
    coarse=st.booleans(),
)


def values(table: ClassTable) -> dict[str, float | None]:
    return {name: number.value for name, number in measure(table, resamples=100).metrics.items()}


@settings(max_examples=60, deadline=None)
@given(tables)
def test_averages_equal_scikit_learn(table):
    found = values(table)
    truth, decided = table.truth.astype(int), table.decided.astype(int)
    present = np.flatnonzero(truth.any(axis=0))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, decided), **EXACT)
    if not len(present):
        assert found["macro_f1"] is None
        return
    for average in ("macro", "weighted", "micro"):
        # Classes absent here are left out of averages over classes, but their false alarms count in micro.
        labels = present if average == "macro" else None
        expected = reference.precision_recall_fscore_support(
            truth, decided, average=average, labels=labels, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected[:3], strict=True):
            if found[f"{average}_{name}"] is not None:
                assert found[f"{average}_{name}"] == pytest.approx(value, **EXACT), (average, name)
    if table.exclusive:
        expected_recall = reference.recall_score(truth, decided, average="macro", labels=present)
        assert found["balanced_accuracy"] == pytest.approx(expected_recall, **EXACT)
    else:
        assert found["hamming_loss"] == pytest.approx(reference.hamming_loss(truth, decided), **EXACT)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_classes_equal_scikit_learn(table):
    rows = measure(table, resamples=100).classes
    matrices = reference.multilabel_confusion_matrix(table.truth, table.decided)
    areas, averages = [], []
    for c, row in enumerate(rows):
        truth, decided, scores = table.truth[:, c], table.decided[:, c], table.scores[:, c]
        (tn, fp), (fn, tp) = matrices[c]
        assert (row.tn, row.fp, row.fn, row.tp, row.support) == (tn, fp, fn, tp, truth.sum())
        expected = {
            "precision": tp / (tp + fp) if truth.any() and decided.any() else None,
            "recall": tp / (tp + fn) if truth.any() else None,
            "f1": reference.f1_score(truth, decided, zero_division=0) if truth.any() else None,
            "specificity": tn / (tn + fp) if not truth.all() else None,
            "roc_auc": None,
            "average_precision": None,
        }
        if truth.any() and not truth.all():
            expected["roc_auc"] = reference.roc_auc_score(truth, scores)
            expected["average_precision"] = reference.average_precision_score(truth, scores)
            areas.append(expected["roc_auc"])
            averages.append(expected["average_precision"])
        for name, value in expected.items():
            number = row.metrics[name]
            if value is None:
                assert (number.value, number.low, number.high) == (None, None, None), name
                assert number.reason
            else:
                assert number.value == pytest.approx(value, **EXACT), name
    found = values(table)
    if areas:
        assert found["macro_roc_auc"] == pytest.approx(np.mean(areas), **EXACT)
        assert found["macro_average_precision"] == pytest.approx(np.mean(averages), **EXACT)
    else:
        assert found["macro_roc_auc"] is None


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from([None, 1, 3, 40]), st.integers(0, 100))
def test_every_number_is_finite_within_its_interval_or_explained(table, groups, seed):
    if groups:
        table = replace(table, groups=np.random.default_rng(seed).integers(groups, size=len(table)))
    measured = measure(table, resamples=100)
    numbers = [measured.metrics, *(row.metrics for row in measured.classes)]
    for name, number in ((name, number) for column in numbers for name, number in column.items()):
        if number.low is None:
            assert number.reason, name
        else:
            assert 0 <= number.low <= number.value + 1e-12, name
            assert number.value - 1e-12 <= number.high < np.inf, name
    json.dumps(measured.to_json(), allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_losses_equal_scikit_learn(table):
    found = values(table)
    labels = list(range(len(table.classes)))
    if table.exclusive:
        truth = table.truth.argmax(axis=1)
        expected_loss = reference.log_loss(truth, table.scores, labels=labels)
        expected_brier = reference.brier_score_loss(truth, table.scores, labels=labels)
    else:
        columns = [(table.truth[:, c], table.scores[:, c]) for c in labels]
        expected_loss = np.mean([reference.log_loss(t, s, labels=[False, True]) for t, s in columns])
        expected_brier = np.mean([np.mean((t - s) ** 2) for t, s in columns])
    assert found["log_loss"] == pytest.approx(expected_loss, **EXACT)
    assert found["brier"] == pytest.approx(expected_brier, **EXACT)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_ranking_influence_predicts_the_effect_of_one_more_image(seed, coarse):
    generator = np.random.default_rng(seed)
    truth = np.arange(300) % 3 == 0
    scores = generator.integers(0, 20, size=300) / 20 if coarse else generator.random(300)
    scores = scores + 0.3 * truth
    step, chosen = 1e-6, int(generator.integers(300))
    weight = np.ones(300)
    weight[chosen] += step
    compare = (reference.roc_auc_score, reference.average_precision_score)
    for ranked, score in zip(metrics.ranking(truth, scores), compare, strict=True):
        assert ranked.influence.sum() == pytest.approx(0, abs=1e-8)
        moved = score(truth, scores, sample_weight=weight) - score(truth, scores)
        assert moved / step == pytest.approx(ranked.influence[chosen] / 300, abs=1e-6)


@pytest.mark.parametrize("name", ["precision", "recall", "specificity", "jaccard"])
def test_share_influence_is_that_of_leaving_one_out(name):
    table = random_table(3, size=400, classes=3, exclusive=True, coarse=False)
    share_of = {
        "precision": metrics.precision,
        "recall": metrics.recall,
        "specificity": metrics.specificity,
        "jaccard": metrics.jaccard,
    }[name]
    whole = share_of(table.truth, table.decided)
    rest = share_of(table.truth[1:], table.decided[1:])
    assert whole.value - rest.value == pytest.approx(whole.influence[0] / 400, abs=2e-4)


def test_f1_follows_the_jaccard_index():
    counted = metrics.outcomes(np.array([[1], [1], [1], [0]], bool), np.array([[1], [1], [0], [1]], bool))
    overlap = counted.tp / (counted.tp + counted.fp + counted.fn)
    assert metrics.f1_of_jaccard(overlap) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
