"""What an augmentation does, as one picture: to look at before training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pictune.data.augmentation.addressing import address
from pictune.data.augmentation.pipeline import Augmentation
from pictune.data.augmentation.steps import Pixels

_GAP = 3  # pixels between two views
_MARGIN = 10  # pixels between the clean view and the augmented ones
_PAPER = 255


def preview_grid(
    pictures: Sequence[Pixels], augmentation: Augmentation, *, views: int = 6, seed: int = 0
) -> Pixels:
    """One row a picture: its clean view, a wider gap, then augmented views.

    Args:
        pictures: Each ``uint8 [height, width, 3]``; at least one.
        augmentation: What to show.
        views: How many augmented views a picture gets, at least one.
        seed: View v of row r is what epoch v of a run with this seed would show at position r.

    Returns:
        ``uint8 [height, width, 3]`` on white, with no gap at the outer edges.
    """
    size = augmentation.size
    lefts = [0, *(size + _MARGIN + view * (size + _GAP) for view in range(views))]
    tops = [row * (size + _GAP) for row in range(len(pictures))]
    sheet = np.full((tops[-1] + size, lefts[-1] + size, 3), _PAPER, np.uint8)
    for row, (top, picture) in enumerate(zip(tops, pictures, strict=True)):
        sheet[top : top + size, :size] = augmentation.view(picture)
        for view, left in enumerate(lefts[1:]):
            rng = address(seed, view, row)
            sheet[top : top + size, left : left + size] = augmentation(picture, rng)
    return sheet
