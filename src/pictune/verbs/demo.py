"""`demo`: the main job on data that need no download: handwritten digits in real photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pictune.data.digit_scenes import draw_boxes, draw_masks
from pictune.data.digits import draw_digits
from pictune.errors import RecipeError
from pictune.files import disk_errors
from pictune.run import Run
from pictune.settings import suggestion
from pictune.training.job import Watcher
from pictune.verbs.reading import Progress
from pictune.verbs.targets import check_target
from pictune.verbs.train import train


@dataclass(frozen=True, slots=True)
class Show:
    """What the demo shows of one task.

    Args:
        folder: Of the drawn pictures, in the demo's own.
        draw: Draws this many pictures into a folder, or finds them drawn.
        images: How many.
        arguments: For `train`.
    """

    folder: str
    draw: Callable[..., Path]
    images: int
    arguments: Mapping[str, Any] = field(default_factory=dict)


# Digits must not be mirrored, so all three use `light`. The scenes' canvases are small: what matters
# here is that a report stands after a minute.
_SCENES = {"augmentation": "light", "image_size": 128, "settings": ("model.height=96",)}

SHOWS: Mapping[str, Show] = MappingProxyType(
    {
        "classification": Show(
            "digits",
            partial(draw_digits, size=64),
            2000,
            {
                "model": "cnn",
                "weights": "none",
                "augmentation": "light",
                "group_by": "group",
                "epochs": 10,
            },
        ),
        "detection": Show("digit-boxes", draw_boxes, 600, {**_SCENES, "group_by": "group", "epochs": 8}),
        "segmentation": Show(
            "digit-masks", draw_masks, 600, {**_SCENES, "group_by": r"re:(g\d+)_", "epochs": 8}
        ),
    }
)


def demo(
    folder: Path | str = "pictune-demo",
    *,
    task: str = "classification",
    seed: int = 0,
    watcher: Watcher | None = None,
    progress: Progress | None = None,
) -> Run:
    """Draws digits onto photographs, trains on them, and reports; about a minute on two cores.

    The split keeps all pictures of one handwritten digit together, so the test is on handwriting never seen.

    Args:
        folder: Gets the pictures (``digits``, ``digit-boxes``, ``digit-masks``) and the run (``runs``).
        task: ``classification``, one digit a picture; ``detection``, a box around each of several;
            ``segmentation``, which digit every pixel belongs to.
        seed: Where all randomness starts.
        watcher: Is told how it goes.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        RecipeError: When there is no such task.
        DataError: When the folder holds something else.
        MachineError: When the disk is full or may not be written.
    """
    if task not in SHOWS:
        raise RecipeError(
            f"there is no task called {task!r}{suggestion(task, SHOWS)}",
            instead=f"Choose one of {', '.join(SHOWS)}.",
        )
    show, place = SHOWS[task], Path(folder)
    check_target(place, data=None, flag="--folder")
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    pictures = show.draw(place / show.folder, images=show.images)
    return train(
        pictures, **show.arguments, seed=seed, runs=place / "runs", watcher=watcher, progress=progress
    )
