"""Layouts that are recognised only to say plainly that they are not read yet."""

from __future__ import annotations

import re
from pathlib import Path

from pictune.data.formats.layouts import ANNOTATION_FOLDERS, IMAGE_FOLDERS, first_of, folders_in, names_in

_HEAD = 65_536  # bytes in which a file's first keys must stand
_MOST_FILES = 20  # files of a folder that are looked into; a layout shows itself in the first few

# What shows a layout: the ending of its files, and what must stand in their beginning.
_LAYOUTS = (
    ("LabelMe JSON", ".json", re.compile(rb'^\s*\{.*"shapes"\s*:\s*\[', re.DOTALL)),
    ("CreateML JSON", ".json", re.compile(rb'^\s*\[\s*\{.*"coordinates"\s*:\s*\{', re.DOTALL)),
    ("VGG Image Annotator JSON", ".json", re.compile(rb'^\s*\{.*"shape_attributes"\s*:\s*\{', re.DOTALL)),
    ("CVAT XML", ".xml", re.compile(rb"<annotations[\s>]")),
)


def unread_layout(path: Path) -> str | None:
    """The name of a known layout that no format reads yet; None when there is none."""
    if not path.is_dir():
        return _layout_of(path)
    folders = folders_in(path)
    places = [path, *first_of(folders, (*ANNOTATION_FOLDERS, "labels", *IMAGE_FOLDERS, "train"))]
    files = [place / name for place in places for name in names_in(place, (".json", ".xml"))[:_MOST_FILES]]
    return next((layout for file in files if (layout := _layout_of(file))), None)


def _layout_of(file: Path) -> str | None:
    if file.suffix.lower() not in (".json", ".xml"):
        return None
    try:
        if file.is_symlink() or not file.is_file():
            return None
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return None
    return next(
        (
            layout
            for layout, suffix, shows in _LAYOUTS
            if suffix == file.suffix.lower() and shows.search(head)
        ),
        None,
    )
