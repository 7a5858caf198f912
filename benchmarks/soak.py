"""A server under load for minutes: does it answer everything, and does it stay as large as it was?

    python benchmarks/soak.py --minutes 10 [--artifact exports/teal-fox.pictune] [--clients 4]

The server is `pictune serve` in a process of its own, the artifact a real one; without `--artifact` a toy is
trained on drawn digits and exported first. The clients are threads here, each with a connection of its own.
They send good pictures of many sizes and formats, one or several a request, as a body, a form or JSON, and
one request in a hundred is bad: cut, no image, a bomb, empty, or in a field with another name. One in a
hundred of those with several pictures carries a bad one among good ones.

Every 5 s the memory (RSS) and the open files of the server and its workers are read from /proc. The exit
code is 1 when a good request got anything but 200, a bad one anything but 4xx, a connection broke, a worker
was replaced, the memory of the last minute is over 5 % above that of the minute after the warm-up
(medians), files stayed open when the clients had gone, or SIGTERM did not end it with 0.
"""

from __future__ import annotations

import argparse
import base64
import collections
import http.client
import io
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZES = ((17, 23), (64, 64), (320, 240), (500, 375), (640, 480), (1280, 720), (2000, 1500), (4000, 3000))
COMMON = 6  # sizes; of the larger ones there is one picture each
MODES = {"turned": ("RGB", "JPEG"), "progressive": ("RGB", "JPEG"), "CMYK": ("CMYK", "JPEG")}
MODES |= {"grey": ("L", "PNG"), "RGBA": ("RGBA", "PNG"), "GIF": ("P", "GIF")}
BAD_SHARE = 0.01
SAMPLE_S = 5.0
WARM_UP_S = 60.0
GROWTH = 0.05
MB = 2**20
BOUNDARY = "xXsoakXx"


@dataclass(frozen=True)
class Ask:
    """One request, and what must come of it."""

    kind: str
    body: bytes
    content_type: str
    pictures: int = 1  # 0 when the request must be refused
    bad_at: int | None = None  # the place of a bad picture among good ones


@dataclass
class Tally:
    """What the clients met."""

    statuses: collections.Counter[tuple[str, int]] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    pictures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, ask: Ask, status: int, content: bytes) -> None:
        fault = judged(ask, status, content)
        with self.lock:
            self.statuses[ask.kind, status] += 1
            self.pictures += ask.pictures
            if fault:
                self.wrong.append(f"{ask.kind}: {fault}")


@dataclass(frozen=True)
class Sample:
    """What the processes held at one moment."""

    second: float
    server: int  # bytes
    workers: int  # bytes
    files: int
    threads: int
    pids: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.server + self.workers


def judged(ask: Ask, status: int, content: bytes) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if ask.pictures == 0:
        return "" if 400 <= status < 500 else f"a bad request got {status}"
    if status != 200:
        return f"a good request got {status}: {content[:200]!r}"
    said = json.loads(content)
    rows = said["predictions"] if "predictions" in said else [said["prediction"]]
    if len(rows) != ask.pictures:
        return f"{ask.pictures} pictures got {len(rows)} answers"
    refused = [place for place, row in enumerate(rows) if "error" in row]
    expected = [] if ask.bad_at is None else [ask.bad_at]
    return "" if refused == expected else f"refused were the pictures {refused} and not {expected}"


def encoded(pixels: np.ndarray, name: str) -> bytes:
    """Pixels as a file; the name is Pillow's, or one of those below."""
    if name == "PNG16":
        return cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    mode, saved = MODES.get(name, ("RGB", name))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter
    options = {"turned": {"exif": exif.tobytes()}, "progressive": {"progressive": True}}.get(name, {})
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, saved, **options)
    return stream.getvalue()


