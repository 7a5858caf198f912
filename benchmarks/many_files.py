"""A folder of very many tiny pictures: how long it takes to find them all, and how much memory.

    python benchmarks/many_files.py [--files 200000]

Beside torchvision's `ImageFolder`, which lists files and nothing else, each in its own process, in turn. Then
pictune's whole first pass, which opens, checks, compares and stores every picture, without a peer.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

CLASSES = 10
SIDE = 8  # pixels
PROMISED_SECONDS, PROMISED_MIB = 60, 1024  # for 200,000 files, on two cores


def draw(folder: Path, files: int) -> None:
    """Class folders of tiny pictures, no two alike."""
    generator = np.random.default_rng(0)
    for number in range(files):
        if number < CLASSES:
            (folder / f"class{number}").mkdir(parents=True)
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        path = folder / f"class{number % CLASSES}" / f"{number:06}.png"
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def with_pictune(folder: Path) -> Callable[[], int]:
    """Lists them by `read_dataset`."""
    from pictune.data.formats import read_dataset

    return lambda: len(read_dataset(folder))


def with_torchvision(folder: Path) -> Callable[[], int]:
    """Lists them by `ImageFolder`."""
    from torchvision.datasets import ImageFolder

    return lambda: len(ImageFolder(str(folder)).samples)


def whole_pass(folder: Path) -> Callable[[], int]:
    """Opens, checks and stores them, as audit and train do first."""
    from pictune.data.formats import read_dataset
    from pictune.data.ingest import ingest

    def run() -> int:
        with tempfile.TemporaryDirectory() as cache:
            return len(ingest(read_dataset(folder), cache=Path(cache), side=SIDE, threads=2).dataset)

    return run


WAYS = {"pictune": with_pictune, "torchvision": with_torchvision, "pictune, whole pass": whole_pass}


def measure(way: str, folder: Path) -> None:
    """Prints what one way took: seconds, and MiB beside what its imports take."""
    run = WAYS[way](folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = run()
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(found, seconds, grown / 1024)


def measured(way: str, folder: Path) -> tuple[int, float, float]:
    """Files found, seconds and MiB of one way, in a process of its own."""
    command = [sys.executable, __file__, "--measure", way, "--folder", str(folder)]
    found, seconds, mib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(found), float(seconds), float(mib)


def main() -> None:
    """Prints a line for each way, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        draw(folder, given.files)
        rounds = [{way: measured(way, folder) for way in ("pictune", "torchvision")} for _ in range(3)]
        told = {
            way: tuple(statistics.median(one[way][part] for one in rounds) for part in range(3))
            for way in rounds[0]
        }
        told["pictune, whole pass"] = measured("pictune, whole pass", folder)
    for way, (found, seconds, mib) in told.items():
        print(f"{way:<22}{found:>9,.0f} files{seconds:>8.1f} s{mib:>8.0f} MiB")
    print(f"ratio of times, pictune to torchvision: {told['pictune'][1] / told['torchvision'][1]:.2f}")
    late = told["pictune"][1] > PROMISED_SECONDS or told["pictune"][2] > PROMISED_MIB
    sys.exit("slower or larger than promised" if late else 0)


if __name__ == "__main__":
    main()
