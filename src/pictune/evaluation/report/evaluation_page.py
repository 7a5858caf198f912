"""What the evaluation page shows, section by section: picked, ordered and worded, never computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pictune.evaluation.report import charts
from pictune.evaluation.report.pictures import Album
from pictune.evaluation.report.wording import (
    HEADLINES,
    MULTILABEL_HEADLINES,
    SHARES,
    amount,
    is_number,
    out_of,
    percent_span,
    plural,
    span,
    title_of,
)

Report = Mapping[str, Any]
Context = dict[str, Any]

# What bounds the size of the page, however many classes and images there are.
OPEN_CLASSES = 30  # rows of the per-class table that are seen at once
LISTED_CLASSES = 200  # rows that can be unfolded; the rest is in report.json
NUMBERED_CLASSES = 20  # up to here the confusion matrix is a table of counts
SHOWN_PAIRS = 8
PICTURES_PER_PAIR = 6
OPEN_MISTAKES = 10
SHOWN_MISTAKES = 24
OPEN_CURVES = 6

CLASS_METRICS = (
    *("ap", "ap50", "ap75", "iou", "dice", "precision", "recall", "f1"),
    *("specificity", "roc_auc", "average_precision", "boundary_f1"),
)
RANKED_BY = ("ap", "iou", "f1")  # the first that a class has orders the table
_SEVERITIES = {
    "critical": 0, "error": 0, "high": 0, "serious": 0, "reject": 0,
    "warning": 1, "warn": 1, "medium": 1, "quarantine": 1, "attention": 1,
}  # fmt: skip
PROBE_NUMBERS = ("val_accuracy", "val_macro_f1", "val_log_loss")
_SEVERITY_WORDS = ("Serious", "Attention", "Note")


def evaluation_context(report: Report, album: Album) -> Context:
    """Everything the evaluation template needs.

    Args:
        report: The content of ``report.json``, its texts made printable.
        album: The pictures beside mistakes.

    Returns:
        One entry a section; a section whose numbers are absent is None.
    """
    return {
        "report": report,
        "headline": _headline(report),
        "findings": ranked_findings(report.get("findings") or ()),
        "multilabel": multilabel(report),
        "metrics": _metrics(shown_metrics(report)),
        "per_class": _per_class(report.get("per_class") or (), unit=report.get("counted") or "images"),
        "confusion": _confusion(report.get("confusion")),
        "pairs": _pairs(report.get("confused_pairs") or (), album),
        "mistakes": _mistakes(report.get("mistakes") or (), album),
        "errors": _errors(report.get("kinds_of_error") or ()),
        "sizes": _sizes(report.get("sizes") or ()),
        "precision": _precision(report.get("precision_recall") or ()),
        "worst": _worst(report.get("worst_images") or (), album),
        "curves": _curves(report.get("curves")),
        "probe": _probe(report.get("probe") or ()),
        "reliability": _reliability(report),
        "origin": origin(report),
    }


def ranked_findings(findings: Sequence[Report]) -> list[Context]:
    """Findings with their severity in one of three words, the most severe first."""
    ranked = []
    for finding in findings:
        given = str(finding.get("severity") or finding.get("outcome") or "").lower()
        rank = _SEVERITIES.get(given, 2)
        ranked.append({**finding, "rank": rank, "word": _SEVERITY_WORDS[rank]})
    return sorted(ranked, key=lambda finding: finding["rank"])


def multilabel(report: Report) -> bool:
    """Whether an image may have several classes: then each class has a two-by-two matrix of its own."""
    return "by_class" in (report.get("confusion") or {})


def shown_metrics(report: Report) -> dict[str, Report]:
    """The metrics by the names they are shown under: with several labels, accuracy is an exact match."""
    metrics = report.get("metrics") or {}
    if not multilabel(report):
        return dict(metrics)
    return {"exact_match" if name == "accuracy" else name: measure for name, measure in metrics.items()}


def _headline(report: Report) -> Context:
    metrics = shown_metrics(report)
    names = [*(MULTILABEL_HEADLINES if multilabel(report) else HEADLINES), *metrics]
    measured = [name for name in names if is_number((metrics.get(name) or {}).get("value"))]
    name = measured[0] if measured else next((name for name in names if name in metrics), None)
    measure = metrics.get(name) or {} if name else {}
    return {
        "name": name,
        "measure": measure,
        "sentence": report.get("sentence") or _verdict(report, name, measure),
        "seen": _seen(report),
        "value": amount(name or "", measure.get("value")),
        "span": percent_span(measure) if name in SHARES else span(measure),
    }


def _verdict(report: Report, name: str | None, measure: Report) -> str:
    who = report.get("run") or "The model"
    value = measure.get("value")
    if name is None or not is_number(value):
        return f"There is no headline number for {who}."
    if name == "accuracy":
        number = report.get("n")
        if value == 1 and is_number(number):
            return f"{who} gets all {plural(number, 'image')} right."
        return f"{who} gets {out_of(value)} images right."
    return f"{who} reaches a {title_of(name)} of {amount(name, value)}."


def _seen(report: Report) -> str:
    """How far the images were new to the model, which decides how much the number is worth."""
    chosen_here = " on " in (by := str(report.get("selected_by") or "")) and "val" in by.split(" on ")[-1]
    match report.get("split"):
        case "test":
            return "Measured on images that were used neither to train the model nor to choose it."
        case "val" if chosen_here:
            return "These images also chose the model, so the number flatters it a little."
        case "train":
            return "The model learned from these very images, so the number says nothing about new ones."
        case _:
            return ""


def _metrics(metrics: Mapping[str, Report]) -> Context | None:
    """Every metric with the track it is drawn on: zero to one, or further for an open-ended one.

    Averages that repeat others in most tasks are folded away.
    """
    rows: list[Context] = []
    for name, measure in metrics.items():
        reach = max((measure[end] for end in ("value", "high") if is_number(measure.get(end))), default=0.0)
        floor = min((measure[end] for end in ("value", "low") if is_number(measure.get(end))), default=0.0)
        top = 1.0 if reach <= 1 else charts.scale(0.0, reach)[-1]
        bar = charts.interval_bar(measure, label=title_of(name), top=top) if floor >= 0 else None
        rows.append({"name": name, "measure": measure, "top": top, "bar": bar})
    folded = [row for row in rows if row["name"].startswith(("micro_", "weighted_"))]
    opened = [row for row in rows if row not in folded]
    return {"open": opened, "folded": folded} if rows else None


def _per_class(rows: Sequence[Report], *, unit: str) -> Context | None:
    if not rows:
        return None

    by = next((name for name in RANKED_BY if rows[0].get(name)), "f1")

    def weakness(row: Report) -> tuple[bool, float]:
        value = (row.get(by) or {}).get("value")
        return (False, value) if is_number(value) else (True, 0.0)

    ordered = sorted(rows, key=weakness)
    columns = [name for name in CLASS_METRICS if any(row.get(name) for row in rows)]
    bars = [
        {
            "class": row["class"],
            "measure": row[by],
            "bar": charts.interval_bar(row[by], label=row["class"]),
        }
        for row in ordered[:OPEN_CLASSES]
        if row.get(by)
    ]
    counted = [name for name in ("tp", "fn", "fp", "tn") if any(name in row for row in rows)]
    return {
        "by": by,
        "unit": unit,
        "counted": counted,
        "thresholds": any("threshold" in row for row in rows),
        "columns": columns,
        "open": ordered[:OPEN_CLASSES],
        "folded": ordered[OPEN_CLASSES:LISTED_CLASSES],
        "left_out": max(0, len(rows) - LISTED_CLASSES),
        "bars": bars,
    }


def _confusion(confusion: Report | None) -> Context | None:
    if not confusion or not confusion.get("counts"):
        return None
    classes, counts = confusion["classes"], confusion["counts"]
    if len(classes) > NUMBERED_CLASSES:
        title = f"Confusion map of {len(classes)} classes: rows are the truth, columns the answer"
        drawn, step = charts.compact_map(counts, title=title)
        return {"rows": None, "map": drawn, "step": step, "classes": classes}
    rows = [
        {"class": classes[row], "cells": [_cell(line, row, column) for column in range(len(line))]}
        for row, line in enumerate(counts)
    ]
    return {"rows": rows, "classes": classes}


def _cell(line: Sequence[int], row: int, column: int) -> Context:
    share = line[column] / max(1, sum(line))
    if row == column:
        return {"count": line[column], "tint": f"right-{charts.right_level(share)}"}
    return {"count": line[column], "tint": f"wrong-{charts.wrong_level(share)}"}


def _pairs(pairs: Sequence[Report], album: Album) -> list[Context]:
    return [{**pair, "pictures": _pictures(pair.get("keys") or (), album)} for pair in pairs[:SHOWN_PAIRS]]


def _pictures(keys: Sequence[str], album: Album) -> list[Context]:
    found = [{"key": key, "picture": album(key)} for key in keys[:PICTURES_PER_PAIR]]
    return [entry for entry in found if entry["picture"]]


def _mistakes(mistakes: Sequence[Report], album: Album) -> Context | None:
    if not mistakes:
        return None
    shown = [{**mistake, "picture": album(mistake["key"])} for mistake in mistakes[:SHOWN_MISTAKES]]
    return {
        "open": shown[:OPEN_MISTAKES],
        "folded": shown[OPEN_MISTAKES:],
        "pictured": any(mistake["picture"] for mistake in shown),
    }


def _worst(images: Sequence[Report], album: Album) -> list[Context]:
    """The images that did worst, those with a picture, each with what is told of it."""
    shown = [{**image, "picture": album(image["key"])} for image in images[:SHOWN_MISTAKES]]
    return [image for image in shown if image["picture"]]


def _errors(kinds: Sequence[Report]) -> list[Context]:
    """Kinds of error with their share of all, as bars; those that do not occur left out."""
    total = sum(kind["count"] for kind in kinds)
    most = max((kind["count"] for kind in kinds), default=0)
    return [
        {
            **kind,
            "share": kind["count"] / total,
            "bar": charts.stacked_bar([(kind["told"], kind["count"])], label=kind["kind"], top=most),
        }
        for kind in kinds
        if kind["count"]
    ]


def _sizes(groups: Sequence[Report]) -> list[Context]:
    """Groups of objects by size, with what was found of them."""
    named = [(group, f"{group['from']:.0f} to {group['to']:.0f} pixels") for group in groups]
    return [
        {**group, "name": name, "bar": charts.interval_bar(group["recall"], label=name)}
        for group, name in named
    ]


def _precision(curves: Sequence[Report]) -> Context | None:
    """A small chart a class; those beyond the first few are unfolded."""
    drawn = [{**curve, "chart": charts.precision_chart(curve)} for curve in curves]
    return {"open": drawn[:OPEN_CURVES], "folded": drawn[OPEN_CURVES:]} if drawn else None


def _curves(curves: Report | None) -> Context | None:
    """One chart a quantity that was followed over the epochs: the loss first, then the scores."""
    if not curves or not curves.get("epochs"):
        return None
    epochs = curves["epochs"]
    best = curves.get("best_epoch")
    mark = (
        (float(best), f"best epoch {best}") if is_number(best) and epochs[0] <= best <= epochs[-1] else None
    )
    names = [n.removeprefix(p) for n in curves for p in ("train_", "val_") if n.startswith(p)]
    drawn = []
    for name in sorted(dict.fromkeys(names), key=lambda name: name != "loss"):
        series = [
            charts.Series(word, style, _points(epochs, curves.get(f"{style}_{name}")))
            for style, word in (("train", "training"), ("val", "validation"))
        ]
        series = [line for line in series if line.points]
        if series:
            title = f"{title_of(name)} over epochs {epochs[0]} to {epochs[-1]}: {_ends(series)}"
            drawn.append(
                {"name": name, "series": series, "chart": charts.line_chart(series, title=title, mark=mark)}
            )
    rate = _points(epochs, curves.get("learning_rate"))
    if rate:
        line = charts.Series("learning rate", "rate", rate)
        drawn.append(
            {
                "name": "learning_rate",
                "series": [line],
                "chart": charts.line_chart([line], title="Learning rate over epochs"),
            }
        )
    return {"charts": drawn, "verdict": curves.get("verdict"), "best": best} if drawn else None


def _probe(rows: Sequence[Mapping[str, float]]) -> Context | None:
    """The heads that were tried before training, best first: a column a setting, and the main numbers."""
    if not rows:
        return None
    columns = [name for name in rows[0] if not name.startswith("val_") or name in PROBE_NUMBERS]
    shown = [
        [f"{row[name]:.3f}" if name in PROBE_NUMBERS else f"{row[name]:g}" for name in columns]
        for row in rows
    ]
    return {"columns": columns, "rows": shown}


def _points(epochs: Sequence[float], values: Sequence[Any] | None) -> list[tuple[float, float]]:
    return [(float(e), float(v)) for e, v in zip(epochs, values or (), strict=False) if is_number(v)]


def _ends(series: Sequence[charts.Series]) -> str:
    return "; ".join(
        f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in series
    )


def _reliability(report: Report) -> Context | None:
    given = report.get("reliability") or ()
    rows = given.get("bins") or () if isinstance(given, Mapping) else given
    bins = [
        charts.Bin(row["confidence"], row["accuracy"], row.get("count") or 0, row.get("low"), row.get("high"))
        for row in rows
        if is_number(row.get("confidence")) and is_number(row.get("accuracy"))
    ]
    if not bins:
        return None
    title = f"Share of right answers against confidence, in {plural(len(bins), 'group')} of answers"
    return {
        "bins": bins,
        "whiskers": any(bin_.low is not None for bin_ in bins),
        "chart": charts.reliability_chart(bins, title=title),
        "ece": (report.get("metrics") or {}).get("ece"),
    }


def origin(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Where the numbers come from: names and values under a few headings, as plain text."""
    groups = []
    for title, name in (
        ("Model", "model"),
        ("Dataset", "dataset"),
        ("Training", "training"),
        ("Settings", "settings"),
        ("Measured with", "created_with"),
    ):
        rows = _flat(report.get(name))
        if rows:
            groups.append((title, rows))
    return groups


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of dotted names; a list is shown by its length when it is long."""
    if value is None or value == "":
        return []
    if isinstance(value, Mapping):
        return [
            row for key, inner in value.items() for row in _flat(inner, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, list) and len(value) > 5:
        return [(name, str(len(value)))]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    return [
        (name, f"{value:,}".replace(",", "\u202f") if isinstance(value, int) and value > 9999 else str(value))
    ]
