"""Probes: how well a line through the features tells things apart that the network never saw.

They are cheap and watched while the network learns; the weights that ship are chosen by them and by nothing
else. Shapes: n pictures, s pixels a side, d features, k classes.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmarks.defaults import crops, scenes
from numpy.typing import NDArray
from torch import nn

from pictune.data.augmentation import clean_view
from pictune.data.digits import draw_digits

Pixels = NDArray[np.uint8]
SIDE = 96  # pixels a side, as the product's default from scratch
SHOTS, SPLITS = 10, 10  # labelled pictures a class; how often they are drawn anew
RIDGE = 10.0
DIGITS, CROPS, PIECES = 500, 150, 70  # pictures in all; a class; a class


@dataclass(frozen=True, slots=True)
class Watched:
    """A small labelled data set.

    Args:
        name: For people.
        pixels: (n, s, s, 3) uint8.
        labels: (n) from 0 on.
        groups: (n) pictures of one group never stand on both sides of a split.
    """

    name: str
    pixels: Pixels
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]


def watched(folder: Path, *, voc: Path | None, camvid: Path | None) -> list[Watched]:
    """The data sets that are there, from a file beside the runs once they were made.

    Args:
        folder: Where the pictures are kept, ready to be looked at.
        voc: Pascal VOC boxes of blood cells (BCCD), or None.
        camvid: CamVid's road scenes with masks, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sets = [_kept(folder / "digits.npz", _digits)]
    if voc is not None:
        sets.append(_kept(folder / "cells.npz", lambda place: _folders(place, voc, crops, CROPS, "-")))
    if camvid is not None:
        sets.append(_kept(folder / "roads.npz", lambda place: _folders(place, camvid, scenes, PIECES, "-")))
    return sets


def _kept(path: Path, make: Callable[[Path], tuple[list[Pixels], list[str], list[str]]]) -> Watched:
    if not path.exists():
        with tempfile.TemporaryDirectory() as temporary:
            pictures, labels, groups = make(Path(temporary))
        np.savez(
            path,
            pixels=np.stack([clean_view(picture, SIDE) for picture in pictures]),
            labels=np.unique(labels, return_inverse=True)[1],
            groups=np.unique(groups, return_inverse=True)[1],
        )
    with np.load(path) as kept:
        return Watched(path.stem, kept["pixels"], kept["labels"], kept["groups"])


def _digits(place: Path) -> tuple[list[Pixels], list[str], list[str]]:
    drawn = draw_digits(place / "digits", images=DIGITS, size=SIDE)
    with (drawn / "labels.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return (
        [_read(drawn / row["path"]) for row in rows],
        [row["label"] for row in rows],
        [row["group"] for row in rows],
    )


def _folders(
    place: Path, source: Path, cut: Callable[..., None], most: int, end_of_group: str
) -> tuple[list[Pixels], list[str], list[str]]:
    cut(source, place, most=most)
    files = sorted(place.glob("*/*.png"))
    groups = [path.name.rsplit("-", 2 if source.name == "camvid" else 1)[0] for path in files]
    return [_read(path) for path in files], [path.parent.name for path in files], groups


def _read(path: Path) -> Pixels:
    picture = cv2.imread(str(path))
    assert picture is not None, f"{path} was written a moment ago"
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def features(
    preprocess: nn.Module,
    network: nn.Module,
    pixels: Pixels,
    autocast: Callable[[], AbstractContextManager[object]],
) -> NDArray[np.float32]:
    """(n, d) pooled features of a network in evaluation mode."""
    rows = []
    with torch.inference_mode(), autocast():
        for begin in range(0, len(pixels), 64):
            images = preprocess(torch.from_numpy(pixels[begin : begin + 64]))
            rows.append(network.forward_head(network.forward_features(images), pre_logits=True).float())  # type: ignore[operator]
    return torch.cat(rows).numpy()


def probe(found: NDArray[np.float32], data: Watched) -> float:
    """Balanced accuracy of ridge regression on few labelled pictures, the mean over splits, 0 to 1.

    Args:
        found: (n, d) features of the data set's pictures.
        data: Its labels and groups.
    """
    classes = int(data.labels.max()) + 1
    scores = []
    for split in range(SPLITS):
        rng = np.random.default_rng(split)
        chosen = _few(data, classes, rng)
        rest = ~np.isin(data.groups, data.groups[chosen])
        weights = _ridge(found[chosen], np.eye(classes, dtype=np.float32)[data.labels[chosen]])
        answers = weights(found[rest]).argmax(1)
        truth = data.labels[rest]
        scores.append(np.mean([(answers[truth == kind] == kind).mean() for kind in np.unique(truth)]))
    return float(np.mean(scores))


def _few(data: Watched, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Pictures to learn from: so many of each class, from at most two thirds of the groups."""
    groups = rng.permutation(np.unique(data.groups))
    open_ = np.isin(data.groups, groups[: len(groups) * 2 // 3])
    rows: list[int] = []
    for kind in range(classes):
        rows += rng.permutation(np.flatnonzero(open_ & (data.labels == kind)))[:SHOTS].tolist()
    return np.array(rows)


def _ridge(
    found: NDArray[np.float32], wanted: NDArray[np.float32]
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Ridge regression on features of mean 0 and spread 1, in its dual form: few pictures, many features."""
    middle, spread = found.mean(0), found.std(0) + 1e-3 * found.std() + 1e-6
    scaled = ((found - middle) / spread).astype(np.float64)
    offset = wanted.mean(0)
    ridge = RIDGE * scaled.shape[1] / 100 * np.eye(len(scaled))
    weights = scaled.T @ np.linalg.solve(scaled @ scaled.T + ridge, wanted - offset)
    return lambda others: ((others - middle) / spread) @ weights + offset


def scores(
    preprocess: nn.Module,
    network: nn.Module,
    sets: Sequence[Watched],
    autocast: Callable[[], AbstractContextManager[object]],
) -> dict[str, float]:
    """What the probe says for each data set, by name."""
    return {data.name: probe(features(preprocess, network, data.pixels, autocast), data) for data in sets}
