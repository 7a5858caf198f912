"""Finds the images that an annotation file names, and follows no name that leads away from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.scanning import FoundImage, Lookup, escape

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)


def safe_parts(text: str) -> tuple[str, ...] | str:
    """The folders and the file that a name stands for, or what is wrong with it, as a phrase."""
    text = text.strip()
    if not text:
        return "names no image"
    if _ADDRESS.match(text):
        return f"names a web address; nothing is fetched, so download the images first {_found(text)}"
    if text.startswith(("/", "\\", "~")) or _DRIVE.match(text):
        return f"names an absolute path; write it relative to the images' folder {_found(text)}"
    if ".." in re.split(r"[\\/]", text):
        return f"names a path with '..'; images must lie below their folder {_found(text)}"
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    return parts or f"names no image {_found(text)}"


def _found(text: str) -> str:
    return f"(found {text if len(text) <= 80 else f'{text[:77]}...'!r})"


class ImageFinder:
    """Finds images by the names that stand in an annotation file.

    Args:
        root: The dataset's folder; keys are relative to it.
        places: Folders that the names may be relative to, the likeliest first. Those outside the root
            were named by the user, and keys of their images are relative to them.
        follow_outside: Whether links may leave the root.
    """

    def __init__(self, root: Path, places: Iterable[Path], *, follow_outside: bool = False) -> None:
        inside = Lookup(root, follow_outside=follow_outside)
        self._places = [
            (inside, place.relative_to(root).parts)
            if place.is_relative_to(root)
            else (Lookup(place, follow_outside=follow_outside), ())
            for place in dict.fromkeys(places)
        ]

    def find(self, name: object, where: str) -> FoundImage | Finding:
        """The image of that name, or why there is none.

        Args:
            name: As it stands in the annotation file.
            where: The file and the place in it, for the message.
        """
        if not isinstance(name, str):
            return Finding("no_file_name", Outcome.REJECT, where, f"{where} has no file name.")
        parts = safe_parts(name)
        if isinstance(parts, str):
            return Finding("unsafe_path", Outcome.REJECT, where, f"{where} {parts}.")
        found = self._look(parts)
        if isinstance(found, tuple) and len(parts) == 1 and "\\" in name:  # written on Windows
            found = self._look(tuple(part for part in name.split("\\") if part not in ("", ".")))
        if isinstance(found, tuple):
            code, what = found
            message = f"{where} names {escape(name)}, which {what}; left out."
            return Finding(code, Outcome.QUARANTINE, where, message)
        return found

    def _look(self, parts: tuple[str, ...]) -> FoundImage | tuple[str, str]:
        first: tuple[str, str] | None = None
        for number, (lookup, above) in enumerate(self._places):
            found = lookup.find((*above, *parts))
            if isinstance(found, FoundImage):
                if number:  # the next image most likely lies in the same place
                    self._places.insert(0, self._places.pop(number))
                return found
            if first is None or first[0] == "missing_file":
                first = found
        return first or ("missing_file", "cannot be found (there is no folder of images)")
