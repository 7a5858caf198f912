"""Charts as inline SVG: positions in percent, text and strokes in pixels.

A chart that is scaled as a whole has letters too small to read on a phone. So none here has a view box:
it fills the width it is given, only positions stretch, and lines, dots and letters keep their size. Colours
come from the page's style sheet, so that a chart follows it into the dark. What is told by colour is told
by a shape, a dash or a word as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from pictune.evaluation.report.wording import is_number, number

Attributes = Mapping[str, str | float]
Points = Sequence[tuple[float, float]]


def tag(name: str, attributes: Attributes, *children: str) -> Markup:
    """One SVG element; attribute values and plain text are escaped."""
    written = Markup("").join(Markup(' {}="{}"').format(key, _short(v)) for key, v in attributes.items())
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)  # noqa: S704  our own names


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _percent(share: float) -> str:
    return _short(100 * share) + "%"


def _figure(kind: str, title: str, attributes: Attributes, *children: str) -> Markup:
    """An SVG with its description first, where a screen reader and a hovering pointer look for it."""
    frame = {"class": kind, "role": "img", "width": "100%", **attributes}
    return tag("svg", frame, tag("title", {}, title), *children)


def interval_bar(measure: Mapping[str, Any], *, label: str, top: float = 1.0) -> Markup:
    """A value as a dot and its interval as a whisker, on a track from zero to ``top``."""
    value, low, high = (measure.get(name) for name in ("value", "low", "high"))
    title = f"{label}: {number(value)}"
    parts = [tag("line", {"class": "track", "x1": "0", "x2": "100%", "y1": 9, "y2": 9})]
    parts += [
        tag("line", {"class": "tick", "x1": x, "x2": x, "y1": 5, "y2": 13})
        for x in ("0%", "25%", "50%", "75%", "100%")
    ]
    if is_number(low) and is_number(high):
        title += f", between {number(low)} and {number(high)}"
        left, right = (_percent(min(max(end / top, 0), 1)) for end in (low, high))
        parts.append(tag("line", {"class": "whisker", "x1": left, "x2": right, "y1": 9, "y2": 9}))
        parts += [tag("line", {"class": "cap", "x1": x, "x2": x, "y1": 5, "y2": 13}) for x in (left, right)]
    if is_number(value):
        parts.append(
            tag("circle", {"class": "dot", "cx": _percent(min(max(value / top, 0), 1)), "cy": 9, "r": 4})
        )
    return _figure("interval", title, {"height": 18}, *parts)


def stacked_bar(parts: Sequence[tuple[str, float]], *, label: str, top: float) -> Markup:
    """One bar of named parts laid end to end; ``top`` is the amount that fills the width."""
    title = f"{label}: " + ", ".join(f"{name} {amount:g}" for name, amount in parts)
    bars, start = [], 0.0
    for position, (_, amount) in enumerate(parts):
        if amount > 0:
            place: Attributes = {
                "x": _percent(start / top),
                "width": _percent(amount / top),
                "y": 3,
                "height": 12,
            }
            bars.append(tag("rect", {"class": f"part part-{position}", **place}))
        start += amount
    return _figure("stack", title, {"height": 18}, *bars)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Args:
        name: How the legend calls it.
        style: ``train`` (dashed, quiet) or ``val`` (solid, in the accent colour).
        points: (x, y) in the chart's units, by ascending x.
    """

    name: str
    style: str
    points: Points


