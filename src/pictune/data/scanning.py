r"""What lies in a folder: a walk that opens nothing it need not open and follows nothing it must not.

Every entry is looked at with ``lstat`` first; only regular files are ever opened, so a pipe, a
socket or a device can't hang the walk. The order is that of the keys and the same on every machine.

A *key* is a path relative to the root, with forward slashes, that can be printed and written as
JSON: a byte that is no UTF-8 is written ``\xff``, a control character ``\x0a`` or ``\u0085``,
and a backslash is doubled, so two files never share a key.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.headers import SUFFIXES

# Rare kinds are listed too: decoding says of each that it is not read, so that none is lost in silence.
_RARE = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".eps")
IMAGE_SUFFIXES = frozenset((*chain.from_iterable(SUFFIXES.values()), *_RARE))
_IGNORED_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__"})
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_MAGIC_BOXES = (b"heic", b"heix", b"mif1", b"avif", b"avis")
_OUTSIDE = "links to a file outside the dataset (--follow-outside permits it)"
_UNPRINTABLE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def escape(name: str) -> str:
    """A file name as text that any terminal and any JSON reader takes; never the same for two names."""
    return _UNPRINTABLE.sub(_escape_one, name)


def _escape_one(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        code -= 0xDC00
        return f"\\x{code:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def looks_like_image(path: Path) -> bool:
    """Whether a regular file begins as an image does; its name plays no part.

    Raises:
        OSError: When the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in _MAGIC_BOXES
    if head[:2] == b"BM":  # two letters are a weak sign; a bitmap's reserved bytes are zero as well
        return len(head) >= 14 and head[6:10] == b"\0\0\0\0"
    return head.startswith(_MAGIC)


@dataclass(frozen=True, slots=True)
class FoundImage:
    """One regular file that is an image by its name or its first bytes.

    Args:
        key: Path relative to the root, safe to print and to write as JSON.
        parts: The same path as the names of its folders and the file, unescaped.
        path: Where it is.
    """

    key: str
    parts: tuple[str, ...]
    path: Path


