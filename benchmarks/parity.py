"""Exports beside the runs that they were made of: the same answers on pictures of every odd kind?

    python benchmarks/parity.py [--networks resnet18 unet-resnet18] [--pictures 200]

Each network is trained briefly on drawn scenes of red circles and blue squares, from scratch, and
exported as anybody would, with `export` (ONNX, fp32). Then run and export are asked about the files of
`tests/odd_files.py`: turned by EXIF, grey, CMYK, 16 bits deep, palettes, transparent; of odd sizes, tiny,
wide and tall. The export is asked twice: as `predict` does, many at a time, and as the server does, by the
bytes of one picture; what is further apart is shown. Boxes are compared over the model's own thresholds, and
once more from a score of 0.05 on, where there are many more that might come or go.

A line fails when a label, the number or the class of a box, or the class of a pixel is another; when a
confidence or a score differs by more than 0.0001 or a coordinate by more than 0.01 pixels; and when there is
little to compare: the scenes of the test split are not answered well, or a class is hardly ever answered.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import cv2

import pictune
import toys
from likeness import Likeness, likeness
from odd_files import odd_pictures
from pictune.data.decoding import decode
from pictune.data.pixels import shrink
from pictune.exporting.exported import Exported
from pictune.run import Run
from pictune.tasks.task import Prediction
from pictune.verbs.asked import open_asked

CONFIDENCE, COORDINATE = 1e-4, 0.01
LOW_SCORE = 0.05
LEAST_SHARE = 0.01  # of what is compared: a class that is answered less often was not learnt


@dataclass(frozen=True)
class Network:
    """How one is trained.

    Args:
        model: A backbone.
        size: Side of the canvas, pixels.
        epochs: Passes over the pictures.
        data: Which ones: labels, boxes or masks.
        metric: What it must be good at.
        least: How good.
        batch: Pictures a step.
        settings: Others than the usual ones.
    """

    model: str
    size: int
    epochs: int
    data: str = "labels"
    metric: str = "accuracy"
    least: float = 0.8
    batch: int = 16
    settings: tuple[str, ...] = ()


NETWORKS = {
    "resnet18": Network("resnet18", 64, 4),
    "vgg11": Network("vgg11", 64, 3, batch=32, settings=("optimizer.learning_rate=0.0002",)),
    "inception_v3": Network("inception_v3", 75, 8),
    "convnext_atto": Network("convnext_atto", 64, 5),
    "vit_tiny": Network("vit_tiny_patch16_224", 64, 8),
    "mobilenetv4": Network("mobilenetv4_conv_small", 64, 12),
    "fcos-resnet18": Network("resnet18", 96, 12, "boxes", "map50", 0.7),
    "unet-resnet18": Network("resnet18", 96, 6, "masks", "mean_iou", 0.7),
}
SETTINGS = (
    *("training.precision=fp32", "training.memory_format=contiguous", "training.threads=1"),
    *("training.workers=0", "evaluation.resamples=100", "split.near_duplicates=false"),
)


def labels(root: Path, *, count: int) -> Path:
    """Scenes in class folders: only circles, only squares, or both."""
    for number in range(count):
        pixels, objects, _ = toys.scene(number)
        kinds = sorted({kind for kind, _ in objects})
        path = root / " and ".join(kinds) / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
    return root


def drawn(kind: str, root: Path) -> Path:
    """The pictures to learn from, drawn when they are first needed."""
    if not root.exists():
        if kind == "labels":
            labels(root, count=360)
        else:
            {"boxes": toys.box_table, "masks": toys.mask_folders}[kind](root, count=240)
    return root


def trained(network: Network, place: Path) -> Run:
    return pictune.train(
        drawn(network.data, place / network.data),
        settings=[*SETTINGS, *network.settings],
        model=network.model,
        weights="none",
        image_size=network.size,
        epochs=network.epochs,
        batch_size=network.batch,
        runs=place / "runs",
    )


def alone(artifact: Path, pictures: list[Path]) -> list[Prediction]:
    """What the export says of each picture's bytes, one after the other, as the server asks it."""
    exported = Exported.open(artifact)
    found = []
    for path in pictures:
        looked = exported.look(path.read_bytes())
        answer = exported.answer(exported.run(looked.canvas[None]), looked)
        found += exported.task.predict([str(path)], [answer])
    return found


