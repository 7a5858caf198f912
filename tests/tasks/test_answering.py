"""A network's answers come in the loader's order, and leave the network as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from looks import Look
from pictune.data.augmentation import View
from pictune.data.loading import Loader
from pictune.data.truths import ClassTruths
from pictune.tasks.answering import Placing, answers
from pictune.tasks.classification import Classification

TASK = Classification(("dark", "light"))


class Brightness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = self.drop(images.float().mean(dim=(1, 2, 3)) / 255)
        return torch.stack([1 - light, light], dim=1)


def pictures(values: list[int], **changes: int) -> Loader:
    stored = [np.full((2, 2, 3), value, np.uint8) for value in values]
    return Loader(
        stored,
        ClassTruths(np.zeros((len(values), 2), np.float32)),
        np.arange(len(values)),
        Look(),
        **{"batch_size": 2, **changes},
    )


def answer(network: nn.Module, loader: Loader, **options) -> np.ndarray:
    placing = Placing(loader.pictures, [(4, 4)] * len(loader.pictures), View(2))
    rows = list(answers(network, TASK, loader, placing, device=torch.device("cpu"), **options))
    return np.stack(rows) if rows else np.zeros((0, 2))


@pytest.mark.parametrize("training", [True, False])
def test_answers_in_order_and_the_mode_comes_back(training):
    network = Brightness().train(training)
    scores = answer(network, pictures([0, 250, 100, 200, 10]))
    assert scores.dtype == np.float64
    assert np.argsort(scores[:, 1]).tolist() == [0, 4, 2, 3, 1]
    assert scores.sum(1) == pytest.approx(np.ones(5))
    assert network.training is training


def test_batches_and_workers_change_no_answer():
    network, values = Brightness(), list(range(0, 250, 25))
    expected = answer(network, pictures(values))
    for changes in ({"batch_size": 1}, {"batch_size": 64}, {"workers": 0}, {"workers": 3}):
        got = answer(network, pictures(values, **changes))
        assert got == pytest.approx(expected, abs=1e-6)


def test_no_pictures_no_answers():
    assert answer(Brightness(), pictures([])).shape == (0, 2)


def test_the_precision_is_entered_for_every_batch():
    seen = []

    class Noting(Brightness):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(images)

    answer(
        Noting(),
        pictures([1, 2, 3]),
        precision=lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    )
    assert seen == [True, True]
