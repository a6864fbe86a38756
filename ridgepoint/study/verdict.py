"""The sentence that a person quotes: how much, where it flips, and because of what."""

import math

import numpy as np

from ridgepoint.quantity import show, show_ratio
from ridgepoint.result import OpRow
from ridgepoint.study.betting import TIE, crossing_of, stated
from ridgepoint.study.choosing import side_of
from ridgepoint.study.document import Bet, Point

__all__ = ["flip_bracket", "measured_flip", "reason", "verdict_line"]


def measured_flip(points: list[Point]) -> float | None:
    """Batch where the measured speed-up crosses 1, interpolated; None if it does not."""
    known = sorted((p.batch, p.measured_speedup) for p in points if p.measured_speedup)
    if len(known) < 2:
        return None
    return crossing_of([b for b, _ in known], np.array([math.log(s) for _, s in known]))


def flip_bracket(points: list[Point], flip: float) -> str:
    """The measured neighbours of a flip: `"8–16"`."""
    known = sorted(p.batch for p in points if p.measured_speedup)
    below, above = [b for b in known if b <= flip], [b for b in known if b > flip]
    return f"{below[-1]}–{above[0]}" if below and above else f"{flip:.0f}"


def verdict_line(bet: Bet, b: str, points: list[Point], because: str) -> str:
    """One line for one B."""
    known = sorted((p for p in points if p.b == b and p.measured_speedup), key=lambda p: p.batch)
    predicted = bet.flips.get(b)
    if not known:
        curve = next(c for c in bet.curves if c.b == b)
        return f"{b}: not measured; predicted: {stated(curve, predicted, bet.a.text)}"
    parts = [_at(known[0], bet.a.text)]
    if len(known) > 1:
        parts.append(_at(known[-1], ""))
    flip = measured_flip(known)
    if flip is not None:
        foretold = f"predicted {predicted.batch:.0f}" if predicted else "no flip predicted"
        parts.append(f"flips at {flip_bracket(known, flip)}, {foretold}")
    elif predicted is not None:
        parts.append(f"no flip measured, predicted at {predicted.batch:.0f}")
    errors = [abs(p.predicted_speedup / p.measured_speedup - 1) for p in known if p.measured_speedup]
    line = f"{b}: {'; '.join(parts)} (predicted within {100 * max(errors):.0f} %)"
    return f"{line}; because {because}" if because else line


def _at(point: Point, than: str) -> str:
    assert point.measured_speedup is not None
    other = f" than {than}" if than else ""
    if point.verdict == "undecided":
        return f"undecided at batch {point.batch} ({point.measured_speedup:.2f}x)"
    if side_of(point.measured_speedup) == 0 or point.verdict == "tie":
        same = f"as fast as {than}" if than else "as fast"
        return f"{same} at batch {point.batch} ({point.measured_speedup:.2f}x)"
    return f"{show_ratio(point.measured_speedup)}{other} at batch {point.batch}"


def reason(
    bet: Bet,
    b: str,
    low: tuple[tuple[OpRow, ...], tuple[OpRow, ...]],
    high: tuple[tuple[OpRow, ...], tuple[OpRow, ...]],
) -> str:
    """Why, from the operators on paper at the smallest and at the largest batch: (rows of a, rows of b) each."""
    first, last = bet.grid[0], bet.grid[-1]
    parts = [f"at batch {first} {_compare(*low, bet.a.text, b)}"]
    if last != first:
        parts.append(f"at {last} {_compare(*high, bet.a.text, b)}")
    return ", ".join(parts)


def _compare(a: tuple[OpRow, ...], b: tuple[OpRow, ...], a_text: str, b_text: str) -> str:
    """What the linear layers of both sides wait for, in figures; the rest, where it outweighs them."""
    linear_a, linear_b = _linear(a), _linear(b)
    rest = 1 - linear_b[0] / sum(r.time_s for r in b)
    if rest > 0.6:
        return f"{100 * rest:.0f} % of {b_text}'s time is outside of its linear layers"
    moved = linear_a[2] / max(linear_b[2], 1.0)
    rate_a, rate_b = linear_a[1] / linear_a[0], linear_b[1] / linear_b[0]
    if _bound(a) in ("memory", "cache") and moved > 1 + TIE:
        return f"the linear layers wait for weights and {b_text} moves {moved:.1f}x fewer bytes"
    return f"{b_text}'s kernel computes at {show(rate_b, 'FLOP/s')} against {show(rate_a, 'FLOP/s')} of {a_text}"


def _linear(rows: tuple[OpRow, ...]) -> tuple[float, float, float]:
    mine = [r for r in rows if r.kind == "linear"]
    return sum(r.time_s for r in mine) or 1e-12, sum(r.flops for r in mine), sum(r.bytes for r in mine)


def _bound(rows: tuple[OpRow, ...]) -> str:
    mine = [r for r in rows if r.kind == "linear"]
    totals: dict[str, float] = {}
    for row in mine:
        totals[row.bound] = totals.get(row.bound, 0.0) + row.time_s
    return max(totals, key=lambda k: totals[k]) if totals else ""
