"""When something must be over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Deadline:
    """One deadline that is set anew again and again.

    Args:
        loop: That keeps the time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._next: tuple[float, Callable[[], Any]] | None = None
        self._held = self._changed = False

    def set(self, seconds: float, late: Callable[[], Any]) -> None:
        """Takes the place of what was set before.

        Args:
            seconds: From now on.
            late: Is called when they are over.
        """
        self._next, self._changed = (seconds, late), True
        self._apply()

    def clear(self) -> None:
        """Nothing must be over any more."""
        self._next, self._changed = None, True
        self._apply()

    def hold(self) -> None:
        """Until `release` deadlines are only noted: of many within one turn the last one counts."""
        self._held = True

    def release(self) -> None:
        """The last one that was noted holds from now on."""
        self._held = False
        self._apply()

    def _apply(self) -> None:
        if self._held or not self._changed:
            return
        self._changed = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._next is None else self._loop.call_later(*self._next)
