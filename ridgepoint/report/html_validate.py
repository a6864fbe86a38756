"""Predicted against measured as one page that stands alone: a scatter for each file, and the table of errors."""

from collections.abc import Sequence

import numpy as np

from ridgepoint.quantity import show
from ridgepoint.report.html import page
from ridgepoint.report.markup import cell, escaped, figure, legend, scrolling_table
from ridgepoint.report.scale import log_scale
from ridgepoint.report.svg import Plot, element, label, line, picture
from ridgepoint.report.words import percent
from ridgepoint.study.score_published import ALL
from ridgepoint.study.scoring import Scored
from ridgepoint.study.validate import Validation

__all__ = ["validation_html"]

_SIZE = 420
_MOST_DOTS = 2500
_COLOURS = 7
_UNITS = {"latency": "s", "ttft": "s", "tpot": "s", "tokens_per_s": "1/s", "memory": "B", "power": "W"}


def validation_html(validation: Validation) -> str:
    """The page; dots are thinned out evenly where a file has too many rows to draw."""
    files = list(dict.fromkeys((s.file, s.metric) for s in validation.scored))
    title = f"Predicted and measured: {len(files)} file{'s' if len(files) != 1 else ''}"
    head = f'<header>\n<p class="kicker">Ridgepoint · validation</p>\n<h1>{escaped(title)}</h1>\n</header>'
    parts = [_file(file, metric, [s for s in validation.scored if (s.file, s.metric) == (file, metric)])
             for file, metric in files]  # fmt: skip
    return page(title, (head, *parts, _table(validation)))


def _file(file: str, metric: str, scored: Sequence[Scored]) -> str:
    gpus = list(dict.fromkeys(s.gpu for s in scored))
    keys = [(f"c{i % _COLOURS}", gpu) for i, gpu in enumerate(gpus)]
    chart = figure(f"{file}: {metric}", _scatter(scored, gpus, _UNITS.get(metric, "")),
                   "On the dashed line both are equal; the thin lines are a factor of 1.25 away from it.")  # fmt: skip
    return f"<h2>{escaped(file)}</h2>\n{legend(keys)}\n{chart}"


def _scatter(scored: Sequence[Scored], gpus: Sequence[str], unit: str) -> str:
    measured = np.concatenate([s.measured for s in scored])
    predicted = np.concatenate([s.predicted for s in scored])
    colour = np.concatenate([np.full(len(s.measured), gpus.index(s.gpu) % _COLOURS) for s in scored])
    scale = log_scale([float(x) for x in (measured.min(), measured.max(), predicted.min(), predicted.max())], least=4.0)
    plot = Plot(scale, scale, left=62.0, right=_SIZE - 8.0, top=12.0, bottom=_SIZE - 46.0)
    step = max(1, len(measured) // _MOST_DOTS)
    dots = [
        element("circle", {"cx": plot.px(x), "cy": plot.py(y), "r": 2.0, "class": f"c{c}", "fill-opacity": "0.55"})
        for x, y, c in zip(measured[::step].tolist(), predicted[::step].tolist(), colour[::step].tolist(), strict=True)
    ]
    ends = [scale.low, scale.high]
    guides = [
        line(plot, ends, [x * f for x in ends], style) for f, style in ((1.0, "one"), (1.25, "grid"), (0.8, "grid"))
    ]
    error = np.median(np.abs(predicted - measured) / measured)
    words = f"Predicted against measured {unit}, {len(measured)} rows; median error {percent(float(error))}."
    return picture(_SIZE, _SIZE, words, [*_axes(plot, unit), *guides, *dots])


def _axes(plot: Plot, unit: str) -> list[str]:
    parts = []
    for value in plot.x.ticks(5):
        x, y, word = plot.px(value), plot.py(value), show(value, unit)
        parts += [
            element("line", {"x1": plot.left, "x2": plot.right, "y1": y, "y2": y, "class": "grid"}),
            label(plot.left - 6, y + 4, word, "tick", "end"), label(x, plot.bottom + 17, word, "tick", "middle"),
            element("line", {"x1": x, "x2": x, "y1": plot.bottom, "y2": plot.bottom + 4, "class": "axis"}),
        ]  # fmt: skip
    parts.append(
        element("line", {"x1": plot.left, "x2": plot.right, "y1": plot.bottom, "y2": plot.bottom, "class": "axis"})
    )
    parts += [
        label(plot.right, plot.bottom + 36, "measured", "tick", "end"),
        label(plot.left + 4, plot.top + 8, "predicted", "tick"),
    ]
    return parts


def _table(validation: Validation) -> str:
    names = (
        "file",
        "gpu",
        "dtype",
        "stack",
        "n",
        "median",
        "mean",
        "90th percentile",
        "bias",
        "inside 80 %",
        "roofline",
    )
    rows = [
        [
            cell(x.file), cell(x.gpu), cell(x.dtype), cell(f"{x.model} {x.framework} {x.version} {x.metric}".strip()),
            cell(str(x.n)), cell(percent(x.median_ape)), cell(percent(x.mape)), cell(percent(x.p90_ape)),
            cell(f"{x.bias:.2f}"), cell(percent(x.coverage80)), cell(percent(x.roofline_median_ape)),
        ]
        for x in validation.lines if x.regime == ALL
    ]  # fmt: skip
    return f"<h2>Errors</h2>\n{scrolling_table('Errors by group, all regimes together', names, rows)}"
