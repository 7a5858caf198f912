"""`predict`: what does a model say about these pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pictune.data.decoding import decode
from pictune.data.pixels import shrink
from pictune.data.scanning import escape, scan
from pictune.errors import DataError
from pictune.recipe_text import load_yaml
from pictune.recipes import read_recipe
from pictune.run import Run
from pictune.tasks.model import Model
from pictune.tasks.task import Prediction
from pictune.training.machine import Machine
from pictune.verbs.reading import limits_of
from pictune.verbs.tables import TABLES

AT_ONCE = 256  # pictures in memory at a time


@dataclass(frozen=True)
class Predictions:
    """Answers, and the pictures that could not be read.

    Args:
        answers: One a picture, in the order given.
        unreadable: What is wrong with each picture that could not be used, by its path.
    """

    answers: tuple[Prediction, ...]
    unreadable: dict[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [
            {
                "path": answer.key,
                "labels": list(answer.annotation.names),
                "confidences": {name: round(value, 6) for name, value in answer.confidences.items()},
            }
            for answer in self.answers
        ]

    def summary(self, *, shown: int = 3) -> str:
        """One line a picture: the answer and the likeliest classes."""
        lines = []
        for answer in self.answers:
            likeliest = ", ".join(
                f"{name} {value:.3f}" for name, value in islice(answer.confidences.items(), shown)
            )
            lines.append(f"{answer.key}: {', '.join(answer.annotation.names) or 'none'}  ({likeliest})")
        lines += [f"{path}: not read: {reason}" for path, reason in self.unreadable.items()]
        return "\n".join(lines)


def predict(run: Run | Path | str, *pictures: Path | str) -> Predictions:
    """Answers for pictures and for whole folders of them.

    Args:
        run: A run or its folder.
        pictures: Files and folders; folders are searched with all that is in them.

    Raises:
        RunError: When the run has no model.
        DataError: When a path does not exist, or no picture could be read at all.
    """
    run = run if isinstance(run, Run) else Run(run)
    model = Model.load(run.model, device=Machine().device)
    data = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES).data
    paths, unreadable = _files([Path(p) for p in pictures], follow_outside=data.follow_outside)
    answers: list[Prediction] = []
    rest = iter(paths)
    while portion := list(islice(rest, AT_ONCE)):
        stored, keys, sizes = [], [], []
        for path in portion:
            try:
                picture = decode(path, limits=limits_of(data), value_range=data.value_range)
            except DataError as error:
                unreadable[escape(str(path))] = f"{error.message} [{error.code}]"
            else:
                stored.append(shrink(picture.pixels, model.specification.side))
                sizes.append((picture.pixels.shape[1], picture.pixels.shape[0]))
                keys.append(escape(str(path)))
        if stored:
            answers += model.task.predict(keys, model.answers(stored, sizes=sizes))
    if not answers:
        raise DataError(
            "no picture could be read",
            code="no_pictures",
            causes=[f"{path}: {reason}" for path, reason in list(unreadable.items())[:20]],
            instead="Name pictures or folders of pictures.",
        )
    return Predictions(tuple(answers), unreadable)


def _files(paths: Sequence[Path], *, follow_outside: bool) -> tuple[list[Path], dict[str, str]]:
    """The files that are named and those below the folders that are named, and what was left out there."""
    absent = [escape(str(path)) for path in paths if not path.exists()]
    if absent or not paths:
        raise DataError(
            "there is nothing at some of these paths" if absent else "no picture was named",
            code="missing",
            causes=absent,
            instead="Name pictures or folders of pictures.",
        )
    files: list[Path] = []
    left_out: dict[str, str] = {}
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        listing = scan(path, follow_outside=follow_outside)
        files += [image.path for image in listing.images]
        if not listing.images:
            left_out[escape(str(path))] = "the folder holds no picture [empty]"
        for finding in listing.findings:
            left_out[f"{escape(str(path))}/{finding.where}"] = f"{finding.message} [{finding.code}]"
    return files, left_out
