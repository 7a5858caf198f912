"""The names that people give to folders of images, masks and annotations, and to their splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import SPLIT_NAMES, split_named
from pictune.data.formats.documents import read_text
from pictune.data.scanning import IMAGE_SUFFIXES, Lookup, escape

IMAGE_FOLDERS = tuple("images image jpegimages imgs img photos pictures".split())
ANNOTATION_FOLDERS = tuple("annotations annotation xmls xml".split())
LABEL_FOLDERS = ("labels", "label")
MASK_FOLDERS = tuple(
    "masks mask segmentationclass segmentation segmentations groundtruth gt labels label annotations "
    "annotation".split()
)
_PARTS = frozenset((*IMAGE_FOLDERS, *ANNOTATION_FOLDERS, *MASK_FOLDERS, "segmentationobject", "imagesets"))
_LETTERS = re.compile(r"[^\W\d_]+")


def folders_in(path: Path) -> dict[str, Path]:
    """The visible folders directly in a folder, by their names in lower case; none where it can't be read."""
    try:
        with os.scandir(path) as entries:
            found = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return {}
    return {name.casefold(): path / name for name in sorted(found, reverse=True)}


def names_in(path: Path, suffixes: Iterable[str]) -> list[str]:
    """The names of the visible files of some kinds directly in a folder, sorted; nothing is opened."""
    wanted = tuple(suffixes)
    try:
        with os.scandir(path) as entries:
            found = [
                entry.name
                for entry in entries
                if entry.name.lower().endswith(wanted) and not entry.name.startswith(".")
            ]
    except OSError:
        return []
    return sorted(found)


def first_of(folders: dict[str, Path], names: Iterable[str]) -> list[Path]:
    """Those of the named folders that exist, in the order of the names."""
    return [folders[name] for name in names if name in folders]


def split_in(name: str) -> str | None:
    """The one split that a name speaks of, such as ``instances_val2017``; None for none or several."""
    words = {SPLIT_NAMES[word] for word in _LETTERS.findall(name.casefold()) if word in SPLIT_NAMES}
    return words.pop() if len(words) == 1 else None


def only_parts(path: Path) -> bool:
    """Whether what looks like class folders are the parts of another layout: splits, images, masks.

    Folders are also such parts when there is but one, because one class teaches nothing.
    """
    tops = folders_in(path)
    classes = [name for name in tops if not split_in(name) and name not in _PARTS]
    inner = {name for top in tops if split_named(top) for name in folders_in(tops[top]) if name not in _PARTS}
    return len(classes) <= 1 and not inner


def split_lists(path: Path, kind: str) -> tuple[dict[str, str], list[Finding]] | None:
    """What the lists in ``ImageSets/<kind>`` say: the split of each stem; None where there are none.

    ``trainval`` only repeats train and val where these are there; where they are not, it is train.

    Args:
        path: The dataset's folder.
        kind: ``Main`` for boxes, ``Segmentation`` for masks.
    """
    sets = folders_in(path).get("imagesets")
    folder = folders_in(sets).get(kind.casefold()) if sets else None
    if sets is None or folder is None:
        return None
    files = {name[:-4].casefold(): name for name in names_in(folder, (".txt",))}
    named = {split: files[word] for word, split in SPLIT_NAMES.items() if word in files}
    if "trainval" in files and "train" not in named and "val" not in named:
        named["train"] = files["trainval"]
    if not named:
        return None
    split_of: dict[str, str] = {}
    findings: list[Finding] = []
    lookup = Lookup(path)
    for split, name in named.items():
        parts = (sets.name, folder.name, name)
        found = lookup.find(parts)
        where = escape("/".join(parts))
        if isinstance(found, tuple):
            findings.append(Finding(found[0], Outcome.REJECT, where, f"{where} {found[1]}."))
            continue
        for line, text in enumerate(read_text(found.path).splitlines(), start=1):
            stem = text.strip()
            if stem and split_of.setdefault(stem, split) != split:
                message = f"{where}:{line} puts {escape(stem)} into {split}, but it is in {split_of[stem]}."
                findings.append(Finding("conflicting_split", Outcome.REJECT, f"{where}:{line}", message))
    return split_of, findings


def image_names(path: Path) -> list[str]:
    """The names of the images directly in a folder, by their endings."""
    return names_in(path, IMAGE_SUFFIXES)


def listed(names: Sequence[str], most: int = 5) -> str:
    """A few names as they stand in a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plural(count: int, noun: str, several: str = "") -> str:
    """A number and its noun, such as ``1 box`` or ``2 boxes``."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"
