"""The pictures of an answer's page: speed-up, step time, where the time goes, memory; each with its words."""

from collections.abc import Sequence
from html import escape

from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.scale import LogScale, log_scale
from ridgepoint.report.svg import Plot, area, axes, element, label, line, mark, picture
from ridgepoint.report.words import (
    absent_reason,
    bounds_words,
    clean,
    error_of,
    factor,
    flip_words,
    measured_flip,
    percent,
    points_of,
    short,
    signed,
    span,
)
from ridgepoint.study.document import Answer, Curve, Point, SideCard

__all__ = [
    "COLOURS",
    "OTHERS",
    "memory_chart",
    "operator_colours",
    "share_chart",
    "speedup_chart",
    "speedup_scale",
    "step_chart",
]

WIDTH, HEIGHT = 420, 306
COLOURS = 7
"""Operators with a colour of their own; the smaller ones share the last."""
OTHERS = "the rest"


def _plot(curve: Curve, points: Sequence[Point], y: LogScale) -> Plot:
    x = log_scale([*curve.batch, *(p.batch for p in points)], margin=0.05, least=2.0)
    return Plot(x, y, left=50.0, right=WIDTH - 8.0, top=32.0, bottom=HEIGHT - 42.0)


def speedup_scale(answer: Answer) -> LogScale:
    """One scale for the charts of all B's, so that they can be compared."""
    measured = [v for p in answer.points for v in (p.measured_speedup, p.measured_low, p.measured_high) if v]
    roofline = [v for c in answer.bet.curves for v in c.roofline]
    return log_scale([1.0, *measured, *roofline, *(v for c in answer.bet.curves for v in (*c.low, *c.high))], least=2.0)


def speedup_chart(answer: Answer, curve: Curve, y: LogScale) -> str:
    """Speed-up against batch: predicted curve in its interval, roofline, measured dots, the 1.0x line, both flips."""
    points = points_of(answer, curve)
    plot = _plot(curve, points, y)
    flip, seen = answer.bet.flips.get(curve.b), measured_flip(answer, curve.b)
    one = plot.py(1.0)
    still = [
        *axes(plot, curve.batch, "batch", {v: factor(v) for v in sorted({*y.ticks(5), 1.0})}),
        area(plot, curve.batch, curve.low, curve.high, "band"),
        element("line", {"x1": plot.left, "x2": plot.right, "y1": one, "y2": one, "class": "one"}),
        line(plot, curve.batch, curve.roofline, "roofline"),
        line(plot, curve.batch, curve.speedup, "curve b"),
        *_regions(plot, one, curve.b, answer.bet.a.text),
    ]
    if flip is not None:
        low, high = plot.px(max(flip.low, curve.batch[0])), plot.px(min(flip.high, curve.batch[-1]))
        still.append(
            element(
                "rect", {"x": low, "y": plot.bottom - 5, "width": max(2.0, high - low), "height": 5, "class": "flip"}
            )
        )
        still.append(_triangle(plot.px(flip.batch), plot.bottom, "flip-mark"))
    if seen is not None:
        still.append(_triangle(plot.px(seen), plot.bottom, "flip-seen"))
    words = f"Speed-up of {curve.b} over {answer.bet.a.text} by batch. " + "; ".join(point_words(p) for p in points)
    seen_words = flip_words(None, (), answer.complete) if seen is None else f"batch {seen:.0f}"
    words += f". Predicted flip: {flip_words(flip, curve.batch)}; measured flip: {seen_words}."
    return picture(WIDTH, HEIGHT, words, still, [_point_mark(plot, p) for p in points])


def _point_mark(plot: Plot, point: Point) -> str:
    """A filled dot at what was measured; a hollow one on the curve, with the reason, where nothing was."""
    if point.measured_speedup is None:
        return mark(plot, point.batch, point.predicted_speedup, point_words(point), "unseen")
    return mark(plot, point.batch, point.measured_speedup, point_words(point), "b", _ends(point))


def _regions(plot: Plot, one: float, b: str, a: str) -> list[str]:
    """Who is faster where, in the corners that a falling curve leaves free, if there is room beside the 1.0x line."""
    above = (
        [label(plot.right - 2, plot.top + 13, f"{short(b, 20)} faster ↑", "note lifted", "end")]
        if one - plot.top > 28
        else []
    )
    below = (
        [label(plot.left + 4, plot.bottom - 16, f"{short(a, 20)} faster ↓", "note lifted")]
        if plot.bottom - one > 34
        else []
    )
    return above + below


def _triangle(x: float, y: float, style: str) -> str:
    return element(
        "polygon", {"points": f"{x:.1f},{y - 11:.1f} {x - 6:.1f},{y:.1f} {x + 6:.1f},{y:.1f}", "class": style}
    )


def _ends(point: Point) -> tuple[float, float] | None:
    return (
        None if point.measured_low is None or point.measured_high is None else (point.measured_low, point.measured_high)
    )


def point_words(point: Point) -> str:
    """One point in words, for a screen reader and for the line above the plot."""
    ends, seen_ends = span(point.predicted_low, point.predicted_high), span(point.measured_low, point.measured_high)
    words = f"batch {point.batch}: predicted {factor(point.predicted_speedup)} ({ends}), "
    if point.measured_speedup is None:
        return f"{words}not measured: {absent_reason(point)}"
    return f"{words}measured {factor(point.measured_speedup)} ({seen_ends}), {signed(error_of(point))}"


