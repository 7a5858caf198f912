"""Clients of an HTTP server in one thread, so light that they hardly take time from it on the same machine.

They keep their connections. `crowd` asks again as soon as it was answered; `stream` asks at a given rate,
whatever becomes of it, as a public does.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

MOST = 200  # connections of a stream; fewer than a server takes
STEP = 2**18  # bytes read at a time


@dataclass
class Answers:
    """What was heard.

    Args:
        took: Seconds from asking to each answer with status 200.
        refused: The same of each 503.
        others: Other statuses, and -1 for a connection that broke.
        late: Requests that no connection was left for.
    """

    took: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    unsure: int = 0  # refused without a header Retry-After
    late: int = 0

    @property
    def count(self) -> int:
        """Of all answers."""
        return len(self.took) + len(self.refused) + len(self.others)

    def figures(self, seconds: float) -> dict[str, float]:
        """Answers a second, and how long they took."""
        ranked = sorted(self.took) or [float("nan")]
        refused = sorted(self.refused) or [0.0]
        return {
            "rate": len(self.took) / seconds,
            "p50": ranked[len(ranked) // 2],
            "p99": ranked[min(int(len(ranked) * 0.99), len(ranked) - 1)],
            "refused": float(len(self.refused)),
            "refusal_p50": statistics.median(refused),
            "refusal_p99": refused[min(int(len(refused) * 0.99), len(refused) - 1)],
            "refused_without_retry": float(self.unsure),
            "others": float(len(self.others)),
            "late": float(self.late),
        }


class Connection:
    """One connection, and the request that is on its way over it."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self._port, self._selector = port, selector
        self._socket: socket.socket | None = None
        self._left = memoryview(b"")
        self._heard = bytearray()
        self._asked = 0.0

    def ask(self, request: bytes, asked: float) -> None:
        """Sends a request; at most one is on its way.

        Args:
            request: All of it.
            asked: Since when its answer is waited for, of `time.perf_counter`.
        """
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(self._socket, selectors.EVENT_READ, self)
        self._left, self._asked = memoryview(request), asked
        self._heard.clear()
        self._write()

    def _write(self) -> None:
        assert self._socket is not None
        try:
            self._left = self._left[self._socket.send(self._left) :]
        except BlockingIOError:
            pass  # the other side is slow to take it: the selector tells when it does
        except OSError:
            self._left = memoryview(b"")  # it answers without hearing all; that is read below
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._left else 0)
        if self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events, self)

    def go_on(self, events: int, answers: Answers) -> bool:
        """Goes on as far as it goes; whether the answer is there, or none will come."""
        assert self._socket is not None
        if events & selectors.EVENT_WRITE:
            self._write()
        if not events & selectors.EVENT_READ:
            return False
        try:
            piece = self._socket.recv(STEP)
        except OSError:
            piece = b""
        self._heard += piece
        if not piece:
            self.close()
            answers.others.append(-1)
            return True
        head, end, body = bytes(self._heard).partition(b"\r\n\r\n")
        if not end:
            return False
        lower = head.lower()
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return False
        self._note(int(head[9:12]), lower, answers)
        if b"connection: close" in lower or self._left:
            self.close()
        return True

    def _note(self, status: int, head: bytes, answers: Answers) -> None:
        took = time.perf_counter() - self._asked
        if status == 200:
            answers.took.append(took)
        elif status == 503:
            answers.refused.append(took)
            answers.unsure += b"\r\nretry-after: " not in head
        else:
            answers.others.append(status)

    def close(self) -> None:
        """Ends the connection; the next question opens another."""
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def crowd(
    port: int, requests: Sequence[bytes], *, clients: int, seconds: float, beside: Sequence[bytes] = ()
) -> dict[str, float]:
    """So many clients, each of which asks again as soon as it was answered.

    Args:
        port: Of the server.
        requests: What they ask, in turn.
        clients: How many.
        seconds: How long.
        beside: What one client more asks without a pause; its answers count as ``bad`` and, from 500 on or
            when there is none, as ``bad_failed``.
    """
    answers, ill = Answers(), Answers()
    with selectors.DefaultSelector() as selector:
        connections = [Connection(port, selector) for _ in range(clients)]
        culprit = Connection(port, selector) if beside else None
        started = time.perf_counter()
        for number, connection in enumerate(connections):
            connection.ask(requests[number % len(requests)], time.perf_counter())
        if culprit is not None:
            culprit.ask(beside[0], started)
        number = waiting = clients
        while waiting:
            for key, events in selector.select():
                connection, into = key.data, ill if key.data is culprit else answers
                if not connection.go_on(events, into):
                    continue
                now = time.perf_counter()
                if now >= started + seconds:
                    waiting -= connection is not culprit
                elif connection is culprit:
                    connection.ask(beside[ill.count % len(beside)], now)
                else:
                    connection.ask(requests[number % len(requests)], now)
                    number += 1
        spent = time.perf_counter() - started
        for connection in (*connections, *([culprit] if culprit else [])):
            connection.close()
    failed = len(ill.refused) + sum(status < 0 or status >= 500 for status in ill.others)
    return {**answers.figures(spent), "bad": float(ill.count), "bad_failed": float(failed)}


def stream(port: int, requests: Sequence[bytes], *, rate: float, seconds: float) -> dict[str, float]:
    """So many requests a second on average, at drawn instants, whether or not the ones before are answered.

    An answer counts from the instant at which its request was due. What is answered after the last request
    was due does not count into the rate.
    """
    generator = np.random.default_rng(0)
    due = np.cumsum(generator.exponential(1 / rate, int(rate * seconds))).tolist()
    answers, within = Answers(), 0
    with selectors.DefaultSelector() as selector:
        idle = [Connection(port, selector) for _ in range(MOST)]
        started = time.perf_counter()
        number = waiting = 0
        while number < len(due) or waiting:
            now = time.perf_counter() - started
            while number < len(due) and due[number] <= now:
                if idle:
                    idle.pop().ask(requests[number % len(requests)], started + due[number])
                    waiting += 1
                else:
                    answers.late += 1
                number += 1
            left = max(0.0, due[number] - (time.perf_counter() - started)) if number < len(due) else None
            for key, events in selector.select(left):
                if key.data.go_on(events, answers):
                    idle.append(key.data)
                    waiting -= 1
            if time.perf_counter() - started <= due[-1]:
                within = len(answers.took)
        for connection in idle:
            connection.close()
    return {**answers.figures(due[-1]), "rate": within / due[-1]}
