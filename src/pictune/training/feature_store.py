"""Activations of frozen layers on disk: computed once a picture and view, mapped into memory ever after.

An *entry* holds what one network part says of one view of every picture of a dataset. Its rows are
filled when they are first wanted, by whichever process comes first.

A row counts as written only when its bytes are safely on disk: they are synced first, then the file of
rows is replaced in one step. A row that is there never changes. So a kill or a power cut at any moment
loses rows, but never shows a wrong one. Files and locks: `pictune.training.feature_folder`.

Shapes: N pictures of the dataset, m rows asked for, f the shape of one row, (2048,) or (1024, 10, 10).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pictune.data.pixels import load_arrays, save_arrays
from pictune.errors import MachineError
from pictune.files import disk_errors, replace_file, sweep, sync_folder, write_json
from pictune.training.feature_folder import (
    BITS,
    Dtype,
    Record,
    allocated,
    locked,
    paths_of,
    wait_for,
    write_at,
)

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Facts = Mapping[str, str]
Layout = tuple[int, tuple[int, ...], Dtype]  # N, f, and how values are stored

#: Changes when the layout of the files changes; older entries are then not found.
VERSION = 1
#: After so many bytes the rows are synced and count: a kill costs a second of work, not an epoch.
COMMIT_BYTES = 64 * 2**20

_EXPONENTS = {"float16": np.int16(0x7C00), "bfloat16": np.int16(0x7F80), "float32": np.int32(0x7F800000)}
_SPOTS = 16  # rows whose checksum is verified when an entry is opened


class FeatureOverflowError(ValueError):
    """A value is infinite or no number in the type that an entry stores; nothing of the call was kept."""


def feature_key(*, weights: str, pixels: str, view: str, dtype: Dtype) -> str:
    """The name of an entry: 40 hexadecimal digits.

    Args:
        weights: SHA-256 of the frozen tensors and of the boundary they end at.
        pixels: The name of the pixel store, which stands for the pictures and their order.
        view: A text that identifies the view: sides, fit, normalisation, augmentation and its seed.
        dtype: How values are stored.
    """
    return hashlib.sha256(json.dumps([VERSION, weights, pixels, view, dtype]).encode()).hexdigest()[:40]


class FeatureEntry:
    """One view of every picture: values [N, *f], mapped from a file. Made by `open`.

    While it is open in any living process it is not removed. It is released by `close`, at the end of
    a ``with``, or when it is forgotten.
    """

    _bits: NDArray[Any]  # [N, product of f], the stored bits
    _there: NDArray[np.bool_]  # [N]
    _checksums: NDArray[np.uint32]  # [N], CRC-32 of each row that is there
    _look: tuple[int, ...]  # how the file of rows looked when it was last read
    _token: str
    _identity: tuple[int, int]

    def __init__(self, folder: Path, key: str, *, layout: Layout, facts: Facts) -> None:
        assert re.fullmatch("[0-9a-f]{40}", key), "a key is what feature_key gave"
        self.folder, self.key = folder, key
        self.rows, self.shape, self.dtype = layout
        self._facts = dict(facts)
        self._json, self._bin, self._index = paths_of(folder, key)
        with locked(folder):
            self._attach()

    @classmethod
    def open(
        cls, folder: Path, key: str, *, rows: int, shape: tuple[int, ...], dtype: Dtype, facts: Facts
    ) -> FeatureEntry:
        """Opens an entry; makes it when it is absent, damaged or of another shape.

        Args:
            folder: Where entries are kept; made when absent.
            key: Its name, from `feature_key`.
            rows: N.
            shape: f. A row is stored in the order given; a network that computes with channels last
                is served best by rows (height, width, channels), shown to it by a ``permute``.
            dtype: How values are stored. float16 keeps 11 bits up to 65,504; bfloat16 8 bits of any size.
            facts: What people are told about it, such as network, boundary and view.

        Raises:
            MachineError: When the disk is full or may not be written.
        """
        return cls(folder, key, layout=(rows, tuple(shape), dtype), facts=facts)

    def __enter__(self) -> FeatureEntry:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files; the entry cannot be read any more, and may be removed."""
        self._bits = self._bits[:0].copy()
        self._there[:] = False
        self._token = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all N rows, written or not."""
        return self.rows * self._row_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes that the rows really take on disk."""
        return allocated(self._bin)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype](0).itemsize

    def missing(self, rows: Rows) -> Rows:
        """Those of the rows that are not there yet: each once, in ascending order.

        What other processes have added meanwhile is seen.
        """
        self._refresh()
        return np.unique(rows[~self._there[rows]])

    def read(self, rows: Rows, *, as_stored: bool = False) -> torch.Tensor:
        """Values of rows that are there, in the order given: a copy [m, *f], float32.

        Args:
            rows: int64 [m], each from 0 to N - 1; repetitions are fine.
            as_stored: Gives them in the stored type: half the bytes to bring to a GPU.

        Raises:
            KeyError: When a row is not there.
        """
        import torch

        if not self._there[rows].all() and len(absent := self.missing(rows)):
            raise KeyError(f"rows {absent[:5].tolist()} of {self.key} are not there")
        # Measured: NumPy gathers rows faster than PyTorch, and PyTorch widens them far faster than NumPy.
        bits = np.take(self._bits, rows, axis=0)
        values = torch.from_numpy(bits).view(_torch_dtype(self.dtype)).reshape(len(rows), *self.shape)
        return values if as_stored else values.float()

    @contextmanager
    def filling(self, *, waiting: Callable[[], None] | None = None) -> Iterator[Filler]:
        """Makes this process the one that adds rows, and waits while another one is.

        Ask the filler again what is missing: the other process may have added it. Hold one entry at
        a time; two processes that each wait for what the other holds would wait forever.

        Args:
            waiting: Called several times a second while another process fills the entry; it may
                raise, for instance because a signal came.

        Raises:
            MachineError: When the disk is full or may not be written. Rows that were written whole
                before that are kept.
        """
        claim, data = self._claim(waiting or (lambda: None))
        with claim, data:
            filler = Filler(self, data)
            try:
                yield filler
            except BaseException:
                # The first reason is the one to tell; what was written whole is kept if that is possible.
                with suppress(MachineError):
                    filler.commit()
                raise
            filler.commit()

    def _claim(self, waiting: Callable[[], None]) -> tuple[BinaryIO, BinaryIO]:
        """The locked json and the data of this entry, open for writing."""
        while True:
            with locked(self.folder), disk_errors(self._json):
                if not self._is_current():
                    self._attach()
                claim = self._json.open("rb+")
            try:
                wait_for(claim, waiting)
                with locked(self.folder), disk_errors(self._bin):
                    # While we waited, somebody may have found the entry damaged and made it anew.
                    if self._is_current():
                        self._refresh(certainly=True)
                        return claim, self._bin.open("rb+", buffering=0)
            except BaseException:
                claim.close()
                raise
            claim.close()

    # What follows here needs the folder's lock.

    def _attach(self) -> None:
        """Finds the files or makes them, and maps them."""
        if not self._load():
            self._make()
            whole = self._load()
            assert whole, "what was just made is whole"
        # The time of the last use is kept where no reader and no backup changes it.
        with disk_errors(self._json):
            os.utime(self._json)
            sweep(self.folder)

    def _load(self) -> bool:
        """Maps the files; False when they are absent, damaged, or of another shape."""
        record = Record.read(self._json)
        wanted = (self.rows, self.shape, self.dtype)
        if record is None or (record.rows, record.shape, record.dtype) != wanted or not self._bin.is_file():
            return False
        with disk_errors(self._bin), self._bin.open("rb") as stream:
            state = os.fstat(stream.fileno())
            if state.st_size != self.nbytes:
                return False
            # The map keeps the open file and with it this lock, until it is forgotten.
            fcntl.flock(stream, fcntl.LOCK_SH)
            shape, kind = (self.rows, math.prod(self.shape)), BITS[self.dtype]
            mapped = np.memmap(stream, kind, "r", shape=shape) if self.nbytes else np.empty(shape, kind)
        self._bits = mapped.view(np.ndarray)
        self._token, self._identity = record.token, (state.st_dev, state.st_ino)
        self._there = np.zeros(self.rows, np.bool_)
        self._checksums = np.zeros(self.rows, np.uint32)
        self._look = ()
        self._refresh(certainly=True)
        return self._spots_fit()

    def _make(self) -> None:
        """Makes the entry anew; whoever has an old one open keeps that, as files are only replaced."""
        with disk_errors(self._json):
            for path in (self._json, self._index, self._bin):
                path.unlink(missing_ok=True)
            # An old record must never meet the new, empty rows, not even after a power cut.
            sync_folder(self.folder)
        replace_file(self._bin, lambda temporary: os.truncate(temporary, self.nbytes))
        made = datetime.now(UTC).isoformat(timespec="seconds")
        record = Record(secrets.token_hex(16), self.rows, self.shape, self.dtype, made, self._facts)
        write_json(self._json, asdict(record))

    def _is_current(self) -> bool:
        """Whether the files in the folder are still those that we have mapped."""
        record = Record.read(self._json)
        try:
            state = self._bin.stat()
        except OSError:
            return False
        same = (state.st_dev, state.st_ino) == self._identity and state.st_size == self.nbytes
        return same and record is not None and record.token == self._token

    def _commit(self) -> None:
        """Makes all rows that we know of count; their bytes must have been synced."""
        if self._is_current():
            token = np.frombuffer(self._token.encode(), np.uint8)
            arrays = {"token": token, "there": self._there, "checksums": self._checksums}
            save_arrays(self._index, arrays)
        else:
            log.warning("The stored features %s were removed or replaced while they were written.", self.key)

    # What follows here needs no lock.

    def _refresh(self, *, certainly: bool = False) -> None:
        """Takes note of rows that were added since the last look."""
        try:
            state = self._index.stat()
        except OSError:
            return
        look = (state.st_ino, state.st_mtime_ns, state.st_size)
        if not certainly and look == self._look:
            return
        self._look = look
        arrays = load_arrays(self._index, {"token", "there", "checksums"})
        if arrays is None or arrays["token"].tobytes() != self._token.encode():
            return
        there, checksums = arrays["there"], arrays["checksums"]
        if there.shape == checksums.shape == (self.rows,) and there.dtype == np.bool_:
            self._checksums[there] = checksums[there]
            self._there |= there

    def _spots_fit(self) -> bool:
        """Whether some rows, evenly spread over those that are there, hold what was written."""
        there = np.flatnonzero(self._there)
        spots = there[np.linspace(0, len(there) - 1, min(len(there), _SPOTS)).astype(np.int64)]
        return all(zlib.crc32(self._bits[row]) == self._checksums[row] for row in spots)


