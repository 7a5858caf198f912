"""JSON as RFC 8259 has it and no further, read in time and memory that the body's size bounds."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pictune.serving.refusals import Refusal

# A request of ours is one object with some numbers and long texts. Lists and objects cost a hundred times
# the bytes that stand for them, so that their number is looked at before any is made.
MOST_CONTAINERS = 1024
MOST_COMMAS = 65536
MOST_DIGITS = 32


def read_object(body: bytes, *, depth: int) -> dict[str, Any]:
    """The object that a body holds.

    Args:
        body: UTF-8.
        depth: Of lists and objects inside one another, at most.

    Raises:
        Refusal: 400 ``bad_json``; among others for keys that stand twice, numbers that JSON does not have or
            that are too long, and surrogates without a partner.
    """
    if body.count(b"[") + body.count(b"{") > MOST_CONTAINERS or body.count(b",") > MOST_COMMAS:
        raise _bad("it holds too many parts or nests too deep")
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        hint = "; base64 goes into one line (base64 -w0)" if "control character" in error.msg else ""
        raise _bad(f"{error.msg} (line {error.lineno}, column {error.colno}){hint}") from error
    except RecursionError as error:
        raise _bad("it nests too deep") from error
    _check_inside(value, depth)
    if not isinstance(value, dict):
        raise _bad('an object is expected, such as {"image": "…"}')
    return value


def _bad(reason: str) -> Refusal:
    return Refusal(400, "bad_json", f"The body cannot be read as JSON: {reason}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _bad("a key stands twice in one object")
    return found


def _number(digits: str) -> float:
    if len(digits) > MOST_DIGITS:
        raise _bad(f"a number has over {MOST_DIGITS} digits")
    return float(digits)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _bad(f"a number has over {MOST_DIGITS} digits")
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise _bad(f"{name} is no number in JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_number, parse_int=_whole, parse_constant=_no_number
)


def _check_inside(value: Any, depth: int) -> None:
    """What the grammar allows and we do not: deep nesting, and texts that are no Unicode."""
    layer = [value]
    while layer:
        inside: list[Any] = []
        for part in layer:
            if isinstance(part, str):
                if not part.isascii() and any("\ud800" <= sign <= "\udfff" for sign in part):
                    raise _bad("a surrogate stands without its partner")
            elif isinstance(part, dict):
                inside += [*part, *part.values()]
            elif isinstance(part, list):
                inside += part
        depth -= any(isinstance(part, dict | list) for part in layer)
        if depth < 0:
            raise _bad("it nests too deep")
        layer = inside
