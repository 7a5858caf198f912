"""Images and masks of the same names: a mask's pixels are the numbers, or the colours, of classes.

``images/`` and ``masks/`` may lie at the top, with or without split folders in both, or in each split folder.
Every mask is opened while reading: a value that no class has stops the work, because a wrong class list would
be learnt without a complaint. What the values mean is said by the user, by ``classes.csv`` or
``class_dict.csv`` (id,name or name,r,g,b, and ``ignored`` where wanted), or by ``classes.txt`` (one name a
line, from 0 on). Where nothing says it, the values themselves are the names.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, check_class_names, finish
from pictune.data.formats.layouts import plural
from pictune.data.formats.mask_classes import find_legend
from pictune.data.formats.mask_files import Pair, find_pairs, mask_folders
from pictune.data.masking import MOST_CLASSES, MaskCount, count_mask, shows_colours, values_in_words
from pictune.data.sample import Dataset, Legend, Mask, Sample
from pictune.data.scanning import escape
from pictune.errors import DataError

name = "masks"

_MANY = 64  # values without a class list; more look like a photograph rather than like classes
_WRONG_KIND = frozenset({"lossy_mask", "mask_without_table", "unsupported_mask"})


def recognise(path: Path) -> str | None:
    """A folder of images beside a folder of masks, at the top or in split folders."""
    folders = mask_folders(path) if path.is_dir() else []
    if not folders:
        return None
    shown = escape(folders[0].masks.relative_to(path).as_posix())
    return f"it has masks in {shown} beside images in {escape(folders[0].images.name)}"


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample an image with a mask.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    if not path.is_dir() or not mask_folders(path):
        raise DataError(
            f"{escape(str(path))} holds no folders of images and masks",
            code="no_masks",
            instead="Put the images into images/ and the masks, with the same names, into masks/.",
        )
    pairs, findings = find_pairs(path, options)
    legend, complaints = _legend(path, options, pairs)
    findings += complaints
    opened = _open_all(pairs, legend or Legend({}, frozenset(options.ignore)), findings)
    if legend is None:
        legend = _without_list(opened, frozenset(options.ignore), findings)
    clean, complaints = check_class_names(opened.images_of_names(legend))
    findings += [*complaints, *opened.unexplained(legend), *opened.all_ignored(legend)]
    named = Legend({v: clean[n] for v, n in legend.names.items()}, legend.ignored, legend.coloured)
    return finish(
        path,
        format_name=name,
        samples=[_sample(pair, count, named) for pair, count in opened.masks],
        classes={clean[raw]: count for raw, count in opened.images_of_names(legend).items()},
        multilabel=False,
        findings=findings,
        judging=options.judging,
        task="segmentation",
        keep_order=True,
    )


def _sample(pair: Pair, count: MaskCount, legend: Legend) -> Sample:
    present = {legend.names[value] for value in count.pixels if value in legend.names}
    names = tuple(called for called in legend.names.values() if called in present)
    return Sample(
        pair.image.key,
        pair.image.path,
        Mask(pair.mask.path, legend, names, count.checksum),
        given_split=pair.split,
        width=count.width,
        height=count.height,
    )


def _legend(path: Path, options: ReadOptions, pairs: Sequence[Pair]) -> tuple[Legend | None, list[Finding]]:
    """The legend, or None where nothing gives one; the first readable mask says whether colours count."""
    for pair in pairs:
        try:
            coloured = shows_colours(pair.mask.path)
            break
        except DataError:
            continue
    else:
        coloured = False
    try:
        return find_legend(path, options, coloured=coloured), []
    except DataError as error:
        causes = "; ".join(error.causes)
        message = f"{error.message}{f': {causes}' if causes else ''}. {error.instead}"
        return None, [Finding(error.code, Outcome.REJECT, "", message)]


@dataclass(slots=True)
class _Opened:
    """The masks that could be opened, in the order of their images."""

    masks: list[tuple[Pair, MaskCount]] = field(default_factory=list)

    def images_of_names(self, legend: Legend) -> dict[str, int]:
        """In how many images each class of the legend occurs, in its order."""
        values = Counter(value for _, count in self.masks for value in count.pixels)
        return {called: values[value] for value, called in legend.names.items()}

    def shares(self) -> dict[int, float]:
        """Each value's share of all pixels."""
        pixels: Counter[int] = Counter()
        for _, count in self.masks:
            pixels.update(count.pixels)
        total = max(sum(pixels.values()), 1)
        return {value: number / total for value, number in pixels.items()}

    def unexplained(self, legend: Legend) -> list[Finding]:
        """One finding that rejects values without a class."""
        known = set(legend.names) | legend.ignored
        shares = {value: share for value, share in self.shares().items() if value not in known}
        if not shares:
            return []
        having = [pair for pair, count in self.masks if not known.issuperset(count.pixels)]
        what = "colours" if legend.coloured else "values"
        message = (
            f"{plural(len(having), 'mask')} of {len(self.masks):,} hold {what} that no class has: "
            f"{values_in_words(shares, legend)}; the first is {having[0].mask.key}. Add them to the list of "
            "classes, or say that they are ignored with --set 'data.ignore=[...]'."
        )
        return [Finding("unknown_mask_value", Outcome.REJECT, having[0].mask.key, message)]

    def all_ignored(self, legend: Legend) -> list[Finding]:
        """Masks that teach nothing."""
        return [
            Finding(
                "all_ignored",
                Outcome.WARN,
                pair.image.key,
                f"All pixels of the mask of {pair.image.key} are ignored; nothing is learnt from it.",
            )
            for pair, count in self.masks
            if legend.ignored.issuperset(count.pixels)
        ]


