"""Intervals against closed forms, against a plain bootstrap, and against known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pictune.evaluation.calibration import Answers, bins_of, calibration_error
from pictune.evaluation.intervals import (
    Clusters,
    Number,
    Spread,
    bootstrap_mean,
    class_mean_interval,
    effective_trials,
    share_interval,
    wilson,
)
from pictune.evaluation.metrics import share_of


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(trials, part, confidence):
    hits = round(part * trials)
    low, high = wilson(hits / trials, trials, stats.norm.ppf((1 + confidence) / 2))
    expected = stats.binomtest(hits, trials).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low <= hits / trials <= high


def shares(hits, trials, groups=None, independent=True):
    clusters = Clusters(len(hits), groups=groups)
    share = share_of(np.asarray(hits, float)[:, None], np.asarray(trials, float)[:, None])
    spread = clusters.spread(share.influence, share.held)
    low, high = share_interval(
        share.value, share.trials, spread, clusters=clusters, confidence=0.95, independent=independent
    )
    return float(low[0]), float(high[0])


def test_without_groups_a_share_gets_plain_wilson():
    hits = np.arange(50) % 5 == 0
    assert shares(hits, np.ones(50)) == pytest.approx(
        tuple(map(float, wilson(0.2, 50, stats.norm.ppf(0.975))))
    )


def test_groups_of_one_image_change_little():
    hits = np.arange(200) % 5 == 0
    alone, grouped = shares(hits, np.ones(200)), shares(hits, np.ones(200), groups=np.arange(200))
    assert grouped == pytest.approx(alone, abs=0.005)


@pytest.mark.parametrize(
    "hits_in_group", [np.array([1, 1, 1, 0]), np.ones(4)], ids=["some wrong", "all right"]
)
def test_copies_of_an_image_bring_no_knowledge(hits_in_group):
    once = np.tile(hits_in_group, 10)
    copied, groups = np.repeat(once, 25), np.repeat(np.arange(40), 25)
    one, many = (
        shares(once, np.ones(40), groups=np.arange(40)),
        shares(copied, np.ones(1000), groups=groups),
    )
    assert many == pytest.approx(one, abs=0.01)


def test_groups_that_happen_to_balance_do_not_sharpen_a_share():
    hits = np.tile([1, 0], 50)
    hits[1] = 1
    low, high = shares(hits, np.ones(100), groups=np.repeat(np.arange(50), 2))
    alone = shares(hits, np.ones(100))
    assert low <= alone[0] < alone[1] <= high


def test_the_order_and_names_of_groups_do_not_matter():
    generator = np.random.default_rng(0)
    hits, groups = generator.random(100) < 0.7, generator.integers(20, size=100)
    order = generator.permutation(100)
    renamed = (groups * 977 - 5)[order]
    assert shares(hits[order], np.ones(100), groups=renamed) == pytest.approx(
        shares(hits, np.ones(100), groups=groups)
    )


def test_variance_agrees_with_a_bootstrap_over_groups():
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(80), 4)
    value = generator.normal(size=80)[groups] + generator.normal(size=320)
    drawn = generator.integers(80, size=(4000, 80))
    means = value.reshape(80, 4).mean(axis=1)[drawn].mean(axis=1)
    variance = Clusters(320, groups=groups).variance(value - value.mean())
    assert variance == pytest.approx(means.var(), rel=0.1)


def test_one_group_alone_says_almost_nothing():
    low, high = shares(np.ones(30), np.ones(30), groups=np.zeros(30, int))
    assert low < 0.05
    assert high == 1


def test_effective_trials_of_silent_data_fall_back_to_crowding():
    spread = Spread(np.zeros(1), np.array([4.0]), np.array([25.0]))
    assert effective_trials(np.ones(1), np.array([100.0]), spread) == pytest.approx([25.0])


def test_an_average_of_perfect_classes_is_not_certain():
    spread = Spread(np.zeros(3), np.ones(3), np.full(3, 10.0))
    arguments = {"clusters": Clusters(30), "confidence": 0.95}
    low, high = class_mean_interval(np.ones(3), np.full(3, 10.0), spread, 0.0, **arguments)
    assert 0.7 < low < 0.97
    assert high == 1
    low_few, _ = class_mean_interval(np.ones(3), np.array([10.0, 10, 1]), spread, 0.0, **arguments)
    assert low_few < low


def mean_of(values, groups=None, resamples=1000) -> Number:
    return bootstrap_mean(
        values,
        clusters=Clusters(len(values), groups=groups),
        confidence=0.95,
        resamples=resamples,
        generator=np.random.default_rng(0),
    )


def test_a_long_tail_stretches_the_interval_of_a_mean_upward():
    values = stats.lognorm(1.5).rvs(60, random_state=2)
    number = mean_of(values)
    assert number.value == pytest.approx(values.mean())
    assert 0 <= number.low < number.value < number.high
    assert number.high - number.value > 1.2 * (number.value - number.low)


@pytest.mark.parametrize("groups", [None, np.arange(300) // 2])
def test_one_dear_image_does_not_stretch_the_interval_of_a_mean_beyond_reason(groups):
    values = np.full(300, 0.01)
    values[7] = 16.0
    number = mean_of(values, groups)
    units = 300 if groups is None else 150
    least, most = wilson(1 / units, units, 1.96)
    dearest = 16.0 if groups is None else 8.0
    assert dearest * least < number.low < number.value
    assert number.value < number.high < 1.3 * dearest * most


@pytest.mark.parametrize(
    ("values", "groups", "part"),
    [
        (np.array([0.3]), None, "one image"),
        (np.array([0.3, 0.5]), np.array([7, 7]), "one group"),
        (np.zeros(5), None, "same value"),
    ],
)
def test_a_mean_that_shows_no_scatter_has_a_reason_and_no_interval(values, groups, part):
    number = mean_of(values, groups)
    assert number.value == pytest.approx(values.mean())
    assert (number.low, number.high) == (None, None)
    assert part in number.reason


def test_copies_do_not_sharpen_a_mean():
    values = np.random.default_rng(4).exponential(size=50)
    one, many = mean_of(values), mean_of(np.repeat(values, 9), groups=np.repeat(np.arange(50), 9))
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_resampling_in_small_blocks_gives_the_same_interval(monkeypatch):
    values = np.random.default_rng(3).random(40)
    whole = mean_of(values, resamples=501)
    monkeypatch.setattr("pictune.evaluation.intervals._BLOCK", 100)
    in_blocks = mean_of(values, resamples=501)
    assert (in_blocks.low, in_blocks.high) == pytest.approx((whole.low, whole.high))


@settings(max_examples=50)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(0, 1000))
def test_bins_hold_every_answer_once_and_keep_ties_together(size, levels, seed):
    generator = np.random.default_rng(seed)
    confidence = generator.integers(levels + 1, size=size) / levels
    right = (generator.random(size) < confidence).astype(float)
    bins = bins_of(confidence, right)
    assert bins.count.sum() == size
    assert len(bins.count) <= 15
    assert (bins.count > 0).all()
    assert (np.diff(bins.confidence) > 0).all()
    for level in np.unique(confidence):
        assert len(np.unique(bins.place[confidence == level])) == 1
    order = generator.permutation(size)
    assert bins_of(confidence[order], right[order]).error == pytest.approx(bins.error)


def test_bins_of_distinct_confidences_are_of_equal_size():
    bins = bins_of(np.random.default_rng(0).permutation(150) / 150, np.zeros(150))
    assert bins.count.tolist() == [10] * 15


def ece(confidence, right, groups=None, seed=0) -> Number:
    given_ = Answers(confidence, right.astype(float), np.arange(len(right)))
    return calibration_error(
        given_,
        clusters=Clusters(len(right), groups=groups),
        confidence=0.95,
        resamples=300,
        generator=np.random.default_rng(seed),
    )


def test_calibration_error_by_hand():
    confidence = np.repeat([0.6, 0.9], 50)
    right = np.concatenate([np.arange(50) < 20, np.arange(50) < 45])
    number = ece(confidence, right)
    assert number.value == pytest.approx(0.5 * 0.2)
    assert number.low <= number.value <= number.high


def test_a_calibrated_model_is_not_accused_and_an_overconfident_one_is():
    generator = np.random.default_rng(5)
    confidence = generator.uniform(0.5, 1, 300)
    fair = ece(confidence, generator.random(300) < confidence)
    boastful = ece(confidence, generator.random(300) < confidence - 0.25)
    assert fair.value > 0.02
    assert fair.low == 0
    assert boastful.low > 0.1


def test_grouped_answers_widen_the_calibration_interval():
    generator = np.random.default_rng(6)
    confidence = np.full(300, 0.8) + generator.uniform(-0.1, 0.1, 300)
    right = np.repeat(generator.random(30) < 0.6, 10)
    alone, grouped = ece(confidence, right), ece(confidence, right, groups=np.repeat(np.arange(30), 10))
    assert grouped.high - grouped.low > alone.high - alone.low


def test_intervals_hold_the_truth_as_often_as_they_claim():
    """A quick guard: the full table is made by benchmarks/interval_coverage.py."""
    generator = np.random.default_rng(7)
    held = []
    for _ in range(400):
        # 40 scenes of 5 images; the model gets 0.85 right on average, and scenes differ.
        rate = np.repeat(generator.beta(8.5, 1.5, size=40), 5)
        low, high = shares(generator.random(200) < rate, np.ones(200), groups=np.repeat(np.arange(40), 5))
        held.append(low <= 0.85 <= high)
    assert 0.91 <= np.mean(held) <= 0.98
