"""Pascal VOC: one XML file an image, with left, top, right, bottom of each object in pixels.

The corners are taken as they stand: xmin, ymin, xmax, ymax are places on the picture that covers 0..width and
0..height. In the challenge of 2012 itself the first pixel was number 1 and the last one counted in, so that
left and top edges there lie a pixel before where they are read here. The files do not say which is meant:
tools that begin at 0 write the same elements, and a much used one, LabelImg, turns every 0 into a 1, so that
even a set without zeros need not begin at 1. Reading plainly is wrong by at most that pixel, always the same
way, and what is written back are the same numbers.

``difficult`` becomes crowd. The lists train, val and test in ``ImageSets/Main`` give the splits; images that
are in none of the lists are left out. Without lists, images without an XML file are not used. An image is the
one of the XML file's name; only where there is none counts the ``filename`` inside. ``path`` is never used.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions
from pictune.data.formats.box_assembly import ListedImage, finish_boxes
from pictune.data.formats.boxes import BoxSheet, Place
from pictune.data.formats.documents import number_in, pixels_in, read_xml
from pictune.data.formats.layouts import listed, plural, split_lists
from pictune.data.formats.named import ImageFinder
from pictune.data.formats.unlisted import unlisted_images
from pictune.data.formats.voc_files import Annotated, annotated_files, has_annotations
from pictune.data.sample import Dataset
from pictune.data.scanning import FoundImage, escape
from pictune.errors import DataError

name = "voc"

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def recognise(path: Path) -> str | None:
    """A folder of annotations with XML files, or XML annotations beside images, at the top or in splits."""
    shown = has_annotations(path) if path.is_dir() else None
    return f"it has XML annotations, such as {escape(shown)}" if shown else None


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample an XML file whose image is there.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    if not path.is_dir():
        raise DataError(
            f"{escape(str(path))} is a file; Pascal VOC is a folder",
            code="not_a_dataset",
            instead="Give the folder that holds the annotations and the images.",
        )
    reader = _Reader(path, options)
    reader.read()
    used = [image.found for image in reader.images]
    return finish_boxes(
        path,
        format_name=name,
        images=reader.images,
        sheet=reader.sheet,
        declared=None,
        findings=[*reader.findings, *unlisted_images([*used, *reader.aside])],
        options=options,
    )


class _Reader:
    """Reads XML file after XML file."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path = path
        self.options = options
        self.images: list[ListedImage] = []
        self.aside: list[FoundImage] = []  # annotated, but in none of the lists, or with a broken XML file
        self.sheet = BoxSheet("corners")
        self.findings: list[Finding] = []

    def read(self) -> None:
        files, findings = annotated_files(self.path, self.options)
        self.findings += findings
        lists = split_lists(self.path, "Main")
        split_of = lists[0] if lists else {}
        if lists:
            self.findings += lists[1]
            self._note_absent(split_of, {file.stem for file in files})
        aside = []
        for file in files:
            if lists and file.stem not in split_of:
                aside.append(file)
                self.aside += file.images
            else:
                self._read_one(file, split_of.get(file.stem, file.split))
        if aside:
            message = (
                f"{plural(len(aside), 'annotated image')} in none of the lists of ImageSets/Main, and not "
                f"used: {listed([escape(file.stem) for file in aside])}."
            )
            self.findings.append(Finding("not_in_lists", Outcome.NORMALISE, "", message))

    def _note_absent(self, split_of: dict[str, str], stems: set[str]) -> None:
        for stem, split in split_of.items():
            if stem not in stems:
                where = escape(stem)
                message = f"{where} is in the list {split}, but has no XML file; left out."
                self.findings.append(Finding("missing_annotation", Outcome.QUARANTINE, where, message))

    def _read_one(self, file: Annotated, split: str | None) -> None:
        try:
            root = read_xml(file.path)
        except DataError as error:
            unsafe = error.code == "unsafe_xml"
            outcome = Outcome.REJECT if unsafe else Outcome.QUARANTINE
            message = f"{file.key}: {error.message}. {error.instead}"
            self.findings.append(Finding(error.code, outcome, file.key, message))
            self.aside += file.images
            return
        found: FoundImage | Finding
        if root.tag == "annotation":
            found = self._image_of(file, root)
        else:
            message = f"{file.key} is no Pascal VOC: it begins with <{escape(root.tag)}>; left out."
            found = Finding("not_voc", Outcome.QUARANTINE, file.key, message)
            self.aside += file.images
        if isinstance(found, Finding):
            self.findings.append(found)
            return
        for number, element in enumerate(root.iter("object"), start=1):
            self._add(len(self.images), element, Place(f"{file.key}: object ", number))
        width, height = (pixels_in(_text(root, f"size/{side}")) for side in ("width", "height"))
        self.images.append(ListedImage(found, width, height, split))

    def _image_of(self, file: Annotated, root: Element) -> FoundImage | Finding:
        called = _text(root, "filename")
        if len(file.images) == 1:
            return file.images[0]
        if file.images:
            fitting = [image for image in file.images if image.path.name == called]
            if len(fitting) == 1:
                return fitting[0]
            several = " and ".join(image.key for image in file.images)
            message = f"{file.key} may belong to {several}; keep one of them. Left out."
            return Finding("ambiguous_image", Outcome.QUARANTINE, file.key, message)
        if not called:
            message = f"{file.key} has no image of its name beside it, and names none; left out."
            return Finding("missing_file", Outcome.QUARANTINE, file.key, message)
        finder = ImageFinder(self.path, file.places, follow_outside=self.options.follow_outside)
        return finder.find(called, file.key)

    def _add(self, image: int, element: Element, place: Place) -> None:
        label = _text(element, "name")
        box = element.find("bndbox")
        numbers: object = None
        if box is not None:
            numbers = [number_in(_text(box, corner)) for corner in _CORNERS]
        self.sheet.add(
            image,
            label,
            numbers,
            place,
            crowd=_text(element, "difficult") in ("1", "true", "True"),
            complaint="has no name" if not label else "has no bndbox" if box is None else "",
        )


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
