"""The gate: an exported model is shipped only if it answers as the model it was made of.

Three things are compared, because each alone can be fooled. The *metric* tells what users lose, but hides two
mistakes that cancel, and moves little where a model is robust against what the export got wrong. The
*agreement* of answers tells that. How far the *outputs* are apart tells of a wrong mean or a swapped channel
even where no answer changes yet.

Shapes: n images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pictune.evaluation.pairing import Paired, paired
from pictune.evaluation.pairing_intervals import Difference
from pictune.tasks.table import Table

WORST = 20  # images listed
_ROUNDING = 1e-9  # a number at its tolerance is within it, whatever its last digit
FEW = 0.1  # share of other images that may be answered otherwise, beyond which it is told
CONFIDENCE = 0.95
UNSURE = 3.0  # times the tolerance: a loss that the interval allows beyond this is told


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What an exported model may lose.

    Args:
        metric: Of the main metric, as measured.
        per_class: Of a class's metric, where its paired interval leaves no doubt that it lost.
        agreement: Least mean share of answers that are the same, 0 to 1.
        largest: Most that the outputs of any image may be apart; None where only the typical image counts.
        typical: Most that the outputs of the median image may be apart.
    """

    metric: float
    per_class: float
    agreement: float
    largest: float | None
    typical: float


