"""The ways in which people keep labelled images, and the one function that reads them all.

A new format is one module with ``name``, ``recognise`` and ``read``, and one more word in `FORMATS`.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from pictune.data.formats import box_tables, coco, folders, masks, tables, voc, yolo
from pictune.data.formats.assembly import Format, ReadOptions
from pictune.data.formats.layouts import only_parts
from pictune.data.formats.unread import unread_layout
from pictune.data.sample import Dataset
from pictune.data.scanning import IMAGE_SUFFIXES, escape
from pictune.errors import DataError
from pictune.settings import suggestion

FORMATS: tuple[Format, ...] = (folders, tables, voc, coco, yolo, masks, box_tables)

_ARCHIVES = frozenset(
    (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".7z", ".rar", ".zst", ".lz4")
)
_ARCHIVE_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
_LOOKED_FOR = (
    "class folders with images, split folders (train, val, test) with class folders, "
    "one table (CSV, TSV, JSONL, Parquet) that names images and labels or boxes, "
    "boxes as Pascal VOC, COCO or YOLO, or folders of images and masks"
)


def read_dataset(
    path: Path | str,
    *,
    format: str = "auto",
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    label_separator: str | None = None,
    follow_outside: bool = False,
    judging: bool = False,
    image_folder: Path | str | None = None,
    classes: Sequence[str] | None = None,
    ignore: Sequence[int] = (),
) -> Dataset:
    """Reads the images and what is said of them, below a folder or in a file; writes nothing.

    No image is decoded. Headers of images are read where boxes need a size that no file states, and masks are
    opened, because only their pixels say which classes occur.

    Args:
        path: A folder, a table, a COCO JSON file or a YOLO data.yaml.
        format: A name from `FORMATS`, or ``auto`` to recognise it.
        image_column: The table's column that names the image files.
        label_column: The column that holds the labels.
        split_column: The column that says train, val or test.
        group_column: The column that says which images belong together.
        label_separator: What stands between several labels of one image; makes the task multi-label.
        follow_outside: Whether links may leave the dataset's folder.
        judging: Whether a model is judged on the dataset, and none is trained. One class and classes
            without images are then reported, not refused. The format and the columns are wishes that came
            with the model: used where they fit, and else recognised as if nothing had been said.
        image_folder: Where the images are that a COCO file, Pascal VOC or a table of boxes names.
        classes: Class names in the order of their ids, for masks and YOLO files.
        ignore: Values of mask pixels that belong to no class.

    Returns:
        The dataset, sorted by key, without splits; what was left out stands in its findings.

    Raises:
        DataError: With everything that is wrong, all at once.
    """
    path = Path(path)
    options = ReadOptions(
        image_column,
        label_column,
        split_column,
        group_column,
        label_separator,
        follow_outside,
        judging,
        None if image_folder is None else Path(image_folder),
        None if classes is None else tuple(classes),
        tuple(ignore),
    )
    _refuse_what_is_no_dataset(path)
    chosen = _choose(path, format, options)
    unused = options.unused_by(chosen.name)
    if unused and not judging:
        belong = "belong to tables" if set(unused) <= set(options.about_tables()) else "are not used by it"
        raise DataError(
            f"{escape(str(path))} is read as {chosen.name}, but {' and '.join(unused)} {belong}",
            code="unused_option",
            instead="Leave them out, or give the table's own path.",
        )
    if options.image_folder is not None and not options.image_folder.is_dir():
        raise DataError(
            f"there is no folder of images at {escape(str(options.image_folder))}",
            code="absent",
            instead="Give the folder that holds the images which the annotations name.",
        )
    return chosen.read(path, options)


def _refuse_what_is_no_dataset(path: Path) -> None:
    """Absent paths, pipes, archives and single images; only regular files are opened."""
    shown = escape(str(path))
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(
            f"there is nothing to read at {shown}: {getattr(error, 'strerror', None) or error}",
            code="absent",
            instead="Give the path of a folder of images or of a table.",
        ) from None
    if stat.S_ISDIR(mode):
        return
    if not stat.S_ISREG(mode):
        raise DataError(f"{shown} is a pipe, socket or device", code="special_file", instead="Give a folder.")
    if _is_archive(path):
        raise DataError(
            f"{shown} is an archive; archives are not read, and nothing was written",
            code="archive",
            instead="Extract it first, then give the folder.",
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(
            f"{shown} is a single image", code="not_a_dataset", instead="Give the folder that holds it."
        )


def _is_archive(path: Path) -> bool:
    if _ARCHIVES & {suffix.lower() for suffix in path.suffixes[-2:]}:
        return True
    if path.suffix.lower() in tables.SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(264)
    except OSError:
        return False  # whoever reads it says why it cannot be opened
    return head.startswith(_ARCHIVE_MAGIC) or head[257:262] == b"ustar"


def _choose(path: Path, wanted: str, options: ReadOptions) -> Format:
    by_name = {known.name: known for known in FORMATS}
    if wanted in by_name and not options.judging:
        return by_name[wanted]
    if wanted != "auto" and wanted not in by_name:
        raise DataError(
            f"there is no format called {wanted!r}{suggestion(wanted, by_name)}",
            code="unknown_format",
            instead=f"Choose one of auto, {', '.join(by_name)}.",
        )
    reasons = _reasons(path)
    if options.judging and (wish := _wished(path, wanted, options, reasons)):
        return by_name[wish]
    layout = unread_layout(path)
    if layout and not reasons:
        how = f"If it is one of these, say --set data.format={' or --set data.format='.join(by_name)}."
        if options.judging:
            how = "If there is such a table, give its own path."
        raise DataError(
            f"{escape(str(path))} looks like {layout}, which is not read yet",
            code="format_not_read",
            instead=f"Class folders, tables, Pascal VOC, COCO, YOLO and masks are read. {how}",
        )
    if not options.judging and options.about_tables() and len(reasons) != 1:
        # The user named a column, so a table is meant.
        return box_tables if box_tables.name in reasons else tables
    if len(reasons) == 1:
        return by_name[next(iter(reasons))]
    if reasons:
        table = "table" if set(reasons) == {folders.name, tables.name} else "meant file or folder"
        raise DataError(
            f"{escape(str(path))} can be read in {len(reasons)} ways",
            code="ambiguous_format",
            causes=[
                f"{'' if options.judging else 'data.format='}{known}: {reason}"
                for known, reason in reasons.items()
            ],
            instead=f"Give the {table}'s own path, or the path of a folder without it."
            if options.judging
            else f"Say which one is meant, such as with --set data.format={next(iter(reasons))}.",
        )
    raise _not_recognised(path)


def _reasons(path: Path) -> dict[str, str]:
    """Why each of the fitting formats fits, without those that only see a part of what another one reads."""
    reasons = {known.name: reason for known in FORMATS if (reason := known.recognise(path))}
    if box_tables.name in reasons:
        reasons.pop(tables.name, None)  # a table of boxes has an image and a label in each row, too
    if folders.name in reasons and set(reasons) - {folders.name, tables.name} and only_parts(path):
        del reasons[folders.name]
    return reasons


def _wished(path: Path, wanted: str, options: ReadOptions, reasons: Mapping[str, str]) -> str | None:
    """The format by which a model's own data were read, where it fits other data as well."""
    if wanted in reasons:
        return wanted
    told_of_table = wanted in (tables.name, box_tables.name) or bool(options.about_tables())
    if wanted == box_tables.name and not reasons and tables.holds_one(path):
        return box_tables.name
    return tables.name if told_of_table and len(reasons) != 1 and tables.holds_one(path) else None


