"""What a model is, but for its tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pictune.data.augmentation import DENSE_FILL, View
from pictune.data.augmentation.view import Fill

HEADROOM = 1.15  # stored pictures are this much larger than the network's, so that crops stay sharp


@dataclass(frozen=True)
class Specification:
    """Everything about a model that is not a tensor.

    Args:
        task: ``classification``, ``detection`` or ``segmentation``.
        classes: Names in the order of the outputs.
        network: A name that `build_network` knows.
        image_size: Width of the canvas that the network sees, pixels; its side where it is a square.
        fit: How a picture that is not square is fitted: ``crop``, ``squash`` or ``pad``.
        mean: Of each channel, 0 to 1.
        std: Of each channel, 0 to 1.
        multilabel: Any number of classes an image.
        threshold: From this confidence on a multi-label class is answered.
        height: Of the canvas, pixels; 0 for a square.
        head: What stands on the network's maps, by name; empty for its own last layer.
        thresholds: From which score on an answer of each class counts; empty where none was chosen.
        origin: For people: which weights training started from.
        licence: Of those weights; None when nobody says.
        facts: The run's name, the data's fingerprint, the versions, the validation numbers.
    """

    task: str
    classes: tuple[str, ...]
    network: str
    image_size: int
    fit: str = "crop"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    multilabel: bool = False
    threshold: float = 0.5
    height: int = 0
    head: str = ""
    thresholds: tuple[float, ...] = ()
    origin: str = ""
    licence: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of what the network sees, pixels."""
        return self.image_size, self.height or self.image_size

    @property
    def at_once(self) -> int:
        """How many pictures are asked about at a time: answers that are maps take much memory."""
        return 8 if self.head else 64

    @property
    def side(self) -> int:
        """Shorter side of a stored picture, pixels."""
        return side_of(min(self.canvas))

    @property
    def view(self) -> View:
        """How a stored picture becomes the canvas that the network sees."""
        return View(
            self.image_size,
            fit=self.fit,  # type: ignore[arg-type]
            fill=self.fill,
            height=self.height or None,
        )

    @property
    def fill(self) -> Fill:
        """What stands beside a picture; mirrored objects that nobody has named would teach wrongly."""
        return DENSE_FILL if self.head else "reflect"


def side_of(shorter: int) -> int:
    """Shorter side of the pictures stored for a canvas with this shorter side, pixels."""
    return round(shorter * HEADROOM)
