"""How long a person waits before anything happens: `pictune --help` and `import pictune`.

Each is a new process, measured beside the same Python that does nothing, in turn, so that a busy
machine slows all of them alike. Printed are medians; the ratio is to the empty process.

    .venv/bin/python benchmarks/startup.py [--repeats 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PICTUNE = str(Path(sys.executable).with_name("pictune"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import pictune": [sys.executable, "-c", "import pictune"],
    "pictune --help": [PICTUNE, "--help"],
    "pictune train --help": [PICTUNE, "train", "--help"],
}
PROMISED = {"import pictune": 0.15, "pictune --help": 0.3}  # seconds


def seconds(command: list[str]) -> float:
    """Wall time of one process, from start to end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Measures all commands in turn, then prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind")
    repeats = parser.parse_args().repeats
    for command in COMMANDS.values():
        seconds(command)  # the first one fills the disk cache and writes the .pyc files
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(repeats)]
    medians = {name: statistics.median(one[name] for one in rounds) for name in COMMANDS}
    empty = medians["python -c pass"]
    print(f"{'':<22}{'median':>9}{'ratio':>8}{'promised':>11}   ({repeats} processes each)")
    for name, median in medians.items():
        promised = f"< {PROMISED[name]:.2f} s" if name in PROMISED else ""
        print(f"{name:<22}{median:>7.3f} s{median / empty:>8.1f}{promised:>11}")
    late = [name for name, limit in PROMISED.items() if medians[name] >= limit]
    sys.exit(f"later than promised: {', '.join(late)}" if late else 0)


if __name__ == "__main__":
    main()
