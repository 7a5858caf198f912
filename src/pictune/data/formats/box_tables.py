"""A table with one row a box: image, label, and its corners, or its left, top, width and height, in pixels.

Paths are relative to the table's own folder, or to the folder of images that the user names. An image without
objects has one row whose label and numbers are empty. Where the table has corners, columns ``width`` and
``height`` are the image's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, refuse, split_named
from pictune.data.formats.box_assembly import ListedImage, finish_boxes
from pictune.data.formats.box_checks import Form
from pictune.data.formats.boxes import BoxSheet, Place
from pictune.data.formats.documents import number_in, pixels_in
from pictune.data.formats.layouts import listed, names_in
from pictune.data.formats.named import ImageFinder
from pictune.data.formats.table_files import SUFFIXES, Field, Row, Table, peek_columns, read_table
from pictune.data.formats.unlisted import unlisted_images
from pictune.data.sample import Dataset
from pictune.data.scanning import FoundImage, escape
from pictune.errors import DataError
from pictune.settings import suggestion

name = "box_table"

_KNOWN = {
    "image": "image img path file filename file_name filepath file_path image_path img_path image_file "
    "image_name".split(),
    "label": "label class category class_name category_name name".split(),
    "split": ["split", "subset", "partition"],
    "group": ["group"],
    "crowd": ["crowd", "iscrowd", "difficult"],
}
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("left", "top", "width", "height"),
)
_YES = frozenset({"1", "1.0", "true", "yes"})


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which column says what; None where the table has no such column.

    ``numbers`` are the four of a box, ``size`` those of the image's width and height, if any.
    """

    image: str
    label: str
    split: str | None
    group: str | None
    crowd: str | None
    numbers: tuple[str, ...]
    size: tuple[str, ...]
    form: Form


def recognise(path: Path) -> str | None:
    """A table with columns for an image, a label and a box, or a folder that holds exactly one."""
    tables = _tables_of(path)
    if len(tables) != 1:
        return None
    verb = "is" if path.is_file() else "is in it and is"
    return f"{escape(tables[0].name)} {verb} a table with one row a box"


def _tables_of(path: Path) -> list[Path]:
    if path.is_file():
        candidates = [path] if path.suffix.lower() in SUFFIXES else []
    else:
        files = [path / file for file in names_in(path, SUFFIXES)]
        candidates = [file for file in files if file.is_file()]
    return [table for table in candidates if _is_about_boxes(peek_columns(table))]


def _is_about_boxes(columns: tuple[str, ...]) -> bool:
    folded = {column.strip().casefold() for column in columns}
    known = bool(folded & set(_KNOWN["image"])) and bool(folded & set(_KNOWN["label"]))
    return known and any(folded.issuperset(four) for four in (*_CORNERS, *_SIZES))


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample an image, with the boxes of all its rows.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    tables = [path] if path.is_file() else _tables_of(path)
    if len(tables) != 1:
        raise DataError(
            f"{escape(str(path))} holds {len(tables) or 'no'} tables of boxes",
            code="several_tables" if tables else "no_table",
            causes=[escape(table.name) for table in tables],
            instead="Give the path of the one that is meant.",
        )
    table = read_table(tables[0])
    columns = _find_columns(table, options)
    root = tables[0].parent
    places = [options.image_folder] if options.image_folder is not None else [root]
    finder = ImageFinder(root, places, follow_outside=options.follow_outside)
    reader = _Reader(table, columns, finder, judging=options.judging)
    reader.read()
    used = [image.found for image in reader.images]
    return finish_boxes(
        path,
        format_name=name,
        images=reader.images,
        sheet=reader.sheet,
        declared=None,
        findings=[*table.findings, *reader.findings, *unlisted_images(used)],
        options=options,
    )


def _find_columns(table: Table, options: ReadOptions) -> _Columns:
    """The columns by their names.

    Raises:
        DataError: ``missing_column`` or ``ambiguous_column``, with all that is wrong.
    """
    findings: list[Finding] = []
    given = {
        "image": options.image_column,
        "label": options.label_column,
        "split": options.split_column,
        "group": options.group_column,
    }
    chosen: dict[str, str | None] = {}
    for role in _KNOWN:
        wished = given.get(role)
        chosen[role] = wished if wished in table.columns else _known_column(table, role, findings)
        if wished is not None and wished not in table.columns and not options.judging:
            near = suggestion(wished, table.columns)
            _note(table, findings, f"the column {wished!r} is not there{near}")
    by_name = {column.casefold(): column for column in table.columns}
    four = next((four for four in (*_CORNERS, *_SIZES) if set(four) <= set(by_name)), ())
    if not four:
        _note(table, findings, "no columns for the box, such as xmin, ymin, xmax, ymax, or x, y, w, h")
    refuse(table.file, [*table.findings, *findings])
    assert chosen["image"] is not None
    assert chosen["label"] is not None
    corners = four in _CORNERS
    size = ("width", "height") if corners and {"width", "height"} <= set(by_name) else ()
    return _Columns(
        chosen["image"],
        chosen["label"],
        chosen["split"],
        chosen["group"],
        chosen["crowd"],
        tuple(by_name[column] for column in four),
        tuple(by_name[column] for column in size),
        "corners" if corners else "sizes",
    )


