"""Training throughput against a plain PyTorch loop with timm's own loader, side by side in one process.

    python benchmarks/train_throughput.py [--pictures 600] [--rounds 5]

Both train resnet18 at 128 px, batch 32, SGD with momentum, random resized crop, flip and colour jitter,
on the same JPEG files of 500x375 pixels drawn by this script. Each round runs one epoch of each, in
turn. Printed: images a second of each, the ratio of the medians in the first epoch (everything is
decoded) and from the second on (Pictune reads its pixel store), and the ratio of peak memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

SIZE, BATCH, CLASSES = 128, 32, 10
STEPS = (
    {"name": "random_resized_crop", "scale": [0.35, 1.0], "ratio": [0.75, 1.33]},
    {"name": "horizontal_flip", "probability": 0.5},
    {"name": "brightness", "strength": 0.4},
    {"name": "contrast", "strength": 0.4},
    {"name": "saturation", "strength": 0.4},
)


def draw_pictures(folder: Path, count: int) -> None:
    """Class folders of JPEGs with the size and detail of photographs."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        noisy = smooth + generator.normal(0, 12, smooth.shape).astype(np.int16)
        cv2.imwrite(
            str(place / f"{number}.jpg"),
            np.clip(noisy, 0, 255).astype(np.uint8),
            [cv2.IMWRITE_JPEG_QUALITY, 90],
        )


def peak_memory() -> float:
    """Largest memory of this process and of its largest child so far, MiB."""
    own, children = (
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return (own + children) / 1024


def plain_loop(folder: Path, requests, answers) -> None:
    """The peer: PyTorch, timm's dataset and create_loader, one epoch a request."""
    import timm
    import torch
    from timm.data import create_dataset, create_loader

    torch.set_num_threads(2)
    dataset = create_dataset("", root=str(folder))
    loader = create_loader(
        dataset,
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        scale=(0.35, 1.0),
        hflip=0.5,
        color_jitter=0.4,
        num_workers=2,
        persistent_workers=True,
        device=torch.device("cpu"),
    )
    network = timm.create_model("resnet18", num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    while requests.get():
        started, seen = time.perf_counter(), 0
        for images, targets in loader:
            loss = torch.nn.functional.cross_entropy(network(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss.detach())
            seen += len(images)
        answers.put((seen / (time.perf_counter() - started), peak_memory()))


def pictune_loop(folder: Path, requests, answers) -> None:
    """`pictune train`, paused between epochs by its watcher; validation is not counted."""
    import os

    os.environ["PICTUNE_CACHE"] = str(folder.parent / "cache")
    import pictune
    from pictune.threads import steady_threads

    steady_threads()  # as the command line does

    class Pacer:
        started = 0.0
        speed = 0.0

        def step(self, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
            if step == steps:
                self.speed = BATCH * steps / (time.perf_counter() - self.started)

        def epoch(self, facts: object) -> None:
            answers.put(
                (self.speed, peak_memory())
            )  # validation and checkpoint are over: nothing runs beside the peer
            requests.get()
            self.started = time.perf_counter()

        def say(self, sentence: str) -> None:
            print(f"    {sentence}", flush=True)

    pacer = Pacer()
    requests.get()
    pacer.started = time.perf_counter()  # reading, checking and storing all pictures count to the first epoch
    settings = [
        "augmentation.preset=custom",
        f"augmentation.steps={list(STEPS)}",
        "optimizer.name=sgd",
        "optimizer.learning_rate=0.05",
        "training.ema=0",
        "training.clip=0",
        "split.near_duplicates=false",
        "split.val=0.01",
        "split.test=0",
        "training.threads=2",
        "training.checkpoint_minutes=60",
    ]
    pictune.train(
        folder,
        model="resnet18",
        weights="none",
        image_size=SIZE,
        batch_size=BATCH,
        epochs=20,
        settings=settings,
        runs=folder.parent / "runs",
        watcher=pacer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "pictures"
        draw_pictures(folder, given.pictures)
        sides = {}
        for name, loop in (("plain", plain_loop), ("pictune", pictune_loop)):
            requests, answers = context.Queue(), context.Queue()
            process = context.Process(target=loop, args=(folder, requests, answers), daemon=False)
            process.start()
            sides[name] = (process, requests, answers)
        figures: dict[str, list[float]] = {name: [] for name in sides}
        memory: dict[str, float] = {}
        for number in range(given.rounds + 1):
            for name, (_, requests, answers) in sides.items():
                requests.put(True)
                speed, memory[name] = answers.get()
                figures[name].append(speed)
                print(f"epoch {number + 1} {name:<8} {speed:7.1f} images/s", flush=True)
        sides["plain"][1].put(False)
        sides["pictune"][0].kill()
        sides["plain"][0].join(60)
    later = {name: statistics.median(speeds[1:]) for name, speeds in figures.items()}
    print(f"first epoch:      ratio {figures['pictune'][0] / figures['plain'][0]:.2f}")
    print(
        f"from the second:  ratio {later['pictune'] / later['plain']:.2f}  "
        f"(pictune {later['pictune']:.1f}, plain {later['plain']:.1f} images/s, medians of {given.rounds})"
    )
    print(
        f"peak memory:      ratio {memory['pictune'] / memory['plain']:.2f}  "
        f"(pictune {memory['pictune']:.0f}, plain {memory['plain']:.0f} MiB, with the largest worker)"
    )


if __name__ == "__main__":
    main()
