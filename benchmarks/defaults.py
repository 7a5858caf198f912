"""Which network, and which way of training, learns most from scratch in the same processor time?

    python benchmarks/defaults.py --folder signs/ --voc bccd/ --camvid camvid/ \
        [--seconds 150] [--seeds 3]
    python benchmarks/defaults.py --folder signs/ --camvid camvid/ --table ways

Each candidate is trained by `pictune train` on the same split, for as many epochs as fit into the given
seconds of processor time on one thread, and judged on the test split. Run it on an idle machine, at most one
on each core: processor time goes up where cores are shared. Printed: test accuracies over seeds.

``--folder`` takes class folders; ``--voc`` takes Pascal VOC boxes, whose crops become the pictures, grouped
by the photograph they come from; ``--camvid`` takes CamVid's road scenes with masks, and things and pieces
of them become the pictures, grouped by ten seconds of a drive. Without any, the demo's digits are drawn. Each
seed makes another split, the same for all candidates.
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
# What is compared: network, pixels a side, a name for the settings
TABLES = {
    "networks": [
        ("cnn", 96, "as they are"),
        ("resnet9", 64, "as they are"),
        ("resnet9", 96, "as they are"),
        ("resnet9", 128, "as they are"),
        ("resnet18", 96, "as they are"),
    ],
    "ways": [
        (network, 96, way)
        for network in ("resnet9", "cnn")
        for way in ("as they are", "smaller crops", "heavy", "cutmix")
    ],
}
WAYS: dict[str, list[str]] = {
    "as they are": [],
    "smaller crops": [f"augmentation.steps={CROPPED}", "augmentation.preset=custom"],
    "heavy": ["augmentation.preset=heavy"],
    "cutmix": ["mixing.name=cutmix", "mixing.probability=0.5"],
}
FIXED = [
    "training.threads=1",
    "training.precision=bf16",
    "training.memory_format=channels_last",
    "data.max_bad=1.0",
]
MOMENT = 300  # frames of a drive, ten seconds, whose pictures stay in one split
THINGS = {
    2: "pole",
    6: "sign",
    8: "car",
    9: "pedestrian",
    10: "bicyclist",
}  # by their number in CamVid's masks
STUFF = {1: "building", 3: "road", 4: "pavement", 5: "tree"}


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


def scenes(camvid: Path, folder: Path, *, most: int) -> None:
    """Cuts road scenes into things, with some surroundings, and into pieces of what fills the picture."""
    counts: Counter[str] = Counter()
    pages = sorted((camvid / "masks").glob("*/*.png"))
    np.random.default_rng(0).shuffle(pages)
    for number, page in enumerate(pages):
        mask = cv2.imread(str(page), cv2.IMREAD_UNCHANGED)
        photograph = cv2.imread(str(camvid / "images" / page.parent.name / f"{page.stem}.jpg"))
        drive, _, frame = page.stem.partition("_")
        moment = f"{drive}_{int(frame.lstrip('f')) // MOMENT:03d}"
        for kind, name in (THINGS | STUFF).items():
            _, parts, boxes, _ = cv2.connectedComponentsWithStats((mask == kind).astype(np.uint8))
            for part in range(1, len(boxes)):
                generator = np.random.default_rng([number, kind, part])
                square = thing(boxes[part]) if kind in THINGS else piece(parts == part, generator)
                if square is None or counts[name] >= most:
                    continue
                x, y, side = fitted(*square, mask.shape)
                if kind in STUFF and (mask[y : y + side, x : x + side] == kind).mean() < 0.5:
                    continue
                counts[name] += 1
                place = folder / name
                place.mkdir(parents=True, exist_ok=True)
                cut = photograph[y : y + side, x : x + side]
                cv2.imwrite(str(place / f"{moment}-{frame}-{part}.png"), cut)


def thing(box: np.ndarray) -> tuple[int, int, int] | None:
    """Centre and side of a square around a thing; None when it is too small or too large."""
    left, top, width, height, area = (int(value) for value in box)
    longer = max(width, height)
    if area < 250 or not 24 <= longer <= 260:
        return None
    return left + width // 2, top + height // 2, round(1.25 * longer)


def piece(region: np.ndarray, generator: np.random.Generator) -> tuple[int, int, int] | None:
    """Centre and side of a square somewhere in a region; None when the region is too small."""
    rows, columns = np.nonzero(region)
    if len(rows) < 3500:
        return None
    chosen = int(generator.integers(len(rows)))
    return int(columns[chosen]), int(rows[chosen]), int(np.clip(0.9 * np.sqrt(len(rows)), 64, 160))


def fitted(x: int, y: int, side: int, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The left, the top and the side of a square that lies inside a picture."""
    side = min(side, *shape)
    return (
        int(np.clip(x - side // 2, 0, shape[1] - side)),
        int(np.clip(y - side // 2, 0, shape[0] - side)),
        side,
    )


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
    rows = [
        row
        for row in TABLES[given.table]
        if (not given.only or f"{row[0]}@{row[1]}" in given.only) and (not given.way or row[2] in given.way)
    ]
    print(f"\n{title}: test accuracy after {given.seconds:.0f} s on one thread\n", flush=True)
    print("| network | pixels | settings | epochs | seconds | mean | each seed |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    seeds = range(given.first, given.first + given.seeds)
    for name, size, way in rows:
        fixed = [*more, *WAYS[way]]
        # The first opens the pictures and imports what is imported late; the others tell an epoch's cost.
        _, once, thrice = (
            trained(folder, name, size, epochs=n, seed=given.first, runs=runs, more=fixed)[1]
            for n in (1, 1, 3)
        )
        epoch = max((thrice - once) / 2, 1e-3)
        epochs = max(2, round((given.seconds - (once - epoch)) / epoch))
        done = [
            trained(folder, name, size, epochs=epochs, seed=seed, runs=runs, more=fixed) for seed in seeds
        ]
        each = ", ".join(f"{score:.3f}" for score, _ in done)
        mean = statistics.mean(score for score, _ in done)
        spent = statistics.mean(seconds for _, seconds in done)
        print(f"| {name} | {size} | {way} | {epochs} | {spent:.0f} | {mean:.3f} | {each} |", flush=True)


def main() -> None:
    """Prints a table for each set of pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("--voc", type=Path, action="append", default=[])
    parser.add_argument("--camvid", type=Path, action="append", default=[])
    parser.add_argument("--table", choices=sorted(TABLES), default="networks")
    parser.add_argument("--only", action="append", default=[], metavar="NETWORK@PIXELS")
    parser.add_argument("--way", choices=sorted(WAYS), action="append", default=[])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where pictures and runs stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = given.keep or Path(temporary)
        runs = place / "runs"
        if not (given.folder or given.voc or given.camvid):
            digits = draw_digits(place / "digits", images=1000, size=64)
            compare("digits of the demo", digits, ["data.group_by=group"], given, runs)
        for folder in given.folder:
            compare(folder.name, folder, [], given, runs)
        for voc in given.voc:
            crops(voc, place / voc.name, most=600)
            grouped = ["data.group_by=re:/([^/]+)-[0-9]+[.]png$"]
            compare(f"{voc.name} crops", place / voc.name, grouped, given, runs)
        for camvid in given.camvid:
            scenes(camvid, place / camvid.name, most=330)
            moments = ["data.group_by=re:/([^/]+_[0-9]+)-[^/]+$"]
            compare(f"{camvid.name} pieces", place / camvid.name, moments, given, runs)


if __name__ == "__main__":
    main()
