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
from pictune.errors import DataError, RunError
from pictune.run import Run
from pictune.tasks.task import Prediction
from pictune.verbs.asked import Asked, open_asked
from pictune.verbs.drawings import Drawings
from pictune.verbs.prediction_table import check_table, write_rows
from pictune.verbs.targets import check_file

AT_ONCE = 256  # pictures in memory at a time


@dataclass(frozen=True)
class Predictions:
    """Answers, and the pictures that could not be read.

    Args:
        answers: One a picture, in the order given.
        unreadable: What is wrong with each picture that could not be used, by its path.
        drawn: Where answers were drawn on pictures, in their order.
        table: Where all answers were written as a table; None where they were not.
        ignored: Files and hidden folders in the folders named that are no pictures.
    """

    answers: tuple[Prediction, ...]
    unreadable: dict[str, str]
    drawn: tuple[Path, ...] = ()
    table: Path | None = None
    ignored: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [answer.row() for answer in self.answers]

    def summary(self, *, shown: int = 3) -> str:
        """One line a picture: the answer, and the likeliest classes or how many objects there are."""
        lines = [answer.sentence(shown=shown) for answer in self.answers]
        lines += [f"drawn: {path}" for path in self.drawn]
        lines += [f"{path}: not read: {reason}" for path, reason in self.unreadable.items()]
        lines += [f"ignored: {self.ignored} that are no pictures"] if self.ignored else []
        lines += [f"table: {self.table}"] if self.table else []
        return "\n".join(lines)


def predict(
    model: Run | Path | str,
    *pictures: Path | str,
    save: Path | str | None = None,
    csv: Path | str | None = None,
    follow_outside: bool = False,
) -> Predictions:
    """Answers for pictures and for whole folders of them.

    Args:
        model: A run or its folder, or what `export` made: a file or folder, which needs no PyTorch.
        pictures: Files and folders; folders are searched with all that is in them.
        save: A folder for pictures with the answers drawn on them, as PNG; made when absent. Drawings of an
            earlier time in it are replaced, any other file is left alone.
        csv: A table for all answers; an earlier one is replaced, any other file left alone. It is written,
            too, when no picture could be read.
        follow_outside: Whether links that leave a folder are followed, even if the run's own were not.

    Raises:
        RunError: When the run has no model, or its answers do not lie on pictures and ``save`` is given.
        ArtifactError: When the exported model is broken or was changed.
        DataError: When a path does not exist, or no picture could be read at all.
    """
    asked = open_asked(model)
    follow_outside = follow_outside or asked.follow_outside
    paths, unreadable, ignored = _files([Path(p) for p in pictures], follow_outside=follow_outside)
    drawings = _drawings(save, pictures, paths, asked)
    if csv is not None:
        untouched = [*map(Path, pictures), *_learnt_from(asked)]
        check_file(Path(csv), pictures=untouched, flag="--csv")
        check_table(Path(csv), flag="--csv")
    answers: list[Prediction] = []
    rest = iter(paths)
    while portion := list(islice(rest, AT_ONCE)):
        stored, keys, sizes, whole = [], [], [], []
        for path in portion:
            try:
                picture = decode(path, limits=asked.limits, value_range=asked.value_range)
            except DataError as error:
                unreadable[escape(str(path))] = f"{error.message} [{error.code}]"
            else:
                stored.append(shrink(picture.pixels, asked.model.specification.side))
                sizes.append((picture.pixels.shape[1], picture.pixels.shape[0]))
                keys.append(escape(str(path)))
                whole.append(picture.pixels if drawings else None)
        if stored:
            found = list(asked.model.answers(stored, sizes=sizes))
            answers += asked.model.task.predict(keys, found)
            for key, pixels, answer in zip(keys, whole, found, strict=True):
                if drawings is not None and pixels is not None:
                    drawn = asked.model.task.show(pixels, answer)
                    assert drawn is not None, "a task with a legend draws"
                    drawings.add(Path(key).name, drawn)
    if csv is not None:
        write_rows(Path(csv), answers, unreadable)
    if not answers:
        raise DataError(
            "no picture could be read",
            code="no_pictures",
            causes=[f"{path}: {reason}" for path, reason in list(unreadable.items())[:20]],
            instead="Name pictures or folders of pictures.",
        )
    table = Path(csv) if csv is not None else None
    drawn_at = tuple(drawings.paths) if drawings is not None else ()
    return Predictions(tuple(answers), unreadable, drawn_at, table, ignored)


def _drawings(
    save: Path | str | None, pictures: Sequence[Path | str], paths: Sequence[Path], asked: Asked
) -> Drawings | None:
    """Where drawings go; None when none are wanted.

    Raises:
        RunError: When there is nothing to draw, or no place for it.
        DataError: When the folder lies among the user's pictures.
    """
    if save is None:
        return None
    if not asked.model.task.legend:
        raise RunError(
            f"the answers of {asked.model.task.name} do not lie on pictures, so nothing can be drawn",
            instead="Leave --save away; --json gives the answers as values.",
        )
    untouched = [*map(Path, pictures), *_learnt_from(asked)]
    return Drawings.into(Path(save), untouched=untouched, names=[escape(path.name) for path in paths])


def _learnt_from(asked: Asked) -> list[Path]:
    """The folder of pictures that a run was trained on, where it is still there."""
    if asked.run is None:
        return []
    from pictune.verbs.reading import origin_of  # it needs PyTorch; an exported model does not

    home = Path(origin_of(asked.run)["data"])
    return [home] if home.is_dir() else []


def _files(paths: Sequence[Path], *, follow_outside: bool) -> tuple[list[Path], dict[str, str], int]:
    """The files that are named and those below the folders that are named, and what was left out there.

    Last comes how many files and hidden folders there are no pictures.
    """
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
    ignored = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        listing = scan(path, follow_outside=follow_outside)
        files += [image.path for image in listing.images]
        ignored += listing.ignored.total()
        if not listing.images:
            left_out[escape(str(path))] = "the folder holds no picture [empty]"
        for finding in listing.findings:
            left_out[f"{escape(str(path))}/{finding.where}"] = f"{finding.message} [{finding.code}]"
    return files, left_out, ignored