@dataclass(frozen=True)
class Listing:
    """What a walk found.

    Args:
        root: Where it began.
        images: Sorted by key.
        folders: The folders below the root that were entered, as names, sorted.
        ignored: How many entries were passed over, by kind, such as ``hidden``.
        findings: What was left out, and what stops the work.
    """

    root: Path
    images: tuple[FoundImage, ...]
    folders: tuple[tuple[str, ...], ...]
    ignored: Counter[str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to be entered: names, place, the identities of its ancestors, whether a link led here."""

    parts: tuple[str, ...]
    path: str
    ancestors: frozenset[tuple[int, int]]
    linked: bool


def scan(root: Path, *, follow_outside: bool = False) -> Listing:
    """Lists the images below a folder.

    A link that stays inside the root is followed, a link to a folder only once deep: inside a folder
    that was itself reached by a link, further links to folders are left out. So the walk always ends.

    Args:
        root: An existing folder.
        follow_outside: Whether links may leave the root.
    """
    return _Walk(root, follow_outside=follow_outside).run()


class _Walk:
    """One walk: the stack of folders still to enter, and what was found so far."""

    def __init__(self, root: Path, *, follow_outside: bool) -> None:
        self.root = root
        self.follow_outside = follow_outside
        self.images: list[FoundImage] = []
        self.folders: list[tuple[str, ...]] = []
        self.ignored: Counter[str] = Counter()
        self.findings: list[Finding] = []
        self.stack: list[_Folder] = []

    def run(self) -> Listing:
        self.stack.append(_Folder((), os.fspath(self.root), frozenset(), linked=False))
        while self.stack:
            self._enter(self.stack.pop())
        self.images.sort(key=lambda image: image.key)
        self.findings.sort(key=lambda finding: (finding.where, finding.code))
        return Listing(
            self.root, tuple(self.images), tuple(sorted(self.folders)), self.ignored, tuple(self.findings)
        )

    def _enter(self, folder: _Folder) -> None:
        try:
            status = os.stat(folder.path)  # noqa: PTH116 - os.scandir's own paths stay strings for speed
            identity = (status.st_dev, status.st_ino)
            if identity in folder.ancestors:
                self._leave_out(folder.parts, "symlink_loop", "links back to a folder above it")
                return
            with os.scandir(folder.path) as entries:
                found = list(entries)
        except OSError as error:
            self._note(
                folder.parts,
                "unreadable_folder",
                Outcome.REJECT,
                f"cannot be opened ({_reason(error)}); give yourself permission to read it",
            )
            return
        if folder.parts:
            self.folders.append(folder.parts)
        for entry in found:
            self._look(entry, folder, identity)

    def _look(self, entry: os.DirEntry[str], folder: _Folder, identity: tuple[int, int]) -> None:
        parts = (*folder.parts, entry.name)
        if entry.name.startswith(".") or entry.name.casefold() in _IGNORED_NAMES:
            self.ignored["hidden" if entry.name.startswith(".") else entry.name] += 1
            return
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
            linked = stat.S_ISLNK(mode)
            if linked:
                mode = entry.stat().st_mode
                if self._refuses_link(parts, entry.path, folder, is_folder=stat.S_ISDIR(mode)):
                    return
        except OSError as error:
            self._leave_out(parts, *_broken(error))
            return
        if stat.S_ISDIR(mode):
            ancestors = folder.ancestors | {identity}
            self.stack.append(_Folder(parts, entry.path, ancestors, linked=folder.linked or linked))
        elif stat.S_ISREG(mode):
            self._take(parts, Path(entry.path))
        else:
            self._leave_out(parts, "special_file", "is a pipe, socket or device, and was not opened")

    def _refuses_link(self, parts: tuple[str, ...], path: str, folder: _Folder, *, is_folder: bool) -> bool:
        """Notes why a link is not followed, if it is not."""
        outside = not self.follow_outside and leaves(self.root, path)
        if outside and is_folder:  # a whole class may lie behind it: too much to lose in silence
            self._note(
                parts,
                "outside_root",
                Outcome.REJECT,
                "links to a folder outside the dataset; permit it with --follow-outside, or remove it",
            )
        elif outside:
            self._leave_out(parts, "outside_root", _OUTSIDE)
        elif is_folder and folder.linked:
            self._leave_out(
                parts, "symlink_nested", "is a link to a folder, inside a folder that is itself a link"
            )
        else:
            return False
        return True

    def _take(self, parts: tuple[str, ...], path: Path) -> None:
        suffix = path.suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            try:
                if not looks_like_image(path):
                    self.ignored[f"*{escape(suffix)}" if suffix else "without ending"] += 1
                    return
            except OSError as error:
                self._leave_out(parts, "unreadable", f"cannot be opened ({_reason(error)})")
                return
        self.images.append(FoundImage(key_of(parts), parts, path))

    def _leave_out(self, parts: tuple[str, ...], code: str, what: str) -> None:
        self._note(parts, code, Outcome.QUARANTINE, f"{what}; left out")

    def _note(self, parts: tuple[str, ...], code: str, outcome: Outcome, what: str) -> None:
        key = key_of(parts) or "."
        self.findings.append(Finding(code, outcome, key, f"{key} {what}."))


def key_of(parts: tuple[str, ...]) -> str:
    """The key of a file from the names on its way down from the root."""
    return "/".join(escape(part) for part in parts)


def leaves(root: Path, path: str | Path) -> bool:
    """Whether a path, with all its links resolved, lies outside the root."""
    real_root = os.path.realpath(root)
    return os.path.commonpath([real_root, os.path.realpath(path)]) != real_root


def _broken(error: OSError) -> tuple[str, str]:
    """Code and words for an entry whose state cannot be read: a link to nothing, a link to itself."""
    if isinstance(error, FileNotFoundError):
        return "dangling_symlink", "is a link to a file that does not exist"
    if error.errno == errno.ELOOP:
        return "symlink_loop", "is a link that leads back to itself"
    return "unreadable", f"cannot be looked at ({_reason(error)})"


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


class Lookup:
    """Finds single files that a table names, by the rules of `scan` and without walking the folder.

    Args:
        root: The folder that the names are relative to.
        follow_outside: Whether links may leave it.
    """

    def __init__(self, root: Path, *, follow_outside: bool = False) -> None:
        self.root = root
        self.follow_outside = follow_outside
        self._folder_leaves: dict[Path, bool] = {}  # one resolution a folder, not one a file

    def find(self, parts: tuple[str, ...]) -> FoundImage | tuple[str, str]:
        """The file, or why it is left out as a code and a phrase such as ``does not exist``."""
        path = self.root.joinpath(*parts)
        try:
            mode = path.lstat().st_mode
        except (OSError, ValueError) as error:  # a zero byte in the name is a ValueError
            reason = _reason(error) if isinstance(error, OSError) else "no possible file name"
            return "missing_file", f"cannot be found ({reason})"
        linked = stat.S_ISLNK(mode)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            return _broken(error)
        if not self.follow_outside and (self._leaves(path.parent) or (linked and leaves(self.root, path))):
            return "outside_root", _OUTSIDE
        if stat.S_ISDIR(mode):
            return "missing_file", "is a folder"
        if not stat.S_ISREG(mode):
            return "special_file", "is a pipe, socket or device, and was not opened"
        return FoundImage(key_of(parts), parts, path)

    def _leaves(self, folder: Path) -> bool:
        if folder not in self._folder_leaves:
            self._folder_leaves[folder] = leaves(self.root, folder)
        return self._folder_leaves[folder]


def holds_image(folder: Path) -> bool:
    """Whether an image lies directly in a folder; False when the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return any(_is_image(entry) for entry in entries)
    except OSError:
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or not entry.is_file():
        return False
    path = Path(entry.path)
    try:
        return path.suffix.lower() in IMAGE_SUFFIXES or looks_like_image(path)
    except OSError:
        return False
