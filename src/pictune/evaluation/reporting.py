"""`Report`: numbers with intervals in a folder, and the sentences one would say about them.

reports/test/
    report.json      everything, in a stable shape
    report.html      the same as one page that loads nothing
    per_class.csv, confusion.csv, predictions.csv
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictune.data.sample import SPLITS
from pictune.errors import RunError
from pictune.evaluation.findings import SEVERITIES
from pictune.evaluation.measurement import Measured, Measurement
from pictune.evaluation.report.evaluation_page import shown_metrics
from pictune.evaluation.report.page import render_report
from pictune.evaluation.report.pictures import Picture
from pictune.evaluation.tables import write_tables
from pictune.files import write_json, write_text

SHOWN_FIRST = (
    *("accuracy", "exact_match", "balanced_accuracy", "macro_f1", "macro_roc_auc", "log_loss", "ece"),
    *("map", "map50", "map75", "precision", "recall", "mean_iou", "dice", "pixel_accuracy", "boundary_f1"),
)
RANKED_BY = ("ap", "iou", "f1")  # the first that a class has says how weak it is
WORST_CLASSES = 5
SENTENCES = 5


@dataclass(frozen=True)
class Report:
    """Numbers with intervals, tables, pictures, findings.

    Args:
        folder: Where it lies.
        content: What report.json holds.
    """

    folder: Path
    content: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Each metric's ``value``, ``low`` and ``high``; None with a ``reason`` when it has no meaning."""
        metrics: Mapping[str, Mapping[str, Any]] = self.content["metrics"]
        return metrics

    def summary(self) -> str:
        """The report in a few lines of text."""
        content, metrics = self.content, shown_metrics(self.content)
        percent = f"{100 * content['confidence']:g}"
        which = f"the {content['split']} split" if content["split"] in SPLITS else content["split"]
        lines = [
            f"{content['run']} on {content['n']:,} pictures of {which} (in brackets: {percent} % intervals)",
            "",
        ]
        for name in SHOWN_FIRST:
            if name in metrics:
                lines.append(f"  {name.replace('_', ' '):<20}{_with_interval(metrics[name])}")
        weak, by = _weakest(content["per_class"])
        if weak:
            unit = content.get("counted", "images")
            lines += ["", f"  weakest classes       {by:<25}recall                   {unit}"]
            for row in weak:
                score, recall = _with_interval(row[by]), _with_interval(row["recall"])
                lines.append(f"  {row['class'][:20]:<22}{score:<25}{recall:<25}{row['support']}")
        # How little is known of a class is seen in its interval above.
        told = [finding["message"] for finding in content["findings"] if finding["code"] != "few_images"]
        if told:
            lines += ["", *(f"  {message}" for message in told[:SENTENCES])]
        return "\n".join([*lines, "", f"  report: {self.folder / 'report.html'}"])

    @classmethod
    def open(cls, folder: Path) -> Report:
        """Reads a report that `write_report` wrote.

        Raises:
            RunError: When there is none, or it is damaged.
        """
        try:
            content = json.loads((folder / "report.json").read_text())
        except FileNotFoundError:
            raise RunError(
                f"there is no report in {folder}", instead="Make one with: pictune evaluate"
            ) from None
        except (OSError, ValueError) as error:
            raise RunError(f"the report in {folder} cannot be read: {error}") from None
        return cls(folder, content)


def _with_interval(measure: Mapping[str, Any]) -> str:
    if measure["value"] is None:
        return "n/a"
    if measure["low"] is None:
        return f"{measure['value']:.3f} (no interval: {measure.get('reason') or 'not available'})"
    return f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def _weakest(rows: list[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str]:
    """The classes that do worst, and by which number."""
    by = next((name for name in RANKED_BY if rows and name in rows[0]), RANKED_BY[0])
    told = [row for row in rows if row[by]["value"] is not None and row[by]["value"] < 1]
    return sorted(told, key=lambda row: row[by]["value"])[:WORST_CLASSES], by


def write_report(
    folder: Path,
    measurement: Measurement | Measured,
    facts: Mapping[str, Any],
    *,
    pictures: Mapping[str, Picture],
) -> Report:
    """Writes report.json, the CSV tables and report.html.

    Args:
        folder: An existing folder; files of an earlier report in it are replaced.
        measurement: The numbers.
        facts: What else the report tells: task, run, split, dataset, model, curves, findings to add.
        pictures: Small pictures by key, for the confused pairs, the worst mistakes and the worst images.
    """
    measured = measurement.to_json()
    findings = [*facts.get("findings", []), *measured["findings"]]
    findings.sort(key=lambda finding: SEVERITIES.index(finding["severity"]))
    content = {**facts, **measured, "findings": findings}
    write_tables(measurement, folder)
    write_text(folder / "report.html", render_report(content, pictures=pictures))
    write_json(folder / "report.json", content)
    return Report(folder, content)
