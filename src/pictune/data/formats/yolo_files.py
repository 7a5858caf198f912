"""Where the images and text files of a YOLO dataset lie, and what its classes are called."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, split_named
from pictune.data.formats.documents import read_text
from pictune.data.formats.layouts import (
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    first_of,
    folders_in,
    image_names,
    names_in,
)
from pictune.data.formats.named import safe_parts
from pictune.data.scanning import FoundImage, Listing, escape, scan
from pictune.errors import DataError

LISTS_OF_NAMES = ("classes.txt", "obj.names", "labels.txt")
_YAML = (".yaml", ".yml")
_MOST_BYTES = 1024**2  # of a YAML file
_MOST_DEPTH = 50  # of lists in lists
_BRACKETS = re.compile(r"[\[\]{}]")
_MOST_TRIED = 200  # text files that are looked into to recognise a layout
_NAMES = re.compile(r"^['\"]?names['\"]?\s*:", re.MULTILINE)
_TRAIN = re.compile(r"^['\"]?(train|val)['\"]?\s*:", re.MULTILINE)
_SPLIT_KEYS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Layout:
    """What there is to read.

    Args:
        root: The folder that keys are relative to.
        names: The classes by their numbers; None where nothing names them.
        images: Each with its split, if the data say so.
        findings: What was noticed.
    """

    root: Path
    names: dict[int, str] | None
    images: list[tuple[FoundImage, str | None]]
    findings: list[Finding]


class LabelPlaces:
    """Where the text file of an image lies: in ``labels`` for ``images``, or beside the image.

    Args:
        root: The folder that parts are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[tuple[str, ...], str | None] = {}  # the labels' folder beside each images' folder

    def of(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """The text file's place, whether it is there or not."""
        *folders, file = parts
        for number in range(len(folders) - 1, -1, -1):
            if folders[number].casefold() in IMAGE_FOLDERS and (
                name := self._beside(tuple(folders[:number]))
            ):
                folders[number] = name
                break
        return (*folders, f"{file.rpartition('.')[0] or file}.txt")

    def _beside(self, above: tuple[str, ...]) -> str | None:
        if above not in self._folders:
            found = first_of(folders_in(self._root.joinpath(*above)), LABEL_FOLDERS)
            self._folders[above] = found[0].name if found else None
        return self._folders[above]


def holds_labels(path: Path) -> str | None:
    """What shows that a path is YOLO, by its place below it; None where nothing does."""
    if path.is_file():
        described = path.suffix.lower() in _YAML and _describes(path)
        return path.name if described else None
    for name in names_in(path, _YAML):
        if _describes(path / name):
            return name
    inside = folders_in(path)
    for base in (path, *(inside[key] for key in sorted(inside) if split_named(key))):
        folders = folders_in(base)
        for key in LABEL_FOLDERS:
            if key in folders:
                below = folders_in(folders[key])
                for folder in (folders[key], *(below[name] for name in sorted(below))):
                    if shown := _text_of_numbers(folder, path):
                        return shown
    if any(name.casefold() in LISTS_OF_NAMES for name in names_in(path, (".txt", ".names"))):
        return _text_of_numbers(path, path) if image_names(path) else None
    return None


def _text_of_numbers(folder: Path, root: Path) -> str | None:
    """A text file in the folder whose first line is a class number and numbers, or that is empty."""
    names = [name for name in names_in(folder, (".txt",)) if name.casefold() not in LISTS_OF_NAMES]
    for name in names[:_MOST_TRIED]:
        file = folder / name
        try:
            if file.is_symlink() or not file.is_file():
                continue
            with file.open("rb") as stream:
                words = stream.read(4096).split(b"\n", 1)[0].split()
        except OSError:
            continue
        if len(words) >= 5 and words[0].isdigit() and all(_is_number(word) for word in words[1:]):
            return file.relative_to(root).as_posix()
    return None


def _is_number(word: bytes) -> bool:
    return word.replace(b".", b"").lstrip(b"-+").replace(b"e-", b"").isdigit()


def _describes(path: Path) -> bool:
    """Whether a YAML file names classes and a place of images; one that is broken besides does as well."""
    try:
        text = read_text(path, most=_MOST_BYTES) if path.is_file() and not path.is_symlink() else ""
    except DataError:
        return False
    return bool(_NAMES.search(text) and _TRAIN.search(text))


def _yaml(path: Path) -> Any:
    """A YAML file's content, every value as the text that stands there: a class may be called ``no``.

    Raises:
        DataError: ``malformed``, or as `read_text`.
    """
    text = read_text(path, most=_MOST_BYTES)
    depth = accumulate(1 if sign in "[{" else -1 for sign in _BRACKETS.findall(text))
    try:
        if max(depth, default=0) > _MOST_DEPTH:  # the scanner takes long before it gives such a text up
            raise ValueError("its lists are nested too deep")
        return yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DataError(
            f"{escape(path.name)}{place} is no YAML that can be used: {' '.join(str(error).split())[:200]}",
            code="malformed",
            instead="Repair the file.",
        ) from None


def find_layout(path: Path, options: ReadOptions) -> Layout:
    """The images, their splits and the names of the classes.

    Raises:
        DataError: ``malformed``, ``bad_class_list`` or ``no_train``.
    """
    described = path if path.is_file() else None
    root = path.parent if path.is_file() else path
    if described is None:
        described = next((root / name for name in names_in(root, _YAML) if _describes(root / name)), None)
    listing = scan(root, follow_outside=options.follow_outside)
    findings = list(listing.findings)
    content = _yaml(described) if described else None
    if isinstance(content, dict) and "kpt_shape" in content:
        raise DataError(
            f"{escape(str(path))} is YOLO with key points, which is not read yet",
            code="format_not_read",
            instead="Export it with boxes or polygons alone.",
        )
    names = _names(root, described, content, options)
    if isinstance(content, dict) and described:
        return Layout(root, names, _Description(described, content, listing, findings).images(), findings)
    places = LabelPlaces(root)
    labelled = [image for image in listing.images if _may_have_labels(image, places, root)]
    images = [(image, _split_of(image)) for image in labelled]
    if len({split for _, split in images}) == 1:
        images = [(image, None) for image, _ in images]  # a lone split is none
    return Layout(root, names, images, findings)


def _may_have_labels(image: FoundImage, places: LabelPlaces, root: Path) -> bool:
    """Whether a folder of labels belongs to the image's folder, or text files lie beside it."""
    above = [part.casefold() for part in image.parts[:-1]]
    return bool(set(above) & set(IMAGE_FOLDERS)) or root.joinpath(*places.of(image.parts)).exists()


def _split_of(image: FoundImage) -> str | None:
    return next((split for part in image.parts[:-1] if (split := split_named(part))), None)


def _names(root: Path, described: Path | None, content: Any, options: ReadOptions) -> dict[int, str] | None:
    """From the user, from the YAML file, or from a list of names, in this order."""
    if options.classes is not None:
        return _checked(dict(enumerate(options.classes)), "data.classes")
    if described is not None:
        return _names_of(described, content)
    labels = [folder for key, folder in folders_in(root).items() if key in LABEL_FOLDERS]
    for folder in (root, *labels):
        for name in names_in(folder, (".txt", ".names")):
            if name.casefold() in LISTS_OF_NAMES:
                lines = read_text(folder / name, most=_MOST_BYTES).splitlines()
                while lines and not lines[-1].strip():
                    lines.pop()
                return _checked(dict(enumerate(lines)), name)
    return None


def _names_of(path: Path, content: Any) -> dict[int, str]:
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        return _checked(dict(enumerate(names)), path.name)
    if isinstance(names, dict) and all(isinstance(key, str) and key.isdecimal() for key in names):
        return _checked({int(key): value for key, value in names.items()}, path.name)
    raise DataError(
        f"{escape(path.name)} has no 'names' that are a list, or a table of numbers and names",
        code="bad_class_list",
        instead="Write them as names: [cat, dog].",
    )


def _checked(names: dict[int, Any], file: str) -> dict[int, str]:
    wrong = [str(number) for number, name in names.items() if not isinstance(name, str) or not name.strip()]
    counts = Counter(name for name in names.values() if isinstance(name, str))
    twice = sorted(name for name, count in counts.items() if count > 1)
    causes = [f"the class number {number} has no name" for number in wrong]
    causes += [f"several classes are called {name!r}" for name in twice]
    if causes or not names:
        raise DataError(
            f"the list of classes in {escape(file)} cannot be used",
            code="bad_class_list",
            causes=causes or ["it is empty"],
            instead="Give every class a name of its own.",
        )
    return names


class _Description:
    """The images that a YAML file speaks of.

    Args:
        file: The YAML file.
        content: What it holds.
        listing: All images below its folder.
        findings: Gets what is noticed.
    """

    def __init__(
        self, file: Path, content: dict[str, Any], listing: Listing, findings: list[Finding]
    ) -> None:
        self._shown = escape(file.name)
        self._root = listing.root
        self._content = content
        self._listing = listing
        self._findings = findings

    def images(self) -> list[tuple[FoundImage, str | None]]:
        """Each with its split; with none where the file names but one."""
        found: list[tuple[FoundImage, str | None]] = []
        for split in _SPLIT_KEYS:
            entry = self._content.get(split, self._content.get("valid") if split == "val" else None)
            for text in entry if isinstance(entry, list) else [entry]:
                if isinstance(text, str) and text.strip():
                    found += [(image, split) for image in self._below(text.strip(), split)]
        if len({split for _, split in found}) == 1:
            return [(image, None) for image, _ in found]
        return found

    def _below(self, text: str, split: str) -> list[FoundImage]:
        parts = self._parts(text)
        if isinstance(parts, str):
            message = f"{self._shown}: {split} {parts}."
            self._findings.append(Finding("unsafe_path", Outcome.REJECT, self._shown, message))
            return []
        if parts and parts[-1].lower().endswith(".txt"):
            return self._in_list(parts)
        images = [image for image in self._listing.images if image.parts[: len(parts)] == parts]
        if not images:
            message = f"{self._shown}: {split} is {escape(text)}, where no image lies; it counts as absent."
            outcome = Outcome.REJECT if split == "train" else Outcome.WARN
            self._findings.append(Finding("empty_split", outcome, self._shown, message))
        return images

    def _parts(self, text: str) -> tuple[str, ...] | str:
        """The folders on the way from the YAML file's folder to the images of a split, or what is wrong.

        ``path`` counts where it leads to a folder below the YAML file's; often it names a place on another
        machine. Exports of Roboflow write ``../train/images`` for what lies beside the file.
        """
        base = self._content.get("path")
        above = safe_parts(base) if isinstance(base, str) else ()
        tries = [f"{'/'.join(above)}/{text}"] if isinstance(above, tuple) and above else []
        tries += [text, text.removeprefix("../")]
        if isinstance(base, str) and base.strip() and text.startswith(base.strip().rstrip("/") + "/"):
            tries.append(text[len(base.strip().rstrip("/")) + 1 :])
        known = [parts for attempt in tries if isinstance(parts := safe_parts(attempt), tuple)]
        if text in (".", "./"):
            return ()
        there = [parts for parts in known if self._root.joinpath(*parts).exists()]
        return next(iter((*there, *known)), None) or safe_parts(text)

    def _in_list(self, parts: tuple[str, ...]) -> list[FoundImage]:
        """The images that a text file lists, one a line, relative to the YAML file's folder or its own."""
        by_parts = {image.parts: image for image in self._listing.images}
        shown = escape("/".join(parts))
        found = []
        for line, text in enumerate(read_text(self._root.joinpath(*parts)).splitlines(), start=1):
            if not text.strip():
                continue
            named = safe_parts(text)
            where = f"{shown}:{line}"
            if isinstance(named, str):
                self._findings.append(Finding("unsafe_path", Outcome.REJECT, where, f"{where} {named}."))
                continue
            image = by_parts.get(named) or by_parts.get((*parts[:-1], *named))
            if image is None:
                message = f"{where} names {escape(text.strip())}, which cannot be found; left out."
                self._findings.append(Finding("missing_file", Outcome.QUARANTINE, where, message))
            else:
                found.append(image)
        return found
