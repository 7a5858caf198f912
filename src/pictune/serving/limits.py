"""What the server takes at most, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass, replace

MB = 2**20
RESERVED = 48  # file descriptors for workers, logs, the event loop and the model files


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """The limits of the server, all on by default; what a picture may be is the decoder's own matter.

    Args:
        body_bytes: Of one request's body.
        held_bytes: Of all bodies that are being read or answered at one time.
        batch_images: Pictures in one request.
        queue_images: Pictures of all requests that wait or are worked on.
        request_s: From the whole body to the answer, seconds.
        header_s: From a request's first byte to the end of its headers, seconds.
        header_bytes: Of request line and headers together.
        header_count: Headers of one request.
        url_bytes: Of path and query together.
        body_s: From the end of the headers to the end of the body, seconds.
        idle_s: Of a connection that says nothing, at its start or between two requests, seconds.
        write_s: For a client to take the answer, seconds.
        linger_s: For a client that is refused to stop sending and read why, seconds.
        linger_bytes: That a client that is refused may go on sending.
        rest_bytes: Of a body that nobody read any more, up to which the connection is kept.
        closing_s: For slow bodies and slow readers once the server shuts down, seconds.
        connections: Open at one time.
        backlog: Connections that wait to be accepted.
        json_depth: Of lists and objects inside one another.
        parts: Of a form.
    """

    body_bytes: int = 16 * MB
    held_bytes: int = 256 * MB
    batch_images: int = 32
    queue_images: int = 64
    request_s: float = 30.0
    header_s: float = 10.0
    header_bytes: int = 16 * 1024
    header_count: int = 100
    url_bytes: int = 8 * 1024
    body_s: float = 30.0
    idle_s: float = 5.0
    write_s: float = 30.0
    linger_s: float = 2.0
    linger_bytes: int = 64 * MB
    rest_bytes: int = 256 * 1024
    closing_s: float = 3.0
    connections: int = 256
    backlog: int = 128
    json_depth: int = 32
    parts: int = 64

    def fitted(self, descriptors: int) -> ServerLimits:
        """The same with no more connections than the process may have files open.

        Args:
            descriptors: How many files the process may have open (``RLIMIT_NOFILE``).
        """
        free = max(descriptors - RESERVED, 8)
        # A backlog beyond the limit may be accepted at a time, and as many hear why they are refused.
        backlog = min(self.backlog, max(free // 4, 1))
        return replace(self, backlog=backlog, connections=min(self.connections, free - 2 * backlog))