def step_chart(answer: Answer, curve: Curve) -> str:
    """Time of a step of A and B against batch: predicted lines, measured squares (A) and dots (B)."""
    points = points_of(answer, curve)
    measured = [s for p in points for s in (p.measured_a_s, p.measured_b_s) if s]
    plot = _plot(curve, points, log_scale([*curve.a_s, *curve.b_s, *measured], least=2.0))
    still = [
        *axes(plot, curve.batch, "batch", {v: show_time(v) for v in plot.y.ticks(4)}),
        line(plot, curve.batch, curve.a_s, "curve a"),
        line(plot, curve.batch, curve.b_s, "curve b"),
    ]
    marks, words = [], []
    for name, style, point, predicted, seen in _steps(answer, points):
        if seen is not None:
            both = f"predicted {show_time(predicted)}, measured {show_time(seen)}, {signed(predicted / seen - 1)}"
            said = f"{name}, batch {point.batch}: {both}"
            words.append(said)
            marks.append(mark(plot, point.batch, seen, said, style, square=style == "a"))
    described = (
        f"Time of a step of {answer.bet.a.text} and {curve.b} by batch. "
        + ("; ".join(words) or "Nothing measured")
        + "."
    )
    return picture(WIDTH, HEIGHT, described, still, marks)


def _steps(answer: Answer, points: Sequence[Point]) -> list[tuple[str, str, Point, float, float | None]]:
    rows = [(short(answer.bet.a.text, 16), "a", p, p.predicted_a_s, p.measured_a_s) for p in points]
    return rows + [(short(p.b, 16), "b", p, p.predicted_b_s, p.measured_b_s) for p in points]


def operator_colours(sides: Sequence[SideCard]) -> dict[str, int]:
    """Operator -> number of its colour, those with the largest share first; the rest have none."""
    largest: dict[str, float] = {}
    for side in sides:
        for shares in side.shares.values():
            for name, share in shares.items():
                largest[name] = max(largest.get(name, 0.0), share)
    ranked = sorted(largest, key=lambda name: (-largest[name], name))
    return {name: i for i, name in enumerate(ranked[:COLOURS])}


def share_chart(batch: str, rows: Sequence[tuple[str, float | None, SideCard]], colours: dict[str, int]) -> str:
    """Predicted time of a step at one batch, a bar per side as long as its time, cut into its operators."""
    longest = max((seconds for _, seconds, _ in rows if seconds), default=None)
    parts, words = [], []
    for i, (name, seconds, side) in enumerate(rows):
        top = 8.0 + 58 * i
        time = show_time(seconds) if seconds else "time unknown"
        parts.append(label(0, top + 12, f"{short(clean(name), 26)}  {time}", "bar-name"))
        parts.append(label(WIDTH, top + 12, bounds_words(side.bounds.get(batch, {})), "note", "end"))
        length = WIDTH * (seconds / longest if seconds and longest else 1.0)
        segments = _segments(side.shares.get(batch, {}), colours)
        left = 0.0
        for operator, share, colour in segments:
            width = length * share
            parts.append(_segment(left, top + 20, width, operator, share, colour))
            left += width
        words.append(f"{name}, {time}: " + ", ".join(f"{operator} {percent(share)}" for operator, share, _ in segments))
    return picture(
        WIDTH, 10 + 58 * len(rows), f"Where the predicted time goes at batch {batch}. " + ". ".join(words) + ".", parts
    )


def _segments(shares: dict[str, float], colours: dict[str, int]) -> list[tuple[str, float, int]]:
    known = [(name, shares[name], i) for name, i in colours.items() if shares.get(name, 0.0) > 0]
    rest = sum(share for name, share in shares.items() if name not in colours)
    return [*known, (OTHERS, rest, COLOURS)] if rest > 0 else known


def _segment(x: float, y: float, width: float, name: str, share: float, colour: int) -> str:
    text = f"{100 * share:.0f} %"
    room = width > 8.5 * len(text)
    inner = label(x + width / 2, y + 18, text, "bar-text", "middle") if room else ""
    title = element("title", {}, escape(f"{clean(name)} {percent(share)}"))
    return element(
        "g",
        {},
        title,
        element("rect", {"x": x, "y": y, "width": max(0.5, width - 1), "height": 26, "class": f"c{colour}"}),
        inner,
    )


def memory_chart(sides: Sequence[SideCard]) -> str:
    """Predicted memory at the largest batch, a bar per side: weights, then the KV cache and activations."""
    most = max(side.memory_bytes for side in sides) or 1.0
    parts, words = [], []
    for i, side in enumerate(sides):
        top = 8.0 + 52 * i
        whole, weights = WIDTH * side.memory_bytes / most, WIDTH * min(side.weight_bytes, side.memory_bytes) / most
        parts.append(label(0, top + 12, short(clean(side.text), 26), "bar-name"))
        parts.append(
            label(
                WIDTH,
                top + 12,
                f"{show_bytes(side.memory_bytes)}, of it weights {show_bytes(side.weight_bytes)}",
                "note",
                "end",
            )
        )
        parts.append(
            element("rect", {"x": 0.0, "y": top + 20, "width": max(1.0, whole), "height": 20, "class": "other-memory"})
        )
        parts.append(
            element("rect", {"x": 0.0, "y": top + 20, "width": max(1.0, weights), "height": 20, "class": "weights"})
        )
        words.append(f"{side.text} {show_bytes(side.memory_bytes)}, of it weights {show_bytes(side.weight_bytes)}")
    return picture(WIDTH, 10 + 52 * len(sides), "Predicted memory: " + "; ".join(words) + ".", parts)