#: In float32 only the order of additions differs, about 1e-6 of an output. Halves keep 11 bits, and their
#: errors add up to some thousandths. With 8 bits single images may change a lot, the typical one hardly; a
#: swapped channel or a wrong scale moves the typical image by far more.
TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(metric=0.001, per_class=0.01, agreement=0.995, largest=1e-3, typical=1e-4),
        "fp16": Tolerance(metric=0.005, per_class=0.02, agreement=0.99, largest=None, typical=0.01),
        "int8": Tolerance(metric=0.01, per_class=0.05, agreement=0.95, largest=None, typical=0.02),
    }
)


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Args:
        precision: Of the exported model.
        reasons: Why it does not pass, a sentence each; empty when it passes.
        remarks: What a reader of a pass should know.
        paired: The numbers of both; None when there was nothing to compare.
        largest: Most that the outputs of an image are apart; None where some are no numbers.
        typical: The same of the median image.
        agreement: Mean share of answers that are the same.
        worst: The images that are farthest apart: key, apart, agreement.
        seconds: Of one image, by the original and by the exported model.
        sizes: Bytes of the original's tensors and of the exported files.
        overruled: Whether it was shipped in spite of the reasons.
    """

    precision: str
    reasons: tuple[str, ...]
    remarks: tuple[str, ...]
    paired: Paired | None
    largest: float | None
    typical: float | None
    agreement: float | None
    worst: tuple[Mapping[str, Any], ...]
    seconds: tuple[float, float]
    sizes: tuple[int, int]
    overruled: bool = False

    @property
    def passed(self) -> bool:
        """Whether nothing is over its tolerance."""
        return not self.reasons

    @property
    def measured(self) -> bool:
        """Whether there is a loss that somebody could accept: answers that are no numbers are none."""
        return self.paired is not None and self.largest is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "passed": self.passed,
            "overruled": self.overruled,
            "reasons": list(self.reasons),
            "remarks": list(self.remarks),
            "precision": self.precision,
            "largest_difference": self.largest,
            "typical_difference": self.typical,
            "agreement": self.agreement,
            "differences": self.paired.to_json() if self.paired else None,
            "worst_images": [dict(row) for row in self.worst],
            "seconds": {"original": self.seconds[0], "exported": self.seconds[1]},
            "bytes": {"original": self.sizes[0], "exported": self.sizes[1]},
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """What was found, in a few lines."""
        lines = ["passed the gate" if self.passed else "refused by the gate"]
        if self.paired is not None:
            lines[0] += f", on {self.paired.n:,} validation pictures"
            lines.append(f"  {'':<20}{'trained':>9}{'exported':>10}   difference")
            lines += [f"  {_line(one)}" for one in self.paired.metrics.values()]
        if self.agreement is not None:
            lines.append(f"  same answers        {self.agreement:>9.4f}")
        if self.largest is not None and self.typical is not None:
            lines.append(f"  outputs apart       {self.typical:>9.2g} typically, {self.largest:.2g} at most")
        lines.append(f"  one picture         {1000 * self.seconds[1]:>9.1f} ms{_speed(*self.seconds)}")
        lines.append(
            f"  size                {self.sizes[1] / 1e6:>9.1f} MB, was {self.sizes[0] / 1e6:.1f} MB"
        )
        lines += [f"  refused: {reason}" for reason in self.reasons]
        return "\n".join([*lines, *(f"  note: {remark}" for remark in self.remarks)])


def _speed(before: float, after: float) -> str:
    if min(before, after) <= 0:
        return ""
    how = f"{before / after:.2f} times as fast" if before >= after else f"{after / before:.2f} times as long"
    return f", {how} as the run's model in PyTorch"


def _line(one: Difference) -> str:
    if one.first is None or one.second is None or one.difference is None:
        return f"{one.name.replace('_', ' '):<20}n/a"
    interval = f" [{one.low:+z.4f}, {one.high:+z.4f}]" if one.low is not None and one.high is not None else ""
    values = f"{one.first:>9.4f}{one.second:>10.4f}   {one.difference:+z.4f}{interval}"
    return f"{one.name.replace('_', ' '):<20}{values}"


def judge_export(
    first: Table,
    second: Table,
    *,
    apart: NDArray[np.float64],
    agreement: NDArray[np.float64],
    keys: Sequence[str],
    precision: str,
    seconds: tuple[float, float],
    sizes: tuple[int, int],
    resamples: int = 1000,
    seed: int = 0,
) -> Verdict:
    """Judges an exported model.

    Args:
        first: What the original answered about labelled validation images.
        second: What the exported model answered about the same.
        apart: (n) how far the outputs of both are apart, 0 for equal, about 1 for the most.
        agreement: (n) which share of the two answers is the same, 0 to 1.
        keys: (n) of the images.
        precision: A name in `TOLERANCES`.
        seconds: Of one image, by the original and by the exported model.
        sizes: Bytes of the original's tensors and of the exported files.
        resamples: Sets of images drawn anew, for intervals.
        seed: Decides which.
    """
    if not len(keys):
        reason = "There is no labelled validation picture to compare the models on [nothing_to_compare]."
        return Verdict(precision, (reason,), (), None, None, None, None, (), seconds, sizes)
    assert len(apart) == len(agreement) == len(keys) == len(first) == len(second), "one of each an image"
    tolerance, finite = TOLERANCES[precision], np.isfinite(apart)
    compared = paired(first, second, resamples=resamples, seed=seed)
    largest, typical = (float(apart.max()), float(np.median(apart))) if finite.all() else (None, None)
    same = float(agreement.mean())
    reasons = [*_outputs(apart, tolerance), *_answers(compared, same, tolerance)]
    order = np.argsort(-np.where(finite, apart, np.inf), kind="stable")[:WORST]
    worst = tuple(
        {
            "key": keys[i],
            "apart": float(apart[i]) if finite[i] else None,
            "agreement": float(agreement[i]),
        }
        for i in order
    )
    remarks: tuple[str, ...] = ()
    if not reasons:
        remarks = tuple(_remarks(compared.main, tolerance) if same < 1 else _remarks_on_few(len(keys)))
    return Verdict(
        precision, tuple(reasons), remarks, compared, largest, typical, same, worst, seconds, sizes
    )


def _outputs(apart: NDArray[np.float64], tolerance: Tolerance) -> Iterator[str]:
    bad = int((~np.isfinite(apart)).sum())
    if bad:
        yield f"The exported model answers {bad:,} of {len(apart):,} pictures with what is no number."
        return
    largest, typical = float(apart.max()), float(np.median(apart))
    if tolerance.largest is not None and largest > tolerance.largest:
        yield f"Outputs of a picture are {largest:.2g} apart; at most {tolerance.largest:g} is tolerated."
    if typical > tolerance.typical:
        yield (
            f"Outputs of the typical picture are {typical:.2g} apart; at most {tolerance.typical:g} is "
            "tolerated."
        )


def _answers(compared: Paired, same: float, tolerance: Tolerance) -> Iterator[str]:
    # A comparison with what is no number is False; it must not pass by that.
    if not same >= tolerance.agreement - _ROUNDING:
        yield f"Only {same:.4f} of the answers are the same; at least {tolerance.agreement:g} must be."
    main = compared.main
    if main.difference is None:
        yield f"The {main.name.replace('_', ' ')} of the two cannot be compared: {main.reason or 'no value'}."
    elif not main.difference >= -tolerance.metric - _ROUNDING:
        yield (
            f"The {main.name.replace('_', ' ')} falls by {-main.difference:.4f}, from {main.first:.4f} to "
            f"{main.second:.4f}; at most {tolerance.metric:g} is tolerated."
        )
    for name, row in compared.per_class:
        one = next(iter(row.values()))
        if one.difference is not None and one.difference < -tolerance.per_class and one.distinguishable:
            yield (
                f"The class {name} loses {-one.difference:.4f} of its {one.name}; at most "
                f"{tolerance.per_class:g} is tolerated."
            )


def _remarks(main: Difference, tolerance: Tolerance) -> Iterator[str]:
    if main.low is None:
        yield f"So few pictures cannot tell how the {main.name.replace('_', ' ')} would fare on others."
    elif -main.low > UNSURE * tolerance.metric:
        yield (
            f"So few pictures cannot exclude that the {main.name.replace('_', ' ')} falls by {-main.low:.3f} "
            "on others."
        )


def _remarks_on_few(count: int) -> Iterator[str]:
    """What is told where all of so many answers are the same.

    Were a larger share of others answered otherwise, these would all be the same less than once in twenty
    times: the exact binomial bound for none of ``count`` (Clopper and Pearson 1934).
    """
    share = 1 - (1 - CONFIDENCE) ** (1 / count)
    if share > FEW:
        yield (
            f"All of so few answers are the same; up to {100 * share:.0f} % of others may still be answered "
            "otherwise."
        )
