"""The pictures of a batch curve: throughput against latency, and throughput and step time by batch."""

import math
from collections.abc import Mapping, Sequence

from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.batch_words import error_words, measured_words, point_at, span_words, unit
from ridgepoint.report.scale import log_scale
from ridgepoint.report.svg import Plot, area, axes, element, label, line, mark, picture
from ridgepoint.study.batch.bet import rate_words
from ridgepoint.study.batch.document import BatchAnswer, CurvePoint, SloCard

__all__ = ["decision_chart", "latency_chart", "memory_chart", "throughput_chart"]

WIDTH, HEIGHT = 520, 360
_FAR = 32
"""A memory wall further than this many grids away is told in words, not drawn."""


def decision_chart(answer: BatchAnswer) -> str:
    """Throughput against latency of a step, a dot for each batch; the dotted line through the knee has equal throughput /
    latency, and no batch of the curve lies above it by more than a tie."""
    points, bet, seen = answer.curve, answer.bet, _seen(answer)
    foretold = [t / s for t, s in zip(bet.curve.tokens, bet.curve.seconds, strict=True)]
    x = log_scale(
        [*(p.seconds for p in points), *(s for s, _ in seen), *bet.curve.seconds, *_bound(answer)],
        margin=0.05,
        least=2.0,
    )
    y = log_scale([*(p.tokens_per_s for p in points), *(rate for _, rate in seen), *foretold], margin=0.08, least=2.0)
    plot = Plot(x, y, left=62.0, right=WIDTH - 14.0, top=34.0, bottom=HEIGHT - 44.0)
    knee = next(p for p in points if p.batch == answer.knee.batch)
    still = [
        *_time_axes(plot, {v: rate_words(v) for v in y.ticks(5)}),
        *_equal_power(plot, knee),
        line(plot, bet.curve.seconds, foretold, "foretold"),
        line(plot, [p.seconds for p in points], [p.tokens_per_s for p in points], "curve b"),
        *_slo_line(plot, answer.slo, plot.px),
        _ring(plot, knee.seconds, knee.tokens_per_s),
        *_batch_labels(plot, points),
    ]
    marks = [_dot(plot, answer, p, *at) for p, at in zip(points, seen, strict=True)]
    said = f"Throughput against latency of a step. {_all_words(answer)} Knee at batch {answer.knee.batch}."
    return picture(WIDTH, HEIGHT, said, still, marks)


def throughput_chart(answer: BatchAnswer) -> str:
    """Throughput by batch with its 80 % interval, the knee and where memory ends."""
    points, bet, seen = answer.curve, answer.bet, _seen(answer)
    rates = [p.tokens_per_s for p in points]
    low, high = ([p.tokens_per_s * p.seconds / end(p) for p in points] for end in (lambda p: p.high, lambda p: p.low))
    foretold = [t / s for t, s in zip(bet.curve.tokens, bet.curve.seconds, strict=True)]
    plot = _by_batch(answer, [*low, *high, *foretold, *(rate for _, rate in seen)])
    still = [
        *axes(plot, bet.grid, "batch", {v: rate_words(v) for v in plot.y.ticks(5)}),
        area(plot, bet.grid, low, high, "band"),
        line(plot, bet.grid, foretold, "foretold"),
        line(plot, bet.grid, rates, "curve b"),
        *_wall(plot, answer),
        _ring(plot, answer.knee.batch, rates[bet.grid.index(answer.knee.batch)]),
    ]
    marks = [_dot(plot, answer, p, p.batch, rate) for p, (_, rate) in zip(points, seen, strict=True)]
    return picture(WIDTH, HEIGHT, f"{unit(bet)} a second by batch. {_all_words(answer)}", still, marks)


