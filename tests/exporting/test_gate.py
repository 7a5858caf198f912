"""The gate: each tolerance is reached alone, and an honest export passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pictune.exporting.gate import TOLERANCES, Verdict, judge_export
from pictune.tasks.table import ClassTable

IMAGES, CLASSES = 400, ("a", "b", "c", "d")


def table(scores: np.ndarray, truth: np.ndarray) -> ClassTable:
    decided = np.zeros_like(scores, bool)
    decided[np.arange(len(scores)), scores.argmax(1)] = True
    return ClassTable(tuple(f"{i}.png" for i in range(len(scores))), CLASSES, truth, scores, decided, True)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def original(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is right in about nine of ten images, and the truth."""
    generator = np.random.default_rng(seed)
    truth = np.eye(4, dtype=bool)[generator.integers(4, size=IMAGES)]
    return truth * 3.0 + generator.normal(0, 1, (IMAGES, 4)), truth


def verdict(exported: np.ndarray, *, precision: str = "int8", **given):
    logits, truth = original()
    first, second = (table(softmax(each).astype(float), truth) for each in (logits, exported))
    apart = np.abs(first.scores - second.scores).max(1)
    agreement = (first.decided == second.decided).all(1).astype(float)
    facts = {"apart": apart, "agreement": agreement, **given}
    keys = [f"{i}.png" for i in range(IMAGES)]
    return judge_export(
        first, second, keys=keys, precision=precision, seconds=(0.02, 0.01), sizes=(100, 25), **facts
    )


def noise(scale: float) -> np.ndarray:
    return np.random.default_rng(1).normal(0, scale, (IMAGES, 4))


@pytest.mark.parametrize(("precision", "scale"), [("fp32", 1e-6), ("fp16", 2e-3), ("int8", 0.03)])
def test_honest_rounding_passes(precision: str, scale: float) -> None:
    found = verdict(original()[0] + noise(scale), precision=precision)
    assert found.passed, found.reasons
    assert found.paired is not None
    assert abs(found.paired.main.difference) <= TOLERANCES[precision].metric
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("precision", "scale", "said"),
    [
        ("fp32", 5e-3, "Outputs"),
        ("fp16", 0.2, "Outputs of the typical"),
        ("int8", 1.0, "Outputs of the typical"),
    ],
)
def test_too_much_rounding_does_not(precision: str, scale: float, said: str) -> None:
    found = verdict(original()[0] + noise(scale), precision=precision)
    assert not found.passed
    assert found.reasons[0].startswith(said)
    assert "refused" in found.summary()


@pytest.mark.parametrize("precision", TOLERANCES)
def test_swapped_classes_are_refused(precision: str) -> None:
    assert not verdict(original()[0][:, [1, 0, 2, 3]], precision=precision).passed


def test_outputs_count_where_no_answer_changes() -> None:
    """A wrong mean often looks so: less sure, and not yet wrong."""
    found = verdict(original()[0] * 0.5)
    assert found.agreement == 1.0
    assert [reason.split()[0] for reason in found.reasons] == ["Outputs"]


@pytest.mark.parametrize(("changed", "passes"), [(4, True), (30, False)])
def test_answers_count_where_outputs_hardly_move(changed: int, passes: bool) -> None:
    agreement = np.ones(IMAGES)
    agreement[:changed] = 0
    found = verdict(original()[0] + noise(1e-3), agreement=agreement)
    assert found.passed == passes
    assert passes or found.reasons[0].startswith("Only 0.9250")


@pytest.mark.parametrize(("lost", "passes"), [(3, True), (8, False)])
def test_the_metric_counts(lost: int, passes: bool) -> None:
    logits, truth = original()
    right = np.flatnonzero(logits.argmax(1) == truth.argmax(1))[:lost]
    exported = logits.copy()
    exported[right] = np.roll(exported[right], 1, axis=1)
    quiet = {"apart": np.zeros(IMAGES), "agreement": np.ones(IMAGES)}
    found = verdict(exported, **quiet)
    assert found.passed == passes
    assert passes or any("accuracy falls by" in reason for reason in found.reasons)


def test_one_class_may_not_pay_for_the_others() -> None:
    logits, truth = original()
    exported = logits.copy()
    ours = truth[:, 2] & (logits.argmax(1) == 2)
    chosen = np.flatnonzero(ours)[:12]
    exported[chosen, 2] = -9
    wrong = np.flatnonzero(~truth[:, 2] & (logits.argmax(1) != truth.argmax(1)))[:12]
    exported[wrong] = truth[wrong] * 9.0
    found = verdict(exported, apart=np.zeros(IMAGES), agreement=np.ones(IMAGES))
    assert [reason for reason in found.reasons if reason.startswith("The class c loses")], found.reasons


