"""What answers a question about a picture: a run's model, or an exported one, which needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pictune.data.decoding import Limits
from pictune.exporting.artifact import is_artifact
from pictune.exporting.exported import Exported
from pictune.run import Run
from pictune.tasks.specification import Specification
from pictune.tasks.task import Task
from pictune.threads import processors


class Answerer(Protocol):
    """A model that answers."""

    @property
    def specification(self) -> Specification:
        """What it is."""

    @property
    def task(self) -> Task:
        """Reads its answers."""

    def answers(
        self, stored: Sequence[NDArray[np.uint8]], *, sizes: Sequence[tuple[int, int]] | None = None
    ) -> Iterator[NDArray[Any]]:
        """What it says of stored pictures."""


@dataclass(frozen=True)
class Asked:
    """A model and how its pictures are read.

    Args:
        model: Answers.
        limits: Which pictures are accepted.
        value_range: Values that mean black and white where a file does not say.
        follow_outside: Whether links that leave a folder are followed.
    """

    model: Answerer
    limits: Limits
    value_range: tuple[float, float] | None
    follow_outside: bool


def open_asked(model: Run | Path | str) -> Asked:
    """Opens a run's model or an exported one.

    Raises:
        RunError: When there is no run at that place, or it has no model.
        ArtifactError: When the exported model is broken or was changed.
    """
    if not isinstance(model, Run) and is_artifact(Path(model)):
        exported = Exported.open(Path(model), threads=processors())
        return Asked(exported, exported.limits, exported.value_range, follow_outside=False)
    run = model if isinstance(model, Run) else Run(model)
    from pictune.recipe_text import load_yaml
    from pictune.recipes import read_recipe
    from pictune.tasks.model import Model
    from pictune.training.machine import Machine
    from pictune.verbs.reading import limits_of
    from pictune.verbs.tables import TABLES

    answering = Model.load(run.model, device=Machine().device)
    data = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES).data
    return Asked(answering, limits_of(data), data.value_range, data.follow_outside)
