"""`pictune train` beside another busy program: threads as the command line sets them, and as they come.

    python benchmarks/busy_neighbour.py [--rounds 3] [--neighbours 1]

Each round trains the demo's digits for one epoch with either setting, in turn, while other processes do
nothing but count. Printed: seconds of the epoch alone, medians and their ratio, with and without neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pictune.data.digits import draw_digits

AS_THEY_COME = {"OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "false"}
MEASURE = """
import json, sys, time
from pictune import cli
class Timed(cli._Bars):
    def step(self, epoch, epochs, step, steps, loss):
        if step == 1: Timed.started = time.perf_counter()
        if step == steps: Timed.seconds = time.perf_counter() - Timed.started
cli._Bars = Timed
cli.app(sys.argv[1:], standalone_mode=False)
print(json.dumps(Timed.seconds))
"""


def seconds(folder: Path, environment: dict[str, str]) -> float:
    """Wall time from the first to the last step of one epoch."""
    words = ["train", str(folder / "digits"), "--weights", "none", "--epochs", "1", "--new"]
    words += ["--runs", str(folder / "runs"), "--set", "training.precision=fp32"]
    words += ["--set", "training.memory_format=channels_last", "--set", "split.near_duplicates=false"]
    given = {**os.environ, **environment, "PICTUNE_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], env=given, check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Prints a line for a machine of one's own, and one for a shared one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--neighbours", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_digits(folder / "digits", images=600, size=64)
        for count in (0, given.neighbours):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
            try:
                pairs = [(seconds(folder, {}), seconds(folder, AS_THEY_COME)) for _ in range(given.rounds)]
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            figures = f"as set {ours:.2f} s, as they come {theirs:.2f} s, ratio {theirs / ours:.2f}"
            print(f"{count} neighbours: {figures}", flush=True)


if __name__ == "__main__":
    main()
