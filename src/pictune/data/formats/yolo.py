"""YOLO: one text file an image with a line an object, and a data.yaml or a classes.txt with the names.

A line is the class's number and four numbers in shares of the image: the middle of the box, its width and its
height. A line with more numbers is a polygon x, y, x, y, ...: the box around it counts, and the polygon is
kept. An image without a text file, or with an empty one, is background. The images' headers are read for
their sizes.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, refuse
from pictune.data.formats.box_assembly import ListedImage, finish_boxes
from pictune.data.formats.boxes import BoxSheet, Place
from pictune.data.formats.documents import number_in, read_text
from pictune.data.formats.layouts import LABEL_FOLDERS, listed, names_in, plural
from pictune.data.formats.outlines import box_around, polygon_complaint
from pictune.data.formats.sizes import upright_size
from pictune.data.formats.unlisted import unlisted_images
from pictune.data.formats.yolo_files import LISTS_OF_NAMES, LabelPlaces, Layout, find_layout, holds_labels
from pictune.data.sample import Dataset
from pictune.data.scanning import FoundImage, Lookup, escape
from pictune.errors import DataError

name = "yolo"

_MOST_BYTES = 16 * 1024**2  # of one image's labels
_PIXELS = 2.0  # a share of the image that is larger can only be meant as pixels
_SLACK = 0.01  # by which shares may leave 0..1 through rounding; the box is then cut off at the edge


def recognise(path: Path) -> str | None:
    """A data.yaml with names and splits, or folders of images with text files of numbers beside."""
    shown = holds_labels(path)
    return f"it has YOLO labels, such as {escape(shown)}" if shown else None


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample an image.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    layout = find_layout(path, options)
    reader = _Reader(layout, options)
    for image, split in layout.images:
        reader.add(image, split)
    used = [image.found for image in reader.images]
    findings = [*layout.findings, *reader.concluded(), *unlisted_images(used)]
    refuse(path, findings)
    return finish_boxes(
        path,
        format_name=name,
        images=reader.images,
        sheet=reader.sheet,
        declared=reader.declared(),
        findings=findings,
        options=options,
    )


class _Reader:
    """Reads text file after text file."""

    def __init__(self, layout: Layout, options: ReadOptions) -> None:
        self._names = layout.names
        self._layout = layout
        self._places = LabelPlaces(layout.root)
        self._lookup = Lookup(layout.root, follow_outside=options.follow_outside)
        self._seen: dict[tuple[str, ...], set[str]] = {}  # the label files met, by folder
        self._numbers: Counter[int] = Counter()
        self._beyond = self._lines = 0
        self._findings: list[Finding] = []
        self.images: list[ListedImage] = []
        self.sheet = BoxSheet("corners")

    def declared(self) -> list[str]:
        """The classes in the order of their numbers."""
        if self._names is not None:
            return [self._names[number] for number in sorted(self._names)]
        return [str(number) for number in sorted(self._numbers)]

    def add(self, image: FoundImage, split: str | None) -> None:
        """An image and what its text file says."""
        parts = self._places.of(image.parts)
        self._seen.setdefault(parts[:-1], set()).add(parts[-1])
        found = self._lookup.find(parts)
        lines: list[str] = []
        try:
            if isinstance(found, FoundImage):
                lines = read_text(found.path, most=_MOST_BYTES).splitlines()
            elif found[0] != "missing_file":
                raise DataError(f"{escape('/'.join(parts))} {found[1]}", code=found[0])
        except DataError as error:
            message = f"{image.key} is left out, because its labels cannot be read: {error.message}."
            self._findings.append(Finding(error.code, Outcome.QUARANTINE, image.key, message))
            return
        size = upright_size(image.path)
        width, height = (size.width, size.height) if size else (0, 0)
        file = f"{escape('/'.join(parts))}:"
        for line, text in enumerate(lines, start=1):
            if words := text.split():
                self._add_line(words, Place(file, line), (width or 1, height or 1))
        self.images.append(ListedImage(image, width, height, split))

    def _add_line(self, words: list[str], place: Place, size: tuple[int, int]) -> None:
        self._lines += 1
        number, numbers = _class_number(words[0]), [_number(word) for word in words[1:]]
        label = self._label_of(number)
        complaint = "" if label else f"begins with {words[0][:40]!r}, which is no number of a class"
        complaint = complaint or self._complaint(numbers)
        polygon = None
        if not complaint and len(numbers) > 4:
            polygon = [n * side for n, side in zip(numbers, size * (len(numbers) // 2), strict=True)]
            complaint = polygon_complaint(polygon) or ""
        corners: list[float] | None = None
        if not complaint:
            corners = box_around([polygon]) if polygon else _corners(numbers, size)
        outline = [polygon] if polygon else None
        self.sheet.add(len(self.images), label, corners, place, outline=outline, complaint=complaint)

    def _label_of(self, number: int | None) -> str:
        """The class; nothing where the number is none or stands for none."""
        if number is None:
            return ""
        self._numbers[number] += 1
        return str(number) if self._names is None else self._names.get(number, "")

    def _complaint(self, numbers: list[float]) -> str:
        count = len(numbers)
        if count < 4 or count == 5 or count % 2:
            return f"has {count} numbers after the class; a box has 4, and a polygon two for each point"
        if not all(map(math.isfinite, numbers)):
            return "has something that is no finite number"
        if max(map(abs, numbers)) > _PIXELS:
            self._beyond += 1
            return "has numbers far above 1, as if in pixels"
        if min(numbers) < -_SLACK or max(numbers) > 1 + _SLACK:
            return "has numbers outside 0 to 1"
        return ""

    def concluded(self) -> list[Finding]:
        """What can be said after the last image."""
        findings = list(self._findings)
        if self._beyond * 2 > self._lines:
            message = (
                f"{self._beyond:,} of {self._lines:,} boxes have numbers far above 1, as if in pixels; YOLO "
                "files hold shares of the image. Divide them by the image's width and height, or give "
                "the data as COCO or as a table of boxes."
            )
            findings.append(Finding("pixel_boxes", Outcome.REJECT, "", message))
        unknown = [
            number for number in self._numbers if self._names is not None and number not in self._names
        ]
        if unknown:
            ids = [f"{n} ({plural(self._numbers[n], 'time')})" for n in sorted(unknown)]
            message = (
                f"There are numbers of classes without a name: {listed(ids, 20)}; name them, or remove them."
            )
            findings.append(Finding("unknown_class", Outcome.REJECT, "", message))
        if self._names is None:
            message = (
                "Nothing says what the classes are called, so their numbers are their names; put the names "
                "into classes.txt, one a line, or say --set data.classes=[...]."
            )
            findings.append(Finding("numbers_as_names", Outcome.WARN, "", message))
        return findings + self._labels_without_image()

    def _labels_without_image(self) -> list[Finding]:
        others = []
        for folder, seen in sorted(self._seen.items()):
            beside = folder[-1:] and folder[-1].casefold() not in LABEL_FOLDERS  # other texts may lie there
            for file in names_in(self._layout.root.joinpath(*folder), (".txt",)):
                if file not in seen and file.casefold() not in LISTS_OF_NAMES and not beside:
                    others.append(escape("/".join((*folder, file))))
        if not others:
            return []
        verb = "has no image and is" if len(others) == 1 else "have no image and are"
        message = f"{plural(len(others), 'label file')} {verb} not used: {listed(others)}."
        return [Finding("labels_without_image", Outcome.WARN, "", message)]


def _class_number(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 6 else None


def _number(word: str) -> float:
    number = number_in(word)
    return number if isinstance(number, float) else math.nan


def _corners(numbers: list[float], size: tuple[int, int]) -> list[float]:
    """Left, top, right, bottom in pixels from middle, width and height in shares."""
    x, y, wide, high = numbers
    width, height = size
    return [(x - wide / 2) * width, (y - high / 2) * height, (x + wide / 2) * width, (y + high / 2) * height]
