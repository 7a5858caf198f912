"""A model judged on pictures it has not learnt from: the step that `train` and `evaluate` share."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pictune.data.augmentation import clean_view
from pictune.data.finding import Finding, Outcome
from pictune.data.formats.boxes import LOST_BOXES
from pictune.data.sample import Dataset, Sample
from pictune.data.scanning import escape
from pictune.errors import DataError
from pictune.evaluation.curves import fit_verdict
from pictune.evaluation.measurement import measure
from pictune.evaluation.report.pictures import Picture
from pictune.evaluation.report.wording import plural
from pictune.evaluation.reporting import Report, write_report
from pictune.recipe_sections import EvaluationSection
from pictune.run import Journal, Run
from pictune.tasks.model import Model
from pictune.verbs.reading import finding_rows

THUMBNAIL = 112  # pixels a side in the report
DRAWN_IMAGES, DRAWN_SIDE = 9, 900  # pictures with answers drawn on them, and their longer side in pixels
PAIRS_SHOWN, KEYS_SHOWN, MISTAKES_SHOWN = 8, 6, 24
DRAWN = {
    "log_loss": "loss",
    "accuracy": "accuracy",
    "map": "map",
    "map50": "map50",
    "mean_iou": "mean_iou",
}  # over the epochs
SERIOUS = frozenset({"trained_on_these", "taught_on_these"})  # warnings that take the numbers' worth away
ALWAYS_TOLD = frozenset(
    {"possible_group", "class_not_in_val"}
)  # warnings about a part of the data that concern every number


def judge(
    run: Run,
    model: Model,
    dataset: Dataset,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    name: str,
    evaluation: EvaluationSection,
    seed: int,
    select_by: str,
    findings: Sequence[Finding],
) -> Report:
    """Scores every picture, measures, and writes the report.

    Args:
        run: Gets the report.
        model: Is judged.
        dataset: The pictures and their truths; all of one split.
        pictures: Stored pixels, in the dataset's order.
        name: Of the report, and of the split where it is one, such as ``test``.
        evaluation: How intervals are computed.
        seed: For the intervals that are simulated.
        select_by: The number by which the weights were chosen.
        findings: What was noticed about all of the data.

    Raises:
        DataError: When no picture has a label, or a label is unknown to the model.
    """
    if dataset.multilabel and not model.specification.multilabel:
        raise DataError(
            "the pictures have several labels each, and the model answers with exactly one",
            code="several_labels",
            instead="Judge it on pictures with one label each.",
        )
    labelled = [i for i, sample in enumerate(dataset.samples) if sample.annotation is not None]
    if not labelled:
        raise DataError(f"the {name} split has no labelled picture", code="nothing_to_evaluate")
    samples = [dataset.samples[i] for i in labelled]
    _check_classes(samples, model)
    said = model.answers(
        [pictures[i] for i in labelled], sizes=[(sample.width, sample.height) for sample in samples]
    )
    table = model.task.score(
        [sample.key for sample in samples],
        said,
        [sample.annotation for sample in samples],
        group_numbers([sample.group for sample in samples]),
    )
    measurement = measure(table, resamples=evaluation.resamples, confidence=evaluation.confidence, seed=seed)
    measured = measurement.to_json()
    thumbnails = _thumbnails(measured, samples, [pictures[i] for i in labelled], model)
    spec = model.specification
    left_out = [finding for finding in findings if finding.outcome is Outcome.QUARANTINE]
    facts = {
        "task": spec.task,
        "run": run.name,
        "split": name,
        "dataset": {
            "root": escape(dataset.root.name),
            "images": len(dataset),
            "classes": list(spec.classes),
            "fingerprint": dataset.fingerprint,
            "left_out": len(left_out),
        },
        "model": {"name": spec.network, "image_size": spec.image_size, "weights": spec.origin},
        "training": dict(spec.facts.get("training", {})),
        "goal": str(spec.facts.get("goal", "")),
        "probe": [row for line in Journal(run.journal).lines("probe") for row in line["rows"]],
        "curves": curves(run),
        "created_with": versions(),
        "selected_by": f"{select_by} on the validation split",
        "left_out": finding_rows(left_out),
        "findings": [*_missed_goal(spec.facts.get("goal", ""), measured), *_remarks(findings)],
        "legend": model.task.legend,
    }
    return write_report(run.report(name), measurement, facts, pictures=thumbnails)


def _missed_goal(goal: str, measured: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A remark on classes that stay below what their thresholds were chosen for."""
    name, _, least = goal.partition(":")
    if not least:
        return
    values = {row["class"]: row.get(name, {}).get("value") for row in measured["per_class"]}
    below = [
        f"{kind} ({value:.2f})"
        for kind, value in values.items()
        if value is not None and value < float(least)
    ]
    if below:
        message = (
            f"The thresholds were chosen for a {name} of {least} on the validation images, and here these "
            f"classes stay below it: {', '.join(below[:PAIRS_SHOWN])}. Where no threshold reached it, the "
            "nearest was taken."
        )
        yield _remark("goal_missed", "warning", message)


