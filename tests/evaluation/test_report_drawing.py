"""What the pages are drawn with: charts, thumbnails and words."""

from __future__ import annotations

import base64
import io
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pictune.evaluation.report import charts, wording
from pictune.evaluation.report.pictures import LARGEST_FILE, Album


class TestPictures:
    def test_pixels_survive_as_png_when_small(self):
        pixels = np.arange(300, dtype=np.uint16).reshape(10, 10, 3).astype(np.uint8)
        assert decoded(Album({"a": pixels})("a").address).tolist() == pixels.tolist()

    @pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 5, 3), (400, 300, 3)])
    def test_any_picture_becomes_a_small_rgb_one(self, shape):
        height, width, channels = decoded(Album({"a": np.zeros(shape, np.uint8)})("a").address).shape
        assert channels == 3
        assert max(height, width) == min(192, max(shape[:2]))

    @pytest.mark.parametrize(
        ("start", "kind"),
        [
            (b"\xff\xd8\xff", "jpeg"),
            (b"\x89PNG\r\n\x1a\n", "png"),
            (b"GIF89a", "gif"),
            (b"RIFF\0\0\0\0WEBP", "webp"),
        ],
    )
    def test_encoded_pictures_pass_by_their_first_bytes(self, start, kind):
        assert Album({"a": start + b"rest"})("a").address.startswith(f"data:image/{kind};base64,")

    @pytest.mark.parametrize(
        "given", [b"<svg onload=alert(1)>", b"", b"<html>", b"\xff\xd8\xff" + bytes(LARGEST_FILE)]
    )
    def test_what_is_no_thumbnail_is_left_out(self, given):
        assert Album({"a": given})("a") is None


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


class TestCharts:
    @given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
    def test_scale_encloses_the_range_in_equal_steps(self, first, second):
        low, high = sorted((first, second))
        rungs = charts.scale(low, high)
        slack = 1e-6 * max(abs(low), abs(high), high - low)
        assert rungs[0] <= low + slack
        assert rungs[-1] >= high - slack
        assert 2 <= len(rungs) <= 7
        steps = np.diff(rungs)
        assert np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9)

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    def test_interval_bar_draws_the_numbers(self, one, two, three):
        low, value, high = sorted((one, two, three))
        drawing = ElementTree.fromstring(
            charts.interval_bar({"value": value, "low": low, "high": high}, label="F1")
        )
        whisker = next(e for e in drawing.iter() if e.get("class") == "whisker")
        dot = next(e for e in drawing.iter() if e.get("class") == "dot")
        for shown, meant in ((whisker.get("x1"), low), (whisker.get("x2"), high), (dot.get("cx"), value)):
            assert math.isclose(float(shown.rstrip("%")) / 100, meant, abs_tol=1e-4)

    def test_pooled_map_keeps_a_single_bad_pair(self):
        counts = np.diag([10] * 250)
        counts[3, 200] = 9
        drawing, step = charts.compact_map(counts.tolist(), title="map")
        assert step == 3
        paths = {path.get("class"): path.get("d") for path in ElementTree.fromstring(drawing).iter("path")}
        assert paths["wrong-5"] == "M66 1h1v1h-1z"

    @pytest.mark.parametrize(
        ("share", "text"),
        [
            (0.932, "about 93 in 100"),
            (0.9968, "about 997 in 1\u202f000"),
            (0.99996, "nearly all"),
            (0.00001, "hardly any"),
            (1.0, "all"),
            (0.0, "none of the"),
        ],
    )
    def test_shares_in_words(self, share, text):
        assert wording.out_of(share) == text
