"""What is written of one image, whatever the format."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pictune.data.sample import Sample
from pictune.data.scanning import escape
from pictune.errors import DataError


class ImageToWrite(NamedTuple):
    """One sample, and its place in what is written.

    Args:
        sample: What is known about it.
        name: Its file's new name; no two have one stem.
        split: Its split, if it has one; then all have.
        width: Of the upright picture, pixels.
        height: Of the upright picture, pixels.
    """

    sample: Sample
    name: str
    split: str | None
    width: int
    height: int

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.rpartition(".")[0]


def copy_image(image: ImageToWrite, folder: Path) -> None:
    """Copies the file's bytes into a folder, which is made.

    Raises:
        DataError: ``missing`` when the file is not there any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not image.sample.path.is_file():
        raise DataError(
            f"{image.sample.key} is not there any more", code="missing", instead="Put it back and run again."
        )
    try:
        data = image.sample.path.open("rb")
    except OSError as error:
        raise DataError(
            f"{escape(image.sample.key)} cannot be read: {error.strerror}",
            code="unreadable",
            instead="Check who may read it.",
        ) from None
    with data, (folder / image.name).open("wb") as file:
        shutil.copyfileobj(data, file, 1024**2)


def by_split(images: Sequence[ImageToWrite]) -> dict[str | None, list[ImageToWrite]]:
    """The images of each split, train first; of None where there are no splits."""
    found: dict[str | None, list[ImageToWrite]] = {}
    for split in (None, "train", "val", "test"):
        members = [image for image in images if image.split == split]
        if members:
            found[split] = members
    return found
