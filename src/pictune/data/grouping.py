"""Which images belong together, so that no split separates them: a column, a pattern, or what EXIF says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from pictune.data.finding import Finding, Outcome
from pictune.data.headers import Exif
from pictune.data.sample import Dataset
from pictune.errors import DataError

_MOST_LISTED = 5


def group_samples(
    dataset: Dataset, by: str, *, exif: Sequence[Exif] | None = None, required: bool = True
) -> Dataset:
    """Gives the samples their groups.

    Args:
        dataset: Its samples keep their order.
        by: ``column`` for the groups a table brought along; ``re:PATTERN`` for what a regular expression
            finds in the key (its first group, or all of the match); ``exif:date`` for the day a picture
            was taken; ``exif:camera`` for the camera.
        exif: (n) what the files say about when and with which camera they were taken.
        required: Whether a rule that finds nothing is an error. Where a model is judged on other images
            than its own, the rule is only a wish: the images keep the groups they have, and a warning
            says what that does to the intervals.

    Returns:
        The dataset with groups. Images for which nothing is found stand for themselves and are reported.

    Raises:
        DataError: ``bad_grouping`` for a rule that can't be used, ``no_groups`` when it finds nothing.
    """
    groups = _groups(dataset, by, exif)
    without = [sample.key for sample, group in zip(dataset.samples, groups, strict=True) if group is None]
    if without and len(without) == len(groups):
        if not required:
            return replace(dataset, findings=(*dataset.findings, _without_groups(dataset, by)))
        examples = ", ".join(without[:_MOST_LISTED])
        raise DataError(
            f"--group-by {by} finds a group for none of {len(groups):,} images",
            code="no_groups",
            causes=[f"the first keys are {examples}"] if examples else [],
            instead="Change the rule, or leave it out.",
        )
    samples = tuple(
        replace(sample, group=group) for sample, group in zip(dataset.samples, groups, strict=True)
    )
    findings = dataset.findings
    if without:
        examples = ", ".join(without[:_MOST_LISTED])
        message = (
            f"--group-by {by} finds no group for {len(without):,} of {len(groups):,} images, such as "
            f"{examples}; each of them stands for itself."
        )
        findings = (*findings, Finding("ungrouped", Outcome.WARN, "", message))
    return replace(dataset, samples=samples, findings=findings)


def _without_groups(dataset: Dataset, by: str) -> Finding:
    why = "nothing here names groups"
    if by != "column":
        why = f"--group-by {by} finds a group for none of these {len(dataset):,} images"
    instead = "every interval counts each image for itself, and is too narrow where several belong together"
    if any(sample.group is not None for sample in dataset.samples):
        instead = "the groups that the table names are used instead"
    message = f"The model's own data were grouped, but {why}: {instead}."
    return Finding("ungrouped", Outcome.WARN, "", message)


def _groups(dataset: Dataset, by: str, exif: Sequence[Exif] | None) -> list[str | None]:
    kind, _, rule = by.partition(":")
    if by == "column":
        return [sample.group for sample in dataset.samples]
    if kind == "re" and rule:
        return _matches(rule, [sample.key for sample in dataset.samples])
    if by in ("exif:date", "exif:camera"):
        if exif is None:
            raise DataError(
                f"--group-by {by} needs what the files say, and they were not opened",
                code="bad_grouping",
                instead="Read the images first.",
            )
        return [(said.date if rule == "date" else _camera(said)) or None for said in exif]
    raise DataError(
        f"{by!r} is no way to group images",
        code="bad_grouping",
        instead="Choose one of column, re:PATTERN, exif:date, exif:camera.",
    )


def _camera(said: Exif) -> str:
    """Maker, model and serial number as far as they are known."""
    return " ".join(part for part in (said.make, said.model, said.serial) if part)


def _matches(pattern: str, keys: Sequence[str]) -> list[str | None]:
    """What the pattern finds in each key; an empty find is none."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(
            f"{pattern!r} is no regular expression: {error}",
            code="bad_grouping",
            instead=r"An example: re:^[^/]+/(patient\d+)_ takes patient12 from cats/patient12_3.jpg.",
        ) from None
    found = (compiled.search(key) for key in keys)
    return [match.group(1 if compiled.groups else 0) or None if match else None for match in found]
