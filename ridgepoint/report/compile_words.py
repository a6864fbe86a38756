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
        saved = [(b, s, curve.a_s[i] - curve.b_s[i]) for i, b in enumerate(curve.batch) for s in (side.compile_s,)]
        ends = ", ".join(f"{_steps(s, gain)} at batch {b}" for b, s, gain in saved)
        yield f"{clean(curve.b)}: compiling takes about {show_time(side.compile_s)} for each shape; paid back after {ends}"


def compile_lines(answer: Answer) -> Iterator[str]:
    """A line per measured point whose B was compiled and whose A was not."""
    for point in answer.points:
        took = point.compile_s.get("b")
        if took is None or "a" in point.compile_s:
            continue
        yield f"{clean(point.b)} at batch {point.batch}: compiled in {show_time(took)}, {_paid_back(point, took)}"


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


def _steps(took: float, gain_s: float) -> str:
    return f"{_count(took, gain_s)} steps" if gain_s > 0 else "no number of steps"


def _count(took: float, gain_s: float) -> str:
    """Two digits: more would be pretended."""
    return f"{float(f'{took / gain_s:.2g}'):,.0f}"
