"""What all formats share: their options, the checks of class names, and the finished Dataset."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pictune.data.finding import Finding, Outcome
from pictune.data.sample import Dataset, Sample
from pictune.data.scanning import escape
from pictune.errors import DataError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_MOST_CAUSES = 200  # more lines than this help nobody; the rest is counted
_MOST_NAMED = 10  # classes in one sentence


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a user may say about how a dataset is to be read; None leaves the choice to the format.

    Args:
        image_column: The table's column that names the image files.
        label_column: The column that holds the labels.
        split_column: The column that says train, val or test.
        group_column: The column that says which images belong together.
        label_separator: What stands between several labels of one image; makes the task multi-label.
        follow_outside: Whether links may leave the dataset's folder.
        judging: Whether a model is judged on the dataset, and none is trained. The columns are then wishes
            that came with the model: where they are absent, they count as not named.
        image_folder: Where the images are that an annotation file names.
        classes: Class names in the order of their ids, for masks and YOLO files without a list of classes.
        ignore: The ids of mask pixels that belong to no class.
    """

    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    label_separator: str | None = None
    follow_outside: bool = False
    judging: bool = False
    image_folder: Path | None = None
    classes: tuple[str, ...] | None = None
    ignore: tuple[int, ...] = ()

    def about_tables(self) -> dict[str, str]:
        """The options that only a table can use and that were given, by what they are called there."""
        values = {
            "data.image_column": self.image_column,
            "data.label_column": self.label_column,
            "data.split_column": self.split_column,
            "--group-by": self.group_column,
            "data.label_separator": self.label_separator,
        }
        return {flag: value for flag, value in values.items() if value is not None}

    def unused_by(self, format_name: str) -> list[str]:
        """The options that were given and that a format does not use, by what they are called."""
        columns = {"tables"} if self.label_separator is not None else {"tables", "box_table"}
        unused = [] if format_name in columns else list(self.about_tables())
        if format_name == "box_table" and self.label_separator is not None:
            unused = ["data.label_separator"]
        given = {
            "data.image_folder": (self.image_folder is not None, ("coco", "voc", "box_table")),
            "data.classes": (self.classes is not None, ("masks", "yolo")),
            "data.ignore": (bool(self.ignore), ("masks",)),
        }
        return unused + [
            flag for flag, (is_given, users) in given.items() if is_given and format_name not in users
        ]


class Format(Protocol):
    """One way in which people keep images and what they know about them; each is a module."""

    name: str

    def recognise(self, path: Path) -> str | None:
        """Why this format fits, as a phrase that follows "because"; None when it does not."""

    def read(self, path: Path, options: ReadOptions) -> Dataset:
        """The dataset, without splits.

        Raises:
            DataError: With everything that is wrong, all at once.
        """


def split_named(text: str) -> str | None:
    """``train``, ``val`` or ``test`` from the names people give them; None for any other name."""
    return SPLIT_NAMES.get(text.strip().casefold())


def refuse(path: Path, findings: Iterable[Finding]) -> None:
    """Raises one error with every finding that rejects; does nothing when there is none."""
    rejected = [finding for finding in findings if finding.outcome is Outcome.REJECT]
    if not rejected:
        return
    causes = [finding.message for finding in rejected[:_MOST_CAUSES]]
    if len(rejected) > _MOST_CAUSES:
        causes.append(f"and {len(rejected) - _MOST_CAUSES:,} more")
    raise DataError(
        f"{escape(str(path))} cannot be used as it is",
        code=rejected[0].code,
        causes=causes,
        instead="Nothing was changed. Put these right and run the command again.",
    )


def check_class_names(counts: Mapping[str, int]) -> tuple[dict[str, str], list[Finding]]:
    """Clean names for the raw ones, and what is wrong with them.

    Surrounding blanks are taken off and bytes that are no UTF-8 are written as text (both counted as
    normalised). Rejected are names that can't be printed on one line, names that look like a path, and
    names that a reader could not tell apart: equal but for case, blanks, invisible characters or the
    way an accent is encoded.

    Args:
        counts: Images by raw class name.
    """
    findings = [
        Finding("bad_class_name", Outcome.REJECT, escape(raw), f"The class name {_shown(raw)} {complaint}.")
        for raw in counts
        if (complaint := _complaint(raw))
    ]
    alike = defaultdict(list)
    for raw in counts:
        alike[_folded(raw)].append(raw)
    for names in alike.values():
        if len(names) > 1:
            listed = " and ".join(f"{_shown(name)} ({counts[name]:,} images)" for name in sorted(names))
            message = f"The class names {listed} differ too little to be told apart; give them one name."
            findings.append(Finding("ambiguous_class", Outcome.REJECT, escape(names[0]), message))
    clean = {raw: _cleaned(raw) for raw in counts}
    for raw, name in clean.items():
        if raw != name:
            message = f"The class {_shown(raw)} is called {name!r}."
            findings.append(Finding("class_renamed", Outcome.NORMALISE, name, message))
    return clean, findings


def _cleaned(raw: str) -> str:
    undecodable = any("\ud800" <= character <= "\udfff" for character in raw)
    return escape(raw.strip()) if undecodable else raw.strip()


