"""Every schedule of the table: a share between 0 and 1 at every moment, and an end as promised."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictune.training.schedules import SCHEDULES

WARMED = [name for name, part in SCHEDULES.items() if "warmup_epochs" in part.settings]


@st.composite
def made(draw: st.DrawFn):
    """Any schedule with any settings that its declarations allow."""
    name = draw(st.sampled_from(list(SCHEDULES)))
    given = {}
    for setting_name, (_, setting, default) in SCHEDULES[name].settings.items():
        low = setting.above if setting.above is not None else setting.low
        high = setting.high if setting.high is not None else 30
        value = (
            st.integers(int(low), int(high))
            if isinstance(default, int)
            else st.floats(low, high, exclude_min=setting.above is not None)
        )
        given[setting_name] = draw(st.lists(value, max_size=3) if isinstance(default, tuple) else value)
    return SCHEDULES[name].make(**given)


@given(made(), st.integers(1, 200), st.floats(0, 1), st.lists(st.floats(-1e3, 1e3), max_size=20))
def test_at_every_moment_a_share_of_the_highest_rate(schedule, epochs, share, scores):
    factor = schedule(share * epochs, epochs, scores)
    assert math.isfinite(factor)
    assert 0 <= factor <= 1 + 1e-12


@pytest.mark.parametrize("name", WARMED)
@pytest.mark.parametrize(("warmup", "epochs", "rise"), [(2.0, 10, 2.0), (5.0, 4, 2.0), (1.0, 1, 0.5)])
def test_the_warm_up_rises_in_a_straight_line_for_half_the_time_at_most(name, warmup, epochs, rise):
    schedule = SCHEDULES[name].make(warmup_epochs=warmup)
    assert 0 < schedule(0.0, epochs, []) <= 0.01
    for share in (0.25, 0.5, 0.75):
        assert schedule(share * rise, epochs, []) == pytest.approx(share)
    assert schedule(rise, epochs, []) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "settings", "places"),
    [
        ("constant", {}, {0: 1, 5: 1, 10: 1}),
        ("step", {"every": 4, "gamma": 0.5}, {0: 1, 3.99: 1, 4: 0.5, 8: 0.25, 10: 0.25}),
        ("multistep", {"milestones": [0.5, 0.8], "gamma": 0.1}, {4.9: 1, 5: 0.1, 8: 0.01}),
        ("cosine", {"warmup_epochs": 0, "final": 0.2}, {0: 1, 5: 0.6, 10: 0.2}),
        ("cosine", {"warmup_epochs": 2}, {2: 1, 6: 0.5, 10: 0}),
        ("one_cycle", {"rise": 0.5, "start": 0.1, "final": 0.05}, {0: 0.1, 5: 1, 10: 0.05}),
        ("polynomial", {"warmup_epochs": 0, "power": 2.0}, {0: 1, 5: 0.25, 10: 0}),
        ("polynomial", {"warmup_epochs": 0, "final": 0.3}, {5: 0.65, 10: 0.3}),
    ],
)
def test_where_it_stands_in_ten_epochs(name, settings, places):
    schedule = SCHEDULES[name].make(**settings)
    assert {done: schedule(done, 10, []) for done in places} == pytest.approx(places, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "falls"),
    [
        ([], 0),
        ([0.1, 0.2, 0.3, 0.4], 0),
        ([0.5, 0.5, 0.5], 0),
        ([0.5, 0.5, 0.5, 0.5], 1),
        ([0.5, 0.4, 0.3, 0.2, 0.6, 0.6], 1),
        ([0.5] * 7, 2),
        ([-3.0, -2.0, -2.5, -2.5, -2.5], 1),
    ],
)
def test_plateau_falls_when_the_score_has_stopped_rising(scores, falls):
    schedule = SCHEDULES["plateau"].make(patience=2, gamma=0.5)
    assert schedule(float(len(scores)), 20, scores) == 0.5**falls