def line_chart(series: Sequence[Series], *, title: str, mark: tuple[float, str] | None = None) -> Markup:
    """Lines over a shared horizontal axis of whole numbers, such as epochs.

    Args:
        series: The lines; at least one of them has a point.
        title: What is drawn, for those who cannot see it.
        mark: A position on the horizontal axis and the words to write beside it.
    """
    points = [point for line in series for point in line.points]
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    rungs = scale(min(y for _, y in points), max(y for _, y in points))
    bottom, height = rungs[0], rungs[-1] - rungs[0]

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - first) / (last - first) if last > first else 0.5, 1 - (y - bottom) / height

    parts = [_rung(place(first, y)[1], _tick_text(y, rungs)) for y in rungs]
    parts += [_epoch_tick(place(x, bottom)[0], f"{x:g}") for x in _whole_ticks(first, last)]
    if mark is not None:
        parts.append(_mark(place(mark[0], bottom)[0], mark[1]))
    for line in series:
        placed = [place(x, y) for x, y in line.points]
        parts += [_polyline(placed, line.style), *_dots(placed, line.style)]
    return _figure("plot", title, {"height": 220}, *parts)


def scale(low: float, high: float) -> list[float]:
    """About four round numbers that enclose a range, ascending; at least two, for any range."""
    size = max(abs(low), abs(high))
    if high - low < 1e-9 * max(size, 1e-9):
        margin = size / 2 if size > 1e-9 else 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(start, max(stop, start + 1) + 1)]


def _tick_text(value: float, rungs: Sequence[float]) -> str:
    step = rungs[1] - rungs[0]
    if not 1e-4 < step < 1e5:
        return f"{value:.1e}".replace("-", "−")
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    exact = digits + (round(step * 10**digits, 6) % 1 != 0)
    return f"{value:.{exact}f}".replace("-", "−")


def _whole_ticks(first: float, last: float) -> list[float]:
    step = max(1, math.ceil((last - first) / 5))
    step = next(round_step for round_step in _round_steps() if round_step >= step)
    ticks = range(math.ceil(first / step) * step, math.floor(last) + 1, step)
    return [float(x) for x in ticks] or [first]


def _round_steps() -> list[int]:
    return [factor * 10**power for power in range(9) for factor in (1, 2, 5)]


def _rung(share: float, text: str) -> Markup:
    y = _percent(share)
    line = tag("line", {"class": "grid", "x1": "0", "x2": "100%", "y1": y, "y2": y})
    return line + tag("text", {"class": "y", "x": -8, "y": y, "dy": "0.32em"}, text)


def _epoch_tick(share: float, text: str) -> Markup:
    return tag("text", {"class": "x", "x": _percent(share), "y": "100%", "dy": "1.5em"}, text)


def _mark(share: float, text: str) -> Markup:
    x = _percent(share)
    line = tag("line", {"class": "mark", "x1": x, "x2": x, "y1": "0", "y2": "100%"})
    side: Attributes = (
        {"class": "mark-text end", "dx": -6} if share > 0.5 else {"class": "mark-text", "dx": 6}
    )
    return line + tag("text", {**side, "x": x, "y": 0, "dy": "-0.5em"}, text)


def _polyline(points: Points, style: str) -> Markup:
    """A line in a nested frame that stretches; its stroke does not."""
    data = "".join(
        f"{'L' if i else 'M'}{_short(100 * x)} {_short(100 * y)}" for i, (x, y) in enumerate(points)
    )
    frame = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none", "width": "100%", "height": "100%"}
    path = tag("path", {"class": f"line {style}", "d": data, "vector-effect": "non-scaling-stroke"})
    return tag("svg", {**frame, "overflow": "visible"}, path) if points else Markup("")


def _dots(points: Points, style: str) -> list[Markup]:
    """Single measurements, as long as they can be told apart."""
    if len(points) > 40:
        return []
    return [
        tag("circle", {"class": f"point {style}", "cx": _percent(x), "cy": _percent(y), "r": 2.5})
        for x, y in points
    ]


@dataclass(frozen=True, slots=True)
class Bin:
    """One group of answers of similar confidence: their mean confidence, accuracy and number."""

    confidence: float
    accuracy: float
    count: int
    low: float | None = None
    high: float | None = None


