"""Pictures of operators: the waterfall from A's step to B's, and the hierarchical roofline with every operator."""

from collections.abc import Sequence

from ridgepoint.quantity import show, show_time
from ridgepoint.report.operator_words import operator_words, short_operator
from ridgepoint.report.scale import log_scale
from ridgepoint.report.svg import Plot, axes, element, label, line, mark, picture
from ridgepoint.report.words import clean, percent, short
from ridgepoint.study.document import OpCard, Roof, SideCard

__all__ = ["roofline_chart", "waterfall_chart"]

WIDTH = 460
_BARS = 9
"""Operators with a bar of their own in a waterfall, those that change most; the others share the last."""
_ROW, _NAMES, _LETTERS = 26, 186, 24
"""Of a bar: its height, the width for its name and the letters that fit into it."""
_LEAST_CHANGE = 5e-4
"""Of the longer step: what changes less has no bar of its own."""


def waterfall_chart(a: SideCard, b: SideCard, batch: str) -> str:
    """From the predicted step of A at the top to that of B at the bottom: what each operator saves or adds."""
    first, last = _sum(a.ops[batch]), _sum(b.ops[batch])
    steps = _steps(a.ops[batch], b.ops[batch])
    levels, at = [first], first
    for _, change in steps:
        at += change
        levels.append(at)
    most = max(levels) or 1.0
    parts = [_bar(0, f"{short(clean(a.text), 18)}: {show_time(first)}", 0.0, first / most, "whole-a")]
    words = [f"{a.text} {show_time(first)}"]
    for i, (name, change) in enumerate(steps):
        low, high = sorted((levels[i], levels[i + 1]))
        said = f"{'−' if change < 0 else '+'}{show_time(abs(change))}"
        style = "saves" if change < 0 else "adds"
        parts.append(_bar(i + 1, short_operator(name, _LETTERS), low / most, high / most, style, said))
        words.append(f"{operator_words(name)} {said}")
    parts.append(_bar(len(steps) + 1, f"{short(clean(b.text), 18)}: {show_time(last)}", 0.0, last / most, "whole-b"))
    words.append(f"{b.text} {show_time(last)}")
    described = f"Predicted time at batch {batch}, operator by operator: " + "; ".join(words) + "."
    return picture(WIDTH, _ROW * (len(steps) + 2) + 6, described, parts)


def _sum(ops: Sequence[OpCard]) -> float:
    return sum(op.time_s for op in ops)


def _steps(a: Sequence[OpCard], b: Sequence[OpCard]) -> list[tuple[str, float]]:
    """(operator, change of its time), the largest savings and costs by name, the others together."""
    times_a, times_b = ({op.name: op.time_s for op in ops} for ops in (a, b))
    changes = {name: times_b.get(name, 0.0) - times_a.get(name, 0.0) for name in {**times_a, **times_b}}
    least = _LEAST_CHANGE * max(_sum(a), _sum(b))
    ranked = sorted((name for name in changes if abs(changes[name]) >= least), key=lambda name: -abs(changes[name]))
    named = ranked[:_BARS]
    rest = [changes[name] for name in changes if name not in named]
    steps = sorted(((name, changes[name]) for name in named), key=lambda item: item[1])
    return [*steps, *([(f"{len(rest)} others", sum(rest))] if any(rest) else [])]


def _bar(row: int, name: str, low: float, high: float, style: str, said: str = "") -> str:
    room = WIDTH - _NAMES - 62
    x, width, y = _NAMES + room * low, max(1.5, room * (high - low)), 4.0 + _ROW * row
    text = label(min(x + width + 6, WIDTH - 60.0), y + 14, said, "note") if said else ""
    shape = element("rect", {"x": x, "y": y + 2, "width": width, "height": _ROW - 9, "class": style})
    return element("g", {}, label(_NAMES - 8.0, y + 14, name, "bar-name", "end"), shape, text)


