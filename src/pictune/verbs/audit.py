"""`audit`: what is wrong with my data, before any training?"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.data.auditing import audit as audit_table
from pictune.data.decoding import decode
from pictune.data.finding import Finding, Outcome
from pictune.data.ingest import losses
from pictune.data.pixels import shrink
from pictune.data.sample import Dataset
from pictune.data.scanning import escape
from pictune.errors import DataError
from pictune.evaluation.report.audit_page import PICTURES_PER_GROUP, SHOWN_GROUPS, SHOWN_OUTLIERS
from pictune.evaluation.report.page import render_audit
from pictune.evaluation.report.wording import plural
from pictune.files import disk_errors, write_json, write_text
from pictune.recipe_sections import DataSection
from pictune.verbs import reading
from pictune.verbs.recipe import parse
from pictune.verbs.targets import check_target
from pictune.version import __version__

THUMBNAIL = 112  # pixels, the shorter side


@dataclass(frozen=True)
class Audit:
    """What was found in a dataset.

    Args:
        folder: Holds audit.json and audit.html.
        content: What audit.json holds.
    """

    folder: Path
    content: Mapping[str, Any]

    def summary(self) -> str:
        """The conclusions in plain sentences, the most severe first."""
        sentences = [c["message"] if isinstance(c, Mapping) else str(c) for c in self.content["conclusions"]]
        found, counts = self.content, self.content["counts"]
        images, classes = plural(found["images"], "picture"), plural(len(counts), "class", "classes")
        listed = [f"{images}, {classes} ({found['format']}).", *(f"  - {sentence}" for sentence in sentences)]
        return "\n".join([*listed, "", f"  report: {self.folder / 'audit.html'}"])


def audit(
    data: Path | str,
    *,
    settings: Sequence[str] = (),
    group_by: str | None = None,
    folder: Path | str = "audit",
    progress: reading.Progress | None = None,
) -> Audit:
    """Opens every picture and reports counts, sizes, damage, duplicates, leaks, imbalance, contradictions.

    Nothing is changed, and nothing stops at the first problem: what would stop training stands in front of
    the conclusions.

    Args:
        data: A folder of class folders, or a table of paths and labels.
        settings: Texts such as ``data.min_side=32``.
        group_by: What belongs together: a column, ``re:<pattern>``, ``exif:date`` or ``exif:camera``.
        folder: Gets audit.json and audit.html.
        progress: Called with how many pictures are opened, and how many there are.

    Raises:
        DataError: When the data cannot be read at all.
    """
    check_target(Path(folder), data=Path(data), flag="--out")
    recipe = parse(None, assignments=settings, flags={"data.group_by": group_by})
    named = reading.read_named(Path(data), recipe.data)
    ingested = reading.open_pictures(
        named,
        replace(recipe.data, max_bad=math.inf),  # every unusable picture is listed; none stops the audit
        side=None,
        threads=len(os.sched_getaffinity(0)),
        progress=progress,
    )
    dataset = _with_losses(named, ingested.dataset, recipe.data.max_bad)
    clusters = reading.look_alikes(ingested, near=recipe.split.near_duplicates)
    content = {
        "data": escape(named.root.name),
        "fingerprint": dataset.fingerprint,
        **audit_table(dataset, ingested.facts, clusters),
        "created_with": {"pictune": __version__},
    }
    target = Path(folder)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    pictures = _thumbnails(content, dataset, recipe.data)
    write_text(target / "audit.html", render_audit(content, pictures=pictures))
    write_json(target / "audit.json", content)
    return Audit(target, content)


def _with_losses(before: Dataset, after: Dataset, max_bad: float) -> Dataset:
    """Adds to what was noticed that training would stop for too many unusable pictures or boxes.

    The other losses for which it would stop can be read from the pictures and classes themselves.
    """
    findings = [
        Finding(loss.code, Outcome.REJECT, "", f"Training would stop: {loss.message}. {loss.instead}")
        for loss in losses(before, after, max_bad)
        if loss.code in {"too_many_bad", "too_many_bad_boxes"}
    ]
    return replace(after, findings=(*after.findings, *findings))


def _thumbnails(
    content: Mapping[str, Any], dataset: Dataset, data: DataSection
) -> dict[str, NDArray[np.uint8]]:
    """Small pictures for what the page shows."""
    groups = [
        group for part in ("leaks", "conflicts", "duplicates") for group in content[part][:SHOWN_GROUPS]
    ]
    wanted = {key for group in groups for key in group["keys"][:PICTURES_PER_GROUP]}
    wanted |= {outlier["key"] for outlier in content["outliers"][:SHOWN_OUTLIERS]}
    made = {}
    for sample in dataset.samples:
        if sample.key in wanted:
            with suppress(
                DataError
            ):  # it could be opened a moment ago; without a picture the page does as well
                picture = decode(sample.path, limits=reading.limits_of(data), value_range=data.value_range)
                made[sample.key] = shrink(picture.pixels, THUMBNAIL)
    return made