def latency_chart(answer: BatchAnswer) -> str:
    """Time of a step by batch with its 80 % interval, the objective and where memory ends."""
    points, bet, seen = answer.curve, answer.bet, _seen(answer)
    low, high = [p.low for p in points], [p.high for p in points]
    plot = _by_batch(answer, [*low, *high, *(s for s, _ in seen), *bet.curve.seconds, *_bound(answer)])
    still = [
        *axes(plot, bet.grid, "batch", {v: show_time(v) for v in plot.y.ticks(5)}),
        area(plot, bet.grid, low, high, "band"),
        line(plot, bet.grid, bet.curve.seconds, "foretold"),
        line(plot, bet.grid, [p.seconds for p in points], "curve b"),
        *_wall(plot, answer),
        *_slo_line(plot, answer.slo, None),
    ]
    marks = [_dot(plot, answer, p, p.batch, s) for p, (s, _) in zip(points, seen, strict=True)]
    return picture(WIDTH, HEIGHT, f"Time of a step by batch. {_all_words(answer)}", still, marks)


def _seen(answer: BatchAnswer) -> list[tuple[float, float]]:
    """(seconds, throughput) of each batch as it was measured; as the curve has it where it was not."""
    measured = {p.batch: p.measured_s for p in answer.points if p.measured_s}
    times = [(p, measured.get(p.batch, p.seconds)) for p in answer.curve]
    return [(seconds, p.tokens_per_s * p.seconds / seconds) for p, seconds in times]


def memory_chart(answer: BatchAnswer) -> str:
    """Memory of a step by batch, predicted and counted, up to where it fills what may be used."""
    bet, wall = answer.bet, answer.bet.wall
    batches, needs = list(bet.grid), list(bet.curve.memory_bytes)
    if wall is not None and wall.batch > batches[-1] and not wall.searched:
        batches, needs = [*batches, wall.batch], [*needs, wall.need_bytes]
    counted = [(p.batch, p.memory_bytes) for p in answer.points if p.memory_bytes is not None]
    room = [] if wall is None else [wall.room_bytes]
    x, y = log_scale(batches, margin=0.05, least=2.0), log_scale([*needs, *room], least=2.0)
    plot = Plot(x, y, left=62.0, right=WIDTH - 14.0, top=34.0, bottom=HEIGHT - 44.0)
    still = [
        *axes(plot, batches, "batch", {v: show_bytes(v) for v in _binary_ticks(y.low, y.high)}),
        line(plot, batches, needs, "curve b"),
    ]
    if wall is not None:
        level = plot.py(wall.room_bytes)
        ends = {"x1": plot.left, "x2": plot.right, "y1": level, "y2": level, "class": "wall-line"}
        still += [
            element("line", ends),
            label(plot.left + 5, level + 14, f"room {show_bytes(wall.room_bytes)}", "note lifted"),
        ]
    said = "; ".join(f"batch {b}: {show_bytes(n)}" for b, n in zip(batches, needs, strict=True))
    marks = [mark(plot, b, m, f"batch {b}: counted {show_bytes(m)}", "b") for b, m in counted]
    return picture(WIDTH, HEIGHT, f"Memory of a step by batch, predicted. {said}.", still, marks)


