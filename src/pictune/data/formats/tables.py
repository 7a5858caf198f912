"""A table that names each image's file and label: CSV, TSV, JSONL or Parquet.

Paths are relative to the table's own folder and may not leave it; a web address is never fetched.
An image has several labels when its field is a list (JSONL), when a separator is given, or when the
column's name is a plural (``labels``) and its fields hold ``|``, ``;`` or ``,``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, check_class_names, finish, refuse, split_named
from pictune.data.formats.table_files import SUFFIXES, Field, Table, peek_columns, read_table
from pictune.data.sample import Dataset, Labels, Sample
from pictune.data.scanning import FoundImage, Lookup, escape
from pictune.errors import DataError
from pictune.settings import suggestion

__all__ = ["SUFFIXES", "name", "read", "recognise"]

name = "tables"

_IMAGE = "image img path file filename file_name filepath file_path image_path img_path image_file image_name"
_LABEL = "label class category target labels classes categories tags class_name category_name"
_KNOWN = {
    "image": _IMAGE.split(),
    "label": _LABEL.split(),
    "split": ["split", "subset", "partition"],
    "group": ["group"],
}
_PLURAL = frozenset({"labels", "classes", "categories", "tags"})
_LIKE_GROUPS = frozenset(
    ("patient", "patient_id", "subject", "subject_id", "scene", "scene_id", "session", "video")
)
_SEPARATORS = "|;,"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)


def recognise(path: Path) -> str | None:
    """A table file, or a folder with exactly one table whose columns are known."""
    if path.is_file():
        return f"{escape(path.name)} is a table" if path.suffix.lower() in SUFFIXES else None
    found = [table for table in _tables_in(path) if _is_about_images(table)]
    return f"it holds the table {escape(found[0].name)}" if len(found) == 1 else None


def _tables_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        entry
        for entry in entries
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]


def _is_about_images(table: Path) -> bool:
    columns = {column.strip().casefold() for column in peek_columns(table)}
    known = bool(columns & set(_KNOWN["image"])) and bool(columns & set(_KNOWN["label"]))
    return known or table.suffix.lower() == ".parquet"


def _likely_tables(folder: Path) -> list[Path]:
    """The tables in a folder; of several those that are about images."""
    found = _tables_in(folder)
    return [table for table in found if _is_about_images(table)] if len(found) > 1 else found


def _table_of(path: Path) -> Path:
    """The table itself, where a folder was named."""
    if path.is_file():
        return path
    likely = _likely_tables(path)
    if len(likely) == 1:
        return likely[0]
    tables = _tables_in(path)
    raise DataError(
        f"{escape(str(path))} holds {len(tables) or 'no'} tables"
        + (f": {', '.join(escape(table.name) for table in tables)}" if tables else ""),
        code="several_tables" if tables else "no_table",
        instead="Give the path of the one that is meant.",
    )


def holds_one(path: Path) -> bool:
    """Whether a folder holds exactly one table that can be meant, whatever its columns are called."""
    return len(_likely_tables(path)) == 1


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which column of the table says what; None where the table has no such column."""

    image: str
    label: str
    split: str | None
    group: str | None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One usable row: the image it names and what it says about it."""

    line: int
    image: FoundImage
    labels: tuple[str, ...]
    split: str | None
    group: str | None


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample a row.

    Raises:
        DataError: With everything that is wrong, all at once, by line.
    """
    file = _table_of(path)
    table = read_table(file)
    columns, findings = _find_columns(table, options)
    separator = _separator(table, columns, options)
    multilabel = bool(separator) or any(
        isinstance(row.fields.get(columns.label), tuple) for row in table.rows
    )
    reader = _RowReader(
        file,
        columns=columns,
        separator=separator,
        multilabel=multilabel,
        lookup=Lookup(file.parent, follow_outside=options.follow_outside),
    )
    entries = reader.read(table)
    clean, complaints = check_class_names(reader.counts)
    samples = [
        Sample(
            entry.image.key,
            entry.image.path,
            Labels(tuple(sorted({clean[raw] for raw in entry.labels}))),
            group=entry.group,
            given_split=entry.split,
        )
        for entry in entries
    ]
    return finish(
        path,
        format_name=name,
        samples=samples,
        classes={clean[raw]: count for raw, count in reader.counts.items()},
        multilabel=multilabel,
        findings=[*table.findings, *findings, *reader.findings, *complaints],
        judging=options.judging,
    )


