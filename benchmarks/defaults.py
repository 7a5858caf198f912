"""Which network learns most from scratch in the same processor time?

    python benchmarks/defaults.py --folder signs/ --voc bccd/ [--seconds 150] [--seeds 3]

Each candidate is trained by `pictune train` on the same split, for as many epochs as fit into the given
seconds of processor time (on one thread, so that neighbours on the machine do not count), and judged on
the test split. ``--folder`` takes class folders; ``--voc`` takes Pascal VOC boxes, whose crops become the
pictures, grouped by the photograph they come from. Printed: a table of test accuracies over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2

import pictune

CANDIDATES = (
    ("cnn", 96),
    ("cnn", 128),
    ("resnet10t", 96),
    ("regnetx_002", 96),
    ("mobilenetv4_conv_small", 96),
    ("edgenext_xx_small", 96),
)
FIXED = [
    "training.threads=1",
    "training.precision=fp32",
    "training.memory_format=channels_last",
    "data.max_bad=1.0",
]


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


def main() -> None:
    """Trains all candidates on all data and prints a table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, action="append", default=[])
    parser.add_argument("--voc", type=Path, action="append", default=[])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="more")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        data = {folder.name: (folder, list(given.more)) for folder in given.folder}
        for voc in given.voc:
            crops(voc, place / voc.name, most=600)
            grouped = [*given.more, "data.group_by=re:/([^/]+)-[0-9]+[.]png$"]
            data[f"{voc.name} crops"] = (place / voc.name, grouped)
        for title, (folder, more) in data.items():
            print(f"\n{title}: test accuracy after {given.seconds:.0f} s on one thread\n", flush=True)
            print("| network | pixels | epochs | mean | each seed |\n|---|---|---|---|---|", flush=True)
            for name, size in CANDIDATES:
                short, longer = (
                    trained(folder, name, size, epochs=n, seed=0, runs=place / "runs", more=more)[1]
                    for n in (1, 2)
                )
                epoch = max(longer - short, 1e-3)
                epochs = max(2, round((given.seconds - (short - epoch)) / epoch))
                scores = [
                    trained(folder, name, size, epochs=epochs, seed=seed, runs=place / "runs", more=more)[0]
                    for seed in range(given.seeds)
                ]
                each = ", ".join(f"{score:.3f}" for score in scores)
                print(f"| {name} | {size} | {epochs} | {statistics.mean(scores):.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
