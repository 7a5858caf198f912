"""Directories of tags as TIFF and EXIF store them (TIFF 6.0; CIPA DC-008)."""

from __future__ import annotations

import re
import struct
from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple

_BYTES_OF_KIND = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_LETTER_OF_KIND = {1: "B", 3: "H", 4: "I", 13: "I"}
_MAX_NUMBERS = 1_000_000
_MAX_TEXT = 64

ORIENTATION, MAKE, MODEL, EXIF_DIRECTORY = 0x0112, 0x010F, 0x0110, 0x8769
_DATE_TAKEN, _SERIAL = 0x9003, 0xA431
_OUTER = {ORIENTATION, MAKE, MODEL, EXIF_DIRECTORY}
_INNER = {_DATE_TAKEN, _SERIAL}


@dataclass(frozen=True, slots=True)
class Exif:
    """The few EXIF fields that are used.

    Args:
        orientation: 1 to 8; 1 is upright.
        date: The day the picture was taken, ``2024-05-31``; empty when unknown.
        make: The camera's maker.
        model: The camera's model.
        serial: The camera's serial number.
        broken: Whether something could not be read.
    """

    orientation: int = 1
    date: str = ""
    make: str = ""
    model: str = ""
    serial: str = ""
    broken: bool = False


#: What is known about a file without EXIF data.
UNKNOWN = Exif()


class Entry(NamedTuple):
    """One tag: its kind, how many values, where they lie, and its twelve bytes as stored."""

    kind: int
    amount: int
    position: int
    size: int
    raw: bytes


class TagReader:
    """Reads the directories of one TIFF block.

    Args:
        data: The block; offsets count from its start.

    Raises:
        ValueError: When the block has no TIFF header.
    """

    def __init__(self, data: bytes) -> None:
        orders = {b"II*\0": "<", b"MM\0*": ">"}
        if data[:4] not in orders or len(data) < 8:
            raise ValueError("no TIFF header")
        self._data = data
        self.order = orders[data[:4]]
        self.first: int = struct.unpack_from(f"{self.order}I", data, 4)[0]

    def directory(self, position: int, *, wanted: Set[int] | None = None) -> tuple[dict[int, Entry], bool]:
        """One directory.

        Args:
            position: Where it begins.
            wanted: The tags to return; None returns all.

        Returns:
            The readable entries by tag, and whether every entry was readable.

        Raises:
            ValueError: When the directory does not lie inside the block.
        """
        if not 8 <= position <= len(self._data) - 2:
            raise ValueError("a directory lies outside the file")
        (count,) = struct.unpack_from(f"{self.order}H", self._data, position)
        end = position + 2 + 12 * count
        if end > len(self._data):
            raise ValueError("a directory is cut off")
        entries = {}
        complete = True
        pairs = struct.iter_unpack(f"{self.order}HHII", self._data[position + 2 : end])
        for start, (tag, kind, amount, offset) in zip(range(position + 2, end, 12), pairs, strict=True):
            size = _BYTES_OF_KIND.get(kind, 0) * amount
            where = offset if size > 4 else start + 8
            readable = kind in _BYTES_OF_KIND and where + size <= len(self._data)
            complete = complete and readable
            if readable and (wanted is None or tag in wanted):
                entries[tag] = Entry(kind, amount, where, size, self._data[start : start + 12])
        return entries, complete

    def following(self, position: int) -> int:
        """Where the directory after the one at a position lies; 0 when there is none."""
        if not 8 <= position <= len(self._data) - 2:
            return 0
        (count,) = struct.unpack_from(f"{self.order}H", self._data, position)
        end = position + 2 + 12 * count
        return struct.unpack_from(f"{self.order}I", self._data, end)[0] if end + 4 <= len(self._data) else 0

    def numbers(self, entry: Entry | None) -> tuple[int, ...]:
        """An entry's whole numbers; empty when it is absent or holds something else."""
        if entry is None or entry.kind not in _LETTER_OF_KIND or entry.amount > _MAX_NUMBERS:
            return ()
        pattern = f"{self.order}{entry.amount}{_LETTER_OF_KIND[entry.kind]}"
        return struct.unpack_from(pattern, self._data, entry.position)

    def text(self, entry: Entry | None) -> str:
        """An entry's text, printable and short; empty when it is absent or holds something else."""
        if entry is None or entry.kind not in (2, 7):
            return ""
        raw = self._data[entry.position : entry.position + min(entry.size, _MAX_TEXT)]
        text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        return "".join(letter for letter in text if letter.isprintable()).strip()

    def block(self, entry: Entry | None) -> bytes | None:
        """An entry's bytes; None when it is absent."""
        return None if entry is None else self._data[entry.position : entry.position + entry.size]


def read_exif(block: bytes | None) -> Exif:
    """The EXIF fields in a block as JPEG, PNG and WebP carry it; broken blocks give the defaults."""
    if block is None:
        return UNKNOWN
    try:
        reader = TagReader(block.removeprefix(b"Exif\0\0"))
        entries, complete = reader.directory(reader.first, wanted=_OUTER)
    except ValueError:
        return Exif(broken=True)
    return exif_of(reader, entries, complete=complete)


def exif_of(reader: TagReader, entries: dict[int, Entry], *, complete: bool) -> Exif:
    """The EXIF fields of a directory and of the EXIF directory it points to."""
    inner: dict[int, Entry] = {}
    pointer = reader.numbers(entries.get(EXIF_DIRECTORY))
    if pointer:
        try:
            inner, inner_complete = reader.directory(pointer[0], wanted=_INNER)
            complete = complete and inner_complete
        except ValueError:
            complete = False
    orientation = (reader.numbers(entries.get(ORIENTATION)) or (1,))[0]
    valid = 1 <= orientation <= 8
    # Some cameras write 0 where they do not know; that is no damage.
    broken = not complete or not (valid or orientation == 0)
    day = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)", reader.text(inner.get(_DATE_TAKEN)))
    return Exif(
        orientation=orientation if valid else 1,
        date="-".join(day.groups()) if day and day[1] != "0000" else "",
        make=reader.text(entries.get(MAKE)),
        model=reader.text(entries.get(MODEL)),
        serial=reader.text(inner.get(_SERIAL)),
        broken=broken,
    )
