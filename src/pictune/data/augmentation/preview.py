"""What an augmentation does, as one picture: to look at before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pictune.data.augmentation.addressing import address
from pictune.data.augmentation.pipeline import Augmentation
from pictune.data.augmentation.steps import Pixels

_GAP = 3  # pixels between two views
_MARGIN = 10  # pixels between the clean view and the augmented ones
_PAPER = 255


def preview_grid(
    pictures: Sequence[Pixels],
    augmentation: Augmentation,
    *,
    views: int = 6,
    seed: int = 0,
    composed: Callable[[int, int], Pixels] | None = None,
) -> Pixels:
    """One row a picture: its clean view, a wider gap, then augmented views.

    Args:
        pictures: Each ``uint8 [height, width, 3]``; at least one.
        augmentation: What to show.
        views: How many augmented views a picture gets, at least one.
        seed: View v of row r is what epoch v of a run with this seed would show at position r.
        composed: From r and v the picture that the view is taken of, where others join it.

    Returns:
        ``uint8 [height, width, 3]`` on white, with no gap at the outer edges.
    """
    width, height = augmentation.view.canvas
    lefts = [0, *(width + _MARGIN + view * (width + _GAP) for view in range(views))]
    tops = [row * (height + _GAP) for row in range(len(pictures))]
    sheet = np.full((tops[-1] + height, lefts[-1] + width, 3), _PAPER, np.uint8)
    for row, (top, picture) in enumerate(zip(tops, pictures, strict=True)):
        sheet[top : top + height, :width] = augmentation.view(picture)
        for view, left in enumerate(lefts[1:]):
            rng = address(seed, view, row)
            shown = picture if composed is None else composed(row, view)
            sheet[top : top + height, left : left + width] = augmentation(shown, rng)
    return sheet
