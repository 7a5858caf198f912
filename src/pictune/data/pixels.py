"""Shrunk pictures on disk: decoded once, mapped into memory ever after."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.files import current_umask, disk_errors, replace_file

Pixels = NDArray[np.uint8]

#: Changes when the layout of the files or the way of shrinking changes; older stores are then not found.
VERSION = 1

_PART = ".part-"
_NOTHING = np.empty(0, np.uint8)


def shrink(pixels: Pixels, side: int) -> Pixels:
    """Scales a picture so that its shorter side has ``side`` pixels; its shape is kept.

    Args:
        pixels: uint8 [height, width, 3] or [height, width].
        side: The shorter side wanted, at least 1.

    Returns:
        The very same array when the shorter side already fits. Larger pictures are interpolated
        linearly. Smaller ones are brought linearly (by less than a factor of two) to a power of two
        times the size wanted and then halved by averaging: on photographs within a grey level of
        averaging at once on average, and several times faster.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if shorter == side:
        return pixels
    final_height, final_width = max(round(height * side / shorter), 1), max(round(width * side / shorter), 1)
    halvings = max((shorter // side).bit_length() - 1, 0)
    for doublings in range(halvings, -1, -1):
        size = final_width << doublings, final_height << doublings
        linear = doublings == halvings
        if size != pixels.shape[1::-1]:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR if linear else cv2.INTER_AREA)
    return pixels


def store_name(checksums: Sequence[str], *, side: int, decoder: str) -> str:
    """The name under which the shrunk pixels of these files are kept.

    Args:
        checksums: SHA-256 of each file, in order.
        side: The shorter side.
        decoder: What decoded them; other versions may give other pixels.
    """
    digest = hashlib.sha256(f"{VERSION}\n{side}\n{decoder}\n".encode())
    for checksum in checksums:
        digest.update(f"{checksum}\n".encode())
    return f"pixels-{digest.hexdigest()[:40]}"


class PixelStore(Sequence[Pixels]):
    """Pictures of various sizes, uint8 RGB, mapped from one file and read only.

    Args:
        folder: Where the store is.
        name: Its name, from `store_name`.

    Raises:
        FileNotFoundError: When there is no complete store of that name.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        data = folder / f"{name}.bin"
        index = load_arrays(folder / f"{name}.npz", {"starts", "sizes"})
        if index is None or not data.is_file() or data.stat().st_size != index["starts"][-1]:
            raise FileNotFoundError(f"there is no complete pixel store {name} in {folder}")
        self._starts: NDArray[np.int64] = index["starts"]
        self._sizes: NDArray[np.int32] = index["sizes"]
        # An empty file cannot be mapped.
        self._bytes = np.memmap(data, np.uint8, mode="r").view(np.ndarray) if self.nbytes else _NOTHING

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, position: int) -> Pixels: ...
    @overload
    def __getitem__(self, position: slice) -> list[Pixels]: ...
    def __getitem__(self, position: int | slice) -> Pixels | list[Pixels]:
        """The picture at a position: uint8 [height, width, 3], a read-only view without a copy."""
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        height, width = self._sizes[position]
        start = self._starts[position % len(self)]
        return self._bytes[start : start + 3 * int(height) * int(width)].reshape(height, width, 3)

    def select(self, positions: Sequence[int]) -> PixelStore:
        """The same pictures at these positions, in this order, under a name of their own."""
        chosen = copy(self)
        rows = np.asarray(positions, np.int64)
        chosen._starts = np.concatenate([self._starts[:-1][rows], self._starts[-1:]])
        chosen._sizes = self._sizes[rows]
        chosen.name = f"{self.name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}"
        return chosen

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width of each picture, int32 [n, 2]."""
        return self._sizes

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return int(self._starts[-1])


class PixelWriter:
    """Writes a store picture by picture; nothing of it can be seen before `commit`.

    Use it as a context manager: what is not committed is removed. Two writers may write the same
    store at once, since each has a file of its own and the later rename replaces equal content.

    Args:
        folder: Where the store will be; it must exist.

    Raises:
        MachineError: When the disk is full or may not be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: list[tuple[int, int]] = []
        with disk_errors(folder):
            _remove_abandoned(folder)
            self._path, self._file = _open_part(folder)

    def __enter__(self) -> PixelWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        # What was not committed is not wanted, so a full disk does not matter any more.
        with suppress(OSError):
            self._file.close()

    def add(self, pixels: Pixels) -> None:
        """Appends one picture, uint8 [height, width, 3]."""
        with disk_errors(self._path):
            self._file.write(np.ascontiguousarray(pixels).data)
        self._sizes.append((pixels.shape[0], pixels.shape[1]))

    def commit(self, name: str) -> PixelStore:
        """Makes the store visible under its name, whole and safely on disk, and opens it."""
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        starts = np.concatenate([[0], np.cumsum(3 * sizes.astype(np.int64).prod(axis=1))])
        with disk_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            os.fchmod(self._file.fileno(), 0o666 & ~current_umask())
            self._path.replace(self._folder / f"{name}.bin")
        # The index comes last and syncs the folder: a store without one does not exist.
        save_arrays(self._folder / f"{name}.npz", {"starts": starts, "sizes": sizes})
        return PixelStore(self._folder, name)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replaces a file of named arrays in one step.

    Raises:
        MachineError: When the disk is full or may not be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    replace_file(path, write)


def load_arrays(path: Path, names: Set[str]) -> dict[str, NDArray[Any]] | None:
    """The named arrays in a file; None when it is absent, damaged or lacks one of them."""
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _open_part(folder: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file that stays locked for as long as it is open."""
    while True:
        number, path = tempfile.mkstemp(prefix=_PART, dir=folder)
        file = os.fdopen(number, "wb")
        fcntl.flock(number, fcntl.LOCK_EX)
        # Before the lock was ours, another process may have taken the file for abandoned.
        if os.fstat(number).st_nlink:
            return Path(path), file
        file.close()


def _remove_abandoned(folder: Path) -> None:
    """Removes the temporary files of processes that were killed; those of living ones are locked."""
    for path in folder.glob(f"{_PART}*"):
        with suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
