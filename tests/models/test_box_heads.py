"""What holds for every head of a detector, and what crowds do to the usual one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pictune.models.box_heads import BOX_HEADS
from pictune.models.box_losses import BOX_LOSSES, SCORE_LOSSES, weighed
from pictune.models.detectors import STRIDES
from pictune.tasks.classification import Classification
from pictune.tasks.detection import Detection
from pictune.tasks.segmentation import Segmentation

CHANNELS, CANVAS, CLASSES = (8, 12, 16), (96, 64), 3
TARGETS = torch.tensor(
    [
        [[0, 8, 8, 40, 40, 0], [2, 50, 10, 90, 60, 0]],
        [[1, 20, 20, 60, 60, 0], [-1, 0, 0, 0, 0, 0]],
    ]
).float()


def maps(*, grad: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(1)
    sizes = [(CANVAS[1] // stride, CANVAS[0] // stride) for stride in STRIDES]
    return [torch.randn(2, c, *size, requires_grad=grad) for c, size in zip(CHANNELS, sizes, strict=True)]


def built(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return BOX_HEADS[name].build(CHANNELS, classes=CLASSES, canvas=CANVAS)


def losses_of(name: str, top: torch.nn.Module, targets: torch.Tensor, score=None) -> dict[str, torch.Tensor]:
    head = BOX_HEADS[name]
    outputs = top(maps(), targets) if head.taught else top(maps())
    loss = score or SCORE_LOSSES["focal"].make()
    return head.losses(outputs, targets, BOX_LOSSES["giou"].make(), loss, 2.0)


@pytest.mark.parametrize("name", BOX_HEADS)
def test_losses_are_finite_named_and_move_every_parameter(name):
    top = built(name).train()
    found = losses_of(name, top, TARGETS)
    assert {"classes", "boxes"} <= set(found)
    total = torch.stack(list(found.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    still = [n for n, p in top.named_parameters() if p.requires_grad and p.grad is None]
    assert not still


@pytest.mark.parametrize("name", BOX_HEADS)
@pytest.mark.parametrize("rows", [0, 1])
def test_pictures_without_objects_teach_silence(name, rows):
    """No row at all, or rows that only fill up."""
    empty = torch.full((2, rows, 6), -1.0)
    top = built(name).train()
    found = losses_of(name, top, empty)
    assert all(bool(torch.isfinite(value)) for value in found.values())
    assert found["boxes"].item() == 0
    torch.stack(list(found.values())).sum().backward()


@pytest.mark.parametrize("name", BOX_HEADS)
def test_answers_lie_on_the_canvas_the_surest_first(name):
    top = built(name).eval()
    with torch.no_grad():
        answers = BOX_HEADS[name].read(top(maps()), width=CANVAS[0], height=CANVAS[1])
    assert len(answers) == 2
    for rows in answers:
        assert rows.shape[1] == 6
        assert len(rows) <= 100
        labels, scores, boxes = rows[:, 0], rows[:, 1], rows[:, 2:]
        assert bool((labels == labels.round()).all())
        assert bool(((labels >= 0) & (labels < CLASSES)).all())
        assert bool((scores.diff() <= 0).all())
        assert bool((boxes >= 0).all())
        assert bool((boxes[:, (0, 2)] <= CANVAS[0]).all())
        assert bool((boxes[:, (1, 3)] <= CANVAS[1]).all())


def test_what_a_crowd_hides_is_not_taught_as_background():
    top = built("fcos")
    crowd = torch.tensor([[[0, 8, 8, 30, 30, 0], [1, 48, 0, 96, 64, 1]]] * 2).float()
    outputs = top(maps())._replace(
        scores=torch.zeros(2, len(top(maps()).places), CLASSES, requires_grad=True)
    )
    loss = BOX_HEADS["fcos"].losses
    found = loss(outputs, crowd, BOX_LOSSES["giou"].make(), SCORE_LOSSES["focal"].make(), 2.0)
    (gradient,) = torch.autograd.grad(found["classes"], outputs.scores)
    inside = outputs.places[:, 0] >= 48
    assert float(gradient[:, inside].abs().max()) == 0
    assert float(gradient[:, ~inside].abs().min()) > 0


def test_a_crowd_over_an_object_leaves_the_object():
    top = built("fcos")
    boxes = [[0, 56, 8, 88, 40, 0], [1, 48, 0, 96, 64, 1]]
    outputs = top(maps())
    outputs = outputs._replace(scores=torch.zeros_like(outputs.scores).requires_grad_())
    found = BOX_HEADS["fcos"].losses(
        outputs,
        torch.tensor([boxes] * 2).float(),
        BOX_LOSSES["giou"].make(),
        SCORE_LOSSES["focal"].make(),
        2.0,
    )
    (gradient,) = torch.autograd.grad(found["classes"], outputs.scores)
    inside = outputs.places[:, 0] >= 48
    assert float(gradient[:, inside, 0].min()) < 0  # towards the object's class


def test_weights_of_classes_multiply_their_terms():
    loss = SCORE_LOSSES["focal"].make()
    torch.manual_seed(0)
    logits, wanted = torch.randn(5, CLASSES), torch.rand(5, CLASSES)
    weights = torch.tensor([1.0, 3.0, 0.5])
    assert torch.equal(weighed(loss, weights)(logits, wanted), loss(logits, wanted) * weights)
    assert weighed(loss, None) is loss
    top = built("fcos").train()
    plain, heavy = (
        losses_of("fcos", top, TARGETS, score)["classes"] for score in (loss, weighed(loss, weights * 2))
    )
    assert bool(heavy > plain)


def test_how_much_of_each_class_there_is():
    labels = np.array([0, 1, 1], np.float32)
    assert Classification(("a", "b", "c")).amounts(labels).tolist() == [0, 1, 1]
    rows = np.array([[1, 0, 0, 5, 5, 0], [1, 0, 0, 5, 5, 0], [0, 0, 0, 9, 9, 1]], np.float32)
    assert Detection(("a", "b"), canvas=CANVAS).amounts(rows).tolist() == [0, 2]
    mask = np.array([[0, 1, 1], [255, 2, 0]], np.uint8)
    assert Segmentation(("a", "b", "c")).amounts(mask).tolist() == [2, 2, 1]
