"""From the body of a request to the pictures that it asks about."""

from __future__ import annotations

import binascii
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header

from pictune.serving.forms import Part, read_form
from pictune.serving.limits import ServerLimits
from pictune.serving.refusals import Refusal
from pictune.serving.strict_json import read_object

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
HeaderPairs = Iterable[tuple[bytes, bytes]]

MOST_CLASSES = 1000  # for which an answer may be asked
_OPTIONS = ("top_k", "threshold")
_MEDIA_TYPE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_DATA_URI = re.compile(r"data:image/[A-Za-z0-9.+-]{1,64};base64,", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,20}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")
# Where a picture lies instead of the picture itself: a URL, a path, the name of a file. Base64 of a JPEG
# begins with a slash, too.
_PLACE = re.compile(
    r"(?!/9j/)([A-Za-z][A-Za-z0-9+.-]{1,20}:|~?/|\.{1,2}/|[A-Za-z]:[\\/]|\\\\|[^:?*]{1,255}\.[A-Za-z]{3,4}\Z)"
)


class ClientGone(Exception):  # noqa: N818 - it is no error
    """The client closed the connection before its request was whole or answered."""


class MediaType(NamedTuple):
    """What a body is: ``json``, ``form`` or ``image``; of a form, what divides its parts."""

    kind: str
    boundary: bytes = b""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks.

    Args:
        images: The bytes of each picture, or why it has none; at least one. One that is asked about alone
            has bytes.
        several: Whether the client expects a list, be it of one.
        top_k: How many classes or boxes an answer names at most; None is the model's own number.
        threshold: From which confidence on something is answered, 0 to 1; None is the model's own.
    """

    images: tuple[bytes | Refusal, ...]
    several: bool = False
    top_k: int | None = None
    threshold: float | None = None


class BodyReader:
    """Reads bodies, and keeps what all of them hold together within bounds.

    Args:
        limits: Of one body and of all.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._held = 0

    async def read(self, receive: Receive) -> bytes:
        """The whole body. It counts as held until it is given to `release`.

        Raises:
            Refusal: 400 ``empty_body``, 413 ``body_too_large``, 503 ``overloaded``, and those of `receive`.
            ClientGone: When the client went away.
        """
        pieces: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece = message["body"]
                pieces.append(piece)
                size += len(piece)
                self._held += len(piece)
                more = message["more_body"]
                if size > self._limits.body_bytes:
                    raise too_large(self._limits)
                if self._held > self._limits.held_bytes:
                    raise Refusal(503, "overloaded", "Too many large requests at once.", retry_after=1)
            if not size:
                raise Refusal(400, "empty_body", "The body is empty; send a picture.")
        except BaseException:
            self._held -= size
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self, body: bytes) -> None:
        """A body that was read is not needed any more."""
        self._held -= len(body)


def too_large(limits: ServerLimits) -> Refusal:
    """The refusal of a body over the limit."""
    most = limits.body_bytes
    size = f"{most // 2**20} MB" if most >= 2**20 else f"{most} bytes"
    return Refusal(413, "body_too_large", f"A request may have {size}.")


def media_type(headers: HeaderPairs) -> MediaType:
    """What the body will be, from the headers alone.

    Raises:
        Refusal: 415 ``unsupported_media_type`` or ``content_encoding``; 400 ``bad_form``.
    """
    fields = [(name, value) for name, value in headers if name in (b"content-type", b"content-encoding")]
    if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in fields):
        raise Refusal(415, "content_encoding", "Bodies are taken as they are, without Content-Encoding.")
    types = [value for name, value in fields if name == b"content-type"]
    if len(types) != 1:
        raise _unsupported("")
    return _named(types[0])


@lru_cache(maxsize=64)  # clients send the same one again and again
def _named(value: bytes) -> MediaType:
    """What a Content-Type names."""
    if value.count(b";") > len(_OPTIONS) + 2:
        raise _unsupported("")
    found = _MEDIA_TYPE.fullmatch(value.partition(b";")[0].strip())
    _, parameters = parse_options_header(value)
    if found is None:
        raise _unsupported("")
    main, sub = found[1].lower(), found[2].lower()
    if (main, sub) == (b"application", b"json"):
        if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
            raise Refusal(415, "unsupported_media_type", "JSON is UTF-8; other charsets are not read.")
        return MediaType("json")
    if (main, sub) == (b"multipart", b"form-data"):
        if not parameters.get(b"boundary"):
            raise Refusal(400, "bad_form", "The form cannot be read: its content type names no boundary.")
        return MediaType("form", parameters[b"boundary"])
    if main == b"image" or (main, sub) == (b"application", b"octet-stream"):
        return MediaType("image")
    raise _unsupported(f"{main.decode()}/{sub.decode()}")


def _unsupported(came: str) -> Refusal:
    """The refusal of a type, which is named where there is one."""
    instead = f", not {_shown(came)}" if came else " as Content-Type"
    known = "multipart/form-data, application/json, image/* or application/octet-stream"
    return Refusal(415, "unsupported_media_type", f"Send {known}{instead}.")


