"""What answers a question about a picture: a run's model, or an exported one, which needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pictune.data.decoding import Limits
from pictune.data.scanning import escape
from pictune.errors import RunError
from pictune.exporting.artifact import SUFFIX, is_artifact
from pictune.exporting.exported import Exported
from pictune.run import Run
from pictune.tasks.specification import Specification
from pictune.tasks.task import Task
from pictune.threads import processors

MOST_NEAR = 4  # names that are told where there is no model


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
        run: Whose model it is; None of an exported one.
    """

    model: Answerer
    limits: Limits
    value_range: tuple[float, float] | None
    follow_outside: bool
    run: Run | None = None


def open_asked(model: Run | Path | str) -> Asked:
    """Opens a run's model or an exported one.

    Raises:
        RunError: When there is no run at that place, or it has no model.
        ArtifactError: When the exported model is broken or was changed.
    """
    if not isinstance(model, Run) and is_artifact(Path(model)):
        exported = Exported.open(Path(model), threads=processors())
        return Asked(exported, exported.limits, exported.value_range, follow_outside=False)
    run = run_of(model)
    from pictune.recipe_text import load_yaml
    from pictune.recipes import read_recipe
    from pictune.tasks.model import Model
    from pictune.training.machine import Machine
    from pictune.verbs.reading import limits_of
    from pictune.verbs.tables import TABLES

    answering = Model.load(run.model, device=Machine().device)
    data = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES).data
    return Asked(answering, limits_of(data), data.value_range, data.follow_outside, run)


def run_of(given: Run | Path | str) -> Run:
    """The run with a model that was named where an exported model would have done as well.

    Raises:
        RunError: When there is neither at that place, or the run has no model yet.
    """
    run = _run_of(given, exported=True)
    check_finished(run)
    return run


def trained_run(given: Run | Path | str, *, verb: str) -> Run:
    """The run that a verb needs, for which an exported model will not do.

    Args:
        given: A run or its folder.
        verb: Which one needs it.

    Raises:
        RunError: When there is no run at that place, or it has no model yet.
    """
    if not isinstance(given, Run) and is_artifact(Path(given)):
        shown = escape(str(given))
        raise RunError(
            f"{shown} is exported already"
            if verb == "export"
            else f"{shown} is an exported model, and no run",
            instead=f"To {verb} the run that it was made of, name that: runs/NAME.",
        )
    run = _run_of(given, exported=False)
    check_finished(run)
    return run


def _run_of(given: Run | Path | str, *, exported: bool) -> Run:
    if isinstance(given, Run):
        return given
    if not (Path(given) / "status.json").is_file():
        raise no_model(Path(given), exported=exported)
    return Run(given)


def no_model(path: Path, *, exported: bool = True) -> RunError:
    """What to tell where a model was named, and there is neither a run nor an exported model.

    Args:
        path: What was named.
        exported: Whether an exported model would do as well as a run.
    """
    shown = escape(str(path))
    if not path.exists():
        found = f"there is nothing at {shown}"
    elif not path.is_dir():
        found = f"{shown} is a file, but no exported model" if exported else f"{shown} is a file, and no run"
    elif not any(path.iterdir()):
        found = f"{shown} is an empty folder"
    else:
        found = f"{shown} is a folder, but {'neither a run nor an exported model' if exported else 'no run'}"
    near = [escape(str(other)) for other in _near(path, exported=exported)[:MOST_NEAR]]
    wanted = "Name a run (runs/NAME)" + (f" or an exported model (exports/NAME{SUFFIX})" if exported else "")
    return RunError(found, instead=f"{wanted}{', such as ' + ', '.join(near) if near else ''}.")


def _near(path: Path, *, exported: bool) -> list[Path]:
    """Models that may have been meant: those with such a name, then those in or beside what was named."""
    place = path if path.is_dir() else path.parent
    beside = _models_in(place, exported=exported)
    usual = [model for name in ("runs", "exports") for model in _models_in(Path(name), exported=exported)]
    by_name = {model.name: model for model in (*usual, *beside)}
    close = [by_name[name] for name in get_close_matches(path.name, by_name, n=MOST_NEAR)]
    close += [model for model in usual if model.stem == path.stem]
    return list(dict.fromkeys([*close, *beside]))


def _models_in(place: Path, *, exported: bool) -> list[Path]:
    if not place.is_dir():
        return []
    found = [file.parent for file in place.glob("*/status.json") if not file.parent.is_symlink()]
    found += [part for part in place.iterdir() if is_artifact(part)] if exported else []
    return sorted(found)


def check_finished(run: Run) -> None:
    """Refuses a run whose training has not come to its end, as a model is what it writes last.

    Raises:
        RunError: When it has no model yet.
    """
    if (run.model / "model.json").is_file():
        return
    shown = escape(str(run.path))
    instead = f"Go on with it: pictune train {shown}"
    if user := run.user:
        found = f"it is still being trained, by process {user}"
        instead = "Wait for the end of its training, which writes the model."
    elif run.state == "failed":
        found = f"its training failed: {run.read('status.json').get('reason', 'nobody says why')}"
        instead = f"When that is mended, go on with it: pictune train {shown}"
    elif run.state == "finished":
        return  # and its model was taken away, which who reads it will tell
    else:
        found = f"its training was {'stopped' if run.state == 'stopped' else 'killed'} before its end"
    raise RunError(f"the run {run.name} has no model yet: {found}", instead=instead)
