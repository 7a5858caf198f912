"""The curve of a learning rate range test as a chart."""

from __future__ import annotations

import math

from pictune.evaluation.report.charts import Series, line_chart
from pictune.training.rate_finding import RateCurve

HEADROOM = 1.25  # the chart ends this far above the loss at the start; what explodes leaves it


def curve_svg(curve: RateCurve) -> str:
    """The loss over the learning rate, with the suggestion marked.

    The horizontal axis counts powers of ten: -3 is a rate of 0.001. Losses are drawn dashed (``train``),
    their running mean solid (``val``). Colours come from the page's style sheet, as in every chart here.

    Args:
        curve: What `find_rate` gave.

    Returns:
        One SVG element that fills the width it is given.
    """
    powers = [math.log10(rate) for rate in curve.rates]
    ceiling = HEADROOM * max(curve.smooth[0], *curve.losses[:1]) or 1.0
    lines = [
        Series(name, style, [(x, min(y, ceiling)) for x, y in zip(powers, losses, strict=True)])
        for name, style, losses in (
            ("each batch", "train", curve.losses),
            ("running mean", "val", curve.smooth),
        )
    ]
    # A suggestion may lie below all rates that were tried; the mark stays on the chart.
    place = min(max(math.log10(curve.suggestion), powers[0]), powers[-1])
    end = " By the last rate it rose for good." if curve.diverged else ""
    title = (
        f"Loss over learning rate from {curve.rates[0]:.2g} to {curve.rates[-1]:.2g}, in powers of ten; "
        f"suggested: {curve.suggestion:.2g}.{end}"
    )
    return str(line_chart(lines, title=title, mark=(place, f"{curve.suggestion:.2g}")))
