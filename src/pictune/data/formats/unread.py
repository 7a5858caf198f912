"""Layouts that are recognised only to say plainly that they are not read yet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

_HEAD = 65_536  # bytes of a JSON file in which its first keys must stand
_MOST_FILES = 50  # files of a folder that are looked at; a layout shows itself in the first few


def unread_layout(path: Path) -> str | None:
    """The name of a known layout that no format reads yet; None when there is none."""
    if not path.is_dir():
        return "COCO JSON" if path.suffix.lower() == ".json" and _is_coco(path) else None
    folders = {entry.name.casefold(): entry for entry in _entries(path) if entry.is_dir()}
    return next((layout for layout, fits in _LAYOUTS if fits(path, folders)), None)


def _entries(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _holds(folder: Path | None, suffix: str) -> bool:
    """Whether a folder, or a folder in it, has a file of this kind among its first."""
    if folder is None:
        return False
    entries = list(islice(_entries(folder), _MOST_FILES))
    if any(entry.suffix.lower() == suffix and entry.is_file() for entry in entries):
        return True
    return any(_holds_directly(entry, suffix) for entry in entries if entry.is_dir())


def _holds_directly(folder: Path, suffix: str) -> bool:
    return any(entry.suffix.lower() == suffix for entry in islice(_entries(folder), _MOST_FILES))


def _is_coco(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return head.lstrip()[:1] == b"{" and (b'"images"' in head or b'"annotations"' in head)


def _coco(path: Path, folders: dict[str, Path]) -> bool:
    places = [path, *(folders[name] for name in ("annotations", "train", "val", "valid") if name in folders)]
    files = [entry for place in places for entry in _entries(place)[:_MOST_FILES]]
    return any(_is_coco(entry) for entry in files if entry.suffix.lower() == ".json")


def _voc(path: Path, folders: dict[str, Path]) -> bool:
    return _holds(folders.get("annotations"), ".xml") or _holds_directly(path, ".xml")


def _yolo(path: Path, folders: dict[str, Path]) -> bool:
    inside = [folders[name] / "labels" for name in ("train", "val", "valid") if name in folders]
    return any(_holds(folder, ".txt") for folder in [folders.get("labels"), *inside] if folder)


def _masks(path: Path, folders: dict[str, Path]) -> bool:
    return bool({"masks", "mask", "segmentation"} & set(folders)) and bool({"images", "image"} & set(folders))


_LAYOUTS: tuple[tuple[str, Callable[[Path, dict[str, Path]], bool]], ...] = (
    ("Pascal VOC", _voc),
    ("COCO JSON", _coco),
    ("YOLO", _yolo),
    ("images with masks", _masks),
)
