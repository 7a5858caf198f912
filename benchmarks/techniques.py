"""Every technique of fine-tuning on the same pictures, split, seed and number of epochs.

    python benchmarks/techniques.py --folder signs/ [--epochs 20] [--model resnet9] [--weights starter]

Each one is a `pictune train` in a process of its own, so that its peak memory can be told; they run one
after the other, each with a cache of its own, but for the pixels, which are stored beforehand. Printed, as a
table for docs/numbers.md: test accuracy with its interval, seconds of everything, peak memory of the
process, parameters that learn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEACHER = "lp_ft"
WAYS: dict[str, list[str]] = {
    "from scratch": ["model.weights=none", "technique.name=full"],
    "full": ["technique.name=full"],
    "head": ["technique.name=head"],
    "lp_ft": ["technique.name=lp_ft"],
    "lp_ft, statistics kept": ["technique.name=lp_ft", "transfer.statistics=kept"],
    "gradual": ["technique.name=gradual"],
    "lora, rank 8": ["technique.name=lora"],
    "freeze 2 groups": ["technique.name=lp_ft", "transfer.freeze=2"],
    "layer decay 0.7": ["technique.name=lp_ft", "transfer.layer_decay=0.7"],
    "l2-sp 0.05": ["technique.name=lp_ft", "transfer.l2_sp=0.05"],
    "last block anew": ["technique.name=lp_ft", "transfer.reinitialise=1"],
    "growing from 48": ["technique.name=lp_ft", "training.first_size=48"],
    "soup of 5": ["technique.name=lp_ft", "training.soup=5"],
    "no moving average": ["technique.name=lp_ft", "training.ema=0"],
    "cnn, alone": ["model.name=cnn", "model.weights=none", "technique.name=full"],
    "cnn, taught by lp_ft": ["model.name=cnn", "model.weights=none", "technique.name=full", "TEACHER"],
}


def one(way: str, given: argparse.Namespace) -> None:
    """Trains one way, and prints what came out as JSON."""
    from pictune.threads import steady_threads

    steady_threads()
    import pictune

    started = time.perf_counter()
    settings = [f"model.name={given.model}", f"model.weights={given.weights}", *given.set]
    for text in WAYS[way]:
        text = f"transfer.teacher={given.runs / TEACHER}" if text == "TEACHER" else text
        settings = [s for s in settings if s.split("=")[0] != text.split("=")[0]] + [text]
    settings += [f"training.epochs={given.epochs}", f"model.image_size={given.size}"]
    name = "".join(c if c.isalnum() or c == "_" else "-" for c in way)
    run = pictune.train(given.folder, settings=settings, seed=given.seed, runs=given.runs, name=name)
    seconds = time.perf_counter() - started
    report = json.loads((run.report("test") / "report.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"accuracy": report["metrics"]["accuracy"], "seconds": seconds, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="resnet9")
    parser.add_argument("--weights", default="starter")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--way", choices=list(WAYS), action="append")
    parser.add_argument("--one", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given)
        return
    print("| technique | test accuracy | seconds | peak memory, MiB |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for way in given.way or WAYS:
            cache = place / "cache"
            shutil.rmtree(cache / "features", ignore_errors=True)
            command = [sys.executable, __file__, *sys.argv[1:], "--one", way, "--runs", str(place / "runs")]
            environment = {**os.environ, "PICTUNE_CACHE": str(cache)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"| {way} | failed: {done.stderr.strip().splitlines()[-1]} | | |", flush=True)
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            accuracy = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found["accuracy"])
            print(f"| {way} | {accuracy} | {found['seconds']:.0f} | {found['peak']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