def unsure(model: Run | Path, pictures: list[Path]) -> list[Prediction]:
    """What a detector says from a low score on."""
    asked = open_asked(model).model
    pixels = [decode(path).pixels for path in pictures]
    stored = [shrink(picture, asked.specification.side) for picture in pixels]
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pixels]
    task = asked.task.answering_from(LOW_SCORE)
    return task.predict([str(path) for path in pictures], asked.answers(stored, sizes=sizes))


def faults(found: Likeness, network: Network, value: float, *, pictures: int) -> list[str]:
    """Why a comparison does not show that run and export are the same."""
    rarest = min(found.answered.values(), default=0)
    classes = {"labels": 3, "boxes": 2, "masks": 3}[network.data]
    reasons = {
        f"only {found.pictures} of {pictures} pictures were answered": found.pictures != pictures,
        f"{network.metric} is only {value:.3f}": value < network.least,
        f"answered were only {dict(found.answered)}": len(found.answered) < classes
        or rarest < LEAST_SHARE * found.compared,
        f"other answers for {', '.join(Path(p).name for p in found.differing[:20])}": bool(found.differing),
        f"confidences are {found.confidence:.2g} apart": not found.confidence <= CONFIDENCE,
        f"coordinates are {found.coordinate:.2g} apart": not found.coordinate <= COORDINATE,
    }
    return [reason for reason, holds in reasons.items() if holds]


def row(name: str, found: Likeness, network: Network, value: float, seconds: float) -> str:
    boxes, masks = network.data == "boxes", network.data == "masks"
    same = (found.pictures - len(found.differing)) / max(found.pictures, 1)
    cells = [
        name,
        f"{network.metric} {value:.3f}",
        str(found.pictures),
        f"{found.compared:,} {'pixels' if masks else network.data}",
        f"{same:.2%}",
        "" if masks else f"{found.confidence:.1e}",
        f"{found.coordinate:.1e}" if boxes else "",
        f"{found.other_pixels} of {found.pixels:,}" if masks else "",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def measured(name: str, place: Path, pictures: list[Path]) -> list[str]:
    """Trains, exports and compares one; prints its line, and says why it fails."""
    network, started = NETWORKS[name], time.perf_counter()
    run = trained(network, place)
    report = json.loads((run.report("test") / "report.json").read_text())
    value = float(report["metrics"][network.metric]["value"])
    artifact = pictune.export(run, out=place / "exports" / f"{name}.pictune").path
    ours = pictune.predict(run, *pictures).answers
    both = [likeness(ours, pictune.predict(artifact, *pictures).answers)]
    both.append(likeness(ours, alone(artifact, pictures)))
    found = max(both, key=lambda one: (len(one.differing), one.confidence, one.coordinate))
    seconds = time.perf_counter() - started
    print(row(name, found, network, value, seconds), flush=True)
    if network.data == "boxes":
        both.append(likeness(unsure(run, pictures), unsure(artifact, pictures)))
        print(row(f"{name}, from {LOW_SCORE} on", both[-1], network, value, seconds), flush=True)
    for folder in (run.path, artifact.parent):
        shutil.rmtree(folder)
    wrong = [reason for one in both for reason in faults(one, network, value, pictures=len(pictures))]
    return [f"{name}: {reason}" for reason in dict.fromkeys(wrong)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--pictures", type=int, default=200)
    given = parser.parse_args()
    heads = ["network", "on scenes", "odd pictures", "compared", "same answers", "scores apart"]
    heads += ["coordinates apart", "other pixels", "seconds"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    wrong = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["PICTUNE_CACHE"] = str(place / "cache")
        pictures = odd_pictures(place / "odd", count=given.pictures)
        for name in given.networks:
            wrong += measured(name, place, pictures)
    for reason in wrong:
        print(reason)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
