"""The density at which sparse rows are as fast as a dense matrix: foretold for any density, measured between the sides' own."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from ridgepoint.choice import Side
from ridgepoint.choice.sparse import Sparse
from ridgepoint.study.cell import Cell, cell
from ridgepoint.study.document import Bet, BreakEven, Point
from ridgepoint.study.question import Question
from ridgepoint.study.sparsity import family_of

__all__ = ["break_evens", "measured_break_even"]

_LEAST, _MOST = 0.001, 0.999
"""Densities between which it is looked for."""
_HALVINGS = 14


def break_evens(question: Question) -> tuple[BreakEven, ...]:
    """For every family of sides that differ in their sparsity alone, at each batch, against A; () without kernels that skip
    zeros of any number (2:4 has one density only)."""
    families: dict[str, Side] = {}
    for side in question.b:
        if family := family_of(side):
            families.setdefault(family, side)
    return tuple(_of(question, name, side, batch) for name, side in families.items() for batch in question.grid)


def _of(question: Question, family: str, side: Side, batch: int) -> BreakEven:
    def at(density: float) -> Cell:
        return cell(question, _with_density(side, density), batch)

    middle, low, high = (
        _crossing(lambda d, name=name: math.log(getattr(at(d), name))) for name in ("speedup", "low", "high")
    )
    return BreakEven(family=family, batch=batch, density=middle, low=low, high=high)


def _with_density(side: Side, density: float) -> Side:
    return replace(
        side,
        choices=tuple(
            replace(c, sparsity=f"{1.0 - density:.4f}") if isinstance(c, Sparse) else c for c in side.choices
        ),
    )


def _crossing(gain: Callable[[float], float]) -> float:
    """Density at which `gain`, which falls as density grows, crosses 0; 0 where it never wins, 1 where it always does."""
    if gain(_LEAST) <= 0:
        return 0.0
    if gain(_MOST) >= 0:
        return 1.0
    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gain(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def measured_break_even(bet: Bet, points: Sequence[Point]) -> tuple[BreakEven, ...]:
    """The same from measured points of at least two densities: interpolated in the logarithms of density and speed-up, or
    the end that was measured, below or above which it lies.

    `low` and `high` are the densities next to it; 0 and 1 stand for "not measured so far".
    """
    cards = {card.text: card for card in bet.b}
    found = []
    for expected in bet.break_even:
        known = sorted(
            (1.0 - cards[p.b].sparsity["asked"], p.measured_speedup)
            for p in points
            if p.batch == expected.batch and p.measured_speedup and cards[p.b].family == expected.family
        )
        if len(known) > 1:
            found.append(_between(expected, known))
    return tuple(found)


def _between(expected: BreakEven, known: Sequence[tuple[float, float]]) -> BreakEven:
    faster = [d for d, s in known if s > 1]
    if not faster:
        return BreakEven(family=expected.family, batch=expected.batch, density=None, low=0.0, high=known[0][0])
    last = max(faster)
    beyond = [(d, s) for d, s in known if d > last]
    if not beyond:
        return BreakEven(family=expected.family, batch=expected.batch, density=None, low=last, high=1.0)
    (left, fast), (right, slow) = next((d, s) for d, s in known if d == last), beyond[0]
    share = math.log(fast) / (math.log(fast) - math.log(slow))
    density = math.exp(math.log(left) + share * math.log(right / left))
    return BreakEven(family=expected.family, batch=expected.batch, density=density, low=left, high=right)