def _open_all(pairs: Sequence[Pair], legend: Legend, findings: list[Finding]) -> _Opened:
    """Opens every mask; those that cannot be read are left out, those of a wrong kind stop the work."""

    def open_one(pair: Pair) -> MaskCount | DataError:
        try:
            return count_mask(pair.mask.path, legend)
        except DataError as error:
            return error

    opened = _Opened()
    wrong: dict[str, list[tuple[str, str]]] = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="pictune-masks") as pool:
        for pair, result in zip(pairs, pool.map(open_one, pairs), strict=True):
            if isinstance(result, MaskCount):
                opened.masks.append((pair, result))
                continue
            where, message = pair.mask.key, f"{pair.mask.key}: {result.message} {result.instead}".strip()
            if result.code in _WRONG_KIND:
                wrong.setdefault(result.code, []).append((where, message))
            else:
                findings.append(Finding(result.code, Outcome.QUARANTINE, where, message))
    for code, found in wrong.items():
        where, message = found[0]
        alike = f" So it is with {plural(len(found) - 1, 'other mask')}." if len(found) > 1 else ""
        findings.append(Finding(code, Outcome.REJECT, where, f"{message}{alike}"))
    return opened


def _without_list(opened: _Opened, ignored: frozenset[int], findings: list[Finding]) -> Legend:
    """The values that occur as their own names."""
    shares = {value: share for value, share in opened.shares().items() if value not in ignored}
    values = sorted(shares)
    names = Legend({value: str(value) for value in values}, ignored)
    too_large = {value: shares[value] for value in values if value > 255}
    if too_large or len(values) > MOST_CLASSES:
        message = (
            f"The masks hold {len(values):,} values{', some above 255' if too_large else ''}; classes are "
            f"numbers from 0 to 254: {values_in_words(too_large or shares, names)}."
        )
        findings.append(Finding("unknown_mask_value", Outcome.REJECT, "", message))
        return Legend({value: str(value) for value in values[:MOST_CLASSES]}, ignored)
    if not values:
        return names
    message = (
        f"Nothing says what the values in the masks mean, so they are their own names: "
        f"{', '.join(map(str, values[:20]))}{', ...' if len(values) > 20 else ''}. Put the names into "
        "classes.txt, one a line from 0 on, or say --set data.classes=[...]."
    )
    findings.append(Finding("numbers_as_names", Outcome.WARN, "", message))
    if 255 in shares:
        message = (
            f"The value 255 is taken for a class ({shares[255]:.1%} of the pixels); often it stands for "
            "pixels to be ignored, which --set 'data.ignore=[255]' would say."
        )
        findings.append(Finding("perhaps_ignored", Outcome.WARN, "", message))
    if len(values) > _MANY:
        message = (
            f"{len(values)} values are many for classes; do these masks have soft edges, or are they photos?"
        )
        findings.append(Finding("many_mask_values", Outcome.WARN, "", message))
    return names
