"""Settings declared by signatures: bounds, choices, parts, and words that help."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictune.errors import RecipeError
from pictune.settings import Part, Parts, Search, Setting, check_value, setting_of, suggestion

Gamma = Annotated[float, Setting("how strongly", low=0, high=10, search=Search(0.5, 5))]


def focal(*, gamma: Gamma = 2.0, quiet: Annotated[bool, Setting("say less")] = False) -> str:
    """Mutes what is easy.

    More words that no table shows.
    """
    return f"focal {gamma} {quiet}"


def plain() -> str:
    """Takes nothing."""
    return "plain"


LOSSES = Parts("loss", (focal, plain))


@pytest.mark.parametrize(
    ("setting", "good", "bad", "words"),
    [
        (Setting("", low=1, high=3), [1, 2.5, 3], [0.99, 3.01, math.inf, math.nan], "1 to 3"),
        (Setting("", low=1), [1, 1e9], [0, -math.inf], ">= 1"),
        (Setting("", high=2), [-5, 2], [2.1], "<= 2"),
        (Setting("", above=0), [1e-9], [0, -1], "> 0"),
        (Setting("", above=0, high=0.5), [0.5], [0, 0.6], "> 0 and <= 0.5"),
        (Setting("", choices=("a", "b")), ["a", "b"], ["c", "A"], "a | b"),
        (Setting("", above=0, high=1), [(0.5, 1.0)], [(0.5, 1.1), (0, 0.5)], "> 0 and <= 1"),
        (Setting(""), [math.pi, "x", None, True], [math.nan], ""),
    ],
)
def test_bounds(setting, good, bad, words):
    assert [value for value in good if setting.complaint(value)] == []
    assert [value for value in bad if not setting.complaint(value)] == []
    assert setting.range_text() == words


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        ("1e-3", float, 0.001),
        (3, float, 3.0),
        ("7", int, 7),
        (7.0, int, 7),
        ("7", int | Literal["auto"], 7),
        ("auto", int | Literal["auto"], "auto"),
        ("yes", bool, True),
        ([1, 2], tuple[float, float] | None, (1.0, 2.0)),
        (None, str | None, None),
    ],
)
def test_values_are_read_generously(value, kind, read):
    assert check_value(value, kind, Setting("")) == (read, None)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("three", int),
        (2.5, int),
        (True, int),
        (True, float),
        (True, int | Literal["auto"]),
        ("many", int | Literal["auto"]),
        (None, float),
        (1, str),
        ([1, 2, 3], tuple[float, float]),
        ("maybe", bool),
    ],
)
def test_other_types_are_mistakes_that_show_what_was_found(value, kind):
    mistake = check_value(value, kind, Setting(""))[1]
    assert mistake is not None
    assert mistake.endswith(f"found {value!r}")
    assert "\n" not in mistake


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_any_value_is_either_allowed_or_explained(value):
    read, mistake = check_value(value, float, Setting("", low=0, high=1))
    assert (mistake is None) == (isinstance(read, float) and 0 <= read <= 1)


def test_a_part_is_its_signature():
    part = LOSSES["focal"]
    assert part.name == "focal"
    assert part.summary == "Mutes what is easy."
    assert list(part.settings) == ["gamma", "quiet"]
    kind, setting, default = part.settings["gamma"]
    assert (setting_of(kind), default, setting.search) == (setting, 2.0, Search(0.5, 5))


def test_a_part_completes_and_checks():
    assert LOSSES["focal"].check({"gamma": "3"}, "loss") == ({"gamma": 3.0, "quiet": False}, [])
    _, mistakes = LOSSES["focal"].check({"gama": 1, "gamma": 11, 7: 1}, "loss")
    assert mistakes == [
        "loss.gama: focal has no such setting (did you mean gamma?)",
        "loss.7: focal has no such setting",
        "loss.gamma: must be at most 10, found 11",
    ]
    assert LOSSES["plain"].check({"x": 1}, "loss")[1] == [
        "loss.x: plain has no such setting; plain takes none"
    ]


def test_a_part_is_made_from_checked_settings():
    assert LOSSES["focal"].make(gamma="1") == "focal 1.0 False"
    with pytest.raises(RecipeError, match="gamma: must be at least 0") as caught:
        LOSSES["focal"].make(gamma=-1, quite=True)
    assert len(caught.value.causes) == 2


def test_a_table_reads_like_a_mapping_and_suggests():
    assert list(LOSSES) == ["focal", "plain"]
    assert len(LOSSES) == 2
    assert "focal" in LOSSES
    assert isinstance(LOSSES["plain"], Part)
    with pytest.raises(RecipeError, match=r"no loss called 'fokal'.*did you mean focal"):
        LOSSES["fokal"]


def _undeclared(*, rate: float = 1.0) -> str:
    """No Setting."""
    return ""


def _positional(rate: Gamma = 1.0) -> str:
    """Not keyword-only."""
    return ""


def _required(*, rate: Gamma) -> str:
    """No default."""
    return ""


def _silent(*, rate: Gamma = 1.0) -> str:
    return ""


@pytest.mark.parametrize("build", [_undeclared, _positional, _required, _silent])
def test_a_part_that_says_too_little_cannot_join_a_table(build):
    with pytest.raises(AssertionError):
        Parts("loss", (build,))


def test_two_parts_of_one_name_cannot_join_a_table():
    with pytest.raises(AssertionError):
        Parts("loss", (focal, focal))


@pytest.mark.parametrize(
    ("name", "words"),
    [("epoch", " (did you mean epochs?)"), ("EPOCHS", " (did you mean epochs?)"), ("zzz", ""), (None, "")],
)
def test_suggestions(name, words):
    assert suggestion(name, ["epochs", "batch_size"]) == words
