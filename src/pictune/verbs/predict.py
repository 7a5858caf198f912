"""`predict`: what does a model say about these pictures?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.decoding import decode
from pictune.data.pixels import shrink
from pictune.data.scanning import escape, scan
from pictune.errors import DataError, RunError
from pictune.files import disk_errors, replace_file
from pictune.recipe_text import load_yaml
from pictune.recipes import read_recipe
from pictune.run import Run
from pictune.tasks.model import Model
from pictune.tasks.task import Prediction
from pictune.training.machine import Machine
from pictune.verbs.reading import check_target, limits_of
from pictune.verbs.tables import TABLES

AT_ONCE = 256  # pictures in memory at a time


@dataclass(frozen=True)
class Predictions:
    """Answers, and the pictures that could not be read.

    Args:
        answers: One a picture, in the order given.
        unreadable: What is wrong with each picture that could not be used, by its path.
        drawn: Where answers were drawn on pictures, in their order.
    """

    answers: tuple[Prediction, ...]
    unreadable: dict[str, str]
    drawn: tuple[Path, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [answer.row() for answer in self.answers]

    def summary(self, *, shown: int = 3) -> str:
        """One line a picture: the answer, and the likeliest classes or how many objects there are."""
        lines = [answer.sentence(shown=shown) for answer in self.answers]
        lines += [f"drawn: {path}" for path in self.drawn]
        lines += [f"{path}: not read: {reason}" for path, reason in self.unreadable.items()]
        return "\n".join(lines)


def predict(run: Run | Path | str, *pictures: Path | str, save: Path | str | None = None) -> Predictions:
    """Answers for pictures and for whole folders of them.

    Args:
        run: A run or its folder.
        pictures: Files and folders; folders are searched with all that is in them.
        save: A folder for pictures with the answers drawn on them, as PNG; made when absent, and files of an
            earlier time in it are replaced.

    Raises:
        RunError: When the run has no model, or its answers do not lie on pictures and ``save`` is given.
        DataError: When a path does not exist, or no picture could be read at all.
    """
    run = run if isinstance(run, Run) else Run(run)
    model = Model.load(run.model, device=Machine().device)
    data = read_recipe(load_yaml(run.path / "recipe.yaml"), TABLES).data
    paths, unreadable = _files([Path(p) for p in pictures], follow_outside=data.follow_outside)
    target = _target(save, pictures, model)
    answers: list[Prediction] = []
    drawn: list[Path] = []
    rest = iter(paths)
    while portion := list(islice(rest, AT_ONCE)):
        stored, keys, sizes, whole = [], [], [], []
        for path in portion:
            try:
                picture = decode(path, limits=limits_of(data), value_range=data.value_range)
            except DataError as error:
                unreadable[escape(str(path))] = f"{error.message} [{error.code}]"
            else:
                stored.append(shrink(picture.pixels, model.specification.side))
                sizes.append((picture.pixels.shape[1], picture.pixels.shape[0]))
                keys.append(escape(str(path)))
                whole.append(picture.pixels if target else None)
        if stored:
            found = list(model.answers(stored, sizes=sizes))
            answers += model.task.predict(keys, found)
            for key, pixels, answer in zip(keys, whole, found, strict=True):
                if target is not None and pixels is not None:
                    drawn.append(_draw(target, len(drawn), key, model, pixels, answer))
    if not answers:
        raise DataError(
            "no picture could be read",
            code="no_pictures",
            causes=[f"{path}: {reason}" for path, reason in list(unreadable.items())[:20]],
            instead="Name pictures or folders of pictures.",
        )
    return Predictions(tuple(answers), unreadable, tuple(drawn))


def _target(save: Path | str | None, pictures: Sequence[Path | str], model: Model) -> Path | None:
    """The folder for drawings.

    Raises:
        RunError: When there is nothing to draw, or the folder is a file.
        DataError: When the folder lies among the user's pictures.
    """
    if save is None:
        return None
    if not model.task.legend:
        raise RunError(
            f"the answers of {model.specification.task} do not lie on pictures, so nothing can be drawn",
            instead="Leave --save away; --json gives the answers as values.",
        )
    for given in pictures:
        check_target(Path(save), data=Path(given), flag="--save")
    with disk_errors(Path(save)):
        Path(save).mkdir(parents=True, exist_ok=True)
    return Path(save)


def _draw(
    folder: Path, number: int, key: str, model: Model, pixels: NDArray[np.uint8], answer: NDArray[Any]
) -> Path:
    """Draws one answer; pictures of one name in several folders do not meet."""
    path = folder / f"{number + 1:05d}-{Path(key).stem[:80]}.png"
    drawn = model.task.show(pixels, answer)
    assert drawn is not None, "a task with a legend draws"
    encoded = cv2.imencode(".png", np.ascontiguousarray(drawn[:, :, ::-1]))[1].tobytes()
    replace_file(path, lambda temporary: _write(temporary, encoded))
    return path


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


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
