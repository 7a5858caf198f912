"""A server under load for long: does it fail, and does it grow?

    python benchmarks/soak.py exports/teal-fox.pictune [--minutes 10] [--bad 0.01]

Eight clients ask without a pause: JPEG, PNG and WebP of many sizes, as the body itself, in forms and as
base64, alone and up to five together. One request in a hundred is bad: a cut or no picture, a picture too
large to be opened, no body, a wrong field, nonsense instead of JSON. Every good one must be answered with
200, every bad one with a status from 400 to 499. Memory (resident, of all the server's processes together)
and open files are read every five seconds; the second tenth of the time is compared with the last. Ends with
1 when a request failed or memory grew by more than 5 %.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import selectors
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from clients import Answers, Connection
from serve import BOUNDARY, plain, request, started

CLIENTS = 8
LOOK = 5.0  # seconds between two looks at memory
GROWTH = 0.05
SIDES = ((64, 48), (200, 200), (500, 375), (640, 480), (333, 1000), (1600, 1200), (30, 900))
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Course:
    """What was seen, minute by minute."""

    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def look(self, seconds: float, server: int) -> None:
        """Reads memory and open files of a server and all its children."""
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        processes = [Path(f"/proc/{number}") for number in (server, *map(int, children))]
        self.seconds.append(seconds)
        self.memory.append(sum(int((p / "statm").read_text().split()[1]) * PAGE for p in processes))
        self.files.append(sum(len(list((p / "fd").iterdir())) for p in processes))

    def between(self, values: list[int], begin: float, end: float) -> float:
        """The median of what was read between two instants."""
        return statistics.median(
            v for v, second in zip(values, self.seconds, strict=True) if begin <= second <= end
        )


def pictures(generator: np.random.Generator) -> list[tuple[str, bytes]]:
    """Media types and files, of many sizes."""
    found = []
    for width, height in SIDES:
        coarse = generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        for ending, media in ((".jpg", "image/jpeg"), (".png", "image/png"), (".webp", "image/webp")):
            found.append((media, cv2.imencode(ending, pixels)[1].tobytes()))
    return found


def form(files: list[tuple[str, bytes]], name: str = "image") -> bytes:
    """A request with pictures as fields of a form."""
    head = b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\nContent-Type: %s\r\n\r\n'
    parts = [head % (BOUNDARY, name.encode(), media.encode()) + data + b"\r\n" for media, data in files]
    body = b"".join(parts) + b"--%s--\r\n" % BOUNDARY
    return request("/v1/predict", b"multipart/form-data; boundary=" + BOUNDARY, body)


def encoded(files: list[tuple[str, bytes]]) -> bytes:
    """A request with pictures as base64 in JSON."""
    images = [base64.b64encode(data).decode() for _, data in files]
    return request("/v1/predict", b"application/json", json.dumps({"images": images}).encode())


def good(files: list[tuple[str, bytes]], chance: random.Random) -> bytes:
    """One of the ways to ask about pictures."""
    several = chance.sample(files, chance.randint(1, 5))
    media, data = several[0]
    ways = (
        lambda: request("/v1/predict", media.encode(), data),
        lambda: form(several[:1]),
        lambda: form(several),
        lambda: encoded(several[:2]),
    )
    return chance.choice(ways)()


def bad(files: list[tuple[str, bytes]], chance: random.Random) -> bytes:
    """One of the ways to ask what cannot be answered."""
    media, data = chance.choice(files)
    blank = np.zeros((9000, 9000), np.uint8)  # more pixels than a picture may have
    ways = (
        lambda: request("/v1/predict", media.encode(), data[: len(data) // 3]),
        lambda: request("/v1/predict", media.encode(), b"this is no picture"),
        lambda: request("/v1/predict", b"image/png", cv2.imencode(".png", blank)[1].tobytes()),
        lambda: plain(b""),
        lambda: form([(media, data)], name="picture"),
        lambda: request("/v1/predict", b"application/json", b'{"image": "***"}'),
        lambda: request("/v1/predict", b"application/json", b'{"image": '),
        lambda: request("/v1/predict?top_k=-1", media.encode(), data),
        lambda: request("/v1/models/nobody/predict", media.encode(), data),
    )
    return chance.choice(ways)()


def soak(port: int, server: int, *, seconds: float, share: float) -> tuple[Answers, Answers, Course]:
    """Asks for so long; what the good and the bad requests heard, and how the server fared."""
    chance, files = random.Random(0), pictures(np.random.default_rng(0))
    fine = [good(files, chance) for _ in range(200)]
    ill = [bad(files, chance) for _ in range(30)]
    heard = {True: Answers(), False: Answers()}
    course, kinds = Course(), dict[int, bool]()
    with selectors.DefaultSelector() as selector:

        def ask(connection: Connection) -> None:
            kinds[id(connection)] = kind = chance.random() >= share
            connection.ask(chance.choice(fine if kind else ill), time.perf_counter())

        began = time.perf_counter()
        connections = [Connection(port, selector) for _ in range(CLIENTS)]
        for connection in connections:
            ask(connection)
        waiting, look = CLIENTS, 0.0
        while waiting:
            for key, events in selector.select():
                if key.data.go_on(events, heard[kinds[id(key.data)]]):
                    if time.perf_counter() - began < seconds:
                        ask(key.data)
                    else:
                        waiting -= 1
            if time.perf_counter() - began >= look:
                course.look(look, server)
                look += LOOK
        for connection in connections:
            connection.close()
    return heard[True], heard[False], course


def report(fine: Answers, ill: Answers, course: Course, seconds: float) -> bool:
    """Prints what was found; whether it holds."""
    step = seconds / 10
    early, late = (step, 2 * step), (seconds - step, seconds)
    for number in range(10):
        inside = (number * step, (number + 1) * step)
        memory, files = (course.between(values, *inside) for values in (course.memory, course.files))
        print(f"{inside[1] / 60:5.1f} min  {memory / 2**20:7.1f} MiB  {files:.0f} files")
    before, after = course.between(course.memory, *early), course.between(course.memory, *late)
    ranked = sorted(fine.took)
    failed = len(fine.refused) + len(fine.others)
    wrong = len(ill.took) + len(ill.refused) + sum(not 400 <= status < 500 for status in ill.others)
    print(f"good requests: {fine.count}, not answered with 200: {failed} (0)")
    print(f"bad requests: {ill.count}, not answered with 4xx: {wrong} (0)")
    print(
        f"p50 {1000 * ranked[len(ranked) // 2]:.0f} ms, p99 {1000 * ranked[int(len(ranked) * 0.99)]:.0f} ms"
    )
    print(f"memory from the second to the last tenth: {100 * (after / before - 1):+.1f} % (within 5 %)")
    return failed == wrong == 0 and ill.count > 0 and after <= before * (1 + GROWTH)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--bad", type=float, default=0.01, help="share of bad requests")
    given = parser.parse_args()
    child, port, _ = started(given.artifact)
    try:
        seen = soak(port, child.pid, seconds=60 * given.minutes, share=given.bad)
    finally:
        child.send_signal(signal.SIGTERM)
        ended = child.wait(60)
    holds = report(*seen, seconds=60 * given.minutes)
    print(f"server ended with {ended} (0)")
    raise SystemExit(0 if holds and ended == 0 else 1)


if __name__ == "__main__":
    main()
