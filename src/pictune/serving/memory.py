"""Memory that large requests took goes back to the system when they are over."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE = 2**20  # bytes


def give_back_large_blocks() -> bool:
    """Tells the C library to return every block over 1 MB to the system when it is freed.

    Left to itself, glibc raises that limit with the first large block that is freed, up to 32 MB, and keeps
    what bodies leave behind: after a storm of them the process stayed 86 MB larger, and so 9 MB.

    Returns:
        Whether the C library knows such a setting; others than glibc don't.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE))
