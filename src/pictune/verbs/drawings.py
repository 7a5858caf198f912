"""Pictures with the answers drawn on them, in a folder of the user's choice."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pictune.data.scanning import escape
from pictune.errors import DataError, RunError
from pictune.files import disk_errors, write_bytes
from pictune.verbs.targets import check_target, check_writable

FLAG = "--save"
MOST_STEM = 80  # letters of a picture's name that its drawing has
NAME = re.compile(r"[0-9]{5,}-(.*)\.png", re.DOTALL)
MARK = "Pictune"  # what a drawing says it was made by, so that nothing else is ever replaced
MARKED_WITHIN = 128  # bytes from the beginning


class Drawings:
    """A folder of drawings, numbered in the order in which they come.

    Args:
        folder: It is made when absent; drawings of an earlier time in it are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths: list[Path] = []

    @classmethod
    def into(cls, folder: Path, *, untouched: Sequence[Path], names: Iterable[str]) -> Drawings:
        """A folder, once it is known that drawings may be written there.

        Args:
            folder: The user's choice.
            untouched: Pictures and folders of them that are not to be written to.
            names: Of the pictures that are drawn on.

        Raises:
            RunError: When it is a file, cannot be written to, or another's file would be replaced.
            DataError: When it lies among the user's pictures.
        """
        for given in untouched:
            check_target(folder, data=given, flag=FLAG)
        files = [given for given in untouched if not given.is_dir()]
        if beside := [file for file in files if folder.resolve() == file.resolve().parent]:
            raise DataError(
                f"{escape(str(folder))} holds {escape(beside[0].name)}, "
                "and drawings are not put among pictures, where they would be taken for some",
                code="inside_data",
                instead=f"Choose another folder with {FLAG}, be it inside of that one.",
            )
        _check_no_other(folder, {_stem(name) for name in names})
        check_writable(folder, flag=FLAG)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def add(self, name: str, drawn: NDArray[np.uint8]) -> None:
        """Writes one; pictures of one name in several folders do not meet.

        Args:
            name: Of the picture.
            drawn: RGB, uint8 (h, w, 3).
        """
        path = self._folder / f"{len(self.paths) + 1:05d}-{_stem(name)}.png"
        stream, made_by = io.BytesIO(), PngInfo()
        made_by.add_text("Software", MARK)
        Image.fromarray(drawn).save(stream, format="PNG", pnginfo=made_by, compress_level=1)
        write_bytes(path, stream.getvalue())
        self.paths.append(path)


def _stem(name: str) -> str:
    return Path(name).stem[:MOST_STEM]


def _check_no_other(folder: Path, stems: set[str]) -> None:
    """Refuses a folder in which a drawing would replace what is none.

    Raises:
        RunError: When it would.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        found = NAME.fullmatch(path.name)
        if found is not None and found[1] in stems and not _is_drawing(path):
            raise RunError(
                f"{escape(str(path))} would be replaced, and is no drawing of an earlier time",
                instead=f"Choose another folder with {FLAG}, or take it away.",
            )


def _is_drawing(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return f"Software\0{MARK}".encode() in stream.read(MARKED_WITHIN)
