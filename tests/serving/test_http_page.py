"""The page on which a model is tried: what is in it, and what a browser is told it may do."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from http_server import Server, serving

from pictune.serving.page import page
from pictune.serving.tokens import Tokens


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(tokens=Tokens([("admin", "a" * 43)])) as running:
        yield running


class Parts(HTMLParser):
    """What a browser would load, run or apply."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.inside = ""
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def parts() -> Parts:
    found = Parts()
    found.feed(page()[0].decode())
    return found


def test_it_is_served_without_a_token_and_with_a_policy(server: Server) -> None:
    answer = server.ask("GET", "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.body == page()[0]
    assert server.ask("HEAD", "/").headers["content-length"] == str(len(answer.body))
    rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for rule in rules.values():
        assert "unsafe" not in rule
        assert "*" not in rule
        assert "http" not in rule


@pytest.mark.parametrize("tag", ["script", "style"])
def test_nothing_runs_but_what_stands_in_it(server: Server, tag: str) -> None:
    answer = server.ask("GET", "/")
    bodies = re.findall(f"<{tag}>(.*?)</{tag}>", answer.body.decode(), re.DOTALL)
    assert len(bodies) == 1
    assert answer.body.decode().count(f"<{tag}") == 1
    digest = base64.b64encode(hashlib.sha256(bodies[0].encode()).digest()).decode()
    assert f"{tag}-src 'sha256-{digest}'" in answer.headers["content-security-policy"]


def test_nothing_is_loaded_from_elsewhere(parts: Parts) -> None:
    for tag, name, value in parts.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style", (tag, value)
        if name in {"src", "href", "action", "srcset", "poster", "data"}:
            assert value in {"data:,", "/openapi.json"}
    text = page()[0].decode()
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|import\(", text)


def test_no_text_of_anybody_becomes_html(parts: Parts) -> None:
    (script,) = parts.scripts
    for way in (
        *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "srcdoc"),
        *("eval(", "Function(", "setTimeout(", "createContextualFragment", "setHTML", "javascript:"),
    ):
        assert way not in script
    assert "textContent" in script


def test_no_token_is_kept(parts: Parts) -> None:
    (script,) = parts.scripts
    for place in ("localStorage", "sessionStorage", "cookie", "indexedDB", "location.hash", "pushState"):
        assert place not in script


def test_everything_that_the_script_speaks_of_is_there(parts: Parts) -> None:
    (script,) = parts.scripts
    spoken_of = set(re.findall(r'\$\("([^"]+)"\)', script))
    assert spoken_of
    assert spoken_of <= set(parts.ids)
    assert len(parts.ids) == len(set(parts.ids))


def test_it_can_be_read_on_a_telephone_and_by_a_screen_reader(parts: Parts) -> None:
    assert ("html", "lang", "en") in parts.attributes
    assert any(tag == "meta" and value == "viewport" for tag, _, value in parts.attributes)
    assert ("canvas", "role", "img") in parts.attributes
    assert ("input", "aria-label", "Choose a picture") in parts.attributes
    assert any(name == "aria-live" for _, name, _ in parts.attributes)
