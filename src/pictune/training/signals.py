"""Ctrl-C and SIGTERM as a question that the loop can ask between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_signal() -> Iterator[Callable[[], int]]:
    """Inside, the first SIGINT or SIGTERM is only remembered; a second one ends the process at once.

    Yields:
        A function that gives the number of the signal that came, or 0. Outside the main thread
        signals cannot be caught, and it always gives 0.
    """
    came = 0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            os._exit(128 + number)
        came = number

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