class Filler:
    """Adds rows to an entry; given by `FeatureEntry.filling`."""

    def __init__(self, entry: FeatureEntry, data: BinaryIO) -> None:
        self._entry, self._data = entry, data
        self._pending: list[Rows] = []
        self._pending_bytes = 0

    def missing(self, rows: Rows) -> Rows:
        """Those of the rows that are not there yet: each once, in ascending order."""
        return np.unique(rows[~self._entry._there[rows]])

    def write(self, rows: Rows, values: torch.Tensor | NDArray[np.float32]) -> None:
        """Adds rows; those that are there already stay as they are.

        Args:
            rows: int64 [m], each from 0 to N - 1.
            values: [m, *f], on any device.

        Raises:
            FeatureOverflowError: When a value is not finite in the stored type.
            MachineError: When the disk is full or may not be written.
        """
        entry = self._entry
        assert not self._data.closed, "a filler writes only inside its with"
        assert not len(rows) or (rows.min() >= 0 and rows.max() < entry.rows), "rows of the entry"
        bits = _to_bits(values, (len(rows), *entry.shape), entry.dtype)
        unique, first = np.unique(rows, return_index=True)
        absent = ~entry._there[unique]
        if not absent.any():
            return
        rows, bits = unique[absent], bits[first[absent]]
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        with disk_errors(entry._bin):
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                # Not through the map: writing there to a full disk would end the process with SIGBUS.
                write_at(self._data, int(rows[start]) * entry._row_bytes, bits[start:stop])
        self._pending.append(rows)
        entry._checksums[rows] = [zlib.crc32(row) for row in bits]
        entry._there[rows] = True
        self._pending_bytes += bits.nbytes
        if self._pending_bytes >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Makes all rows written so far count, for every process and after every kill."""
        if not self._pending:
            return
        entry = self._entry
        try:
            with disk_errors(entry._bin):
                os.fsync(self._data.fileno())
        except (MachineError, OSError):
            # After a failed sync the system may have dropped the bytes, and a second sync would not say so.
            entry._there[np.concatenate(self._pending)] = False
            self._pending, self._pending_bytes = [], 0
            raise
        with locked(entry.folder):
            entry._commit()
        self._pending, self._pending_bytes = [], 0


def _torch_dtype(dtype: Dtype) -> torch.dtype:
    import torch

    return {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]


def _to_bits(
    values: torch.Tensor | NDArray[np.float32], shape: tuple[int, ...], dtype: Dtype
) -> NDArray[Any]:
    """Values as they are stored: [m, *f] to integers of the same bits [m, product of f]."""
    import torch

    if not isinstance(values, torch.Tensor):
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    assert values.shape == shape, f"values {tuple(values.shape)} do not fit rows and shape {shape}"
    stored = values.detach().to(_torch_dtype(dtype)).cpu().contiguous()
    bits = stored.view(torch.int32 if dtype == "float32" else torch.int16).numpy()
    # Infinite and no number are those with all exponent bits set; torch.isfinite takes ten times as long.
    exponent = _EXPONENTS[dtype]
    if ((bits & exponent) == exponent).any():
        raise FeatureOverflowError(f"a feature is infinite or no number in {dtype}")
    return bits.reshape(shape[0], math.prod(shape[1:]))
