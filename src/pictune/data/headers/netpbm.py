"""The headers of PBM, PGM and PPM files."""

from __future__ import annotations

import re

from pictune.data.headers.header import Header, Limits, normalise, refuse

# Numbers are parted by white space and by comments; exactly one white space stands before the pixels.
_GAP = rb"(?:\s|#[^\r\n]{0,1000}[\r\n])+"
_BITMAP = re.compile(rb"P[14]" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})\s")
_OTHERS = re.compile(rb"P[2356]" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")
_AGAIN = "Copy or download it again."


def read_netpbm(data: bytes, limits: Limits) -> Header:
    """Reads size and depth, and whether all pixels are there.

    Raises:
        DataError: ``truncated``, ``corrupt`` or a size out of bounds.
    """
    kind = data[1:2]
    match = (_BITMAP if kind in b"14" else _OTHERS).match(data[:65536])
    if match is None:
        raise refuse("corrupt", "The header of the PPM cannot be read.", _AGAIN)
    width, height, *rest = (int(number) for number in match.groups())
    limits.check_size(width, height)
    largest = rest[0] if rest else 1
    if not 1 <= largest <= 65535:
        raise refuse("corrupt", f"The PPM says its largest value is {largest}.", _AGAIN)
    depth = 16 if largest > 255 else 8
    row = -(-width // 8) if kind in b"14" else width * (3 if kind in b"36" else 1) * depth // 8
    if kind in b"456" and len(data) - match.end() < row * height:
        raise refuse("truncated", "The PPM ends before its picture does.", _AGAIN)
    notes = (normalise("sixteen_bit", "16 bits a channel; scaled to 8."),) if depth == 16 else ()
    return Header("ppm", width, height, data, notes)
