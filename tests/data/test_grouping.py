"""Groups from a column, from a pattern and from EXIF."""

from __future__ import annotations

from pathlib import Path

import pytest

from pictune.data.grouping import group_samples
from pictune.data.headers import Exif
from pictune.data.sample import Dataset, Labels, Sample
from pictune.errors import DataError

KEYS = ("a/patient1_1.jpg", "b/patient1_2.jpg", "b/patient2_1.jpg", "a/other.jpg")
EXIF = (
    Exif(date="2024-05-31", make="Make", model="One", serial="7"),
    Exif(date="2024-05-31", model="Two"),
    Exif(date="2024-06-01", model="Two"),
    Exif(),
)


def dataset(*groups) -> Dataset:
    groups = groups or (None,) * len(KEYS)
    samples = [Sample(k, Path(k), Labels(("x",)), group=g) for k, g in zip(KEYS, groups, strict=True)]
    return Dataset(Path("root"), "folders", "classification", ("x",), tuple(samples))


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (r"re:patient\d+", ["patient1", "patient1", "patient2", None]),
        (r"re:patient(\d+)_", ["1", "1", "2", None]),
        (r"re:patient(9)?", [None] * 4),
        (r"re:^(\w)/", ["a", "b", "b", "a"]),
        ("exif:date", ["2024-05-31", "2024-05-31", "2024-06-01", None]),
        ("exif:camera", ["Make One 7", "Two", "Two", None]),
    ],
)
def test_groups(by, expected):
    if not any(expected):
        with pytest.raises(DataError) as caught:
            group_samples(dataset(), by, exif=EXIF)
        assert caught.value.code == "no_groups"
        return
    grouped = group_samples(dataset(), by, exif=EXIF)
    assert [sample.group for sample in grouped.samples] == expected
    reported = [finding.message for finding in grouped.findings if finding.code == "ungrouped"]
    assert bool(reported) == (None in expected)
    assert all("1 of 4" in message and "a/other.jpg" in message for message in reported)


def test_the_columns_groups_are_kept():
    assert [s.group for s in group_samples(dataset("1", "1", "2", None), "column").samples] == [
        "1",
        "1",
        "2",
        None,
    ]
    with pytest.raises(DataError) as caught:
        group_samples(dataset(), "column")
    assert caught.value.code == "no_groups"


@pytest.mark.parametrize(
    ("by", "groups", "expected", "words"),
    [
        (r"re:slide\d+", (), [None] * 4, [r"re:slide\d+ finds a group for none of these 4", "for itself"]),
        ("exif:date", (), [None] * 4, ["exif:date finds a group for none", "for itself"]),
        ("column", (), [None] * 4, ["nothing here names groups", "for itself"]),
        (r"re:slide\d+", ("1", "1", "2", None), ["1", "1", "2", None], ["that the table names are used"]),
        (r"re:^(\w)/", (), ["a", "b", "b", "a"], []),
        (r"re:patient\d+", (), ["patient1", "patient1", "patient2", None], ["1 of 4 images"]),
    ],
)
def test_a_rule_that_is_only_a_wish(by, groups, expected, words):
    grouped = group_samples(dataset(*groups), by, exif=(Exif(),) * 4, required=False)
    assert [sample.group for sample in grouped.samples] == expected
    assert [(f.code, str(f.outcome), f.where) for f in grouped.findings] == [
        ("ungrouped", "warn", "")
    ] * bool(words)
    assert all(word in grouped.findings[0].message for word in words)
    with pytest.raises(DataError) as caught:
        group_samples(dataset(*groups), "re:(", required=False)
    assert caught.value.code == "bad_grouping"


def test_no_images_need_no_groups():
    assert group_samples(dataset().select([]), "exif:date", exif=()).samples == ()


@pytest.mark.parametrize("by", ["", "patient", "re:", "re:(", "exif:place", "exif:date"])
def test_rules_that_cannot_be_used(by):
    with pytest.raises(DataError) as caught:
        group_samples(dataset(), by, exif=None)
    assert caught.value.code == "bad_grouping"


def test_a_pattern_that_finds_nothing_shows_keys():
    with pytest.raises(DataError) as caught:
        group_samples(dataset(), r"re:slide\d+")
    assert caught.value.code == "no_groups"
    assert KEYS[0] in str(caught.value)
