"""The audit page: complete, true to its numbers, inert and bounded."""

from __future__ import annotations

import json

import numpy as np
import pytest
from html_page import ATTACK, Page, assert_sound
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.evaluation.report import render_audit

AUDIT = {
    "data": "rocks",
    "format": "folders",
    "task": "classification",
    "images": 300,
    "conclusions": [
        {"severity": "note", "code": "duplicates", "message": "Duplicates stay together."},
        {"severity": "serious", "code": "leak", "message": "Remove the leak first."},
    ],
    "counts": {"cat": {"train": 140, "val": 21, "test": 32}, "dog": {"train": 77, "val": 13, "test": 17}},
    "sizes": [{"width": 640, "height": 480, "count": 290}, {"width": 31, "height": 24, "count": 10}],
    "findings": [
        {"code": "exif", "outcome": "normalise", "where": "cat/1.jpg", "message": "Turned upright."},
        {"code": "truncated", "outcome": "quarantine", "where": "cat/2.jpg", "message": "Ends too early."},
        {"code": "truncated", "outcome": "quarantine", "where": "cat/3.jpg", "message": "Ends too early."},
    ],
    "duplicates": [{"keys": ["cat/4.jpg", "cat/5.jpg"], "splits": ["train", "train"]}],
    "leaks": [{"keys": ["cat/6.jpg", "cat/7.jpg"], "splits": ["train", "test"]}],
    "conflicts": [{"keys": ["cat/8.jpg", "dog/8.jpg"], "labels": ["cat", ["dog", "pet"]]}],
    "outliers": [{"key": "dog/9.jpg", "class": "dog", "reason": "far from its class"}],
}


class TestAudit:
    @pytest.fixture(scope="class")
    @staticmethod
    def page() -> Page:
        keys = ["cat/4.jpg", "cat/6.jpg", "cat/8.jpg", "dog/9.jpg"]
        return Page(render_audit(AUDIT, pictures={key: np.zeros((90, 90, 3), np.uint8) for key in keys}))

    def test_is_sound_and_complete(self, page):
        assert_sound(page)
        order = "conclusions counts sizes problems leaks conflicts duplicates outliers origin".split()
        assert [given["id"] for tag, given in page.elements if tag == "section" and "id" in given] == order

    def test_opens_with_the_weightiest_conclusion(self, page):
        assert "<h1>Remove the leak first.</h1>" in page.source

    def test_counts_equal_the_json(self, page):
        assert page.row("cat")[1:4] == ["140", "21", "32"]
        assert page.row("dog")[1:4] == ["77", "13", "17"]

    def test_problem_files_stand_under_their_reason(self, page):
        text = " ".join(page.sections["problems"].split())
        assert "truncated 2 files, left out" in text
        assert text.index("truncated") < text.index("exif")
        assert "cat/3.jpg" in text

    def test_copies_show_where_they_are(self, page):
        assert " ".join(page.sections["leaks"].split()).endswith("train cat/6.jpg test cat/7.jpg")
        assert "dog, pet" in page.sections["conflicts"]
        assert {given["alt"] for tag, given in page.elements if tag == "img"} == {
            "cat/4.jpg", "cat/6.jpg", "cat/8.jpg", "dog/9.jpg",
        }  # fmt: skip

    @pytest.mark.parametrize("name", list(AUDIT))
    def test_any_part_may_be_absent(self, name):
        assert_sound(Page(render_audit({key: value for key, value in AUDIT.items() if key != name})))

    def test_an_empty_audit_says_so(self):
        page = Page(render_audit({}))
        assert_sound(page)
        assert "Nothing stands in the way of training." in page.source

    def test_a_large_audit_stays_bounded(self):
        audit = {
            "counts": {f"class {i}": {"train": i} for i in range(1000)},
            "findings": [AUDIT["findings"][1]] * 5000,
            "duplicates": AUDIT["duplicates"] * 5000,
            "outliers": AUDIT["outliers"] * 5000,
        }
        page = render_audit(audit)
        assert len(page) < 400_000
        assert "The other 800 are in the audit's JSON." in page
        assert_sound(Page(page))

    def test_audit_names_are_inert(self):
        text = (
            json.dumps(AUDIT)
            .replace('"cat', f'"{ATTACK}')
            .replace("truncated", ATTACK)
            .replace("Ends too", ATTACK)
        )
        page = Page(render_audit(json.loads(text)))
        assert_sound(page)
        assert ATTACK not in page.source
        assert page.sections["counts"].count(ATTACK) >= 1

    @settings(max_examples=30, deadline=None)
    @given(st.text("<>&/=\"'{}%-! imgpsrct\x00\udcff\u202e", min_size=1, max_size=12))
    def test_any_name_is_inert(self, name):
        page = Page(render_audit({"counts": {name: {"train": 3}}, "conclusions": [name]}))
        assert_sound(page)
        page.source.encode("utf-8")
