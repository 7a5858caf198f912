"""Do the weights help? Fine-tunes on few pictures from the file and from scratch, side by side.

    python -m pretraining.transfer --weights FILE [--weights FILE ...] --voc FOLDER --camvid FOLDER

Everything learns, at the same rates and for as many epochs; only the first weights differ. Printed: balanced
accuracy on the pictures that are left, over seeds that draw other pictures to learn from.
"""

# ruff: noqa: T201 - a script speaks on standard output
from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pictune.data.augmentation import PRESETS, build_augmentation
from pictune.data.loading import Loader
from pictune.data.truths import ClassTruths
from pictune.models.losses import LOSSES
from pictune.run import Journal
from pictune.tasks.classification import Classification
from pictune.training.fitting import fit
from pictune.training.job import Fit
from pictune.training.machine import Arithmetic, Machine
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES
from pretraining.export import shipped
from pretraining.probes import SIDE, Watched, watched
from pretraining.run import OUT, Told, build, parts

RATE, DECAY, BATCH = 2e-3, 0.05, 32


class Quiet(Told):
    """Prints nothing."""

    def epoch(self, facts: Mapping[str, object]) -> None:
        """Says nothing."""

    def say(self, sentence: str) -> None:
        """Says nothing."""


def first_network(classes: int, weights: Path | None, *, seed: int) -> nn.Sequential:
    """A network at random, or with all but its last layer from a file.

    Args:
        classes: Outputs.
        weights: A shipped file or a run's checkpoint; None for none.
        seed: Of what is random.
    """
    from safetensors.torch import load_file

    network = build(classes, seed=seed)
    if weights is not None:
        tensors = load_file(weights)
        if any(name.startswith("network.") for name in tensors):
            tensors = shipped(tensors)
        missing, unknown = parts(network)[1].load_state_dict(tensors, strict=False)
        assert set(missing) == {"fc.weight", "fc.bias"}, "all but the last layer comes from the file"
        assert not unknown, "the file holds a backbone and nothing else"
    return network


def few(data: Watched, shots: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from, so many a class, and rows of other groups to be judged on."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.unique(data.groups))
    open_ = np.isin(data.groups, groups[: len(groups) // 2])
    kinds = [
        rng.permutation(np.flatnonzero(open_ & (data.labels == kind)))[:shots]
        for kind in np.unique(data.labels)
    ]
    return np.concatenate(kinds), np.flatnonzero(~open_)


def balanced_accuracy(network: nn.Module, data: Watched, rows: NDArray[np.int64]) -> float:
    """Of a network in evaluation mode on some rows, 0 to 1."""
    with torch.inference_mode():
        pieces = [
            network(torch.from_numpy(data.pixels[part])) for part in np.array_split(rows, len(rows) // 64 + 1)
        ]
    answers, truth = torch.cat(pieces).argmax(1).numpy(), data.labels[rows]
    return float(np.mean([(answers[truth == kind] == kind).mean() for kind in np.unique(truth)]))


def finetuned(
    data: Watched, weights: Path | None, *, shots: int, epochs: int, preset: str, seed: int
) -> float:
    """Balanced accuracy after fine-tuning on a few pictures."""
    learnt, judged = few(data, shots, seed)
    classes = int(data.labels.max()) + 1
    network = first_network(classes, weights, seed=seed)
    loader = Loader(
        pictures=list(data.pixels),
        truths=ClassTruths(np.eye(classes, dtype=np.float32)[data.labels]),
        positions=learnt,
        look=build_augmentation(PRESETS[preset], SIDE),
        batch_size=min(BATCH, len(learnt)),
        shuffled=True,
        seed=seed,
        workers=0,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fit(
            Fit(
                network=network,
                task=Classification(
                    [str(kind) for kind in range(classes)], loss=LOSSES["cross_entropy"].make()
                ),
                loader=loader,
                validate=lambda _: {"accuracy": 0.0},
                make_optimizer=OPTIMIZERS["adamw"].make(learning_rate=RATE, weight_decay=DECAY),
                weight_decay=DECAY,
                schedule=SCHEDULES["cosine"].make(warmup_epochs=1.0),
                plan=Plan(cycles=(epochs,), seed=seed, checkpoint_seconds=1e9),
                machine=Machine(device="cpu", threads=1),
                arithmetic=Arithmetic("bf16", "channels_last", "as given"),
                folder=folder,
                journal=Journal(folder / "journal.jsonl"),
                names=[str(row) for row in range(len(data.pixels))],
                watcher=Quiet(),
                stop=lambda: 0,
            )
        )
    return balanced_accuracy(network.eval(), data, judged)


def main() -> None:
    """Prints a table for each watched data set."""
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, action="append", default=[])
    parser.add_argument("--voc", type=Path)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--shots", type=int, default=10, help="pictures a class")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", default=[], help="data sets by name")
    given = parser.parse_args()
    for data in watched(OUT / "watched", voc=given.voc, camvid=given.camvid):
        if given.only and data.name not in given.only:
            continue
        preset = "light" if data.name == "digits" else "medium"
        for weights in (None, *given.weights):
            each = [
                finetuned(data, weights, shots=given.shots, epochs=given.epochs, preset=preset, seed=seed)
                for seed in range(given.seeds)
            ]
            told = ", ".join(f"{score:.3f}" for score in each)
            name = "scratch" if weights is None else weights.stem
            print(f"| {data.name} | {name} | {np.mean(each):.3f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
