"""COCO JSON: one file, or a folder with one file a split, and the images beside or in the usual folders.

Boxes are left, top, width, height in pixels. Ids only tie entries together: they may have gaps and begin
anywhere, 0 included, and are forgotten after reading; what counts is the categories' names. Listed images
without annotations are background. ``iscrowd`` is kept as crowd, ``area`` as area, ``segmentation`` as it
stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions
from pictune.data.formats.box_assembly import ListedImage, finish_boxes
from pictune.data.formats.boxes import BoxSheet, Place
from pictune.data.formats.coco_files import Source, coco_files, find_sources, is_coco
from pictune.data.formats.documents import pixels_in, read_json
from pictune.data.formats.layouts import listed, plural
from pictune.data.formats.named import ImageFinder
from pictune.data.formats.outlines import box_around, of_another_image, outline_complaint
from pictune.data.formats.unlisted import unlisted_images
from pictune.data.sample import Dataset
from pictune.data.scanning import FoundImage, escape
from pictune.errors import DataError

name = "coco"

_LISTS = ("images", "annotations", "categories")
_ABSENT = object()


def recognise(path: Path) -> str | None:
    """A JSON file with images or annotations among its first keys, or a folder that has such files."""
    if path.is_file():
        return f"{escape(path.name)} is COCO JSON" if is_coco(path) else None
    files = coco_files(path)
    return f"it has COCO JSON, such as {escape(files[0].relative_to(path).as_posix())}" if files else None


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample an image entry, with all its annotations.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    sources = find_sources(path)
    if not sources:
        raise DataError(
            f"no COCO JSON is found at {escape(str(path))}",
            code="no_coco_file",
            instead="Give the path of the JSON file itself.",
        )
    gathered = _Gathered()
    for source in sources:
        _Reader(source, options, gathered).read()
    used = [image.found for image in gathered.images]
    return finish_boxes(
        path,
        format_name=name,
        images=gathered.images,
        sheet=gathered.sheet,
        declared=list(gathered.declared),
        findings=[*gathered.findings, *unlisted_images(used)],
        options=options,
    )


@dataclass(slots=True)
class _Gathered:
    """What all files gave so far."""

    images: list[ListedImage] = field(default_factory=list)
    sheet: BoxSheet = field(default_factory=lambda: BoxSheet("sizes"))
    declared: dict[str, None] = field(default_factory=dict)  # a set that keeps the order
    findings: list[Finding] = field(default_factory=list)


class _Reader:
    """Reads one file into what all files gave."""

    def __init__(self, source: Source, options: ReadOptions, gathered: _Gathered) -> None:
        self.shown = escape(source.shown)
        self.source = source
        self.into = gathered
        places = source.places(options.image_folder)
        self.finder = ImageFinder(source.root, places, follow_outside=options.follow_outside)
        self.categories: dict[object, str] = {}
        self.images: dict[object, int | None] = {}  # None for one that is left out

    def read(self) -> None:
        document = read_json(self.source.path)
        lists = self._lists(document)
        self._read_categories(lists["categories"])
        self._read_images(lists["images"])
        self._read_annotations(lists["annotations"])

    def _reject(self, code: str, what: str) -> None:
        message = f"{self.shown} {what}."
        self.into.findings.append(Finding(code, Outcome.REJECT, self.shown, message))

    def _lists(self, document: Any) -> dict[str, list[dict[str, Any]]]:
        """The three lists; whatever else stands in them than objects is refused."""
        if not isinstance(document, dict):
            self._reject("not_coco", "is no JSON object with images, annotations and categories")
            return {key: [] for key in _LISTS}
        lists: dict[str, list[dict[str, Any]]] = {}
        for key in _LISTS:
            value = document.get(key, _ABSENT)
            if value is _ABSENT:
                self._reject("not_coco", f"has no {key!r}")
            elif not isinstance(value, list):
                self._reject("not_coco", f"has {key!r} that is no list")
            lists[key] = (
                [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
            )
            if isinstance(value, list) and len(value) > len(lists[key]):
                odd = len(value) - len(lists[key])
                self._reject("not_coco", f"has {odd:,} entries in {key!r} that are no objects")
        return lists

    def _check_ids(self, entries: list[dict[str, Any]], kind: str, *, needed: bool) -> None:
        ids = [entry.get("id", _ABSENT) for entry in entries]
        absent = sum(1 for value in ids if not _is_id(value))
        if absent and needed:
            self._reject("no_id", f"has {absent:,} of its {kind} without an id that is a number or text")
        counts = Counter(value for value in ids if _is_id(value))
        twice = [repr(value) for value, count in counts.items() if count > 1]
        if twice:
            self._reject("duplicate_id", f"gives one id to several of its {kind}: {listed(twice)}")

    def _read_categories(self, entries: list[dict[str, Any]]) -> None:
        self._check_ids(entries, "categories", needed=True)
        if any(type(entry.get("id")) not in (int, float) for entry in entries):
            ordered = entries
        else:
            ordered = sorted(entries, key=lambda entry: entry["id"])
        nameless = []
        ids_of: dict[str, list[str]] = {}
        for entry in ordered:
            called = _text_of(entry.get("name"))
            if called is None or not called.strip():
                nameless.append(_shown(entry.get("id")))
                continue
            ids_of.setdefault(called, []).append(_shown(entry.get("id")))
            if _is_id(entry.get("id")):
                self.categories[entry["id"]] = called
        if nameless:
            self._reject("nameless_category", f"has categories without a name: id {listed(nameless)}")
        for called, ids in ids_of.items():
            if len(ids) > 1:
                self._reject(
                    "duplicate_category", f"has several categories called {called!r}: id {listed(ids)}"
                )
        self.into.declared.update(dict.fromkeys(ids_of))

    def _read_images(self, entries: list[dict[str, Any]]) -> None:
        self._check_ids(entries, "images", needed=True)
        for entry in entries:
            identity = entry.get("id")
            where = f"{self.shown}: image {_shown(identity)}"
            found = self.finder.find(entry.get("file_name"), where)
            if _is_id(identity):
                self.images[identity] = len(self.into.images) if isinstance(found, FoundImage) else None
            if isinstance(found, Finding):
                self.into.findings.append(found)
                continue
            width, height = pixels_in(entry.get("width")), pixels_in(entry.get("height"))
            self.into.images.append(ListedImage(found, width, height, self.source.split))

    def _read_annotations(self, entries: list[dict[str, Any]]) -> None:
        self._check_ids(entries, "annotations", needed=False)
        file = f"{self.shown}: annotation "
        unknown: Counter[str] = Counter()
        for number, entry in enumerate(entries):
            place = Place(file, entry.get("id", f"at place {number + 1}"))
            category = _known(self.categories, entry.get("category_id"))
            image = _known(self.images, entry.get("image_id"), _ABSENT)
            if category is None:
                unknown[_shown(entry.get("category_id"))] += 1
            elif image is _ABSENT:
                listless = _shown(entry.get("image_id"))
                message = f"{place} belongs to image {listless}, which is not listed; left out."
                finding = Finding("unknown_image", Outcome.QUARANTINE, str(place), message)
                self.into.findings.append(finding)
            elif image is not None:
                self._add(image, category, entry, place)
        if unknown:
            ids = [f"{identity} ({plural(count, 'time')})" for identity, count in unknown.most_common()]
            self._reject("unknown_category", f"uses categories that it does not list: id {listed(ids, 20)}")

    def _add(self, image: int, category: str, entry: Mapping[str, Any], place: Place) -> None:
        outline = entry.get("segmentation") or None
        width, height = self.into.images[image].width, self.into.images[image].height
        stray = of_another_image(outline, width, height)  # then the box may be another image's as well
        if not stray and (complaint := outline_complaint(outline, width, height)):
            message = f"{place} {complaint}; the outline is left out."
            self.into.findings.append(Finding("bad_outline", Outcome.QUARANTINE, str(place), message))
            outline = None
        box = entry.get("bbox")
        if box is None and isinstance(outline, list):
            left, top, right, bottom = box_around(outline)
            box = [left, top, right - left, bottom - top]
        self.into.sheet.add(
            image,
            category,
            box,
            place,
            crowd=entry.get("iscrowd") in (1, True),
            area=entry.get("area"),
            outline=outline,
            complaint=stray or "",
        )


def _known(table: Mapping[object, Any], identity: object, otherwise: Any = None) -> Any:
    return table.get(identity, otherwise) if _is_id(identity) else otherwise


def _is_id(value: object) -> bool:
    return type(value) in (int, str, float)


def _shown(identity: object) -> str:
    text = "none" if identity in (None, _ABSENT) else repr(identity)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _text_of(value: object) -> str | None:
    """A category's name; numbers become the text a person would write, everything else is no name."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) in (int, float) else None
