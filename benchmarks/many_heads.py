"""What do a hundred settings of a last layer cost, beside one? And is each of them what it is alone?

    python benchmarks/many_heads.py --folder signs/ [--network resnet18] [--weights file] [--heads 100]
    python benchmarks/many_heads.py --fake 2048

Pooled features of all pictures are computed once. Then random settings (rate, decay, dropout, loss, class
weights) are trained on them, each alone and all together, in turn. What one head costs is measured in
three ways: by `train_heads` with one setting, by the loop that everybody would write, with nn.Linear and
torch.optim.AdamW, and by `pictune.training.fit`, which trains a head where the probe does not (here
without validation and averaged weights). Printed: medians, their ratios over the features alone and with
the pass that computes them, and how far a setting's test accuracy together is from its accuracy alone.

``--fake`` takes random features of that width instead of pictures. Without ``--weights`` the network's are
drawn from the seed: the same work, and features that tell less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pictune.data.augmentation.view import clean_view
from pictune.data.formats import read_dataset
from pictune.data.ingest import ingest
from pictune.data.loading import Batch
from pictune.models.backbones import build_network, describe, embed
from pictune.models.losses import LOSSES
from pictune.models.preprocess import Preprocess
from pictune.models.weights import find_weights
from pictune.run import Journal
from pictune.tasks.classification import Classification
from pictune.training.fitting import fit
from pictune.training.heads import HeadSetting, TrainedHeads, train_heads
from pictune.training.job import Fit
from pictune.training.machine import Arithmetic, Machine
from pictune.training.optimizers import OPTIMIZERS
from pictune.training.plan import Plan
from pictune.training.schedules import SCHEDULES

FAKE_IMAGES, FAKE_CLASSES = 2062, 10
TEST_EVERY = 5  # one picture in five is for the test
KINDS = {
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::_fused_adamw_": "AdamW",
    "aten::expm1": "focal loss's expm1",
}


@dataclass(frozen=True)
class Lesson:
    """Features [n, d] and labels [n] for training and for the test, and where every head starts."""

    features: Tensor
    labels: Tensor
    test_features: Tensor
    test_labels: Tensor
    start: nn.Linear
    batch_size: int
    epochs: int
    clip: float

    @property
    def classes(self) -> int:
        return self.start.out_features

    @property
    def steps(self) -> int:
        return len(self.labels) // self.batch_size

    def batches(self, epoch: int):
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(epoch))
        features, targets = self.features[order], F.one_hot(self.labels[order], self.classes).float()
        for number in range(self.steps):
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            yield features[rows], targets[rows]

    def train(self, settings: list[HeadSetting], *, epochs: int) -> tuple[TrainedHeads, float]:
        """The heads, and the seconds they took."""
        started = time.perf_counter()
        heads = train_heads(
            settings,
            weight=self.start.weight,
            bias=self.start.bias,
            batches=self.batches,
            epochs=epochs,
            steps=self.steps,
            schedule=SCHEDULES["cosine"].make(),
            stop=lambda: 0,
            clip=self.clip,
        )
        return heads, time.perf_counter() - started

    def accuracies(self, heads: TrainedHeads) -> Tensor:
        """[h] on the test pictures."""
        right = heads.outputs(self.test_features).argmax(2) == self.test_labels
        return torch.where(heads.finite, right.double().mean(1), torch.nan)

    def train_plainly(self, setting: HeadSetting) -> float:
        """The seconds that the usual loop takes."""
        started, schedule = time.perf_counter(), SCHEDULES["cosine"].make()
        head, drop = nn.Linear(self.start.in_features, self.classes), nn.Dropout(setting.dropout)
        head.load_state_dict(self.start.state_dict())
        groups = [
            {"params": [head.weight], "weight_decay": setting.weight_decay},
            {"params": [head.bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=setting.learning_rate)
        for epoch in range(self.epochs):
            total = 0.0
            for number, (features, targets) in enumerate(self.batches(epoch)):
                for group in optimizer.param_groups:
                    factor = schedule(epoch + number / self.steps, self.epochs, ())
                    group["lr"] = setting.learning_rate * factor
                loss = setting.loss(head(drop(features)), targets, class_weights=setting.class_weights)
                optimizer.zero_grad()
                loss.backward()
                if self.clip:
                    nn.utils.clip_grad_norm_(head.parameters(), self.clip)
                optimizer.step()
                total += float(loss.detach())
        return time.perf_counter() - started


@dataclass(frozen=True)
class AsBatches:
    """A lesson's batches as `fit` reads them."""

    lesson: Lesson

    @property
    def positions(self) -> np.ndarray:
        return np.arange(len(self.lesson.labels))

    def __len__(self) -> int:
        return self.lesson.steps

    def batches(self, epoch: int = 0, *, start: int = 0):
        for features, targets in list(self.lesson.batches(epoch))[start:]:
            yield Batch(features.numpy(), targets.numpy(), np.zeros(len(targets), np.int64))