def test_what_is_no_number_never_passes() -> None:
    apart = np.zeros(IMAGES)
    apart[7] = np.nan
    found = verdict(original()[0], apart=apart)
    assert "no number" in found.reasons[0]
    assert found.worst[0] == {"key": "7.png", "apart": None, "agreement": 1.0}
    json.dumps(found.to_json(), allow_nan=False)


def test_nothing_to_compare_never_passes() -> None:
    logits, truth = original()
    empty = table(softmax(logits)[:0], truth[:0])
    found = judge_export(
        empty,
        empty,
        apart=np.zeros(0),
        agreement=np.zeros(0),
        keys=[],
        precision="fp32",
        seconds=(1, 1),
        sizes=(1, 1),
    )
    assert not found.passed
    assert "nothing_to_compare" in found.reasons[0]
    assert replace(found, overruled=True).to_json()["overruled"]


def test_the_worst_images_come_first() -> None:
    apart = np.zeros(IMAGES)
    apart[[5, 9]] = 0.04, 0.02
    assert [row["key"] for row in verdict(original()[0], apart=apart).worst[:2]] == ["5.png", "9.png"]


def test_few_images_are_said_to_be_few() -> None:
    agreement = np.ones(IMAGES)
    agreement[0] = 0
    logits, truth = original()
    exported = logits + noise(0.05)
    assert verdict(exported).passed
    few = [table(softmax(each)[:20].astype(float), truth[:20]) for each in (logits, exported)]
    found = judge_export(
        *few,
        apart=np.zeros(20),
        agreement=np.r_[0.5, np.ones(19)],
        keys=[str(i) for i in range(20)],
        precision="int8",
        seconds=(1, 1),
        sizes=(1, 1),
    )
    assert found.passed
    assert "cannot exclude" in found.remarks[0]


@pytest.mark.parametrize(("count", "told"), [(4, "up to 53 %"), (28, "up to 10 %"), (29, ""), (300, "")])
def test_where_so_few_answers_are_the_same_it_is_told_what_that_leaves_open(count: int, told: str) -> None:
    logits, truth = original()
    same = table(softmax(logits)[:count].astype(float), truth[:count])
    found = judge_export(
        same,
        same,
        apart=np.zeros(count),
        agreement=np.ones(count),
        keys=[str(i) for i in range(count)],
        precision="int8",
        seconds=(1, 1),
        sizes=(1, 1),
    )
    assert found.passed
    assert [told in remark for remark in found.remarks] == ([True] if told else [])


def test_agreement_that_is_no_number_never_passes() -> None:
    agreement = np.ones(IMAGES)
    agreement[3] = np.nan
    assert not verdict(original()[0], agreement=agreement).passed


@pytest.mark.parametrize(("lost", "passes"), [(4, True), (5, False)])
def test_a_loss_of_exactly_the_tolerance_is_within_it(lost: int, passes: bool) -> None:
    """Four of four hundred are the hundredth that int8 may lose, whatever the last digit of a float."""
    logits, truth = original()
    exported = logits.copy()
    right = np.flatnonzero(logits.argmax(1) == truth.argmax(1))
    chosen = [np.flatnonzero(truth[right].argmax(1) == i % 4)[i // 4] for i in range(lost)]  # of every class
    exported[right[chosen]] = np.roll(exported[right[chosen]], 1, axis=1)
    found = verdict(exported, apart=np.zeros(IMAGES), agreement=np.ones(IMAGES))
    assert found.passed == passes, found.reasons


def test_what_cannot_be_measured_cannot_be_accepted() -> None:
    apart = np.full(IMAGES, np.nan)
    assert not verdict(original()[0], apart=apart).measured
    assert verdict(original()[0][:, ::-1]).measured


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ((0.02, 0.01), "10.0 ms, 2.00 times as fast as the run's model in PyTorch"),
        ((0.01, 0.015), "15.0 ms, 1.50 times as long as the run's model in PyTorch"),
        ((0.01, 0.0), "0.0 ms\n"),
    ],
)
def test_slower_is_not_called_as_fast(seconds: tuple[float, float], said: str) -> None:
    verdict = Verdict("fp32", (), (), None, None, None, None, (), seconds, (1, 1))
    assert said in verdict.summary()
