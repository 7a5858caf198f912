"""What the audit page shows, section by section: picked, ordered and worded, never computed.

The audit's JSON, every part optional:

    data         what the dataset is called; beside it "format", "task", "images" and "fingerprint"
    conclusions  [{"severity", "message", "code"}] or plain sentences, the weightiest first
    counts       {class: {split: images}}
    sizes        [{"width", "height", "count"}], the most frequent first
    findings     [{"code", "outcome", "where", "message"}]
    duplicates, leaks, conflicts   [{"keys": [...], "splits": [...], "labels": [...]}]
    outliers     [{"key", "class", "reason"}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pictune.evaluation.report import charts
from pictune.evaluation.report.evaluation_page import origin, ranked_findings
from pictune.evaluation.report.pictures import Album

Audit = Mapping[str, Any]
Context = dict[str, Any]

# What bounds the size of the page, however large the dataset is.
OPEN_CLASSES = 30
LISTED_CLASSES = 200
LISTED_FILES = 50
SHOWN_GROUPS = 12
PICTURES_PER_GROUP = 6
SHOWN_OUTLIERS = 20
SHOWN_SIZES = 8

_OUTCOMES = {
    "reject": "stops the work",
    "quarantine": "left out",
    "normalise": "converted",
    "warn": "used as it is",
}
_DATASET = ("data", "format", "task", "images", "fingerprint")
_SPLITS = ("train", "val", "test")


def audit_context(audit: Audit, album: Album) -> Context:
    """Everything the audit template needs.

    Args:
        audit: What the audit found, its texts made printable.
        album: The pictures beside duplicates, leaks, conflicts and outliers.
    """
    dataset = {name: audit[name] for name in _DATASET if audit.get(name) not in (None, "")}
    conclusions = _conclusions(audit.get("conclusions") or ())
    return {
        "audit": audit,
        "dataset": dataset,
        "headline": _first_sentence(conclusions[0]["message"])
        if conclusions
        else "Nothing stands in the way of training.",
        "conclusions": conclusions,
        "counts": _counts(audit.get("counts") or {}),
        "sizes": _sizes(audit.get("sizes") or ()),
        "problems": _problems(audit.get("findings") or ()),
        "sections": [
            ("leaks", "Leaks", "The same picture on both sides of a split: the model would be tested on "
             "what it learned.", _groups(audit.get("leaks"), album)),
            ("conflicts", "Conflicting labels", "The same picture under different labels: one of them is "
             "wrong.", _groups(audit.get("conflicts"), album)),
            ("duplicates", "Duplicates", "The same picture more than once. A split that pictune makes keeps "
             "them together.", _groups(audit.get("duplicates"), album)),
        ],
        "outliers": _outliers(audit.get("outliers") or (), album),
        "origin": origin({"dataset": dataset, "created_with": audit.get("created_with")}),
    }  # fmt: skip


def _conclusions(given: Sequence[Any]) -> list[Context]:
    plain = [{"message": entry} if isinstance(entry, str) else entry for entry in given]
    return ranked_findings(plain)


def _first_sentence(message: str) -> str:
    """As much as a headline can carry; the rest stands below."""
    return message.split(". ", 1)[0].removesuffix(".") + "."


def _counts(counts: Mapping[str, Any]) -> Context | None:
    """One row a class, in the audit's order, with a bar of its splits."""
    if not counts:
        return None
    by_split = {
        name: split if isinstance(split, Mapping) else {"images": split} for name, split in counts.items()
    }
    found = dict.fromkeys(name for splits in by_split.values() for name in splits)
    names = [name for name in _SPLITS if name in found] + [name for name in found if name not in _SPLITS]
    amounts = {label: [splits.get(name) or 0 for name in names] for label, splits in by_split.items()}
    top = max((sum(row) for row in amounts.values()), default=0) or 1
    rows = [
        {
            "class": label,
            "amounts": row,
            "bar": charts.stacked_bar(list(zip(names, row, strict=True)), label=label, top=top),
        }
        for label, row in list(amounts.items())[:LISTED_CLASSES]
    ]
    return {
        "splits": names,
        "open": rows[:OPEN_CLASSES],
        "folded": rows[OPEN_CLASSES:],
        "left_out": max(0, len(amounts) - LISTED_CLASSES),
    }


def _sizes(sizes: Sequence[Audit]) -> Context | None:
    if not sizes:
        return None
    shown = sizes[:SHOWN_SIZES]
    top = max(size["count"] for size in shown) or 1
    rows = [
        {**size, "bar": charts.stacked_bar([("images", size["count"])], label=_size(size), top=top)}
        for size in shown
    ]
    return {"rows": rows, "left_out": len(sizes) - len(shown)}


def _size(size: Audit) -> str:
    return f"{size['width']} × {size['height']}"


def _problems(findings: Sequence[Audit]) -> list[Context]:
    """Findings under their reason codes, the most severe and then the most frequent first.

    What concerns the dataset as a whole is no file's problem; the conclusions tell it.
    """
    by_code: dict[str, list[Context]] = {}
    for finding in ranked_findings([finding for finding in findings if finding.get("where")]):
        by_code.setdefault(str(finding.get("code") or "other"), []).append(finding)
    groups = [
        {
            "code": code,
            "rank": rows[0]["rank"],
            "count": len(rows),
            "outcome": _OUTCOMES.get(str(rows[0].get("outcome") or "").lower(), rows[0]["word"].lower()),
            "shown": rows[:LISTED_FILES],
        }
        for code, rows in by_code.items()
    ]
    return sorted(groups, key=lambda group: (group["rank"], -group["count"]))


def _groups(groups: Sequence[Audit] | None, album: Album) -> Context | None:
    if not groups:
        return None
    shown = []
    for group in groups[:SHOWN_GROUPS]:
        keys = group["keys"][:PICTURES_PER_GROUP]
        notes = [_note(group, position) for position in range(len(keys))]
        members = [
            {"key": key, "note": note, "picture": album(key)} for key, note in zip(keys, notes, strict=True)
        ]
        shown.append({"members": members, "count": len(group["keys"])})
    return {"shown": shown, "count": len(groups)}


def _note(group: Audit, position: int) -> str:
    """The split and the label of one member, as far as the audit tells them."""
    columns = [group.get("splits") or (), group.get("labels") or ()]
    words = [column[position] for column in columns if position < len(column)]
    return " · ".join(word if isinstance(word, str) else ", ".join(map(str, word or ())) for word in words)


def _outliers(outliers: Sequence[Audit], album: Album) -> list[Context]:
    return [{**outlier, "picture": album(outlier["key"])} for outlier in outliers[:SHOWN_OUTLIERS]]
