"""Starter weights against a random start: the same network, pictures, seeds and number of views.

    python benchmarks/starter.py --folder signs/ [--images 5 20 0] [--seeds 5] [--epochs 20 20 20]
    python benchmarks/starter.py --camvid camvid/ --images 20 --epochs 20
    python benchmarks/starter.py --digits --images 20 --epochs 20

``--camvid`` cuts pieces out of road scenes and ``--digits`` draws the demo's digits, both as in
`benchmarks/defaults.py`; these two were watched while the weights were made, so they flatter.

For each number of training images a class (0 is all of them) and each seed, that many are drawn for
training; the validation and test pictures are those of the whole split, which is made once. Both arms
then run `pictune train` on them with the same number of epochs; what differs is ``--weights``, and what
``auto`` makes of that (the technique, which is ``full`` for both with ``--technique full``).

Printed: test accuracy of both, their difference in points with a 95 % interval (paired by picture and
resampled over pictures and seeds), seconds, and the share of its epochs after which the starter's best
validation score so far reaches that of the random start in the end.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RESAMPLES = 2000
ARMS = ("starter", "none")


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures and their split.

    Args:
        folder: Where they lie.
        labels: By key.
        splits: Keys by the name of the split.
    """

    folder: Path
    labels: dict[str, str]
    splits: dict[str, list[str]]


def write_table(path: Path, pictures: Pictures, chosen: list[str]) -> Path:
    """A table of paths, labels and splits, beside links to the pictures."""
    path.mkdir(parents=True)
    (path / "pictures").symlink_to(pictures.folder)
    rows = [("train", key) for key in chosen]
    rows += [(name, key) for name in ("val", "test") for key in pictures.splits[name]]
    with (path / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label", "split"))
        writer.writerows((f"pictures/{key}", pictures.labels[key], name) for name, key in rows)
    return path / "labels.csv"


def drawn(pictures: Pictures, count: int, seed: int) -> list[str]:
    """So many training pictures of each class; all for 0."""
    keys = pictures.splits["train"]
    if count == 0:
        return keys
    generator = np.random.default_rng([seed, count])
    classes = sorted({pictures.labels[key] for key in keys})
    return [
        str(key)
        for name in classes
        for key in generator.choice([k for k in keys if pictures.labels[k] == name], count, replace=False)
    ]


def trained(table: Path, arm: str, epochs: int, seed: int, given, runs: Path) -> dict:
    """One training: which test pictures were right, the course of validation, and the seconds."""
    import pictune
    from pictune.run import Journal

    started = time.perf_counter()
    run = pictune.train(
        table,
        model="resnet9",
        weights=arm,
        image_size=given.size,
        epochs=epochs,
        seed=seed,
        technique=given.technique,
        settings=["data.follow_outside=true", *given.set],
        runs=runs,
        new=True,
    )
    seconds = time.perf_counter() - started
    with (run.report("test") / "predictions.csv").open(encoding="utf-8") as stream:
        rows = {row["key"]: row["truth"] == row["predicted"] for row in csv.DictReader(stream)}
    course = [line["val_accuracy"] for line in Journal(run.journal).lines("epoch")]
    return {
        "right": np.array([rows[k] for k in sorted(rows)], float),
        "course": course,
        "seconds": seconds,
    }


def compare(count: int, epochs: int, pictures: Pictures, given, place: Path) -> None:
    results: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        chosen = drawn(pictures, count, seed)
        table = write_table(place / f"{count}-{epochs}-{seed}", pictures, chosen)
        for arm in ARMS:
            results[arm].append(trained(table, arm, epochs, seed, given, place / "runs"))
            last = results[arm][-1]
            print(
                f"    {count or 'all'} a class, seed {seed}, {arm:<8} {last['right'].mean():.3f} "
                f"in {last['seconds']:.0f} s",
                flush=True,
            )
    right = {arm: np.stack([r["right"] for r in results[arm]]) for arm in ARMS}
    difference = right["starter"] - right["none"]
    generator = np.random.default_rng(0)
    seeds, pictures = difference.shape
    draws = [
        difference[generator.integers(0, seeds, seeds)][:, generator.integers(0, pictures, pictures)].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    shares = []
    for ours, theirs in zip(results["starter"], results["none"], strict=True):
        reached = [i for i, value in enumerate(ours["course"]) if value >= max(theirs["course"])]
        shares.append((reached[0] + 1) / len(ours["course"]) if reached else float("inf"))
    seconds = {arm: np.mean([r["seconds"] for r in results[arm]]) for arm in ARMS}
    print(
        f"{count or 'all'} images a class, {epochs} epochs, {seeds} seeds: "
        f"starter {right['starter'].mean():.3f}, random {right['none'].mean():.3f}, "
        f"difference {100 * difference.mean():+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]; "
        f"{seconds['starter']:.0f} s and {seconds['none']:.0f} s; "
        f"random's final validation score reached after {np.median(shares):.2f} of the epochs",
        flush=True,
    )


def source_of(given, place: Path) -> tuple[Path, list[str]]:
    """Where the pictures lie, and how they are grouped."""
    from defaults import scenes

    from pictune.data.digits import draw_digits

    if given.camvid:
        scenes(given.camvid, place / "roads", most=330)
        return place / "roads", ["data.group_by=re:/([^/]+_[0-9]+)-[^/]+$"]
    if given.digits:
        return draw_digits(place / "digits", images=1000, size=64), ["data.group_by=group"]
    return given.folder.resolve(), []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=Path)
    source.add_argument("--camvid", type=Path)
    source.add_argument("--digits", action="store_true")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 20, 0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[20, 20, 20])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--technique", default=None)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    from pictune.threads import steady_threads

    steady_threads()
    import pictune
    from pictune.data.formats import read_dataset

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["PICTUNE_CACHE"] = str(place / "cache")
        folder, grouped = source_of(given, place)
        split = pictune.train(
            folder,
            model="cnn",
            weights="none",
            image_size=32,
            epochs=1,
            seed=0,
            settings=grouped,
            runs=place / "runs",
            name="split",
        ).read("splits.json")
        labels = {sample.key: sample.annotation.names[0] for sample in read_dataset(folder).samples}
        pictures = Pictures(folder, labels, split["splits"])
        for count, epochs in zip(given.images, given.epochs, strict=True):
            compare(count, epochs, pictures, given, place)


if __name__ == "__main__":
    main()
