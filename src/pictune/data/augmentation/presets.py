"""Presets: lists of steps under one name, written as a recipe would write them.

``none``    nothing is changed.
``light``   nothing that could change what a picture means: no mirror images, small turns, mild light.
            For text, digits, traffic signs, left and right hands.
``medium``  for photographs: mirror images, crops, turns, and light as cameras differ in it.
``heavy``   for few photographs or long training: everything stronger, and hidden parts.

Mirror images are in ``medium`` and ``heavy`` because a mirrored photograph of most things is another
good photograph of it, worth about as much as twice the data. They are not in ``light`` because where two
classes are mirror images of each other (b and d, arrows, left and right) mirroring makes them the same,
and no amount of training brings the difference back. No preset turns pictures upside down: that is right
for pictures taken from above, and who has those adds ``vertical_flip`` and ``quarter_turns``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

Entry: TypeAlias = Mapping[str, Any]

_LIGHT: tuple[Entry, ...] = (
    {"name": "random_resized_crop", "scale": [0.75, 1.0], "ratio": [0.9, 1.11]},
    {"name": "rotation", "degrees": 7},
    {"name": "brightness", "strength": 0.15},
    {"name": "contrast", "strength": 0.15},
)

_MEDIUM: tuple[Entry, ...] = (
    {"name": "random_resized_crop", "scale": [0.6, 1.0], "ratio": [0.8, 1.25]},
    {"name": "horizontal_flip", "probability": 0.5},
    {"name": "rotation", "degrees": 12},
    {"name": "brightness", "strength": 0.2},
    {"name": "contrast", "strength": 0.2},
    {"name": "saturation", "strength": 0.2},
    {"name": "hue", "degrees": 6},
    {"name": "blur", "sigma": [0.3, 1.2], "probability": 0.1},
)

_HEAVY: tuple[Entry, ...] = (
    {"name": "random_resized_crop", "scale": [0.35, 1.0], "ratio": [0.7, 1.43]},
    {"name": "horizontal_flip", "probability": 0.5},
    {"name": "rotation", "degrees": 20},
    {"name": "shear", "degrees": 8, "probability": 0.5},
    {"name": "perspective", "distortion": 0.15, "probability": 0.3},
    {"name": "brightness", "strength": 0.4},
    {"name": "contrast", "strength": 0.4},
    {"name": "saturation", "strength": 0.4},
    {"name": "hue", "degrees": 15},
    {"name": "grayscale", "probability": 0.05},
    {"name": "blur", "sigma": [0.3, 1.8], "probability": 0.15},
    {"name": "noise", "sigma": 0.06, "probability": 0.15},
    {"name": "jpeg", "quality": [40, 90], "probability": 0.1},
    {"name": "erasing", "area": [0.02, 0.15], "probability": 0.25},
)

PRESETS: Mapping[str, Sequence[Entry]] = MappingProxyType(
    {"none": (), "light": _LIGHT, "medium": _MEDIUM, "heavy": _HEAVY}
)


def _dense(*, zoom: float, shift: float, degrees: float, light: float, mirrored: bool) -> tuple[Entry, ...]:
    """For what lies on pictures: the picture keeps its shape, and objects come in several sizes."""
    moves: list[Entry] = [
        {"name": "scale", "factor": [1 / zoom, zoom]},
        {"name": "translation", "fraction": shift},
    ]
    if mirrored:
        moves.append({"name": "horizontal_flip", "probability": 0.5})
    if degrees:
        moves.append({"name": "rotation", "degrees": degrees, "probability": 0.3})
    return (
        *moves,
        {"name": "brightness", "strength": light},
        {"name": "contrast", "strength": light},
        {"name": "saturation", "strength": light},
    )


#: The presets of tasks whose annotations lie on the picture; the names mean what they mean above.
DENSE_PRESETS: Mapping[str, tuple[Entry, ...]] = MappingProxyType(
    {
        "none": (),
        "light": _dense(zoom=1.15, shift=0.05, degrees=0, light=0.1, mirrored=False),
        "medium": _dense(zoom=1.5, shift=0.1, degrees=0, light=0.2, mirrored=True),
        "heavy": _dense(zoom=2.0, shift=0.2, degrees=10, light=0.3, mirrored=True),
    }
)
