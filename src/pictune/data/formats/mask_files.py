"""Which mask belongs to which image, and of which split they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, split_named
from pictune.data.formats.layouts import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    first_of,
    folders_in,
    image_names,
    listed,
    plural,
    split_lists,
)
from pictune.data.scanning import FoundImage, escape, scan

_ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_gt", "_L", "_seg", "_segmentation")


@dataclass(frozen=True, slots=True)
class MaskFolders:
    """A folder of images and the folder of their masks beside it."""

    images: Path
    masks: Path


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask."""

    image: FoundImage
    mask: FoundImage
    split: str | None


def mask_folders(path: Path) -> list[MaskFolders]:
    """The pairs of folders at the top and in split folders; in each place the likeliest pair."""
    inside = folders_in(path)
    bases = [path, *(inside[name] for name in sorted(inside) if split_named(name))]
    found = []
    for base in bases:
        folders = folders_in(base)
        images = next((f for f in first_of(folders, IMAGE_FOLDERS) if _holds_images(f)), None)
        masks = next((f for f in first_of(folders, MASK_FOLDERS) if _holds_images(f)), None)
        if images and masks:
            found.append(MaskFolders(images, masks))
    return found


def _holds_images(folder: Path, depth: int = 3) -> bool:
    """Whether images lie in a folder, or in those in it, down to a depth."""
    if image_names(folder):
        return True
    return depth > 0 and any(_holds_images(inner, depth - 1) for inner in folders_in(folder).values())


def find_pairs(path: Path, options: ReadOptions) -> tuple[list[Pair], list[Finding]]:
    """Images with their masks, by key; images without a mask and masks without an image are noted."""
    listing = scan(path, follow_outside=options.follow_outside)
    findings = list(listing.findings)
    lists = split_lists(path, "Segmentation")
    pairs: list[Pair] = []
    lost: list[str] = []
    for folders in mask_folders(path):
        images = _below(listing.images, folders.images.relative_to(path).parts)
        masks = _by_stem(_below(listing.images, folders.masks.relative_to(path).parts), images)
        times = Counter(stem for stem, _ in images)
        for stem, image in images:
            if lists and stem[-1] not in lists[0]:
                continue
            mask = masks.get(stem, [])
            if times[stem] > 1:
                message = f"{image.key} and another image have one name for one mask; left out."
                findings.append(Finding("ambiguous_mask", Outcome.QUARANTINE, image.key, message))
            elif len(mask) == 1:
                split = lists[0][stem[-1]] if lists else _split_of(image)
                pairs.append(Pair(image, mask[0], split))
            elif mask:
                several = " and ".join(found.key for found in mask)
                message = f"{image.key} has several masks: {several}; keep one of them. Left out."
                findings.append(Finding("ambiguous_mask", Outcome.QUARANTINE, image.key, message))
            else:
                message = f"{image.key} has no mask in {escape(folders.masks.name)}; left out."
                findings.append(Finding("missing_mask", Outcome.QUARANTINE, image.key, message))
        lost += [mask.key for stem, group in masks.items() if stem not in times for mask in group]
    if lists:
        findings += [*lists[1], *_in_no_list(lists[0], pairs)]
    elif lost:
        verb = "has no image and is" if len(lost) == 1 else "have no image and are"
        message = f"{plural(len(lost), 'mask')} {verb} not used: {listed(sorted(lost))}."
        findings.append(Finding("mask_without_image", Outcome.WARN, "", message))
    pairs.sort(key=lambda pair: pair.image.key)
    return pairs, findings


def _in_no_list(split_of: dict[str, str], pairs: list[Pair]) -> list[Finding]:
    stems = {PurePath(pair.image.parts[-1]).stem for pair in pairs}
    return [
        Finding(
            "missing_file",
            Outcome.QUARANTINE,
            escape(stem),
            f"{escape(stem)} is in the list {split}, but has no image with a mask; left out.",
        )
        for stem, split in split_of.items()
        if stem not in stems
    ]


def _below(
    images: tuple[FoundImage, ...], above: tuple[str, ...]
) -> list[tuple[tuple[str, ...], FoundImage]]:
    """The images below a folder, each with its place there, without the file's ending."""
    depth = len(above)
    return [
        ((*image.parts[depth:-1], PurePath(image.parts[-1]).stem), image)
        for image in images
        if image.parts[:depth] == above and len(image.parts) > depth
    ]


def _by_stem(
    masks: list[tuple[tuple[str, ...], FoundImage]], images: list[tuple[tuple[str, ...], FoundImage]]
) -> dict[tuple[str, ...], list[FoundImage]]:
    """Masks by the place of their image; an ending such as ``_mask`` is taken off where that finds it."""
    places = {place for place, _ in images}
    found: dict[tuple[str, ...], list[FoundImage]] = {}
    for place, mask in masks:
        known = place
        if place not in places:
            shorter = [(*place[:-1], place[-1].removesuffix(ending)) for ending in _ENDINGS]
            known = next((attempt for attempt in shorter if attempt in places), place)
        found.setdefault(known, []).append(mask)
    return found


def _split_of(image: FoundImage) -> str | None:
    return next((split for part in image.parts[:-1] if (split := split_named(part))), None)
