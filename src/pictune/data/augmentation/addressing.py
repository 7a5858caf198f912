"""Addressed randomness: a generator found by what it is for, not by what ran before.

A stream of random numbers that is handed from image to image makes a run depend on its order, on the
number of workers and on where it was interrupted. Here every use has an address, and the address is the
state of a counter-based generator (Philox; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"): seed and epoch are its key, position and lane the upper half of its counter. Different addresses give
streams that never overlap, without hashing and without luck, 2^128 blocks apart.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Lane(IntEnum):
    """What a position counts, so that image 7 and step 7 don't share their randomness."""

    IMAGE = 0  # position of the image in the dataset
    BATCH = 1  # number of the batch in the epoch: mixing
    ORDER = 2  # the order in which an epoch visits the images
    DRAWING = 3  # number of a picture that is drawn, as for the demo
    VIEW = 4  # position of the image, in one of the views that take turns whatever the seed
    COMPOSITION = 5  # position of the image that others join: which ones, and how


def address(seed: int, epoch: int, position: int, *, lane: Lane = Lane.IMAGE) -> np.random.Generator:
    """The generator that belongs to one place in a run; about 15 microseconds.

    Args:
        seed: The run's seed, 0 or more.
        epoch: The epoch, or the number of a cached view, 0 or more.
        position: Which image or batch, 0 or more.
        lane: What the position counts.
    """
    key = np.array((seed, epoch), dtype=np.uint64)
    counter = np.array((0, 0, position, lane), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
