"""Loss curves of short training runs as a section of a page: A beside each B, step by step, with intervals over the seeds."""

from collections.abc import Mapping
from typing import Any

from ridgepoint.report.charts import HEIGHT, WIDTH
from ridgepoint.report.curve_words import curve_lines
from ridgepoint.report.markup import escaped, figure, legend
from ridgepoint.report.scale import log_scale
from ridgepoint.report.svg import Plot, area, axes, label, line, picture

__all__ = ["curve_section", "loss_chart"]

_MOST_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def curve_section(curve: Mapping[str, Any]) -> str:
    """ "" where no curve was asked for."""
    if not curve.get("measured"):
        return ""
    first, *others = curve["sides"]
    charts = "".join(
        figure(
            f"{first} and {other}: loss by step", loss_chart(curve, first, other),
            legend((("aline", f"{first}"), ("line", f"{other}"), ("band", "95 % over the seeds"))),
        )
        for other in others or [first]
    )  # fmt: skip
    said = "".join(f"<p>{escaped(words)}</p>" for words in curve_lines(curve))
    return (
        '<h2>Loss while training</h2>\n<p class="soft">The loss of each step on its own batch, which every side is given in '
        f'the same order; both axes are logarithmic.</p>\n<div class="charts">{charts}</div>\n{said}'
    )


def loss_chart(curve: Mapping[str, Any], first: str, other: str) -> str:
    """Mean loss of each step over the seeds, of both sides, with its interval."""
    sides = [(name, curve["sides"][name], style) for name, style in ((first, "a"), (other, "b"))]
    steps = list(range(1, len(sides[0][1]["loss"]) + 1))
    values = [v for _, side, _ in sides for key in ("loss", "low", "high") for v in side[key] if v > 0]
    plot = Plot(
        log_scale(steps, margin=0.03, least=2.0), log_scale(values, least=1.05), left=62.0, right=WIDTH - 14.0, top=26.0,
        bottom=HEIGHT - 46.0,
    )  # fmt: skip
    ticks = {value: f"{value:.3g}" for value in plot.y.ticks(5)}
    still = [*axes(plot, [t for t in _MOST_TICKS if t <= steps[-1]], "step", ticks)]
    for _, side, style in sides:
        low = [max(v, plot.y.low) for v in side["low"]]
        still.append(area(plot, steps, low, side["high"], "band"))
        still.append(line(plot, steps, side["loss"], f"curve {style}"))
    still.append(label(plot.left - 56, plot.top - 12, "nats per token", "tick"))
    said = "; ".join(f"{name} from {side['loss'][0]:.4f} to {side['loss'][-1]:.4f}" for name, side, _ in sides)
    return picture(WIDTH, HEIGHT, f"Loss of {len(steps)} training steps: {said} nats per token.", still)
