"""A flipped image gives flipped predictions where the network itself prefers no side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pictune.data.augmentation import Augmentation, View, build_augmentation
from pictune.models.detectors import PlaceOutputs, places_of
from pictune.tasks.answering import Placing
from pictune.tasks.detection import Detection
from pictune.tasks.segmentation import Segmentation

WIDTH, HEIGHT, STEP = 96, 64, 8
CLASSES = ("red", "green", "blue")
VIEW = View(WIDTH, fit="pad", height=HEIGHT)


class Colours(nn.Module):
    """Every pixel is of the class of its strongest colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.movedim(3, 1).float()


class Places(nn.Module):
    """Every cell of 8 pixels says the colour that it shows, and a box twice as large around itself."""

    def forward(self, images: torch.Tensor) -> PlaceOutputs:
        shown = F.avg_pool2d(images.movedim(3, 1).float(), STEP) / 16 - 14  # black is no object
        scores = shown.flatten(2).transpose(1, 2)
        places = places_of(HEIGHT // STEP, WIDTH // STEP, STEP, device=images.device)
        sides = torch.full((len(images), len(places), 4), float(STEP))
        return PlaceOutputs(
            scores, sides, torch.full(scores.shape[:2], 9.0), places, torch.full((len(places),), float(STEP))
        )


def scene(seed: int) -> np.ndarray:
    """Blocks of one colour each, of as many brightnesses, so that no two answers are equally sure."""
    rng = np.random.default_rng(seed)
    blocks = np.zeros((HEIGHT // STEP, WIDTH // STEP, 3), np.uint8)
    for number, place in enumerate(rng.choice(blocks[..., 0].size, 6, replace=False)):
        blocks.reshape(-1, 3)[place, rng.integers(3)] = 250 - 12 * number
    return blocks.repeat(STEP, 0).repeat(STEP, 1)


def flip(name: str) -> Augmentation:
    return build_augmentation([{"name": name, "probability": 1.0}], WIDTH, fit="pad", height=HEIGHT)


def answered(task, network, picture, look) -> np.ndarray:
    """What the network says of a view, brought back to the picture's own pixels."""
    pixels, matrix = look
    placed = Placing([picture], [(WIDTH, HEIGHT)], VIEW)(0)
    outputs = network(torch.from_numpy(pixels[None]))
    return task.restored(task.read(outputs)[0], type(placed)(matrix, placed.width, placed.height))


@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip"])
@pytest.mark.parametrize("seed", range(5))
def test_flipped_pictures_give_flipped_boxes(name, seed):
    picture, task = scene(seed), Detection(CLASSES, canvas=(WIDTH, HEIGHT))
    clean = answered(task, Places(), picture, (VIEW.render(picture, np.eye(3)), np.eye(3)))
    seen = flip(name).with_matrix(picture, np.random.default_rng(0))
    assert not np.array_equal(seen[0], picture)
    back = answered(task, Places(), picture, seen)
    assert len(clean) >= 6
    order = [rows[np.lexsort(rows.T.round(3))] for rows in (clean, back)]
    np.testing.assert_allclose(order[0], order[1], atol=1e-3)
    raw = task.read(Places()(torch.from_numpy(seen[0][None])))[0]
    assert not np.allclose(raw[np.lexsort(raw.T.round(3))], order[0])  # on the canvas they do lie elsewhere


@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip"])
@pytest.mark.parametrize("seed", range(5))
def test_flipped_pictures_give_flipped_maps(name, seed):
    picture, task = scene(seed), Segmentation(CLASSES)
    clean = answered(task, Colours(), picture, (picture, np.eye(3)))
    seen = flip(name).with_matrix(picture, np.random.default_rng(0))
    back = answered(task, Colours(), picture, seen)
    np.testing.assert_array_equal(clean, back)
    axis = 1 if name == "horizontal_flip" else 0
    raw = Colours()(torch.from_numpy(seen[0][None]))[0].argmax(0).numpy()
    np.testing.assert_array_equal(raw, np.flip(clean, axis))
    assert not np.array_equal(raw, clean)
