"""A measurement as tables for a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pictune.evaluation.class_numbers import CLASS_METRICS
from pictune.evaluation.confusion import confidence_of
from pictune.evaluation.measurement import Measured, Measurement
from pictune.files import disk_errors, plain_cell, replace_file

Cell = str | int | float | None
Rows = list[list[Cell]]

_LABEL_SEPARATOR = "; "


def tables(measurement: Measurement | Measured) -> dict[str, Rows]:
    """The tables by file name, the heading in the first row, text made safe for spreadsheets.

    Returns:
        ``per_class.csv``, ``confusion.csv`` (rows are the truth; with several labels, the four outcomes of
        each class) and one of the images: ``predictions.csv`` (key, truth, answer, confidence, a score for
        each class), or what is told of each image where answers lie on it.
    """
    if isinstance(measurement, Measurement):
        made = {
            "per_class.csv": _per_class(measurement),
            "confusion.csv": _confusion(measurement),
            "predictions.csv": _predictions(measurement),
        }
    else:
        told = measurement.to_json()
        made = {
            "per_class.csv": _listed(told["per_class"]),
            "confusion.csv": _counted(told["confusion"]),
            "images.csv": _listed(measurement.images()),
        }
    return {name: [[_safe(cell) for cell in row] for row in rows] for name, rows in made.items()}


def write_tables(measurement: Measurement | Measured, folder: Path) -> list[Path]:
    """Writes the tables as UTF-8 CSV files into an existing folder and returns their paths.

    Raises:
        MachineError: When the disk is full or may not be written.
    """
    paths = []
    for name, rows in tables(measurement).items():
        path = folder / name
        replace_file(path, lambda temporary, rows=rows: _write(temporary, rows))  # type: ignore[misc]
        paths.append(path)
    return paths


def _write(path: Path, rows: Rows) -> None:
    # File names that are not UTF-8 carry lone surrogates; they are written visibly instead of failing.
    with disk_errors(path), path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        csv.writer(stream).writerows(rows)


def _safe(cell: Cell) -> Cell:
    """Text that a spreadsheet would run gets a leading apostrophe; numbers stay numbers."""
    return plain_cell(cell) if isinstance(cell, str) else cell


def _listed(entries: Sequence[Mapping[str, Any]]) -> Rows:
    """Entries of equal shape as rows; a number with an interval takes three columns."""
    rows: Rows = []
    for entry in entries:
        flat: dict[str, Cell] = {}
        for name, value in entry.items():
            if isinstance(value, Mapping):
                flat |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
            else:
                flat[name] = value
        rows += [list(flat)] if not rows else []
        rows.append(list(flat.values()))
    return rows


def _counted(confusion: Mapping[str, Any]) -> Rows:
    names = confusion["classes"]
    lines = zip(names, confusion["counts"], strict=True)
    return [["truth \\ predicted", *names], *([name, *line] for name, line in lines)]


def _per_class(measurement: Measurement) -> Rows:
    heading: list[Cell] = ["class", "support"]
    for name in CLASS_METRICS:
        heading += [name, f"{name}_low", f"{name}_high"]
    rows: Rows = [[*heading, "tp", "fp", "fn", "tn"]]
    for row in measurement.classes:
        cells: list[Cell] = [row.name, row.support]
        for number in row.metrics.values():
            cells += [number.value, number.low, number.high]
        rows.append([*cells, row.tp, row.fp, row.fn, row.tn])
    return rows


def _confusion(measurement: Measurement) -> Rows:
    if not measurement.table.exclusive:
        rows: Rows = [[row.name, row.tp, row.fp, row.fn, row.tn] for row in measurement.classes]
        return [["class", "tp", "fp", "fn", "tn"], *rows]
    return _counted(measurement.confusion)


def _predictions(measurement: Measurement) -> Rows:
    table = measurement.table
    rows: Rows = [["key", "truth", "predicted", "confidence", *(f"score {name}" for name in table.classes)]]
    for i, key in enumerate(table.keys):
        truth, answer = (
            _LABEL_SEPARATOR.join(name for name, is_set in zip(table.classes, row[i], strict=True) if is_set)
            for row in (table.truth, table.decided)
        )
        rows.append([key, truth, answer, confidence_of(table, i), *table.scores[i].tolist()])
    return rows
