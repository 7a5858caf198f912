"""Forms (``multipart/form-data``), read in time that the body's size bounds whatever stands in it."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pictune.serving.refusals import Refusal

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_HEADER_BYTES = 16 * 1024  # of a part; names of files may be long
MOST_PARAMETERS = 32  # of one header
# The parser says in the log what it finds wrong; the client hears it already.
_UNHEARD = logging.Logger("unheard", logging.CRITICAL + 1)


class Part(NamedTuple):
    """A field of a form; the name of a file and the type that the client gives it are not looked at."""

    name: str
    value: bytes


def read_form(body: bytes, boundary: bytes, *, most_parts: int) -> list[Part]:
    """The fields of a form, in their order.

    Args:
        body: The whole body.
        boundary: As the content type names it.
        most_parts: How many there may be.

    Raises:
        Refusal: 400 ``bad_form`` or 413 ``too_many_parts``.
    """
    if not 1 <= len(boundary) <= 70:
        raise _bad("its boundary is not 1 to 70 characters long")
    delimiter = b"--" + boundary
    # The parser goes byte by byte after a delimiter, so that there must be few, and no gap behind one.
    if body.count(delimiter) > most_parts + 1:
        raise Refusal(413, "too_many_parts", f"A form may have {most_parts} parts.")
    if re.search(re.escape(delimiter) + rb"[ \t]{9}", body):
        raise _bad("there are spaces behind a boundary")
    reader = _Reader()
    parser = MultipartParser(boundary, reader.callbacks(), max_header_size=MOST_HEADER_BYTES)
    parser.logger = _UNHEARD
    try:
        parser.write(body)
    except FormParserError as error:
        raise _bad("a boundary or a header is malformed") from error
    if not reader.ended:
        raise _bad("it does not come to an end")
    return reader.parts


def _bad(reason: str) -> Refusal:
    return Refusal(400, "bad_form", f"The form cannot be read: {reason}.")


class _Reader:
    """Gathers what the parser finds."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._begin()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._over,
        }

    def _begin(self) -> None:
        self._name: str | None = None
        self._field = self._value = b""
        self._pieces: list[bytes] = []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        field, value = self._field.lower(), self._value
        self._field = self._value = b""
        if field != b"content-disposition":
            return
        if self._name is not None or value.count(b";") > MOST_PARAMETERS:
            raise _bad("a part has more than one Content-Disposition, or one that is too long")
        kind, parameters = parse_options_header(value)
        if kind != b"form-data" or b"name" not in parameters:
            raise _bad("a part has no name")
        self._name = parameters[b"name"].decode("utf-8", errors="replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _end(self) -> None:
        if self._name is None:
            raise _bad("a part has no name")
        self.parts.append(Part(self._name, b"".join(self._pieces)))

    def _over(self) -> None:
        self.ended = True
