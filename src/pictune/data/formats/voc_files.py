"""Where the XML files and the images of a Pascal VOC dataset lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, split_named
from pictune.data.formats.layouts import (
    ANNOTATION_FOLDERS,
    IMAGE_FOLDERS,
    first_of,
    folders_in,
    image_names,
    names_in,
    split_in,
)
from pictune.data.scanning import FoundImage, Lookup, escape

_HEAD = 4096  # bytes in which a Pascal VOC file shows its root element
_ROOT = re.compile(rb"<annotation[\s>]")


@dataclass(frozen=True, slots=True)
class Annotated:
    """One XML file, and the images of its name.

    Args:
        key: Its place below the dataset's folder, safe to print.
        path: Where it is.
        split: What the folders say.
        images: Those of its name; usually one.
        places: The folders in which its image may lie.
    """

    key: str
    path: Path
    split: str | None
    images: tuple[FoundImage, ...]
    places: tuple[Path, ...]

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return self.path.name[: -len(".xml")]


class _Place(NamedTuple):
    """A folder with XML files, the split it is of, and the folders in which their images may lie.

    ``certain`` where its name says that these are annotations.
    """

    folder: Path
    split: str | None
    images: list[Path]
    certain: bool


def has_annotations(path: Path) -> str | None:
    """One XML file of the layout, by its place below the folder; None where there is none.

    In a folder of annotations any XML file counts. Elsewhere it must begin as Pascal VOC does, because maps
    and many programs' settings are XML, too.
    """
    for place in _places(path):
        for name in names_in(place.folder, (".xml",)):
            if place.certain or _is_voc(path, place.folder / name):
                return (place.folder / name).relative_to(path).as_posix()
    return None


def _is_voc(root: Path, file: Path) -> bool:
    found = Lookup(root).find(file.relative_to(root).parts)
    if isinstance(found, tuple):
        return False
    try:
        with file.open("rb") as stream:
            return bool(_ROOT.search(stream.read(_HEAD).replace(b"\0", b"")))
    except OSError:
        return False


def _places(path: Path) -> list[_Place]:
    """Folders that may hold XML files: the top and its splits, and the folders of annotations in both."""
    inside = folders_in(path)
    bases: list[tuple[Path, str | None]] = [(path, None)]
    bases += [(inside[key], split) for key in sorted(inside) if (split := split_named(key))]
    places = []
    for base, split in bases:
        folders = folders_in(base)
        images = first_of(folders, IMAGE_FOLDERS)
        for folder in first_of(folders, ANNOTATION_FOLDERS):
            places.append(_Place(folder, split, [*images, folder, base], certain=True))
            for key, nested in sorted(folders_in(folder).items()):
                own = [below for image in images if (below := folders_in(image).get(key))]
                named = split_in(key) or split
                places.append(_Place(nested, named, [*own, nested, *images], certain=True))
        places.append(_Place(base, split, [base, *images], certain=False))
    return places


def annotated_files(path: Path, options: ReadOptions) -> tuple[list[Annotated], list[Finding]]:
    """All XML files with their images, by key; what was left out stands in the findings."""
    lookup = Lookup(path, follow_outside=options.follow_outside)
    index = _Index(path, lookup, options)
    files: list[Annotated] = []
    findings: list[Finding] = []
    for place in _places(path):
        image_places = [options.image_folder] if options.image_folder else place.images
        for file in names_in(place.folder, (".xml",)):
            found = lookup.find((*place.folder.relative_to(path).parts, file))
            if isinstance(found, tuple):
                where = escape((place.folder / file).relative_to(path).as_posix())
                message = f"{where} {found[1]}; left out."
                findings.append(Finding(found[0], Outcome.QUARANTINE, where, message))
            elif place.certain or _is_voc(path, found.path):
                images = index.of_stem(image_places, file[: -len(".xml")])
                files.append(Annotated(found.key, found.path, place.split, images, tuple(image_places)))
    return sorted(files, key=lambda file: file.key), findings


class _Index:
    """Finds the images of a stem; every folder is listed once."""

    def __init__(self, root: Path, lookup: Lookup, options: ReadOptions) -> None:
        self._root = root
        self._lookup = lookup
        self._options = options
        self._names: dict[Path, dict[str, list[str]]] = {}

    def of_stem(self, places: list[Path], stem: str) -> tuple[FoundImage, ...]:
        """The images of the first folder that has any of this stem."""
        for place in places:
            names = self._listing(place).get(stem, [])
            images = tuple(self._find(place, names))
            if images:
                return images
        return ()

    def _listing(self, place: Path) -> dict[str, list[str]]:
        if place not in self._names:
            listing: dict[str, list[str]] = {}
            for file in image_names(place):
                listing.setdefault(PurePath(file).stem, []).append(file)
            self._names[place] = listing
        return self._names[place]

    def _find(self, place: Path, names: list[str]) -> Iterator[FoundImage]:
        inside = place.is_relative_to(self._root)
        above = place.relative_to(self._root).parts if inside else ()
        lookup = self._lookup if inside else Lookup(place, follow_outside=self._options.follow_outside)
        for file in names:
            found = lookup.find((*above, file))
            if isinstance(found, FoundImage):
                yield found
