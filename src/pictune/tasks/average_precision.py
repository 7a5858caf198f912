"""Average precision, as COCO defines it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pictune.tasks.table import BoxTable

LEVELS = np.arange(0.5, 1.0, 0.05)


def quick_numbers(table: BoxTable) -> dict[str, float]:
    """``map`` over IoU 0.5 to 0.95 and ``map50``, averaged over the classes that are there."""
    found = [
        _of_class(table, number)
        for number in range(len(table.classes))
        if ((table.true_label == number) & ~table.crowd).any()
    ]
    each = np.array(found) if found else np.zeros((1, len(LEVELS)))
    return {"map": float(each.mean()), "map50": float(each[:, 0].mean())}


def _of_class(table: BoxTable, number: int) -> NDArray[np.float64]:
    said, known = table.label == number, table.true_label == number
    hits, scores = [], []
    for image in np.unique(table.image[said]):
        rows = np.flatnonzero(said & (table.image == image))
        rows = rows[np.argsort(-table.score[rows], kind="stable")]
        boxes = table.true_box[known & (table.true_image == image) & ~table.crowd]
        hits.append(_hits(table.box[rows], boxes))
        scores.append(table.score[rows])
    count = int((known & ~table.crowd).sum())
    if not hits:
        return np.zeros(len(LEVELS))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(hits)[order].cumsum(0)
    precision = hit / np.arange(1, len(order) + 1)[:, None]
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = hit / count
    wanted = np.linspace(0, 1, 101)
    return np.array([_interpolated(recall[:, i], precision[:, i], wanted) for i in range(len(LEVELS))])


def _interpolated(recall: NDArray[np.float64], precision: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    at = np.searchsorted(recall, wanted, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _hits(said: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.float64]:
    """[m, levels] whether each answer, the surest first, finds an object that none before it has found."""
    hit = np.zeros((len(said), len(LEVELS)))
    if not len(known):
        return hit
    low = np.maximum(said[:, None, :2], known[None, :, :2])
    high = np.minimum(said[:, None, 2:], known[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    area = (said[:, 2:] - said[:, :2]).prod(1)[:, None] + (known[:, 2:] - known[:, :2]).prod(1)[None]
    overlap = inside / np.maximum(area - inside, 1e-12)
    for level, least in enumerate(LEVELS):
        free = np.ones(len(known), bool)
        for row in range(len(said)):
            candidates = np.where(free, overlap[row], -1.0)
            best = int(candidates.argmax())
            if candidates[best] >= least:
                hit[row, level], free[best] = 1.0, False
    return hit
