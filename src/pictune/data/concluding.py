"""From the audit's table to plain sentences: what to do, the most serious first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

IMBALANCE = 10.0  # from this ratio of the largest to the smallest class on, accuracy alone misleads
FEW = 20  # images of a class; with fewer, an interval is wider than most differences that matter

_SEVERITIES = ("serious", "attention", "note")


def conclusions(table: Mapping[str, Any]) -> list[dict[str, str]]:
    """Sentences with a severity (``serious``, ``attention``, ``note``) and a code, most serious first.

    Args:
        table: The audit's table but for its conclusions.
    """
    found = {finding["code"]: finding for finding in table["findings"]}
    rows = [*_splits(found), *_labels(table, found), *_repeats(table, found), *_images(table, found)]
    rows.sort(key=lambda row: _SEVERITIES.index(row[0]))
    if not any(severity != "note" for severity, _, _ in rows):
        rows.insert(0, ("note", "ready", "Nothing was found that speaks against training on these data."))
    return [{"severity": severity, "code": code, "text": text} for severity, code, text in rows]


Row = tuple[str, str, str]


def _splits(found: Mapping[str, Any]) -> Iterator[Row]:
    if "leak" in found:
        text = (
            f"{_count(found, 'leak', 'set')} of equal files or of one group stand in several splits: figures "
            "on them are worthless. Remove one of each, or let pictune make the splits."
        )
        yield "serious", "leak", text
    if "near_leak" in found:
        yield "attention", "near_leak", found["near_leak"]["examples"][0]["message"]
    if "not_evaluated" in found:
        names = ", ".join(repr(example["where"]) for example in found["not_evaluated"]["examples"])
        text = f"These classes are learnt but never evaluated, for want of images: {names}. Add images."
        yield "attention", "not_evaluated", text
    for code, split in (("class_not_in_val", "val"), ("class_not_in_test", "test")):
        if code in found:
            names = ", ".join(repr(example["where"]) for example in found[code]["examples"])
            yield "attention", code, f"These classes are not in {split}: {names}. Add images of them."
    for code in ("no_test", "possible_group", "ungrouped"):
        if code in found:
            yield "attention", code, found[code]["examples"][0]["message"]


def _labels(table: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    if "conflicting_label" in found:
        example = found["conflicting_label"]["examples"][0]["message"]
        text = f"{_count(found, 'conflicting_label', 'image')} under different labels. First: {example}"
        yield "serious", "conflicting_label", text
    imbalance = table["imbalance"]
    if imbalance and imbalance["ratio"] >= IMBALANCE:
        text = (
            f"{imbalance['largest']!r} has {imbalance['ratio']:,.0f} times as many images as "
            f"{imbalance['smallest']!r} ({imbalance['images'][0]:,} to {imbalance['images'][1]:,}). Judge by "
            "balanced accuracy and by class, not by accuracy."
        )
        yield "attention", "imbalance", text
    few = [row for row in table["classes"] if row["images"] < FEW]
    if few:
        listed = ", ".join(f"{row['class']!r} ({row['images']})" for row in few[:10])
        more = f" and {len(few) - 10:,} more" if len(few) > 10 else ""
        text = f"These classes have fewer than {FEW} images: {listed}{more}. Their figures will be rough."
        yield "attention", "few_images", text


def _repeats(table: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    exact, near = table["duplicates"]["exact"], table["duplicates"]["near"]
    if exact["sets"]:
        spare = exact["images"] - exact["sets"]
        text = f"{spare:,} files repeat another one byte for byte; they add nothing and can be removed."
        yield "attention", "duplicate", text
    if near["sets"]:
        text = (
            f"{near['images']:,} images in {near['sets']:,} sets look the same within their set; "
            "a split that pictune makes keeps each set together."
        )
        yield "note", "near_duplicate", text
    if "case_collision" in found:
        yield "note", "case_collision", found["case_collision"]["examples"][0]["message"]


def _images(table: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Row]:
    left_out = [row for row in table["findings"] if row["outcome"] == "quarantine"]
    if left_out:
        listed = ", ".join(f"{row['count']:,} {row['code']}" for row in left_out)
        total = sum(row["count"] for row in left_out)
        text = f"{total:,} files or lines were left out ({listed}). Repair or remove them."
        yield "attention", "left_out", text
    words = {
        "constant": "are of one colour throughout",
        "dark": "are far darker than the others",
        "bright": "are far brighter than the others",
        "blurred": "are far more blurred than the others",
    }
    for kind, what in words.items():
        keys = table["outliers"][kind]
        if keys:
            yield "attention", kind, f"{len(keys):,} images {what}, such as {keys[0]}. Look at them."
    if "wrong_extension" in found:
        text = f"{_count(found, 'wrong_extension', 'file')} named otherwise than by content; no harm is done."
        yield "note", "wrong_extension", text
    if "ignored" in found:
        yield "note", "ignored", found["ignored"]["examples"][0]["message"]


def _count(found: Mapping[str, Any], code: str, noun: str) -> str:
    count = found[code]["count"]
    return f"{count:,} {noun}{'s' if count > 1 else ''}"
