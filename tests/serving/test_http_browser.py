"""The page in a real browser, under its real policy: it works, and no name of a class becomes HTML."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import cv2
import http_server
import numpy as np
import pytest
from browser import PROGRAM, Page, browsing
from http_server import Decoding, Server, serving, until
from odd_pictures import JPEG

from pictune.serving.tokens import Tokens

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium here")

TOKEN = "p" * 43
HARMFUL = http_server.CLASSES[1]
MASK = np.zeros((32, 48), np.uint8)
MASK[8:20, 10:30] = 1
PNG = base64.b64encode(cv2.imencode(".png", MASK)[1].tobytes()).decode()
ROWS: dict[str, dict[str, Any]] = {
    "labels": {"labels": [HARMFUL], "confidences": {HARMFUL: 0.8, "cat": 0.2}},
    "boxes": {
        "boxes": [{"class": HARMFUL, "confidence": 0.9, "left": 4, "top": 4, "right": 20, "bottom": 20}]
    },
    "mask": {
        "shares": {"cat": 0.8, HARMFUL: 0.2},
        "mask": {"classes": http_server.CLASSES, "png": PNG},
    },
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def enter(page: Page, server: Server) -> None:
    """Opens the page and gives it the token that it asks for."""
    page.console.clear()
    page.open(f"http://127.0.0.1:{server.port}/")
    until(lambda: page.run("typeof $ === 'function' && $('about').textContent.includes('asks for a token')"))
    assert not page.run("$('entry').hidden")
    page.run(f"$('token').value = '{TOKEN}'; $('entry').requestSubmit()")
    until(lambda: page.run("$('about').textContent.includes('2 classes')"))
    assert page.run("$('entry').hidden")


def drop(page: Page, data: bytes) -> None:
    """Gives the page a file, and waits until it says what came of it."""
    inside = base64.b64encode(data).decode()
    page.run(f"look(new File([Uint8Array.from(atob('{inside}'), (sign) => sign.charCodeAt(0))], '<b>a.jpg'))")


@pytest.mark.parametrize(("kind", "row"), ROWS.items(), ids=ROWS)
def test_names_of_classes_stay_text(page: Page, kind: str, row: dict[str, Any]) -> None:
    with serving(Decoding(row=row), tokens=Tokens([("predict", TOKEN)])) as server:
        enter(page, server)
        drop(page, JPEG)
        until(lambda: page.run("$('list').childElementCount > 0"))
        assert HARMFUL in page.run("$('shown').textContent")
        assert page.run("$('invitation').textContent") == "<b>a.jpg"
        assert page.run("document.images.length + document.querySelectorAll('b').length") == 0
        assert page.run("$('problem').hidden")
        assert page.run("$('canvas').width") > 100
        if kind == "mask":
            # Inside the second class the overlay has another hue than outside.
            inside, outside = page.run(
                "[0.4, 0.9].map((at) => { const canvas = $('canvas'); return [...canvas.getContext('2d')"
                ".getImageData(canvas.width * at, canvas.height * at, 1, 1).data]; })"
            )
            assert inside[2] > inside[0]
            assert outside[0] > outside[2]
    # Only that the first question needed a token may stand in the console: no breach of the policy, no fault.
    assert [entry for entry in page.console if "401" not in entry and "willReadFrequently" not in entry] == []


def test_what_is_refused_is_said_and_the_next_picture_is_answered(page: Page) -> None:
    with serving(tokens=Tokens([("predict", TOKEN)])) as server:
        enter(page, server)
        drop(page, b"no picture at all")
        until(lambda: page.run("!$('problem').hidden"))
        assert "not_image" in page.run("$('why').textContent")
        drop(page, JPEG)
        until(lambda: page.run("$('list').childElementCount > 0"))
        assert page.run("$('problem').hidden")
        assert page.run("$('verdict').textContent") == "cat"