def good_pictures() -> list[bytes]:
    """Files of many sizes and formats that every server of ours answers."""
    made = []
    names = "JPEG turned progressive CMYK PNG PNG16 grey RGBA GIF WEBP BMP TIFF".split()
    for number, (width, height) in enumerate(SIZES):
        generator = np.random.default_rng(number)
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels += generator.integers(-12, 13, pixels.shape, dtype=np.int16)
        for name in names if number < COMMON else ["JPEG"]:
            made.append(encoded(np.clip(pixels, 0, 255).astype(np.uint8), name))
    return made


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb() -> bytes:
    """A PNG of a few KB that would be 10 GB of pixels."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(2 * MB))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bad_pictures(good: Sequence[bytes]) -> dict[str, bytes]:
    jpeg, png = good[0], next(data for data in good if data.startswith(b"\x89PNG"))
    return {
        "cut JPEG": jpeg[: len(jpeg) // 2],
        "cut PNG": png[: len(png) * 2 // 3],
        "no image": b"<!DOCTYPE html><html><body>404</body></html>" * 20,
        "bomb": bomb(),
        "empty": b"",
    }


def form(name: str, files: Sequence[bytes]) -> tuple[bytes, str]:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
    body = b"".join(head + data + b"\r\n" for data in files) + f"--{BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={BOUNDARY}"


class Mixture:
    """Draws requests."""

    def __init__(self) -> None:
        self.good = good_pictures()
        self.bad = bad_pictures(self.good)
        self.small = [data for data in self.good if len(data) < MB]

    def draw(self, chance: random.Random) -> Ask:
        if chance.random() < BAD_SHARE:
            return self._bad(chance)
        way = chance.choice(("body", "form", "form of several", "JSON", "JSON of several"))
        if way == "body":
            return Ask(way, chance.choice(self.good), "application/octet-stream")
        if way == "form":
            return Ask(way, *form("image", [chance.choice(self.good)]))
        if way == "JSON":
            data = base64.b64encode(chance.choice(self.good)).decode()
            return Ask(way, json.dumps({"image": data}).encode(), "application/json")
        files = chance.choices(self.small, k=chance.randint(2, 8))
        bad_at = None
        if chance.random() < BAD_SHARE:
            bad_at = chance.randrange(len(files))
            files[bad_at] = self.bad[chance.choice([name for name in self.bad if name != "empty"])]
        kind = way if bad_at is None else "one bad of several"
        if way == "form of several":
            return Ask(kind, *form("image", files), len(files), bad_at)
        body = json.dumps({"images": [base64.b64encode(data).decode() for data in files]}).encode()
        return Ask(kind, body, "application/json", len(files), bad_at)

    def _bad(self, chance: random.Random) -> Ask:
        name = chance.choice([*self.bad, "wrong field"])
        if name == "wrong field":
            return Ask("bad: wrong field", *form("picture", [chance.choice(self.small)]), 0)
        data = self.bad[name]
        if chance.random() < 0.5:
            return Ask(f"bad: {name}", data, "image/jpeg", 0)
        return Ask(f"bad: {name}", *form("image", [data]), 0)


def ask_until(end: float, port: int, mixture: Mixture, tally: Tally, seed: int) -> None:
    """One client."""
    chance = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < end:
        ask = mixture.draw(chance)
        try:
            connection.request("POST", "/v1/predict", ask.body, {"Content-Type": ask.content_type})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            with tally.lock:
                tally.statuses[ask.kind, 0] += 1
                tally.wrong.append(f"{ask.kind}: the connection broke: {error!r}")
            continue
        tally.note(ask, response.status, content)
    connection.close()


def children(pid: int) -> list[int]:
    """Of a process, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for number in (task / "children").read_text().split():
            found += [int(number), *children(int(number))]
    return found


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sampled(pid: int, begun: float) -> Sample:
    pids = tuple(children(pid))
    return Sample(
        second=time.monotonic() - begun,
        server=resident(pid),
        workers=sum(resident(each) for each in pids),
        files=sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in (pid, *pids)),
        threads=sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in (pid, *pids)),
        pids=pids,
    )


def trained_toy(folder: Path) -> Path:
    """A small network that knows digits."""
    import pictune as pt
    from pictune.data.digits import draw_digits

    pictures = draw_digits(folder / "digits", images=600, size=64)
    run = pt.train(
        pictures, model="cnn", weights="none", augmentation="light", epochs=4, runs=folder / "runs"
    )
    return pt.export(run, out=folder / "digits.pictune", accept_loss=True).path