def reliability_chart(bins: Sequence[Bin], *, title: str) -> Markup:
    """How often answers were right against how confident they were; the diagonal is perfect.

    A dot's area grows with the number of images behind it.
    """
    most = max((bin_.count for bin_ in bins), default=1) or 1
    parts = [_rung(1 - share, f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_epoch_tick(share, f"{100 * share:.0f}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(tag("line", {"class": "diagonal", "x1": "0", "y1": "100%", "x2": "100%", "y2": "0"}))
    for bin_ in bins:
        x, y = _percent(bin_.confidence), _percent(1 - bin_.accuracy)
        if bin_.low is not None and bin_.high is not None:
            ends = {"y1": _percent(1 - bin_.low), "y2": _percent(1 - bin_.high)}
            parts.append(tag("line", {"class": "whisker", "x1": x, "x2": x, **ends}))
        else:
            gap = {"y1": _percent(1 - bin_.confidence), "y2": y}
            parts.append(tag("line", {"class": "gap", "x1": x, "x2": x, **gap}))
        radius = 3 + 5 * math.sqrt(bin_.count / most)
        parts.append(tag("circle", {"class": "bubble", "cx": x, "cy": y, "r": radius}))
    return _figure("plot square", title, {}, *parts)


def precision_chart(curve: Mapping[str, Any]) -> Markup:
    """Precision over recall of one class, both from 0 to 1; a bubble marks where the model works.

    Args:
        curve: Its ``class``, ``points`` (recall and precision), and ``recall`` and ``precision`` in use.
    """
    parts = [_rung(1 - share, f"{share:g}") for share in (0, 0.5, 1)]
    parts += [_epoch_tick(share, f"{share:g}") for share in (0, 0.5, 1)]
    parts.append(_polyline([(x, 1 - y) for x, y in curve["points"]], "val"))
    title = f"{curve['class']}: precision over recall"
    if is_number(curve["recall"]) and is_number(curve["precision"]):
        place = {"cx": _percent(curve["recall"]), "cy": _percent(1 - curve["precision"])}
        parts.append(tag("circle", {"class": "bubble", **place, "r": 5}))
        title += (
            f"; the model works at recall {number(curve['recall'])}, precision {number(curve['precision'])}"
        )
    return _figure("plot square", title, {}, *parts)


def compact_map(counts: Sequence[Sequence[int]], *, title: str, cells: int = 100) -> tuple[Markup, int]:
    """A confusion matrix without numbers, for more classes than a table can show.

    Args:
        counts: (k, k) images, rows are the truth.
        title: What is drawn, for those who cannot see it.
        cells: At most so many cells a side; beyond, neighbouring classes share one, which shows the
            largest share among them, because an average would hide a single bad pair.

    Returns:
        The map and how many classes share a cell's side.
    """
    step = math.ceil(len(counts) / cells)
    side = math.ceil(len(counts) / step)
    strongest: dict[tuple[int, int, bool], float] = {}
    for row, line in enumerate(counts):
        total = sum(line)
        for column, amount in enumerate(line):
            if amount:
                place = (row // step, column // step, row == column)
                strongest[place] = max(strongest.get(place, 0.0), amount / total)
    paths: dict[str, list[str]] = {}
    for (row, column, right), share in sorted(strongest.items(), key=lambda item: item[0][2]):
        level = f"right-{right_level(share)}" if right else f"wrong-{wrong_level(share)}"
        paths.setdefault(level, []).append(f"M{column} {row}h1v1h-1z")
    drawn = [tag("path", {"class": level, "d": "".join(places)}) for level, places in paths.items()]
    return _figure("map", title, {"viewBox": f"0 0 {side} {side}"}, *drawn), step


def right_level(share: float) -> int:
    """How strongly a cell of right answers is tinted, 0 to 5."""
    return sum(share > limit for limit in (0, 0.2, 0.4, 0.6, 0.8))


def wrong_level(share: float) -> int:
    """How strongly a cell of wrong answers is tinted, 0 to 5: small shares matter already."""
    return sum(share > limit for limit in (0, 0.03, 0.08, 0.15, 0.3))
