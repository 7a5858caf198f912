"""The folder of stored features: which entries there are, who uses them, and how much room is left.

Three files make an entry (see `pictune.training.feature_store`, which fills and reads them):

    <key>.json      what it is; it also names this making of the entry with a random token
    <key>.bin       N rows of values; full size from the start, but only written rows take space
    <key>.rows.npz  which rows are there, with a checksum each; bound to the making by its token

Three locks (flock), which the system takes back from a process that dies: ``.lock`` in the folder, for
moments, around making, opening, committing and removing; the json of an entry while it is filled; the
bin of an entry, shared, by all who have it open, so that nobody removes it.

This module does without PyTorch: listing and tidying up should answer at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from pictune.data.pixels import load_arrays
from pictune.files import disk_errors

Dtype = Literal["float16", "bfloat16", "float32"]

#: What all entries together may take unless somebody says otherwise.
LIMIT_BYTES = 20 * 10**9
#: Integers of as many bits as a stored value has.
BITS: Mapping[str, type[np.signedinteger[Any]]] = {
    "float16": np.int16,
    "bfloat16": np.int16,
    "float32": np.int32,
}

_NAME = re.compile(r"[0-9a-f]{40}\.(json|bin|rows\.npz)")
_PAUSE = 0.1  # seconds between two tries for a lock that another process holds


@dataclass(frozen=True, slots=True)
class Record:
    """What ``<key>.json`` holds."""

    token: str
    rows: int
    shape: tuple[int, ...]
    dtype: Dtype
    made: str
    facts: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record in a file; None when it is absent, damaged or of another kind."""
        try:
            given = json.loads(path.read_bytes())
            record = cls(**{**given, "shape": tuple(given["shape"])})
            datetime.fromisoformat(record.made)
            whole = all(isinstance(size, int) and size >= 0 for size in (record.rows, *record.shape))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        texts = isinstance(record.facts, dict) and [record.token, *record.facts.values()]
        known = record.dtype in BITS and texts and all(isinstance(text, str) for text in texts)
        return record if whole and known else None


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What the folder shows of one entry; rows is 0 where it is damaged.

    Args:
        key: Its name.
        bytes: What its files really take on disk.
        rows: N.
        rows_there: How many of them are written.
        made: When it was made; None where it is damaged.
        last_used: When it was last opened.
        description: What it holds, for people.
        in_use: Whether a living process has it open.
    """

    key: str
    bytes: int
    rows: int
    rows_there: int
    made: datetime | None
    last_used: datetime
    description: str
    in_use: bool


def list_entries(folder: Path) -> list[EntryFacts]:
    """All entries of a folder, whole or damaged, by key. Looking counts as no use."""
    if not folder.is_dir():
        return []
    with locked(folder):
        keys = {path.name.split(".")[0] for path in _files(folder)}
        with disk_errors(folder):
            return [_facts_of(folder, key) for key in sorted(keys)]


def remove(folder: Path, key: str) -> bool:
    """Removes an entry, unless a living process has it open.

    Returns:
        Whether it is gone.

    Raises:
        MachineError: When the folder may not be written.
    """
    with locked(folder), disk_errors(folder / key):
        if _in_use(folder, key):
            return False
        for path in paths_of(folder, key):
            path.unlink(missing_ok=True)
        return True


def room(folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> int:
    """Bytes that may still be written into a folder of entries.

    All entries together stay below the limit, and below half of the disk space that would be free
    without them. Rows that other processes are about to write are not known here.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    held, free = sum(allocated(path) for path in _files(folder)), shutil.disk_usage(place).free
    return max(min(limit_bytes - held, (free - held) // 2), 0)


def _facts_of(folder: Path, key: str) -> EntryFacts:
    paths = paths_of(folder, key)
    record = Record.read(paths[0])
    index = load_arrays(paths[2], {"token", "there"})
    fits = record and index and index["token"].tobytes() == record.token.encode()
    newest = max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
    used = paths[0].stat().st_mtime if record else newest
    return EntryFacts(
        key=key,
        bytes=sum(allocated(path) for path in paths),
        rows=record.rows if record else 0,
        rows_there=int(index["there"].sum()) if index and fits else 0,
        made=datetime.fromisoformat(record.made) if record else None,
        last_used=datetime.fromtimestamp(used, UTC),
        description=", ".join(map(" ".join, record.facts.items())) if record else "damaged",
        in_use=_in_use(folder, key),
    )


def paths_of(folder: Path, key: str) -> tuple[Path, Path, Path]:
    """The files of an entry: what it is, its values, and which rows are there."""
    return folder / f"{key}.json", folder / f"{key}.bin", folder / f"{key}.rows.npz"


def _files(folder: Path) -> list[Path]:
    """The files of all entries; what else lies in the folder is none of our business."""
    return [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]


def allocated(path: Path) -> int:
    """Bytes that a file really takes on disk; 0 when it is absent."""
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0


def _in_use(folder: Path, key: str) -> bool:
    """Whether a living process has an entry open; needs the folder's lock."""
    try:
        with (folder / f"{key}.bin").open("rb+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps every other process and thread from changing which entries there are."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("ab")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def wait_for(stream: BinaryIO, waiting: Callable[[], None]) -> None:
    """Locks a file for this process alone, and calls ``waiting`` several times a second until it can."""
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(_PAUSE)
        else:
            return


def write_at(stream: BinaryIO, position: int, values: NDArray[Any]) -> None:
    """Writes all of an array; the system may take it in parts."""
    rest = values.data.cast("B")
    while rest:
        written = os.pwrite(stream.fileno(), rest, position)
        rest, position = rest[written:], position + written
