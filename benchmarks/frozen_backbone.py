"""Training above frozen layers, against a plain PyTorch and timm loop that freezes the same ones.

    python benchmarks/frozen_backbone.py --folder signs/ [--case head|views|stage] [--epochs 30]

resnet50 at 160 px, batch 32, AdamW. The cases:

    head    only the last layer learns, no augmentation
    views   only the last layer learns; the plain loop augments anew in every epoch, Pictune has 4 views
    stage   layer4 and the last layer learn, 4 views

Both start from the same file of weights and learn from the same pictures; the split is Pictune's. No hub is
asked: the weights are random, with normalisation statistics from some of the pictures, unless ``--weights``
names a file of resnet50. The plain loop freezes as usual: evaluation mode, no gradient, bf16 or fp32 as
``--plain-precision`` says. Its time holds decoding, training and judging the test pictures; Pictune's is
all of `pictune train`: checking and storing the pictures, features, probe, validated epochs and report.

``--plain-epochs 3`` runs fewer epochs of the plain loop and multiplies; then accuracies are not compared.
Printed: seconds of both, their ratio, both test accuracies, and their difference with a paired interval.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

SIZE, BATCH, RESAMPLES = 160, 32, 2000
CASES = {
    "head": ("none", "head", "none"),
    "views": ("medium", "head", "none"),
    "stage": ("medium", "full", "layer3"),
}


def first_weights(path: Path, files: list[Path]) -> None:
    """A resnet50 at random whose normalisation has seen a few pictures, so that features differ."""
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.data import create_transform

    torch.manual_seed(0)
    network = timm.create_model("resnet50", num_classes=10).train()
    look = create_transform(SIZE, is_training=False)
    with torch.no_grad():
        for first in range(0, min(len(files), 192), 64):
            network(torch.stack([look(_opened(file)) for file in files[first : first + 64]]))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def _opened(path: Path):
    from PIL import Image

    return Image.open(path).convert("RGB")


class Pictures:
    """What torch's loader reads: pictures by path, decoded every time."""

    def __init__(self, files: list[Path], labels: list[int], look) -> None:
        self.files, self.labels, self.look = files, labels, look

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int):
        return self.look(_opened(self.files[number])), self.labels[number]


def plain(case: str, folder: Path, splits: dict, classes: list[str], weights: Path, given) -> tuple:
    """Seconds for all epochs and the test, and which test pictures were right."""
    import timm
    import torch
    from timm.data import create_transform

    started = time.perf_counter()
    network = timm.create_model("resnet50", num_classes=len(classes))
    tensors = _read(weights)
    network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("fc.")}, strict=False)
    network.to(memory_format=torch.channels_last)
    learning = [network.fc] if case != "stage" else [network.layer4, network.fc]
    network.requires_grad_(False).eval()
    for module in learning:
        module.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.05
    )
    varied = create_transform(SIZE, is_training=True, scale=(0.35, 1.0), hflip=0.5, color_jitter=0.4)
    clean = create_transform(SIZE, is_training=False, crop_pct=1.0)
    label = {key: classes.index(key.split("/")[0]) for keys in splits.values() for key in keys}

    def loader(keys, look, **options):
        pictures = Pictures([folder / key for key in keys], [label[key] for key in keys], look)
        return torch.utils.data.DataLoader(pictures, BATCH, num_workers=given.workers, **options)

    train = loader(
        splits["train"], clean if case == "head" else varied, shuffle=True, drop_last=True,
        persistent_workers=given.workers > 0,
    )  # fmt: skip
    half = torch.autocast("cpu", torch.bfloat16, enabled=given.plain_precision == "bf16")
    epochs = given.plain_epochs or given.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(train))
    ready = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(epochs):
        for module in learning:
            module.train()
        for images, targets in train:
            images = images.contiguous(memory_format=torch.channels_last)
            with half:
                with torch.no_grad():
                    below = network.maxpool(network.act1(network.bn1(network.conv1(images))))
                    below = network.layer3(network.layer2(network.layer1(below)))
                    if case != "stage":
                        below = network.layer4(below)
                above = below if case != "stage" else network.layer4(below)
                outputs = network.forward_head(above)
            loss = torch.nn.functional.cross_entropy(outputs.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    learnt = (time.perf_counter() - started) * given.epochs / epochs
    started = time.perf_counter()
    network.eval()
    right = []
    with torch.no_grad(), half:
        for images, targets in loader(splits["test"], clean):
            outputs = network(images.contiguous(memory_format=torch.channels_last))
            right += (outputs.argmax(1) == targets).tolist()
    return ready + learnt + time.perf_counter() - started, np.array(right)


def _read(path: Path):
    from safetensors.torch import load_file

    return load_file(path)


def with_pictune(case: str, folder: Path, place: Path, weights: Path, given) -> tuple:
    """Seconds for all of `train`, the run, and which test pictures were right, by key."""
    import pictune

    augment, technique, freeze = CASES[case]
    cache = place / f"cache-{case}"
    os.environ["PICTUNE_CACHE"] = str(cache)
    started = time.perf_counter()
    run = pictune.train(
        folder,
        model="resnet50",
        weights=str(weights),
        image_size=SIZE,
        batch_size=BATCH,
        epochs=given.epochs,
        augmentation=augment,
        settings=[f"technique.name={technique}", f"transfer.freeze={freeze}", "training.seed=1"],
        runs=place / "runs",
        name=case,
        watcher=Teller(),
    )
    seconds = time.perf_counter() - started
    with (run.report("test") / "predictions.csv").open(encoding="utf-8") as stream:
        rows = {row["key"]: row["truth"] == row["predicted"] for row in csv.DictReader(stream)}
    return seconds, run, rows


class Teller:
    """A watcher that prints what is said."""

    def step(self, *ignored: object) -> None:
        pass

    def epoch(self, facts: object) -> None:
        pass

    def say(self, sentence: str) -> None:
        print(f"    {sentence}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--plain-epochs", type=int, default=0)
    parser.add_argument("--plain-precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    from pictune.threads import steady_threads

    steady_threads()
    folder = given.folder.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        weights = given.weights or place / "resnet50.safetensors"
        if given.weights is None:
            first_weights(weights, sorted(folder.glob("*/*"))[::10])
        for case in given.case or CASES:
            print(f"== {case}", flush=True)
            ours, run, answers = with_pictune(case, folder, place, weights, given)
            splits = run.read("splits.json")
            theirs, right = plain(case, folder, splits["splits"], splits["classes"], weights, given)
            mine = np.array([answers[key] for key in splits["splits"]["test"]])
            report = json.loads((run.report("test") / "report.json").read_text())
            about = "" if not given.plain_epochs else f" (from {given.plain_epochs} epochs)"
            print(f"pictune {ours:.0f} s, plain {theirs:.0f} s{about}: ratio {theirs / ours:.1f}")
            accuracy = report["metrics"]["accuracy"]
            print(
                f"test accuracy: pictune {mine.mean():.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}]",
                end="",
            )
            if given.plain_epochs:
                print()
                continue
            draws = np.random.default_rng(0).integers(0, len(mine), (RESAMPLES, len(mine)))
            differences = (mine.astype(float) - right)[draws].mean(axis=1)
            low, high = np.quantile(differences, (0.025, 0.975))
            gain = mine.mean() - right.mean()
            print(f", plain {right.mean():.3f}; paired difference {gain:+.3f} [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
