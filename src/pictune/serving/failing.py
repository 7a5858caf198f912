"""What a failure inside a worker means to whoever asked."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import cv2

from pictune.errors import DataError
from pictune.serving.refusals import Refusal

MOST = 200  # characters of a message

logger = logging.getLogger(__name__)


class NonFiniteError(Exception):
    """The network gave values that are no numbers."""


def plain(text: str) -> str:
    """The first line of a message, cut, and without anything that looks like a path."""
    line = (text.splitlines() or [""])[0]
    return re.sub(r"\S*/\S*/\S*|(?<!\S)/\S+", "…", line)[:MOST]


def refusal_of(error: Exception) -> Refusal:
    """How a picture is refused whose look, call or row raised ``error``."""
    if _starved(error):
        return Refusal(
            503, "out_of_memory", "There was not enough memory for this picture at the moment.", retry_after=1
        )
    if isinstance(error, DataError):
        return Refusal(422, error.code, plain(error.message))
    if isinstance(error, NonFiniteError):
        return Refusal(500, "non_finite", "The network gave values that are no numbers for this picture.")
    logger.error("A picture could not be answered", exc_info=error)
    return Refusal(500, "inference_failed", "The network failed on this picture.")


def _starved(error: Exception) -> bool:
    """Whether memory ran out; decoders tell it as damage, and onnxruntime only in its sentence."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, cv2.error) and cause.code == cv2.Error.StsNoMem)
        or re.search(r"allocate memory|bad_alloc|bad allocation", str(cause))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
