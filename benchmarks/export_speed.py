"""How fast exports answer beside one another: the networks alone, on pictures that are decoded already.

    python benchmarks/export_speed.py exports/signs.pictune exports/signs-int8.pictune ... [--threads 1 2]

The first one is what the others are compared with. Each round measures every export once, in turn, so that a
busy machine slows all alike; printed are all rounds' milliseconds for one picture and the ratio of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from pictune.exporting.exported import Exported


def milliseconds(exported: Exported, canvas: np.ndarray, calls: int) -> float:
    """Of one call."""
    started = time.perf_counter()
    for _ in range(calls):
        exported.run(canvas)
    return 1000 * (time.perf_counter() - started) / calls


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=100)
    given = parser.parse_args()
    for threads in given.threads:
        opened = {path.stem: Exported.open(path, threads=threads) for path in given.artifacts}
        width, height = next(iter(opened.values())).artifact.specification.canvas
        canvas = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        took: dict[str, list[float]] = {name: [] for name in opened}
        for exported in opened.values():
            milliseconds(exported, canvas, 10)
        for _ in range(given.rounds):
            for name, exported in opened.items():
                took[name].append(milliseconds(exported, canvas, given.calls))
        first = statistics.median(next(iter(took.values())))
        for name, values in took.items():
            rounds = ", ".join(f"{value:.2f}" for value in values)
            ratio = first / statistics.median(values)
            print(f"{threads} threads, {name}: {rounds} ms; {ratio:.2f} times as fast as the first")


if __name__ == "__main__":
    main()
