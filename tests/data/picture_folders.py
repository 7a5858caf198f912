"""Makes small folders of pictures for tests, and watches that nobody changes them."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from numpy.random import default_rng

JPEG = b"\xff\xd8\xff\xe0 enough to look like one"


def files(root: Path, *names: str, content: bytes = JPEG) -> Path:
    """Writes files with their folders, all of one content; a name that ends in a slash is a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def scene(seed: int, side: int = 64) -> np.ndarray:
    """A picture of soft blobs, as different from those of other seeds as photos are."""
    coarse = default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def pictures(root: Path, *names: str, first_seed: int = 0) -> Path:
    """Real pictures, each another scene."""
    for seed, name in enumerate(names, start=first_seed):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(os.fspath(root / name), scene(seed))
    return root


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: kinds, modes, times, links and bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, names, leaves in os.walk(root):
        for name in [*names, *leaves]:
            path = Path(folder, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
                content = path.read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = path.readlink()
            found[os.fspath(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails instead of hanging."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it hangs: not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Takes root's right to read everything away for a while; other users have no such right."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
