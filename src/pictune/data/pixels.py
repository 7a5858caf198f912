"""Shrunk pictures on disk: decoded once, mapped into memory ever after."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import cv2
import numpy as np
from numpy.typing import NDArray

#: Changes when the layout of the files or the way of shrinking changes; older stores are then not found.
VERSION = 1


def shrink(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scales a picture so that its shorter side has ``side`` pixels; its shape is kept.

    Args:
        pixels: uint8 [height, width, 3] or [height, width].
        side: The shorter side wanted, at least 1.

    Returns:
        The very same array when the shorter side already fits. Averages when it gets smaller
        (area interpolation), interpolates linearly when it gets larger.
    """
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    if shorter == side:
        return pixels
    size = (side, round(height * side / shorter)) if width == shorter else (round(width * side / shorter), side)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if side < shorter else cv2.INTER_LINEAR)


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


class PixelStore:
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
        try:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as index:
                self._starts: NDArray[np.int64] = index["starts"]
                self._sizes: NDArray[np.int32] = index["sizes"]
            held = data.stat().st_size
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FileNotFoundError(f"there is no complete pixel store {name} in {folder}") from error
        if held != self._starts[-1]:
            raise FileNotFoundError(f"the pixel store {name} in {folder} is not complete")
        # An empty file can't be mapped.
        self._bytes = np.memmap(data, np.uint8, mode="r") if held else np.empty(0, np.uint8)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, position: int) -> NDArray[np.uint8]:
        """The picture at a position: uint8 [height, width, 3], a read-only view without a copy."""
        height, width = self._sizes[position]
        start = self._starts[position % len(self)]
        return np.asarray(self._bytes[start : start + int(height) * int(width) * 3]).reshape(height, width, 3)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width of each picture, int32 [n, 2]."""
        return self._sizes

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return int(self._starts[-1])


class PixelWriter:
    """Writes a store picture by picture; nothing can be seen of it before `commit`.

    Use it as a context manager: what is not committed is removed. Two writers may write the same
    store at once, since each has a file of its own and the later rename replaces equal content.

    Args:
        folder: Where the store will be; it is made when absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        self._folder = folder
        self._file = open_part(folder)
        self._sizes: list[tuple[int, int]] = []

    def __enter__(self) -> PixelWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        discard(self._file)

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Appends one picture, uint8 [height, width, 3]."""
        self._file.write(np.ascontiguousarray(pixels).data)
        self._sizes.append((pixels.shape[0], pixels.shape[1]))

    def commit(self, name: str) -> PixelStore:
        """Makes the store visible under its name, whole, and opens it."""
        sizes = np.array(self._sizes, np.int32).reshape(-1, 2)
        starts = np.concatenate([[0], np.cumsum(3 * sizes.astype(np.int64).prod(axis=1))])
        publish(self._file, self._folder / f"{name}.bin")
        # The index comes last: a store without one does not exist.
        save_arrays(self._folder / f"{name}.npz", {"starts": starts, "sizes": sizes})
        return PixelStore(self._folder, name)


_PART = ".part"


def open_part(folder: Path) -> IO[bytes]:
    """A new temporary file in a folder, locked for as long as it is open."""
    while True:
        number, path = tempfile.mkstemp(suffix=_PART, dir=folder)
        file = os.fdopen(number, "wb")
        fcntl.flock(number, fcntl.LOCK_EX)
        # Another process may have taken it for abandoned before the lock was ours.
        if os.fstat(number).st_nlink:
            _PATHS[file.fileno()] = Path(path)
            return file
        file.close()
