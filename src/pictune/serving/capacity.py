"""How much a server takes on at a time: of one model, in one worker."""

from __future__ import annotations

from dataclasses import dataclass

DECODERS = 2  # threads that open pictures; together they outrun any network on the same processors


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many pictures wait and are worked on at a time, how, and how long.

    A picture that is alone gets every thread; two at a time each get half of them, in a second session, since
    threads that share one call wait for one another at the end of every layer. More calls at a time gain
    nothing, and neither do larger batches on a processor; they may on a graphics card.

    Args:
        threads: That compute one call of the network.
        max_batch: Pictures in one call at most; only what is ready at that moment is taken together.
        queue: Unanswered pictures at a time; more are refused.
        deadline: From asking to the answer, seconds; also how long a worker may sit over one picture.
        headroom: Bytes of memory that answering may take beyond the loaded model; None for any number.
    """

    threads: int = 1
    max_batch: int = 1
    queue: int = 64
    deadline: float = 30.0
    headroom: int | None = None

    @property
    def calls(self) -> int:
        """Calls of the network at a time."""
        return min(2, self.threads)

    @property
    def most_threads(self) -> int:
        """That a worker may need beside its first: for both sessions, decoding, and each call."""
        return self.threads + -(-self.threads // self.calls) + DECODERS + self.calls

    @property
    def window(self) -> int:
        """Pictures in the worker at a time: enough to keep it busy; the rest can still be dropped."""
        return max(2 * self.threads, 2 * self.max_batch)
