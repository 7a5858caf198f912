"""How many connections there are, and which one goes when there is no room for another."""

from __future__ import annotations

from typing import Protocol

from pictune.serving.limits import ServerLimits
from pictune.serving.metrics import Metrics

LINGERERS = 64  # connections that may be heard out at one time after they were refused


class Evictable(Protocol):
    """A connection."""

    def evict(self) -> None:
        """Another connection needs its place."""


class Connections:
    """All connections of one server, and which of them have no request.

    Args:
        limits: How many there may be.
        metrics: Counts them.
    """

    def __init__(self, limits: ServerLimits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self._held: set[Evictable] = set()
        self._lingering: set[Evictable] = set()
        # In the order in which they began to be silent: the first has been so for longest.
        self._silent: dict[Evictable, None] = {}

    def enter(self, connection: Evictable) -> bool:
        """Whether there is room for one more, be it in the place of a silent one."""
        if len(self._held) >= self.limits.connections:
            if not self._silent:
                self.metrics.connection_refused()
                return False
            longest = next(iter(self._silent))
            self._give_up(longest)
            longest.evict()
        self._held.add(connection)
        self.metrics.connection_opened()
        return True

    def leave(self, connection: Evictable) -> None:
        """A connection is gone."""
        self._give_up(connection)
        self._lingering.discard(connection)

    def linger(self, connection: Evictable) -> bool:
        """Whether a connection that was refused may be heard out; it does not count as open any more."""
        self._give_up(connection)
        if len(self._lingering) >= min(LINGERERS, self.limits.backlog):
            return False
        self._lingering.add(connection)
        return True

    def silent(self, connection: Evictable) -> None:
        """A connection waits for its next request."""
        if connection in self._held:
            self._silent[connection] = None

    def busy(self, connection: Evictable) -> None:
        """A connection has a request, or is closing: it keeps its place."""
        self._silent.pop(connection, None)

    def _give_up(self, connection: Evictable) -> None:
        self._silent.pop(connection, None)
        if connection in self._held:
            self._held.discard(connection)
            self.metrics.connection_closed()
