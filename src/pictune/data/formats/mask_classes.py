"""Which class each value in mask files stands for, as the user, a table or a list says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pictune.data.formats.assembly import ReadOptions
from pictune.data.formats.documents import read_text
from pictune.data.formats.layouts import listed, names_in
from pictune.data.formats.table_files import Field, Row, Table, read_table
from pictune.data.masking import MOST_CLASSES, WITHOUT_TABLE
from pictune.data.sample import Legend
from pictune.data.scanning import Lookup, escape
from pictune.errors import DataError

TABLES = ("classes.csv", "class_dict.csv")
LISTS = ("classes.txt",)

_MOST_BYTES = 1024**2
_COLUMNS = {
    "id": ("id", "value", "index", "class_id", "label_id"),
    "name": ("name", "class", "label", "class_name"),
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "ignored": ("ignored", "ignore"),
}
_YES = frozenset({"1", "true", "yes"})


@dataclass(frozen=True, slots=True)
class _Line:
    """One class of a table; ``number`` is its id where there are ids, else its place."""

    number: int
    has_id: bool
    name: str
    colour: int | None
    ignored: bool


def find_legend(root: Path, options: ReadOptions, *, coloured: bool) -> Legend | None:
    """What the values mean, if anything says so.

    Args:
        root: The dataset's folder.
        options: ``classes`` counts before any file; ``ignore`` is added to what a file says.
        coloured: Whether the masks show colours.

    Raises:
        DataError: ``bad_class_list`` with all mistakes.
    """
    ignored = frozenset(options.ignore)
    if wrong := [str(value) for value in sorted(ignored) if not 0 <= value <= 255]:
        raise DataError(
            f"the ignored {listed(wrong)} cannot be: mask values are 0 to 255",
            code="bad_class_list",
            instead="Give the numbers that stand in the masks.",
        )
    if options.classes is not None:
        return _numbered(dict(enumerate(options.classes)), ignored, "data.classes", coloured=coloured)
    for name in _present(root, TABLES):
        return _from_table(_lines(read_table(root / name)), root / name, ignored, coloured=coloured)
    for name in _present(root, LISTS):
        lines = read_text(root / name, most=_MOST_BYTES).splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        return _numbered(dict(enumerate(lines)), ignored, name, coloured=coloured)
    return None


def _present(root: Path, wanted: Sequence[str]) -> list[str]:
    """Those of the names that are regular files of the folder, in the order wanted."""
    there = {name.casefold(): name for name in names_in(root, (".csv", ".txt"))}
    lookup = Lookup(root)
    found = [there[name] for name in wanted if name in there]
    return [name for name in found if not isinstance(lookup.find((name,)), tuple)]


def _numbered(names: Mapping[int, str], ignored: frozenset[int], source: str, *, coloured: bool) -> Legend:
    """A legend of grey values from names in the order of their numbers."""
    taught = {number: name for number, name in names.items() if number not in ignored}
    _check(taught, source)
    if coloured:
        raise DataError(
            f"the masks show colours, and {escape(source)} says nothing about colours",
            code="mask_without_table",
            instead=WITHOUT_TABLE,
        )
    return Legend(taught, ignored)


def _check(names: Mapping[int, str], source: str) -> None:
    causes = [f"number {number} has no name" for number, name in names.items() if not name.strip()]
    counts = Counter(name for name in names.values() if name.strip())
    causes += [f"{name!r} stands there {count} times" for name, count in counts.items() if count > 1]
    if len(names) > MOST_CLASSES:
        causes.append(f"there are {len(names):,} classes; masks may have {MOST_CLASSES}")
    if causes or not names:
        raise DataError(
            f"the classes in {escape(source)} cannot be used",
            code="bad_class_list",
            causes=causes or ["there is none"],
            instead="Give every class a name of its own.",
        )


def _lines(table: Table) -> list[_Line]:
    """The classes of a table.

    Raises:
        DataError: ``bad_class_list`` with all mistakes.
    """
    column_of = {
        role: column
        for role, known in _COLUMNS.items()
        for column in table.columns
        if column.casefold() in known
    }
    has_colours = {"r", "g", "b"} <= set(column_of)
    causes = [finding.message for finding in table.findings]
    if "name" not in column_of or not ("id" in column_of or has_colours):
        causes.append(
            f"columns id,name or name,r,g,b are needed; found {listed(table.columns, 10) or 'none'}"
        )
    lines: list[_Line] = []
    for place, row in enumerate(table.rows if not causes else ()):
        number = _number(row, column_of["id"], 255, causes) if "id" in column_of else place
        parts = [_number(row, column_of[role], 255, causes) for role in "rgb"] if has_colours else []
        colour = parts[0] * 65536 + parts[1] * 256 + parts[2] if parts else None
        name = _text(row.fields.get(column_of["name"]))
        ignored = _text(row.fields.get(column_of.get("ignored", ""))).casefold() in _YES
        lines.append(_Line(number, "id" in column_of, name, colour, ignored))
    for what, counts in (
        ("the number", Counter(line.number for line in lines)),
        ("the colour", Counter(line.colour for line in lines if line.colour is not None)),
    ):
        twice = [str(value) for value, count in counts.items() if count > 1]
        if twice and not causes:
            causes.append(f"{what} of several classes is {listed(twice)}")
    if causes:
        raise DataError(
            f"the classes in {escape(table.file.name)} cannot be used",
            code="bad_class_list",
            causes=causes,
            instead="Give every class one line with its id and name, or its name and r, g, b.",
        )
    return lines


def _text(field: Field) -> str:
    return field.strip() if isinstance(field, str) else ""


def _number(row: Row, column: str, most: int, causes: list[str]) -> int:
    text = _text(row.fields.get(column))
    if text.isascii() and text.isdigit() and len(text) < 8 and int(text) <= most:
        return int(text)
    causes.append(f"line {row.line}: {column} is {text[:40]!r}, but must be a number from 0 to {most}")
    return 0


def _from_table(lines: Sequence[_Line], path: Path, ignored: frozenset[int], *, coloured: bool) -> Legend:
    """A legend of colours where the masks show them, or where the table has nothing else."""
    has_ids = all(line.has_id for line in lines)
    by_colour = all(line.colour is not None for line in lines) and (coloured or not has_ids)
    if coloured and not by_colour:
        return _numbered({line.number: line.name for line in lines}, ignored, path.name, coloured=True)
    hidden = {line.number for line in lines if line.ignored} | ignored
    taught = [line for line in lines if line.number not in hidden]
    _check({line.number: line.name for line in taught}, path.name)
    if not by_colour:
        return Legend({line.number: line.name for line in taught}, frozenset(hidden))
    colour_of = {line.number: line.colour for line in lines if line.colour is not None}
    if unknown := sorted(hidden - set(colour_of)):
        raise DataError(
            f"{escape(path.name)} has no line for the ignored {listed([str(n) for n in unknown])}",
            code="bad_class_list",
            instead="Ignored colours are named by their id, or by their place in the table, from 0 on.",
        )
    names = {line.colour: line.name for line in taught if line.colour is not None}
    return Legend(names, frozenset(colour_of[number] for number in hidden), coloured=True)
