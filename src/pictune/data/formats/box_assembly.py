"""From listed images and their boxes to the finished Dataset: what all formats of boxes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, check_class_names, finish, refuse
from pictune.data.formats.boxes import BoxSheet
from pictune.data.formats.layouts import listed, plural
from pictune.data.formats.sizes import upright_size
from pictune.data.sample import Dataset, Sample
from pictune.data.scanning import FoundImage


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image that annotations speak of, and that is there.

    Args:
        found: Where.
        width: Pixels, as the annotation file states; 0 where it does not.
        height: Pixels, as the annotation file states; 0 where it does not.
        split: ``train``, ``val`` or ``test`` where the data say so.
        group: What it belongs to.
    """

    found: FoundImage
    width: int = 0
    height: int = 0
    split: str | None = None
    group: str | None = None


def finish_boxes(
    path: Path,
    *,
    format_name: str,
    images: Sequence[ListedImage],
    sheet: BoxSheet,
    declared: Sequence[str] | None,
    findings: Sequence[Finding],
    options: ReadOptions,
) -> Dataset:
    """Checks classes and boxes, and makes the Dataset.

    Where no size is stated the image's header is read. A sample's size is the stated one until the image
    is opened. Images without a box are background; those that lost all their boxes are left out.

    Args:
        path: What the user named.
        format_name: The format that read it.
        images: Those that exist, in the order of the numbers in the sheet.
        sheet: All boxes.
        declared: The classes of a list, as written there and in its order; None where there is no list.
        findings: Everything noticed so far.
        options: What the user said.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    counts: Mapping[str, int] = sheet.images_of_labels()
    if declared is not None:
        counts = {**dict.fromkeys(declared, 0), **counts}
    clean, complaints = check_class_names(counts)
    sizes = [_size(image) for image in images]
    cleaned = sheet.cleaned(sizes, clean)
    noticed = [*findings, *complaints, *cleaned.findings, *_repeated(images)]
    emptied = set(cleaned.emptied)
    for number in cleaned.emptied:
        key = images[number].found.key
        message = f"{key} lost all its boxes; it is left out, because it would count as showing nothing."
        noticed.append(Finding("no_box_left", Outcome.QUARANTINE, key, message))
    samples = [
        Sample(
            image.found.key,
            image.found.path,
            boxes,
            group=image.group,
            given_split=image.split,
            width=size[0],
            height=size[1],
        )
        for number, (image, boxes, size) in enumerate(zip(images, cleaned.boxes, sizes, strict=True))
        if number not in emptied
    ]
    noticed += _background(samples, len(sheet))
    if samples and not len(sheet) and not options.judging:
        message = "There is not one box in it, so nothing can be learnt."
        noticed.append(Finding("no_boxes", Outcome.REJECT, "", message))
    if any(finding.code == "normalised_boxes" for finding in noticed):
        # What follows from boxes that were misread is no further mistake.
        refuse(path, [f for f in noticed if f.outcome is Outcome.REJECT])
    return finish(
        path,
        format_name=format_name,
        samples=samples,
        classes={clean[raw]: count for raw, count in counts.items()},
        multilabel=False,
        findings=noticed,
        judging=options.judging,
        task="detection",
        keep_order=declared is not None,
    )


def _size(image: ListedImage) -> tuple[int, int]:
    if image.width > 0 and image.height > 0:
        return image.width, image.height
    upright = upright_size(image.found.path)
    return (upright.width, upright.height) if upright else (0, 0)


def _repeated(images: Sequence[ListedImage]) -> list[Finding]:
    """Images that are listed more than once: whose boxes would count?"""
    counts = Counter(image.found.key for image in images)
    return [
        Finding(
            "duplicate_image",
            Outcome.REJECT,
            key,
            f"{key} is listed more than once; put all its boxes under one entry, in one split.",
        )
        for key, count in counts.items()
        if count > 1
    ]


def _background(samples: Sequence[Sample], boxes: int) -> list[Finding]:
    empty = [
        sample.key for sample in samples if sample.annotation is not None and not sample.annotation.names
    ]
    if not empty or not boxes:
        return []
    verb = "has no box and counts" if len(empty) == 1 else "have no box and count"
    message = f"{plural(len(empty), 'image')} {verb} as showing none of the classes: {listed(empty)}."
    return [Finding("background", Outcome.WARN, "", message)]
