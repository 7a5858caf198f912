"""`cache`: what is kept so that nothing is done twice, and how to get the space back.

Everything here can be made again from the pictures. Only files that pictune itself named are looked at
and removed; whatever else lies in the folder stays.
"""

from __future__ import annotations

import fcntl
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pictune.data.pixels import load_arrays
from pictune.errors import InputError
from pictune.evaluation.report.wording import count, plural
from pictune.files import cache_folder, disk_errors
from pictune.training.feature_folder import allocated, list_entries, remove

Kind = Literal["features", "pixels", "facts", "unfinished"]

GIGABYTE = 10**9  # bytes
FEATURES, PICTURES = "features", "pictures"  # folders of the cache

_PIXELS = re.compile(r"(pixels-[0-9a-f]{40})\.(bin|npz)")
_FACTS = re.compile(r"facts-[0-9a-f]{40}\.npz")
_PART = re.compile(r"\.part-\w+")
_TEMPORARY = re.compile(r"\.tmp-(\d+)-\w+")


@dataclass(frozen=True, slots=True)
class CacheItem:
    """One thing in the cache that is kept or removed as a whole.

    Args:
        kind: ``features`` (activations of frozen layers), ``pixels`` (shrunk pictures), ``facts`` (what
            opening the pictures told), or ``unfinished`` (what a process writes, or left when it died).
        name: Its files' name.
        description: What it holds.
        bytes: What it really takes on disk.
        last_used: When it was last opened. For pixels and facts the file system says so: to the day,
            or only when they were written where it keeps no times of reading (``noatime``).
        in_use: Whether a living process has it open, as far as that can be known and matters.
        removed: Whether this call removed it.
    """

    kind: Kind
    name: str
    description: str
    bytes: int
    last_used: datetime
    in_use: bool
    removed: bool = False


@dataclass(frozen=True)
class CacheListing:
    """What the cache holds, and what was removed from it.

    Args:
        folder: The cache.
        items: The last used first.
    """

    folder: Path
    items: tuple[CacheItem, ...]

    @property
    def kept(self) -> tuple[CacheItem, ...]:
        """What is there."""
        return tuple(item for item in self.items if not item.removed)

    @property
    def removed(self) -> tuple[CacheItem, ...]:
        """What was there before this call."""
        return tuple(item for item in self.items if item.removed)

    @property
    def bytes(self) -> int:
        """What all that is there takes on disk."""
        return sum(item.bytes for item in self.kept)

    def rows(self) -> list[dict[str, Any]]:
        """Plain values for JSON, one object an item."""
        return [
            {**asdict(item), "last_used": item.last_used.isoformat(timespec="seconds")} for item in self.items
        ]

    def summary(self) -> str:
        """A table of what is there, its total, and what was removed."""
        now = datetime.now(UTC)
        table = [("kind", "size", "last used", "what")] if self.kept else []
        table += [
            (item.kind, _size(item.bytes), _ago(now - item.last_used), _what(item)) for item in self.kept
        ]
        widths = [max((len(row[column]) for row in table), default=0) for column in range(3)]
        lines = [
            f"{kind:<{widths[0]}}  {size:>{widths[1]}}  {used:<{widths[2]}}  {what}"
            for kind, size, used, what in table
        ]
        total = f"{_size(self.bytes)} in {plural(len(self.kept), 'item')}" if self.kept else "nothing"
        lines.append(f"{self.folder} holds {total}.")
        if self.removed:
            freed = sum(item.bytes for item in self.removed)
            lines.append(f"Removed {plural(len(self.removed), 'item')}, {_size(freed)}.")
        return "\n".join(lines)


def cache(*, older_than: float | None = None, keep: float | None = None, clear: bool = False) -> CacheListing:
    """Lists what is kept on disk so that nothing is done twice, and removes some of it if asked to.

    What a living process needs stays. Stored pixels may go at any time: a process that has them mapped
    keeps reading them, and the disk gets the space back when that process ends.

    Args:
        older_than: Removes what was not used for so many days, at least 0.
        keep: Then removes what was used least recently, until at most so many gigabytes are there.
        clear: Removes everything.

    Raises:
        InputError: When a number is negative or no number, or ``clear`` comes with another wish.
        MachineError: When the folder may not be written.
    """
    _check(older_than, keep, clear=clear)
    folder = cache_folder()
    items = sorted(_items(folder), key=lambda item: (item.last_used, item.name), reverse=True)
    now = datetime.now(UTC)
    for position, item in enumerate(items):
        days = (now - item.last_used).total_seconds() / 86400
        if clear or (older_than is not None and days > older_than):
            items[position] = _without(folder, item)
    if keep is not None:
        held = sum(item.bytes for item in items if not item.removed)
        for position in reversed(range(len(items))):
            if held > keep * GIGABYTE and not items[position].removed:
                items[position] = _without(folder, items[position])
                held -= items[position].bytes if items[position].removed else 0
    return CacheListing(folder, tuple(items))