def started(path: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server, and its port."""
    words = [sys.executable, "-m", "pictune", "serve", str(path), "--port", "0"]
    with log.open("wb") as stream:
        child = subprocess.Popen(words, stderr=stream)
    while child.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("Ready: "):
                return child, int(line.rpartition(":")[2])
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def soaked(
    child: subprocess.Popen[bytes], port: int, given: argparse.Namespace
) -> tuple[Tally, list[Sample]]:
    """Lets the clients ask for as long as is wanted; gives what they met and what the server held."""
    mixture, tally = Mixture(), Tally()
    begun = time.monotonic()
    samples = [sampled(child.pid, begun)]
    end = begun + 60 * given.minutes
    clients = [
        threading.Thread(target=ask_until, args=(end, port, mixture, tally, seed))
        for seed in range(given.clients)
    ]
    for client in clients:
        client.start()
    while time.monotonic() < end and child.poll() is None:
        time.sleep(max(0.0, min(SAMPLE_S, end - time.monotonic() - 0.1)))
        try:
            samples.append(sampled(child.pid, begun))
        except FileNotFoundError as error:
            tally.wrong.append(f"a process ended: {error}")
        if end - time.monotonic() < SAMPLE_S / 2:
            break
    for client in clients:
        client.join()
    time.sleep(2)
    if child.poll() is None:
        samples.append(sampled(child.pid, begun))
    return tally, samples


def windows(samples: Sequence[Sample], seconds: float) -> tuple[list[Sample], list[Sample]]:
    """The samples of the minute after the warm-up, and of the last minute; of shorter runs, of quarters."""
    length = min(WARM_UP_S, seconds / 4)
    loaded = samples[1:-1]
    early = [each for each in loaded if length <= each.second < 2 * length]
    return early or loaded[:1], [each for each in loaded if each.second >= seconds - length] or loaded[-1:]


def print_statuses(tally: Tally, seconds: float) -> None:
    kinds = sorted({kind for kind, _ in tally.statuses})
    print("| request | count | statuses |\n|---|---|---|")
    for kind in kinds:
        found = {status: count for (each, status), count in sorted(tally.statuses.items()) if each == kind}
        said = ", ".join(f"{status}: {count}" for status, count in found.items())
        print(f"| {kind} | {sum(found.values())} | {said} |")
    total = sum(tally.statuses.values())
    bad = sum(count for (kind, _), count in tally.statuses.items() if kind.startswith("bad: "))
    worst = sum(count for (_, status), count in tally.statuses.items() if status >= 500)
    print(f"\n{total} requests with {tally.pictures} good pictures, {total / seconds:.1f} requests a second;")
    print(f"{bad} bad ({bad / max(total, 1):.2%}), {worst} answers of 5xx")


def print_memory(samples: Sequence[Sample], early: Sequence[Sample], late: Sequence[Sample]) -> None:
    def row(name: str, chosen: Sequence[Sample]) -> None:
        def middle(part: str) -> float:
            return statistics.median(getattr(each, part) for each in chosen)

        sizes = " | ".join(f"{middle(part) / MB:.1f}" for part in ("server", "workers", "total"))
        print(f"| {name} | {sizes} | {middle('files'):.0f} | {middle('threads'):.0f} |")

    print("\n| RSS, MB | server | worker | both | open files | threads |\n|---|---|---|---|---|---|")
    row("before the first request", samples[:1])
    row("after the warm-up (median)", early)
    row("at the end (median)", late)
    row("at most", [max(samples, key=lambda each: each.total)])
    row("2 s after the last request", samples[-1:])


def verdict(tally: Tally, samples: Sequence[Sample], seconds: float, code: int) -> list[str]:
    """What is wrong with the server."""
    early, late = windows(samples, seconds)
    print_memory(samples, early, late)
    before, after = (statistics.median(each.total for each in chosen) for chosen in (early, late))
    growth = after / before - 1
    print(f"\ngrowth {growth:+.2%} (at most {GROWTH:+.0%}), exit code {code}")
    faults = [f"{len(tally.wrong)} wrong answers, such as: {tally.wrong[0]}"] if tally.wrong else []
    if growth > GROWTH:
        faults.append(f"the memory grew by {growth:.2%}")
    if len({each.pids for each in samples}) > 1:
        faults.append("a worker was replaced")
    if samples[-1].files > samples[0].files:
        faults.append(f"{samples[-1].files - samples[0].files} files stayed open")
    if code != 0:
        faults.append(f"the server ended with {code}")
    return faults


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--artifact", type=Path, help="an exported model; a toy is made when absent")
    parser.add_argument("--clients", type=int, default=4)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pictune-soak-") as name:
        folder = Path(name)
        child, port = started(given.artifact or trained_toy(folder), folder / "log")
        try:
            tally, samples = soaked(child, port, given)
        finally:
            child.send_signal(signal.SIGTERM)
            code = child.wait(60)
        seconds = 60 * given.minutes
        print_statuses(tally, seconds)
        faults = verdict(tally, samples, seconds, code)
        if faults:
            print("\n".join(["", *faults, "", *(folder / "log").read_text().splitlines()[-20:]]))
            raise SystemExit(1)
    print("passed")


if __name__ == "__main__":
    main()