def roofline_chart(a: SideCard, b: SideCard, batch: str, roofs: Sequence[Roof]) -> str:
    """FLOP/s by FLOPs per byte under the machine's roofs (Williams et al. 2009; levels as in Yang et al. 2020).

    A square is an operator of A, a dot one of B, at its predicted rate. Operators without arithmetic have no place here.
    """
    sides = [
        (side, style, [op for op in side.ops[batch] if op.flops > 0 and op.bytes > 0])
        for side, style in ((a, "a"), (b, "b"))
    ]
    ops = [op for _, _, found in sides for op in found]
    if not ops or not roofs:
        return ""
    compute, memory = ([r for r in roofs if r.kind == kind] for kind in ("compute", "memory"))
    x = log_scale([*(op.flops / op.bytes for op in ops), *_ridges(compute, memory)], margin=0.08, least=4.0)
    rates = [op.flops / op.time_s for op in ops]
    y = log_scale([*rates, *(r.per_s for r in compute)], margin=0.08, least=10.0)
    memory = sorted(memory, key=lambda r: r.per_s)  # the slowest meets the ceiling last, its name stands lowest
    plot = Plot(x, y, left=58.0, right=WIDTH - 92.0, top=44.0 + _NAME * len(memory), bottom=330.0)
    still = axes(plot, [], "FLOPs per byte", {v: show(v, "FLOP/s") for v in y.ticks(5)})
    still += [label(plot.px(v), plot.bottom + 17, f"{v:g}", "tick", "middle") for v in x.ticks(6)]
    top = max((r.per_s for r in compute), default=y.high)
    still += [part for roof in compute for part in _ceiling(plot, roof)]
    still += [part for i, roof in enumerate(memory) for part in _slope(plot, roof, top, i)]
    marks = [
        mark(plot, op.flops / op.bytes, op.flops / op.time_s, _op_words(side, op), style, square=style == "a")
        for side, style, found in sides
        for op in found
    ]
    described = f"Roofline at batch {batch}: " + "; ".join(
        _op_words(side, op) for side, _, found in sides for op in found[:6]
    )
    return picture(WIDTH, 370, described + ".", still, marks)


def _ridges(compute: Sequence[Roof], memory: Sequence[Roof]) -> list[float]:
    """Where the highest ceiling meets each slope, and a stretch of the steepest before it."""
    if not compute or not memory:
        return []
    meet = [max(r.per_s for r in compute) / r.per_s for r in memory]
    return [min(meet) / 2, *meet]


def _ceiling(plot: Plot, roof: Roof) -> list[str]:
    y = plot.py(roof.per_s)
    return [
        element("line", {"x1": plot.left, "x2": plot.right, "y1": y, "y2": y, "class": "roof"}),
        label(plot.right + 5, y + 4, f"{roof.name} {show(roof.per_s, 'FLOP/s')}", "note"),
    ]


def _slope(plot: Plot, roof: Roof, top: float, rank: int) -> list[str]:
    """FLOP/s = bytes/s x FLOPs per byte, from where it enters the plot to the highest ceiling, where its name stands."""
    low = max(plot.x.low, plot.y.low / roof.per_s)
    high = min(plot.x.high, top / roof.per_s)
    if low >= high:
        return []
    x, y = plot.px(high), plot.py(high * roof.per_s)
    name = f"{roof.name} {show(roof.per_s, 'B/s')}"
    return [
        line(plot, [low, high], [low * roof.per_s, high * roof.per_s], "roof"),
        element("line", {"x1": x, "x2": x, "y1": y, "y2": plot.top - 4 - _NAME * rank, "class": "leader"}),
        label(x + 3, plot.top - 6 - _NAME * rank, name, "note"),
    ]


_NAME = 12
"""Height of the name of a level of memory; names stand above each other."""


def _op_words(side: SideCard, op: OpCard) -> str:
    whole = _sum(next(ops for ops in side.ops.values() if op in ops))
    rate = f"{show(op.flops / op.time_s, 'FLOP/s')} at {op.flops / op.bytes:.2g} FLOPs per byte"
    return f"{side.text} {operator_words(op.name)}: {rate}, {show_time(op.time_s)}, {percent(op.time_s / whole)}"