def _find_columns(table: Table, options: ReadOptions) -> tuple[_Columns, list[Finding]]:
    findings: list[Finding] = []
    given = {
        "image": options.image_column,
        "label": options.label_column,
        "split": options.split_column,
        "group": options.group_column,
    }
    # Who judges a model judges it on all images, so no split can be wrong and none is looked for.
    roles = [role for role in _KNOWN if role != "split" or not options.judging]
    chosen = {
        role: _find_column(table, role, given[role], findings, judging=options.judging) for role in roles
    }
    if any(finding.outcome is Outcome.REJECT for finding in findings):
        refuse(table.file, [*table.findings, *findings])
    assert chosen["image"] is not None
    assert chosen["label"] is not None
    if chosen["group"] is None:
        like_groups = [column for column in table.columns if column.casefold() in _LIKE_GROUPS]
        if like_groups:
            use = (
                "call it 'group', and intervals will count what belongs together as one."
                if options.judging
                else f"use it with --group-by {like_groups[0]}, so that no split separates them."
            )
            message = f"The column {like_groups[0]!r} may say which images belong together; {use}"
            findings.append(Finding("possible_group", Outcome.WARN, like_groups[0], message))
    return _Columns(chosen["image"], chosen["label"], chosen.get("split"), chosen["group"]), findings


def _find_column(
    table: Table, role: str, given: str | None, findings: list[Finding], *, judging: bool
) -> str | None:
    """The column for one role; what is missing or unclear is noted."""
    shown = f"columns found: {', '.join(map(repr, table.columns)) or 'none'}"
    where = escape(table.file.name)
    if given is not None and (given in table.columns or not judging):
        if table.columns.count(given) == 1:
            return given
        found = (
            "stands there twice"
            if given in table.columns
            else f"is not there{suggestion(given, table.columns)}"
        )
        message = f"{where}: the column {given!r} {found}; {shown}."
        findings.append(Finding("missing_column", Outcome.REJECT, where, message))
        return None
    known = _KNOWN[role]
    fitting = [column for column in table.columns if column.casefold() in known]
    if len(fitting) == 1:
        if given is not None and role != "image":  # a wrong path shows itself, a wrong label does not
            message = f"The model's own data call the {role} {given!r}; here {fitting[0]!r} was taken for it."
            findings.append(Finding("other_column", Outcome.WARN, "", message))
        return fitting[0]
    if fitting:
        each = " and ".join(map(repr, fitting))
        how = f"say which with {_saying(role)}"
        if judging:
            how = f"call the right one {given!r}" if given is not None else "leave one of them in the table"
        message = f"{where}: {each} may each be the {role}; {how}."
        findings.append(Finding("ambiguous_column", Outcome.REJECT, where, message))
    elif role in ("image", "label"):
        how = f" or name it with {_saying(role)}"
        if judging:
            how = f" or {given!r}, as in the model's own data" if given is not None else ""
        message = (
            f"{where}: no column for the {role}; {shown}. The first line must name the columns; call it "
            f"{known[0]!r}{how}."
        )
        findings.append(Finding("missing_column", Outcome.REJECT, where, message))
    return None


def _saying(role: str) -> str:
    """How a user names the column for a role."""
    return "--group-by" if role == "group" else f"--set data.{role}_column=<name>"


def _separator(table: Table, columns: _Columns, options: ReadOptions) -> str | None:
    """What stands between several labels; None when each field is one label."""
    if options.label_separator is not None:
        if not options.label_separator:
            raise DataError(
                "the label separator is empty", code="bad_separator", instead="Give one sign, such as '|'."
            )
        return options.label_separator
    if columns.label.casefold() not in _PLURAL:
        return None
    fields = [row.fields.get(columns.label) for row in table.rows]
    used = [sign for sign in _SEPARATORS if any(isinstance(field, str) and sign in field for field in fields)]
    if len(used) > 1:
        raise DataError(
            f"{escape(table.file.name)}: {' and '.join(map(repr, used))} may each separate the labels "
            f"in {columns.label!r}",
            code="ambiguous_separator",
            instead="Use one of them throughout."
            if options.judging
            else f"Say which, such as with --set data.label_separator='{used[0]}'.",
        )
    return used[0] if used else None


