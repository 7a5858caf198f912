"""Where a verb may write: never over the user's files, and never among their pictures."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pictune.data.scanning import escape
from pictune.errors import DataError, RunError
from pictune.exporting.artifact import SUFFIX, artifact_names, is_artifact, is_foreign
from pictune.exporting.formats import FORMATS
from pictune.files import FULL, disk_errors

# What a file of a network or an archive is called elsewhere; an artifact's folder of that name would mislead.
FILE_SUFFIXES = frozenset(
    ".onnx .pt .pt2 .pth .ckpt .safetensors .zip .tar .gz .xml .bin .engine .plan .tflite .h5 .pb".split()
)
BROKEN = FULL | {errno.EIO, errno.ESTALE}  # the disk's fault, not that of the place


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
    if data is not None:
        _check_outside(target, data, flag)


def _check_outside(target: Path, data: Path, flag: str) -> None:
    if data.is_dir() and target.resolve().is_relative_to(data.resolve()):
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
        RunError: When the target cannot be a file, or nothing can be written there.
        MachineError: When the disk is full or broken.
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
    check_writable(target, flag=flag)


def check_export(target: Path, *, format_name: str, data: Path, flag: str) -> None:
    """Refuses a place where an exported model cannot be written, before any work is done for it.

    Args:
        target: Where it is going to be; a file if its name ends in ``.pictune``, else a folder.
        format_name: Of the network.
        data: The pictures of its run.
        flag: By which the user chooses the target.

    Raises:
        RunError: When it would be called like a file that it is not, something else is in its place, or
            nothing can be written there.
        DataError: When it lies among the pictures.
    """
    shown, files = escape(str(target)), " and ".join(FORMATS[format_name].files)
    if target.suffix.lower() in FILE_SUFFIXES or target.suffix.lower() == SUFFIX != target.suffix:
        raise RunError(
            f"an exported model cannot be called {escape(target.name)}: it is a file that ends in {SUFFIX}, "
            f"or a folder; the network itself lies in it as {files}",
            instead=f"Name it so with {flag}, such as {escape(str(target.with_suffix(SUFFIX)))}.",
        )
    check_writable(target, flag=flag)
    if target.is_symlink():
        raise RunError(
            f"{shown} is a link, which an exported model would take the place of",
            instead=f"Name what it leads to with {flag}, or another place, or remove the link.",
        )
    _check_outside(target, data, flag)
    if is_foreign(target, format_name):
        if target.suffix == SUFFIX:
            found = (
                "is a folder, and a file is needed" if target.is_dir() else "exists, and is no exported model"
            )
        elif is_artifact(target):
            found = _what_besides(target, format_name)
        else:
            found = "exists, and is no exported model"
        raise RunError(
            f"{shown} {found}", instead=f"Name another place with {flag}, or remove what is there."
        )


def _what_besides(folder: Path, format_name: str) -> str:
    """What an exported model's folder holds that another one would not replace."""
    others = {path.name for path in folder.iterdir()} - artifact_names(format_name)
    if others <= frozenset().union(*map(artifact_names, FORMATS)):
        files = " and ".join(FORMATS[format_name].files)
        return f"holds an exported model of another format, which has more files than {files}"
    return f"holds what is no part of an exported model: {escape(min(others))}"


def check_writable(target: Path, *, flag: str) -> None:
    """Refuses a place where nothing can be written, and leaves no trace of having tried.

    Args:
        target: A file or folder; it need not exist, nor its folder.
        flag: By which the user chooses it.

    Raises:
        RunError: When it is no place to write to.
        MachineError: When the disk is full or broken.
    """
    place = target
    try:
        while not place.exists() and not place.is_symlink():
            place = place.parent
        if place == target and not place.is_dir():
            place = place.parent  # a file that is going to be replaced
        with tempfile.TemporaryFile(dir=place):
            return
    except OSError as error:
        if error.errno in BROKEN:
            with disk_errors(target):
                raise
        raise RunError(
            f"{escape(str(target))} cannot be written: {error.strerror}",
            instead=f"Name another place with {flag}.",
        ) from error
