"""What the server costs: beside the same work done in one process, one picture after the other.

    python benchmarks/serve.py exports/teal-fox.pictune [--rounds 5] [--seconds 4] [--litserve FOLDER]

The pictures are 500 x 375 JPEGs of about 70 KB, drawn here. *In process* is decode, resize, network and
answer, with as many threads as the server has. The clients share the processors with the server. Each round
measures everything once, so that a busy machine slows all alike; figures are medians. What is in process and
what one client gets differ by less than such a machine changes within seconds: a round changes from one to
the other eight times.

Printed are the raw numbers of every round and then: throughput of 8 clients beside in process (>= 1.0), p50
of one client less in process (<= 2 ms), p99 / p50 of 16 clients (<= 2.5); p99 of 8 clients beside one that
sends nothing but bad requests, and beside one whose bad requests have up to 15 MB (<= 2 times); and where
four times as many requests come as could be answered: answers beside the best throughput (>= 0.85), and how
long a refusal takes (<= 100 ms).

With ``--litserve``, a folder made by ``pip install --target FOLDER litserve``, the same file and the same
preprocessing behind LitServe are measured in the same rounds, with one worker of all threads, as it comes,
and with one worker a processor (>= 1.2). Both servers get the same forms. LitServe sleeps while others are
measured, and is warmed up for a second when it wakes.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
from clients import crowd, stream

from pictune.exporting.exported import Exported

PICTURES = 16
CROWDS = (8, 16)
SLICES = 8  # of a round, each of them in process and of one client
OVERLOAD = 4  # times as many requests as can be answered
BOUNDARY = b"the-border-of-a-part"


def drawn(number: int) -> bytes:
    """A photograph-like JPEG of about 70 KB."""
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += generator.normal(0, 14, pixels.shape).astype(np.int16)
    return cv2.imencode(".jpg", np.clip(pixels, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88])[
        1
    ].tobytes()


def in_process(exported: Exported, pictures: list[bytes], *, seconds: float) -> dict[str, float]:
    """Pictures a second, and the median of one, in this process."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        looked = exported.look(pictures[len(took) % len(pictures)])
        answer = exported.answer(exported.run(looked.canvas[None]), looked)
        json.dumps(exported.row(answer, looked))
        took.append(time.perf_counter() - started)
    return {"rate": len(took) / sum(took), "p50": statistics.median(took)}


def one_by_one(
    path: Path, port: int, pictures: list[bytes], asked: list[bytes], *, seconds: float
) -> dict[str, dict[str, float]]:
    """In process and by one client, in turn; the medians of the slices."""
    exported = Exported.open(path, threads=len(os.sched_getaffinity(0)))
    slices: dict[str, list[dict[str, float]]] = {"in process": [], "1 clients": []}
    for _ in range(SLICES):
        slices["in process"].append(in_process(exported, pictures, seconds=seconds / SLICES))
        slices["1 clients"].append(crowd(port, asked, clients=1, seconds=seconds / SLICES))
    return {
        name: {key: statistics.median(one[key] for one in given) for key in ("rate", "p50")}
        for name, given in slices.items()
    }


def plain(picture: bytes) -> bytes:
    """A request whose body is the picture."""
    return request("/v1/predict", b"image/jpeg", picture)


def form(path: str, picture: bytes) -> bytes:
    """A request with the picture in the field ``image`` of a form."""
    disposition = b'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    head = b"--%s\r\n%s\r\nContent-Type: image/jpeg\r\n\r\n" % (BOUNDARY, disposition)
    body = head + picture + b"\r\n--%s--\r\n" % BOUNDARY
    return request(path, b"multipart/form-data; boundary=" + BOUNDARY, body)


def misuse(picture: bytes) -> list[bytes]:
    """Requests that cannot be answered, or only refused: what 97 to 109 of the bad inputs are made of."""
    encoded = base64.b64encode(picture)
    boundary = b"multipart/form-data; boundary=" + BOUNDARY
    part = b'--%s\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n' % BOUNDARY
    jsons = [
        b'{"image": "%s*"}' % encoded,
        b'{"image": "bm8gcGljdHVyZQ=="}',
        b'{"image": "http://localhost/a.jpg"}',
        b'{"image": "%s", "top_k": -1}' % encoded,
        b'{"image": "%s", "colour": 1}' % encoded,
        b'{"image": %s}' % (b"[" * 100_000),
        b'{"top_k": %s, "image": "%s"}' % (b"9" * 10_000_000, encoded),
        b'{"images": [%s]}' % b",".join([b'"YQ=="'] * 10_000),
    ]
    return [
        *(request("/v1/predict", b"application/json", body) for body in jsons),
        *(request("/v1/predict", b"image/jpeg", body) for body in (b"", bytes(100_000), picture[:9_000])),
        request("/v1/predict", b"image/png", picture + bytes(15_000_000)),
        request("/v1/predict", b"text/html", picture),
        request("/v1/predict", b"multipart/form-data", picture),
        request("/v1/predict", boundary, part * 70_000),
        request("/v1/predict", boundary, b"\r\n" * 1_000_000),
        request("/v1/models/%2e%2e/predict", b"image/jpeg", picture),
        plain(picture).replace(b"Host: localhost", b"Host: example.org"),
        plain(picture).replace(b"\r\nContent-Type", b"\r\nContent-Encoding: gzip\r\nContent-Type"),
    ]


def request(path: str, media: bytes, body: bytes) -> bytes:
    """A whole HTTP request."""
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (path.encode(), media, len(body)) + body