class _RowReader:
    """Turns rows into entries and notes by line what is wrong with the others."""

    def __init__(
        self,
        file: Path,
        *,
        columns: _Columns,
        separator: str | None,
        multilabel: bool,
        lookup: Lookup,
    ) -> None:
        self.file = escape(file.name)
        self.columns = columns
        self.separator = separator
        self.multilabel = multilabel
        self.lookup = lookup
        self.counts: Counter[str] = Counter()  # images by raw class name, those left out included
        self.findings: list[Finding] = []

    def read(self, table: Table) -> list[_Entry]:
        entries: dict[str, _Entry] = {}
        for row in table.rows:
            entry = self._entry(row.line, row.fields)
            if entry is None:
                continue
            first = entries.setdefault(entry.image.key, entry)
            if first is not entry:
                self._compare(first, entry)
        splits = [entry.split for entry in entries.values()]
        if any(splits) and not all(splits):
            for entry in entries.values():
                if not entry.split:
                    self._reject(entry.line, "no_split", "says no split, but other lines do")
        return list(entries.values())

    def _entry(self, line: int, fields: Mapping[str, Field]) -> _Entry | None:
        labels = self._labels(line, fields.get(self.columns.label))
        split, split_is_known = self._split(line, fields)
        parts = self._parts(line, fields.get(self.columns.image))
        if labels is None or parts is None or not split_is_known:
            return None
        self.counts.update(set(labels))
        found = self.lookup.find(parts)
        if isinstance(found, tuple):
            code, what = found
            self._leave_out(line, code, f"names {escape('/'.join(parts))}, which {what}")
            return None
        group = fields.get(self.columns.group) if self.columns.group else None
        return _Entry(line, found, labels, split, group.strip() or None if isinstance(group, str) else None)

    def _labels(self, line: int, field: Field) -> tuple[str, ...] | None:
        """The raw labels; None when the row is of no use without them."""
        if isinstance(field, tuple):
            labels = field
        elif self.separator and field is not None:
            labels = tuple(part for part in field.split(self.separator) if part.strip())
        elif field is not None and field.strip():
            labels = (field,)
        else:
            labels = ()
        if field is None or (not labels and not self.multilabel):
            self._leave_out(line, "empty_label", "has no label")
            return None
        return labels

    def _split(self, line: int, fields: Mapping[str, Field]) -> tuple[str | None, bool]:
        """The split, and whether it is one we know; no word at all is known to mean none."""
        field = fields.get(self.columns.split) if self.columns.split else None
        if field is None or (isinstance(field, str) and not field.strip()):
            return None, True
        split = split_named(field) if isinstance(field, str) else None
        if split is None:
            self._reject(line, "unknown_split", f"says the split is {field!r}; known are train, val and test")
        return split, split is not None

    def _parts(self, line: int, field: Field) -> tuple[str, ...] | None:
        """The path's folders and file name; None when it is empty or points away from the dataset."""
        if not isinstance(field, str) or not field.strip():
            self._reject(line, "empty_path", "names no image")
            return None
        text = field.strip()
        if _ADDRESS.match(text):
            complaint = "names a web address; nothing is fetched, so download the images first"
        elif text.startswith(("/", "\\", "~")) or _DRIVE.match(text):
            complaint = "names an absolute path; write it relative to the table's folder"
        elif ".." in re.split(r"[\\/]", text):
            complaint = "names a path with '..'; images must lie below the table's folder"
        else:
            parts = tuple(part for part in text.split("/") if part not in ("", "."))
            if len(parts) == 1 and "\\" in text and isinstance(self.lookup.find(parts), tuple):
                parts = tuple(part for part in text.split("\\") if part not in ("", "."))
            return parts
        self._reject(line, "unsafe_path", f"{complaint} (found {_shortened(text)!r})")
        return None

    def _compare(self, first: _Entry, again: _Entry) -> None:
        """Two rows about one image: the same words twice do no harm, different words cannot both be used."""
        if set(first.labels) != set(again.labels):
            what = (
                f"says {_listed(again.labels)} of {again.image.key}, but line {first.line} says "
                f"{_listed(first.labels)}; if both are true, write them in one field and set "
                "data.label_separator"
            )
            self._reject(again.line, "conflicting_label", what)
        elif (first.split, first.group) != (again.split, again.group):
            what = f"names another split or group for {again.image.key} than line {first.line}"
            self._reject(again.line, "conflicting_row", what)
        else:
            self._leave_out(again.line, "duplicate_row", f"repeats line {first.line}")

    def _reject(self, line: int, code: str, what: str) -> None:
        where = f"{self.file}:{line}"
        self.findings.append(Finding(code, Outcome.REJECT, where, f"{where} {what}."))

    def _leave_out(self, line: int, code: str, what: str) -> None:
        where = f"{self.file}:{line}"
        self.findings.append(Finding(code, Outcome.QUARANTINE, where, f"{where} {what}; left out."))


def _listed(labels: Sequence[str]) -> str:
    return " and ".join(map(repr, labels)) or "no label"


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
