"""From the bytes of a CSV, TSV, JSONL or Parquet file to rows with line numbers.

Text is UTF-8 or, with a byte order mark, UTF-16; any other encoding is refused with the line that
shows it, because a guess would turn class names into nonsense.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictune.data.finding import Finding, Outcome
from pictune.data.scanning import escape
from pictune.errors import DataError

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"})
Field = str | tuple[str, ...] | None
_HEAD = 65_536  # bytes that are enough to see the names of the columns
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Row:
    """One record: where it begins in the file, counted from 1, and its fields by column."""

    line: int
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class Table:
    """The columns and rows of a file, and the records that could not be read."""

    file: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


def read_table(path: Path) -> Table:
    """Every record of a table.

    Raises:
        DataError: ``encoding``, ``empty_table``, ``unreadable`` or ``parquet_needs_pyarrow``.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _read_parquet(path)
    text = _text(path)
    if not text.strip():
        raise DataError(
            f"{escape(path.name)} is empty", code="empty_table", instead="Give a table with rows."
        )
    if kind in (".jsonl", ".ndjson"):
        return _read_json_lines(path, text)
    return _read_delimited(path, text, _delimiter(text, kind))


def peek_columns(path: Path) -> tuple[str, ...]:
    """The names of the columns as far as the first bytes show them; empty when they do not."""
    if path.suffix.lower() == ".parquet":
        return ()
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return ()
    text = head.decode(_encoding(head), errors="replace")
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            first = json.loads(text.split("\n", 1)[0])
            return tuple(first) if isinstance(first, dict) else ()
        return tuple(_header(text, _delimiter(text, path.suffix.lower())))
    except (ValueError, csv.Error, RecursionError):
        return ()


def _encoding(data: bytes) -> str:
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def _text(path: Path) -> str:
    shown = escape(path.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{shown} cannot be opened: {error.strerror}", code="unreadable", instead="Check its permissions."
        ) from None
    encoding = _encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown}, line {line}: the byte 0x{data[error.start]:02x} is no {encoding.upper()} text",
            code="encoding",
            instead="Save the table as UTF-8 (it may be Latin-1, or UTF-16 without a mark) and run again.",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{shown}, line {line}: there is a zero byte in the text",
            code="encoding",
            instead="Save the table as UTF-8 (it may be UTF-16 without a byte order mark) and run again.",
        )
    return text


def _header(text: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return [name.strip() for name in next(reader, [])]


def _delimiter(text: str, kind: str) -> str:
    """The sign that cuts the first line into most columns: a tab, a comma or a semicolon."""
    if kind == ".tsv":
        return "\t"
    return max(",;\t", key=lambda sign: _columns_with(text, sign))


def _columns_with(text: str, delimiter: str) -> int:
    try:
        return len(_header(text, delimiter))
    except csv.Error:
        return 0


def _read_delimited(path: Path, text: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    findings: list[Finding] = []
    columns: list[str] | None = None
    before = 0
    while True:
        line = before + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            findings.append(_problem(path, line, "malformed", f"is no readable record ({error})"))
            break  # after a broken quote every further line would be misread
        if fields is None:
            break
        before = reader.line_num
        if not any(field.strip() for field in fields):
            continue
        if columns is None:
            columns = [name.strip() for name in fields]
            continue
        extra = fields[len(columns) :]
        if len(fields) < len(columns) or any(field.strip() for field in extra):
            found = f"has {len(fields)} fields where the header has {len(columns)}"
            findings.append(_problem(path, line, "wrong_columns", found))
            continue
        rows.append(Row(line, dict(zip(columns, fields, strict=False))))
    return Table(path, tuple(columns or ()), tuple(rows), tuple(findings))


def _read_json_lines(path: Path, text: str) -> Table:
    rows: list[Row] = []
    findings: list[Finding] = []
    columns: dict[str, None] = {}  # a set that keeps the order
    for line, record in enumerate(text.split("\n"), start=1):
        if not record.strip():
            continue
        try:
            fields = _record(record)
        except (ValueError, RecursionError) as error:
            findings.append(
                _problem(path, line, "malformed", f"is no JSON object that can be used ({error})")
            )
            continue
        columns.update(dict.fromkeys(fields))
        rows.append(Row(line, fields))
    return Table(path, tuple(columns), tuple(rows), tuple(findings))


def _record(text: str) -> dict[str, Field]:
    record = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    if not isinstance(record, dict):
        raise ValueError(f"found {type(record).__name__}")  # noqa: TRY004 - one kind of mistake to its caller
    return {name: _field(value) for name, value in record.items()}


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key stands there twice")
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _field(value: object) -> Field:
    """Text stays as it is; numbers and truth values become the text a person would write."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return tuple(_text_of(item) for item in value)
    return _text_of(value)


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    # A nested value in a column nobody reads does no harm; as a label or a path it will be refused there.
    return json.dumps(value, ensure_ascii=False, default=str)


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{escape(path.name)} is a Parquet file, and pyarrow, which reads these, is not installed",
            code="parquet_needs_pyarrow",
            instead="Install it (pip install pyarrow), or save the table as CSV or JSONL.",
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns = tuple(field.name for field in file.schema_arrow if _is_plain(str(field.type)))
        records = file.read(columns=list(columns)).to_pylist()
    except (OSError, ValueError) as error:  # what pyarrow raises for a broken file is a ValueError
        raise DataError(
            f"{escape(path.name)} is no readable Parquet file: {error}",
            code="unreadable",
            instead="Write it again, or save the table as CSV.",
        ) from None
    rows = tuple(
        Row(number, {column: _field(value) for column, value in record.items()})
        for number, record in enumerate(records, start=1)
    )
    return Table(path, columns, rows, ())


def _is_plain(kind: str) -> bool:
    """Whether a column's type can be a label or a path; bytes, images and structures cannot."""
    return not kind.startswith(("binary", "large_binary", "struct", "map", "fixed_size_binary"))


def _problem(path: Path, line: int, code: str, what: str) -> Finding:
    where = f"{escape(path.name)}:{line}"
    return Finding(code, Outcome.REJECT, where, f"{where} {what}.")
