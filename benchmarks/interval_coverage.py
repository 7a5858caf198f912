"""How often a 95 % interval holds the truth, by simulation with known truth.

    python benchmarks/interval_coverage.py            # 500 repetitions a scenario, some minutes on one core
    python benchmarks/interval_coverage.py --quick    # 100 repetitions
    python benchmarks/interval_coverage.py --repetitions 2000
    python benchmarks/interval_coverage.py --held-out --repetitions 1000
    python benchmarks/interval_coverage.py --only "k=10"

Every repetition draws n = 200 images from a population whose metrics are known (the same code on 300,000
images) and measures them. Images are points in k dimensions, normal around their class's corner; the model's
scores are the true class probabilities at a temperature, so accuracy and calibration can be set at will.
Grouped images of one scene share half the variance of their noise.

The share of intervals that hold the truth should be 0.93 to 0.97; what is outside is marked: `-` below,
`+` above. With 2,000 repetitions, the share itself is known to within 0.01 (twice its standard error).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from pictune.evaluation.measurement import Measurement, measure
from pictune.tasks.table import ClassTable

IMAGES = 200
POPULATION = 300_000
METRICS = {
    "accuracy": "acc",
    "balanced_accuracy": "bal.acc",
    "hamming_loss": "hamming",
    "macro_precision": "mac.prec",
    "macro_f1": "mac.F1",
    "weighted_precision": "wgt.prec",
    "weighted_f1": "wgt.F1",
    "micro_f1": "mic.F1",
    "macro_roc_auc": "mac.AUC",
    "macro_average_precision": "mac.AP",
    "log_loss": "log loss",
    "brier": "Brier",
    "ece": "ECE",
}
PER_CLASS = {
    "precision": "prec",
    "recall": "recall",
    "specificity": "spec",
    "f1": "F1",
    "roc_auc": "AUC",
    "average_precision": "AP",
}


@dataclass(frozen=True)
class Scenario:
    """A population: k classes, how uneven, how accurate a model, how sure of itself, in groups or not."""

    classes: int
    accuracy: float
    imbalance: float = 1.0
    sureness: float = 1.0  # 1 is calibrated, above is overconfident
    group: int = 1  # images of one scene
    multilabel: bool = False

    @property
    def name(self) -> str:
        kind = "multi-label" if self.multilabel else f"k={self.classes}"
        parts = [kind, f"acc {self.accuracy:g}", f"{self.imbalance:g}:1" if self.imbalance != 1 else "even"]
        parts += [f"sure x{self.sureness:g}"] * (self.sureness != 1) + [f"groups of {self.group}"] * (
            self.group > 1
        )
        return ", ".join(parts)

    @property
    def prior(self) -> np.ndarray:
        """Half of the classes (rounded up) are frequent; with several labels, each label's own frequency."""
        weight = np.where(np.arange(self.classes) < (self.classes + 1) // 2, self.imbalance, 1.0)
        return 0.5 * weight / self.imbalance if self.multilabel else weight / weight.sum()

    def draw(self, generator: np.random.Generator, size: int, distance: float) -> ClassTable:
        k, prior = self.classes, self.prior
        noise = generator.normal(size=(size, k))
        groups = None
        if self.group > 1:
            groups = np.arange(size) // self.group
            shared = generator.normal(size=(groups[-1] + 1, k))
            noise = np.sqrt(0.5) * noise + np.sqrt(0.5) * shared[groups]
        if self.multilabel:
            truth = generator.random((size, k)) < prior
            evidence = noise + distance * truth
            logit = distance * evidence - distance**2 / 2 + special.logit(prior)
            scores = special.expit(self.sureness * logit)
            decided = scores > 0.5
        else:
            label = generator.choice(k, size=size, p=prior)
            truth = np.eye(k, dtype=bool)[label]
            scores = special.softmax(
                self.sureness * (distance * (noise + distance * truth) + np.log(prior)), axis=1
            )
            decided = np.eye(k, dtype=bool)[scores.argmax(axis=1)]
        keys = tuple(map(str, range(size)))
        names = tuple(f"c{c}" for c in range(k))
        return ClassTable(keys, names, truth, scores, decided, not self.multilabel, groups)

    def distance(self) -> float:
        """How far apart the classes lie for the accuracy asked for (of single answers when multi-label)."""
        low, high = 0.0, 8.0
        for _ in range(25):
            middle = (low + high) / 2
            table = self.draw(np.random.default_rng(1), 40_000, middle)
            right = (
                (table.truth == table.decided).mean()
                if self.multilabel
                else (table.truth & table.decided).sum() / 4e4
            )
            low, high = (middle, high) if right < self.accuracy else (low, middle)
        return low


SCENARIOS = [
    *(Scenario(2, a, 1, 1.3) for a in (0.7, 0.9, 0.97)),
    *(Scenario(2, a, 5, 1.3) for a in (0.9, 0.97)),  # 0.7 is below what the frequent class alone gives
    Scenario(3, 0.9, 1, 1.3),
    *(Scenario(3, a, 5, 1.3) for a in (0.7, 0.9, 0.97)),
    *(Scenario(10, a, i, 1.3) for i in (1, 5) for a in (0.7, 0.9, 0.97)),
    Scenario(10, 0.7),
    Scenario(2, 0.9),
    Scenario(3, 0.9, 5, 2.0),
    Scenario(5, 0.8, 1, 1.3, multilabel=True),
    Scenario(5, 0.95, 5, multilabel=True),
    Scenario(2, 0.9, 1, 1.3, group=5),
    Scenario(3, 0.8, 5, group=5),
    Scenario(10, 0.9, 1, 1.3, group=5),
    Scenario(5, 0.9, 1, 1.3, group=5, multilabel=True),
]


# The methods' constants were chosen on scenarios like those above; these were looked at only afterwards.
HELD_OUT = [
    Scenario(5, 0.8, 3, 0.7),
    Scenario(4, 0.85, 8, 1.6),
    Scenario(20, 0.8),
    Scenario(6, 0.95, 2, 1.3),
    Scenario(8, 0.9, 4, 1.2, multilabel=True),
    Scenario(3, 0.85, 2, 1.2, group=10),
    Scenario(3, 0.85, 2, 1.2, group=20),
]


def numbers_of(measured: Measurement) -> Iterator[tuple[str, dict]]:
    """Overall metrics, and those of the first (most frequent) and the last (rarest) class."""
    for name, short in METRICS.items():
        if name in measured.metrics:
            yield short, measured.metrics[name]
    for place, row in (("first", measured.classes[0]), ("last", measured.classes[-1])):
        for name, short in PER_CLASS.items():
            yield f"{short} {place}", row.metrics[name]


def coverage(
    scenario: Scenario, repetitions: int, resamples: int
) -> dict[str, tuple[float, float, float, int]]:
    """For each metric: truth, share of intervals that hold it, their mean width, how many there were."""
    distance = scenario.distance()
    population = measure(scenario.draw(np.random.default_rng(2), POPULATION, distance), resamples=100)
    truth = {name: number.value for name, number in numbers_of(population)}
    seen: dict[str, list[tuple[bool, float]]] = {name: [] for name in truth}
    for repetition in range(repetitions):
        table = scenario.draw(np.random.default_rng([3, repetition]), IMAGES, distance)
        for name, number in numbers_of(measure(table, resamples=resamples, seed=repetition)):
            if number.low is not None:
                seen[name].append((number.low <= truth[name] <= number.high, number.high - number.low))
    return {name: (truth[name], *np.mean(rows, axis=0), len(rows)) for name, rows in seen.items()}


def marked(share: float) -> str:
    return f"{share:.3f}{'-' if share < 0.93 else '+' if share > 0.97 else ''}"


def print_table(found: dict[str, dict[str, tuple]], columns: list[str]) -> None:
    print("| scenario | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for scenario, rows in found.items():
        cells = [f"{marked(rows[c][1])} ({rows[c][2]:.3f})" if c in rows else "" for c in columns]
        print(f"| {scenario} | " + " | ".join(cells) + " |")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="100 repetitions instead of 500")
    parser.add_argument("--repetitions", type=int, help="how many tables a scenario")
    parser.add_argument("--resamples", type=int, default=200, help="simulations an interval")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--held-out", action="store_true", help="scenarios that no method was fitted to")
    given = parser.parse_args()
    repetitions = given.repetitions or (100 if given.quick else 500)
    found = {}
    for scenario in (s for s in (HELD_OUT if given.held_out else SCENARIOS) if given.only in s.name):
        start = time.perf_counter()
        found[scenario.name] = coverage(scenario, repetitions, given.resamples)
        print(f"{scenario.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"n = {IMAGES}, {repetitions:,} repetitions. Cell: coverage (mean width).\n")
    print_table(found, list(METRICS.values()))
    for place, which in (("first", "first (most frequent)"), ("last", "last (rarest)")):
        print(f"The {which} class:\n")
        print_table(found, [f"{short} {place}" for short in PER_CLASS.values()])
    shares = np.array([row[1] for rows in found.values() for row in rows.values()])
    inside = np.mean((shares >= 0.93) & (shares <= 0.97))
    print(
        f"{len(shares)} intervals: {inside:.0%} within 0.93 to 0.97, {np.mean(shares < 0.93):.0%} below "
        f"(lowest {shares.min():.3f}), {np.mean(shares > 0.97):.0%} above."
    )


if __name__ == "__main__":
    main()
