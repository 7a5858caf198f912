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


# For tasks whose annotations lie on the picture: the same names, other steps.
#
# * ``scale_jitter`` instead of crops: objects of all sizes are what such a network has to learn, and a crop
#   that is stretched would show shapes that no picture has. It stands after the turn, which is then about
#   the picture's own centre.
# * Turns are small, and there is neither shear nor tilt: the box around a turned box is too large for what
#   is round, by about 8 % a side at 5 degrees.
# * ``horizontal_flip`` as above: not in ``light``, where left and right may mean something.
# * Light and colours as above. Nothing is erased: an object that nobody can see would still be asked for.
#
# ``heavy`` goes down to a third of the size and not to the tenth of the paper, whose canvases are three
# times as large as ours: of a small object nothing would be left.
_DENSE_LIGHT: tuple[Entry, ...] = (
    {"name": "scale_jitter", "factor": [0.8, 1.25]},
    {"name": "brightness", "strength": 0.15},
    {"name": "contrast", "strength": 0.15},
)

_DENSE_MEDIUM: tuple[Entry, ...] = (
    {"name": "horizontal_flip", "probability": 0.5},
    {"name": "rotation", "degrees": 5, "probability": 0.3},
    {"name": "scale_jitter", "factor": [0.67, 1.5]},
    {"name": "brightness", "strength": 0.2},
    {"name": "contrast", "strength": 0.2},
    {"name": "saturation", "strength": 0.2},
    {"name": "hue", "degrees": 6},
    {"name": "blur", "sigma": [0.3, 1.2], "probability": 0.1},
)

_DENSE_HEAVY: tuple[Entry, ...] = (
    {"name": "horizontal_flip", "probability": 0.5},
    {"name": "rotation", "degrees": 8, "probability": 0.5},
    {"name": "scale_jitter", "factor": [0.33, 2.0]},
    {"name": "brightness", "strength": 0.4},
    {"name": "contrast", "strength": 0.4},
    {"name": "saturation", "strength": 0.4},
    {"name": "hue", "degrees": 15},
    {"name": "grayscale", "probability": 0.05},
    {"name": "blur", "sigma": [0.3, 1.8], "probability": 0.15},
    {"name": "noise", "sigma": 0.06, "probability": 0.15},
    {"name": "jpeg", "quality": [40, 90], "probability": 0.1},
)

DENSE_PRESETS: Mapping[str, Sequence[Entry]] = MappingProxyType(
    {"none": (), "light": _DENSE_LIGHT, "medium": _DENSE_MEDIUM, "heavy": _DENSE_HEAVY}
)

# What stands beside a picture where objects are to be found: one colour, because a mirror image would show
# objects that nobody marked. It is ImageNet's mean, of which nothing is left after normalising.
DENSE_FILL = (124, 116, 104)
