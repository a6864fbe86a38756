"""The picture of a bet in plain text: speed-up against batch, both logarithmic, in at most 80 columns."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from ridgepoint.report.scale import LogScale, log_scale
from ridgepoint.report.words import factor
from ridgepoint.study.document import Curve, Flip, Point

__all__ = ["LEGEND", "chart_lines", "speedup_chart"]

LEGEND = "░ 80 % interval  ━ predicted  ● measured, │ 95 %  flips: ▲ predicted, △ measured"
_STYLES = {
    "░": "blue",
    "━": "bold blue",
    "●": "bold yellow",
    "│": "yellow",
    "▲": "bold blue",
    "△": "bold yellow",
    "╌": "dim",
}
_MARGIN = 8


@dataclass(frozen=True, slots=True)
class _Canvas:
    cells: list[list[str]]
    x: LogScale
    y: LogScale

    def column(self, batch: float) -> int:
        return round(self.x.share(batch) * (len(self.cells[0]) - 1))

    def row(self, speedup: float) -> int:
        return round((1 - self.y.share(speedup)) * (len(self.cells) - 1))

    def fill(self, column: int, low: float, high: float, sign: str) -> None:
        for row in range(self.row(high), self.row(low) + 1):
            self.cells[row][column] = sign


def chart_lines(
    curve: Curve,
    points: Sequence[Point],
    flip: Flip | None,
    flip_measured: float | None,
    y: LogScale,
    width: int = 78,
    height: int = 15,
) -> list[str]:
    """The chart of one B as lines of at most `width` characters."""
    x = log_scale([*curve.batch, *(p.batch for p in points)], margin=0.03, least=2.0)
    canvas = _Canvas([[" "] * (width - _MARGIN) for _ in range(height)], x, y)
    _draw_prediction(canvas, curve)
    _draw_measurement(canvas, points)
    labels = {canvas.row(value): factor(value) for value in (*y.ticks(4), 1.0) if y.low <= value <= y.high}
    if y.low <= 1.0 <= y.high:
        labels[canvas.row(1.0)] = "1.0x"
    lines = [
        f"{labels.get(i, ''):>6} {'┤' if i in labels else '│'}{''.join(row)}".rstrip()
        for i, row in enumerate(canvas.cells)
    ]
    return [*lines, *_axis(canvas, curve, flip, flip_measured)]


def _draw_prediction(canvas: _Canvas, curve: Curve) -> None:
    one = canvas.row(1.0)
    if canvas.y.low <= 1.0 <= canvas.y.high:
        canvas.cells[one] = ["╌"] * len(canvas.cells[0])
    first, last = canvas.column(curve.batch[0]), canvas.column(curve.batch[-1])
    for column in range(first, last + 1):
        batch = canvas.x.at(column / (len(canvas.cells[0]) - 1))
        canvas.fill(column, _along(curve, curve.low, batch), _along(curve, curve.high, batch), "░")
    for column in range(first, last + 1):
        batch = canvas.x.at(column / (len(canvas.cells[0]) - 1))
        canvas.cells[canvas.row(_along(curve, curve.speedup, batch))][column] = "━"


def _draw_measurement(canvas: _Canvas, points: Sequence[Point]) -> None:
    for point in points:
        if point.measured_speedup is not None:
            column = canvas.column(point.batch)
            if point.measured_low is not None and point.measured_high is not None:
                canvas.fill(column, point.measured_low, point.measured_high, "│")
            canvas.cells[canvas.row(point.measured_speedup)][column] = "●"


def _along(curve: Curve, values: Sequence[float], batch: float) -> float:
    """Interpolated between the curve's points, logarithmic in both."""
    if batch <= curve.batch[0] or len(curve.batch) == 1:
        return values[0]
    for i in range(1, len(curve.batch)):
        if batch <= curve.batch[i]:
            scale = LogScale(curve.batch[i - 1], curve.batch[i])
            share = scale.share(batch)
            return LogScale(values[i - 1], values[i]).at(share)
    return values[-1]


def _axis(canvas: _Canvas, curve: Curve, flip: Flip | None, flip_measured: float | None) -> list[str]:
    wide = len(canvas.cells[0])
    rule, names = ["─"] * wide, [" "] * (wide + _MARGIN)
    for batch in curve.batch:
        rule[canvas.column(batch)] = "┴"
    for batch in curve.batch:
        text = str(batch)
        start = min(wide - len(text), max(0, canvas.column(batch) - len(text) // 2))
        if all(c == " " for c in names[max(0, start - 1) : start + len(text) + 1]):
            names[start : start + len(text)] = text
    if flip is not None:
        rule[canvas.column(flip.batch)] = "▲"
    if flip_measured is not None:
        column = canvas.column(flip_measured)
        rule[min(wide - 1, column + 1) if rule[column] == "▲" else column] = "△"
    return [" " * 7 + "└" + "".join(rule), " " * 2 + "batch " + "".join(names).rstrip()]


def speedup_chart(
    curve: Curve, points: Sequence[Point], flip: Flip | None, flip_measured: float | None, y: LogScale, height: int = 15
) -> Text:
    """The same with colours; it reads as well without them."""
    text = Text(no_wrap=True, overflow="crop")
    for line in chart_lines(curve, points, flip, flip_measured, y, height=height):
        for sign in line:
            text.append(sign, _STYLES.get(sign, ""))
        text.append("\n")
    return text[:-1]