def _thumbnails(
    measured: Mapping[str, Any],
    samples: Sequence[Sample],
    pictures: Sequence[NDArray[np.uint8]],
    model: Model,
) -> dict[str, Picture]:
    """The pictures that the report shows, by key; with answers and truths where these lie on them."""
    pairs = measured.get("confused_pairs", ())[:PAIRS_SHOWN]
    shown = [key for pair in pairs for key in pair["keys"][:KEYS_SHOWN]]
    shown += [mistake["key"] for mistake in measured.get("mistakes", ())[:MISTAKES_SHOWN]]
    place = {sample.key: i for i, sample in enumerate(samples)}
    found: dict[str, Picture] = {key: clean_view(pictures[place[key]], THUMBNAIL, fit="pad") for key in shown}
    worst = [place[image["key"]] for image in measured.get("worst_images", ())[:DRAWN_IMAGES]]
    stored = [pictures[i] for i in worst]
    truths = model.task.truths([samples[i] for i in worst], stored)
    for number, answer in enumerate(model.answers(stored)):
        drawn = model.task.draw(stored[number], answer, truths[number])
        if drawn is not None:
            found[samples[worst[number]].key] = _encoded(drawn)
    return found


def _encoded(pixels: NDArray[np.uint8]) -> bytes:
    """A drawing as a small JPEG."""
    longest = max(pixels.shape[:2])
    if longest > DRAWN_SIDE:
        scale = DRAWN_SIDE / longest
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, 85]
    encoded: bytes = cv2.imencode(".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), options)[1].tobytes()
    return encoded


def _remarks(findings: Sequence[Finding]) -> Iterator[dict[str, str]]:
    """What happened to the data that a reader of the numbers should know."""
    warnings = [finding for finding in findings if finding.outcome is Outcome.WARN]
    counts = Counter(finding.code for finding in warnings)
    if counts["leak"]:
        yield _remark(
            "leak",
            "serious",
            f"Equal files, or files of one group, stand in several splits ({counts['leak']:,} of such sets), "
            "as --allow-leaks permits: these numbers are better than those on new pictures will be.",
        )
    if counts["conflicting_label"]:
        yield _remark(
            "conflicting_label",
            "warning",
            f"{plural(counts['conflicting_label'], 'picture')} in the data under different labels; "
            "no model can be right about both.",
        )
    used_as_is: Counter[str] = Counter()
    for finding in warnings:
        if finding.code in SERIOUS:
            yield _remark(finding.code, "serious", finding.message)
        elif not finding.where or finding.code in ALWAYS_TOLD:
            yield _remark(finding.code, "warning", finding.message)
        elif finding.code not in {"leak", "conflicting_label"}:
            used_as_is[finding.code] += 1
    if used_as_is:
        message = f"Used as they are, though odd; pictune audit names each: {_listed(used_as_is)}."
        yield _remark("used_as_is", "note", message)
    left_out = Counter(finding.code for finding in findings if finding.outcome is Outcome.QUARANTINE)
    for boxes, noun in ((False, "file"), (True, "object")):
        counted = Counter({code: n for code, n in left_out.items() if (code in LOST_BOXES) == boxes})
        if counted:
            what = plural(counted.total(), noun)
            message = f"Of all the data, {what} could not be used: {_listed(counted)}."
            yield _remark("left_out", "note", message)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {code}" for code, count in counts.most_common())


def _remark(code: str, severity: str, message: str) -> dict[str, str]:
    return {"code": code, "severity": severity, "message": message}


def _check_classes(samples: Sequence[Any], model: Model) -> None:
    known = set(model.specification.classes)
    found = {name for sample in samples for name in sample.annotation.names}
    if found - known:
        raise DataError(
            "the data have classes that the model has never seen",
            code="unknown_class",
            causes=sorted(found - known),
            instead=f"The model knows {', '.join(model.specification.classes)}.",
        )


def group_numbers(names: Sequence[str | None]) -> NDArray[np.int64] | None:
    """A number for each group; a picture without one is a group of its own. None when there are no groups."""
    if all(name is None for name in names):
        return None
    told = [f"g{name}" if name is not None else f"i{i}" for i, name in enumerate(names)]
    return np.unique(np.array(told), return_inverse=True)[1].astype(np.int64)


def curves(run: Run) -> dict[str, Any]:
    """The learning curves from the journal, and what they say about the fit."""
    rows = Journal(run.journal).lines("epoch")
    if not rows:
        return {}
    drawn = {
        f"{split}_{shown}": [row[f"{split}_{name}"] for row in rows]
        for name, shown in DRAWN.items()
        for split in ("train", "val")
        if f"{split}_{name}" in rows[0]
    }
    best = max((row["epoch"] for row in rows if row["best"]), default=None)
    found = {
        "epochs": [row["epoch"] for row in rows],
        **drawn,
        "learning_rate": [row["learning_rate"] for row in rows],
        "best_epoch": best,
    }
    if "val_loss" in drawn:
        records = [
            {"epoch": row["epoch"], **{k: v[i] for k, v in drawn.items()}} for i, row in enumerate(rows)
        ]
        unseen = len(run.read("splits.json").get("splits", {}).get("val", ()))
        found["verdict"] = fit_verdict(records, unseen=unseen)
    return found


def versions() -> dict[str, str]:
    """Which software made this."""
    import timm
    import torch

    from pictune.version import __version__

    return {
        "pictune": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