def _known_column(table: Table, role: str, findings: list[Finding]) -> str | None:
    fitting = [column for column in table.columns if column.casefold() in _KNOWN[role]]
    if role == "label" and len(fitting) > 1:  # "name" may be anything's name
        fitting = [column for column in fitting if column.casefold() != "name"]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        each = " and ".join(map(repr, fitting))
        _note(table, findings, f"{each} may each be the {role}; leave one of them in", "ambiguous_column")
    elif role in ("image", "label"):
        _note(table, findings, f"no column for the {role}; call it {_KNOWN[role][0]!r}")
    return None


def _note(table: Table, findings: list[Finding], what: str, code: str = "missing_column") -> None:
    where = escape(table.file.name)
    found = listed(list(map(repr, table.columns)), 20) or "none"
    findings.append(Finding(code, Outcome.REJECT, where, f"{where}: {what} (columns found: {found})."))


class _Reader:
    """Turns rows into images and boxes."""

    def __init__(self, table: Table, columns: _Columns, finder: ImageFinder, *, judging: bool) -> None:
        self._table = table
        self._columns = columns
        self._finder = finder
        self._judging = judging
        self._file = f"{escape(table.file.name)}:"
        self._number_of: dict[str, int | None] = {}  # by the image's name in the table; None if left out
        self._number_of_key: dict[str, int] = {}
        self._line_of: list[int] = []
        self.images: list[ListedImage] = []
        self.sheet = BoxSheet(columns.form)
        self.findings: list[Finding] = []

    def read(self) -> None:
        for row in self._table.rows:
            number = self._image(row)
            if number is not None:
                self._add(number, row)
        splits = [image.split for image in self.images]
        if any(splits) and not all(splits):
            for image, line in zip(self.images, self._line_of, strict=True):
                if not image.split:
                    self._reject(
                        line, "no_split", f"says no split for {image.found.key}, but others have one"
                    )

    def _image(self, row: Row) -> int | None:
        """The number of the row's image, which is new or is already there; None if it is left out."""
        called = _text(row.fields.get(self._columns.image))
        if called not in self._number_of:
            found = self._finder.find(called, f"{self._file}{row.line}")
            if isinstance(found, Finding):
                self.findings.append(found)
                self._number_of[called] = None
            else:
                self._number_of[called] = self._new(found, row)
        number = self._number_of[called]
        if number is not None:
            image = self.images[number]
            if (self._split(row), self._group(row)) != (image.split, image.group):
                what = f"names another split or group for {image.found.key} than line {self._line_of[number]}"
                self._reject(row.line, "conflicting_row", what)
        return number

    def _new(self, found: FoundImage, row: Row) -> int:
        if found.key in self._number_of_key:  # written in two ways, such as a.jpg and ./a.jpg
            return self._number_of_key[found.key]
        self._number_of_key[found.key] = len(self.images)
        size = [pixels_in(_text(row.fields.get(column))) for column in self._columns.size] or [0, 0]
        self.images.append(ListedImage(found, size[0], size[1], self._split(row), self._group(row)))
        self._line_of.append(row.line)
        text = _text(row.fields.get(self._columns.split)) if self._columns.split else ""
        if text and split_named(text) is None and not self._judging:
            what = f"says the split is {text[:40]!r}; known are train, val and test"
            self._reject(row.line, "unknown_split", what)
        return len(self.images) - 1

    def _split(self, row: Row) -> str | None:
        # Who judges a model judges it on all images, so no split can be wrong and none is looked for.
        if self._judging or self._columns.split is None:
            return None
        return split_named(_text(row.fields.get(self._columns.split)))

    def _group(self, row: Row) -> str | None:
        return _text(row.fields.get(self._columns.group)) or None if self._columns.group else None

    def _add(self, image: int, row: Row) -> None:
        texts = [_text(row.fields.get(column)) for column in self._columns.numbers]
        label = _text(row.fields.get(self._columns.label))
        if not any(texts):
            if label:
                self.sheet.add(
                    image, label, None, Place(self._file, row.line), complaint="has a label, but no box"
                )
            return
        crowd = _text(row.fields.get(self._columns.crowd)).casefold() if self._columns.crowd else ""
        self.sheet.add(
            image,
            label,
            [number_in(text) for text in texts],
            Place(self._file, row.line),
            crowd=crowd in _YES,
            complaint="" if label else "has a box, but no label",
        )

    def _reject(self, line: int, code: str, what: str) -> None:
        where = f"{self._file}{line}"
        self.findings.append(Finding(code, Outcome.REJECT, where, f"{where} {what}."))


def _text(field: Field) -> str:
    return field.strip() if isinstance(field, str) else ""
