"""What compiling costs in words: its seconds, and after how many steps it has paid for itself."""

from collections.abc import Iterator

from ridgepoint.quantity import show_time
from ridgepoint.report.words import clean
from ridgepoint.study.document import Answer, Bet, Point

__all__ = ["compile_lines", "predicted_compile_lines"]


def predicted_compile_lines(bet: Bet) -> Iterator[str]:
    """A line per side that is compiled and the other is not, before anything is measured."""
    for curve, side in zip(bet.curves, bet.b, strict=True):
        if side.compile_s is None or bet.a.compile_s is not None:
            continue
        gains = [(batch, curve.a_s[i] - curve.b_s[i]) for i, batch in enumerate(curve.batch)]
        paid = [f"after {_count(side.compile_s, gain)} steps at batch {batch}" for batch, gain in gains if gain > 0]
        never = [str(batch) for batch, gain in gains if gain <= 0]
        ends = [*paid, *([f"never at batch {', '.join(never)}"] if never else [])]
        took = f"{show_time(side.compile_s)} for each shape, beside the compiler's start"
        yield f"{clean(curve.b)}: compiling takes about {took}; paid back {', '.join(ends)}"


def compile_lines(answer: Answer) -> Iterator[str]:
    """A line per measured point with a compiled side; where only B is, with when it has paid for itself."""
    for point in answer.points:
        for side, name in (("a", point.a), ("b", point.b)):
            if (took := point.compile_s.get(side)) is not None:
                paid = f", {_paid_back(point, took)}" if side == "b" and "a" not in point.compile_s else ""
                yield f"{clean(name)} at batch {point.batch}: compiled in {show_time(took)}{paid}"


def _paid_back(point: Point, took: float) -> str:
    low, high, a_s = point.measured_low, point.measured_high, point.measured_a_s
    if low is None or high is None or a_s is None or point.measured_speedup is None:
        return "its steps were not measured"
    if high <= 1.0:
        return "never paid back: its steps are not faster"
    best = _count(took, a_s * (1 - 1 / high))
    if low <= 1.0:
        return f"paid back after {best} steps or more, or never: whether its steps are faster is undecided"
    middle, worst = _count(took, a_s * (1 - 1 / point.measured_speedup)), _count(took, a_s * (1 - 1 / low))
    return f"paid back after {middle} steps (95 %: {best} to {worst})"


def _count(took: float, gain_s: float) -> str:
    """Two digits: more would be pretended."""
    return f"{float(f'{took / gain_s:.2g}'):,.0f}"
