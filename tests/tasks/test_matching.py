"""Matches and verdicts on boxes whose fate can be seen by eye, and what must hold for any boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.tasks.matching import LEVELS, Outcome, Verdict, judge, match
from pictune.tasks.table import BoxTable

HERE = [0, 0, 40, 40]
BESIDE = [10, 0, 50, 40]  # overlaps by 0.6
NEARBY = [20, 0, 60, 40]  # overlaps by 1/3
FAR = [200, 200, 240, 240]
CAT, DOG = 0, 1


def table_of(said, known, *, thresholds=(0.5, 0.5)) -> BoxTable:
    """One image with cats and dogs, from rows (class, score, box) and (class, box[, crowd])."""
    true_box = np.array([row[1] for row in known], float).reshape(-1, 4)
    return BoxTable(
        keys=("a.png",),
        classes=("cat", "dog"),
        image=np.zeros(len(said), np.int64),
        label=np.array([row[0] for row in said], np.int64),
        score=np.array([row[1] for row in said], float),
        box=np.array([row[2] for row in said], float).reshape(-1, 4),
        true_image=np.zeros(len(known), np.int64),
        true_label=np.array([row[0] for row in known], np.int64),
        true_box=true_box,
        crowd=np.array([len(row) > 2 for row in known], bool),
        area=(true_box[:, 2:] - true_box[:, :2]).prod(axis=1),
        thresholds=np.array(thresholds, float),
    )


def names(judged) -> list[str]:
    return [Verdict(code).name.lower() for code in judged.verdict]


CASES = {
    "hit": ([(CAT, 0.9, BESIDE)], [(CAT, HERE)], ["hit"], ["found"], [0], [0]),
    "below": ([(CAT, 0.4, HERE)], [(CAT, HERE)], ["below"], ["missed"], [-1], [-1]),
    "at the threshold": ([(CAT, 0.5, HERE)], [(CAT, HERE)], ["hit"], ["found"], [0], [0]),
    "location": ([(CAT, 0.9, NEARBY)], [(CAT, HERE)], ["location"], ["missed"], [0], [0]),
    "class": ([(DOG, 0.9, HERE)], [(CAT, HERE)], ["class"], ["missed"], [0], [0]),
    "both": ([(DOG, 0.9, NEARBY)], [(CAT, HERE)], ["both"], ["missed"], [0], [-1]),
    "background": ([(DOG, 0.9, FAR)], [(CAT, HERE)], ["background"], ["missed"], [-1], [-1]),
    "duplicate": (
        [(CAT, 0.8, HERE), (CAT, 0.9, BESIDE)],
        [(CAT, HERE)],
        ["duplicate", "hit"],
        ["found"],
        [0, 0],
        [1],
    ),
    "on a crowd": ([(CAT, 0.9, [5, 5, 9, 9])], [(CAT, HERE, True)], ["ignored"], ["ignored"], [0], [-1]),
    "a crowd holds many": (
        [(CAT, 0.9, [5, 5, 9, 9]), (CAT, 0.8, [5, 5, 9, 9])],
        [(CAT, HERE, True)],
        ["ignored", "ignored"],
        ["ignored"],
        [0, 0],
        [-1],
    ),
    "an object before a crowd": (
        [(CAT, 0.9, HERE)],
        [(CAT, HERE, True), (CAT, BESIDE)],
        ["hit"],
        ["ignored", "found"],
        [1],
        [-1, 0],
    ),
    "a crowd of others": ([(DOG, 0.9, HERE)], [(CAT, HERE, True)], ["background"], ["ignored"], [-1], [-1]),
    "the nearest decides": (
        [(CAT, 0.9, HERE), (CAT, 0.8, [9, 0, 49, 40])],
        [(CAT, HERE), (DOG, BESIDE)],
        ["hit", "class"],
        ["found", "missed"],
        [0, 1],
        [0, 1],
    ),
    "another class on what is found": (
        [(CAT, 0.9, HERE), (DOG, 0.8, HERE)],
        [(CAT, HERE)],
        ["hit", "class"],
        ["found"],
        [0, 0],
        [0],
    ),
    "one class error answers for one object": (
        [(DOG, 0.9, HERE), (DOG, 0.8, HERE), (DOG, 0.7, HERE)],
        [(CAT, HERE), (CAT, BESIDE)],
        ["class", "class", "class"],
        ["missed", "missed"],
        [0, 1, 0],
        [0, 1],
    ),
    "the nearest bad place is remembered": (
        [(CAT, 0.9, NEARBY), (CAT, 0.8, [25, 0, 65, 40])],
        [(CAT, HERE)],
        ["location", "location"],
        ["missed"],
        [0, 0],
        [0],
    ),
    "a bad place beside what is found": (
        [(CAT, 0.9, HERE), (CAT, 0.8, NEARBY)],
        [(CAT, HERE)],
        ["hit", "location"],
        ["found"],
        [0, 0],
        [0],
    ),
    "nothing at all": ([], [], [], [], [], []),
    "no predictions": ([], [(CAT, HERE)], [], ["missed"], [], [-1]),
    "no truths": ([(CAT, 0.9, HERE)], [], ["background"], [], [-1], []),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_box_gets_its_verdict(case):
    said, known, verdicts, true_verdicts, partners, true_partners = case
    judged = judge(table_of(said, known))
    assert names(judged.said) == verdicts
    assert names(judged.known) == true_verdicts
    assert judged.said.partner.tolist() == partners
    assert judged.known.partner.tolist() == true_partners


def test_overlaps_stand_beside_their_partners():
    said = [(CAT, 0.9, BESIDE), (CAT, 0.8, [205, 200, 225, 220]), (CAT, 0.7, [400, 400, 410, 410])]
    judged = judge(table_of(said, [(CAT, HERE), (CAT, FAR, True)]))
    assert judged.said.overlap == pytest.approx([0.6, 1, 0])
    assert judged.known.overlap == pytest.approx([0.6, 0])


def test_the_right_place_begins_at_the_overlap_asked_for():
    table = table_of([(CAT, 0.9, BESIDE)], [(CAT, HERE)])
    assert [names(judge(table, iou=iou).said)[0] for iou in (0.6, 0.61, 1)] == ["hit", "location", "location"]
    assert names(judge(table_of([(CAT, 0.9, HERE)], [(CAT, HERE)]), iou=1).said) == ["hit"]


def test_each_class_has_its_own_threshold():
    table = table_of([(CAT, 0.6, HERE), (DOG, 0.6, FAR)], [], thresholds=(0.7, 0.2))
    assert names(judge(table).said) == ["below", "background"]


def test_equal_scores_go_in_the_order_of_the_table():
    said = [(CAT, 0.9, BESIDE), (CAT, 0.9, HERE)]
    assert names(judge(table_of(said, [(CAT, HERE)])).said) == ["hit", "duplicate"]


def test_outcomes_depend_on_overlap_and_size():
    table = table_of([(CAT, 0.9, BESIDE), (CAT, 0.3, FAR)], [(CAT, HERE)])
    found = match(table)
    assert found.rows.tolist() == [0, 1]
    assert found.starts.tolist() == [0, 2, 2]
    hit, false, ignored = Outcome.HIT, Outcome.FALSE, Outcome.IGNORED
    assert found.outcome["all"][:, 0].tolist() == [hit] * 3 + [false] * 7
    assert (found.outcome["all"][:, 1] == false).all()
    assert (found.outcome["small"] == ignored).all()
    assert found.counted["medium"].all()
    assert not found.counted["small"].any()


def test_the_area_of_an_object_decides_its_size_not_its_box():
    table = replace(table_of([(CAT, 0.9, HERE)], [(CAT, HERE)]), area=np.array([1000.0]))
    found = match(table)
    assert (found.outcome["small"] == Outcome.HIT).all()
    assert (found.outcome["medium"] == Outcome.IGNORED)[0]


def test_only_the_surest_hundred_are_matched():
    said = [(CAT, i / 200, [300, 300, 310, 310]) for i in range(1, 130)] + [(CAT, 0.001, HERE)]
    table = table_of(said, [(CAT, HERE)])
    assert len(match(table).rows) == 100
    assert not (match(table).outcome["all"] == Outcome.HIT).any()
    everything = match(table, most=None)
    assert len(everything.rows) == 130
    assert everything.outcome["all"][0, -1] == Outcome.HIT
    assert everything.rank[-1] == 129


def random_table(seed: int, images: int = 3) -> BoxTable:
    generator = np.random.default_rng(seed)
    truths, predictions = generator.integers(0, 30, size=2)
    corner = generator.integers(0, 60, size=(truths, 2))
    true_box = np.concatenate([corner, corner + generator.integers(1, 40, size=(truths, 2))], axis=1)
    whose = generator.integers(max(truths, 1), size=predictions)
    box = np.concatenate([(at := generator.integers(0, 60, size=(predictions, 2))), at + 20], axis=1)
    if truths:
        box = np.where(generator.random((predictions, 1)) < 0.7, true_box[whose] + [0, 0, 2, 3], box)
    label = generator.integers(2, size=predictions)
    if truths:
        true_label = generator.integers(2, size=truths)
        label = np.where(generator.random(predictions) < 0.7, true_label[whose], label)
    else:
        true_label = np.zeros(0, np.int64)
    return BoxTable(
        keys=tuple(map(str, range(images))),
        classes=("cat", "dog"),
        image=np.sort(generator.integers(images, size=predictions)),
        label=label,
        score=np.round(generator.random(predictions), 1),
        box=box.astype(float),
        true_image=np.sort(generator.integers(images, size=truths)),
        true_label=true_label,
        true_box=true_box.astype(float),
        crowd=generator.random(truths) < 0.1,
        area=(true_box[:, 2:] - true_box[:, :2]).prod(axis=1).astype(float),
        thresholds=np.array([0.3, 0.5]),
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000))
def test_verdicts_agree_with_one_another(seed):
    table = random_table(seed)
    judged = judge(table)
    said, known = judged.said, judged.known
    hits = np.flatnonzero(said.verdict == Verdict.HIT)
    found = np.flatnonzero(known.verdict == Verdict.FOUND)
    assert sorted(said.partner[hits]) == found.tolist()
    assert (known.partner[said.partner[hits]] == hits).all()
    assert ((known.verdict == Verdict.IGNORED) == table.crowd).all()
    assert ((said.verdict == Verdict.BELOW) == (table.score < table.thresholds[table.label])).all()
    partnered = np.flatnonzero(said.partner >= 0)
    partner = said.partner[partnered]
    assert (table.image[partnered] == table.true_image[partner]).all()
    same = table.label[partnered] == table.true_label[partner]
    wrong = np.isin(said.verdict[partnered], [Verdict.CLASS, Verdict.BOTH])
    assert (same == ~wrong).all()
    placed = np.isin(said.verdict[partnered], [Verdict.LOCATION, Verdict.BOTH])
    assert ((said.overlap[partnered] < 0.5) == placed).all()
    assert (said.overlap[partnered] >= 0.1).all()
    duplicates = said.verdict == Verdict.DUPLICATE
    assert (known.verdict[said.partner[duplicates]] == Verdict.FOUND).all()
    answered = np.flatnonzero((known.verdict == Verdict.MISSED) & (known.partner >= 0))
    assert (said.partner[known.partner[answered]] == answered).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_hits_are_those_of_the_matching_at_one_half(seed):
    table = replace(random_table(seed), thresholds=np.zeros(2))
    found, judged = match(table, most=None), judge(table)
    hit = found.rows[found.outcome["all"][0] == Outcome.HIT]
    assert sorted(hit) == np.flatnonzero(judged.said.verdict == Verdict.HIT).tolist()
    ignored = found.rows[found.outcome["all"][0] == Outcome.IGNORED]
    ignored = ignored[np.isin(ignored, np.flatnonzero(judged.said.verdict == Verdict.IGNORED))]
    assert len(ignored) == (judged.said.verdict == Verdict.IGNORED).sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_images_and_blocks_do_not_disturb_one_another(seed):
    table = random_table(seed)
    whole = judge(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pictune.tasks.matching._BLOCK", 3)
        in_blocks, matches = judge(table), match(table)
    for name in ("verdict", "partner", "overlap"):
        np.testing.assert_array_equal(getattr(whole.said, name), getattr(in_blocks.said, name))
        np.testing.assert_array_equal(getattr(whole.known, name), getattr(in_blocks.known, name))
    for area, outcome in match(table).outcome.items():
        np.testing.assert_array_equal(outcome, matches.outcome[area])
    for image in range(len(table)):
        said, known = table.image == image, table.true_image == image
        alone = judge(
            replace(
                table,
                **{name: getattr(table, name)[said] for name in ("image", "label", "score", "box")},
                **{
                    name: getattr(table, name)[known]
                    for name in ("true_image", "true_label", "true_box", "crowd", "area")
                },
            )
        )
        np.testing.assert_array_equal(alone.said.verdict, whole.said.verdict[said])
        np.testing.assert_array_equal(alone.known.verdict, whole.known.verdict[known])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_a_lower_threshold_loses_no_object(seed):
    table = random_table(seed)
    strict, lenient = judge(table), judge(replace(table, thresholds=np.array([0.2, 0.2])))
    assert (lenient.known.verdict[strict.known.verdict == Verdict.FOUND] == Verdict.FOUND).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_a_hit_needs_less_at_a_lower_level(seed):
    table = random_table(seed)
    outcome = match(table).outcome["all"]
    hits = (outcome == Outcome.HIT).sum(axis=1)
    assert outcome.shape[0] == len(LEVELS)
    assert (np.diff(hits) <= 0).all()


def test_ten_thousand_boxes_in_one_image():
    generator = np.random.default_rng(0)
    corner = generator.random((10_000, 2)) * 3000
    true_box = np.concatenate([corner, corner + 20], axis=1)
    table = BoxTable(
        keys=("crowded.png",),
        classes=("cell",),
        image=np.zeros(10_000, np.int64),
        label=np.zeros(10_000, np.int64),
        score=generator.random(10_000),
        box=true_box + 1,
        true_image=np.zeros(10_000, np.int64),
        true_label=np.zeros(10_000, np.int64),
        true_box=true_box,
        crowd=np.zeros(10_000, bool),
        area=np.full(10_000, 400.0),
        thresholds=np.array([0.5]),
    )
    judged = judge(table)
    assert (judged.said.verdict == Verdict.HIT).sum() > 4000
    assert len(match(table).rows) == 100
