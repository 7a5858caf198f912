"""What is true of stored pictures, in the shape in which a network is to answer it.

Shapes: N stored pictures, n pictures a batch, k classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation.composing import Piece
from pictune.data.augmentation.moving import LEAST_SHARE, move_boxes, move_mask
from pictune.data.augmentation.steps import Corners, Matrix, Pixels
from pictune.data.masking import IGNORED, decode_mask
from pictune.data.sample import Mask


class Truths(Protocol):
    """What is true of every stored picture: asked picture by picture, and moved with its pixels."""

    @property
    def moves(self) -> bool:
        """Whether it lies on the picture; otherwise the same is true however the picture is looked at."""

    def __getitem__(self, position: int) -> NDArray[Any]:
        """What is true of one stored picture, on its own pixels."""

    def moved(self, truth: NDArray[Any], matrix: Matrix, width: int, height: int) -> NDArray[Any]:
        """What is true of a view of the picture.

        Args:
            truth: What is true of the stored picture.
            matrix: 3x3, from points of the stored picture to points of the view, in pixels.
            width: Of the view, pixels.
            height: Of the view, pixels.
        """

    def stacked(self, truths: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """[n, ...] the targets of a batch of views."""

    def corners(self, truth: NDArray[Any]) -> Corners | None:
        """[b, 4] boxes that a view should mind; None where there are none."""

    def piece(self, pixels: Pixels, truth: NDArray[Any]) -> Piece:
        """A picture with what is true of it, to be composed with others; only where truths move."""

    def of_piece(self, piece: Piece) -> NDArray[Any]:
        """What is true of a composed picture."""


@dataclass(frozen=True, eq=False)
class ClassTruths:
    """Classes: nothing lies on the picture, so nothing moves.

    Args:
        targets: [N, k] float32; one-hot, multi-hot, or mixed.
    """

    targets: NDArray[np.float32]

    @property
    def moves(self) -> bool:
        """Never."""
        return False

    def __getitem__(self, position: int) -> NDArray[Any]:
        """[k] of one picture."""
        row: NDArray[np.float32] = self.targets[position]
        return row

    def moved(self, truth: NDArray[Any], matrix: Matrix, width: int, height: int) -> NDArray[Any]:
        """The same."""
        return truth

    def stacked(self, truths: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """[n, k]."""
        return np.stack(truths)

    def corners(self, truth: NDArray[Any]) -> Corners | None:
        """None."""
        return None

    def piece(self, pixels: Pixels, truth: NDArray[Any]) -> Piece:
        """Never asked for: a class says nothing of where it is to be seen."""
        raise AssertionError("classes do not lie on the picture")

    def of_piece(self, piece: Piece) -> NDArray[Any]:
        """Never asked for."""
        raise AssertionError("classes do not lie on the picture")


NOBODY = -1  # class of the rows that only fill a batch up


@dataclass(frozen=True, eq=False)
class BoxTruths:
    """Boxes, on the pixels of the stored pictures.

    A row is class, left, top, right, bottom, crowd (0 or 1).

    Args:
        boxes: For each picture [b, 6] float32.
    """

    boxes: Sequence[NDArray[np.float32]]

    @property
    def moves(self) -> bool:
        """Always."""
        return True

    def __getitem__(self, position: int) -> NDArray[Any]:
        """[b, 6] of one picture."""
        return self.boxes[position]

    def moved(self, truth: NDArray[Any], matrix: Matrix, width: int, height: int) -> NDArray[Any]:
        """[b', 6] what is left of them in a view."""
        # A crowd stays however little of it is seen: without it, what it covers would count as background.
        least = np.where(truth[:, 5] > 0, 0.0, LEAST_SHARE)
        corners, kept = move_boxes(truth[:, 1:5].astype(np.float64), matrix, width, height, least_share=least)
        rows = truth[kept]
        rows[:, 1:5] = corners
        return rows

    def stacked(self, truths: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """[n, b, 6], filled up with rows of class `NOBODY`."""
        most = max((len(truth) for truth in truths), default=0)
        whole = np.zeros((len(truths), most, 6), np.float32)
        whole[:, :, 0] = NOBODY
        for row, truth in enumerate(truths):
            whole[row, : len(truth)] = truth
        return whole

    def corners(self, truth: NDArray[Any]) -> Corners | None:
        """[b, 4] of all but crowds."""
        found: Corners = truth[truth[:, 5] == 0, 1:5].astype(np.float64)
        return found

    def piece(self, pixels: Pixels, truth: NDArray[Any]) -> Piece:
        """The picture and its boxes."""
        return Piece(pixels, truth)

    def of_piece(self, piece: Piece) -> NDArray[Any]:
        """[b, 6]."""
        return piece.boxes.astype(np.float32)


@dataclass(frozen=True, eq=False)
class MaskTruths:
    """The class of every pixel, read from its file whenever it is asked for.

    Args:
        masks: For each picture; None where every pixel is ignored.
        classes: Names in the order of the network's outputs.
        sizes: Width and height of each stored picture, pixels.
    """

    masks: Sequence[Mask | None]
    classes: tuple[str, ...]
    sizes: Sequence[tuple[int, int]]

    @property
    def moves(self) -> bool:
        """Always."""
        return True

    def __getitem__(self, position: int) -> NDArray[Any]:
        """[h, w] uint8 of one stored picture; `IGNORED` where nothing is known."""
        mask, size = self.masks[position], self.sizes[position]
        if mask is None:
            return np.full(size[::-1], IGNORED, np.uint8)
        found = decode_mask(mask, classes=self.classes)
        return found if found.shape == size[::-1] else _resized(found, size)

    def moved(self, truth: NDArray[Any], matrix: Matrix, width: int, height: int) -> NDArray[Any]:
        """[H, W] uint8 of a view; ignored where the picture does not reach."""
        return move_mask(truth, matrix, width, height, outside=IGNORED)

    def stacked(self, truths: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """[n, H, W]."""
        return np.stack(truths)

    def corners(self, truth: NDArray[Any]) -> Corners | None:
        """None: where a class begins and where it ends is not a box's matter."""
        return None

    def piece(self, pixels: Pixels, truth: NDArray[Any]) -> Piece:
        """The picture and its mask."""
        return Piece(pixels, np.zeros((0, 6), np.float32), truth)

    def of_piece(self, piece: Piece) -> NDArray[Any]:
        """[h, w] uint8."""
        assert piece.mask is not None, "it is composed of pieces that have one"
        return piece.mask


def _resized(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    resized: NDArray[np.uint8] = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized
