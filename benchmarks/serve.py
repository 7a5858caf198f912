"""What the server costs: beside the same work done in one process, one picture after the other.

    python benchmarks/serve.py exports/teal-fox.pictune [--rounds 5] [--seconds 4]

The pictures are 500 x 375 JPEGs of about 70 KB, drawn here. *In process* is decode, resize, network and
answer, with as many threads as the server has. Clients are threads of a process of their own, with
connections that they keep. Each round measures everything once, so that a busy machine slows all alike;
figures are medians.

Printed are the raw numbers of every round and then: throughput of 8 clients beside in process (>= 1.0), p50
of one client less in process (<= 2 ms), p99 / p50 of 16 clients (<= 2.5), and at
four times the clients that fill
the queue: answered pictures beside the best throughput (>= 0.85), and how long a refusal takes (<= 100 ms).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from pictune.exporting.exported import Exported

PICTURES = 16
CROWDS = (1, 8, 16)
OVERLOAD = 256  # clients, four times the queue of 64


def drawn(number: int) -> bytes:
    """A photograph-like JPEG of about 70 KB."""
    generator = np.random.default_rng(number)
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += generator.normal(0, 14, pixels.shape).astype(np.int16)
    return cv2.imencode(".jpg", np.clip(pixels, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 88])[
        1
    ].tobytes()


def in_process(path: Path, pictures: list[bytes], *, seconds: float) -> dict[str, float]:
    """Pictures a second, and the median of one, in this process."""
    exported = Exported.open(path, threads=len(os.sched_getaffinity(0)))
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        looked = exported.look(pictures[len(took) % len(pictures)])
        answer = exported.answer(exported.run(looked.canvas[None]), looked)
        json.dumps(exported.row(answer, looked))
        took.append(time.perf_counter() - started)
    return {"rate": len(took) / sum(took), "p50": statistics.median(took)}


def load(port: int, clients: int, seconds: float) -> dict[str, float]:
    """What so many clients meet; runs in a process of its own."""
    pictures = [drawn(number) for number in range(PICTURES)]
    answered: list[float] = []
    refused: list[float] = []
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end:
            number += 1
            started = time.perf_counter()
            try:
                connection.request(
                    "POST", "/v1/predict", pictures[number % PICTURES], {"Content-Type": "image/jpeg"}
                )
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            took = time.perf_counter() - started
            (answered if response.status == 200 else refused).append(took)
            if response.status == 503:
                time.sleep(0.25)  # a client that asks again at once is no client but an attack

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - started
    ranked = sorted(answered) or [float("nan")]
    return {
        "rate": len(answered) / spent,
        "p50": ranked[len(ranked) // 2],
        "p99": ranked[min(int(len(ranked) * 0.99), len(ranked) - 1)],
        "refused": float(len(refused)),
        "refusal_p50": statistics.median(refused) if refused else 0.0,
    }


def loaded(port: int, clients: int, seconds: float) -> dict[str, float]:
    words = [sys.executable, __file__, "--load", str(port), str(clients), str(seconds)]
    found: dict[str, float] = json.loads(
        subprocess.run(words, check=True, capture_output=True, text=True).stdout
    )
    return found


def started(path: Path) -> tuple[subprocess.Popen[str], int, float]:
    """A server, its port, and how long it took until it was ready."""
    begun = time.perf_counter()
    words = [sys.executable, "-m", "pictune", "serve", str(path), "--port", "0"]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("Ready: "):
            threading.Thread(target=child.stderr.read, daemon=True).start()
            return child, int(line.rpartition(":")[2]), time.perf_counter() - begun
    raise SystemExit("the server did not start")


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        print(json.dumps(load(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    pictures = [drawn(number) for number in range(PICTURES)]
    child, port, ready = started(given.artifact)
    rows: list[dict[str, dict[str, float]]] = []
    try:
        for _ in range(given.rounds):
            row = {"in process": in_process(given.artifact, pictures, seconds=given.seconds)}
            row |= {f"{count} clients": loaded(port, count, given.seconds) for count in (*CROWDS, OVERLOAD)}
            rows.append(row)
            print(json.dumps(row))
    finally:
        child.send_signal(signal.SIGTERM)
        print(f"server ended with {child.wait(60)}")

    def middle(name: str, figure: str) -> float:
        return statistics.median(row[name][figure] for row in rows)

    alone = middle("in process", "rate")
    best = max(middle(f"{count} clients", "rate") for count in CROWDS)
    crowd = f"{OVERLOAD} clients"
    extra = 1000 * (middle("1 clients", "p50") - middle("in process", "p50"))
    tail = middle("16 clients", "p99") / middle("16 clients", "p50")
    refusal = 1000 * middle(crowd, "refusal_p50")
    print(f"ready after {ready:.2f} s; a picture has {len(pictures[0]) / 1000:.0f} KB")
    print(f"in process {alone:.1f} a second")
    print(f"8 clients / in process: {middle('8 clients', 'rate') / alone:.2f} (>= 1.0)")
    print(f"p50 of 1 client less in process: {extra:.2f} ms (<= 2)")
    print(f"p99 / p50 of 16 clients: {tail:.2f} (<= 2.5)")
    print(f"overload: answered / best {middle(crowd, 'rate') / best:.2f} (>= 0.85)")
    print(f"overload: a refusal takes {refusal:.1f} ms (<= 100)")


if __name__ == "__main__":
    main()
