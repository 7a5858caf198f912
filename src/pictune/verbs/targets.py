"""Where a verb may write: never over the user's files, and never among their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pictune.data.scanning import escape
from pictune.errors import DataError, RunError


def check_target(target: Path, *, data: Path | None, flag: str) -> None:
    """Refuses to write over a file, or among the user's pictures, where the next run would take it for data.

    Args:
        target: The folder that is going to be written to; it need not exist.
        data: What the user named as pictures.
        flag: By which the user chooses the target.

    Raises:
        RunError: When the target is a file.
        DataError: When the target lies inside the folder of pictures.
    """
    if target.exists() and not target.is_dir():
        raise RunError(
            f"{escape(str(target))} is a file, and a folder is needed",
            instead=f"Choose another place with {flag}.",
        )
    if data is not None and data.is_dir() and target.resolve().is_relative_to(data.resolve()):
        raise DataError(
            f"{escape(str(target))} would lie inside {escape(str(data))}, "
            "and nothing is ever written among your pictures",
            code="inside_data",
            instead=f"Choose another place with {flag}.",
        )


def check_file(target: Path, *, pictures: Sequence[Path], flag: str) -> None:
    """Refuses to write a file over a folder or one of the pictures that it tells of.

    Args:
        target: The file that is going to be written to; it need not exist.
        pictures: What the user named as pictures, files and folders.
        flag: By which the user chooses the target.

    Raises:
        RunError: When the target cannot be a file.
        DataError: When the target lies among the pictures.
    """
    if target.is_dir() or not target.parent.is_dir():
        raise RunError(
            f"{target} cannot be written: "
            + ("it is a folder" if target.is_dir() else "its folder is absent"),
            instead=f"Name a file with {flag}.",
        )
    whole = target.resolve()
    for given in pictures:
        if whole == given.resolve() or (given.is_dir() and whole.is_relative_to(given.resolve())):
            raise DataError(
                f"{target} lies among the pictures, which are never written to",
                code="target_in_data",
                instead=f"Name another place with {flag}.",
            )