def _check(older_than: float | None, keep: float | None, *, clear: bool) -> None:
    given = {"older_than": older_than, "keep": keep}
    causes = [
        f"{name} is {value}; it must be a number from 0 up."
        for name, value in given.items()
        if value is not None and not 0 <= value < math.inf
    ]
    if clear and given != dict.fromkeys(given):
        causes.append("clear removes everything, so older_than and keep say nothing beside it.")
    if causes:
        raise InputError(
            "the cache cannot be tidied up like this",
            causes=causes,
            instead="Give days with older_than, gigabytes with keep, or clear alone; nothing was removed.",
        )


def _items(folder: Path) -> Iterator[CacheItem]:
    with disk_errors(folder):
        for entry in list_entries(folder / FEATURES):
            there = f"{count(entry.rows_there)} of {plural(entry.rows, 'row')}"
            what = f"{entry.description} ({there})" if entry.rows else entry.description
            yield CacheItem("features", entry.key, what, entry.bytes, entry.last_used, entry.in_use)
        yield from _unfinished(folder / FEATURES)
        yield from _unfinished(folder / PICTURES)
        pixels = set()
        for path in sorted((folder / PICTURES).glob("*")):
            if found := _PIXELS.fullmatch(path.name):
                pixels.add(found[1])
            elif _FACTS.fullmatch(path.name):
                what = "what opening the pictures told, without their pixels"
                yield CacheItem("facts", path.name, what, allocated(path), _last_used(path), in_use=False)
        for name in sorted(pixels):
            files = _pixel_files(folder, name)
            # Reading the index below changes its time of reading, so only the data's time counts.
            used = _last_used(files[-1] if files[-1].exists() else files[0])
            size = sum(map(allocated, files))
            yield CacheItem("pixels", name, _pictures(files[0]), size, used, in_use=_is_locked(files[-1]))


def _unfinished(folder: Path) -> Iterator[CacheItem]:
    """Temporary files: a writer that lives holds a lock on its own, or its number stands in the name."""
    for path in sorted(folder.glob(".*")):
        temporary = _TEMPORARY.fullmatch(path.name)
        if temporary:
            lives = Path("/proc", temporary[1]).exists()
        elif _PART.fullmatch(path.name):
            lives = _is_locked(path)
        else:
            continue
        what = "being written" if lives else "left by a process that died"
        name = f"{folder.name}/{path.name}"
        yield CacheItem("unfinished", name, what, allocated(path), _last_used(path), in_use=lives)


def _pictures(index: Path) -> str:
    arrays = load_arrays(index, {"sizes"})
    if arrays is None:
        return "incomplete"
    sizes = arrays["sizes"]
    shorter = f", shorter side {int(sizes.min(axis=1).max())} pixels" if len(sizes) else ""
    return f"{plural(len(sizes), 'picture')}{shorter}"


def _pixel_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The index, then the data: in this order a store vanishes at once and whole."""
    return folder / PICTURES / f"{name}.npz", folder / PICTURES / f"{name}.bin"


def _without(folder: Path, item: CacheItem) -> CacheItem:
    """Removes an item if it can go; the same item says whether it has gone."""
    if item.kind == "features":
        return replace(item, removed=remove(folder / FEATURES, item.name))
    if item.in_use:
        return item
    paths: tuple[Path, ...] = (folder / item.name,)
    if item.kind == "pixels":
        paths = _pixel_files(folder, item.name)
    elif item.kind == "facts":
        paths = (folder / PICTURES / item.name,)
    # A store that is just being committed still carries its writer's lock.
    with disk_errors(paths[-1]), _lock_of(paths[-1]) as ours:
        if ours:
            for path in paths:
                path.unlink(missing_ok=True)
    return replace(item, removed=ours)


@contextmanager
def _lock_of(path: Path) -> Iterator[bool]:
    """Locks a file inside; yields False when a living process has it locked. One that is absent is free."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        yield True
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ours = False
        else:
            ours = True
        yield ours


def _is_locked(path: Path) -> bool:
    with _lock_of(path) as ours:
        return not ours


def _last_used(path: Path) -> datetime:
    try:
        state = path.stat()
    except FileNotFoundError:
        return datetime.now(UTC)  # it went while we looked
    return datetime.fromtimestamp(max(state.st_atime, state.st_mtime), UTC)


def _what(item: CacheItem) -> str:
    return f"{item.description} [in use]" if item.in_use else item.description


def _size(size: int) -> str:
    """Bytes as people read them: 812 bytes, 1.4 MB, 20.0 GB."""
    for unit, name in ((GIGABYTE, "GB"), (10**6, "MB"), (1000, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"


def _ago(age: timedelta) -> str:
    days = max(age.days, 0)
    return ("today", "yesterday")[days] if days < 2 else f"{days:,} days ago"
