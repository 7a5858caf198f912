"""Losses against slow references in plain numpy, against torch's own, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pictune.errors import RecipeError
from pictune.models.losses import LOSSES, accepted_targets, choose_loss

# ---------------------------------------------------------------- slow references, one number at a time


def softmax(row):
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [p / sum(powers) for p in powers]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def slow(logits, targets, weights, *, term, divisor):
    """Adds up ``weight * term`` over images and classes, then divides."""
    total = sum(
        weights[k] * term(logits[i], targets[i], k) for i in range(len(logits)) for k in range(len(logits[0]))
    )
    return total / divisor(targets, weights)


def per_image(targets, weights):
    return len(targets)


def per_weighted_image(targets, weights):
    return sum(w * t for row in targets for w, t in zip(weights, row, strict=True))


def per_answer(targets, weights):
    return len(targets) * sum(weights)


def entropy_term(smoothing):
    def term(logits, targets, k):
        target = (1 - smoothing) * targets[k] + smoothing / len(targets)
        return -target * math.log(softmax(logits)[k])

    return term


def focal_term(gamma, alpha=1.0):
    def term(logits, targets, k):
        p = softmax(logits)[k]
        return -alpha * targets[k] * (1 - p) ** gamma * math.log(p)

    return term


def binary_term(smoothing):
    def term(logits, targets, k):
        p, target = sigmoid(logits[k]), (1 - smoothing) * targets[k] + smoothing / 2
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    return term


def binary_focal_term(gamma, yes=1.0, no=1.0):
    def term(logits, targets, k):
        p = sigmoid(logits[k])
        of_yes = -yes * targets[k] * (1 - p) ** gamma * math.log(p)
        return of_yes - no * (1 - targets[k]) * p**gamma * math.log(1 - p)

    return term


def asymmetric_term(gamma_positive, gamma_negative, clip):
    def term(logits, targets, k):
        p = sigmoid(logits[k])
        clipped = max(p - clip, 0)
        there = targets[k] * (1 - p) ** gamma_positive * math.log(p)
        absent = (1 - targets[k]) * clipped**gamma_negative * math.log(1 - clipped)
        return -there - absent

    return term


CASES = [
    ("cross_entropy", {}, entropy_term(0), per_weighted_image),
    ("cross_entropy", {"label_smoothing": 0.2}, entropy_term(0.2), per_weighted_image),
    ("label_smoothed", {}, entropy_term(0.1), per_weighted_image),
    ("label_smoothed", {"label_smoothing": 0.3}, entropy_term(0.3), per_weighted_image),
    ("soft_target", {}, entropy_term(0), per_image),
    ("focal", {}, focal_term(2), per_weighted_image),
    ("focal", {"gamma": 0}, entropy_term(0), per_weighted_image),
    ("focal", {"gamma": 0.5, "alpha": 0.25}, focal_term(0.5, 0.25), per_weighted_image),
    ("binary_cross_entropy", {}, binary_term(0), per_answer),
    ("binary_cross_entropy", {"label_smoothing": 0.1}, binary_term(0.1), per_answer),
    ("binary_focal", {}, binary_focal_term(2), per_answer),
    ("binary_focal", {"gamma": 1.5, "alpha": 0.25}, binary_focal_term(1.5, 0.25, 0.75), per_answer),
    ("asymmetric", {}, asymmetric_term(0, 4, 0.05), per_answer),
    (
        "asymmetric",
        {"gamma_positive": 1, "gamma_negative": 2.5, "clip": 0},
        asymmetric_term(1, 2.5, 0),
        per_answer,
    ),
    ("asymmetric", {"gamma_negative": 0, "clip": 0.2}, asymmetric_term(0, 0, 0.2), per_answer),
    ("asymmetric", {"gamma_negative": 0.5, "clip": 0.3}, asymmetric_term(0, 0.5, 0.3), per_answer),
]
NAMES = [f"{name} {given}" for name, given, *_ in CASES]


def batch(name: str, *, seed: int, images: int = 5, classes: int = 4, soft: bool = False):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (images, classes))
    if accepted_targets(name) == "exclusive":
        targets = np.eye(classes)[random.integers(0, classes, images)]
        if soft:
            share = random.uniform(0, 1, (images, 1))
            targets = share * targets + (1 - share) * targets[::-1]
    else:
        targets = random.uniform(0, 1, (images, classes))
        targets = targets if soft else (targets > 0.6).astype(float)
    return logits, targets, random.uniform(0.1, 3, classes)


@pytest.mark.parametrize(("name", "given", "term", "divisor"), CASES, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), soft=st.booleans(), weighted=st.booleans())
def test_equals_the_slow_reference(name, given, term, divisor, seed, soft, weighted):
    logits, targets, weights = batch(name, seed=seed, soft=soft)
    if not weighted:
        weights = np.ones_like(weights)
    loss = LOSSES[name].make(**given)
    value = loss(
        torch.tensor(logits),
        torch.tensor(targets),
        class_weights=torch.tensor(weights) if weighted else None,
    )
    assert value.dtype == torch.float64
    expected = slow(logits.tolist(), targets.tolist(), weights.tolist(), term=term, divisor=divisor)
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_equals_torch_on_hard_labels():
    logits, targets, weights = (torch.tensor(a) for a in batch("cross_entropy", seed=1))
    labels = targets.argmax(dim=1)
    for smoothing in (0.0, 0.1):
        ours = LOSSES["cross_entropy"].make(label_smoothing=smoothing)
        for w in (None, weights):
            theirs = F.cross_entropy(logits, labels, weight=w, label_smoothing=smoothing)
            torch.testing.assert_close(ours(logits, targets, class_weights=w), theirs)


def test_equals_torch_on_soft_and_on_many_labels():
    logits, targets, weights = (torch.tensor(a) for a in batch("soft_target", seed=2, soft=True))
    ours = LOSSES["soft_target"].make()(logits, targets, class_weights=weights)
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weight=weights))
    logits, targets, _ = (torch.tensor(a) for a in batch("binary_cross_entropy", seed=3, soft=True))
    ours = LOSSES["binary_cross_entropy"].make()(logits, targets)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, targets))


@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_gradients_are_those_of_the_formula(name, given):
    logits, targets, weights = (torch.tensor(a) for a in batch(name, seed=7, images=3, soft=True))
    loss = LOSSES[name].make(**given)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, targets, class_weights=weights), (logits,))


EXTREME = [[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(("name", "given"), [case[:2] for case in CASES], ids=NAMES)
def test_finite_at_extreme_logits(name, given, kind):
    logits = torch.tensor(EXTREME, dtype=kind, requires_grad=True)
    loss = LOSSES[name].make(**given)
    targets = torch.eye(3)[[1, 1, 0, 2, 0]]
    if accepted_targets(name) == "both":
        targets[4] = 0  # an image without any label
    value = loss(logits, targets)
    value.backward()
    assert value.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_computed_in_float32(name):
    logits, targets, _ = (torch.tensor(a, dtype=torch.float32) for a in batch(name, seed=4))
    rounded = logits.bfloat16()
    loss = LOSSES[name].make()
    torch.testing.assert_close(loss(rounded, targets), loss(rounded.float(), targets), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_answer_costs_less_and_a_perfect_one_almost_nothing(name):
    targets = torch.eye(3)
    costs = [LOSSES[name].make()(scale * (targets - 0.5), targets).item() for scale in (-2.0, 0.0, 2.0, 40.0)]
    assert costs[:3] == sorted(costs[:3], reverse=True)
    if name != "label_smoothed":  # which never asks for certainty
        assert costs[3] < 1e-6
    else:
        assert costs[3] > costs[2]


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_count_as_they_should(name):
    logits, targets, weights = (torch.tensor(a) for a in batch(name, seed=5))
    loss = LOSSES[name].make()
    weighted = loss(logits, targets, class_weights=weights)
    assert not torch.isclose(weighted, loss(logits, targets))
    doubled = loss(logits, targets, class_weights=2 * weights)
    torch.testing.assert_close(doubled, 2 * weighted if name == "soft_target" else weighted)
    assert loss(logits, targets, class_weights=torch.zeros(4)).item() == 0


# ---------------------------------------------------------------- the table and the choice


def test_the_table_holds_what_recipes_name():
    assert list(LOSSES) == [
        "cross_entropy",
        "label_smoothed",
        "soft_target",
        "focal",
        "binary_cross_entropy",
        "binary_focal",
        "asymmetric",
    ]
    assert all(LOSSES[name].summary.endswith(".") for name in LOSSES)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("focal", {"gama": 2}, "did you mean gamma?"),
        ("focal", {"gamma": -1}, "at least 0"),
        ("focal", {"gamma": float("nan")}, "finite"),
        ("asymmetric", {"clip": 0.9}, "at most 0.5"),
        ("label_smoothed", {"label_smoothing": 0}, "greater than 0"),
        ("cross_entropy", {"label_smoothing": "much"}, "number"),
        ("soft_target", {"label_smoothing": 0.1}, "takes none"),
    ],
)
def test_impossible_settings_are_refused(name, given, says):
    with pytest.raises(RecipeError, match=says.replace("?", r"\?")):
        LOSSES[name].make(**given)


@pytest.mark.parametrize(
    ("wanted", "multilabel", "chosen"),
    [
        ("auto", False, "cross_entropy"),
        ("auto", True, "binary_cross_entropy"),
        ("focal", False, "focal"),
        ("asymmetric", True, "asymmetric"),
        ("asymmetric", False, "asymmetric"),
        ("focal", True, None),
        ("soft_target", True, None),
    ],
)
def test_a_loss_must_suit_the_labels(wanted, multilabel, chosen):
    if chosen:
        assert choose_loss(wanted, multilabel=multilabel) == chosen
    else:
        with pytest.raises(RecipeError, match="several labels") as caught:
            choose_loss(wanted, multilabel=multilabel)
        assert "binary_focal" in str(caught.value)
        assert "soft_target" not in caught.value.instead


def test_a_misspelt_loss_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"did you mean focal\?"):
        choose_loss("focall", multilabel=False)
