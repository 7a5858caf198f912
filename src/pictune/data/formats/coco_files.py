"""Which JSON files a COCO dataset consists of, of which split each is, and where its images may lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pictune.data.formats.assembly import split_named
from pictune.data.formats.layouts import (
    ANNOTATION_FOLDERS,
    IMAGE_FOLDERS,
    first_of,
    folders_in,
    listed,
    names_in,
    split_in,
)
from pictune.data.scanning import Lookup, escape
from pictune.errors import DataError

_OTHER_KINDS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
_LISTED = re.compile(rb'"(images|annotations)"\s*:\s*[^\s\d\-tf]')  # a number of images is no list of them
_HEAD = 65_536  # bytes of a JSON file in which its first keys must stand


def is_coco(path: Path) -> bool:
    """Whether a file is a JSON object with images or annotations among its first keys."""
    if path.suffix.lower() != ".json":
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = head.decode("utf-16", errors="replace").encode(errors="replace").lstrip()
    return text[:1] == b"{" and _LISTED.search(text) is not None


@dataclass(frozen=True, slots=True)
class Source:
    """One JSON file.

    Args:
        path: Where it is.
        root: The dataset's folder.
        split: Of all its images; None where the files say nothing about splits.
    """

    path: Path
    root: Path
    split: str | None = None

    @property
    def shown(self) -> str:
        """Its place below the root, with forward slashes."""
        return self.path.relative_to(self.root).as_posix()

    def places(self, image_folder: Path | None) -> list[Path]:
        """The folders that its file names may be relative to, the likeliest first.

        Args:
            image_folder: What the user named as such; nothing else is then searched.
        """
        if image_folder is not None:
            return [*self._of_split(image_folder), image_folder]
        beside = self.path.parent
        own = [beside] if beside != self.root and beside.name.casefold() not in ANNOTATION_FOLDERS else []
        within = [
            folder for base in (*own, self.root) for folder in first_of(folders_in(base), IMAGE_FOLDERS)
        ]
        splits = [folder for base in (*within, self.root) for folder in self._of_split(base)]
        nested = [folder for base in splits for folder in first_of(folders_in(base), IMAGE_FOLDERS)]
        return [*own, *splits, *nested, *within, self.root, beside]

    def _of_split(self, base: Path) -> list[Path]:
        """The folders of this file's split: ``train2017``, say, for ``instances_train2017.json``."""
        split = self.split or split_in(self.path.stem)
        return [
            folder for key, folder in sorted(folders_in(base).items()) if split and split_in(key) == split
        ]


def coco_files(path: Path) -> list[Path]:
    """The COCO files in a folder, in its folder of annotations and in its split folders, sorted."""
    return [file for folder in _folders_with_files(path) for file in _json_files(path, folder)]


def find_sources(path: Path) -> list[Source]:
    """The JSON files of a dataset, sorted; none where there are none.

    Where files are called ``instances...``, those of COCO's other kinds beside them are passed over: captions
    and such. One file has no split, whatever it is called.

    Raises:
        DataError: ``several_files`` when the files' names do not say of which splits they are.
    """
    if path.is_file():
        above = path.parent
        root = above.parent if above.name.casefold() in ANNOTATION_FOLDERS else above
        return [Source(path, root)]
    found = coco_files(path)
    if any(file.name.casefold().startswith("instances") for file in found):
        found = [file for file in found if not file.name.casefold().startswith(_OTHER_KINDS)]
    if len(found) <= 1:
        return [Source(file, path) for file in found]
    split_of = {file: _split_of(file, path) for file in found}
    splits = list(split_of.values())
    if {"train", "val"} <= set(splits):
        # Beside these, "trainval" or "all" only repeat them.
        split_of = {file: split for file, split in split_of.items() if split}
        splits = list(split_of.values())
    if None in splits or len(set(splits)) < len(splits):
        shown = [escape(file.relative_to(path).as_posix()) for file in found]
        raise DataError(
            f"{escape(str(path))} has {len(found)} COCO files, and not one a split: {listed(shown, 10)}",
            code="several_files",
            instead="Give the path of the one that is meant, or call them train.json, val.json, test.json.",
        )
    return [Source(file, path, split) for file, split in split_of.items()]


def _folders_with_files(path: Path) -> list[Path]:
    """The folder itself, its folder of annotations, and its split folders with theirs."""
    inside = folders_in(path)
    splits = [inside[name] for name in sorted(inside) if split_named(name)]
    nested = [folder for split in splits for folder in first_of(folders_in(split), ANNOTATION_FOLDERS)]
    return [path, *first_of(inside, ANNOTATION_FOLDERS), *splits, *nested]


def _json_files(root: Path, folder: Path) -> list[Path]:
    """Its COCO files; links that leave the root are not followed."""
    lookup = Lookup(root)
    above = folder.relative_to(root).parts
    candidates = [(folder / name, lookup.find((*above, name))) for name in names_in(folder, (".json",))]
    return [file for file, found in candidates if not isinstance(found, tuple) and is_coco(file)]


def _split_of(file: Path, root: Path) -> str | None:
    """From its own name, or from a folder on its way down from the root."""
    names = [file.stem, *reversed(file.relative_to(root).parts[:-1])]
    return next((split for name in names if (split := split_in(name))), None)