def read_asked(media: MediaType, body: bytes, query: bytes, limits: ServerLimits) -> Asked:
    """The pictures and options of a request.

    Args:
        media: What the body is.
        body: Not empty.
        query: Of the URL; options may stand there, too.
        limits: How many pictures there may be.

    Raises:
        Refusal: 400 for what cannot be read, 413 for too many pictures, 422 for what makes no sense.
    """
    images: Sequence[bytes | Refusal]
    options = _of_query(query)
    if media.kind == "json":
        images, several, given = _of_object(read_object(body, depth=limits.json_depth), limits)
    elif media.kind == "form":
        parts = read_form(body, media.boundary, most_parts=limits.parts)
        images, several, given = _of_form(parts, limits)
    else:
        images, several, given = [body], False, {}
        if not body.strip(b"\0"):
            raise Refusal(400, "empty_body", "The body holds nothing but zeros.")
    if twice := options.keys() & given.keys():
        raise Refusal(422, "given_twice", f"{min(twice)} stands in the URL and in the body.")
    options |= given
    return Asked(tuple(images), several, _top_k(options.get("top_k")), _threshold(options.get("threshold")))


def _of_query(query: bytes) -> dict[str, Any]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=16)
    except ValueError as error:
        raise Refusal(
            422, "unknown_field", "The URL has too many options or none that can be read."
        ) from error
    return _options((name, value) for name, value in pairs)


def _options(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Numbers that came as texts.

    Raises:
        Refusal: 400 ``given_twice``, 422 ``unknown_field``.
    """
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name not in _OPTIONS:
            raise _unknown_field(name)
        if name in found:
            raise Refusal(400, "given_twice", f"{name} stands there twice.")
        if name == "top_k":
            found[name] = int(text) if _WHOLE.fullmatch(text) else text
        else:
            found[name] = float(text) if _DECIMAL.fullmatch(text) else text
    return found


def _of_form(parts: Iterable[Part], limits: ServerLimits) -> tuple[list[bytes], bool, dict[str, Any]]:
    images = []
    names = set()
    texts = []
    for part in parts:
        if part.name in ("image", "images"):
            names.add(part.name)
            images.append(part.value)
        else:
            texts.append((part.name, part.value[:64].decode("latin-1").strip()))
    options = _options(texts)
    if len(names) > 1:
        raise _both()
    _check_count(len(images), limits)
    return images, len(images) > 1 or names == {"images"}, options


def _of_object(
    value: Mapping[str, Any], limits: ServerLimits
) -> tuple[list[bytes | Refusal], bool, dict[str, Any]]:
    if unknown := set(value) - {"image", "images", *_OPTIONS}:
        raise _unknown_field(min(unknown))
    if "image" in value and "images" in value:
        raise _both()
    given = {name: value[name] for name in _OPTIONS if value.get(name) is not None}
    if "images" not in value:
        _check_count(int("image" in value), limits)
        return [_pixels(_text(value["image"]))], False, given
    if not isinstance(value["images"], list):
        raise Refusal(422, "wrong_type", "images is a list of texts in base64.")
    _check_count(len(value["images"]), limits)
    return [_pixels_or_refusal(text) for text in map(_text, value["images"])], True, given


def _both() -> Refusal:
    return Refusal(422, "given_twice", "Give either image or images.")


def _check_count(count: int, limits: ServerLimits) -> None:
    if not count:
        raise Refusal(422, "missing_image", "No picture was sent; its field is called image.")
    if count > limits.batch_images:
        raise Refusal(413, "too_many_images", f"One request may ask about {limits.batch_images} pictures.")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Refusal(422, "wrong_type", "A picture is a text in base64.")
    return value


def _pixels(text: str) -> bytes:
    """The bytes of a picture that is given in base64, with or without the head of a data URI.

    Raises:
        Refusal: 400 ``bad_base64`` or ``empty_body``; 422 ``not_fetched`` for a place where a picture lies.
    """
    head = _DATA_URI.match(text)
    digits = text[head.end() :] if head else text
    try:
        if len(digits) % 4 or digits.endswith("==="):
            raise binascii.Error("padding")  # the strict mode lets more of it pass than there may be
        found = binascii.a2b_base64(digits, strict_mode=True)
    except ValueError as error:
        if not head and _PLACE.match(text):
            raise Refusal(
                422, "not_fetched", "Send the picture itself in base64; URLs and paths are never fetched."
            ) from error
        raise Refusal(
            400,
            "bad_base64",
            "A picture is not base64 in one line, padded with = (base64 -w0 FILE writes it so).",
        ) from error
    if not found:
        raise Refusal(400, "empty_body", "A picture is empty.")
    return found


def _pixels_or_refusal(text: str) -> bytes | Refusal:
    """The same of one picture among several: the others are answered."""
    try:
        return _pixels(text)
    except Refusal as refusal:
        return refusal


def _top_k(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= MOST_CLASSES:
        raise Refusal(422, "bad_option", f"top_k is a whole number from 1 to {MOST_CLASSES}.")
    return value


def _threshold(value: object) -> float | None:
    if value is None:
        return None
    # What is no number compares as false, too.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise Refusal(422, "bad_option", "threshold is a number from 0 to 1.")
    return float(value)


def _unknown_field(name: str) -> Refusal:
    known = "there are image or images, top_k and threshold"
    return Refusal(422, "unknown_field", f"There is no field {_shown(name)}; {known}.")


def _shown(text: str) -> str:
    """The beginning of what a client sent, so that nothing else than letters can stand there."""
    return re.sub(r"[^!#-&(-;=?-~]", "?", text[:40]) or "without a name"