def _binary_ticks(low: float, high: float) -> list[float]:
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    return [2.0**i for i in powers][:: max(1, len(powers) // 5)]


def _by_batch(answer: BatchAnswer, values: Sequence[float]) -> Plot:
    wall = _drawn_wall(answer)
    x = log_scale([*answer.bet.grid, *([1.15 * wall] if wall else [])], margin=0.04, least=2.0)
    return Plot(x, log_scale(values, least=2.0), left=62.0, right=WIDTH - 14.0, top=34.0, bottom=HEIGHT - 44.0)


def _drawn_wall(answer: BatchAnswer) -> int | None:
    """The first batch at which memory is known or predicted to run out, less one; None where it is far away."""
    wall = answer.bet.wall
    ends = [wall.batch] if wall is not None and not wall.searched else []
    ends += [answer.ran_out_at - 1] if answer.ran_out_at else []
    found = min(ends, default=None)
    return found if found is not None and 0 < found <= _FAR * answer.bet.grid[-1] else None


def _wall(plot: Plot, answer: BatchAnswer) -> list[str]:
    wall = _drawn_wall(answer)
    if wall is None:
        return []
    x = plot.px(wall)
    box = {
        "x": x,
        "y": plot.top,
        "width": max(0.0, plot.right - x),
        "height": plot.bottom - plot.top,
        "class": "beyond",
    }
    return [
        element("rect", box),
        element("line", {"x1": x, "x2": x, "y1": plot.top, "y2": plot.bottom, "class": "wall-line"}),
        label(x - 5, plot.bottom - 8, f"memory ends at {wall}", "note lifted", "end"),
    ]


def _bound(answer: BatchAnswer) -> list[float]:
    return [] if answer.slo is None else [answer.slo.bound_s]


def _slo_line(plot: Plot, slo: SloCard | None, across: object) -> list[str]:
    """The objective: upright where latency is the horizontal axis (`across`), else level."""
    if slo is None:
        return []
    words = f"{slo.metric} {show_time(slo.bound_s)}"
    if across is not None:
        x = plot.px(slo.bound_s)
        ends = {"x1": x, "x2": x, "y1": plot.top, "y2": plot.bottom, "class": "bound-line"}
        anchor = "end" if x > (plot.left + plot.right) / 2 else "start"
        return [
            element("line", ends),
            label(x + (-5 if anchor == "end" else 5), plot.bottom - 8, words, "note lifted", anchor),
        ]
    y = plot.py(slo.bound_s)
    ends = {"x1": plot.left, "x2": plot.right, "y1": y, "y2": y, "class": "bound-line"}
    return [element("line", ends), label(plot.left + 5, y - 5, words, "note lifted")]


def _equal_power(plot: Plot, knee: CurvePoint) -> list[str]:
    """The line of equal throughput / latency through the knee, inside the plot."""
    power = knee.tokens_per_s / knee.seconds
    low = max(plot.x.low, plot.y.low / power)
    high = min(plot.x.high, plot.y.high / power)
    if low >= high:
        return []
    ends = {
        "x1": plot.px(low),
        "y1": plot.py(power * low),
        "x2": plot.px(high),
        "y2": plot.py(power * high),
        "class": "equal",
    }
    return [element("line", ends)]


def _ring(plot: Plot, x: float, y: float) -> str:
    return element("circle", {"cx": plot.px(x), "cy": plot.py(y), "r": 9.5, "class": "knee-ring"})


def _batch_labels(plot: Plot, points: Sequence[CurvePoint]) -> list[str]:
    return [label(plot.px(p.seconds) + 9, plot.py(p.tokens_per_s) + 15, str(p.batch), "note lifted") for p in points]


def _dot(plot: Plot, answer: BatchAnswer, p: CurvePoint, x: float, y: float) -> str:
    return mark(plot, x, y, _words(answer, p), "b" if p.how == "measured" else "unseen")


def _words(answer: BatchAnswer, p: CurvePoint) -> str:
    """One batch in words."""
    seen = point_at(answer, p.batch)
    measured = f"measured {measured_words(p, seen)}, predicted {error_words(seen)}; " if p.how == "measured" else ""
    fits = "" if p.fits else ", does not fit"
    rate = f"{rate_words(p.tokens_per_s)} {unit(answer.bet)}/s"
    return f"batch {p.batch}: {measured}step {show_time(p.seconds)} ({span_words(p.low, p.high)}), {rate}{fits}"


def _all_words(answer: BatchAnswer) -> str:
    return "; ".join(_words(answer, p) for p in answer.curve) + "."


def _time_axes(plot: Plot, y_words: Mapping[float, str]) -> list[str]:
    parts = axes(plot, (), "time of a step", y_words)
    last = 0.0
    for value in plot.x.ticks(5):
        x, word = plot.px(value), show_time(value)
        if x - last < 7 * len(word) + 6:
            continue
        last = x
        parts += [
            label(x, plot.bottom + 17, word, "tick", "middle"),
            element("line", {"x1": x, "x2": x, "y1": plot.bottom, "y2": plot.bottom + 4, "class": "axis"}),
        ]
    return parts
