"""What became of boxes, counted: by class, by kind of error, image by image.

Shapes: k classes, n images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation.confusion import MOST_MISTAKES
from pictune.tasks.matching import Verdict, Verdicts

Ints = NDArray[np.int64]

ERRORS = ("class", "location", "both", "duplicate", "background")


def box_confusion(verdicts: Verdicts) -> Ints:
    """(k + 1, k + 1) boxes by truth (rows) and answer (columns), the last of each being background.

    Every true box and every prediction over its threshold is counted once, crowds and what falls on them
    aside: rows add up to the true boxes of a class and columns to its predictions. A class error on an object
    that something else answers for already is a prediction on background.
    """
    said, known = verdicts.said, verdicts.known
    count = len(verdicts.table.classes) + 1
    taken = np.flatnonzero(said.verdict == Verdict.HIT)
    wrong = np.flatnonzero(said.verdict == Verdict.CLASS)
    taken = np.concatenate([taken, wrong[known.partner[said.partner[wrong]] == wrong]])
    free = np.setdiff1d(np.flatnonzero(said.verdict > Verdict.IGNORED), taken)
    left = np.setdiff1d(np.flatnonzero(known.verdict != Verdict.IGNORED), said.partner[taken])
    truth, last = known.label[said.partner[taken]], count - 1
    rows = np.concatenate([truth, np.full(len(free), last), known.label[left]])
    columns = np.concatenate([said.label[taken], said.label[free], np.full(len(left), last)])
    return np.bincount(rows * count + columns, minlength=count * count).reshape(count, count)


def error_counts(verdicts: Verdicts) -> dict[str, int]:
    """False predictions by kind, ``missed`` boxes, and ``unnoticed`` ones: no error is about them."""
    said, known = verdicts.said.verdict, verdicts.known
    kinds = {name: int((said == Verdict[name.upper()]).sum()) for name in ERRORS}
    missed = known.verdict == Verdict.MISSED
    return kinds | {"missed": int(missed.sum()), "unnoticed": int((missed & (known.partner < 0)).sum())}


def box_mistakes(verdicts: Verdicts) -> Iterator[dict[str, Any]]:
    """The images with missed true boxes or false predictions, those with the most first, at most 200."""
    size = len(verdicts.table)
    found, false, missed = (np.bincount(image, minlength=size) for image, _ in outcomes_of(verdicts))
    wrong = np.flatnonzero(false + missed)
    for i in wrong[np.argsort(-(false + missed)[wrong], kind="stable")][:MOST_MISTAKES].tolist():
        counts = {"missed": int(missed[i]), "false": int(false[i]), "found": int(found[i])}
        yield {"key": verdicts.table.keys[i], **counts}


def outcomes_of(verdicts: Verdicts) -> list[tuple[Ints, Ints]]:
    """Image and class of true boxes that were found, of false predictions, and of missed true boxes."""
    said, known = verdicts.said, verdicts.known
    found, missed = known.verdict == Verdict.FOUND, known.verdict == Verdict.MISSED
    chosen = ((known, found), (said, said.verdict > Verdict.IGNORED), (known, missed))
    return [(judged.image[rows], judged.label[rows]) for judged, rows in chosen]
