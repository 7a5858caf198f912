"""How much memory an evaluation of 10,000 images takes: boxes and masks, from answers to every number.

    python benchmarks/evaluation_memory.py [--images 10000]

Boxes: 31 answers and 7 objects an image, of 20 classes. Masks: 480 x 360 pixels of 11 classes; all images
share one file of a mask, and answers are drawn one after the other. Each in a process of its own, with a
tenth of the images and with all; what counts is how much the rest adds. Pictures and networks are left out.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

CLASSES = 20
ANSWERS, OBJECTS = 31, 7  # an image
WIDTH, HEIGHT, MASK_CLASSES = 480, 360, 11
PROMISED = 48  # KiB an image that more images may add


def boxes(images: int) -> float:
    """Measures boxes; returns mAP."""
    from pictune.data.sample import Boxes
    from pictune.evaluation.measurement import measure
    from pictune.tasks.detection import Detection

    names = tuple(f"class {number}" for number in range(CLASSES))
    task = Detection(names, canvas=(640, 640))

    def drawn(number: int) -> tuple[np.ndarray, Boxes]:
        rng = np.random.default_rng(number)
        corner = rng.random((OBJECTS, 2)) * 400
        known = np.concatenate([corner, corner + 20 + rng.random((OBJECTS, 2)) * 200], axis=1)
        labels = rng.integers(CLASSES, size=OBJECTS)
        whose = rng.integers(OBJECTS, size=ANSWERS)
        said = known[whose] + rng.normal(0, 8, (ANSWERS, 4))
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
        answer = np.column_stack([labels[whose], rng.random(ANSWERS), said])
        return answer[np.argsort(-answer[:, 1])], Boxes(tuple(names[i] for i in labels), known)

    truths = [drawn(number)[1] for number in range(images)]
    answers = (drawn(number)[0] for number in range(images))
    table = task.score([f"{number}.jpg" for number in range(images)], answers, truths, None)
    return float(measure(table).to_json()["metrics"]["map"]["value"])


def masks(images: int) -> float:
    """Measures masks; returns mean IoU."""
    from pictune.data.sample import Legend, Mask
    from pictune.evaluation.measurement import measure
    from pictune.tasks.segmentation import Segmentation

    names = tuple(f"class {number}" for number in range(MASK_CLASSES))
    task = Segmentation(names)
    small = np.random.default_rng(0).integers(MASK_CLASSES, size=(9, 12), dtype=np.uint8)
    known = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)

    def answers() -> Iterator[np.ndarray]:
        for number in range(images):
            yield np.roll(known, number % 7, axis=1)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        path.write_bytes(cv2.imencode(".png", known)[1].tobytes())
        mask = Mask(path, Legend(dict(enumerate(names))), names)
        keys = [f"{number}.jpg" for number in range(images)]
        table = task.score(keys, answers(), [mask] * images, None)
    return float(measure(table).to_json()["metrics"]["mean_iou"]["value"])


WORK = {"boxes": boxes, "masks": masks}


def main() -> None:
    """Measures both, with few images and with many."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--one", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        started = time.perf_counter()
        found = WORK[options.one](options.images)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{found:.4f} {time.perf_counter() - started:.1f} {peak}")
        return
    late = False
    for name in WORK:
        peaks = []
        for images in (options.images // 10, options.images):
            command = [sys.executable, __file__, "--one", name, "--images", str(images)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            number, seconds, peak = run.stdout.split()[-3:]
            peaks.append(int(peak))
            told = f"{float(seconds):6.1f} s, peak {int(peak) / 1024:,.0f} MiB, {number}"
            print(f"{name}: {images:>6,} images, {told}")
        added = (peaks[1] - peaks[0]) / (0.9 * options.images)
        late |= added > PROMISED
        print(f"{name}: {added:.1f} KiB for every further image (promised: at most {PROMISED})")
    sys.exit("more memory than promised" if late else 0)


if __name__ == "__main__":
    main()
