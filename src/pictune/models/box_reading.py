"""The surest boxes of what a detector says at every place, in NumPy.

It gives what the heads' own functions give (`pictune.models.detectors.surest` and its neighbours), and a test
holds them side by side; an exported model has no PyTorch to ask.

Shapes: a places, k classes, m answers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BEFORE_NMS, MOST = 1000, 100  # answers an image before and after overlapping ones are dropped
OVERLAP = 0.6  # from this IoU on, of two answers of one class the less sure one is dropped
LEAST_SCORE = 0.01
EXCLUSIVE = frozenset({"rt_detr_v2", "d_fine"})  # heads that learn to say every object once: none is dropped

Floats = NDArray[np.float32]


def surest_boxes(scores: Floats, boxes: Floats, *, canvas: tuple[int, int], head: str) -> Floats:
    """The surest answers of one image, overlapping ones of one class dropped.

    Args:
        scores: (a, k) from 0 to 1.
        boxes: (a, 4) left, top, right, bottom in pixels.
        canvas: Width and height, pixels; boxes are cut off there, and what lies beyond is dropped.
        head: A name in `pictune.models.box_heads.BOX_HEADS`.

    Returns:
        (m, 6) class, score, left, top, right, bottom; the surest first.
    """
    boxes = np.clip(boxes, 0, np.array(canvas * 2, np.float32))
    exclusive = head in EXCLUSIVE
    shown = scores if exclusive else scores * (boxes[:, 2:] > boxes[:, :2]).all(1, keepdims=True)
    flat = shown.reshape(-1)
    candidates = np.flatnonzero(flat > LEAST_SCORE)
    order = candidates[np.argsort(-flat[candidates], kind="stable")[: MOST if exclusive else BEFORE_NMS]]
    rows, labels = np.divmod(order, scores.shape[1])
    found = np.column_stack([labels.astype(np.float32), flat[order], boxes[rows]]).astype(np.float32)
    return found if exclusive else found[_apart(found[:, 2:], labels)]


def _apart(boxes: Floats, labels: NDArray[np.int64]) -> list[int]:
    """The first `MOST` boxes that no earlier kept one of their class overlaps too much.

    Neubeck and Van Gool 2006, Efficient Non-Maximum Suppression.
    """
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alive = np.ones(len(boxes), np.bool_)
    for number in range(len(boxes)):
        if not alive[number]:
            continue
        kept.append(number)
        if len(kept) == MOST:
            break
        rivals = number + 1 + np.flatnonzero((labels[number + 1 :] == labels[number]) & alive[number + 1 :])
        low = np.maximum(boxes[rivals, :2], boxes[number, :2])
        high = np.minimum(boxes[rivals, 2:], boxes[number, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        alive[rivals[shared > OVERLAP * (areas[rivals] + areas[number] - shared)]] = False
    return kept
