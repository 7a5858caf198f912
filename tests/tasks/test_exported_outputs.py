"""What an exported network gives, read in NumPy, is what training's own code reads from the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pictune.errors import DataError
from pictune.models.box_heads import BOX_HEADS
from pictune.models.box_reading import EXCLUSIVE, surest_boxes
from pictune.models.detectors import STRIDES, read_boxes
from pictune.tasks.classification import Classification
from pictune.tasks.detection import Detection
from pictune.tasks.kinds import KINDS
from pictune.tasks.named import TASKS
from pictune.tasks.segmentation import Segmentation
from pictune.tasks.specification import Specification

CANVAS, CLASSES = (96, 64), ("a", "b", "c")


def plain(task, outputs):
    return {name: tensor.detach().numpy() for name, tensor in task.plain(outputs).items()}


def outputs_of(head: str):
    torch.manual_seed(0)
    top = BOX_HEADS[head].build((8, 12, 16), classes=3, canvas=CANVAS).eval()
    sizes = [(CANVAS[1] // stride, CANVAS[0] // stride) for stride in STRIDES]
    maps = [torch.randn(2, c, *size) for c, size in zip((8, 12, 16), sizes, strict=True)]
    with torch.no_grad():
        return top(maps)


@pytest.mark.parametrize("head", BOX_HEADS)
def test_boxes_are_those_that_the_head_reads(head):
    task, outputs = Detection(CLASSES, canvas=CANVAS, head=head), outputs_of(head)
    arrays = plain(task, outputs)
    read, decoded = task.read(outputs), task.decode(arrays)
    assert list(arrays) == list(task.exported)
    assert all(len(rows) for rows in read)
    for ours, theirs in zip(decoded, read, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@given(
    seed=st.integers(0, 2**32 - 1),
    places=st.integers(1, 400),
    classes=st.integers(1, 5),
    crowded=st.floats(5, 120),
)
@settings(deadline=None, max_examples=60)
def test_the_same_boxes_are_dropped_as_by_torchvision(seed, places, classes, crowded):
    generator = np.random.default_rng(seed)
    scores = generator.random((places, classes), np.float32) ** 3
    corner = generator.random((places, 2), np.float32) * crowded - 5
    boxes = np.hstack([corner, corner + generator.random((places, 2), np.float32) * 40]).astype(np.float32)
    [wanted] = read_boxes(torch.from_numpy(scores)[None], torch.from_numpy(boxes)[None], width=96, height=64)
    found = surest_boxes(scores, boxes, canvas=(96, 64), head="fcos")
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_heads_without_suppression_are_those_that_say_every_object_once():
    heads = {name for name, head in BOX_HEADS.items() if head.read.__name__ == "read_queries"}
    assert heads == EXCLUSIVE


@pytest.mark.parametrize("several", [False, True])
def test_confidences_are_read_as_they_were(several):
    task = Classification(CLASSES, multilabel=several)
    outputs = torch.randn(4, 3) * 3
    arrays = plain(task, outputs)
    for ours, theirs in zip(task.decode(arrays), task.read(outputs), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert arrays["confidences"].shape[1:] == task.exported["confidences"]


def test_logits_are_read_as_they_were():
    task, outputs = Segmentation(CLASSES), torch.randn(2, 3, 8, 12)
    arrays = plain(task, outputs)
    for ours, theirs in zip(task.decode(arrays), task.read(outputs), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_task_can_be_used_by_name():
    assert list(TASKS) == list(KINDS)
    for name, kind in KINDS.items():
        head = kind.heads[0] if kind.heads[0] != "none" else ""
        task = TASKS[name](Specification(name, CLASSES, "cnn", 32, head=head))
        assert task.name == name
        assert task.classes == CLASSES


@pytest.mark.parametrize(
    ("task", "shape", "name"),
    [
        (Classification(CLASSES), (3,), "confidences"),
        (Segmentation(CLASSES), (3, 4, 6), "logits"),
    ],
)
def test_equal_outputs_are_not_apart_and_moved_ones_are(task, shape, name):
    generator = np.random.default_rng(0)
    first = generator.random((5, *shape)).astype(np.float32)
    moved = first.copy()
    moved[2] += generator.random(shape).astype(np.float32)
    apart = task.apart({name: first}, {name: moved})
    assert apart.shape == (5,)
    assert apart[2] > 0.01
    assert not np.delete(apart, 2).any()


def boxes_of(scores, boxes):
    return {"scores": np.asarray(scores, np.float32), "boxes": np.asarray(boxes, np.float32)}


def test_boxes_are_apart_only_where_there_may_be_an_object():
    task = Detection(("a",), canvas=(100, 100))
    still = boxes_of([[[0.9], [0.01]]], [[[10, 10, 50, 50], [0, 0, 5, 5]]])
    background = boxes_of([[[0.9], [0.01]]], [[[10, 10, 50, 50], [60, 60, 90, 90]]])
    object_moved = boxes_of([[[0.9], [0.01]]], [[[20, 10, 60, 50], [0, 0, 5, 5]]])
    less_sure = boxes_of([[[0.4], [0.01]]], [[[10, 10, 50, 50], [0, 0, 5, 5]]])
    assert task.apart(still, background).tolist() == [0.0]
    assert task.apart(still, object_moved) == pytest.approx([0.1])
    assert task.apart(still, less_sure) == pytest.approx([0.5])
    nothing = boxes_of([[[np.nan], [0.01]]], [[[10, 10, 50, 50], [0, 0, 5, 5]]])
    assert np.isnan(task.apart(still, nothing)).all()


@pytest.mark.parametrize(
    ("moved", "share"),
    [
        ([[0, 0.9, 10, 10, 50, 50], [1, 0.8, 60, 60, 90, 90]], 1.0),
        ([[0, 0.6, 12, 10, 50, 50], [1, 0.8, 60, 60, 90, 90]], 1.0),
        ([[0, 0.9, 10, 10, 50, 50], [0, 0.8, 60, 60, 90, 90]], 0.5),
        ([[0, 0.9, 30, 30, 70, 70], [1, 0.8, 60, 60, 90, 90]], 0.5),
        ([[0, 0.9, 10, 10, 50, 50], [1, 0.4, 60, 60, 90, 90]], 2 / 3),
        ([[0, 0.4, 10, 10, 50, 50]], 0.0),
    ],
)
def test_boxes_agree_by_class_and_place(moved, share):
    task = Detection(("a", "b"), canvas=(100, 100))
    first = np.array([[0, 0.9, 10, 10, 50, 50], [1, 0.8, 60, 60, 90, 90]])
    assert task.agreement(first, np.array(moved)) == pytest.approx(share)
    assert task.agreement(np.array(moved), first) == pytest.approx(share)


def test_two_pictures_without_boxes_agree():
    task = Detection(("a", "b"), canvas=(100, 100))
    silent = np.array([[0, 0.2, 10, 10, 50, 50]])
    assert task.agreement(silent, silent[:0]) == 1.0


def test_classes_and_pixels_agree_where_they_are_equal():
    assert Classification(CLASSES).agreement(np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.35, 0.25])) == 1
    assert Classification(CLASSES).agreement(np.array([0.5, 0.3, 0.2]), np.array([0.3, 0.5, 0.2])) == 0
    known = np.zeros((4, 4), np.uint8)
    other = known.copy()
    other[0] = 1
    assert Segmentation(CLASSES).agreement(known, other) == 0.75


def test_a_threshold_moves_what_is_answered_where_there_is_one():
    boxes = np.array([[0, 0.9, 10, 10, 50, 50], [1, 0.3, 60, 60, 90, 90]])
    task = Detection(("a", "b"), canvas=(100, 100))
    assert [len(task.answering_from(t).predict([""], [boxes])[0].annotation) for t in (0.2, 0.5, 0.95)] == [
        2,
        1,
        0,
    ]
    several = Classification(CLASSES, multilabel=True)
    scores = np.array([0.6, 0.3, 0.1])
    assert several.answering_from(0.2).predict([""], [scores])[0].annotation.names == ("a", "b")
    for fixed in (Classification(CLASSES), Segmentation(CLASSES)):
        with pytest.raises(DataError, match="threshold_not_used"):
            fixed.answering_from(0.5)
