"""Classification: annotations to targets, outputs to answers, answers to numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from torch import nn

from pictune.data.sample import Labels
from pictune.models.losses import LOSSES
from pictune.tasks.classification import Classification
from pictune.tasks.task import Tensors

ONE = Classification(("cat", "dog", "eel"))
MANY = Classification(("cat", "dog", "eel"), multilabel=True, threshold=0.4)


@pytest.mark.parametrize(
    ("names", "row"),
    [(("dog",), [0, 1, 0]), (("eel", "cat"), [1, 0, 1]), ((), [0, 0, 0]), (None, [0, 0, 0])],
)
def test_annotations_become_targets(names, row):
    targets = MANY.targets([Labels(names) if names is not None else None])
    assert targets.dtype == np.float32
    assert targets.tolist() == [row]


def test_confidences_sum_to_one_or_stand_for_themselves():
    outputs = torch.tensor([[2.0, -1.0, 0.5], [300.0, -300.0, 0.0]], dtype=torch.bfloat16)
    assert ONE.activate(outputs).dtype == torch.float32
    assert ONE.activate(outputs).sum(1).tolist() == pytest.approx([1, 1])
    assert MANY.activate(outputs)[1].tolist() == pytest.approx([1, 0, 0.5])


def test_answers_are_names_with_the_likeliest_first():
    scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    first, second = ONE.predict(["a.png", "b.png"], scores)
    assert (first.key, first.annotation) == ("a.png", Labels(("dog",)))
    assert list(first.confidences.items()) == [("dog", 0.5), ("eel", 0.3), ("cat", 0.2)]
    assert second.annotation == Labels(("cat",)), "a tie goes to the first"


def test_several_none_and_exactly_at_the_threshold():
    answers = MANY.predict(["a", "b"], np.array([[0.4, 0.39, 0.9], [0.1, 0.1, 0.1]]))
    assert [answer.annotation.names for answer in answers] == [("cat", "eel"), ()]


@given(arrays.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(3)), elements=st.floats(0, 1)))
def test_one_answer_a_picture_whatever_the_scores(scores):
    table = ONE.score([str(i) for i in range(len(scores))], scores, [Labels(("cat",))] * len(scores), None)
    assert table.decided.sum(1).tolist() == [1] * len(scores)
    assert table.exclusive
    assert len(table) == len(scores)


def test_the_table_keeps_keys_truths_and_groups():
    groups = np.array([3, 3])
    table = MANY.score(["a", "b"], np.full((2, 3), 0.4), [Labels(("eel",)), None], groups)
    assert table.keys == ("a", "b")
    assert table.truth.tolist() == [[False, False, True], [False, False, False]]
    assert table.decided.all()
    assert not table.exclusive
    assert table.groups is groups


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(3, 30))
def test_quick_numbers_are_scikit_learns(seed, count):
    generator = np.random.default_rng(seed)
    scores = generator.dirichlet([0.5] * 3, count)
    truth = np.concatenate([[0, 1, 2], generator.integers(0, 3, count - 3)])
    answers = scores.argmax(1)
    table = ONE.score([""] * count, scores, [Labels((ONE.classes[i],)) for i in truth], None)
    assert ONE.quick(table) == pytest.approx(
        {
            "accuracy": accuracy_score(truth, answers),
            "balanced_accuracy": balanced_accuracy_score(truth, answers),
            "macro_f1": f1_score(truth, answers, average="macro"),
            "log_loss": log_loss(truth, np.clip(scores, 1e-12, 1), labels=[0, 1, 2]),
        },
        abs=1e-9,
    )


def test_quick_numbers_of_several_labels():
    scores = np.array([[0.9, 0.1, 0.6], [0.2, 0.7, 0.1]])
    table = MANY.score(["a", "b"], scores, [Labels(("cat", "eel")), Labels(("cat",))], None)
    quick = MANY.quick(table)
    assert quick["accuracy"] == 0.5
    assert quick["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    right = [0.9, 0.9, 0.6, 0.2, 0.3, 0.9]
    assert quick["log_loss"] == pytest.approx(-np.log(right).mean())


def test_quick_numbers_stay_finite_when_sure_and_wrong_or_without_a_class():
    table = ONE.score(["a"], np.array([[1.0, 0.0, 0.0]]), [Labels(("dog",))], None)
    assert all(np.isfinite(value) for value in ONE.quick(table).values())


def test_class_weights_reach_the_loss():
    network = nn.Flatten()
    images = torch.tensor([[[[2.0, 0.0, 0.0]]], [[[0.0, 1.0, 0.0]]]])
    batch = Tensors(images, torch.eye(3)[:2])
    losses = {}
    for weights in (None, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])):
        task = Classification(ONE.classes, loss=LOSSES["cross_entropy"].make(), class_weights=weights)
        named = task.losses(network, batch)
        assert list(named) == ["loss"]
        losses[None if weights is None else int(weights[0])] = float(named["loss"])
    assert losses[1] < losses[None] < losses[0]
    assert losses[None] == pytest.approx((losses[0] + losses[1]) / 2)


def test_a_task_made_for_using_cannot_train():
    with pytest.raises(AssertionError, match="for using a model"):
        ONE.losses(nn.Flatten(), Tensors(torch.zeros(1, 1, 1, 3), torch.eye(3)[:1]))
