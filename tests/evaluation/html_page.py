"""A page as a browser would see it, and what every page of ours must keep to."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

ATTACK = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "input", "hr", "source", "base", "embed"}
LOADING = {
    "script",
    "link",
    "iframe",
    "object",
    "embed",
    "base",
    "form",
    "video",
    "audio",
    "source",
    "image",
    "use",
}


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text by section and table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.mismatched: list[str] = []
        self._section: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._section.append(given.get("id", ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)
        if tag == "section":
            self._section.pop()

    def handle_data(self, data):
        for section in self._section:
            self.sections[section] = self.sections.get(section, "") + data
        if {"td", "th"} & set(self.open) and "title" not in self.open[-1:]:
            self.rows[-1][-1] += data

    def attributes(self, name: str) -> list[str]:
        return [given[name] for _, given in self.elements if name in given]

    def row(self, start: str) -> list[str]:
        """The cells of the first table row whose first cell begins so, with plain spaces."""
        found = next(row for row in self.rows if row and row[0].strip().startswith(start))
        return [" ".join(cell.split()) for cell in found]

    def drawings(self) -> list[ElementTree.Element]:
        """Every outermost SVG, read as XML."""
        found, depth, start = [], 0, 0
        for match in re.finditer(r"<svg[ >]|</svg>", self.source):
            if match.group() == "</svg>":
                depth -= 1
                if depth == 0:
                    found.append(ElementTree.fromstring(self.source[start : match.end()]))
            else:
                start, depth = (match.start() if depth == 0 else start), depth + 1
        return found


def assert_sound(page: Page) -> None:
    """Well-formed, with nothing that runs or loads."""
    assert not page.mismatched
    assert not page.open
    assert not LOADING & {tag for tag, _ in page.elements}
    assert not [name for _, given in page.elements for name in given if name.startswith("on")]
    assert all(address.startswith("data:image/") for address in page.attributes("src"))
    assert all(address.startswith("#") for address in page.attributes("href"))
    assert not {"srcset", "poster", "action", "background", "xlink:href", "data"} & {
        name for _, given in page.elements for name in given
    }
    assert "@import" not in page.source
    assert not re.search(r"url\s*\(", page.source.replace("data:image/", ""))
    anchors = set(page.attributes("id"))
    assert all(address[1:] in anchors for address in page.attributes("href"))
    for drawing in page.drawings():
        assert drawing.find("title").text
