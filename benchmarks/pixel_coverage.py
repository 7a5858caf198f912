"""How often the intervals of masks hold the truth, in simulations in which the truth is known.

    python benchmarks/pixel_coverage.py [--repetitions 1000]

Images are drawn from a population of five classes: how many images show a class, how large it is there, and
how well it is answered all vary. Then they are measured, and each class's IoU and their mean compared with
those of 400,000 images. Printed is the share of 95 % intervals that hold them; classes absent from a draw are
left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from pictune.evaluation.pixel_numbers import measure_pixels
from pictune.tasks.table import PixelTable

CLASSES = 5
POPULATION = 400_000
SIZES, SKEWS = (20, 60, 200), (0.5, 1.2)


@dataclass(frozen=True)
class Scenario:
    """How often classes are there, how well they are answered, how large they are, and how images differ."""

    shown: tuple[float, ...]
    quality: tuple[float, ...]
    area: tuple[float, ...]
    alike: float


SCENARIOS = {
    "even": Scenario((0.9,) * 5, (0.7, 0.76, 0.83, 0.89, 0.95), (1.0,) * 5, 8),
    "rare": Scenario((1, 1, 0.5, 0.2, 0.1), (0.95, 0.9, 0.7, 0.6, 0.5), (50, 10, 3, 1, 0.3), 5),
    "sure": Scenario((1, 1, 0.8, 0.5, 0.3), (0.97,) * 5, (20, 5, 2, 1, 1), 10),
}


def drawn(rng: np.random.Generator, scenario: Scenario, images: int, skew: float) -> np.ndarray:
    """(n, k, 3) pixels that are right, true and answered."""
    shape, quality, area = (images, CLASSES), np.array(scenario.quality), np.array(scenario.area)
    there = rng.random(shape) < np.array(scenario.shown)
    true = np.where(there, np.exp(rng.normal(0, skew, shape)) * 10_000 * area, 0)
    right = true * rng.beta(scenario.alike * quality, scenario.alike * (1 - quality), shape)
    wrong = true * rng.beta(scenario.alike * (1 - quality), scenario.alike * quality, shape)
    strays = np.where(rng.random(shape) < 0.1, rng.exponential(300, shape) * area, 0)
    return np.rint(np.stack([right, true, right + wrong + strays], axis=-1)).astype(np.int64)


def iou_of(counts: np.ndarray) -> np.ndarray:
    """(k) pooled over images."""
    right, true, answered = counts.sum(0).T
    return right / (true + answered - right)


def table_of(counts: np.ndarray) -> PixelTable:
    """A table as a segmenter's answers would make it."""
    right, true, answered = np.moveaxis(counts, -1, 0)
    return PixelTable(
        keys=tuple(str(number) for number in range(len(counts))),
        classes=tuple(str(number) for number in range(CLASSES)),
        hits=right,
        true=true,
        answered=answered,
        confusion=np.diag(right.sum(0)),
        edges=np.zeros((*right.shape, 4), np.int64),
    )


def coverage(scenario: Scenario, images: int, skew: float, repetitions: int) -> list[float]:
    """The share of intervals that hold the truth: each class's IoU, then their mean."""
    rng = np.random.default_rng(0)
    truth = iou_of(drawn(rng, scenario, POPULATION, skew))
    wanted = [*truth, truth.mean()]
    held = np.zeros((CLASSES + 1, 2))
    for seed in range(repetitions):
        counts = drawn(rng, scenario, images, skew)
        found = measure_pixels(table_of(counts), 1000, 0.95, seed)
        numbers = [row.metrics["iou"] for row in found.classes] + [found.metrics["mean_iou"]]
        complete = bool((counts[..., 1].sum(0) > 0).all())
        for row, (number, known) in enumerate(zip(numbers, wanted, strict=True)):
            if number.low is None or number.high is None or (row == CLASSES and not complete):
                continue
            held[row] += number.low <= known <= number.high, 1
    return (held[:, 0] / np.maximum(held[:, 1], 1)).tolist()


def main() -> None:
    """Prints one row a scenario and number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    options = parser.parse_args()
    print("| classes | sizes | images | IoU of each class, the rarest last | mean IoU |")
    print("|---|---|---|---|---|")
    for name, scenario in SCENARIOS.items():
        for skew in SKEWS:
            for images in SIZES:
                *each, mean = coverage(scenario, images, skew, options.repetitions)
                shown = " ".join(f"{share:.2f}" for share in each)
                differ = "alike" if skew < 1 else "very different"
                print(f"| {name} | {differ} | {images} | {shown} | {mean:.2f} |", flush=True)


if __name__ == "__main__":
    main()
