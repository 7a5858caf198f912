"""The pictures of the decoder's own tests, for the server that uses the same decoder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

import pictures
from test_decoding import REFUSED, USED

__all__ = ["JPEG", "PNG", "REFUSED", "USED"]

JPEG, PNG = pictures.jpeg(), pictures.png()
