"""Writes a Dataset into a new folder, as boxes or masks of another format.

Images are copied byte for byte. The folder appears whole or not at all: everything is written beside it under
a temporary name first. Whatever the format cannot hold is said in sentences.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import NamedTuple

from pictune.data.formats.layouts import listed, plural
from pictune.data.formats.sizes import upright_size
from pictune.data.formats.writing_boxes import write_box_table, write_coco, write_voc, write_yolo
from pictune.data.formats.writing_images import ImageToWrite
from pictune.data.formats.writing_masks import write_masks
from pictune.data.headers import SUFFIXES
from pictune.data.sample import Dataset, Sample
from pictune.data.scanning import IMAGE_SUFFIXES, escape
from pictune.errors import DataError, MachineError
from pictune.files import current_umask, disk_errors
from pictune.settings import suggestion

Writer = Callable[[Sequence[ImageToWrite], Sequence[str], Path], list[str]]


class _Target(NamedTuple):
    """The task whose annotations a format holds, and what writes them."""

    task: str
    write: Writer


WRITERS: dict[str, _Target] = {
    "coco": _Target("detection", write_coco),
    "voc": _Target("detection", write_voc),
    "yolo": _Target("detection", write_yolo),
    "box_table": _Target("detection", write_box_table),
    "masks": _Target("segmentation", write_masks),
}


def write_dataset(dataset: Dataset, folder: Path, *, format: str) -> list[str]:
    """Writes images and annotations into a folder that is new or empty.

    Splits are those of the dataset, or else those that its samples bring along. Where a sample's size is not
    known, its file's header is read.

    Args:
        dataset: With boxes or masks.
        folder: Is made; nothing in the dataset's own folder is touched.
        format: A name from `WRITERS`.

    Returns:
        What the format cannot hold, and what was done instead, in sentences.

    Raises:
        DataError: ``unknown_format``, ``wrong_task``, ``inside_data``, ``not_empty``, ``unwritable_name`` or
            what is wrong with a mask.
        MachineError: When the disk is full or may not be written.
    """
    check_order(dataset.task, format)
    check_folder(folder, dataset.root)
    _check_names(dataset.classes)
    images, sentences = _images(dataset)
    _check_space(folder, images)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=f".tmp-{os.getpid()}-", dir=folder.parent))
        try:
            sentences += WRITERS[format].write(images, dataset.classes, temporary)
            temporary.chmod(0o777 & ~current_umask())
            temporary.replace(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return sentences


def check_order(task: str, format: str) -> None:
    """Refuses a format that is none, or that holds other annotations.

    Raises:
        DataError: ``unknown_format`` or ``wrong_task``.
    """
    if format not in WRITERS:
        raise DataError(
            f"there is no format to write that is called {format!r}{suggestion(format, WRITERS)}",
            code="unknown_format",
            instead=f"Choose one of {', '.join(WRITERS)}.",
        )
    if WRITERS[format].task != task:
        fitting = [name for name, writer in WRITERS.items() if writer.task == task]
        raise DataError(
            f"{format} holds annotations for {WRITERS[format].task}, and these data are for {task}",
            code="wrong_task",
            instead=f"Choose one of {', '.join(fitting)}."
            if fitting
            else "Class folders need no conversion.",
        )


def check_folder(folder: Path, source: Path) -> None:
    """Refuses to write over something, or among the user's own data.

    Raises:
        DataError: ``not_empty`` or ``inside_data``.
    """
    shown = escape(str(folder))
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise DataError(
            f"{shown} is there already, and it is not an empty folder",
            code="not_empty",
            instead="Choose another folder; nothing is ever written over.",
        )
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{shown} would lie inside {escape(str(source))}, and nothing is ever written among your data",
            code="inside_data",
            instead="Choose a folder elsewhere.",
        )


def _check_names(classes: Sequence[str]) -> None:
    """XML and YAML have no sign for two code points, which no one can see anyway."""
    wrong = [ascii(name) for name in classes if "\ufffe" in name or "\uffff" in name]
    if wrong:
        raise DataError(
            f"the class {listed(wrong)} has signs that cannot be written",
            code="unwritable_name",
            instead="Give it another name.",
        )


def _check_space(folder: Path, images: Sequence[ImageToWrite]) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    needed = sum(image.sample.path.stat().st_size for image in images if image.sample.path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise MachineError(
            f"the images take {needed / 1e9:.1f} GB, and {escape(str(folder))} has {free / 1e9:.1f} GB free",
            instead="Free some space, or choose a folder on another disk.",
        )


def _images(dataset: Dataset) -> tuple[list[ImageToWrite], list[str]]:
    """What is written of each sample, and what is not."""
    sentences = []
    split_of = {i: name for name, members in dataset.splits.items() for i in members}
    splits = [split_of.get(i, s.given_split) for i, s in enumerate(dataset.samples)]
    if any(splits) and not all(splits):
        without = sum(split is None for split in splits)
        sentences.append(
            f"Splits are not written, because {plural(without, 'image')} of {len(splits):,} have none."
        )
        splits = [None] * len(splits)
    sizes = [_size(sample) for sample in dataset.samples]
    lost = [s.key for s, size in zip(dataset.samples, sizes, strict=True) if size is None]
    if lost:
        sentences.append(f"{plural(len(lost), 'image')} cannot be read and are not written: {listed(lost)}.")
    turned = sum(1 for size in sizes if size and size[2] != 1)
    if turned:
        sentences.append(
            f"{plural(turned, 'image')} lie turned in the file (EXIF); boxes and sizes are those of the "
            "upright picture, and programs that ignore EXIF will misplace them."
        )
    images = []
    for sample, name, split, size in zip(
        dataset.samples, _names(dataset.samples), splits, sizes, strict=True
    ):
        if size is not None:
            images.append(ImageToWrite(sample, name, split, size[0], size[1]))
    return images, sentences


def _size(sample: Sample) -> tuple[int, int, int] | None:
    upright = upright_size(sample.path)
    return upright and (sample.width or upright.width, sample.height or upright.height, upright.orientation)


def _names(samples: Sequence[Sample]) -> list[str]:
    """File names whose stems are all different, because formats pair files by them."""
    plain = [_plain(PurePosixPath(sample.key).name, sample) for sample in samples]
    counts = Counter(_stem(name) for name in plain)
    taken: set[str] = set()
    names = []
    for sample, name in zip(samples, plain, strict=True):
        chosen = name if counts[_stem(name)] == 1 else _plain(sample.key.replace("/", "_"), sample)
        number = 2
        while _stem(chosen) in taken or (chosen != name and counts[_stem(chosen)]):
            stem, dot, ending = _plain(sample.key.replace("/", "_"), sample).rpartition(".")
            chosen = f"{stem}-{number}{dot}{ending}"
            number += 1
        taken.add(_stem(chosen))
        names.append(chosen)
    return names


def _stem(name: str) -> str:
    return name.rpartition(".")[0].casefold()


def _plain(name: str, sample: Sample) -> str:
    """A name that is visible, ends as an image does, and that no list and no path could stumble over."""
    name = name.replace("\\", "_").strip()
    name = f"_{name}" if name.startswith((".", "-")) else name
    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
        return name
    with sample.path.open("rb") as file:
        head = file.read(4)
    kinds = {
        b"\xff\xd8\xff": "jpeg",
        b"\x89PN": "png",
        b"GIF": "gif",
        b"RIF": "webp",
        b"II*": "tiff",
        b"MM\0": "tiff",
    }
    return f"{name}{SUFFIXES[kinds.get(head[:3], 'bmp')][0]}"
