"""The sentence that a person quotes: how much, and where it flips."""

import math

import numpy as np

from ridgepoint.quantity import show_ratio
from ridgepoint.study.betting import crossing_of, stated
from ridgepoint.study.choosing import side_of
from ridgepoint.study.document import Bet, Point

__all__ = ["flip_bracket", "measured_flip", "verdict_line"]


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
    """One line for one B; at its end what of the predicted saving is not its own."""
    line, curve = _verdict(bet, b, points, because), next(c for c in bet.curves if c.b == b)
    return f"{line}. {curve.outside}" if curve.outside else line


def _verdict(bet: Bet, b: str, points: list[Point], because: str) -> str:
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
    line = f"{b}: {'; '.join(parts)} (predicted within {math.ceil(100 * max(errors) - 1e-6):.0f} %)"
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
