"""Answers as a table of comma-separated values.

One row a class where pictures are classified or segmented, with the answer marked; one row a box where there
are boxes; and one row for a picture without any, or that could not be read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pictune.data.sample import Boxes, ClassMap
from pictune.data.scanning import escape
from pictune.errors import RunError
from pictune.files import disk_errors, plain_cell, write_bytes
from pictune.tasks.task import SIDES, Prediction

COLUMNS = ("path", "class", "confidence", "share", "answered", *SIDES, "error")
HEADER = ",".join(COLUMNS).encode()


def check_table(path: Path, *, flag: str) -> None:
    """Refuses to write a table of answers over any other file; an empty one is none.

    Args:
        path: Where the table is going to be; there may be nothing.
        flag: By which the user chooses it.

    Raises:
        RunError: When there is something else.
    """
    if not path.exists():
        return
    with disk_errors(path), path.open("rb") as stream:
        begins = stream.read(len(HEADER))
    if begins not in (b"", HEADER):
        raise RunError(
            f"{escape(str(path))} exists, and is no table of answers",
            instead=f"Name another file with {flag}, or remove this one.",
        )


def write_rows(path: Path, answers: Sequence[Prediction], unreadable: Mapping[str, str]) -> None:
    """Replaces a table of answers in one step.

    Columns: path, class, confidence (0 to 1), share (in its place where every pixel is answered: the part of
    them that has the class, 0 to 1), answered (whether the model gives this class as its answer), left, top,
    right, bottom (pixels, boxes only), error.

    Args:
        path: The file.
        answers: One a picture.
        unreadable: Why a picture was not read, by its path.

    Raises:
        MachineError: When the disk is full or may not be written.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="")  # with its own line ends, as only those are quoted
    writer.writeheader()
    for answer in answers:
        for row in _rows(answer):
            writer.writerow({"path": plain_cell(answer.key), **row})
    for name, reason in unreadable.items():
        writer.writerow({"path": plain_cell(name), "error": plain_cell(reason)})
    write_bytes(path, stream.getvalue().encode(errors="backslashreplace"))


def _rows(answer: Prediction) -> Iterator[dict[str, str]]:
    if isinstance(answer.annotation, Boxes):
        for label, score, box in zip(
            answer.annotation.labels, answer.scores, answer.annotation.corners.tolist(), strict=True
        ):
            corners = {side: f"{value:.2f}" for side, value in zip(SIDES, box, strict=True)}
            yield {"class": plain_cell(label), "confidence": f"{score:.6f}", "answered": "yes", **corners}
        if not len(answer.annotation):
            yield {}
        return
    said = answer.annotation.names
    covers = isinstance(answer.annotation, ClassMap)
    for name, number in answer.confidences.items():
        yield {
            "class": plain_cell(name),
            "share" if covers else "confidence": f"{number:.6f}",
            "answered": "yes" if covers or name in said else "no",
        }
