"""Steps that make new pixels: blur, noise, compression, erased parts, and the policies' changes of tone."""

from __future__ import annotations

import math
from functools import partial
from statistics import NormalDist
from typing import Annotated

import cv2
import numpy as np

from pictune.data.augmentation.steps import (
    Filter,
    Pixels,
    Probability,
    Range,
    between,
    require_ascending,
)
from pictune.settings import Search, Setting


def blur(
    *,
    sigma: Annotated[
        Range, Setting("smallest and largest standard deviation, in pixels of the view", above=0, high=20)
    ] = (0.3, 1.5),
    probability: Probability = 0.2,
) -> Filter:
    """Blurs with a Gaussian."""
    require_ascending("blur", sigma=sigma)
    return Filter(probability, partial(_blurred, sigma=sigma))


def _blurred(rng: np.random.Generator, pixels: Pixels, *, sigma: Range) -> Pixels:
    blurred: Pixels = cv2.GaussianBlur(pixels, (0, 0), between(rng, *sigma))
    return blurred


# Gaussian noise from one random byte a value: the 256 bytes stand for 256 slices of equal probability.
# That is several times quicker than drawing normal numbers and as good where the result is rounded to
# 256 levels anyway; it only never reaches beyond 2.9 standard deviations.
_SLICES = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)])
_SLICES /= _SLICES.std()


def noise(
    *,
    sigma: Annotated[
        float,
        Setting(
            "largest standard deviation, as a share of the full range",
            low=0,
            high=0.5,
            search=Search(0, 0.15),
        ),
    ] = 0.05,
    probability: Probability = 0.2,
) -> Filter:
    """Adds Gaussian noise, each channel its own, of a strength drawn evenly from 0 to sigma."""
    return Filter(probability, partial(_noisy, sigma=sigma))


def _noisy(rng: np.random.Generator, pixels: Pixels, *, sigma: float) -> Pixels:
    table = np.rint(_SLICES * (255 * between(rng, 0, sigma))).astype(np.int16)
    chance = np.frombuffer(rng.bytes(pixels.size), np.uint8).reshape(pixels.shape)
    noisy: Pixels = cv2.add(pixels, cv2.LUT(chance, table), dtype=cv2.CV_8U)
    return noisy


def jpeg(
    *,
    quality: Annotated[Range, Setting("lowest and highest JPEG quality", low=1, high=100)] = (40, 90),
    probability: Probability = 0.2,
) -> Filter:
    """Compresses as JPEG and opens again."""
    require_ascending("jpeg", quality=quality)
    return Filter(probability, partial(_compressed, quality=quality))


def _compressed(rng: np.random.Generator, pixels: Pixels, *, quality: Range) -> Pixels:
    level = round(between(rng, *quality))
    _, code = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, level))
    opened: Pixels = cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return opened


def erasing(
    *,
    area: Annotated[Range, Setting("smallest and largest share of the image", above=0, high=1)] = (0.02, 0.2),
    ratio: Annotated[Range, Setting("width of the rectangle over its height", low=0.1, high=10)] = (0.4, 2.5),
    fill: Annotated[str, Setting("what stands in the rectangle", choices=("noise", "mean"))] = "noise",
    probability: Probability = 0.25,
) -> Filter:
    """Covers a random rectangle (Random Erasing; Zhong et al. 2017, arXiv 1708.04896).

    The rectangle always lies inside the image; a long one is shortened to fit.
    """
    require_ascending("erasing", area=area, ratio=ratio)
    return Filter(probability, partial(_erased, area=area, ratio=ratio, fill=fill))


def _erased(rng: np.random.Generator, pixels: Pixels, *, area: Range, ratio: Range, fill: str) -> Pixels:
    height, width = pixels.shape[:2]
    covered = between(rng, *area) * height * width
    shape = math.exp(between(rng, math.log(ratio[0]), math.log(ratio[1])))
    across = min(width, max(1, round(math.sqrt(covered * shape))))
    down = min(height, max(1, round(math.sqrt(covered / shape))))
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    erased = pixels.copy()
    window = erased[top : top + down, left : left + across]
    if fill == "noise":
        window[:] = np.frombuffer(rng.bytes(window.size), np.uint8).reshape(window.shape)
    else:
        window[:] = np.rint(cv2.mean(pixels)[:3])
    return erased


def sharpness(
    *,
    strength: Annotated[
        float, Setting("largest change; 0.5 goes from half blurred to half sharpened", low=0, high=1)
    ] = 0.5,
    probability: Probability = 0.2,
) -> Filter:
    """Makes the image sharper or softer, as in AutoAugment (Cubuk et al. 2019, arXiv 1805.09501)."""
    return sharpness_step(low=1 - strength, high=1 + strength, probability=probability)


def sharpness_step(*, low: float, high: float, probability: float = 1.0) -> Filter:
    """A step that multiplies the distance to the smoothed image by a factor drawn evenly from low..high."""
    return Filter(probability, partial(_sharpened, low=low, high=high))


_SMOOTH = np.array(((1, 1, 1), (1, 5, 1), (1, 1, 1))) / 13
_SAME = np.array(((0, 0, 0), (0, 1, 0), (0, 0, 0)))


def _sharpened(rng: np.random.Generator, pixels: Pixels, *, low: float, high: float) -> Pixels:
    factor = between(rng, low, high)
    sharpened: Pixels = cv2.filter2D(pixels, -1, factor * _SAME + (1 - factor) * _SMOOTH)
    return sharpened


def posterize(
    *,
    bits: Annotated[int, Setting("bits kept of each channel's 8", low=1, high=8)] = 4,
    probability: Probability = 0.1,
) -> Filter:
    """Keeps only the highest bits of each channel."""
    levels = (np.arange(256) & ~(2 ** (8 - bits) - 1)).astype(np.uint8)
    return Filter(probability, partial(_looked_up, table=levels))


def solarize(
    *,
    threshold: Annotated[int, Setting("values from here on are inverted", low=0, high=256)] = 128,
    probability: Probability = 0.1,
) -> Filter:
    """Inverts all values at or above a threshold."""
    levels = np.arange(256)
    inverted = np.where(levels >= threshold, 255 - levels, levels).astype(np.uint8)
    return Filter(probability, partial(_looked_up, table=inverted))


def _looked_up(_rng: np.random.Generator, pixels: Pixels, *, table: Pixels) -> Pixels:
    result: Pixels = cv2.LUT(pixels, table)
    return result


def autocontrast(*, probability: Probability = 0.1) -> Filter:
    """Stretches each channel to the full range; a channel of one value stays as it is."""
    return Filter(probability, _stretched)


def _stretched(_rng: np.random.Generator, pixels: Pixels) -> Pixels:
    channels = [
        cv2.normalize(channel, None, 0, 255, cv2.NORM_MINMAX) if np.ptp(channel) else channel
        for channel in cv2.split(pixels)
    ]
    stretched: Pixels = cv2.merge(channels)
    return stretched


def equalize(*, probability: Probability = 0.1) -> Filter:
    """Spreads the values of each channel so that all are about as frequent; one value stays as it is."""
    return Filter(probability, _equalized)


def _equalized(_rng: np.random.Generator, pixels: Pixels) -> Pixels:
    equalized: Pixels = cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(pixels)])
    return equalized