class Quiet:
    """A watcher that says nothing."""

    def step(self, *ignored: object) -> None: ...

    def epoch(self, facts: object) -> None: ...

    def say(self, sentence: str) -> None: ...


def fit_seconds(lesson: Lesson, setting: HeadSetting, *, threads: int) -> float:
    """The seconds that the product's own loop takes for one head."""
    head = nn.Sequential(nn.Dropout(setting.dropout), nn.Linear(lesson.start.in_features, lesson.classes))
    head[1].load_state_dict(lesson.start.state_dict())
    names = [str(number) for number in range(lesson.classes)]
    decay = setting.weight_decay
    with tempfile.TemporaryDirectory() as folder:
        job = Fit(
            network=head,
            task=Classification(names, loss=setting.loss, class_weights=setting.class_weights),
            loader=AsBatches(lesson),
            validate=lambda network: {"accuracy": 0.0, "log_loss": 0.0},
            make_optimizer=OPTIMIZERS["adamw"].make(learning_rate=setting.learning_rate, weight_decay=decay),
            weight_decay=decay,
            schedule=SCHEDULES["cosine"].make(),
            plan=Plan(cycles=(lesson.epochs,), clip=lesson.clip, checkpoint_seconds=1e9),
            machine=Machine(device="cpu", threads=threads),
            arithmetic=Arithmetic("fp32", "contiguous", "as given"),
            folder=Path(folder),
            journal=Journal(Path(folder) / "journal.jsonl"),
            names=["?"],
            watcher=Quiet(),
            stop=lambda: 0,
        )
        started = time.perf_counter()
        fit(job)
        return time.perf_counter() - started


