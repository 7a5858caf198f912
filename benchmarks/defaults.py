"""Which network, and which way of training, learns most from scratch in the same processor time?

    python benchmarks/defaults.py --folder signs/ --voc bccd/ --masks camvid/ [--seconds 150] [--seeds 3]
    python benchmarks/defaults.py --folder signs/ --masks camvid/ --table ways

Each candidate is trained by `pictune train` on the same split, for as many epochs as fit into the given
seconds of processor time (on one thread, so that neighbours on the machine do not count), and judged on
the test split. Run it on an idle machine, at most one on each core: processor time goes up where cores are
shared. ``--folder`` takes class folders; ``--voc`` takes Pascal VOC boxes, whose crops become the
pictures, grouped by the photograph they come from; ``--masks`` takes photographs with masks in folders
train, val and test, and the things on them become the pictures. Without any, the demo's digits are
drawn. Printed: test accuracies over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

import pictune
from pictune.data.augmentation import PRESETS
from pictune.data.digits import draw_digits

# The steps of ``medium``, with crops as small as those of ``heavy``
CROPPED = [
    dict(step) if step["name"] != "random_resized_crop" else {**step, "scale": [0.35, 1.0]}
    for step in PRESETS["medium"]
]
# What is compared: network, pixels a side, settings
TABLES = {
    "networks": [
        ("cnn", 96, []),
        ("resnet9", 64, []),
        ("resnet9", 96, []),
        ("resnet9", 128, []),
        ("resnet18", 96, []),
    ],
    "ways": [
        ("resnet9", 96, []),
        ("resnet9", 96, [f"augmentation.steps={CROPPED}", "augmentation.preset=custom"]),
        ("resnet9", 96, ["augmentation.preset=heavy"]),
        ("resnet9", 96, ["mixing.name=cutmix", "mixing.probability=0.5"]),
    ],
}
FIXED = [
    "training.threads=1",
    "training.precision=bf16",
    "training.memory_format=channels_last",
    "data.max_bad=1.0",
]
MASKED = {"train": 250, "val": 70, "test": 110}  # most things of a class cut out of a split
SMALLEST, LARGEST = 24, 240  # pixels, the longer side of a thing that is cut out


def crops(voc: Path, folder: Path, *, most: int) -> None:
    """Cuts the boxes of a Pascal VOC folder into class folders, at most so many a class."""
    counts: dict[str, int] = {}
    for page in sorted((voc / "Annotations").glob("*.xml")):
        photograph = cv2.imread(str(voc / "JPEGImages" / f"{page.stem}.jpg"))
        if photograph is None:
            continue
        for number, thing in enumerate(ET.parse(page).getroot().iter("object")):
            name = thing.findtext("name", "")
            left, top, right, bottom = (
                int(thing.findtext(f"bndbox/{edge}", "0")) for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            piece = photograph[top:bottom, left:right]
            if min(piece.shape[:2], default=0) < 12 or counts.get(name, 0) >= most:
                continue
            counts[name] = counts.get(name, 0) + 1
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"{page.stem}-{number}.png"), piece)


def things(masks: Path, folder: Path) -> None:
    """Cuts out what stands alone on a mask, with some of its surroundings; its number is its class."""
    for split, most in MASKED.items():
        counts: Counter[int] = Counter()
        pages = sorted((masks / "masks" / split).glob("*.png"))
        np.random.default_rng(0).shuffle(pages)
        for page in pages:
            mask = cv2.imread(str(page), cv2.IMREAD_UNCHANGED)
            photograph = cv2.imread(str(masks / "images" / split / f"{page.stem}.jpg"))
            for kind in set(np.unique(mask)) - {0, 11}:  # neither sky nor what has no label
                boxes = cv2.connectedComponentsWithStats((mask == kind).astype(np.uint8))[2][1:]
                for number, (left, top, width, height, _) in enumerate(boxes):
                    longer = max(width, height)
                    if not SMALLEST <= longer <= LARGEST or counts[kind] >= most:
                        continue
                    counts[kind] += 1
                    side = min(round(1.25 * longer), *mask.shape)
                    x = int(np.clip(left + (width - side) // 2, 0, mask.shape[1] - side))
                    y = int(np.clip(top + (height - side) // 2, 0, mask.shape[0] - side))
                    place = folder / split / str(kind)
                    place.mkdir(parents=True, exist_ok=True)
                    piece = photograph[y : y + side, x : x + side]
                    cv2.imwrite(str(place / f"{page.stem}-{number}.png"), piece)


def accuracy(run: pictune.Run) -> float:
    """Of the run's test report."""
    return float(pictune.evaluate(run).metrics["accuracy"]["value"])


def trained(
    data: Path, name: str, size: int, *, epochs: int, seed: int, runs: Path, more: list[str]
) -> tuple[float, float]:
    """Test accuracy and processor seconds of one training."""
    before = time.process_time()
    run = pictune.train(
        data,
        model=name,
        weights="none",
        image_size=size,
        epochs=epochs,
        seed=seed,
        runs=runs,
        settings=[*FIXED, *more],
    )
    return accuracy(run), time.process_time() - before


def compare(title: str, folder: Path, more: list[str], given: argparse.Namespace, runs: Path) -> None:
    """Trains all candidates on one set of pictures and prints a line for each."""
    print(f"\n{title}: test accuracy after {given.seconds:.0f} s on one thread\n", flush=True)
    print(
        "| network | pixels | settings | epochs | mean | each seed |\n|---|---|---|---|---|---|", flush=True
    )
    for name, size, settings in TABLES[given.table]:
        if given.only and f"{name}@{size}" not in given.only:
            continue
        fixed = [*more, *settings]
        spent = [trained(folder, name, size, epochs=n, seed=0, runs=runs, more=fixed)[1] for n in (1, 2, 3)]
        epoch = max(min(spent[1] - spent[0], spent[2] - spent[1]), 1e-3)  # neighbours only ever add
        epochs = max(2, round((given.seconds - (spent[0] - epoch)) / epoch))
        scores = [
            trained(folder, name, size, epochs=epochs, seed=seed, runs=runs, more=fixed)[0]
            for seed in range(given.seeds)
        ]
        each = ", ".join(f"{score:.3f}" for score in scores)
        told = ", ".join(settings).replace(str(CROPPED), "medium, smaller crops") or "as they are"
        print(f"| {name} | {size} | {told} | {epochs} | {statistics.mean(scores):.3f} | {each} |", flush=True)


def main() -> None:
    """Prints a table for each set of pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("--voc", type=Path, action="append", default=[])
    parser.add_argument("--masks", type=Path, action="append", default=[])
    parser.add_argument("--table", choices=sorted(TABLES), default="networks")
    parser.add_argument("--only", action="append", default=[], metavar="NETWORK@PIXELS")
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        runs = place / "runs"
        if not (given.folder or given.voc or given.masks):
            digits = draw_digits(place / "digits", images=1000, size=64)
            compare("digits of the demo", digits, ["data.group_by=group"], given, runs)
        for folder in given.folder:
            compare(folder.name, folder, [], given, runs)
        for voc in given.voc:
            crops(voc, place / voc.name, most=600)
            grouped = ["data.group_by=re:/([^/]+)-[0-9]+[.]png$"]
            compare(f"{voc.name} crops", place / voc.name, grouped, given, runs)
        for masks in given.masks:
            things(masks, place / masks.name)
            compare(f"{masks.name} things", place / masks.name, ["data.allow_leaks=true"], given, runs)


if __name__ == "__main__":
    main()
