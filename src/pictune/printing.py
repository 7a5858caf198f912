"""Results as they are printed: sentences, or with ``--json`` one object."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pictune.evaluation.reporting import Report


def print_json(verb: str, started: float, facts: Mapping[str, Any]) -> None:
    """Prints what a verb found as one JSON object, with the seconds since it was called.

    Args:
        verb: Its name.
        started: `time.monotonic` when it was called.
        facts: Plain values.
    """
    seconds = round(time.monotonic() - started, 2)
    typer.echo(json.dumps({"verb": verb, **facts, "seconds": seconds}, ensure_ascii=True, allow_nan=False))


def shown_path(path: Path) -> str:
    """A path as people write it: relative to where they are when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def print_run(verb: str, started: float, run_path: Path, *, as_json: bool) -> None:
    """Prints the report that a run was finished with; see `print_report`."""
    from pictune.evaluation.reporting import Report
    from pictune.run import Run

    run = Run(run_path)
    report = Report.open(run.report(str(run.read("status.json")["report"])))
    print_report(verb, started, run.path, report, as_json=as_json)


def print_report(verb: str, started: float, run_path: Path, report: Report, *, as_json: bool) -> None:
    """Prints a report, in a few lines or as JSON; what takes the numbers' worth away is said in any case.

    Args:
        verb: Its name.
        started: `time.monotonic` when it was called.
        run_path: The run's folder.
        report: Of its model.
        as_json: Whether one JSON object is printed.
    """
    if as_json:
        facts = {"run": shown_path(run_path), "report": shown_path(report.folder), "metrics": report.metrics}
        for finding in report.content["findings"]:
            if finding["severity"] == "serious":  # numbers alone would be believed
                typer.echo(f"pictune: {finding['message']}", err=True)
        print_json(verb, started, facts)
    else:
        typer.echo(replace(report, folder=Path(shown_path(report.folder))).summary())