def started(path: Path) -> tuple[subprocess.Popen[bytes], int, float]:
    """A server, its port, and how long it took until it was ready; its log goes to a file, as in earnest."""
    begun = time.perf_counter()
    words = [sys.executable, "-m", "pictune", "serve", str(path), "--port", "0"]
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        with Path(log.name).open("wb") as stream:
            child = subprocess.Popen(words, stderr=stream)
        while child.poll() is None and time.perf_counter() - begun < 60:
            if found := re.search(r"^Ready: .*:(\d+)$", Path(log.name).read_text(), re.MULTILINE):
                return child, int(found[1]), time.perf_counter() - begun
            time.sleep(0.01)
        raise SystemExit(f"the server did not start: {Path(log.name).read_text()}")


class Lit:
    """LitServe with the same network and preprocessing.

    Args:
        path: The artifact.
        site: Where LitServe is installed.
        workers: Processes that answer; they share the processors.
    """

    def __init__(self, path: Path, site: Path, workers: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        program = Path(__file__).with_name("litserve_side.py")
        words = [sys.executable, str(program), str(path), str(self.port), str(workers)]
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            words,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._await()

    def _await(self) -> None:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("LitServe did not start")

    def sleep(self) -> None:
        """Stops all its processes: even unasked they look for work again and again."""
        os.killpg(self._child.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Has them go on."""
        os.killpg(self._child.pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends it with all its processes."""
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def measured(given: argparse.Namespace, port: int, lit: dict[str, Lit]) -> dict[str, dict[str, float]]:
    """One round."""
    pictures = [drawn(number) for number in range(PICTURES)]
    asked = [plain(picture) for picture in pictures]
    row = one_by_one(given.artifact, port, pictures, asked, seconds=given.seconds)
    for count in CROWDS:
        row[f"{count} clients"] = crowd(port, asked, clients=count, seconds=given.seconds)
    ill = misuse(pictures[0])
    small = [request for request in ill if len(request) < 2**20]
    row["8 beside misuse"] = crowd(port, asked, clients=8, seconds=given.seconds, beside=small)
    row["8 beside large misuse"] = crowd(port, asked, clients=8, seconds=given.seconds, beside=ill)
    best = max(row[f"{count} clients"]["rate"] for count in (1, *CROWDS))
    row["overload"] = stream(port, asked, rate=OVERLOAD * best, seconds=given.seconds)
    if lit:
        forms = [form("/v1/predict", picture) for picture in pictures]
        row["8 clients, forms"] = crowd(port, forms, clients=8, seconds=given.seconds)
    for name, server in lit.items():
        forms = [form("/predict", picture) for picture in pictures]
        server.wake()
        crowd(server.port, forms, clients=8, seconds=given.seconds / 4)
        row[name] = crowd(server.port, forms, clients=8, seconds=given.seconds)
        server.sleep()
    return row


def conclude(rows: list[dict[str, dict[str, float]]], lit: dict[str, Lit]) -> None:
    """Prints what all rounds say together."""

    def middle(name: str, figure: str) -> float:
        return statistics.median(row[name][figure] for row in rows)

    alone = middle("in process", "rate")
    best = max(middle(f"{count} clients", "rate") for count in (1, *CROWDS))
    extra = 1000 * (middle("1 clients", "p50") - middle("in process", "p50"))
    tail = middle("16 clients", "p99") / middle("16 clients", "p50")
    others = sum(figures.get("others", 0) for row in rows for figures in row.values())
    print(f"in process {alone:.1f} a second; neither answered nor refused: {others:.0f} (0)")
    print(f"8 clients / in process: {middle('8 clients', 'rate') / alone:.2f} (>= 1.0)")
    print(f"p50 of 1 client less in process: {extra:.2f} ms (<= 2)")
    print(f"p99 / p50 of 16 clients: {tail:.2f} (<= 2.5)")
    usual, failed = middle("8 clients", "p99"), 0.0
    for name in ("misuse", "large misuse"):
        times = middle(f"8 beside {name}", "p99") / usual
        failed += sum(row[f"8 beside {name}"]["bad_failed"] for row in rows)
        print(f"p99 of 8 clients beside one that sends {name} without a pause: {times:.2f} times (<= 2)")
    print(f"misuse answered with 5xx or not at all: {failed:.0f} (0)")
    print(f"overload: answered / best {middle('overload', 'rate') / best:.2f} (>= 0.85)")
    unsure = sum(row["overload"]["refused_without_retry"] for row in rows)
    refused, usual, slow = (middle("overload", name) for name in ("refused", "refusal_p50", "refusal_p99"))
    print(f"overload: {refused:.0f} refused a round, {unsure:.0f} of all without Retry-After (0)")
    print(f"overload: a refusal takes {1000 * usual:.1f} ms, p99 {1000 * slow:.1f} (<= 100)")
    for name in lit:
        ratio = middle("8 clients, forms", "rate") / middle(name, "rate")
        print(f"8 clients beside {name}: {ratio:.2f} (>= 1.2)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--litserve", type=Path, help="folder with LitServe installed")
    given = parser.parse_args()
    child, port, ready = started(given.artifact)
    lit: dict[str, Lit] = {}
    rows: list[dict[str, dict[str, float]]] = []
    try:
        if given.litserve is not None:
            for workers in (1, len(os.sched_getaffinity(0))):
                name = f"LitServe, {workers} workers"
                lit[name] = Lit(given.artifact, given.litserve, workers)
                lit[name].sleep()
        for _ in range(given.rounds):
            rows.append(measured(given, port, lit))
            print(json.dumps({name: _short(figures) for name, figures in rows[-1].items()}))
    finally:
        child.send_signal(signal.SIGTERM)
        print(f"server ended with {child.wait(60)}")
        for server in lit.values():
            server.close()
    print(f"ready after {ready:.2f} s; a picture has {len(drawn(0)) / 1000:.0f} KB")
    conclude(rows, lit)


def _short(figures: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in figures.items() if value}


if __name__ == "__main__":
    main()
