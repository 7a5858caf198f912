"""One folder a class: ``root/<class>/image.jpg``, or ``root/<split>/<class>/image.jpg``.

Split folders are called train, val (valid, validation) or test, in any case. Images lie directly in
their class folder: deeper folders are refused, because nobody can know whether they are classes of
their own. Other files are ignored and counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pictune.data.finding import Finding, Outcome
from pictune.data.formats.assembly import ReadOptions, check_class_names, finish, split_named
from pictune.data.sample import Dataset, Labels, Sample
from pictune.data.scanning import FoundImage, Listing, holds_image, key_of, scan

name = "folders"

# A lone folder of such a name beside a table, say, holds the images of all classes, not a class.
_CONTAINERS = frozenset(
    ("images", "image", "img", "imgs", "photos", "pictures", "data", "dataset", "jpegimages", "masks")
)


def recognise(path: Path) -> str | None:
    """Class folders that directly hold images, at the top or inside split folders."""
    if not path.is_dir():
        return None
    tops = _folders_in(path)
    split_tops = [top for top in tops if split_named(top.name)]
    classes = [top for top in tops if top.name.casefold() not in _CONTAINERS and holds_image(top)]
    if any(top not in split_tops for top in classes):
        return f"it has class folders with images, such as {key_of((classes[0].name,))}"
    for top in split_tops:
        for inner in _folders_in(top):
            if holds_image(inner):
                return f"it has split folders with class folders, such as {key_of((top.name, inner.name))}"
    return None


def _folders_in(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def read(path: Path, options: ReadOptions) -> Dataset:
    """One sample an image; its class is its folder's name, and its split the folder above, if any.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    listing = scan(path, follow_outside=options.follow_outside)
    depth, findings = _layout(listing)
    findings = [*listing.findings, *findings]
    placed = [image for image in listing.images if len(image.parts) == depth + 2]
    findings += _misplaced(listing, depth)
    counts = Counter({folder[depth]: 0 for folder in listing.folders if len(folder) == depth + 1})
    counts.update(image.parts[depth] for image in placed)
    findings += _folders_without_images(listing, counts, depth)
    clean, complaints = check_class_names(counts)
    samples = [_sample(image, clean[image.parts[depth]], depth) for image in placed]
    return finish(
        path,
        format_name=name,
        samples=samples,
        classes={clean[raw]: count for raw, count in counts.items() if count},
        multilabel=False,
        findings=[*findings, *complaints, *ignored(listing)],
        judging=options.judging,
    )


def _sample(image: FoundImage, class_name: str, depth: int) -> Sample:
    split = split_named(image.parts[0]) if depth else None
    return Sample(image.key, image.path, Labels((class_name,)), given_split=split)


def _layout(listing: Listing) -> tuple[int, list[Finding]]:
    """How many folders stand above the class folders (0 or 1), and what speaks against it."""
    tops = sorted({folder[0] for folder in listing.folders})
    splits = {top: split for top in tops if (split := split_named(top))}
    direct = {image.parts[0] for image in listing.images if len(image.parts) == 2}
    deep = {image.parts[0] for image in listing.images if len(image.parts) > 2}
    holding = direct | deep
    if splits and holding and holding <= set(splits):
        findings = _splits_without_classes(holding - deep)
        findings += [
            Finding(
                "empty_split",
                Outcome.WARN,
                top,
                f"The split folder {top} holds no image; it counts as absent.",
            )
            for top in splits
            if top not in holding
        ]
        twice = [top for top in splits if list(splits.values()).count(splits[top]) > 1]
        if twice:
            message = f"{' and '.join(twice)} are two folders for one split; keep one of them."
            findings.append(Finding("duplicate_split", Outcome.REJECT, twice[0], message))
        return 1, findings
    mixed = [top for top in splits if top in deep - direct]
    if mixed:
        others = ", ".join(map(_shown, sorted(holding - set(splits))))
        message = (
            f"{', '.join(mixed)} are split folders, but {others} beside them are not; "
            " put every class folder into a split folder, or none."
        )
        return 0, [Finding("mixed_layout", Outcome.REJECT, mixed[0], message)]
    return 0, []


def _shown(folder: str) -> str:
    return key_of((folder,))


def _splits_without_classes(tops: set[str]) -> list[Finding]:
    return [
        Finding(
            "no_class_folders",
            Outcome.REJECT,
            top,
            f"The images of {top} lie directly in it; put each class into a folder of its own inside {top}.",
        )
        for top in sorted(tops)
    ]


def _misplaced(listing: Listing, depth: int) -> list[Finding]:
    """Images above the class folders (left out one by one) and below them (refused folder by folder)."""
    findings = [
        Finding(
            "unlabelled", Outcome.QUARANTINE, image.key, f"{image.key} lies in no class folder; left out."
        )
        for image in listing.images
        if len(image.parts) < depth + 2
    ]
    below = Counter(image.parts[:-1] for image in listing.images if len(image.parts) > depth + 2)
    for folder, count in sorted(below.items()):
        key = key_of(folder)
        message = (
            f"{key} holds {count:,} images below the class folder {key_of(folder[: depth + 1])}; "
            f"move them up into it, or make {key_of(folder[-1:])} a class folder of its own."
        )
        findings.append(Finding("nested_folders", Outcome.REJECT, key, message))
    return findings


def _folders_without_images(listing: Listing, counts: Counter[str], depth: int) -> list[Finding]:
    """Class folders that are empty: refused when the class has no image at all, else reported."""
    filled = {image.parts[: depth + 1] for image in listing.images}
    findings = []
    for folder in listing.folders:
        if len(folder) != depth + 1 or folder in filled:
            continue
        key = key_of(folder)
        if counts[folder[depth]]:
            message = f"The class folder {key} holds no image; the class has images in other splits."
            findings.append(Finding("empty_folder", Outcome.WARN, key, message))
        else:
            message = f"The class folder {key} holds no image; fill it or remove it."
            findings.append(Finding("empty_class", Outcome.REJECT, key, message))
    return findings


def ignored(listing: Listing) -> list[Finding]:
    """One finding that counts the entries that are no images, by kind."""
    if not listing.ignored:
        return []
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in listing.ignored.most_common())
    total = sum(listing.ignored.values())
    message = f"Ignored, because they are no images: {total:,} ({kinds})."
    return [Finding("ignored", Outcome.NORMALISE, "", message)]
