"""The curve of a range test: drawn true to its numbers, whatever exploded."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from pictune.evaluation.report.rate_chart import curve_svg
from pictune.training.rate_finding import RateCurve

RATES = tuple(10.0**power for power in (-5, -4, -3, -2, -1))


def curve(**changes) -> RateCurve:
    given = {
        "rates": RATES,
        "losses": (2.0, 2.1, 1.0, 0.5, 1e30),
        "smooth": (2.0, 2.05, 1.5, 1.0, 1e29),
        "suggestion": 1e-3,
        "diverged": True,
        **changes,
    }
    return RateCurve(**given)


def drawn(given: RateCurve) -> ElementTree.Element:
    return ElementTree.fromstring(curve_svg(given))


def of_class(drawing: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [element for element in drawing.iter() if kind in element.get("class", "").split()]


def share(text: str) -> float:
    return float(text.rstrip("%"))


class TestCurve:
    def test_points_stand_where_the_numbers_are(self):
        drawing = drawn(curve())
        dots = {style: of_class(drawing, style) for style in ("train", "val")}
        dots = {style: [dot for dot in found if dot.tag == "circle"] for style, found in dots.items()}
        assert [share(dot.get("cx")) for dot in dots["train"]] == [0, 25, 50, 75, 100]
        heights = [share(dot.get("cy")) for dot in dots["train"]]
        assert heights[3] > heights[2] > heights[0] > heights[1] > heights[4]
        # Loss is linear in height: 2.0 to 1.0 is twice as far as 1.0 to 0.5.
        assert heights[2] - heights[0] == pytest.approx(2 * (heights[3] - heights[2]), abs=0.05)
        assert [share(dot.get("cy")) for dot in dots["val"]][2] == pytest.approx(
            (heights[0] + heights[2]) / 2, abs=0.05
        )

    def test_an_explosion_does_not_flatten_the_rest(self):
        heights = [share(dot.get("cy")) for dot in of_class(drawn(curve()), "point") if "cy" in dot.attrib]
        assert max(heights) - min(heights) > 50
        assert all(0 <= height <= 100 for height in heights)

    def test_ticks_are_powers_of_ten(self):
        assert [tick.text for tick in of_class(drawn(curve()), "x")] == ["-5", "-4", "-3", "-2", "-1"]

    @pytest.mark.parametrize(("suggestion", "place"), [(1e-3, 50), (1e-2, 75), (1e-6, 0), (3.0, 100)])
    def test_the_suggestion_is_marked(self, suggestion, place):
        drawing = drawn(curve(suggestion=suggestion))
        assert [share(mark.get("x1")) for mark in of_class(drawing, "mark")] == [place]
        assert [text.text for text in of_class(drawing, "mark-text")] == [f"{suggestion:.2g}"]
        assert f"suggested: {suggestion:.2g}." in drawing.find("title").text

    def test_whether_it_rose_is_said(self):
        assert "rose for good" in drawn(curve()).find("title").text
        calm = curve(losses=(2.0, 2.1, 1.0, 0.5, 0.4), smooth=(2.0, 2.0, 1.5, 1.0, 0.7), diverged=False)
        assert "rose for good" not in drawn(calm).find("title").text

    @pytest.mark.parametrize("loss", [0.0, 1.0, 1e30])
    def test_a_single_step_is_drawn(self, loss):
        drawing = drawn(RateCurve((1e-3,), (loss,), (loss,), 1e-3, diverged=True))
        assert all(
            math.isfinite(share(dot.get("cx"))) for dot in of_class(drawing, "point") if "cx" in dot.attrib
        )
