"""`convert`: the same annotations in another format, and what that format cannot hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pictune.data.finding import Finding, Outcome
from pictune.data.formats import read_dataset
from pictune.data.formats.fitting import fit_sample
from pictune.data.formats.layouts import plural
from pictune.data.formats.sizes import upright_size
from pictune.data.formats.writing import check_folder, check_order, write_dataset
from pictune.data.ingest import losses
from pictune.data.sample import Boxes, Dataset, Sample
from pictune.data.scanning import escape
from pictune.errors import DataError
from pictune.verbs.reading import Progress, finding_rows, is_column
from pictune.verbs.recipe import parse

_CALLED = {
    "coco": "COCO",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "masks": "masks",
    "box_table": "a table of boxes",
}
_SHOWN = 10


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        folder: The new folder.
        format: The format of what is in it.
        dataset: What was read and written.
        lost: What the format cannot hold, in sentences.
    """

    folder: Path
    format: str
    dataset: Dataset
    lost: tuple[str, ...]

    def summary(self) -> str:
        """What was written where, what was left out or changed while reading, and what the format lacks."""
        images, classes = plural(len(self.dataset), "picture"), len(self.dataset.classes)
        boxes = sum(len(s.annotation) for s in self.dataset.samples if isinstance(s.annotation, Boxes))
        objects = f", {plural(boxes, 'box', 'boxes')}" if self.dataset.task == "detection" else ""
        written = f"{images}, {plural(classes, 'class', 'classes')}{objects}: {_CALLED[self.format]}."
        noticed = [f.message for f in self.dataset.findings if f.code != "ignored"]
        more = [f"and {len(noticed) - _SHOWN:,} more notes"] if len(noticed) > _SHOWN else []
        lines = [f"  - {sentence}" for sentence in (*self.lost, *noticed[:_SHOWN], *more)]
        return "\n".join([written, *lines, "", f"  folder: {escape(str(self.folder))}"])

    def rows(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "folder": escape(str(self.folder)),
            "format": self.format,
            "images": len(self.dataset),
            "classes": list(self.dataset.classes),
            "boxes": sum(len(s.annotation) for s in self.dataset.samples if isinstance(s.annotation, Boxes)),
            "lost": list(self.lost),
            "findings": finding_rows(self.dataset.findings),
        }


def convert(
    data: Path | str,
    *,
    to: str,
    out: Path | str,
    settings: Sequence[str] = (),
    group_by: str | None = None,
    image_folder: Path | str | None = None,
    classes: Sequence[str] | None = None,
    ignore: Sequence[int] = (),
    progress: Progress | None = None,
) -> Converted:
    """Reads boxes or masks in any known format and writes them, with copies of the pictures, in another.

    Headers of pictures are read, and masks; no picture is decoded, so that damage inside one goes unnoticed.

    Args:
        data: A folder or file of boxes or masks.
        to: A format: coco, voc, yolo, box_table, masks.
        out: A folder that is new or empty, outside of the data.
        settings: Texts such as ``data.format=coco``.
        group_by: A column of a table of boxes that says what belongs together.
        image_folder: Where the pictures are that an annotation file names.
        classes: Class names in the order of their ids, for masks and YOLO files.
        ignore: Values of mask pixels that belong to no class.
        progress: Called with how many pictures are measured, and how many there are.

    Raises:
        DataError: With everything that is wrong, all at once; nothing is then written.
        MachineError: When the disk is full or may not be written.
    """
    folder = Path(out)
    check_folder(folder, Path(data))
    said = parse(None, assignments=settings, flags={"data.group_by": group_by}).data
    named = read_dataset(
        Path(data),
        format=said.format,
        image_column=said.image_column,
        label_column=said.label_column,
        split_column=said.split_column,
        group_column=said.group_by if is_column(said.group_by) else None,
        label_separator=said.label_separator,
        follow_outside=said.follow_outside,
        image_folder=image_folder,
        classes=classes,
        ignore=ignore,
    )
    check_order(named.task, to)
    dataset = _measured(named, progress)
    for loss in _losses(named, dataset, said.max_bad):
        raise loss
    lost = write_dataset(dataset, folder, format=to)
    return Converted(folder, to, dataset, tuple(lost))


def _measured(dataset: Dataset, progress: Progress | None) -> Dataset:
    """The dataset with the true sizes of its pictures; boxes fitted to them, masks of other sizes left out.

    Raises:
        DataError: ``size_differs`` with all pictures of another size than their annotations state.
    """
    samples: list[Sample] = []
    findings: list[Finding] = []
    for done, sample in enumerate(dataset.samples, start=1):
        fitted, noticed = _fitted(sample)
        findings += noticed
        if fitted is not None:
            samples.append(fitted)
        if progress:
            progress(done, len(dataset))
    rejected = [finding.message for finding in findings if finding.outcome is Outcome.REJECT]
    if rejected:
        raise DataError(
            f"{plural(len(rejected), 'picture')} and their annotations do not fit one another",
            code="size_differs",
            causes=rejected[:50],
            instead="Nothing was written. Annotate these pictures as they are now, or put the old ones back.",
        )
    return replace(dataset, samples=tuple(samples), findings=(*dataset.findings, *findings))


def _fitted(sample: Sample) -> tuple[Sample | None, list[Finding]]:
    size = upright_size(sample.path)
    if size is None:
        message = f"{sample.key} is no picture that can be read; left out."
        return None, [Finding("not_image", Outcome.QUARANTINE, sample.key, message)]
    return fit_sample(sample, width=size.width, height=size.height, orientation=size.orientation)


def _losses(before: Dataset, after: Dataset, max_bad: float) -> list[DataError]:
    """Why too much was lost, if it was."""
    return [] if max_bad == math.inf else list(losses(before, after, max_bad))
