"""From the audit's table to plain sentences: what to do, the most serious first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from pictune.data.formats.boxes import LOST_BOXES
from pictune.data.splitting import IMBALANCE

FEW = 20  # images of a class; with fewer, an interval is wider than most differences that matter

_SEVERITIES = ("serious", "attention", "note")
_SHOWN = 10

Table = Mapping[str, Any]
Row = tuple[str, str, str]  # severity, code, message


def conclusions(table: Table) -> list[dict[str, str]]:
    """Sentences with a ``severity`` (serious, attention, note), a ``code`` and a ``message``.

    Args:
        table: The audit's table but for its conclusions.
    """
    parts = (_stopping, _splits, _labels, _repeats, _images, _notes)
    rows = [row for part in parts for row in part(table)]
    rows.sort(key=lambda row: _SEVERITIES.index(row[0]))
    if all(severity == "note" for severity, _, _ in rows):
        rows.insert(0, ("note", "ready", "Nothing was found that speaks against training on these data."))
    return [{"severity": severity, "code": code, "message": message} for severity, code, message in rows]


def _by_code(table: Table) -> dict[str, list[Mapping[str, str]]]:
    found = defaultdict(list)
    for finding in table["findings"]:
        found[finding["code"]].append(finding)
    return found


def _stopping(table: Table) -> Iterator[Row]:
    """What makes training stop before it begins."""
    found = _by_code(table)
    without_range = found["needs_range"]
    if without_range:
        message = (
            f"Training would stop: nothing says which values are black and white in "
            f"{_many(len(without_range), 'image')} of floats or long integers. Declare these values, such as "
            f"with --set 'data.value_range=[0, 1]', or save with 8 or 16 bits: {_names(without_range)}."
        )
        yield "serious", "needs_range", message
    lost = [repr(name) for name, counts in table["counts"].items() if not sum(counts.values())]
    if lost:
        message = (
            f"Training would stop: no image of {_first_of(lost)} can be used. Repair the images, or remove "
            "them and their class."
        )
        yield "serious", "class_lost", message
    for code in ("too_many_bad", "too_many_bad_boxes"):
        for finding in found[code]:
            yield "serious", code, finding["message"]


def _splits(table: Table) -> Iterator[Row]:
    found = _by_code(table)
    leaks = [leak for leak in table["leaks"] if leak["kind"] != "look"]
    if leaks:
        message = (
            f"{_many(len(leaks), 'set')} of equal files or of one group stand in several splits, so figures "
            "on them mean nothing. Remove one of each, or let pictune make the splits. "
            f"First: {_first(leaks)}."
        )
        yield "serious", "leak", message
    if "class_not_in_train" in found:
        names = _names(found["class_not_in_train"])
        yield "serious", "class_not_in_train", f"Not in train, so never learnt: {names}. Add train images."
    for finding in found["near_leak"]:
        yield "attention", "near_leak", finding["message"]
    for code, what in (
        ("not_evaluated", "In train only, so learnt but not evaluated"),
        ("class_not_in_val", "Not in val, so without figures there"),
        ("class_not_in_test", "Not in test, so without figures there"),
    ):
        if found[code]:
            yield "attention", code, f"{what}: {_names(found[code])}. Add images of them."


def _labels(table: Table) -> Iterator[Row]:
    if table["conflicts"]:
        message = (
            f"{_many(len(table['conflicts']), 'image')} under different labels: decide which is right, and "
            f"remove the others. First: {_first(table['conflicts'])}."
        )
        yield "serious", "conflicting_label", message
    imbalance = table["imbalance"]
    if imbalance and imbalance["ratio"] >= IMBALANCE:
        message = (
            f"{imbalance['largest']!r} has {imbalance['ratio']:,.0f} times as many images as "
            f"{imbalance['smallest']!r} ({imbalance['images'][0]:,} to {imbalance['images'][1]:,}). Judge by "
            "balanced accuracy and class by class, not by accuracy."
        )
        yield "attention", "imbalance", message
    totals = {name: sum(counts.values()) for name, counts in table["counts"].items()}
    few = [f"{name!r} ({total})" for name, total in totals.items() if 0 < total < FEW]
    if few:
        message = f"Fewer than {FEW} images: {_first_of(few)}. Their figures will be rough; add images."
        yield "attention", "few_images", message


def _repeats(table: Table) -> Iterator[Row]:
    told = [row["keys"] for row in table["conflicts"]]  # those need a decision first
    exact = [row for row in table["duplicates"] if row["kind"] == "file" and row["keys"] not in told]
    near = [row for row in table["duplicates"] if row["kind"] == "look"]
    if exact:
        spare = sum(len(row["keys"]) - 1 for row in exact)
        message = f"Remove {_many(spare, 'file')} repeating another one byte for byte: copies add nothing."
        yield "attention", "duplicate", message
    if near:
        images = sum(len(row["keys"]) for row in near)
        message = (
            f"{images:,} images in {_many(len(near), 'set')} look the same within their set; a split that "
            "pictune makes keeps each set together."
        )
        yield "note", "near_duplicate", message


def _images(table: Table) -> Iterator[Row]:
    left_out = [row for row in table["codes"] if row["outcome"] == "quarantine"]
    for boxes, noun, advice in (
        (False, "file", "Repair or remove them."),
        (True, "object", "Their images stay; put the annotations right."),
    ):
        codes = [row for row in left_out if (row["code"] in LOST_BOXES) == boxes]
        if not codes:
            continue
        listed = ", ".join(f"{row['count']:,} {row['code']}" for row in codes)
        total = sum(row["count"] for row in codes)
        known = {row["code"] for row in codes}
        found = [r for r in table["findings"] if r["outcome"] == "quarantine" and r["code"] in known]
        first = f" The first: {found[0]['message']}" if found else ""
        message = f"Left out: {_many(total, noun)} ({listed}): {_names(found)}. {advice}{first}"
        yield "attention", "left_out", message
    words = {
        "constant": "of one colour throughout",
        "dark": "far darker than the others",
        "bright": "far brighter than the others",
        "blurred": "far more blurred than the others",
    }
    reasons = Counter(row["reason"] for row in table["outliers"])
    for reason, what in words.items():
        if reasons[reason]:
            first = next(row["key"] for row in table["outliers"] if row["reason"] == reason)
            message = f"Look at {_many(reasons[reason], 'image')} {what}, such as {first}."
            yield "attention", reason, message


def _notes(table: Table) -> Iterator[Row]:
    """Findings whose own words say it best."""
    found = _by_code(table)
    for code in ("no_test", "possible_group", "ungrouped"):
        for finding in found[code]:
            yield "attention", code, finding["message"]
    for code in ("case_collision", "ignored", "clipped_box"):
        for finding in found[code][:1]:
            yield "note", code, finding["message"]
    if found["wrong_extension"]:
        count = _many(len(found["wrong_extension"]), "file")
        yield "note", "wrong_extension", f"{count} named otherwise than by content; the content counts."


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def _names(findings: list[Mapping[str, str]]) -> str:
    return _first_of([repr(finding["where"]) for finding in findings])


def _first_of(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _first(sets: list[Mapping[str, Any]]) -> str:
    return " and ".join(sets[0]["keys"][:_SHOWN])