def picture_features(given: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Pooled features [n, d] and labels [n] of a folder's clean pictures."""
    torch.manual_seed(0)
    described = describe(given.network)
    weights = find_weights(str(given.weights) if given.weights else "none", network=given.network)
    network = build_network(given.network, outputs=10, image_size=given.image_size, weights=weights).eval()
    preprocess = Preprocess(mean=described.mean, std=described.std)
    network = network.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        taken = ingest(read_dataset(given.folder), cache=Path(cache), side=given.image_size, max_bad=1.0)
        assert taken.store is not None
        rows = []
        for begin in range(0, len(taken.dataset), 64):
            numbers = range(begin, min(begin + 64, len(taken.dataset)))
            pictures = [clean_view(taken.store[n], given.image_size) for n in numbers]
            rows.append(embed(network, preprocess(torch.from_numpy(np.stack(pictures)))))
    names = list(taken.dataset.classes)
    labels = [names.index(sample.annotation.names[0]) for sample in taken.dataset.samples]
    return torch.cat(rows).clone(), torch.tensor(labels)


def fake_features(width: int) -> tuple[Tensor, Tensor]:
    """Classes that overlap a little, with the many zeros that features have after a ReLU."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(FAKE_CLASSES, (FAKE_IMAGES,), generator=draw)
    centres = torch.randn(FAKE_CLASSES, width, generator=draw) * 2.5 / width**0.5
    return (centres[labels] + torch.randn(FAKE_IMAGES, width, generator=draw)).relu(), labels


def make_lesson(features: Tensor, labels: Tensor, given: argparse.Namespace) -> Lesson:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    test, train = order[::TEST_EVERY], order[torch.arange(len(order)) % TEST_EVERY > 0]
    torch.manual_seed(2)
    start = nn.Linear(features.shape[1], int(labels.max()) + 1)
    return Lesson(
        features[train],
        labels[train],
        features[test],
        labels[test],
        start,
        given.batch_size,
        given.epochs,
        given.clip,
    )


def random_settings(count: int, lesson: Lesson) -> list[HeadSetting]:
    """Settings as a search would draw them."""
    draw = np.random.default_rng(0)
    losses = [
        LOSSES["cross_entropy"].make(),
        LOSSES["cross_entropy"].make(label_smoothing=0.1),
        LOSSES["focal"].make(),
    ]
    counts = torch.bincount(lesson.labels, minlength=lesson.classes).clamp_min(1)
    weights = [None, len(lesson.labels) / (lesson.classes * counts.float())]
    return [
        HeadSetting(
            learning_rate=10 ** draw.uniform(-4, -1),
            weight_decay=10 ** draw.uniform(-6, -1),
            loss=losses[draw.integers(3)],
            dropout=float(draw.choice([0.0, 0.2, 0.5])),
            class_weights=weights[draw.integers(2)],
        )
        for _ in range(count)
    ]


def print_profile(lesson: Lesson, settings: list[HeadSetting]) -> None:
    """Where the time of one epoch of all heads goes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        lesson.train(settings, epochs=1)
    spent: dict[str, float] = defaultdict(float)
    for row in profile.key_averages():
        spent[KINDS.get(row.key, "losses and the rest")] += row.self_cpu_time_total
    whole = sum(spent.values())
    shares = sorted(spent.items(), key=lambda item: -item[1])
    print("of a step together:        " + ", ".join(f"{kind} {t / whole:.0%}" for kind, t in shares))


def compare(
    lesson: Lesson, settings: list[HeadSetting], *, rounds: int, pass_seconds: float, threads: int
) -> None:
    """Times all sides in turn and prints the table."""
    alone, together, plain, fitted = [], [], [], []
    single = torch.empty(len(settings), dtype=torch.float64)
    lesson.train(settings, epochs=1)  # the first use of everything is slow
    for number in range(rounds):
        for index in range(number, len(settings), rounds):
            head, seconds = lesson.train([settings[index]], epochs=lesson.epochs)
            alone.append(seconds)
            single[index] = lesson.accuracies(head)[0]
        plain.extend(lesson.train_plainly(settings[i]) for i in range(number, len(settings), rounds * 5))
        fitted.append(fit_seconds(lesson, settings[number], threads=threads))
        heads, seconds = lesson.train(settings, epochs=lesson.epochs)
        together.append(seconds)
    one, many, usual, own = (statistics.median(seconds) for seconds in (alone, together, plain, fitted))
    count, step = len(settings), 1e6 / (lesson.epochs * lesson.steps)
    print(f"one head alone:          {one:8.2f} s  {one * step:7.0f} us a step, median of {len(alone)}")
    print(f"one head, usual loop:    {usual:8.2f} s  {usual * step:7.0f} us a step, median of {len(plain)}")
    print(f"one head, by fit:        {own:8.2f} s  {own * step:7.0f} us a step, median of {len(fitted)}")
    print(f"{count} heads together:      {many:8.2f} s  {many * step:7.0f} us a step, median of {rounds}")
    print(f"{count} heads one by one:    {sum(alone):8.2f} s  {sum(alone) / many:7.1f} times together")
    print(f"ratio over the features: {many / one:8.2f}")
    print(f"ratio to the usual loop: {many / usual:8.2f}")
    print(f"ratio to fit:            {many / own:8.2f}")
    if pass_seconds:
        print(f"computing the features:  {pass_seconds:8.2f} s")
        print(f"ratio with this pass:    {(pass_seconds + many) / (pass_seconds + one):8.2f}")
    grouped = lesson.accuracies(heads)
    apart = (grouped - single).abs()
    low, high = grouped.min(), grouped.max()
    print(f"test accuracies:         {low:.3f} to {high:.3f} on {len(lesson.test_labels)} pictures")
    print(f"together and alone:      largest difference {apart.max():.4f}; {(apart > 0).sum()} differ")
    print_profile(lesson, settings)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--fake", type=int, default=0, metavar="WIDTH")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--heads", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--clip", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if (given.folder is None) == (given.fake == 0):
        parser.error("give --folder or --fake")
    torch.set_num_threads(given.threads)
    started = time.perf_counter()
    features, labels = fake_features(given.fake) if given.fake else picture_features(given)
    pass_seconds = 0.0 if given.fake else time.perf_counter() - started
    lesson = make_lesson(features, labels, given)
    images, width = lesson.features.shape
    print(
        f"{images} x {width} features of {given.network if not given.fake else 'nothing'}, "
        f"{lesson.classes} classes, {given.epochs} epochs of {lesson.steps} batches of {given.batch_size}, "
        f"{given.threads} thread(s)",
        flush=True,
    )
    settings = random_settings(given.heads, lesson)
    compare(lesson, settings, rounds=given.rounds, pass_seconds=pass_seconds, threads=given.threads)


if __name__ == "__main__":
    main()
