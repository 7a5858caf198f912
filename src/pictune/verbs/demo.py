"""`demo`: the main job on data that need no download: handwritten digits in real photographs."""

from __future__ import annotations

from pathlib import Path

from pictune.data.digits import draw_digits
from pictune.files import disk_errors
from pictune.run import Run
from pictune.training.job import Watcher
from pictune.verbs.reading import Progress, check_target
from pictune.verbs.train import train

IMAGES, SIZE, EPOCHS = 2000, 64, 10


def demo(
    folder: Path | str = "pictune-demo",
    *,
    seed: int = 0,
    watcher: Watcher | None = None,
    progress: Progress | None = None,
) -> Run:
    """Draws digits onto photographs, trains a classifier, and reports; about a minute on two cores.

    The split keeps all pictures of one handwritten digit together, so the test is on handwriting never seen.

    Args:
        folder: Gets the pictures (``digits``) and the run (``runs``).
        seed: Where all randomness starts.
        watcher: Is told how it goes.
        progress: Called with how many pictures are opened, and how many there are.
    """
    place = Path(folder)
    check_target(place, data=None, flag="--folder")
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    pictures = draw_digits(place / "digits", images=IMAGES, size=SIZE)
    return train(
        pictures,
        model="cnn",
        weights="none",
        augmentation="light",
        group_by="group",
        epochs=EPOCHS,
        seed=seed,
        runs=place / "runs",
        watcher=watcher,
        progress=progress,
    )