def _complaint(raw: str) -> str | None:
    name = raw.strip(" ")
    if not name.strip():
        return "is blank"
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        return "holds a line break or another control character"
    if name in (".", "..") or "/" in name:
        return "looks like a path; leave out slashes and dots"
    if len(name.encode(errors="surrogatepass")) > 255:
        return "is longer than 255 bytes"
    return None


def _folded(raw: str) -> str:
    visible = "".join(c for c in unicodedata.normalize("NFC", raw) if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFC", " ".join(visible.split()).casefold())


def _shown(raw: str) -> str:
    """A name so that its blanks and odd characters can be seen, cut to a length that can be read."""
    text = ascii(raw)
    return text if len(text) <= 80 else f"{text[:76]}...'"


def finish(
    path: Path,
    *,
    format_name: str,
    samples: Sequence[Sample],
    classes: Mapping[str, int],
    multilabel: bool,
    findings: Sequence[Finding],
    judging: bool = False,
    task: str = "classification",
    keep_order: bool = False,
) -> Dataset:
    """Sorts, checks what every format must have, and makes the Dataset.

    Args:
        path: What the user named.
        format_name: The format that read it.
        samples: In any order, their annotations with clean class names.
        classes: Clean class names and how many images each was meant to have, before any was left out.
        multilabel: Whether an image may have several labels, or none.
        findings: Everything noticed so far; those that reject are raised.
        judging: Whether nothing is trained on it; classes without images, and a single class, are then
            reported.
        task: What the annotations ask for. Only a classifier needs two classes; for the others, classes that
            were meant to have no image, but stand in a list, are left out of the dataset.
        keep_order: Whether the classes stay in the order given; otherwise they are sorted.

    Raises:
        DataError: ``empty``, ``empty_class``, ``one_class`` or whatever the findings reject.
    """
    samples = sorted(samples, key=lambda sample: sample.key)
    counts = Counter(name for sample in samples if sample.annotation for name in sample.annotation.names)
    noticed = [*findings, *_case_collisions(samples)]
    if not samples:
        lost = Counter(finding.code for finding in findings if finding.outcome is Outcome.QUARANTINE)
        why = "".join(f"; {count:,} were left out: {code}" for code, count in lost.most_common())
        message = f"There is no image with a label that could be used{why}."
        noticed.append(Finding("empty", Outcome.REJECT, "", message))
    else:
        dense = task != "classification"
        unused = [name for name, count in classes.items() if dense and not count]
        classes = {name: count for name, count in classes.items() if name not in unused}
        noticed += _unused(unused)
        noticed += [
            Finding("empty_class", Outcome.REJECT, name, f"The class {name!r} has no image that can be used.")
            for name in classes
            if not counts[name]
        ]
        if len(classes) == 1 and not multilabel and not dense:
            message = f"There is only one class, {next(iter(classes))!r}; a classifier needs at least two."
            noticed.append(Finding("one_class", Outcome.REJECT, "", message))
    if judging:
        exclusive = task == "classification" and not multilabel
        noticed = _for_judging(noticed, [name for name in classes if counts[name]], multilabel=not exclusive)
    refuse(path, noticed)
    return Dataset(
        root=path,
        format=format_name,
        task=task,
        classes=tuple(classes) if keep_order else tuple(sorted(classes)),
        samples=tuple(samples),
        multilabel=multilabel,
        findings=tuple(noticed),
    )


def _unused(names: Sequence[str]) -> list[Finding]:
    """One sentence on the classes that are listed and never occur."""
    if not names:
        return []
    listed = ", ".join(names[:_MOST_NAMED])
    listed += f" and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return [
        Finding("unused_class", Outcome.WARN, "", f"Listed, but in no image, and so not learnt: {listed}.")
    ]


def _for_judging(findings: Sequence[Finding], classes: Sequence[str], *, multilabel: bool) -> list[Finding]:
    """Too few classes are no reason not to judge: they are told, in one sentence each, and not refused.

    Args:
        findings: As for training.
        classes: Those that have images.
        multilabel: Whether an image may have several labels, or none.
    """
    told = [finding for finding in findings if finding.code not in ("empty_class", "one_class")]
    empty = sorted({finding.where for finding in findings if finding.code == "empty_class"})
    if empty:
        listed = ", ".join(empty[:_MOST_NAMED])
        listed += f" and {len(empty) - _MOST_NAMED:,} more" if len(empty) > _MOST_NAMED else ""
        message = f"Without an image that can be used, and so not judged: {listed}."
        told.append(Finding("empty_class", Outcome.WARN, "", message))
    if len(classes) == 1 and not multilabel:
        message = (
            f"All images are of one class, {classes[0]!r}: the numbers say how often it is found, and not "
            "how often others are mistaken for it."
        )
        told.append(Finding("one_class", Outcome.WARN, "", message))
    return told


def _case_collisions(samples: Iterable[Sample]) -> list[Finding]:
    """Files whose keys are equal but for case: fine here, one file on other systems."""
    alike = defaultdict(list)
    for sample in samples:
        alike[sample.key.casefold()].append(sample.key)
    return [
        Finding(
            "case_collision",
            Outcome.WARN,
            keys[0],
            f"{' and '.join(keys)} differ only by case and would be one file on Windows or macOS.",
        )
        for keys in alike.values()
        if len(keys) > 1
    ]