def _not_recognised(path: Path) -> DataError:
    shown = escape(str(path))
    if not path.is_dir():
        return DataError(
            f"{shown} is a file, but no table or list of boxes that is known",
            code="not_a_dataset",
            causes=[f"looked for: {', '.join(sorted(tables.SUFFIXES))}"],
            instead="Give a folder of images or a table.",
        )
    found, images = _contents(path)
    if not found:
        return DataError(f"{shown} is empty", code="empty", instead="Give a folder that holds images.")
    advice = "Put the images of each class into a folder of its own, or list them in a table (image, label)."
    if images:
        return DataError(
            f"{shown} holds images directly, so nothing says what their classes are",
            code="no_class_folders",
            causes=[f"looked for: {_LOOKED_FOR}", f"found: {found}"],
            instead=advice,
        )
    return DataError(
        f"no dataset is recognised in {shown}",
        code="not_recognised",
        causes=[f"looked for: {_LOOKED_FOR}", f"found: {found}"],
        instead=advice,
    )


def _contents(path: Path) -> tuple[str, int]:
    """What lies at the top of a folder in words, and how many images that is."""
    kinds: Counter[str] = Counter()
    try:
        entries = list(islice(path.iterdir(), 10_000))
    except OSError as error:
        raise DataError(
            f"{escape(str(path))} cannot be opened: {error.strerror}",
            code="unreadable_folder",
            instead="Give yourself permission to read it.",
        ) from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            kinds["folders"] += 1
        else:
            kinds["images" if entry.suffix.lower() in IMAGE_SUFFIXES else "other files"] += 1
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items()), kinds["images"]
