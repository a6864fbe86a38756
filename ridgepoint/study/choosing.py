"""The fewest points that decide a bet: the ends, the neighbours of a flip, and halves of what stays unclear."""

import itertools
from collections.abc import Mapping

from ridgepoint.study.betting import TIE
from ridgepoint.study.document import Curve, Flip

__all__ = ["CLOSE", "first_points", "next_point", "side_of"]


CLOSE = 2.0
"""Neighbours of a flip at most this factor apart settle it: interpolation is then good to a few per cent."""


def side_of(speedup: float) -> int:
    """1 faster, -1 slower, 0 a tie."""
    if speedup > 1 + TIE:
        return 1
    return -1 if speedup < 1 / (1 + TIE) else 0


def first_points(curve: Curve, flip: Flip | None) -> list[int]:
    """Grid points to measure first: both ends, then the grid's neighbours of the predicted flip, or the closest call."""
    grid = curve.batch
    points = [grid[0], grid[-1]]
    if flip is not None:
        below = [b for b in grid if b <= flip.batch]
        above = [b for b in grid if b > flip.batch]
        points += [*below[-1:], *above[:1]]
    else:
        closest = min(
            zip(grid, curve.speedup, strict=True), key=lambda pair: abs(pair[1] - 1) if pair[1] > 1 else 1 / pair[1] - 1
        )
        points.append(closest[0])
    return list(dict.fromkeys(points))


def next_point(grid: tuple[int, ...], measured: Mapping[int, float]) -> int | None:
    """The batch to measure next, between two measured neighbours that disagree on the winner; None if all is decided.

    A grid point near their geometric middle; where the grid has none, the middle itself while the neighbours are more
    than `CLOSE` apart, because a flip interpolated over a factor of four is off by a third.
    """
    known = sorted(measured)
    for left, right in itertools.pairwise(known):
        if side_of(measured[left]) * side_of(measured[right]) >= 0:
            continue
        middle = (left * right) ** 0.5
        between = [b for b in grid if left < b < right]
        if between:
            return min(between, key=lambda b: abs(b - middle))
        if right > CLOSE * left:
            return round(middle)
    return None
