"""From the bytes of an annotation file to text, JSON values or an XML tree, whatever the bytes are.

JSON is strict: no NaN or Infinity, no key twice in one object. XML has no document type, so no
entities: nothing is expanded, and no address is followed.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pictune.data.scanning import escape
from pictune.errors import DataError

MOST_XML_BYTES = 32 * 1024**2  # of one image's annotations; 10,000 boxes take about 3 MB
_MOST_DEPTH = 32  # Pascal VOC nests five deep
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
# What annotation tools write. Others that Python knows are slow to decode, or hide what they hold.
_ENCODINGS = re.compile(
    r"utf-(8|16)|ascii|iso8859|latin|cp\d|gb|big5|shift_jis|euc|koi8|mac-roman", re.IGNORECASE
)
_TEXT_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)', re.DOTALL)
_AGAIN = "Export the annotations again, or repair the file."


def read_text(path: Path, *, most: int | None = None, declared: bool = False) -> str:
    """A text file: UTF-8, UTF-16 with a mark, or with ``declared`` the encoding that an XML file names.

    Raises:
        DataError: ``unreadable``, ``too_large`` or ``encoding``.
    """
    shown = escape(path.name)
    try:
        with path.open("rb") as file:
            data = file.read() if most is None else file.read(most + 1)
    except OSError as error:
        raise DataError(
            f"{shown} cannot be opened: {error.strerror}", code="unreadable", instead="Check its permissions."
        ) from None
    if most is not None and len(data) > most:
        raise DataError(f"{shown} has over {most:,} bytes", code="too_large", instead=_AGAIN)
    named = _DECLARED.match(data) if declared else None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    encoding = encoding or (named[1].decode() if named else "utf-8")
    try:
        if not _ENCODINGS.match(codecs.lookup(encoding).name):
            raise LookupError(encoding)
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown}, line {line}: the byte 0x{data[error.start]:02x} is no {encoding.upper()} text",
            code="encoding",
            instead="Save the file as UTF-8.",
        ) from None
    except (LookupError, UnicodeError):
        raise DataError(
            f"{shown} is not in a known encoding ({escape(encoding)})",
            code="encoding",
            instead="Save the file as UTF-8.",
        ) from None


def number_in(text: str) -> float | str:
    """The number that a text stands for; the text itself where it stands for none."""
    try:
        return text if "_" in text else float(text)  # Python alone takes 1_000 for a number
    except ValueError:
        return text


def pixels_in(value: object) -> int:
    """A stated width or height, as a number or a text; 0 where nothing sensible is stated."""
    number = number_in(value) if isinstance(value, str) else value
    if not isinstance(number, int | float) or not 0 < number < 2**31:
        return 0
    return int(number) if number == int(number) else 0


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: ``malformed`` with line and column; ``unreadable`` or ``encoding``.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        what = f"line {error.lineno}, column {error.colno}: {error.msg}"
    except RecursionError:
        what = "its values are nested too deep"
    except _ConstantError:
        line, column = _place_of_constant(text)
        what = f"line {line}, column {column}: NaN and Infinity are no JSON numbers"
    except ValueError as error:
        what = str(error)[:200]
    raise DataError(
        f"{escape(path.name)} is no JSON that can be used: {what}", code="malformed", instead=_AGAIN
    )


class _ConstantError(ValueError):
    """NaN or Infinity was met."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in record if names.count(name) > 1)
        raise ValueError(f"the key {twice!a} stands twice in one object")
    return record


def _no_constant(name: str) -> float:
    raise _ConstantError(name)


def _place_of_constant(text: str) -> tuple[int, int]:
    """Line and column, from 1, of the first NaN or Infinity outside of strings."""
    start = next((match.start() for match in _TEXT_OR_CONSTANT.finditer(text) if match[1]), 0)
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)


def read_xml(path: Path) -> Element:
    """The root element of an XML file.

    Raises:
        DataError: ``malformed`` with line and column; ``unsafe_xml`` for a document type;
            ``unreadable``, ``too_large`` or ``encoding``.
    """
    text = read_text(path, most=MOST_XML_BYTES, declared=True)
    shown = escape(path.name)
    parser = _parser(shown)
    builder = TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MOST_DEPTH:
            message = f"{shown}, line {parser.CurrentLineNumber}: elements are nested over {_MOST_DEPTH} deep"
            raise DataError(message, code="malformed", instead=_AGAIN)
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        # The text was decoded above; what the file declares about its encoding is overridden.
        parser.Parse(text.encode(errors="surrogatepass"), True)  # noqa: FBT003 - expat takes no keywords
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        message = f"{shown} is no XML: line {error.lineno}, column {error.offset + 1}: {reason}"
        raise DataError(message, code="malformed", instead=_AGAIN) from None
    return builder.close()


def _parser(shown: str) -> expat.XMLParserType:
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise DataError(
            f"{shown}, line {parser.CurrentLineNumber}: the file has a document type (DOCTYPE), which may "
            "hide entities that grow or lead away",
            code="unsafe_xml",
            instead="Remove the DOCTYPE; Pascal VOC needs none.",
        )

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    return parser
